"""
What a method of fine-tuning is to a comparison: a name, hyperparameters to try, and one way to train and score.

Does not know folds, logs or other methods.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

    from .task import Task

Settings = dict[str, Any]
Point = Sequence[float]

# A trial differs from its neighbours by a factor of 4 when there are four: from an eighth of the given rate to eight
# times it.
RATE_RANGE = (1 / 16, 16.0)
# A new head wants larger steps than pretrained blocks, by how much differs.
HEAD_RANGE = (1.0, 32.0)
_SHUFFLED = 2
# A step beyond the edge, as a share of the range: a factor of 4 in learning rates.
REFINING_STEP = 0.25


def design(trials: int) -> list[tuple[float, ...]]:
    """
    The trials of a comparison as points of the unit cube, the same for every method: a Latin hypercube.

    Each coordinate takes the middle of each of `trials` equal parts once, so each hyperparameter is tried at as many
    values as there are trials. The first one rises; the last one falls, for what makes high rates unbearable.

    Args:
        trials (`int`): How many.

    Returns: `list[tuple[float, ...]]`: points of four coordinates.
    """
    middles = [(place + 0.5) / trials for place in range(trials)]
    columns = [middles]
    for column in range(1, _SHUFFLED + 1):
        columns.append(random.Random(column).sample(middles, trials))
    return list(zip(*columns, reversed(middles), strict=True))


def refine(points: Sequence[Point], scores: Sequence[float]) -> tuple[float, ...]:
    """
    Where a method's next trial lies, by those it had: beyond the edge if the best one is at the edge, else half way
    to the better of its two neighbours. Only the first coordinate is moved, which is the learning rate of methods that
    have one; the others are those of the best trial.

    Args:
        points (`Sequence[Sequence[float]]`): Tried, of [`design`] or of this function.
        scores (`Sequence[float]`): Of each, more is better.

    Returns: `tuple[float, ...]`: a point, whose first coordinate may lie outside the unit cube.
    """
    order = sorted(range(len(points)), key=lambda at: (points[at][0], at))
    best = order[middle_of_best([scores[at] for at in order])]
    first, *others = points[best]
    below = [at for at in order if points[at][0] < first]
    above = [at for at in order if points[at][0] > first]
    if not below:
        return (first - REFINING_STEP, *others)
    if not above:
        return (first + REFINING_STEP, *others)
    better = max(below[-1], above[0], key=lambda at: scores[at])  # of equal ones the lower
    return ((first + points[better][0]) / 2, *others)


def middle_of_best(scores: Sequence[float]) -> int:
    """The place of the highest score; of equal ones the middle one, of two middle ones the first."""
    tied = [place for place, score in enumerate(scores) if score == max(scores)]
    return tied[(len(tied) - 1) // 2]


def between(place: float, low: float, high: float) -> float:
    """The value at a place from 0 to 1 between two on a logarithmic scale, to three digits."""
    return float(f"{low * (high / low) ** place:.3g}")


class Method(ABC):
    """
    One way to fine-tune.

    Attributes:
        name (`str`): For tables.
        blocks (`tuple[str, ...]`, *optional*): The blocks that train, where it is some of them; `None` for all others.
        rate_scale (`float`): Its learning rates are tried around so many times the comparison's; the head's are not.
    """

    name: str
    blocks: tuple[str, ...] | None = None
    rate_scale: float = 1.0

    @abstractmethod
    def key(self) -> dict[str, Any]:
        """JSON that tells this method from all others, for the log of runs."""

    def settings(self, point: Point, learning_rate: float) -> Settings:
        """
        The hyperparameters of a trial.

        Args:
            point (`Sequence[float]`): Of [`design`].
            learning_rate (`float`): The comparison's.

        Returns: `dict`: JSON.
        """
        low, high = RATE_RANGE
        rate = self.rate_scale * learning_rate
        return {
            "learning_rate": between(point[0], low * rate, high * rate),
            # The head is the same for every method, however high the rates of the rest are.
            "head_factor": between(point[1], *(one / self.rate_scale for one in HEAD_RANGE)),
        }

    @abstractmethod
    def run(self, task: Task, settings: Settings, seed: int, rows: Dataset, scored: Dataset) -> dict[str, Any]:
        """
        Train on some rows and score others.

        Args:
            task ([`Task`]): Model and arguments; left as they were.
            settings (`dict`): The hyperparameters.
            seed (`int`): Of all randomness.
            rows (`datasets.Dataset`): Learnt from.
            scored (`datasets.Dataset`): Scored, once, after the last step.

        Returns: `dict`: JSON: `score`, `num_examples`, `trainable_parameters`, `adapter_bytes` (what a task adds to the
            base on disk), `seconds`, `peak_mb` where it can be read, `hits` (which rows were right, as a hexadecimal
            number with one bit per row) where rows have classes.
        Raises: [`NonFiniteScoreError`], [`MetricNotFoundError`]
        """


def pack_hits(hits: Sequence[bool]) -> str:
    """Right and wrong rows as a hexadecimal number, the first row its highest bit."""
    return f"{int('1' + ''.join('1' if hit else '0' for hit in hits), 2):x}"


def unpack_hits(text: str) -> list[bool]:
    """What [`pack_hits`] was given."""
    return [bit == "1" for bit in f"{int(text, 16):b}"[1:]]


def format_settings(settings: Settings) -> str:
    """Hyperparameters in one line."""
    words = {"learning_rate": "lr", "head_factor": "head x"}
    return ", ".join(
        f"{words.get(name, name)} {value:g}" if isinstance(value, int | float) else f"{name} {value}"
        for name, value in settings.items()
        if not (isinstance(value, float) and math.isnan(value))
    )
