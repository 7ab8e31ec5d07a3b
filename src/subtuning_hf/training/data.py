"""
Views of a data set: some of its rows, seen through a transform, without copying them.

Also reads what the folds need (labels, groups, folds) and refuses data that cannot be used. Knows map-style data sets
of `datasets`, torch and torchvision; does not know models or Trainers. Never reads an `eval_dataset`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from ..blocks import find_head
from ..errors import ArgumentsError, DataError

LABEL_COLUMNS = ("label", "labels", "label_ids")


class DatasetView(Dataset):
    """
    Rows of a data set through a transform.

    Args:
        dataset (`datasets.Dataset` or map-style data set): Where the rows are.
        indices (`Sequence[int]`, *optional*): Which of them, in order; by default all.
        transform (`Callable`, *optional*):
            For a `datasets.Dataset` a function of a batch, a dict of lists, as `Dataset.set_transform` takes it; it
            takes the place of a format the data set may have. For other data sets a function of one item.
    """

    def __init__(self, dataset: Any, indices: Sequence[int] | None = None, transform: Callable | None = None) -> None:
        self.dataset = dataset
        self.indices = None if indices is None else [int(i) for i in indices]
        self.transform = transform
        self._batched = transform is not None and is_hf(dataset)
        self._rows = dataset.with_format(None) if self._batched else dataset

    def __len__(self) -> int:
        return len(self._rows) if self.indices is None else len(self.indices)

    def __getitem__(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            # Without this, iterating over a view would run on into the data set's negative indices.
            raise IndexError(f"Index {index} is out of range for {len(self)} rows.")
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Iterable[int]) -> list[Any]:
        rows = [int(i) if self.indices is None else self.indices[i] for i in indices]
        if self._batched:
            return _split(self.transform(self._rows[rows]), len(rows))  # type: ignore[misc]
        fetch_many = getattr(self._rows, "__getitems__", None)
        items = fetch_many(rows) if callable(fetch_many) else [self._rows[row] for row in rows]
        return items if self.transform is None else [self.transform(item) for item in items]


def _split(batch: Any, size: int) -> list[dict[str, Any]]:
    """A batch as a dict of columns to a list of rows."""
    if not isinstance(batch, Mapping):
        raise DataError(
            f"A transform of a datasets.Dataset gets a batch as a dict of lists and must return a dict of the same "
            f"length, found {type(batch).__name__}. Write it as for Dataset.set_transform."
        )
    for name, column in batch.items():
        if not hasattr(column, "__len__") or len(column) != size:
            found = f"of length {len(column)}" if hasattr(column, "__len__") else f"{type(column).__name__}"
            raise DataError(
                f"The transform returned column '{name}' {found} for a batch of {size} rows. It gets lists of rows "
                "and must return one entry for each, as with Dataset.set_transform."
            )
    return [{name: column[i] for name, column in batch.items()} for i in range(size)]


class StreamView(IterableDataset):
    """
    A stream through a transform, row by row.

    Args:
        dataset (`datasets.IterableDataset` or `torch.utils.data.IterableDataset`): The stream.
        transform (`Callable`): As in [`DatasetView`].
    """

    def __init__(self, dataset: Any, transform: Callable) -> None:
        self.dataset, self.transform = dataset, transform
        self._batched = isinstance(dataset, datasets.IterableDataset)

    def __iter__(self) -> Iterator[Any]:
        for row in self.dataset:
            if self._batched:
                yield _split(self.transform({name: [value] for name, value in row.items()}), 1)[0]
            else:
                yield self.transform(row)


def view(dataset: Any, indices: Sequence[int] | None = None, transform: Callable | None = None) -> Any:
    """
    Some rows of a data set through a transform; the data set itself where nothing changes.

    A `datasets.Dataset` without a transform stays one, so that its format and all that Trainer does with its columns
    hold as ever.
    """
    if transform is None and indices is None:
        return dataset
    if transform is not None and indices is None and is_stream(dataset):
        return StreamView(dataset, transform)
    if transform is None and is_hf(dataset):
        # In memory: otherwise `datasets` may leave a file of indices in its cache for every fold.
        return dataset.select([int(i) for i in indices or ()], keep_in_memory=True)
    return DatasetView(dataset, indices, transform)


def is_hf(dataset: Any) -> bool:
    """Whether this is a `datasets.Dataset`; looks at the type alone, since an eval_dataset may not be touched."""
    return issubclass(type(dataset), datasets.Dataset)


def is_stream(dataset: Any) -> bool:
    """Whether rows of a data set come one after the other and cannot be picked; looks at the type alone."""
    return issubclass(type(dataset), datasets.IterableDataset | IterableDataset)


def check_datasets(train: Any, evaluation: Any, validation: Any = None) -> None:
    """
    Refuse data sets that cannot be searched on.

    Args:
        train: The `train_dataset`.
        evaluation: The `eval_dataset`, possibly a dict of several; looked at from outside only.
        validation (*optional*): A validation set of the user's own.

    Raises: [`DataError`]
    """
    if train is None:
        raise DataError("A search needs a `train_dataset`: its folds are cut from it. None was given.")
    check_map_style("train_dataset", train)
    if validation is not None:
        check_map_style("validation_dataset", validation)
    named = evaluation.items() if issubclass(type(evaluation), dict) else [(None, evaluation)]
    for name, one in named:
        shown = "eval_dataset" if name is None else f"eval_dataset['{name}']"
        if _same(train, one):
            raise DataError(
                f"`{shown}` is the `train_dataset`: the score of a model on rows it was trained on says nothing. "
                "Keep rows apart for it, or leave it out; the search cuts its own validation folds from the "
                "training rows."
            )
        if validation is not None and _same(validation, one):
            raise DataError(
                f"`{shown}` is the `validation_dataset`: blocks would be chosen by the rows that are to judge the "
                "choice. Keep them apart, or leave `validation_dataset` out to have folds cut from the training rows."
            )
    if validation is not None and _same(train, validation):
        raise DataError(
            "`validation_dataset` is the `train_dataset`. Leave it out to have folds cut from the training rows."
        )


def _same(first: Any, second: Any) -> bool:
    if first is second:
        return first is not None
    if not is_hf(first) or type(first) is not type(second):
        return False
    # Metadata alone: no row is read. Another format of the same rows has another fingerprint, but shares the table.
    return first._fingerprint == second._fingerprint or _storage(first) == _storage(second)


def _storage(dataset: datasets.Dataset) -> tuple[int, int]:
    indices = dataset._indices
    return id(dataset._data.table), 0 if indices is None else id(indices.table)


def check_map_style(name: str, dataset: Any) -> None:
    """
    Refuse what is no data set of rows that can be counted and picked.

    Args:
        name (`str`): Of the argument.
        dataset: What was given for it.

    Raises: [`DataError`]
    """
    kind = type(dataset)
    if is_stream(dataset):
        raise DataError(
            f"`{name}` is a {kind.__name__}, a stream: folds need rows that can be counted and picked. Load it "
            "without streaming, or save its rows first (Dataset.from_generator)."
        )
    if issubclass(kind, datasets.DatasetDict | dict):
        raise DataError(f"`{name}` holds several data sets: {', '.join(map(str, dataset))}. Pass one of them.")
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise DataError(
            f"`{name}` must be a map-style data set with a length and rows by index, found {kind.__name__}. Pass a "
            "datasets.Dataset or a torch.utils.data.Dataset with __len__ and __getitem__."
        )
    if len(dataset) == 0:
        raise DataError(f"`{name}` is empty. Check the split or the filter that made it.")


# --- columns --------------------------------------------------------------------------------
def read_column(dataset: Any, name: str, argument: str) -> list[Any]:
    """
    A column that an argument names.

    Args:
        dataset: A map-style data set.
        name (`str`): The column.
        argument (`str`): The argument that asks for it, for the message.

    Returns: `list`, one plain value per row.
    Raises: [`ArgumentsError`]: If there is no such column.
    """
    if is_hf(dataset):
        if name not in dataset.column_names:
            raise _no_column(name, argument, dataset.column_names)
        return _plain_list(dataset.select_columns([name]).with_format(None)[:][name])
    first = dataset[0]
    if not isinstance(first, Mapping):
        raise ArgumentsError(
            f"`{argument}` names column '{name}', but rows of the {type(dataset).__name__} are "
            f"{type(first).__name__} and have no columns. Use a data set whose rows are dicts."
        )
    if name not in first:
        raise _no_column(name, argument, list(first))
    return _plain_list([dataset[i][name] for i in range(len(dataset))])


def _no_column(name: str, argument: str, columns: Sequence[str]) -> ArgumentsError:
    close = difflib.get_close_matches(name, [str(c) for c in columns], n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    listed = ", ".join(f"'{column}'" for column in columns)
    return ArgumentsError(f"`{argument}` names column '{name}', but the data set has {listed}.{hint}")


def read_labels(dataset: Any, label_column: str | None) -> list[Any] | None:
    """
    The label of each row, read in the cheapest way the data set allows.

    Args:
        dataset: A map-style data set.
        label_column (`str`, *optional*): Where labels are; by default "label", "labels" or "label_ids", or the
            `targets` or `labels` attribute of a torchvision data set.

    Returns: `list` of plain values, or `None` where no labels are found.
    Raises: [`ArgumentsError`]: If a column is named that does not exist. [`DataError`]: For a stream.
    """
    if is_stream(dataset):
        raise DataError(
            f"These rows are a {type(dataset).__name__}, a stream: what is recorded with its scores must be rows that "
            "can be counted and read again. Load it without streaming; train(), evaluate() and predict() take streams."
        )
    if label_column is not None:
        return read_column(dataset, label_column, "label_column")
    if is_hf(dataset):
        found = [name for name in LABEL_COLUMNS if name in dataset.column_names]
        return read_column(dataset, found[0], "label_column") if found else None
    quick = _attribute_labels(dataset)
    if quick is not None:
        return quick
    return _item_labels(dataset)


def _attribute_labels(dataset: Any) -> list[Any] | None:
    if isinstance(dataset, Subset):
        whole = _attribute_labels(dataset.dataset)
        return None if whole is None else [whole[i] for i in dataset.indices]
    if isinstance(dataset, DatasetView):
        whole = read_labels(dataset.dataset, None)
        return whole if whole is None or dataset.indices is None else [whole[i] for i in dataset.indices]
    if isinstance(dataset, TensorDataset):
        return _plain_list(dataset.tensors[-1]) if len(dataset.tensors) > 1 else None
    for name in ("targets", "labels"):
        values = getattr(dataset, name, None)
        if values is not None and hasattr(values, "__len__") and len(values) == len(dataset):
            return _plain_list(values)
    return None


def _item_labels(dataset: Any) -> list[Any] | None:
    first = dataset[0]
    key: Any = None
    if isinstance(first, Mapping):
        key = next((name for name in LABEL_COLUMNS if name in first), None)
    elif isinstance(first, Sequence) and not isinstance(first, str) and len(first) == 2:
        key = 1
    return None if key is None else _plain_list([dataset[i][key] for i in range(len(dataset))])


def _plain_list(values: Any) -> list[Any]:
    if isinstance(values, torch.Tensor | np.ndarray):
        return values.tolist()
    return [_plain(value) for value in values]


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return value.tolist()
    return value


def class_labels(labels: Sequence[Any] | None) -> list[Any] | None:
    """
    Labels by which folds can be stratified.

    Returns: `list` of int or str, or `None` for what is no class of a row: numbers to regress on, several labels per
    row, labels per token.
    """
    if labels is None or not all(isinstance(label, bool | int | str) for label in labels):
        return None
    return [int(label) if isinstance(label, bool) else label for label in labels]


def check_labels(labels: Sequence[Any] | None, model: torch.nn.Module) -> None:
    """
    Refuse classes that the model's head has no output for.

    Args:
        labels (`Sequence`, *optional*): One per row, of any kind.
        model (`torch.nn.Module`): Its `config.num_labels` counts; skipped where that says nothing.

    Raises: [`DataError`]
    """
    config = getattr(model, "config", None)
    count = getattr(config, "num_labels", None)
    problem = getattr(config, "problem_type", None)
    if not isinstance(count, int) or count < 2 or problem in ("regression", "multi_label_classification"):
        return
    modules = [module for name in find_head(model) for module in model.get_submodule(name).modules()]
    outputs = {module.out_features for module in modules if isinstance(module, torch.nn.Linear)}
    if outputs and count not in outputs:  # a multiple-choice model scores each choice by one output, whatever it says
        return
    if labels is None or not all(isinstance(label, int) for label in labels):
        return
    # -100 is what losses ignore.
    wrong = sorted({int(label) for label in labels if not 0 <= label < count and label != -100})
    if wrong:
        row = next(i for i, label in enumerate(labels) if label == wrong[0])
        least = max(max(labels) + 1, count)
        way_out = (
            f"Load the model with num_labels={least} (and ignore_mismatched_sizes=True)"
            if wrong[0] >= 0
            else "Map the labels to 0, 1, 2, ..."
        )
        shown = ", ".join(map(str, wrong[:10]))
        raise DataError(
            f"The model has {count} labels, 0 ... {count - 1}, but the training data also holds {shown} (row {row} "
            f"has {wrong[0]}). {way_out}, or check that this is the label column."
        )


# --- randomness -----------------------------------------------------------------------------
def is_random(dataset: Any, samples: int = 3) -> bool:
    """
    Whether reading a row twice can give two different things, as it does when augmentation is built in.

    Args:
        dataset: A map-style data set, as validation would read it.
        samples (`int`, *optional*, defaults to 3): Rows that are tried, each read three times.

    Returns: `bool`
    """
    count = len(dataset)
    rows = sorted({round(k * (count - 1) / max(samples - 1, 1)) for k in range(samples)})
    return any(not same_value(dataset[row], dataset[row]) for row in rows for _ in range(2))


def same_value(first: Any, second: Any) -> bool:
    """Whether two rows hold the same; what cannot be compared counts as the same."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(same_value(first[k], second[k]) for k in first)
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return first.shape == second.shape and bool(torch.equal(first.nan_to_num(), second.nan_to_num()))
    if is_arraylike(first) and is_arraylike(second):
        return _same_array(np.asarray(first), np.asarray(second))
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(same_value(a, b) for a, b in zip(first, second, strict=True))
    if isinstance(first, bool | int | str | bytes) or (isinstance(first, float) and first == first):
        return type(first) is type(second) and bool(first == second)
    return True


def is_arraylike(value: Any) -> bool:
    """Whether numpy can read this: arrays, and pictures of PIL."""
    return hasattr(value, "__array__") or hasattr(value, "__array_interface__")


def _same_array(first: np.ndarray, second: np.ndarray) -> bool:
    numeric = first.dtype.kind in "fc" and second.dtype.kind in "fc"
    return bool(np.array_equal(first, second, equal_nan=numeric))
