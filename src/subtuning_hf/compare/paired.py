"""
Differences between two methods, paired over seeds and test rows.

Two sources of chance: other seeds, and other test rows. The first is read from the differences of runs with equal
seeds, the second from the differences on each row, averaged over seeds. Their variances are added, which counts a part
of the first twice, and intervals are those of Student's t with Welch and Satterthwaite's degrees of freedom. What they
do not count: another draw of training rows, and that hyperparameters were chosen on a few rows.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..search.pruners import student_t_quantile
from .method import unpack_hits

CONFIDENCE = 0.95  # of an interval; a difference is called one when its interval is on one side of 0
_MOST_FREEDOM = 1000  # from there on the quantile is that of the normal distribution


@dataclass(frozen=True)
class Difference:
    """
    One method's score less another's.

    Args:
        mean (`float`): Over seeds.
        error (`float`, *optional*): Its standard error; `None` for one seed without hits by row.
        over_seeds (`float`, *optional*), over_rows (`float`, *optional*): The two parts of it, where known; rows only
            where the score is the share of right ones.
        freedom (`int`, *optional*): Degrees of freedom of the error; `None` without one.
    """

    mean: float
    error: float | None
    over_seeds: float | None
    over_rows: float | None
    freedom: int | None = None

    @property
    def margin(self) -> float | None:
        """`float` or `None`: half the width of the interval."""
        if self.error is None or self.freedom is None:
            return None
        return self.error * student_t_quantile((1 + CONFIDENCE) / 2, self.freedom)

    @property
    def outcome(self) -> str:
        """`str`: `"wins"`, `"loses"`, or `"ties"` where the interval holds 0."""
        if self.margin is None or abs(self.mean) <= self.margin:
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
    rows = 0 if over_rows is None else len(unpack_hits(runs[0]["hits"]))
    parts = [(part, count - 1) for part, count in ((over_seeds, len(gaps)), (over_rows, rows)) if part is not None]
    error = math.sqrt(math.fsum(part**2 for part, _ in parts)) if parts else None
    return Difference(statistics.fmean(gaps), error, over_seeds, over_rows, _freedom(error, parts))


def _freedom(error: float | None, parts: Sequence[tuple[float, int]]) -> int | None:
    """Welch and Satterthwaite's degrees of freedom of a sum of variances, rounded down."""
    if error is None:
        return None
    if error == 0:
        return min(freedom for _, freedom in parts)
    found = error**4 / math.fsum(part**4 / freedom for part, freedom in parts)
    return max(min(int(found), _MOST_FREEDOM), 1)


def _over_rows(runs: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> float | None:
    if not all("hits" in run for run in (*runs, *others)):
        return None
    ours, theirs = ([unpack_hits(run["hits"]) for run in each] for each in (runs, others))
    rows = len(ours[0])
    if rows < 2 or not all(_is_share(run, hits) for run, hits in zip((*runs, *others), (*ours, *theirs), strict=True)):
        return None
    gaps = [statistics.fmean(a[row] - b[row] for a, b in zip(ours, theirs, strict=True)) for row in range(rows)]
    return statistics.stdev(gaps) / math.sqrt(rows)


def _is_share(run: dict[str, Any], hits: Sequence[bool]) -> bool:
    """Whether a score is the share of right rows: errors of other metrics, such as F1, are not those of hits."""
    return abs(run["score"] - sum(hits) / len(hits)) < 1e-6
