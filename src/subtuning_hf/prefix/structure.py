"""
What a module returns, taken apart: which tensors hold one entry per row, along which dimension, and in which order of
memory.

Nothing is guessed from sizes: two calls that differ in the number of rows only say which dimension is the batch. Knows
tensors and nested containers; does not know models, rows or where values are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..errors import PrefixCacheError


@dataclass(frozen=True)
class Dims:
    """
    How a leaf of an output depends on the batch.

    Args:
        batch (`int` or `None`): The dimension that grows with the rows; `None` where the leaf has none.
        order (`tuple[int, ...]`): Its dimensions from the outermost to the innermost in memory.
    """

    batch: int | None
    order: tuple[int, ...]


@dataclass(frozen=True)
class Leaf:
    """
    One leaf of an output at one length of the inputs.

    Args:
        dims ([`Dims`]): Batch dimension and order in memory.
        shape (`tuple[int, ...]`): Shape that one row has; along the batch dimension the entries per row, mostly 1.
        dtype (`torch.dtype` or `None`): Of a tensor.
        value: What is the same for all rows, tensor or not; `None` for a leaf of rows.
    """

    dims: Dims
    shape: tuple[int, ...] = ()
    dtype: torch.dtype | None = None
    value: Any = None

    @property
    def of_rows(self) -> bool:
        """Whether the leaf holds something of its own for every row."""
        return self.dims.batch is not None

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape in which one row is kept: entries per row, then the other dimensions as they lie in memory."""
        assert self.dims.batch is not None
        return (self.shape[self.dims.batch], *(self.shape[d] for d in self.dims.order if d != self.dims.batch))

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        assert self.dtype is not None
        return torch.Size(self.row_shape).numel() * self.dtype.itemsize

    def full_shape(self, size: int) -> tuple[int, ...]:
        """Shape for a batch of `size` rows."""
        return tuple(n * size if d == self.dims.batch else n for d, n in enumerate(self.shape))

    def pack(self, value: Tensor) -> Tensor:
        """
        The rows of a leaf, one behind the other.

        Args:
            value (`torch.Tensor` of shape `(..., rows * entries, ...)`): As the module returned it.

        Returns: `torch.Tensor` of shape `(rows, *row_shape)`.
        """
        batch = self.dims.batch
        assert batch is not None
        moved = value.permute(batch, *(d for d in self.dims.order if d != batch))
        return moved.unflatten(0, (-1, self.shape[batch]))  # (rows, entries, ...)

    def unpack(self, rows: Tensor) -> Tensor:
        """
        The leaf as the module returns it, in the same order of memory: kernels choose by it, and so do the bits.

        Args:
            rows (`torch.Tensor` of shape `(rows, *row_shape)`): Contiguous.
        """
        order = self.dims.order
        assert self.dims.batch is not None
        flat = rows.flatten(0, 1).movedim(0, order.index(self.dims.batch)).contiguous()
        return flat.permute(*(order.index(d) for d in range(len(order))))


@dataclass(frozen=True)
class Template:
    """
    The structure of a module's output at one length of the inputs.

    Args:
        spec: The containers.
        leaves (`tuple[Leaf, ...]`): What is in them.
    """

    spec: Any
    leaves: tuple[Leaf, ...]

    @classmethod
    def read(cls, output: Any, dims: tuple[Dims, ...], rows: int) -> Template:
        """
        Read the template off an output.

        Args:
            output: What the module returned for `rows` rows.
            dims (`tuple[Dims, ...]`): Of every leaf, from [`compare`].
            rows (`int`): Number of rows in the call.

        Raises: [`PrefixCacheError`]: If the output has other leaves than the ones compared.
        """
        values, spec = pytree.tree_flatten(output)
        if len(values) != len(dims):
            raise PrefixCacheError(f"Expected {len(dims)} values in a block's output, found {len(values)}.")
        return cls(spec, tuple(_leaf(value, one, rows) for value, one in zip(values, dims, strict=True)))

    def sharing(self, pool: list[Tensor]) -> Template:
        """The same, with tensors that are the same for all rows taken from a pool where it has them, else put there."""
        leaves = []
        for leaf in self.leaves:
            if isinstance(leaf.value, Tensor):
                equal = (one for one in pool if one.dtype == leaf.value.dtype and torch.equal(one, leaf.value))
                kept = next(equal, leaf.value)
                if kept is leaf.value:
                    pool.append(kept)
                leaf = replace(leaf, value=kept)
            leaves.append(leaf)
        return Template(self.spec, tuple(leaves))

    @property
    def of_rows(self) -> list[int]:
        """`list[int]`: Numbers of the leaves that hold one entry per row."""
        return [i for i, leaf in enumerate(self.leaves) if leaf.of_rows]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return sum(leaf.row_bytes for leaf in self.leaves if leaf.of_rows)

    def fill(self, rows: Mapping[int, Tensor]) -> Any:
        """
        An output.

        Args:
            rows (`Mapping[int, torch.Tensor]`): By leaf, packed rows of shape `(rows, *row_shape)`.
        """
        values = [leaf.unpack(rows[i]) if leaf.of_rows else leaf.value for i, leaf in enumerate(self.leaves)]
        return pytree.tree_unflatten(values, self.spec)

    def dummy(self, size: int, device: torch.device, filling: str = "thin") -> Any:
        """
        An output of the right shapes whose values nobody is to read.

        Args:
            size (`int`): Number of rows.
            device (`torch.device`): Where to make it.
            filling (`str`, *optional*, defaults to `"thin"`):
                `"thin"` is one zero seen many times, which takes no memory and cannot be written to; `"zeros"` can;
                `"poison"` is NaN, or an absurd integer: whatever reads it shows it.
        """
        values = [_dummy(leaf, size, device, filling) if leaf.of_rows else leaf.value for leaf in self.leaves]
        return pytree.tree_unflatten(values, self.spec)


