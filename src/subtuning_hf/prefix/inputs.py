"""
The inputs of a model by row: which dimension is the batch, how long a row is, and on which side it is padded.

A "key" is what decides the shapes inside a model: the shapes of its inputs without the batch. Rows with the same key
are of one length. Knows batches as a collator returns them; does not know modules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..errors import PrefixCacheError

Key = tuple[tuple[str, tuple[int, ...]], ...]
Batch = dict[str, Any]
# How many rows tell whether rows differ in length.
SAMPLE = 16


@dataclass(frozen=True)
class Inputs:
    """
    How the inputs of a model hold their rows.

    Args:
        batch_dims (`dict[str, int]`): Name of a tensor input to its batch dimension.
        relevant (`tuple[str, ...]`): Those that the blocks depend on, in order of name: labels, mostly, are not.
        names (`frozenset[str]`): All tensors among the inputs, labels left out.
    """

    batch_dims: dict[str, int]
    relevant: tuple[str, ...]
    names: frozenset[str]

    def alike(self, batch: Mapping[str, Any]) -> bool:
        """Whether a batch brings the inputs that were learned and no others; labels may come and go."""
        return _tensors(batch) == self.names

    def key(self, batch: Mapping[str, Any]) -> Key | None:
        """The shapes that decide, `None` if an input is missing or has other dimensions."""
        shapes = []
        for name in self.relevant:
            value, dim = batch.get(name), self.batch_dims[name]
            if not isinstance(value, Tensor) or value.ndim <= dim:
                return None
            shapes.append((name, (*value.shape[:dim], *value.shape[dim + 1 :])))
        return tuple(shapes)

    def sizes(self, batch: Mapping[str, Any]) -> set[int]:
        """Number of rows as each input has it; one number if all is well."""
        return {batch[name].shape[self.batch_dims[name]] for name in self.relevant}

    def copies(self, batch: Mapping[str, Any], count: int) -> Batch:
        """The first row of a batch several times, without inputs that were not there when this was learned."""
        copied = {name: batch[name] for name in self.names if name in batch and name not in self.batch_dims}
        for name, dim in self.batch_dims.items():
            if isinstance(value := batch.get(name), Tensor):
                first = torch.zeros(count, dtype=torch.int64, device=value.device)
                copied[name] = value.index_select(dim, first)
        return copied


def _tensors(batch: Mapping[str, Any]) -> frozenset[str]:
    names = {name for name, value in batch.items() if isinstance(value, Tensor) and value.ndim}
    return frozenset(n for n in names if "label" not in n and n not in ("start_positions", "end_positions"))


def learn_inputs(batch_of: Callable[[Sequence[int]], Batch], row: int, matters: Callable[[Batch, str], bool]) -> Inputs:
    """
    Find the batch dimensions of a model's inputs.

    Args:
        batch_of (`Callable`): Row numbers to a batch.
        row (`int`): Any row.
        matters (`Callable`): Whether the blocks' outputs for a batch change when an input is left out of it.

    Returns: [`Inputs`]
    Raises: [`PrefixCacheError`]: If no input holds rows.
    """
    two, three = batch_of([row] * 2), batch_of([row] * 3)
    dims = {}
    for name, value in two.items():
        other = three.get(name)
        if isinstance(value, Tensor) and isinstance(other, Tensor) and value.ndim == other.ndim:
            grown = [d for d in range(value.ndim) if (value.shape[d], other.shape[d]) == (2, 3)]
            if grown:
                dims[name] = grown[0]
    relevant = tuple(sorted(name for name in dims if matters(two, name)))
    if not relevant:
        raise PrefixCacheError(
            "Expected `batch_of(rows)` to return the inputs of a model by name, one entry per row, found "
            f"{', '.join(sorted(two)) or 'nothing'} and no tensor among them that grows with the rows."
        )
    return Inputs(dims, relevant, _tensors(two))


@dataclass(frozen=True)
class Lengths:
    """
    All rows by their key.

    Args:
        keys (`tuple[Key, ...]`): Each key once, in the order found.
        bucket_of (`torch.Tensor` of shape `(rows,)`): Number of each row's key; -1 where a row is not kept.
        place_of (`torch.Tensor` of shape `(rows,)`): Place of each row among the rows of its key.
    """

    keys: tuple[Key, ...]
    bucket_of: Tensor
    place_of: Tensor

    @classmethod
    def of(cls, keys: Mapping[int, Key], num_rows: int) -> Lengths:
        """From the key of every row that is kept."""
        numbers: dict[Key, int] = {}
        counts: list[int] = []
        buckets, places = torch.full((num_rows,), -1), torch.full((num_rows,), -1)
        for row, key in sorted(keys.items()):
            bucket = numbers.setdefault(key, len(numbers))
            if bucket == len(counts):
                counts.append(0)
            buckets[row], places[row] = bucket, counts[bucket]
            counts[bucket] += 1
        return cls(tuple(numbers), buckets, places)

    @cached_property
    def plain(self) -> bool:
        """Whether all rows are kept and of one length, so that a row's number is its place."""
        return len(self.keys) == 1 and bool((self.bucket_of == 0).all())

    def rows_of(self, bucket: int) -> list[int]:
        """The rows of one key, in order of their places."""
        return torch.nonzero(self.bucket_of == bucket).flatten().tolist()

    def by_size(self) -> list[int]:
        """Numbers of the keys from the smallest to the largest."""
        sizes = [sum(torch.Size(shape).numel() for _, shape in key) for key in self.keys]
        return sorted(range(len(sizes)), key=lambda bucket: (sizes[bucket], bucket))

    def count(self, bucket: int) -> int:
        """How many they are."""
        return int((self.bucket_of == bucket).sum())


