"""A comparison as rows and text. Knows finished numbers only."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from .harness import Trials
from .method import format_settings
from .paired import difference


def method_rows(results: Sequence[tuple[Trials, list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """
    One row per method.

    Args:
        results (`Sequence`): For each method its [`Trials`] and the runs [`repeat`] returned.

    Returns: `list[dict]`: JSON: `method`, `blocks`, `mean`, `spread` (sample standard deviation over seeds, `None`
    for one), `scores`, `cv_mean`, `settings` and `learning_rate` (`None` where a method has none),
    `trainable_parameters` and `adapter_bytes` (means, should seeds differ), `peak_mb` and `seconds` (of one final
    training, medians), `tuning_seconds`.
    """
    rows = []
    for trials, runs in results:
        scores = [run["score"] for run in runs]
        sizes = [run["adapter_bytes"] for run in runs if run.get("adapter_bytes") is not None]
        peaks = [run["peak_mb"] for run in runs if run.get("peak_mb") is not None]
        rows.append(
            {
                "method": trials.method.name,
                "blocks": None if trials.method.blocks is None else list(trials.method.blocks),
                "mean": statistics.fmean(scores),
                "spread": statistics.stdev(scores) if len(scores) > 1 else None,
                "scores": scores,
                "num_examples": runs[0]["num_examples"],
                "cv_mean": trials.best_mean,
                "settings": trials.best,
                "learning_rate": trials.best.get("learning_rate"),
                "learning_rate_at_edge": trials.at_edge,
                "trainable_parameters": round(statistics.fmean(run["trainable_parameters"] for run in runs)),
                "adapter_bytes": round(statistics.fmean(sizes)) if sizes else None,
                "peak_mb": statistics.median(peaks) if peaks else None,
                "seconds": statistics.median(run["seconds"] for run in runs),
                "tuning_seconds": trials.seconds,
            }
        )
    return rows


def method_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows of [`method_rows`] as aligned text; scores in percent where all are shares."""
    most = max(row["trainable_parameters"] for row in rows)
    shares = all(0 <= score <= 1 for row in rows for score in row["scores"])
    cells = [["method", "test score", "CV score", "trains", "of FT", "lr", "s / run"]]
    if shares:
        cells[0][1:3] = ["test accuracy", "CV accuracy"]
    for row in rows:
        rate = row["learning_rate"]
        cells.append(
            [
                row["method"],
                _score(row["mean"], row["spread"], shares),
                _score(row["cv_mean"], None, shares),
                f"{row['trainable_parameters']:,}",
                f"{100 * row['trainable_parameters'] / most:.1f} %",
                "" if rate is None else f"{rate:g}" + ("*" if row["learning_rate_at_edge"] else ""),
                f"{row['seconds']:.1f}",
            ]
        )
    lines = aligned(cells)
    if any(row["learning_rate_at_edge"] for row in rows):
        lines.append("* the lowest or highest that was tried; a wider range might do better")
    return "\n".join(lines)


def comparison_table(rows: Sequence[dict[str, Any]], ours: str = "SubTuning") -> str:
    """
    All that a comparison found, as aligned text.

    Args:
        rows (`Sequence[dict]`): From [`method_rows`], with `choosing` (trainings and seconds) and `against` (the
            paired difference to `ours`) beside.
        ours (`str`, *optional*, defaults to `"SubTuning"`): The method that others are held against.
    """
    shares = all(0 <= score <= 1 for row in rows for score in row["scores"])
    points = 100 if shares else 1
    cells = [["method", "test", f"less {ours}", "trains", "adapter", "memory", "s / run", "tuning s", "choosing s"]]
    cells[0].append("hyperparameters")
    for row in sorted(rows, key=lambda row: -row["mean"]):
        against, choosing = row.get("against"), row.get("choosing")
        gap = ""
        if against is not None:
            error = "" if against["error"] is None else f" ± {points * against['error']:.1f}"
            gap = f"{points * against['mean']:+.1f}{error}"
        cells.append(
            [
                row["method"],
                _score(row["mean"], row["spread"], shares),
                gap,
                f"{row['trainable_parameters']:,}",
                _bytes(row["adapter_bytes"]),
                "" if row["peak_mb"] is None else f"{row['peak_mb']:.0f} MiB",
                f"{row['seconds']:.1f}",
                f"{row['tuning_seconds']:.0f}",
                "" if not choosing or not choosing["seconds"] else f"{choosing['seconds']:.0f}",
                format_settings(row["settings"]) + ("*" if row["learning_rate_at_edge"] else ""),
            ]
        )
    lines = aligned(cells, left=(0, len(cells[0]) - 1))
    if any(row["learning_rate_at_edge"] for row in rows):
        lines.append("* the lowest or highest learning rate that was tried; a wider range might do better")
    if any(row["against"]["over_rows"] is None for row in rows if row.get("against")):
        lines.append("differences count seeds alone, since the score is not the share of right rows")
    return "\n".join(lines)


