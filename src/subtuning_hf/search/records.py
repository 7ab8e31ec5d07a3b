"""
The records a study is made of: frozen, plain JSON in and out, refused when they mean nothing.

Here are the rounds of a search and the decisions that end them; trainings are in `units`, what is searched and how in
`specs`, and all of them can be imported from here. Knows no rule of deciding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ArgumentsError
from . import checks
from .specs import DIRECTIONS, PRUNERS, STRATEGIES, SearchSpec, StudySpec
from .units import BlockInfo, Candidate, Evaluation, FinalRun, Unit

__all__ = [
    "BlockInfo",
    "Candidate",
    "Unit",
    "Evaluation",
    "FinalRun",
    "StudySpec",
    "SearchSpec",
    "Decision",
    "Round",
    "STRATEGIES",
    "DIRECTIONS",
    "PRUNERS",
]


@dataclass(frozen=True)
class Decision:
    """
    What ended a round.

    Args:
        round (`int`): Number of the round; round 0 is the start, forward the head alone and backward all blocks.
        winner ([`Candidate`], *optional*): The new selection; `None` means that the search stops with the old one.
        gain (`float`, *optional*):
            Gain in score of the winner, or of the best candidate where there is none, over the selection before, and
            backward over the best selection so far, where a loss is negative; none in round 0.
        standard_error (`float`, *optional*): Of that gain; none with a single fold.
        threshold (`float`, *optional*): What the gain, or backward the loss, was compared with; none in round 0.
        reason (`str`): The decision in words.
        direction (`str`, *optional*, defaults to `"forward"`): `"forward"`, `"backward"` or `"list"`.
    """

    round: int
    winner: Candidate | None
    gain: float | None
    standard_error: float | None
    threshold: float | None
    reason: str
    direction: str = checks.later("forward")

    def __post_init__(self) -> None:
        checks.put(self, "round", checks.whole(self.round, "Decision.round", least=0))
        if self.winner is not None:
            checks.instance(Candidate, self.winner, "Decision.winner")
        for name in ("gain", "standard_error", "threshold"):
            if getattr(self, name) is not None:
                checks.put(self, name, checks.finite(getattr(self, name), f"Decision.{name}"))
        checks.text(self.reason, "Decision.reason")
        _check_direction(self.direction, "Decision.direction")

    def to_json(self) -> dict[str, Any]:
        """`dict`: what a journal says of it, in types of JSON alone."""
        return checks.written(self) | {"winner": None if self.winner is None else self.winner.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Decision:
        """[`Decision`]: from what [`Decision.to_json`] gave; `data` with other fields or types is refused."""
        values = checks.exactly(cls, data)
        winner = values["winner"]
        return cls(**values | {"winner": None if winner is None else Candidate.from_json(winner)})


@dataclass(frozen=True)
class Round:
    """
    The candidates among which one decision chooses with what is known of them, and the decision.

    Args:
        index (`int`): Number of the round; round 0 is the start, forward the head alone and backward all blocks.
        selection ([`Candidate`]): The selection before the round.
        candidates (`tuple[Candidate, ...]`):
            In the order in which ties are decided, for the last: by the block that is added, nearest the head last; by
            the block that is removed, nearest the input last; of a list, the one with the fewest parameters last.
        evaluations (`tuple[Evaluation, ...]`):
            What the round asked for, in the order of the candidates, then from small budgets to the full one, then of
            the folds.
        decision ([`Decision`], *optional*): None while evaluations are missing.
        pruned (`tuple[Candidate, ...]`, *optional*): Candidates that were given up, in the order in which they were.
        direction (`str`, *optional*, defaults to `"forward"`): `"forward"`, `"backward"` or `"list"`.
    """

    index: int
    selection: Candidate
    candidates: tuple[Candidate, ...]
    evaluations: tuple[Evaluation, ...] = ()
    decision: Decision | None = None
    pruned: tuple[Candidate, ...] = checks.later(())
    direction: str = checks.later("forward")

    def of(self, candidate: Candidate, budget: float = 1.0) -> tuple[Evaluation, ...]:
        """The evaluations of one candidate at one budget, by default the full one: the only one that decides."""
        return tuple(
            evaluation
            for evaluation in self.evaluations
            if evaluation.candidate == candidate and evaluation.budget == budget
        )

    @property
    def survivors(self) -> tuple[Candidate, ...]:
        """The candidates that were not given up."""
        return tuple(candidate for candidate in self.candidates if candidate not in self.pruned)

    def to_json(self) -> dict[str, Any]:
        """`dict`: what a journal says of it, in types of JSON alone."""
        values = checks.written(self) | {
            "selection": self.selection.to_json(),
            "candidates": [candidate.to_json() for candidate in self.candidates],
            "evaluations": [evaluation.to_json() for evaluation in self.evaluations],
            "decision": None if self.decision is None else self.decision.to_json(),
        }
        if self.pruned:
            values["pruned"] = [candidate.to_json() for candidate in self.pruned]
        return values

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Round:
        """[`Round`]: from what [`Round.to_json`] gave; `data` with other fields or types is refused."""
        values = checks.exactly(cls, data)
        return cls(
            index=checks.whole(values["index"], "Round.index", least=0),
            selection=Candidate.from_json(values["selection"]),
            candidates=_list(Candidate, values["candidates"], "Round.candidates"),
            evaluations=_list(Evaluation, values["evaluations"], "Round.evaluations"),
            decision=None if values["decision"] is None else Decision.from_json(values["decision"]),
            pruned=_list(Candidate, values.get("pruned", []), "Round.pruned"),
            direction=_check_direction(values.get("direction", "forward"), "Round.direction"),
        )


def _check_direction(value: Any, where: str) -> str:
    known = tuple(name for name in DIRECTIONS if name != "best")  # which is two searches, each with rounds of its own
    if value not in known:
        raise ArgumentsError(f"{where} must be one of {', '.join(map(repr, known))}, found {value!r}.")
    return str(value)


def _list(kind: Any, values: Any, where: str) -> tuple[Any, ...]:
    return tuple(kind.from_json(value) for value in checks.instance(list, values, where))
