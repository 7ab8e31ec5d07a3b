"""
Differences between two methods, paired over seeds and test rows.

Two sources of chance: other seeds, and other test rows. The first is read from the differences of runs with equal
seeds, the second from the differences on each row, averaged over seeds. Their variances are added, which counts a part
of the first twice: intervals err on the wide side. Standard library only.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .method import unpack_hits

# Beyond so many standard errors a difference is called one.
STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class Difference:
    """
    One method's score less another's.

    Args:
        mean (`float`): Over seeds.
        error (`float`, *optional*): Its standard error; `None` for one seed without hits by row.
        over_seeds (`float`, *optional*), over_rows (`float`, *optional*): The two parts of it, where known.
    """

    mean: float
    error: float | None
    over_seeds: float | None
    over_rows: float | None

    @property
    def outcome(self) -> str:
        """`str`: `"wins"`, `"loses"` or `"ties"`: beyond two standard errors or not."""
        if self.error is None or abs(self.mean) <= STANDARD_ERRORS * self.error:
            return "ties"
        return "wins" if self.mean > 0 else "loses"


def difference(runs: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> Difference:
    """
    Compare final trainings of two methods.

    Args:
        runs (`Sequence[dict]`), others (`Sequence[dict]`): What [`repeat`] returned, with the same seeds in order.

    Returns: [`Difference`]
    Raises: `ValueError`: If there are not as many of both.
    """
    gaps = [one["score"] - other["score"] for one, other in zip(runs, others, strict=True)]
    over_seeds = statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else None
    over_rows = _over_rows(runs, others)
    parts = [part for part in (over_seeds, over_rows) if part is not None]
    error = math.sqrt(math.fsum(part**2 for part in parts)) if parts else None
    return Difference(statistics.fmean(gaps), error, over_seeds, over_rows)


def _over_rows(runs: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> float | None:
    if not all("hits" in run for run in (*runs, *others)):
        return None
    ours, theirs = ([unpack_hits(run["hits"]) for run in each] for each in (runs, others))
    rows = len(ours[0])
    if rows < 2:
        return None
    gaps = [
        statistics.fmean(a[row] - b[row] for a, b in zip(ours, theirs, strict=True)) for row in range(rows)
    ]
    return statistics.stdev(gaps) / math.sqrt(rows)
