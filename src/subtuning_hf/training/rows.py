"""
Rows of a study, each read and transformed once for all its trainings.

A row has a number, which travels through the collator with it, so that what was stored for it can be found again.
Random augmentation becomes a stated number of views of each row, drawn from the row and the view alone: all candidates
see the same ones. Knows data sets and collators; not models, folds or what is stored.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from ..prefix import ROWS
from .data import view


class RowSource:
    """
    Rows of one data set through one transform, with numbers of their own.

    Args:
        dataset: Map-style data set.
        transform (`Callable`, *optional*): What its rows go through.
        first (`int`, *optional*, defaults to 0): The number of its first row.
        views (`int`, *optional*, defaults to 1): Views of each row; more than one draws each of them from its own seed.
        seed (`int`, *optional*, defaults to 0): Of the views.
        seeded (`bool`, *optional*, defaults to `False`): Whether rows are drawn from seeds, also with one view.
    """

    def __init__(
        self,
        dataset: Any,
        transform: Callable | None,
        first: int = 0,
        views: int = 1,
        seed: int = 0,
        seeded: bool = False,
    ) -> None:
        self.dataset, self.transform = dataset, transform
        self.rows = view(dataset, None, transform)
        self.first, self.views, self.seed = first, views, seed
        self.seeded = seeded or views > 1

    @property
    def numbers(self) -> range:
        """`range`: the numbers of its rows, view by view of the first, then of the second ..."""
        return range(self.first, self.first + len(self.rows) * self.views)

    def number(self, index: int, epoch: int = 0) -> int:
        """`int`: the number of the view that an epoch sees of a row."""
        return self.first + index * self.views + epoch % self.views

    def read(self, numbers: Sequence[int]) -> list[Any]:
        """Rows by their numbers."""
        if self.seeded:
            return [self._draw(number - self.first) for number in numbers]
        indices = [number - self.first for number in numbers]
        fetch_many = getattr(self.rows, "__getitems__", None)
        return list(fetch_many(indices)) if callable(fetch_many) else [self.rows[index] for index in indices]

    def plain(self, indices: Sequence[int]) -> Any:
        """Some of the rows as they are given to a Trainer without any of this."""
        return view(self.dataset, indices, self.transform)

    def _draw(self, place: int) -> Any:
        index, shown = divmod(place, self.views)
        with _seeded(int(np.random.SeedSequence((self.seed, index, shown)).generate_state(1)[0])):
            return self.rows[index]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Random numbers of a row alone; the random state of the training is untouched."""
    state, numbers = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(numbers)


class RowStore:
    """
    Rows that were read, kept as far as a budget of memory goes. What it gives away may be written to.

    Args:
        sources (`Sequence[RowSource]`): Where rows come from.
        budget (`int`): Bytes that may be kept; rows beyond that are read anew each time.
    """

    def __init__(self, sources: Sequence[RowSource], budget: int) -> None:
        self.sources = tuple(sources)
        self.budget, self.held = budget, 0
        self._kept: dict[int, Any] = {}
        self._light: dict[int, Any] = {}
        self._skipped: tuple[str, ...] = ()

    def read(self, numbers: Sequence[int]) -> list[Any]:
        """Rows by their numbers, through their transforms."""
        missing = [number for number in numbers if number not in self._kept]
        fresh: dict[int, Any] = {}
        for source in self.sources:
            mine = [number for number in missing if number in source.numbers]
            if mine:
                fresh.update(zip(mine, source.read(mine), strict=True))
        for number, row in fresh.items():
            size = bytes_of(row)
            if self.held + size <= self.budget:
                self._kept[number] = row
                self.held += size
        # Collators may pop from rows, or scale images where they are: rows read anew would not show it later.
        return [own(self._kept[number]) if number in self._kept else fresh[number] for number in numbers]

    def skip(self, names: Sequence[str]) -> None:
        """Say which inputs matter by their shape alone, for [`RowStore.read_light`]."""
        self._skipped, self._light = tuple(names), {}

    @property
    def is_light(self) -> bool:
        """`bool`: whether [`RowStore.read_light`] leaves something out."""
        return bool(self._skipped)

    def read_light(self, numbers: Sequence[int]) -> list[Any]:
        """The same rows without the content of inputs that do not matter."""
        if not self._skipped:
            return self.read(numbers)
        missing = [number for number in numbers if number not in self._light]
        fresh = {}
        for number, row in zip(missing, self.read(missing) if missing else (), strict=True):
            light = fresh[number] = lightened(row, self._skipped)
            size = 64 + sum(bytes_of(value) for name, value in light.items() if name not in self._skipped)
            while self._kept and self.held + size > self.budget:  # one whole row takes the place of many light ones
                self.held -= bytes_of(self._kept.popitem()[1])
            if self.held + size <= self.budget:
                self._light[number] = light
                self.held += size
        return [own(self._light[number], self._skipped) if number in self._light else fresh[number]
                for number in numbers]  # fmt: skip


