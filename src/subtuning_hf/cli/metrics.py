"""
Metrics that need no network, and those of `evaluate` by name.

`evaluate.load("accuracy")` downloads a script even for a mean; the common ones are therefore here, as metrics of the
same class. Knows predictions and labels; does not know models.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import datasets
import evaluate
import numpy as np

from ..errors import RecipeError

_MISSING = -100  # labels that losses ignore


class _LocalMetric(evaluate.Metric):
    """A metric over predictions and references, computed here: integers, one or several for each row."""

    def _info(self) -> evaluate.MetricInfo:
        one = datasets.Value("int64")
        many = datasets.Sequence(one)
        shapes = [datasets.Features({"predictions": each, "references": each}) for each in (many, one)]
        return evaluate.MetricInfo(description=self.__doc__ or "", citation="", features=shapes)


class Accuracy(_LocalMetric):
    """Share of predictions that are right, from 0 to 1; of rows with several labels, those with all of them right."""

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        right = np.asarray(predictions) == np.asarray(references)
        return {"accuracy": float(np.mean(right.reshape(len(right), -1).all(axis=1)))}


class BalancedAccuracy(_LocalMetric):
    """Recall of each class that occurs in the references, averaged with equal weights."""

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        hits, _, true = _counts(predictions, references)
        return {"balanced_accuracy": float(np.mean(hits[true > 0] / true[true > 0]))}


class MatthewsCorrelation(_LocalMetric):
    """Correlation of predictions with references over all classes, from -1 to 1; 0 where one of them is constant."""

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        if np.ndim(references) > 1:
            raise ValueError("'matthews_correlation' compares one class per row, found several labels. Use micro_f1.")
        hits, found, true = (each.astype(float) for each in _counts(predictions, references))
        rows = true.sum()
        spread = np.sqrt((rows**2 - found @ found) * (rows**2 - true @ true))
        together = hits.sum() * rows - found @ true
        return {"matthews_correlation": float(together / spread) if spread > 0 else 0.0}


class PerClass(_LocalMetric):
    """
    F1, precision or recall, averaged over classes.

    Args:
        name (`str`): The metric's name, under which the value is returned.
        part (`str`): `"f1"`, `"precision"` or `"recall"`.
        average (`str`):
            `"binary"` (of class 1 alone), `"macro"` (each class that occurs counts alike), `"weighted"` (by its rows)
            or `"micro"` (hits of all classes together).
    """

    def __init__(self, name: str, part: str, average: str) -> None:
        self.returned, self.part, self.average = name, part, average
        super().__init__()

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        hits, found, true = _counts(predictions, references, binary=self.returned if self.average == "binary" else "")
        if self.average == "binary":
            hits, found, true = hits[1:], found[1:], true[1:]
        if self.average == "micro":
            hits, found, true = (each.sum(keepdims=True) for each in (hits, found, true))
        above = 2 * hits if self.part == "f1" else hits
        below = {"f1": found + true, "precision": found, "recall": true}[self.part]
        values = np.divide(above, below, out=np.zeros(len(hits)), where=below > 0)
        weights = true if self.average == "weighted" else np.ones(len(hits))
        return {self.returned: float(values @ weights / max(weights.sum(), 1))}


class Numbers(evaluate.Metric):
    """
    A metric of predicted numbers.

    Args:
        name (`str`): Under which the value is returned.
        measure (`Callable`): Predictions and references, as arrays of shape `(rows,)`, to the value.
    """

    def __init__(self, name: str, measure: Callable[[np.ndarray, np.ndarray], float]) -> None:
        self.returned, self.measure = name, measure
        super().__init__()

    def _info(self) -> evaluate.MetricInfo:
        numbers = datasets.Features({"predictions": datasets.Value("float64"), "references": datasets.Value("float64")})
        return evaluate.MetricInfo(description=self.__doc__ or "", citation="", features=numbers)

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {self.returned: float(self.measure(np.asarray(predictions), np.asarray(references)))}


def _counts(predictions: Any, references: Any, binary: str = "") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each class that occurs: how often it was right, predicted, and true. With several labels per row, of each."""
    found, true = np.asarray(predictions), np.asarray(references)
    if true.ndim > 1:
        if binary:
            raise ValueError(f"'{binary}' is of one class, found several labels per row. Use macro_{binary}.")
        found, true = found.astype(bool), true.astype(bool)
        return (found & true).sum(axis=0), found.sum(axis=0), true.sum(axis=0)
    classes = np.union1d(found, true)
    if binary:
        if not set(classes.tolist()) <= {0, 1}:
            raise ValueError(f"'{binary}' is of class 1 against 0, found {len(classes)} classes. Use macro_{binary}.")
        classes = np.array([0, 1])
    hits, predicted, actual = (
        np.array([np.sum(which == label) for label in classes]) for which in (found[found == true], found, true)
    )
    return hits, predicted, actual


