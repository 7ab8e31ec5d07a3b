"""Fingerprints: equal content gives equal ones, and every change of content another."""

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from subtuning_hf.blocks import find_blocks, find_head
from subtuning_hf.training import fingerprint as module
from subtuning_hf.training.fingerprint import (
    fingerprint_dataset,
    fingerprint_tensors,
    fingerprint_value,
    fingerprint_weights,
    rows_to_hash,
)
from training.cases import Rows, make_model


def of(dataset, labels=None, random_items=False):
    return fingerprint_dataset(dataset, labels, random_items)


# --- values and weights ---------------------------------------------------------------------
def test_values_that_differ_in_anything_differ():
    values = [
        None, 0, 0.0, False, "0", b"0", [0], [[0]], {}, {"a": 1}, {"a": 2}, {"b": 1}, [1, 2], [12], ["1", "2"], ["12"],
        np.zeros(2), np.zeros(2, np.float32), np.zeros((2, 1)), torch.zeros(2), torch.zeros(2, dtype=torch.bfloat16),
        torch.zeros(1, 2), {1, 2}, {1, 3}, Image.new("L", (2, 2)), Image.new("L", (2, 2), 1), Image.new("P", (2, 2)),
    ]  # fmt: skip
    prints = [fingerprint_value(value) for value in values]
    assert len(set(prints)) == len(values)
    assert fingerprint_value({"a": 1, "b": 2}) == fingerprint_value({"b": 2, "a": 1})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool])
def test_tensors_of_every_dtype_count_by_content(dtype):
    tensor = torch.tensor([[0, 1], [1, 1]]).to(dtype)
    same = fingerprint_tensors({"a": tensor.clone()})
    assert fingerprint_tensors({"a": tensor}) == same
    assert fingerprint_tensors({"a": tensor.T.contiguous().T}) == same
    assert fingerprint_tensors({"b": tensor}) != same
    changed = tensor.clone()
    changed[0, 0] = 1
    assert fingerprint_tensors({"a": changed}) != same
    assert fingerprint_tensors({"a": torch.zeros(0, dtype=dtype)}) != same


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("resnet.embedder.embedder.convolution.weight", "stem"),
        ("resnet.embedder.embedder.normalization.running_mean", "stem"),
        ("resnet.encoder.stages.1.layers.0.layer.0.convolution.weight", "blocks"),
        ("resnet.encoder.stages.1.layers.0.layer.0.normalization.running_var", "blocks"),
        ("resnet.encoder.stages.1.layers.0.layer.0.normalization.num_batches_tracked", "blocks"),
        ("classifier.1.bias", "head"),
    ],
)
def test_each_tensor_is_in_exactly_one_part(name, part):
    def prints(model):
        return fingerprint_weights(model, {"head": find_head(model), "blocks": [b.name for b in find_blocks(model)]})

    model = make_model()
    before = prints(model)
    assert prints(make_model()) == before
    model.state_dict()[name].add_(1)
    after = prints(model)
    assert {key for key in before if before[key] != after[key]} == {part}


# --- data -----------------------------------------------------------------------------------
def table(rows: int = 7, **columns) -> datasets.Dataset:
    return datasets.Dataset.from_dict(
        {"x": [[float(i), i + 0.5] for i in range(rows)], "text": [f"row {i}" for i in range(rows)], **columns}
    )


def test_a_table_counts_by_its_rows_whatever_they_lie_in(tmp_path):
    plain = of(table())
    assert of(table().with_format("torch")) == plain
    assert of(table(9).select(range(7))) == plain
    assert of(table(7).select([6, 5, 4, 3, 2, 1, 0]).select([6, 5, 4, 3, 2, 1, 0])) == plain
    assert of(datasets.concatenate_datasets([table().select(range(3)), table().select(range(3, 7))])) == plain
    table().save_to_disk(tmp_path / "saved")
    assert of(datasets.load_from_disk(tmp_path / "saved")) == plain


@pytest.mark.parametrize(
    "other",
    [
        table(6),
        table().select([1, 0, 2, 3, 4, 5, 6]),
        table().rename_column("x", "z"),
        table().remove_columns("text"),
        table(label=[0] * 7),
        table().map(lambda row: {"text": row["text"].replace("3", "8")}),
        table().map(lambda row: {"x": [row["x"][0], row["x"][1] + (row["x"][0] == 6)]}),
        table().map(lambda row: {"text": None if row["text"] == "row 2" else row["text"]}),
        table().cast_column("x", datasets.List(datasets.Value("float32"))),
    ],
)
def test_a_table_that_differs_in_anything_differs(other):
    assert of(other) != of(table())


def test_what_a_table_is_given_through_counts():
    def times(factor):
        return lambda batch: {"x": [factor * x for x in batch["x"]]}

    rows = datasets.Dataset.from_dict({"x": [1.0, 2.0], "mask": [0, 1]})
    plain, one, same, other = (
        fingerprint_dataset(found, None, False)
        for found in (rows, rows.with_transform(times(1)), rows.with_transform(times(1)), rows.with_transform(times(2)))
    )
    assert one == same and len({plain, one, other}) == 3
    assert fingerprint_dataset(rows.with_format("torch"), None, False) == plain
    assert fingerprint_dataset(rows.with_format("torch", columns=["x"]), None, False) != plain


def test_null_empty_and_nested_values_are_told_apart():
    def nested(values):
        return of(datasets.Dataset.from_dict({"a": values}))

    rows = [[None, {"b": [1]}], [None, {"b": []}], [None, {"b": None}], [{"b": [2]}, {"b": [1]}], [{"b": [1]}, None]]
    assert len({nested(row) for row in rows}) == len(rows)
    lists = [[[1], [2, 3]], [[1, 2], [3]], [None, [1, 2, 3]], [[], [1, 2, 3]], [[1, 2, 3], []]]
    assert len({nested(row) for row in lists}) == len(lists)
    assert nested(lists[0]) == nested(lists[0])


def test_a_picture_counts_by_its_content_not_its_place(tmp_path):
    def pictures(folder, shade):
        folder.mkdir()
        Image.new("L", (4, 4), shade).save(folder / "one.png")
        data = datasets.Dataset.from_dict({"image": [str(folder / "one.png")]})
        return of(data.cast_column("image", datasets.Image()))

    first = pictures(tmp_path / "a", 10)
    assert pictures(tmp_path / "b", 10) == first
    assert pictures(tmp_path / "c", 11) != first


def test_items_of_other_data_sets(monkeypatch):
    assert of(Rows(6)) == of(Rows(6)) != of(Rows(6, seed=1))
    assert of(Rows(6), random_items=True) == of(Rows(6, seed=1), random_items=True)
    assert of(Rows(6), [0, 1], random_items=True) != of(Rows(6), [1, 0], random_items=True)
    first = TensorDataset(torch.zeros(3), torch.zeros(3))
    assert of(first) != of(TensorDataset(torch.zeros(3), torch.ones(3)))
    monkeypatch.setattr(module, "SAMPLE_ROWS", 5)
    assert list(rows_to_hash(Rows(8))) == list(range(8))
    monkeypatch.setattr(module, "FULL_BYTES", 1)
    assert rows_to_hash(Rows(9)) == [0, 2, 4, 6, 8]
