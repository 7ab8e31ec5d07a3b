"""Cheap scores of selections of blocks: what to train, guessed for a fraction of the price of a fine-tune."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import ArgumentsError
from .base import Estimate, Meter, Prediction, Problem, Proposal
from .kernels import KernelProposal
from .oneshot import OneShotProposal
from .short_profile import ShortProfileProposal
from .statistics import StatisticsProposal
from .swap import SwapProposal

__all__ = ["PROPOSALS", "Estimate", "Meter", "Prediction", "Problem", "Proposal", "make_proposal"]

PROPOSALS: dict[str, Callable[[], Proposal]] = {
    kind.name: kind
    for kind in (ShortProfileProposal, OneShotProposal, SwapProposal, KernelProposal, StatisticsProposal)
}


def make_proposal(name: str) -> Proposal:
    """
    A proposal by its name.

    Raises: [`ArgumentsError`]: If there is none of that name.
    """
    if name not in PROPOSALS:
        raise ArgumentsError(f"A proposal must be one of {', '.join(PROPOSALS)}, found {name!r}.")
    return PROPOSALS[name]()
