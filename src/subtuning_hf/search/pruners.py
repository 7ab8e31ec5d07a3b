"""
Which candidates of a round are given up before they are trained in full on every fold.

A pruner names the steps of a round and judges after each; it never writes. A step is made of all survivors on the same
folds with the same budget, and is judged when it is complete and not before. So the verdict is a function of scores
alone: the order in which trainings finish, and anything known beyond what was asked for, cannot change it.

Source: races over shared folds follow Maron and Moore's, with a paired test; successive halving, arXiv 1502.07943.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from ..errors import ArgumentsError
from .records import Candidate, Evaluation, SearchSpec, Unit
from .scores import RELATIVE_TIE, Table, best_of, paired_gain, score_of

Seen = Mapping[Candidate, tuple[Evaluation, ...]]


class Step(NamedTuple):
    """
    What every survivor must have before candidates are judged: some folds, with a share of the full training.

    Where `leader_only` is set, the one that led after the step before must have it, and no other.
    """

    folds: tuple[int, ...]
    budget: float
    leader_only: bool = False


class Pruner(ABC):
    """Names the steps of a round and judges after each."""

    @abstractmethod
    def steps(self, num_folds: int) -> tuple[Step, ...]:
        """
        The steps of a round.

        Args:
            num_folds (`int`): Folds of the study.

        Returns: `tuple[Step, ...]`: those with the full budget come last, and have each fold once between them.
        """

    @abstractmethod
    def dropped(self, step: int, seen: Seen) -> tuple[Candidate, ...]:
        """
        Judge after a step. The leader, whose mean is best (of equal ones the last), is never dropped.

        Args:
            step (`int`): Number of the step; not asked after the last.
            seen (`Mapping[Candidate, tuple[Evaluation, ...]]`):
                The survivors in the order in which ties are decided, each with its evaluations at the step's budget,
                of this step and of those before it.

        Returns: `tuple[Candidate, ...]`: Those to be given up, in the order of `seen`.
        """


class NoPruner(Pruner):
    """Every candidate on every fold."""

    def steps(self, num_folds: int) -> tuple[Step, ...]:
        return (Step(tuple(range(num_folds)), 1.0),)

    def dropped(self, step: int, seen: Seen) -> tuple[Candidate, ...]:
        return ()


class Race(Pruner):
    """
    Fold by fold; from the second on, a candidate is given up when it is clearly behind the leader.

    Clearly: in a one-sided paired t test of the differences to the leader, weighted by the folds' sizes. The leader is
    the best of many, and each candidate is tested several times, so the risk of losing the best is not `1 - confidence`
    but must be measured. Folds that all differ by the same amount leave no doubt to the test, however few they are.

    Args:
        confidence (`float`): Of the test.
    """

    def __init__(self, confidence: float) -> None:
        self.confidence = confidence

    def steps(self, num_folds: int) -> tuple[Step, ...]:
        return tuple(Step((fold,), 1.0) for fold in range(num_folds))

    def dropped(self, step: int, seen: Seen) -> tuple[Candidate, ...]:
        if step == 0:
            return ()
        leader = leader_of(seen)
        return tuple(
            candidate
            for candidate, evaluations in seen.items()
            if candidate != leader and self._is_behind(evaluations, seen[leader])
        )

    def _is_behind(self, evaluations: Sequence[Evaluation], leader: Sequence[Evaluation]) -> bool:
        gap, error = paired_gain(evaluations, leader)
        assert error is not None  # of 2 folds or more
        slack = RELATIVE_TIE * max(abs(score_of(evaluations)), abs(score_of(leader)))
        return gap - student_t_quantile(self.confidence, len(evaluations) - 1) * error > slack


class Certain(Pruner):
    """
    Fold by fold; a candidate is given up when it cannot win, whatever its remaining folds give.

    Whoever leads after a fold is trained on all folds at once. Another one is out when its mean would stay below the
    best complete mean even with the best possible score on every fold it lacks. So the winner, its gain and every
    decision are those of a search that drops nothing; only the scores of losers are incomplete.

    Args:
        limit (`float`): The best possible score, in what is maximised: 1 for an accuracy, 0 for a loss.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit

    def steps(self, num_folds: int) -> tuple[Step, ...]:
        every, steps = tuple(range(num_folds)), []
        for fold in every:
            steps.append(Step((fold,), 1.0))
            if fold < num_folds - 1:
                steps.append(Step(every, 1.0, leader_only=True))
        return tuple(steps)

    def dropped(self, step: int, seen: Seen) -> tuple[Candidate, ...]:
        if step % 2 == 0:  # the leader is trained first
            return ()
        for evaluation in (each for evaluations in seen.values() for each in evaluations):
            if evaluation.score > self.limit:
                raise ArgumentsError(
                    f"A fold of {evaluation.candidate.label} scored {evaluation.score:g}, above the best possible "
                    f"score, which was said to be {self.limit:g}: pruner 'certain' would drop candidates that can win. "
                    "Set `score_limit` to the best value that the metric can take, or use another pruner."
                )
        most = max(map(len, seen.values()))
        complete = [evaluations for evaluations in seen.values() if len(evaluations) == most]
        sizes = {evaluation.fold: evaluation.num_examples for evaluation in complete[0]}
        best = max(map(score_of, complete))
        slack = RELATIVE_TIE * max(abs(best), abs(self.limit))
        lacking = {candidate: found for candidate, found in seen.items() if len(found) < most}
        return tuple(candidate for candidate, found in lacking.items() if self._bound(found, sizes) < best - slack)

    def _bound(self, evaluations: Sequence[Evaluation], sizes: Mapping[int, int]) -> float:
        known = {evaluation.fold: evaluation.score for evaluation in evaluations}
        total = math.fsum(known.get(fold, self.limit) * size for fold, size in sizes.items())
        return total / sum(sizes.values())