def measure(inputs: Inputs, batch_of: Callable[[Sequence[int]], Batch], num_rows: int) -> Lengths:
    """
    Find the key of every row, as its collator gives it alone.

    All rows are looked at where inputs are integers, since texts differ in length, or where a sample of rows differs;
    images are taken to be of one size, which filling a store confirms.
    """
    sample = sorted({round(i * (num_rows - 1) / (SAMPLE - 1)) for i in range(SAMPLE)})
    batches = {row: batch_of([row]) for row in sample}
    keys = {row: _key(inputs, batch, row) for row, batch in batches.items()}
    integers = any(not batches[sample[0]][name].is_floating_point() for name in inputs.relevant)
    if integers or len(set(keys.values())) > 1:
        for row in range(num_rows):
            if row not in keys:
                keys[row] = _key(inputs, batch_of([row]), row)
    else:
        keys = dict.fromkeys(range(num_rows), keys[sample[0]])
    return Lengths.of(keys, num_rows)


def _key(inputs: Inputs, batch: Batch, row: int) -> Key:
    key = inputs.key(batch)
    if key is None:
        raise PrefixCacheError(
            f"Expected inputs {', '.join(inputs.relevant)} for row {row}, as for the rows before it; `batch_of` "
            f"returned {', '.join(sorted(batch))}."
        )
    return key


def padding_side(inputs: Inputs, batch_of: Callable[[Sequence[int]], Batch], lengths: Lengths) -> str | None:
    """
    Where a short row stands in a batch with a longer one.

    Returns: `str` or `None`:
        `"right"` if it is padded on the right, `"left"`, or `None` if neither can be told (then only batches of one
        length can use what is stored).
    """
    if len(lengths.keys) < 2:
        return "right"
    buckets = lengths.by_size()
    short, long = (lengths.rows_of(bucket)[0] for bucket in (buckets[0], buckets[-1]))
    alone, together = batch_of([short]), batch_of([short, long])
    fits = {
        side
        for side in ("right", "left")
        if all(_stands(alone[name], together[name], dim, side) for name, dim in _varied(inputs, alone, together))
    }
    return "right" if "right" in fits else "left" if fits else None


def _varied(inputs: Inputs, alone: Batch, together: Batch) -> Iterable[tuple[str, int]]:
    for name, dim in inputs.batch_dims.items():
        if name in alone and name in together and alone[name].ndim == together[name].ndim:
            yield name, dim


def _stands(alone: Tensor, together: Tensor, dim: int, side: str) -> bool:
    one, both = alone.select(dim, 0), together.select(dim, 0)
    if any(small > large for small, large in zip(one.shape, both.shape, strict=True)):
        return False
    return torch.equal(one, both[within(one.shape, both.shape, side)])


def within(small: Sequence[int], large: Sequence[int], side: str) -> tuple[slice, ...]:
    """Where a small array stands in a large one that is padded on a side, along all dimensions in which they differ."""
    return tuple(
        slice(None) if a == b else slice(0, a) if side == "right" else slice(b - a, b)
        for a, b in zip(small, large, strict=True)
    )
