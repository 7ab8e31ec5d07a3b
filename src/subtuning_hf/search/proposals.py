"""
A search that predicts first and trains little: what was predicted, which few selections are trained, and which wins.

The predictions themselves are made elsewhere and kept as one record; from it and the trainings of the few, [`confirm`]
derives where the search stands, as `greedy.replay` does for an exact one. Knows neither models nor how predictions are
made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from . import checks
from .greedy import SearchState, replay
from .records import Candidate, Decision, Evaluation, Round, SearchSpec, StudySpec, Unit
from .scores import paired_gain, score_of, table_of
from .space import in_forward_order

# Most selections that are trained, and the least share of a full training that tells them apart.
MOST_CONFIRMED = 3
LEAST_SHARE = 0.3


@dataclass(frozen=True)
class Predicted:
    """
    The predicted score of a selection.

    Args:
        candidate ([`Candidate`]): The selection.
        scores (`tuple[float, ...]`): For each fold that was looked at, maximised; not on the scale of true scores.
        standard_error (`float`, *optional*, defaults to 0.0): Of their mean, as far as it is known.
    """

    candidate: Candidate
    scores: tuple[float, ...]
    standard_error: float = 0.0

    def __post_init__(self) -> None:
        checks.instance(Candidate, self.candidate, "Predicted.candidate")
        scores = tuple(checks.finite(score, "a score in Predicted.scores") for score in self.scores)
        checks.put(self, "scores", scores)
        checks.put(self, "standard_error", checks.finite(self.standard_error, "Predicted.standard_error", least=0))

    @property
    def score(self) -> float:
        """`float`: the mean over folds."""
        return math.fsum(self.scores) / len(self.scores)

    def to_json(self) -> dict[str, Any]:
        return checks.written(self) | {"candidate": self.candidate.to_json(), "scores": list(self.scores)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Predicted:
        values = checks.exactly(cls, data)
        return cls(
            Candidate.from_json(values["candidate"]),
            tuple(checks.instance(list, values["scores"], "Predicted.scores")),
            values["standard_error"],
        )


@dataclass(frozen=True)
class ProposalRun:
    """
    What a proposal predicted for a search, and what is to be trained because of it.

    Args:
        search ([`SearchSpec`]): The search that it was made for.
        predictions (`tuple[Predicted, ...]`): Every selection that the search looked at, best first.
        shortlist (`tuple[Candidate, ...]`): The selections among which trainings decide, best predicted first.
        folds (`tuple[int, ...]`): The folds on which each of them is trained; none for a shortlist of one.
        share (`float`): Share of the full training that they get.
        fine_tunes (`float`): What the predictions cost, in full fine-tunes, as counted in arithmetic.
        planned (`float`): What all of the search will have cost, counted alike.
        seconds (`float`): Wall-clock time of the predictions.
        info (`dict`, *optional*): Anything else that is plain JSON.
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
        checks.instance(SearchSpec, self.search, "ProposalRun.search")
        for name in ("predictions", "shortlist", "folds"):
            checks.put(self, name, tuple(getattr(self, name)))
        checks.put(self, "share", checks.share(self.share, "ProposalRun.share"))
        for name in ("fine_tunes", "planned", "seconds"):
            checks.put(self, name, checks.finite(getattr(self, name), f"ProposalRun.{name}", least=0))
        checks.put(self, "info", checks.plain_dict(self.info, "ProposalRun.info"))

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
                "folds": tuple(checks.whole(fold, "ProposalRun.folds", least=0) for fold in lists["folds"]),
            }
        )


# --- predicting ------------------------------------------------------------------------------
def predict_ladder(
    spec: StudySpec, search: SearchSpec, predict: Callable[[Candidate], Predicted]
) -> tuple[SearchState, tuple[Predicted, ...]]:
    """
    Run the greedy search on predictions.

    Args:
        spec ([`StudySpec`]): Blocks.
        search ([`SearchSpec`]): Direction and bounds. The stop rule is that of predictions: any gain counts.
        predict (`Callable[[Candidate], Predicted]`): Predicts a selection.

    Returns: `tuple[SearchState, tuple[Predicted, ...]]`: the finished search, and all that was predicted, best first;
    of equals those that were asked for first.
    """
    known: dict[Candidate, Predicted] = {}
    # Predictions have a scale of their own, on which the user's least gain means nothing. With one fold, any gain counts.
    rules = replace(search, strategy="exact", budget=None, min_gain=None)
    evaluations: list[Evaluation] = []
    spec = replace(spec, num_folds=1)
    while not (state := replay(spec, rules, evaluations)).finished:
        for unit in state.pending:
            if unit.candidate not in known:
                known[unit.candidate] = predict(unit.candidate)
            evaluations.append(Evaluation(unit.candidate, 0, known[unit.candidate].score, 1))
    return state, tuple(sorted(known.values(), key=lambda each: -each.score))