def _correlation(found: np.ndarray, true: np.ndarray) -> float:
    """Pearson's; 0 where one of them is constant."""
    found, true = found - found.mean(), true - true.mean()
    spread = np.sqrt((found @ found) * (true @ true))
    return float(found @ true / spread) if spread > 0 else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks, the mean of their places for equal values."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


_NUMBERS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "mse": lambda found, true: float(np.mean((found - true) ** 2)),
    "rmse": lambda found, true: float(np.sqrt(np.mean((found - true) ** 2))),
    "mae": lambda found, true: float(np.mean(np.abs(found - true))),
    "r_squared": lambda found, true: float(1 - np.mean((found - true) ** 2) / np.var(true)),
    "pearsonr": _correlation,
    "spearmanr": lambda found, true: _correlation(_ranks(found), _ranks(true)),
}
_AVERAGED = {
    name if average == "binary" else f"{average}_{name}": (name, average)
    for name in ("f1", "precision", "recall")
    for average in ("binary", "macro", "micro", "weighted")
}
LOCAL: dict[str, Callable[[], Any]] = {
    "accuracy": Accuracy,
    "balanced_accuracy": BalancedAccuracy,
    "matthews_correlation": MatthewsCorrelation,
    **{name: functools.partial(PerClass, name, *how) for name, how in _AVERAGED.items()},
    **{name: functools.partial(Numbers, name, measure) for name, measure in _NUMBERS.items()},
}


def load_metric(name: str) -> Any:
    """
    A metric by name: a local one, else what `evaluate` finds.

    Args:
        name (`str`): One of `LOCAL`, or a name or path that `evaluate.load` knows.

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


def predictions_of(logits: Any, labels: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """
    What a metric compares.

    Args:
        logits (`np.ndarray`): Of a model, of shape `(rows, ...)`.
        labels (`np.ndarray`): Of the same rows. Where they are -100, as for padded tokens, nothing is compared.
        name (`str`): The metric's name.

    Returns: `tuple[np.ndarray, np.ndarray]`: predictions and references: the numbers themselves for labels that are
        numbers, every label whose logit is above 0 where rows have several, else the likeliest class.
    Raises: [`ValueError`]: If the metric is of another kind.
    """
    if isinstance(logits, tuple):  # models that return more than logits
        logits = logits[0]
    if isinstance(labels, tuple):
        raise ValueError(
            f"'{name}' compares one array of labels, found {len(labels)}. Write a compute_metrics of your own."
        )
    logits, labels = np.asarray(logits), np.asarray(labels)
    several = labels.ndim == 2 and labels.shape == logits.shape and labels.shape[1] > 1
    numbers = labels.dtype.kind == "f" and not several
    if name in LOCAL and numbers != (name in _NUMBERS):
        kind = "numbers" if numbers else "classes"
        raise ValueError(
            f"'{name}' compares {'numbers' if name in _NUMBERS else 'classes'}, but the labels are {kind}. Of {kind} "
            f"there are {', '.join(one for one in sorted(LOCAL) if (one in _NUMBERS) == numbers)}."
        )
    if several:
        return (logits > 0).astype(np.int64), (labels > 0.5).astype(np.int64)
    if numbers:
        if logits.size != labels.size:
            raise ValueError(f"'{name}' needs one number per label, found outputs of shape {logits.shape}.")
        return logits.reshape(-1).astype(float), labels.reshape(-1).astype(float)
    found = np.argmax(logits, axis=-1)
    known = labels != _MISSING
    return found[known], labels[known]


@dataclass(frozen=True)
class ComputeMetrics:
    """
    A `compute_metrics` for `Trainer`, for classes, several labels per row, labels of tokens and numbers.

    A language model that predicts the next token needs one of its own, since its labels are shifted by one. Holds a
    name and no metric, so that it is the same in every process: metrics of `evaluate` carry names of temporary files,
    and a study recognises its functions by what they hold.

    Args:
        name (`str`): As in [`load_metric`].
    """

    name: str

    def __call__(self, prediction: Any) -> dict[str, float]:
        logits, labels = prediction
        found, true = predictions_of(logits, labels, self.name)
        return _loaded(self.name).compute(predictions=found, references=true)


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
