"""Views of data sets, columns and what is refused about data."""

import datasets
import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset, Subset, TensorDataset

from subtuning_hf.errors import ArgumentsError, DataError
from subtuning_hf.training.data import (
    DatasetView,
    check_datasets,
    check_labels,
    class_labels,
    is_random,
    read_column,
    read_labels,
    view,
)
from training.cases import Rows, Untouchable, make_model


def table(rows: int = 6) -> datasets.Dataset:
    return datasets.Dataset.from_dict(
        {"x": [[float(i), 2.0 * i] for i in range(rows)], "label": [i % 2 for i in range(rows)]}
    )


def double(batch: dict) -> dict:
    return {"y": [2 * np.asarray(x) for x in batch["x"]], "labels": batch["label"]}


# --- views ----------------------------------------------------------------------------------
def test_a_batch_transform_sees_the_rows_asked_for():
    seen = []

    def transform(batch):
        seen.append(batch["x"])
        return double(batch)

    rows = view(table(), [4, 1, 5], transform)
    assert len(rows) == 3
    batch = rows.__getitems__([2, 0])
    assert seen == [[[5.0, 10.0], [4.0, 8.0]]]
    assert [row["y"].tolist() for row in batch] == [[10.0, 20.0], [8.0, 16.0]]
    assert [row["labels"] for row in batch] == [1, 0]
    assert rows[1]["y"].tolist() == [2.0, 4.0] and rows[-1]["labels"] == 1
    assert len(list(rows)) == 3


def test_a_transform_takes_the_place_of_a_format_as_set_transform_does():
    formatted = table().with_transform(lambda batch: {"x": ["never"] * len(batch["x"])})
    assert view(formatted, [3], double)[0]["y"].tolist() == [6.0, 12.0]


def test_without_a_transform_a_table_stays_one():
    data = table().with_format("torch")
    assert view(data) is data
    some = view(data, [4, 1])
    assert type(some) is datasets.Dataset and torch.equal(some[0]["x"], torch.tensor([4.0, 8.0]))
    assert not some.cache_files


def test_an_item_transform_gets_one_row():
    data = TensorDataset(torch.arange(8.0).reshape(4, 2), torch.tensor([0, 1, 0, 1]))
    rows = view(data, [3, 0], lambda item: {"x": item[0] + 1, "labels": int(item[1])})
    assert isinstance(rows, DatasetView)
    assert rows[0]["x"].tolist() == [7.0, 8.0] and rows[0]["labels"] == 1
    assert [row["labels"] for row in rows.__getitems__([1, 0])] == [0, 1]
    with pytest.raises(IndexError):
        rows[2]


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (lambda batch: [1, 2], "must return a dict of the same length, found list"),
        (lambda batch: {"y": [1]}, "column 'y' of length 1 for a batch of 2 rows"),
        (lambda batch: {"y": 3}, "column 'y' int for a batch"),
    ],
)
def test_a_transform_that_returns_something_else_is_explained(transform, message):
    with pytest.raises(DataError, match=message):
        view(table(), None, transform).__getitems__([0, 1])


# --- columns --------------------------------------------------------------------------------
class WithTargets(torch.utils.data.Dataset):
    targets = torch.tensor([2, 0, 1])

    def __len__(self):
        return 3

    def __getitem__(self, index):
        raise AssertionError("items need not be read")


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        (table(4), [0, 1, 0, 1]),
        (table(4).rename_column("label", "labels").with_format("torch"), [0, 1, 0, 1]),
        (table(4).remove_columns("label"), None),
        (WithTargets(), [2, 0, 1]),
        (Subset(WithTargets(), [2, 0]), [1, 2]),
        (TensorDataset(torch.zeros(2, 1), torch.tensor([1, 0])), [1, 0]),
        (Rows(4), [0, 1, 2, 0]),
        (view(Rows(6), [5, 0], lambda item: item), [2, 0]),
        ([(torch.zeros(1), 1), (torch.zeros(1), 0)], [1, 0]),
        ([{"x": 1}, {"x": 2}], None),
    ],
)
def test_labels_are_found_where_they_are(dataset, expected):
    assert read_labels(dataset, None) == expected


def test_a_missing_column_is_named_with_what_there_is():
    with pytest.raises(ArgumentsError, match=r"'lable', but the data set has 'x', 'label'. Did you mean 'label'"):
        read_labels(table(), "lable")
    with pytest.raises(ArgumentsError, match="have no columns"):
        read_column(TensorDataset(torch.zeros(2, 1)), "patient", "group_column")
    assert read_column(Rows(3, patient=["a", "b", "c"]), "patient", "group_column") == ["a", "b", "c"]


def test_only_classes_stratify():
    assert class_labels([0, 1, True]) == [0, 1, 1]
    assert class_labels(["cat", "dog"]) == ["cat", "dog"]
    assert class_labels([0.5, 1.0]) is None
    assert class_labels([[0, 1], [1, 1]]) is None
    assert class_labels(None) is None


# --- what is refused ------------------------------------------------------------------------
class Stream(IterableDataset):
    def __iter__(self):
        return iter([])


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (None, "needs a `train_dataset`"),
        (Stream(), "a stream: folds need rows"),
        (table().to_iterable_dataset(), "a stream: folds need rows"),
        (datasets.DatasetDict({"a": table(), "b": table()}), "several data sets: a, b"),
        (iter([1]), "map-style data set"),
        (table().select([]), "`train_dataset` is empty"),
        ([], "is empty"),
    ],
)
def test_unusable_training_data(train, message):
    with pytest.raises(DataError, match=message):
        check_datasets(train, None)


def test_eval_equal_to_train_is_refused_without_reading_it():
    data, rows = table(), Rows(4)
    for train, evaluation in ((data, data), (data, data.with_format("torch").with_format(None)), (rows, {"a": rows})):
        with pytest.raises(DataError, match="is the `train_dataset`"):
            check_datasets(train, evaluation)
    with pytest.raises(DataError, match="is the `validation_dataset`"):
        check_datasets(table(5), rows, rows)
    with pytest.raises(DataError, match="`validation_dataset` is the `train_dataset`"):
        check_datasets(rows, None, rows)
    check_datasets(data, table(3))
    check_datasets(data, Untouchable())
    check_datasets(rows, {"one": Untouchable()})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 3, 2], r"3 labels, 0 ... 2, but the training data also holds 3 \(row 2 has 3\).*num_labels=4"),
        ([0, -1, 2], r"also holds -1 \(row 1.*Map the labels"),
    ],
)
def test_labels_outside_num_labels(labels, message):
    with pytest.raises(DataError, match=message):
        check_labels(labels, make_model())


@pytest.mark.parametrize("labels", [[0, 1, 2, -100], [0.5, 7.0], [[0, 9]], ["a"], None])
def test_labels_that_say_nothing_about_num_labels_pass(labels):
    check_labels(labels, make_model())
    check_labels([0, 9], torch.nn.Linear(1, 2))
    check_labels([0, 9], make_model(problem_type="regression"))


# --- randomness -----------------------------------------------------------------------------
def test_random_rows_are_noticed():
    assert not is_random(Rows(5))
    assert not is_random(table())
    assert not is_random(view(table(), None, double))
    noisy = view(Rows(5), None, lambda item: {**item, "pixel_values": item["pixel_values"] + torch.randn(1)})
    assert is_random(noisy)
    assert is_random(table().with_transform(lambda batch: {"x": np.random.rand(len(batch["x"]))}))
    assert not is_random([{"x": float("nan"), "y": torch.tensor([float("nan")]), "z": np.array(["a"])}] * 2)
