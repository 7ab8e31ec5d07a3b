"""
Puts the stored rows of a batch together, as the block would have returned them.

Each row is stored at its own length and set where it stands in the padded batch; around it are zeros, which no row
looks at (the check at the start sees to that).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .inputs import Lengths, within
from .store import PrefixStore, Slot
from .structure import Leaf, Template


def assemble(
    store: PrefixStore,
    block: int,
    rows: Tensor,
    template: Template,
    lengths: Lengths,
    side: str | None,
    device: torch.device,
) -> Any:
    """
    The output of a block for a batch.

    Args:
        store ([`PrefixStore`]): Where it is kept.
        block (`int`): Number of the block.
        rows (`torch.Tensor` of shape `(batch,)`): Numbers of the rows, on the CPU; anywhere if `lengths.plain`.
        template ([`Template`]): Of the output at the length of the batch.
        lengths ([`Lengths`]): Where each row is kept.
        side (`str` or `None`): Where shorter rows are padded.
        device (`torch.device`): Where it is wanted.
    """
    if lengths.plain and all(_as_kept(store, (block, n, 0), template.leaves[n]) for n in template.of_rows):
        return template.fill({n: store.take((block, n, 0), rows, device) for n in template.of_rows})
    buckets, places = lengths.bucket_of[rows], lengths.place_of[rows]
    values = {
        number: _leaf(store, block, number, buckets, places, template.leaves[number], side, device)
        for number in template.of_rows
    }
    return template.fill(values)


def _as_kept(store: PrefixStore, slot: Slot, leaf: Leaf) -> bool:
    return store.arrays[slot].shape[1:] == leaf.row_shape


def fits(store: PrefixStore, block: int, rows: Tensor, template: Template, lengths: Lengths, side: str | None) -> bool:
    """Whether every row of a batch can be set into it: none is longer, and where it stands is known."""
    for bucket in {0} if lengths.plain else set(lengths.bucket_of[rows].tolist()):
        for number in template.of_rows:
            array = store.arrays.get((block, number, bucket))
            if array is None:
                return False
            small, large = array.shape[1:], template.leaves[number].row_shape
            if small != large and (side is None or len(small) != len(large)):
                return False
            if any(a > b for a, b in zip(small, large, strict=True)):
                return False
    return True


def _leaf(
    store: PrefixStore,
    block: int,
    number: int,
    buckets: Tensor,
    places: Tensor,
    leaf: Leaf,
    side: str | None,
    device: torch.device,
) -> Tensor:
    """Packed rows of one leaf, of shape `(batch, *row_shape)`."""
    present = torch.unique(buckets).tolist()
    if len(present) == 1 and _as_kept(store, (block, number, present[0]), leaf):
        return store.take((block, number, present[0]), places, device)
    whole = torch.zeros((len(buckets), *leaf.row_shape), dtype=leaf.dtype, device=device)
    for bucket in present:
        here = torch.nonzero(buckets == bucket).flatten()
        part = store.take((block, number, bucket), places[here], device)
        where = within(part.shape[1:], leaf.row_shape, side or "right")
        if all(piece == slice(None) for piece in where):
            whole.index_copy_(0, here.to(device), part)
        else:
            index: Any = (here.to(device), *where)
            whole[index] = part
    return whole
