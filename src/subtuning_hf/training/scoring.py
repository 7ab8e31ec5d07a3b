"""
From what an evaluation returned to the score of a search, and to the numbers that the journal keeps.

Knows metrics and arguments; trains nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..errors import MetricNotFoundError, NonFiniteScoreError
from ..search.records import Candidate
from .arguments import GreedySubTuningArguments

# Times, not scores.
_NOT_METRICS = ("_runtime", "_per_second", "_preparation_time")


def find_metric(metrics: Mapping[str, Any], args: GreedySubTuningArguments) -> float:
    """
    The metric that is the score, as it was returned.

    Raises: [`MetricNotFoundError`]: If it is not there, or is no number.
    """
    name = args.score_name
    if name not in metrics:
        names = sorted(key for key in metrics if not key.endswith(_NOT_METRICS) and key != "epoch")
        way_out = (
            "Without a loss the rows have no labels that the model knows: check the label column and `label_names`."
            if name == "eval_loss"
            else "Set `metric_for_best_model` to one of them, or return it from `compute_metrics`."
        )
        raise MetricNotFoundError(
            f"The score is '{name}' (`metric_for_best_model={args.metric_for_best_model!r}`), but an evaluation "
            f"returned only {', '.join(names) or 'nothing'}. {way_out}"
        )
    value = metrics[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MetricNotFoundError(
            f"The score '{name}' must be a number, but `compute_metrics` returned {value!r} ({type(value).__name__})."
        )
    return float(value)


def score_of_metrics(
    metrics: Mapping[str, Any],
    args: GreedySubTuningArguments,
    candidate: Candidate,
    on: str,
    num_rows: int,
    train_loss: float,
) -> float:
    """
    The score of an evaluation, to be maximised.

    Raises: [`NonFiniteScoreError`], [`MetricNotFoundError`]
    """
    where = f"candidate {candidate.label} on {on}"
    if not math.isfinite(train_loss):
        raise NonFiniteScoreError(
            f"The training loss of {where} is {train_loss}. Lower `learning_rate` (now {args.learning_rate}) or "
            "`head_learning_rate`, set `max_grad_norm`, or look for NaN in the data. Nothing was recorded for it."
        )
    value = find_metric(metrics, args)
    for name in dict.fromkeys((args.score_name, "eval_loss")):
        found = metrics.get(name, 0.0)
        if isinstance(found, int | float) and not math.isfinite(found):
            raise NonFiniteScoreError(
                f"'{name}' of {where} is {found} on {num_rows} validation rows. Check `compute_metrics` "
                f"and the data, or lower `learning_rate` (now {args.learning_rate}). Nothing was recorded for it."
            )
    return value if args.score_greater_is_better else -value


def plain_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of an evaluation without its timings."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and not name.endswith(_NOT_METRICS) and name != "epoch"
    }
