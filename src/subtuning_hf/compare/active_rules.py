"""
Which rows to label next, from what a trained model makes of them.

Every rule is a function of numbers about unlabelled rows: it is given no row and no label. Knows no model.

Source: margin and entropy, Settles, Active Learning Literature Survey (2009); k-center greedy arXiv 1708.00489; BADGE
arXiv 1906.03671.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Seen:
    """
    What a trained model makes of rows.

    Args:
        probabilities (`numpy.ndarray` of shape `(pool, classes)`): Of the unlabelled rows.
        features (`numpy.ndarray` of shape `(pool, dim)`): What goes into the output layer for them.
        labelled_features (`numpy.ndarray` of shape `(labelled, dim)`): The same for the rows that are labelled.
    """

    probabilities: Array
    features: Array
    labelled_features: Array


def margin(seen: Seen, count: int, rng: np.random.Generator) -> list[int]:
    """Rows whose two likeliest classes lie closest together, the closest first."""
    two = np.sort(seen.probabilities, axis=1)[:, -2:]  # (pool, 2)
    return _first(two[:, 1] - two[:, 0], count)


def entropy(seen: Seen, count: int, rng: np.random.Generator) -> list[int]:
    """Rows whose classes are least certain as a whole, the least certain first."""
    p = seen.probabilities
    return _first((p * np.log(np.maximum(p, np.finfo(float).tiny))).sum(1), count)


def coreset(seen: Seen, count: int, rng: np.random.Generator) -> list[int]:
    """Rows that cover the features: each is the one farthest from all that are labelled or picked before it."""
    x, centres = seen.features, seen.labelled_features
    nearest = np.full(len(x), np.inf)
    for centre in centres:
        nearest = np.minimum(nearest, ((x - centre) ** 2).sum(1))
    picked: list[int] = []
    for _ in range(count):
        nearest[picked] = -1.0  # copies of a picked row lie at 0 and may still be needed
        picked.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, ((x - x[picked[-1]]) ** 2).sum(1))
    return picked


def badge(seen: Seen, count: int, rng: np.random.Generator) -> list[int]:
    """
    Rows whose gradients at the output layer are large and differ: k-means++ on gradients for the likeliest class.

    As in the authors' code the first row is the one with the largest gradient, and each further one is drawn with a
    probability in proportion to its squared distance from the nearest before it. A gradient is the outer product of
    `probabilities - one-hot` and the features, so distances need no gradient written out.
    """
    errors = seen.probabilities.copy()  # (pool, classes)
    errors[np.arange(len(errors)), errors.argmax(1)] -= 1.0
    x = seen.features
    norms = (errors**2).sum(1) * (x**2).sum(1)
    picked = [int(norms.argmax())]
    nearest = np.full(len(x), np.inf)
    for _ in range(count - 1):
        last = picked[-1]
        distances = norms + norms[last] - 2 * (errors @ errors[last]) * (x @ x[last])
        nearest = np.minimum(nearest, np.maximum(distances, 0.0))
        nearest[picked] = 0.0
        picked.append(_drawn(nearest, picked, rng))
    return picked[:count]


def chance(pool: int, count: int, rng: np.random.Generator) -> list[int]:
    """Rows by chance; depends on the number of rows in the pool alone."""
    return [int(row) for row in rng.permutation(pool)[:count]]


# What needs a model's outputs; "random" is `chance`.
RULES: dict[str, Callable[[Seen, int, np.random.Generator], list[int]]] = {
    "margin": margin,
    "entropy": entropy,
    "coreset": coreset,
    "badge": badge,
}
ACQUISITIONS = ("margin", "entropy", "random", "coreset", "badge")


def _first(values: Array, count: int) -> list[int]:
    """The smallest; of equal ones the first in the pool."""
    return [int(row) for row in np.argsort(values, kind="stable")[:count]]


def _drawn(weights: Array, picked: list[int], rng: np.random.Generator) -> int:
    total = weights.sum()
    if total > 0:
        return int(rng.choice(len(weights), p=weights / total))
    rest = np.setdiff1d(np.arange(len(weights)), picked)  # only copies of picked rows are left
    return int(rng.choice(rest))
