"""A comparison as a text table. Knows finished numbers only."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from .harness import Trials


def method_rows(results: Sequence[tuple[Trials, list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """
    One row per method.

    Args:
        results (`Sequence`): For each method its [`Trials`] and the runs [`repeat`] returned.

    Returns: `list[dict]`: JSON: `method`, `blocks`, `mean`, `spread` (sample standard deviation over seeds, `None`
    for one), `scores`, `cv_mean`, `learning_rate`, `trainable_parameters`, `seconds` (of one final training, mean).
    """
    rows = []
    for trials, runs in results:
        scores = [run["score"] for run in runs]
        rows.append(
            {
                "method": trials.method.name,
                "blocks": None if trials.method.blocks is None else list(trials.method.blocks),
                "mean": statistics.fmean(scores),
                "spread": statistics.stdev(scores) if len(scores) > 1 else None,
                "scores": scores,
                "num_examples": runs[0]["num_examples"],
                "cv_mean": trials.mean(trials.best),
                "learning_rate": trials.best,
                "learning_rate_at_edge": trials.at_edge,
                "trainable_parameters": runs[0]["trainable_parameters"],
                "seconds": statistics.fmean(run["seconds"] for run in runs),
            }
        )
    return rows


def method_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows of [`method_rows`] as aligned text; accuracies in percent."""
    most = max(row["trainable_parameters"] for row in rows)
    cells = [["method", "test accuracy", "CV accuracy", "trains", "of FT", "lr", "s / run"]]
    for row in rows:
        spread = "" if row["spread"] is None else f" ± {100 * row['spread']:.1f}"
        share = f"{100 * row['trainable_parameters'] / most:.1f} %"
        cells.append(
            [
                row["method"],
                f"{100 * row['mean']:.1f}{spread} %",
                f"{100 * row['cv_mean']:.1f} %",
                f"{row['trainable_parameters']:,}",
                share,
                f"{row['learning_rate']:g}" + ("*" if row["learning_rate_at_edge"] else ""),
                f"{row['seconds']:.1f}",
            ]
        )
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in cells
    ]
    lines.insert(1, "-" * len(lines[0]))
    if any(row["learning_rate_at_edge"] for row in rows):
        lines.append("* the lowest or highest that was tried; a wider range might do better")
    return "\n".join(lines)


def verdict(rows: Sequence[dict[str, Any]], ours: str = "SubTuning") -> str:
    """
    One plain sentence: who is ahead on the test set, and whether the difference means anything.

    The yardstick is the sampling error of the test set and the spread over seeds together; the same test rows are
    used by all methods, so this is on the careful side.

    Args:
        rows (`Sequence[dict]`): From [`method_rows`].
        ours (`str`, *optional*, defaults to `"SubTuning"`): The method the sentence is about.
    """
    own = next(row for row in rows if row["method"] == ours)
    rival = max((row for row in rows if row["method"] != ours), key=lambda row: row["mean"])
    gap = 100 * (own["mean"] - rival["mean"])
    noise = 100 * sum(_error(row) ** 2 for row in (own, rival)) ** 0.5
    all_parameters = max(row["trainable_parameters"] for row in rows)
    share = f"with {100 * own['trainable_parameters'] / all_parameters:.0f} % of FT's parameters"
    if abs(gap) <= 2 * noise:
        return (
            f"No clear winner: {ours} ({share}) is {abs(gap):.1f} points {'above' if gap >= 0 else 'below'} "
            f"{rival['method']}, within the noise (2 standard errors: {2 * noise:.1f})."
        )
    if gap > 0:
        return f"{ours} wins: {gap:.1f} points above {rival['method']}, {share} (2 standard errors: {2 * noise:.1f})."
    return f"{rival['method']} wins: {-gap:.1f} points above {ours} ({share}; 2 standard errors: {2 * noise:.1f})."


def _error(row: dict[str, Any]) -> float:
    sampling = row["mean"] * (1 - row["mean"]) / row["num_examples"]
    seeds = (row["spread"] or 0.0) ** 2 / len(row["scores"])
    return (sampling + seeds) ** 0.5
