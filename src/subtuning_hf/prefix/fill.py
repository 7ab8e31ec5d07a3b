"""
One pass over all rows that stores what some blocks return.

Rows of equal length run together, in batches and an order that depend on nothing but the rows, so that the stored bits
are the same whoever computes them.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch.utils import _pytree as pytree

from ..errors import PrefixCacheError
from .capture import capture, undisturbed
from .inputs import Key, Lengths
from .learn import Learned
from .store import Array, PrefixStore, Slot
from .structure import Template


def layout(learned: Learned, blocks: Sequence[int], lengths: Lengths) -> dict[Slot, Array]:
    """
    The arrays that the outputs of some blocks need.

    Args:
        learned ([`Learned`]): The model.
        blocks (`Sequence[int]`): Numbers of the blocks.
        lengths ([`Lengths`]): The rows that are kept.
    """
    arrays, depth = {}, max(blocks, default=-1) + 1
    for bucket, key in enumerate(lengths.keys):
        known = learned.templates_of_row(key, lengths.rows_of(bucket)[0], depth)
        for block in blocks:
            template = known[learned.blocks[block]]
            for number in template.of_rows:
                leaf = template.leaves[number]
                assert leaf.dtype is not None
                arrays[block, number, bucket] = Array((lengths.count(bucket), *leaf.row_shape), leaf.dtype)
    return arrays


def fill(store: PrefixStore, learned: Learned, lengths: Lengths, batch_size: int) -> None:
    """
    Fill a store, unless another process has.

    Args:
        store ([`PrefixStore`]): For the arrays of [`layout`].
        learned ([`Learned`]): The model.
        lengths ([`Lengths`]): The rows that are kept.
        batch_size (`int`): Most rows that run together.

    Raises: [`PrefixCacheError`]: If a row has another length than before, or the store has no room.
    """
    with store.filling() as missing:
        if not missing:
            return
        wanted = {learned.blocks[block]: learned.modules[learned.blocks[block]] for block in missing}
        with undisturbed(learned.model, learned.autocast):
            for bucket, key in enumerate(lengths.keys):
                rows = lengths.rows_of(bucket)
                known = learned.templates_of_row(key, rows[0], max(missing) + 1)
                for start in range(0, len(rows), batch_size):
                    batch = learned.batch(rows[start : start + batch_size])
                    _check_key(learned.inputs.key(batch), key, rows[start])
                    outputs = capture(learned.model, wanted, batch)
                    for block, name in zip(missing, wanted, strict=True):
                        _put(store, block, bucket, start, outputs[name], known[name])


def _check_key(found: Key | None, expected: Key, row: int) -> None:
    if found != expected:
        raise PrefixCacheError(
            f"The batch that begins with row {row} gave inputs of shapes {found}, expected {expected}: `batch_of` must "
            "return the same for a row every time, and images of one size."
        )


def _put(store: PrefixStore, block: int, bucket: int, start: int, output: object, template: Template) -> None:
    values = pytree.tree_flatten(output)[0]
    for number in template.of_rows:
        store.put((block, number, bucket), start, template.leaves[number].pack(values[number]))