def add_differences(rows: list[dict[str, Any]], runs: dict[str, list[dict[str, Any]]], ours: str = "SubTuning") -> None:
    """
    Hold every method against ours, in place.

    Args:
        rows (`list[dict]`): From [`method_rows`].
        runs (`dict[str, list[dict]]`): Final runs by method.
        ours (`str`, *optional*): Whom; nothing happens if it is not there.
    """
    for row in rows:
        if ours in runs and row["method"] != ours:
            found = difference(runs[row["method"]], runs[ours])
            row["against"] = {
                "method": ours,
                "mean": found.mean,
                "error": found.error,
                "over_seeds": found.over_seeds,
                "over_rows": found.over_rows,
                "margin": found.margin,
                "outcome": found.outcome,
            }


def _score(mean: float, spread: float | None, shares: bool) -> str:
    if shares:
        return f"{100 * mean:.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}") + " %"
    return f"{mean:.4f}" + ("" if spread is None else f" ± {spread:.4f}")


def _bytes(count: int | None) -> str:
    if count is None:
        return ""
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"


def aligned(cells: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    """Columns of text, with a rule below the first line; those of `left` begin at the same place, others end there."""
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = [
        "  ".join(
            c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    return lines


def verdict(rows: Sequence[dict[str, Any]], ours: str = "SubTuning") -> str:
    """
    One plain sentence: who is ahead on the test set, and whether the difference means anything.

    The yardstick is the interval of the paired difference, where rows have it ([`add_differences`]). Else it is two
    standard errors, of the sampling of the test set and the spread over seeds together, for scores that are shares of
    right rows; the same test rows are used by all methods, so this is on the careful side.

    Args:
        rows (`Sequence[dict]`): From [`method_rows`].
        ours (`str`, *optional*, defaults to `"SubTuning"`): The method the sentence is about.
    """
    own = next(row for row in rows if row["method"] == ours)
    rival = max((row for row in rows if row["method"] != ours), key=lambda row: row["mean"])
    gap = 100 * (own["mean"] - rival["mean"])
    margin, name = _margin(own, rival)
    noise = f"{name}: {100 * margin:.1f}"
    all_parameters = max(row["trainable_parameters"] for row in rows)
    share = f"with {100 * own['trainable_parameters'] / all_parameters:.0f} % of FT's parameters"
    if abs(gap) <= 100 * margin:
        return (
            f"No clear winner: {ours} ({share}) is {abs(gap):.1f} points {'above' if gap >= 0 else 'below'} "
            f"{rival['method']}, within the noise ({noise})."
        )
    if gap > 0:
        return f"{ours} wins: {gap:.1f} points above {rival['method']}, {share} ({noise})."
    return f"{rival['method']} wins: {-gap:.1f} points above {ours} ({share}; {noise})."


def _margin(own: dict[str, Any], rival: dict[str, Any]) -> tuple[float, str]:
    """How far apart two methods must be, and what that is."""
    against = rival.get("against")
    found = against.get("margin") if isinstance(against, dict) and against.get("method") == own["method"] else None
    if isinstance(found, float) and math.isfinite(found):
        return found, "half of the 95 % interval"
    return 2 * sum(_error(row) ** 2 for row in (own, rival)) ** 0.5, "2 standard errors"


def _error(row: dict[str, Any]) -> float:
    sampling = row["mean"] * (1 - row["mean"]) / row["num_examples"]
    seeds = (row["spread"] or 0.0) ** 2 / len(row["scores"])
    return (sampling + seeds) ** 0.5