def bytes_of(row: Any) -> int:
    """`int`: about how many bytes a row takes."""
    if isinstance(row, Mapping):
        return sum(map(bytes_of, row.values()))
    if isinstance(row, torch.Tensor | np.ndarray):
        return int(row.nbytes)
    if isinstance(row, list | tuple):
        return 64 + (8 * len(row) if row and isinstance(row[0], int | float) else sum(map(bytes_of, row)))
    if hasattr(row, "size") and hasattr(row, "getbands"):  # a picture of PIL
        return int(row.size[0] * row.size[1] * len(row.getbands()))
    return 64


def own(value: Any, shared: Sequence[str] = ()) -> Any:
    """A copy as deep as containers and arrays go; entries of a row that are named are not copied."""
    if isinstance(value, Mapping):
        return {key: entry if key in shared else own(entry) for key, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(own, value))
    if isinstance(value, torch.Tensor):
        return value.clone()
    return value.copy() if isinstance(value, np.ndarray) else value


def lightened(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A row without the content of what is named."""
    return {key: _shape_only(value) if key in names else value for key, value in row.items()}


def _shape_only(value: Any) -> Any:
    """One zero that looks like the whole."""
    if isinstance(value, torch.Tensor):
        return value.new_zeros(()).expand(value.shape)
    if isinstance(value, np.ndarray):
        return np.broadcast_to(np.zeros((), value.dtype), value.shape)
    return value


class NumberedRows(Dataset):
    """
    Some rows of a store as a data set whose items carry their numbers.

    Args:
        store ([`RowStore`]): Where rows are.
        source ([`RowSource`]): Which of its sources.
        indices (`Sequence[int]`): Rows of that source, in order.
        numbered (`bool`, *optional*, defaults to `True`):
            Whether items carry their numbers; inputs that do not matter then may be left out.
    """

    def __init__(self, store: RowStore, source: RowSource, indices: Sequence[int], numbered: bool = True) -> None:
        self.store, self.source, self.numbered = store, source, numbered
        self.indices = [int(index) for index in indices]
        # Seen by persistent workers too, which keep their copy of this from epoch to epoch.
        self._epoch = torch.zeros((), dtype=torch.int64)
        if source.views > 1:
            self._epoch.share_memory_()

    @property
    def epoch(self) -> int:
        """`int`: the epoch whose views are shown."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Show the views of an epoch; accelerate's data loader calls this in some of its versions."""
        self._epoch.fill_(epoch)

    def __getattr__(self, name: str) -> Any:
        # Columns, features and the like, for Trainers that read them.
        if name.startswith("__") or "source" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.source.plain(self.indices), name)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            return self.source.plain(self.indices)[index]
        if not -len(self) <= index < len(self):
            raise IndexError(f"Index {index} is out of range for {len(self)} rows.")
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        numbers = [self.source.number(self.indices[int(index)], self.epoch) for index in indices]
        if not self.numbered:
            return self.store.read(numbers)
        rows = self.store.read_light(numbers)
        numbered = zip(rows, numbers, strict=True)
        return [{**row, ROWS: number} if isinstance(row, Mapping) else row for row, number in numbered]


class NumberingCollator:
    """
    A collator that hands the numbers of rows on beside the batch.

    Args:
        collate (`Callable`): The collator that makes the batch; it sees no numbers.
    """

    def __init__(self, collate: Callable) -> None:
        self.collate = collate

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "collate" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.collate, name)

    def __call__(self, features: list[Any]) -> Any:
        numbers = [row.get(ROWS) if isinstance(row, Mapping) else None for row in features]
        plain = [
            {key: value for key, value in row.items() if key != ROWS} if isinstance(row, Mapping) else row
            for row in features
        ]
        batch = self.collate(plain)
        if isinstance(batch, Mapping) and None not in numbers:
            batch[ROWS] = torch.tensor(numbers)  # type: ignore[index]
        return batch