def shortlist_of(
    spec: StudySpec,
    search: SearchSpec,
    state: SearchState,
    predictions: Sequence[Predicted],
    predicts_subsets: bool,
    most: int = MOST_CONFIRMED,
) -> list[Candidate]:
    """
    The selections that are worth a training.

    Args:
        spec ([`StudySpec`]), search ([`SearchSpec`]): Blocks and bounds.
        state ([`SearchState`]): The search on predictions.
        predictions (`Sequence[Predicted]`): Best first.
        predicts_subsets (`bool`): Whether selections of several blocks are predicted for themselves.
        most (`int`, *optional*): How many.

    Returns: `list[Candidate]`: what that search chose, then the best predicted others. Where blocks are judged one by
    one, the two best together come second: only a training can tell what they are worth.
    """
    found = [state.selection]
    if not predicts_subsets and search.direction == "forward" and len(state.selection.blocks) == 1:
        found += _together(spec, search, predictions)
    found += [each.candidate for each in predictions]
    return list(dict.fromkeys(found))[:most]


def _together(spec: StudySpec, search: SearchSpec, predictions: Sequence[Predicted]) -> list[Candidate]:
    """The two best single blocks as one selection, if it keeps the bounds."""
    best = [each.candidate.blocks[0] for each in predictions if len(each.candidate.blocks) == 1][:2]
    sizes = {block.name: block.num_parameters for block in spec.blocks}
    if len(best) < 2 or (search.max_blocks is not None and search.max_blocks < 2):
        return []
    if search.max_block_parameters is not None and sum(sizes[name] for name in best) > search.max_block_parameters:
        return []
    return [in_forward_order([block.name for block in spec.blocks], best)]


def plan_confirmation(prices: Sequence[float], left: float, num_folds: int) -> tuple[int, float, int]:
    """
    How many selections are trained, how long, and on how many folds.

    Args:
        prices (`Sequence[float]`): Of a full training on one fold of each selection, best predicted first.
        left (`float`): What may be spent, in the same unit.
        num_folds (`int`): Folds of the study.

    Returns: `tuple[int, float, int]`: number of selections, share of the full training, number of folds; 1, 1.0 and 0
    if no comparison can be paid.
    """
    for count in range(len(prices), 1, -1):
        paid = left / math.fsum(prices[:count])
        if paid >= 1:
            return count, 1.0, min(int(paid), num_folds)
        if paid >= LEAST_SHARE:
            return count, paid, 1
    return 1, 1.0, 0


# --- deciding --------------------------------------------------------------------------------
def confirm(run: ProposalRun, evaluations: Iterable[Evaluation]) -> SearchState:
    """
    Derive where a search with predictions stands.

    The selection with the best mean over the trained folds wins; of equal ones the one predicted best.

    Args:
        run ([`ProposalRun`]): What was predicted.
        evaluations (`Iterable[Evaluation]`): What is known so far.

    Returns: [`SearchState`]: with one round, which is decided when all of the trainings are there.
    """
    table = table_of(evaluations)
    used = tuple(table[unit] for unit in run.units if unit in table)
    # Ties go to the last of a round.
    round_ = Round(0, Candidate(), tuple(reversed(run.shortlist)), used, None, (), "list")
    pending = tuple(unit for unit in run.units if unit not in table)
    if pending:
        return SearchState((round_,), run.shortlist[0], pending, False)
    decision = _decide(run, used)
    assert decision.winner is not None
    return SearchState((replace(round_, decision=decision),), decision.winner, (), True, decision.reason)


def _decide(run: ProposalRun, used: Sequence[Evaluation]) -> Decision:
    first = run.shortlist[0]
    if not run.units:
        reason = f"{first.label} is predicted best by {run.search.strategy}; the budget left no room to train others."
        return Decision(0, first, None, None, None, reason, "list")
    scored = {c: tuple(each for each in used if each.candidate == c) for c in run.shortlist}
    winner = max(run.shortlist, key=lambda candidate: score_of(scored[candidate]))
    others = len(run.shortlist) - 1
    compared = "the other one" if others == 1 else f"the {others} others"
    if winner == first:
        was = f"was no worse than {compared} when trained"
        reason = f"{first.label} is predicted best by {run.search.strategy}, and {was}."
        return Decision(0, winner, None, None, None, reason, "list")
    gain, error = paired_gain(scored[first], scored[winner])
    reason = (
        f"{winner.label} was best of the {others + 1} that {run.search.strategy} predicted best when these were "
        f"trained: {gain:.3g} above {first.label}, which was predicted first."
    )
    return Decision(0, winner, gain, error, 0.0, reason, "list")
