"""
Where the outputs of blocks are kept, row by row: in memory, or in files that several processes share.

One array per block, leaf of its output and length of rows. Knows arrays; does not know models or what the numbers mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import PrefixCacheError

# Block, leaf of its output, number of the rows' key.
Slot = tuple[int, int, int]


@dataclass(frozen=True)
class Array:
    """
    Shape and type of what is kept for one block, leaf and length.

    Args:
        shape (`tuple[int, ...]`): Rows first.
        dtype (`torch.dtype`): Of its elements.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes it takes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class PrefixStore:
    """
    Outputs of blocks by row, in memory.

    Args:
        arrays (`Mapping[Slot, Array]`): All there is to keep.
        device (`str` or `torch.device`, *optional*, defaults to `"cpu"`): Where.
    """

    def __init__(self, arrays: Mapping[Slot, Array], device: str | torch.device = "cpu") -> None:
        self.arrays = dict(arrays)
        self.device = torch.device(device)
        self._kept: dict[Slot, Tensor] = {}

    @property
    def blocks(self) -> list[int]:
        """`list[int]`: Blocks whose outputs it is for."""
        return sorted({block for block, _, _ in self.arrays})

    @property
    def nbytes(self) -> int:
        """`int`: Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays.values())

    @contextmanager
    def filling(self) -> Iterator[list[int]]:
        """
        While the block runs, rows may be `put`; when it ends without an error, they are there to be taken.

        Returns: `list[int]`: Blocks that are still to be filled.
        """
        missing = [block for block in self.blocks if any(s[0] == block and s not in self._kept for s in self.arrays)]
        try:
            for slot, array in self.arrays.items():
                if slot[0] in missing:
                    self._kept[slot] = self._room(array)
            yield missing
        except BaseException:
            self._forget(missing)
            raise

    def put(self, slot: Slot, start: int, rows: Tensor) -> None:
        """Keep rows of one array, `torch.Tensor` of shape `(rows, ...)`, from place `start` on."""
        self._kept[slot][start : start + len(rows)].copy_(rows)

    def take(self, slot: Slot, places: Tensor, device: torch.device) -> Tensor:
        """
        Rows of one array, as a copy.

        Args:
            slot (`Slot`): Which array.
            places (`torch.Tensor` of shape `(rows,)`): Their places.
            device (`torch.device`): Where they are wanted.
        """
        kept = self._kept[slot]
        if kept.device.type == "cpu" and device.type == "cuda":
            # Through pinned memory the copy to the accelerator need not wait.
            staged = torch.empty((len(places), *kept.shape[1:]), dtype=kept.dtype, pin_memory=True)
            return torch.index_select(kept, 0, places, out=staged).to(device, non_blocking=True)
        return kept.index_select(0, places.to(kept.device)).to(device)

    def close(self) -> None:
        """Let go of everything."""
        self._kept.clear()

    def _room(self, array: Array) -> Tensor:
        try:
            return torch.empty(array.shape, dtype=array.dtype, device=self.device)
        except (RuntimeError, MemoryError) as error:
            raise PrefixCacheError(
                f"No memory for {self.nbytes / 2**20:.0f} MiB of stored block inputs on {self.device}. Lower the "
                "budget, or keep them in files."
            ) from error

    def _forget(self, blocks: list[int]) -> None:
        self._kept = {slot: kept for slot, kept in self._kept.items() if slot[0] not in blocks}
