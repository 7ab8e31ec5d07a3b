"""
What was predicted for a search, and what is trained because of it, as records of the journal.

Knows neither models nor how predictions are made, nor what is decided from them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ArgumentsError, NonFiniteScoreError
from . import checks
from .records import Candidate, SearchSpec, Unit

# Two selections are tied where their difference is no more than so many of its standard errors.
TIE = 2.0
_ERROR = "The error in Predicted.behind"


@dataclass(frozen=True)
class Predicted:
    """
    The predicted score of a selection.

    Args:
        candidate ([`Candidate`]): The selection.
        scores (`tuple[float, ...]`): For each fold that was looked at, maximised; not on the scale of true scores.
        standard_error (`float`, *optional*, defaults to 0.0): Of their mean, as far as it is known.
        behind (`tuple[float, float]`, *optional*):
            How far it is behind what is predicted best, on the same rows, and the standard error of that; `None` where
            the two were not compared row by row.

    Raises:
        [`NonFiniteScoreError`]: If a score is NaN or infinite.
        [`ArgumentsError`]: If a value is of another type or out of range, or there is no score.
    """

    candidate: Candidate
    scores: tuple[float, ...]
    standard_error: float = 0.0
    behind: tuple[float, float] | None = checks.later(None)

    def __post_init__(self) -> None:
        checks.instance(Candidate, self.candidate, "Predicted.candidate")
        scores = tuple(checks.number(score, "a score in Predicted.scores") for score in self.scores)
        if not scores:
            raise ArgumentsError(f"Predicted.scores must hold a score for one fold at least, found {scores}.")
        if not all(map(math.isfinite, scores)):
            raise NonFiniteScoreError(
                f"The predicted scores of a selection must be finite numbers, found {scores} for "
                f"{self.candidate.label}. Lower the learning rate, look for rows the metric cannot handle, or use "
                "strategy='exact'."
            )
        checks.put(self, "scores", scores)
        checks.put(self, "standard_error", checks.finite(self.standard_error, "Predicted.standard_error", least=0))
        if self.behind is not None:
            gap, error = self._pair(self.behind)
            checks.put(self, "behind", (checks.finite(gap, "Predicted.behind"), checks.finite(error, _ERROR, least=0)))

    @staticmethod
    def _pair(value: Any) -> Sequence[Any]:
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            raise ArgumentsError(f"Predicted.behind must be a difference and its error, found {checks.short(value)}.")
        return value

    @property
    def is_tied(self) -> bool:
        """`bool`: whether it is no more than two standard errors behind what is predicted best."""
        return self.behind is not None and self.behind[0] <= TIE * self.behind[1]

    @property
    def leads(self) -> bool:
        """`bool`: whether it is what others are behind."""
        return self.behind == (0.0, 0.0)

    @property
    def score(self) -> float:
        """`float`: the mean over folds."""
        return math.fsum(self.scores) / len(self.scores)

    def to_json(self) -> dict[str, Any]:
        lists = {"scores": list(self.scores)} | ({} if self.behind is None else {"behind": list(self.behind)})
        return checks.written(self) | {"candidate": self.candidate.to_json()} | lists

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Predicted:
        values = checks.exactly(cls, data)
        return cls(
            Candidate.from_json(values["candidate"]),
            tuple(checks.instance(list, values["scores"], "Predicted.scores")),
            values["standard_error"],
            values.get("behind"),
        )


@dataclass(frozen=True)
class ProposalRun:
    """
    What a proposal predicted for a search, and what is to be trained because of it.

    Args:
        search ([`SearchSpec`]): The search that it was made for.
        predictions (`tuple[Predicted, ...]`): Every selection that the search looked at, best first.
        shortlist (`tuple[Candidate, ...]`): The selections among which trainings decide, best predicted first; one
            at least.
        folds (`tuple[int, ...]`): The folds on which each of them is trained; none for a shortlist of one.
        share (`float`): Share of the full training that they get.
        fine_tunes (`float`): What the predictions cost, in full fine-tunes, as counted in arithmetic.
        planned (`float`): What all of the search will have cost, counted alike.
        seconds (`float`): Wall-clock time of the predictions.
        info (`dict`, *optional*): Anything else that is plain JSON.

    Raises: [`ArgumentsError`]: If a value is of another type or out of range.
    """

    search: SearchSpec
    predictions: tuple[Predicted, ...]
    shortlist: tuple[Candidate, ...]
    folds: tuple[int, ...]
    share: float
    fine_tunes: float
    planned: float
    seconds: float
    info: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if checks.instance(SearchSpec, self.search, "ProposalRun.search").budget is None:
            found = self.search.strategy
            raise ArgumentsError(f"ProposalRun.search must be of a strategy that predicts, found strategy {found!r}.")
        for name, kind in (("predictions", Predicted), ("shortlist", Candidate)):
            listed = tuple(checks.instance(kind, one, f"an item of ProposalRun.{name}") for one in getattr(self, name))
            checks.put(self, name, listed)
        checks.put(self, "folds", tuple(checks.whole(fold, "a fold in ProposalRun.folds", 0) for fold in self.folds))
        self._check_shortlist()
        checks.put(self, "share", checks.share(self.share, "ProposalRun.share"))
        for name in ("fine_tunes", "planned", "seconds"):
            checks.put(self, name, checks.finite(getattr(self, name), f"ProposalRun.{name}", least=0))
        checks.put(self, "info", checks.plain_dict(self.info, "ProposalRun.info"))

    def _check_shortlist(self) -> None:
        names = [candidate.label for candidate in self.shortlist]
        if not names or len(set(names)) < len(names):
            raise ArgumentsError(f"ProposalRun.shortlist must hold different selections, one at least, found {names}.")
        if len(set(self.folds)) < len(self.folds) or (len(names) > 1) != bool(self.folds):
            raise ArgumentsError(
                "ProposalRun.folds must name the folds that compare the shortlist, each once, and none for a single "
                f"selection; found {list(self.folds)} for {len(names)} selections."
            )

    @property
    def units(self) -> tuple[Unit, ...]:
        """`tuple[Unit, ...]`: the trainings that decide."""
        return tuple(Unit(candidate, fold, 0, self.share) for fold in self.folds for candidate in self.shortlist)

    def predicted(self, candidate: Candidate) -> Predicted | None:
        """What was predicted for a selection."""
        return next((each for each in self.predictions if each.candidate == candidate), None)

    def to_json(self) -> dict[str, Any]:
        return checks.written(self) | {
            "search": self.search.to_json(),
            "predictions": [each.to_json() for each in self.predictions],
            "shortlist": [candidate.to_json() for candidate in self.shortlist],
            "folds": list(self.folds),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ProposalRun:
        values = checks.exactly(cls, data)
        lists = {
            name: checks.instance(list, values[name], f"ProposalRun.{name}")
            for name in ("predictions", "shortlist", "folds")
        }
        return cls(
            **values
            | {
                "search": SearchSpec.from_json(values["search"]),
                "predictions": tuple(map(Predicted.from_json, lists["predictions"])),
                "shortlist": tuple(map(Candidate.from_json, lists["shortlist"])),
                "folds": tuple(lists["folds"]),
            }
        )
