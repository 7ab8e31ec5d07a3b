"""
The candidates of a round.

Each function names blocks in forward order, whatever order it is given a selection in, and returns its candidates in a
fixed order. Knows no score.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import get_close_matches
from itertools import combinations

from ..errors import ArgumentsError, UnknownBlockError
from .records import Candidate, Unit

HEAD_ONLY = Candidate(())
# What no block is in words where the model has no head: nothing is trained then.
UNTOUCHED = "untouched base"


def in_forward_order(blocks: Sequence[str], chosen: Collection[str]) -> Candidate:
    """
    Make a candidate of some of the blocks.

    Args:
        blocks (`Sequence[str]`): All blocks in forward order.
        chosen (`Collection[str]`): Some of them in any order, each once.

    Returns: [`Candidate`]: of the chosen blocks in forward order.
    Raises:
        [`UnknownBlockError`]: If a chosen name is none of the blocks.
        [`DuplicateBlockError`]: If one is named twice.
    """
    for name in chosen:
        if name not in blocks:
            near = get_close_matches(name, blocks, n=1)
            words = f" Did you mean {near[0]!r}?" if near else ""
            raise UnknownBlockError(
                f"A selection must name blocks of the study, found {name!r}. Its {len(blocks)} blocks are "
                f"{', '.join(map(repr, blocks[:3]))}{' ...' if len(blocks) > 3 else ''}.{words}"
            )
    place = {name: index for index, name in enumerate(blocks)}
    return Candidate(tuple(sorted(chosen, key=place.__getitem__)))


def add_one(blocks: Sequence[str], selection: Candidate = HEAD_ONLY) -> tuple[Candidate, ...]:
    """
    Every selection with one block more.

    Args:
        blocks (`Sequence[str]`): All blocks in forward order.
        selection ([`Candidate`], *optional*): What is chosen already; by default nothing.

    Returns: `tuple[Candidate, ...]`: in forward order of the added block; empty if all blocks are chosen.
    Raises: [`UnknownBlockError`]: If the selection names another block.
    """
    chosen = in_forward_order(blocks, selection.blocks).blocks
    return tuple(in_forward_order(blocks, (*chosen, name)) for name in blocks if name not in chosen)


def remove_one(blocks: Sequence[str], selection: Candidate) -> tuple[Candidate, ...]:
    """
    Every selection with one block less.

    Args:
        blocks (`Sequence[str]`): All blocks in forward order.
        selection ([`Candidate`]): What is chosen.

    Returns: `tuple[Candidate, ...]`: in forward order of the removed block; empty if none is chosen.
    Raises: [`UnknownBlockError`]: If the selection names another block.
    """
    chosen = in_forward_order(blocks, selection.blocks).blocks
    return tuple(Candidate(tuple(kept for kept in chosen if kept != name)) for name in chosen)


def windows(blocks: Sequence[str], size: int = 1) -> tuple[Candidate, ...]:
    """
    All runs of consecutive blocks.

    Args:
        blocks (`Sequence[str]`): All blocks in forward order.
        size (`int`, *optional*, defaults to 1): Blocks in a run.

    Returns: `tuple[Candidate, ...]`: in forward order of their first block.
    Raises: [`ArgumentsError`]: If there is no run of that size.
    """
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= len(blocks):
        raise ArgumentsError(f"A window must hold 1 to {len(blocks)} blocks, found {size!r}.")
    return tuple(Candidate(tuple(blocks[start : start + size])) for start in range(len(blocks) - size + 1))


def pairs(blocks: Sequence[str]) -> tuple[Candidate, ...]:
    """
    All pairs of blocks, neighbours or not.

    Args:
        blocks (`Sequence[str]`): All blocks in forward order.

    Returns: `tuple[Candidate, ...]`: in forward order of their first block, then of their second.
    """
    return tuple(Candidate(pair) for pair in combinations(blocks, 2))


def units_of(candidates: Sequence[Candidate], num_folds: int, repeats: int = 1) -> tuple[Unit, ...]:
    """
    All trainings in full of some candidates, as a profile needs them.

    Args:
        candidates (`Sequence[Candidate]`): What to train.
        num_folds (`int`): Folds of the study.
        repeats (`int`, *optional*, defaults to 1): Trainings of each candidate on each fold, with a seed each.

    Returns: `tuple[Unit, ...]`: repeat by repeat, then by candidate and fold.
    """
    return tuple(
        Unit(candidate, fold, repeat)
        for repeat in range(repeats)
        for candidate in candidates
        for fold in range(num_folds)
    )
