"""
Which cuts are worth their memory.

A cut k is where a model may be started: block k is the first that runs, and its input is stored. A row that trains from
block k on may start at the greatest stored cut that is not above k. Standard library only; knows numbers, no models.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from ..errors import ArgumentsError

_Plan = tuple[float, float, tuple[int, ...]]  # bytes, saving, cuts


def plan_cuts(
    shares: Sequence[float],
    bytes_per_row: Sequence[float],
    uses: Sequence[float],
    rows: int,
    budget_bytes: float,
) -> tuple[int, ...]:
    """
    Choose the cuts to store: those that save the most computing within a budget of bytes.

    Exact: after each cut only the pairs of bytes and saving are kept that no other pair beats in both. Of two plans
    that save the same, the one of fewer bytes wins, then the one with the earlier cuts; a cut that saves nothing is
    never stored.

    Args:
        shares (`Sequence[float]`): Cost of each of the L blocks' forward pass, in any unit.
        bytes_per_row (`Sequence[float]`): L + 1 numbers: bytes to store for cut k, per row. That of cut 0 is not read.
        uses (`Sequence[float]`): L + 1 numbers: how many rows will pass with block k as the first to be tuned (at
            place L: with the head alone).
        rows (`int`): Number of rows to store.
        budget_bytes (`float`): Bytes there are.

    Returns: `tuple[int, ...]`: Cuts in ascending order, never 0.
    Raises: [`ArgumentsError`]: If the lengths do not agree or a number is negative.
    """
    blocks = len(shares)
    if len(bytes_per_row) != blocks + 1 or len(uses) != blocks + 1:
        raise ArgumentsError(
            f"Expected {blocks + 1} entries in `bytes_per_row` and `uses`, one per cut of {blocks} blocks, found "
            f"{len(bytes_per_row)} and {len(uses)}."
        )
    if rows < 0 or any(value < 0 for value in (*shares, *bytes_per_row, *uses)):
        raise ArgumentsError("Expected no negative number among shares, bytes, uses and rows.")
    saved = list(accumulate(shares, initial=0.0))  # by starting at cut k
    later = list(accumulate(reversed(uses), initial=0.0))[::-1]  # passes that may start at cut k
    frontiers: list[list[_Plan]] = [[(0.0, 0.0, ())]]  # by the last cut of a plan
    for cut in range(1, blocks + 1):
        size, plans = bytes_per_row[cut] * rows, []
        for last, frontier in enumerate(frontiers):
            more = (saved[cut] - saved[last]) * later[cut]
            if more > 0:
                plans += [(b + size, g + more, (*cuts, cut)) for b, g, cuts in frontier if b + size <= budget_bytes]
        frontiers.append(_unbeaten(plans))
    return min((plan for frontier in frontiers for plan in frontier), key=_worth)[2]


def _worth(plan: _Plan) -> tuple[float, float, tuple[int, ...]]:
    taken, gain, cuts = plan
    return -gain, taken, cuts


def _unbeaten(plans: list[_Plan]) -> list[_Plan]:
    """Plans with the same last cut that no other of them beats in bytes and in saving."""
    kept: list[_Plan] = []
    for plan in sorted(plans, key=lambda plan: (plan[0], -plan[1], plan[2])):
        if not kept or plan[1] > kept[-1][1]:
            kept.append(plan)
    return kept
