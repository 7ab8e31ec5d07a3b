"""
Metrics that need no network, and those of `evaluate` by name.

`evaluate.load("accuracy")` downloads a script even for a mean; the common ones are therefore here, as metrics of the
same class. Knows predictions and labels; does not know models.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import datasets
import evaluate
import numpy as np

from ..errors import RecipeError


class _LocalMetric(evaluate.Metric):
    """A metric over integer predictions and references, computed here."""

    def _info(self) -> evaluate.MetricInfo:
        integers = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(description=self.__doc__ or "", citation="", features=integers)


class Accuracy(_LocalMetric):
    """Share of predictions that are right, from 0 to 1."""

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"accuracy": float(np.mean(np.asarray(predictions) == np.asarray(references)))}


class MacroF1(_LocalMetric):
    """F1 of each class that occurs in the predictions or the references, averaged with equal weights."""

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        found, true = np.asarray(predictions), np.asarray(references)
        scores = []
        for label in np.union1d(found, true):
            hits = np.sum((found == label) & (true == label))
            scores.append(2 * hits / (np.sum(found == label) + np.sum(true == label)))
        return {"macro_f1": float(np.mean(scores))}


LOCAL = {"accuracy": Accuracy, "macro_f1": MacroF1}


def load_metric(name: str) -> Any:
    """
    A metric by name: a local one, else what `evaluate` finds.

    Args:
        name (`str`): `"accuracy"`, `"macro_f1"`, or a name or path that `evaluate.load` knows.

    Returns: [`evaluate.EvaluationModule`]
    Raises: [`RecipeError`]: If there is no such metric, or it cannot be fetched.
    """
    if name in LOCAL:
        return LOCAL[name]()
    try:
        return evaluate.load(name)
    except (OSError, ImportError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RecipeError(
            f"metric: '{name}' is neither one of {', '.join(sorted(LOCAL))}, which work without a network, nor can "
            f"`evaluate.load` get it: {reason}"
        ) from error


@dataclass(frozen=True)
class ComputeMetrics:
    """
    A `compute_metrics` for `Trainer`: takes the likeliest class as the prediction.

    Holds a name and no metric, so that it is the same in every process: metrics of `evaluate` carry names of temporary
    files, and a study recognises its functions by what they hold.

    Args:
        name (`str`): As in [`load_metric`].
    """

    name: str

    def __call__(self, prediction: Any) -> dict[str, float]:
        logits, labels = prediction
        if isinstance(logits, tuple):  # models that return more than logits
            logits = logits[0]
        return _loaded(self.name).compute(predictions=np.argmax(logits, axis=-1), references=labels)


@functools.cache
def _loaded(name: str) -> Any:
    return load_metric(name)


def compute_metrics_with(name: str) -> ComputeMetrics:
    """
    `compute_metrics` of a name.

    Raises: [`RecipeError`]: At once, if there is no such metric.
    """
    _loaded(name)
    return ComputeMetrics(name)
