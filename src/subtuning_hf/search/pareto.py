"""
What a study has to offer for its price: every complete candidate, and those that no other one beats in every respect.

A candidate costs in two ways: the parameters it tunes, which are stored for each task, and how early its first tuned
block is, since all before it is shared between tasks and needs no backward. Derived from records and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .profile import complete_repeats, fold_means
from .records import Candidate, Evaluation, StudySpec
from .scores import same_score, score_of, standard_error_of
from .space import UNTOUCHED
from .tables import count, decimal, text_table, to_frame

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class ParetoPoint:
    """
    What one candidate offers.

    Args:
        candidate ([`Candidate`]): What was trained.
        mean (`float`): Its score, maximised: the size-weighted mean over folds, of all repeats.
        standard_error (`float`, *optional*): Of `mean`, from the folds; None with a single fold.
        num_parameters (`int`): Parameters of its blocks, without the head.
        first_block (`int`): Index of its first tuned block; the number of all blocks for the head alone.
    """

    candidate: Candidate
    mean: float
    standard_error: float | None
    num_parameters: int
    first_block: int

    @property
    def label(self) -> str:
        """The candidate in words."""
        return self.candidate.label

    def dominates(self, other: ParetoPoint) -> bool:
        """Whether it is at least as good in score, parameters and first block, and better in one of them."""
        equal = same_score(self.mean, other.mean)
        if not equal and self.mean < other.mean:
            return False
        if self.num_parameters > other.num_parameters or self.first_block < other.first_block:
            return False
        return not equal or (self.num_parameters, self.first_block) != (other.num_parameters, other.first_block)


@dataclass(frozen=True)
class ParetoFront:
    """
    The complete candidates of a study.

    Args:
        metric (`str`): Name of the metric behind the score.
        greater_is_better (`bool`): Whether the metric itself is better when greater; if not, scores are its negative.
        num_blocks (`int`): Blocks of the study.
        points (`tuple[ParetoPoint, ...]`): All of them, from few parameters to many, then in forward order.
        has_head (`bool`, *optional*, defaults to `True`): Whether the model has a head, which is trained with no block.
    """

    metric: str
    greater_is_better: bool
    num_blocks: int
    points: tuple[ParetoPoint, ...]
    has_head: bool = True

    @property
    def front(self) -> tuple[ParetoPoint, ...]:
        """The points that no other one dominates; of two that are equal in everything, both."""
        return tuple(point for point in self.points if not any(other.dominates(point) for other in self.points))

    def best_under(self, parameters: int) -> ParetoPoint | None:
        """
        The best score at a price.

        Args:
            parameters (`int`): Most parameters the blocks may have, the head not counted.

        Returns: [`ParetoPoint`] or `None`: of equal scores the one with the fewest parameters, then with the latest
            first block; `None` if nothing that small was trained.
        """
        allowed = [point for point in self.points if point.num_parameters <= parameters]
        if not allowed:
            return None
        best = max(point.mean for point in allowed)
        equal = [point for point in allowed if same_score(point.mean, best)]
        return min(equal, key=lambda point: (point.num_parameters, -point.first_block))

    def label(self, point: ParetoPoint) -> str:
        """`str`: a point in words; no block is the untouched base where the model has no head."""
        return point.label if point.candidate.blocks or self.has_head else UNTOUCHED

    def to_rows(self) -> list[dict[str, Any]]:
        """`list[dict]`: all points, one flat row each, and whether they are on the front."""
        front = self.front
        return [
            {
                "blocks": self.label(point),
                "mean": point.mean,
                "standard_error": point.standard_error,
                "num_parameters": point.num_parameters,
                "first_block": point.first_block,
                "on_front": point in front,
            }
            for point in self.points
        ]

    def to_pandas(self) -> pandas.DataFrame:
        """
        All points as a data frame.

        Returns: `pandas.DataFrame`: one row a point.
        Raises: [`MissingDependencyError`]: If pandas is not installed.
        """
        return to_frame(self.to_rows())

    def table(self) -> str:
        """`str`: the front as text, from few parameters to many, the metric as it is."""
        sign = 1 if self.greater_is_better else -1
        return text_table(
            ("blocks", self.metric, "s.e.", "parameters", "first tuned block"),
            [
                (
                    self.label(point),
                    decimal(sign * point.mean),
                    decimal(point.standard_error),
                    count(point.num_parameters),
                    str(point.first_block) if point.candidate.blocks else "none",
                )
                for point in self.front
            ],
        )


def pareto_front(spec: StudySpec, evaluations: Iterable[Evaluation]) -> ParetoFront:
    """
    Set out what a study has to offer.

    Args:
        spec ([`StudySpec`]): The study.
        evaluations (`Iterable[Evaluation]`): Its evaluations, in any order, of any number of searches and profiles.

    Returns: [`ParetoFront`]: of the candidates that have all folds in full.
    """
    places = {block.name: place for place, block in enumerate(spec.blocks)}
    sizes = {block.name: block.num_parameters for block in spec.blocks}
    points = []
    for candidate, repeats in complete_repeats(spec, evaluations).items():
        if not places.keys() >= set(candidate.blocks):
            continue  # of other blocks
        folds = fold_means(repeats)
        points.append(
            ParetoPoint(
                candidate,
                score_of(folds),
                standard_error_of([fold.score for fold in folds], [fold.num_examples for fold in folds]),
                sum(sizes[name] for name in candidate.blocks),
                min((places[name] for name in candidate.blocks), default=len(spec.blocks)),
            )
        )
    points.sort(key=lambda point: (point.num_parameters, [places[name] for name in point.candidate.blocks]))
    return ParetoFront(spec.metric, spec.greater_is_better, len(spec.blocks), tuple(points), spec.has_head)
