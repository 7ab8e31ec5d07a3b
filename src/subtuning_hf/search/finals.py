"""
What final trainings came to: mean and spread over seeds.

They are made after all decisions and read by none. Knows records and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ArgumentsError
from .tables import decimal, text_table
from .units import FinalRun


@dataclass(frozen=True)
class FinalScore:
    """
    A metric over several final trainings.

    Args:
        metric (`str`): Its name.
        mean (`float`): Mean over the runs; NaN if one of them is.
        spread (`float`, *optional*): Standard deviation between the runs (with n - 1); None for a single one.
        num_runs (`int`): Number of runs.
    """

    metric: str
    mean: float
    spread: float | None
    num_runs: int


def summarise(runs: Sequence[FinalRun]) -> tuple[FinalScore, ...]:
    """
    Mean and spread of every metric that all runs have.

    Args:
        runs (`Sequence[FinalRun]`): Runs of one selection, scored on the same rows.

    Returns: `tuple[FinalScore, ...]`: in the order of the first run's metrics.
    Raises: [`ArgumentsError`]: Without a run, or for runs of several selections or rows.
    """
    if not runs:
        raise ArgumentsError("A summary needs at least one final training, found none: call `trainer.repeat()` first.")
    kinds = {(run.candidate.label, str(run.info.get("rows", ""))) for run in runs}
    if len(kinds) > 1:
        raise ArgumentsError(
            f"A summary is of one selection on the same rows, found {len(kinds)}: {sorted(kinds)}. "
            "Summarise each apart."
        )
    shared = [name for name in runs[0].metrics if all(name in run.metrics for run in runs)]
    return tuple(_score(name, [run.metrics[name] for run in runs]) for name in shared)


def _score(name: str, values: list[float]) -> FinalScore:
    mean = math.fsum(values) / len(values)
    spread = None
    if len(values) > 1:
        spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return FinalScore(name, mean, spread, len(values))


def finals_table(runs: Sequence[FinalRun]) -> str:
    """`str`: the summary as text, one metric a line."""
    rows = [(s.metric, decimal(s.mean), decimal(s.spread), str(s.num_runs)) for s in summarise(runs)]
    return text_table(("metric", "mean", "spread", "runs"), rows)