def compare(two: Any, three: Any) -> tuple[Dims, ...]:
    """
    The dimensions of an output, from two calls that differ in the number of rows only.

    Args:
        two: Output for 2 copies of a row.
        three: Output for 3 copies.

    Raises: [`PrefixCacheError`]: If its structure depends on the number of rows in another way.
    """
    left, right = pytree.tree_flatten(two)[0], pytree.tree_flatten(three)[0]
    if len(left) != len(right):
        raise PrefixCacheError(f"The output has {len(left)} values for 2 rows and {len(right)} for 3.")
    return tuple(_dims(a, b) for a, b in zip(left, right, strict=True))


def _dims(two: Any, three: Any) -> Dims:
    if not isinstance(two, Tensor) or not isinstance(three, Tensor):
        return Dims(None, ())
    strides = two.stride()
    order = tuple(sorted(range(two.ndim), key=lambda d: -strides[d]))  # ties stay as they stand
    grown = [d for d in range(min(two.ndim, three.ndim)) if two.shape[d] != three.shape[d]]
    if two.ndim != three.ndim or len(grown) > 1 or any(two.shape[d] * 3 != three.shape[d] * 2 for d in grown):
        raise PrefixCacheError(
            f"A value of shape {tuple(two.shape)} for 2 rows has shape {tuple(three.shape)} for 3: its rows cannot be "
            "told apart."
        )
    return Dims(grown[0] if grown else None, order)


def _leaf(value: Any, dims: Dims, rows: int) -> Leaf:
    if dims.batch is None:
        return Leaf(dims, value=value)
    if not isinstance(value, Tensor) or value.ndim != len(dims.order) or value.shape[dims.batch] % rows:
        raise PrefixCacheError("A block's output has another structure at another length.")
    shape = tuple(n // rows if d == dims.batch else n for d, n in enumerate(value.shape))
    return Leaf(dims, shape, value.dtype)


def _dummy(leaf: Leaf, size: int, device: torch.device, filling: str) -> Tensor:
    shape, dtype = leaf.full_shape(size), leaf.dtype
    assert dtype is not None
    if filling == "thin":
        return torch.zeros((), dtype=dtype, device=device).expand(shape)
    if filling == "zeros":
        return torch.zeros(shape, dtype=dtype, device=device)
    if dtype == torch.bool:
        return torch.ones(shape, dtype=dtype, device=device)
    real = dtype.is_floating_point or dtype.is_complex
    return torch.full(shape, float("nan") if real else torch.iinfo(dtype).max // 2, dtype=dtype, device=device)


def tensors_of(output: Any, path: str = "") -> dict[str, Tensor]:
    """The tensors of nested containers by path; what is in other objects, such as caches of keys, is left out."""
    if isinstance(output, Tensor):
        return {path or "output": output}
    if isinstance(output, Mapping):
        pairs = [(str(key), value) for key, value in output.items()]
    elif isinstance(output, (tuple, list)):
        pairs = [(str(key), value) for key, value in enumerate(output)]
    else:
        return {}
    return {name: leaf for key, value in pairs for name, leaf in tensors_of(value, f"{path}.{key}".lstrip(".")).items()}