class Halving(Pruner):
    """
    First a share of the training on all folds; the best go on with more, and the last with all of it.

    Args:
        reduction (`int`): One candidate in so many goes on, rounded up, with so many times the training.
        smallest_budget (`float`): Share of the full training in the first step.
    """

    def __init__(self, reduction: int, smallest_budget: float) -> None:
        self.reduction = reduction
        self.smallest_budget = smallest_budget

    def steps(self, num_folds: int) -> tuple[Step, ...]:
        folds = tuple(range(num_folds))
        return (*(Step(folds, budget) for budget in self.budgets), Step(folds, 1.0))

    @property
    def budgets(self) -> tuple[float, ...]:
        """The shares below 1, ascending; one that is 1 but for the last bits is left to the last step."""
        found = [self.smallest_budget]
        while found[-1] < 1 - 1e-9:
            found.append(self.smallest_budget * self.reduction ** len(found))
        return tuple(found[:-1])

    def dropped(self, step: int, seen: Seen) -> tuple[Candidate, ...]:
        scores = {candidate: score_of(evaluations) for candidate, evaluations in seen.items()}
        for _ in range(math.ceil(len(seen) / self.reduction)):
            del scores[best_of(scores)]
        return tuple(scores)


def pruner_of(search: SearchSpec) -> Pruner:
    """The pruner that a search names."""
    if search.pruner == "race":
        return Race(search.confidence)
    if search.pruner == "halving":
        return Halving(search.reduction, search.smallest_budget)
    if search.pruner == "certain":
        assert search.score_limit is not None  # checked when the record was made
        return Certain(search.score_limit)
    return NoPruner()


def leader_of(seen: Seen) -> Candidate:
    """The candidate with the best mean; of equal ones the last."""
    return best_of({candidate: score_of(evaluations) for candidate, evaluations in seen.items()})


# --- a round ---------------------------------------------------------------------------------
@dataclass(frozen=True)
class Verdict:
    """
    How far a round has come.

    Args:
        used (`tuple[Evaluation, ...]`): What it asked for and found, by candidate, budget and fold.
        pruned (`tuple[Candidate, ...]`): Given up, in the order in which they were.
        pending (`tuple[Unit, ...]`): What is missing for the step under way, by candidate and fold; `()` at the end.
    """

    used: tuple[Evaluation, ...]
    pruned: tuple[Candidate, ...]
    pending: tuple[Unit, ...]


def judge(pruner: Pruner, candidates: Sequence[Candidate], num_folds: int, table: Table) -> Verdict:
    """
    Take a round through its steps as far as evaluations go.

    Args:
        pruner ([`Pruner`]): Names the steps and judges after each.
        candidates (`Sequence[Candidate]`): All of the round, in the order in which ties are decided.
        num_folds (`int`): Folds of the study.
        table (`Mapping[Unit, Evaluation]`): What is known.

    Returns: [`Verdict`]
    """
    steps = pruner.steps(num_folds)
    survivors, asked, pruned = tuple(candidates), dict[Unit, None](), list[Candidate]()
    leader = survivors[-1:]
    pending: tuple[Unit, ...] = ()
    for place, step in enumerate(steps):
        alone = len(survivors) < 2  # there is nothing left to choose: all that is left to know at once
        folds = tuple(range(num_folds)) if alone else step.folds
        budget = 1.0 if alone else step.budget
        asking = leader if step.leader_only and not alone else survivors
        units = [Unit(candidate, fold, 0, budget) for candidate in asking for fold in folds]
        asked.update(dict.fromkeys(units))
        pending = tuple(unit for unit in units if unit not in table)
        if pending or alone or place == len(steps) - 1:
            break
        seen = {
            candidate: tuple(
                table[unit] for unit in asked if unit.candidate == candidate and unit.budget == step.budget
            )
            for candidate in survivors
        }
        leader = (leader_of(seen),)
        gone = pruner.dropped(place, seen)
        pruned.extend(gone)
        survivors = tuple(candidate for candidate in survivors if candidate not in gone)
    order = {candidate: place for place, candidate in enumerate(candidates)}
    known = sorted((unit for unit in asked if unit in table), key=lambda u: (order[u.candidate], u.budget, u.fold))
    return Verdict(tuple(table[unit] for unit in known), tuple(pruned), pending)


# --- Student's t -----------------------------------------------------------------------------
@lru_cache
def student_t_quantile(confidence: float, freedom: int) -> float:
    """
    Quantile of Student's t distribution.

    Args:
        confidence (`float`): Probability of a smaller value, from 0.5 and below 1.
        freedom (`int`): Degrees of freedom, 1 or more.

    Returns: `float`
    """
    low, high = 0.0, 1.0
    while _student_t(high, freedom) < confidence:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _student_t(middle, freedom) < confidence else (low, middle)
    return high


def _student_t(value: float, freedom: int) -> float:
    """
    Probability of a smaller value than one of 0 or more.

    Source: Abramowitz and Stegun 26.7.3 and 26.7.4: finite sums for whole degrees of freedom.
    """
    angle = math.atan(value / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    terms, term = [], cosine if odd else 1.0
    for place in range((freedom - odd) // 2):
        terms.append(term)
        term *= cosine**2 * (2 * place + 1 + odd) / (2 * place + 2 + odd)
    middle = 2 / math.pi * (angle + sine * math.fsum(terms)) if odd else sine * math.fsum(terms)
    return (1 + middle) / 2
