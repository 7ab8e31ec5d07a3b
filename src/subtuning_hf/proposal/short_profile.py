"""
A short profile: every block trained alone for a few steps, all of them side by side, and the best of them for longer.

The exact profile in small: a first round of all blocks on one fold, a second one of the best few on another, where the
same price gives each of them more steps and rows that did not choose it. Three things make it cheap: all blocks share
the frozen pass of each batch, small batches give many steps for few rows, and the heads are fitted afterwards to the
features that training saw anyway.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from .base import BudgetTooSmall, Estimate, Prediction, Problem, Proposal, asking
from .chance import own_chance
from .copies import Copies
from .intact import intact
from .judging import Judge, Verdict, sample
from .side_by_side import Selection, SideBySide

# Steps that are asked for before larger batches are; batches are no smaller than these.
_STEPS = 50
_SMALLEST_BATCH = 8
_FEWEST_STEPS = 3
# Most of the budget that the validation rows may take.
_VALIDATION_SHARE = 0.25
# Blocks of the second round, and what of the budget the first one takes.
FINALISTS = 4
_FIRST_ROUND = 0.5


class ShortProfileProposal(Proposal):
    """
    Trains each block for a short time and ranks them by their loss on validation rows.

    The first round trains all blocks on the first fold, the second one the best few and the head alone, anew and for
    longer, on the second fold; those are ranked by what the second round says. A selection of several blocks is given
    the score of its best block. With both switches off and no finalists it is the plain short profile: batches as in a
    full training, the head that was trained, and the problem's own score.

    Args:
        small_batches (`bool`, *optional*, defaults to `True`): Whether batches may be smaller than in a full training.
        fitted_heads (`bool`, *optional*, defaults to `True`): Whether heads are fitted anew to the trained features.
        finalists (`int`, *optional*, defaults to 4): Blocks of the second round; there is none for fewer than two, or
            for models that have no more blocks than that, or a single fold: the first one then has all of the budget.
    """

    name = "short-profile"
    predicts_subsets = False

    def __init__(self, small_batches: bool = True, fitted_heads: bool = True, finalists: int = FINALISTS) -> None:
        self.small_batches, self.fitted_heads, self.finalists = small_batches, fitted_heads, finalists

    def allowance(self, budget: float) -> float:
        """Two rounds of short trainings tell more than one and a few longer ones: a fine-tune's price goes to them."""
        return max(0.5 * budget, min(budget, 1.0))

    def fit(self, problem: Problem, budget: float) -> Prediction:
        """
        Train and score every block.

        Args:
            problem ([`Problem`]): The model as it was before when this returns.
            budget (`float`): In full fine-tunes; nearly all of it is spent.

        Returns: [`Prediction`]: answers without any further cost.
        Raises: [`BudgetTooSmall`]: If the budget does not pay three steps for each block.
        """
        everything = [(), *((name,) for name in problem.blocks)]
        twice = 1 < self.finalists < len(problem.blocks) and len(problem.folds) > 1
        end = problem.meter.units + budget * problem.meter.fine_tune
        part = _FIRST_ROUND if twice else 1.0
        share = part * (1 - _VALIDATION_SHARE)
        with problem.meter.timed(), intact(problem.model, problem.seed), asking(budget, share):
            first = self._round(problem, 0, everything, budget * part)
            if not twice:
                return ShortProfile(scores_of(first), losses_of(first))
            ranked = sorted(everything[1:], key=lambda one: -first[one].score)[: self.finalists]
            finalists = [one for one in everything if one in ranked or not one]
            left = (end - problem.meter.units) / problem.meter.fine_tune
            second = self._round(problem, 1, finalists, left)
            return ShortProfile(in_one_order(scores_of(first), scores_of(second)), losses_of(second))

    def _round(
        self, problem: Problem, place: int, selections: Sequence[Selection], budget: float
    ) -> dict[Selection, Verdict]:
        """Train selections on a fold for what may be spent, and score them."""
        fold, seed = problem.folds[place], problem.seed + place
        end = problem.meter.units + budget * problem.meter.fine_tune
        copies = Copies(problem.model, (*problem.blocks, *problem.head))
        with own_chance(seed), copies.installed():
            trained = SideBySide(problem, fold, copies, shared_head=False)
            trained.look()
            judge = Judge(trained, self.fitted_heads, ())
            most = int(_VALIDATION_SHARE * budget * problem.meter.fine_tune / judge.units(selections))
            judge.validation = sample(fold.validation, max(most, 1), seed)
            left = end - problem.meter.units - len(judge.validation) * judge.units(selections)
            learning = [one for one in selections if one or problem.head]
            size, steps = steps_for(trained, learning, left, self.small_batches)
            trained.train([learning] * steps, size)
            return judge.from_seen(selections)


@dataclass(frozen=True)
class ShortProfile(Prediction):
    """
    Scores of single blocks.

    Args:
        scores (`Mapping[tuple[str, ...], float]`): Of the head alone and of each block.
        losses (`Mapping[tuple[str, ...], Tensor]`, *optional*): Of each row, for those that were compared on the same
            rows; the block predicted best is one of them.
    """

    scores: Mapping[Selection, float]
    losses: Mapping[Selection, Tensor] = field(default_factory=dict)

    def __call__(self, blocks: Sequence[str]) -> Estimate:
        score = max((self.scores[(name,)] for name in blocks), default=self.scores[()])
        return Estimate((score,), behind=self._behind(tuple(blocks)))

    def _behind(self, selection: Selection) -> tuple[float, float] | None:
        """How far a selection is behind the best block, row by row, and the standard error of that."""
        best = max((one for one in self.losses if one), key=lambda one: self.scores[one], default=None)
        if best is None or selection not in self.losses or len(self.losses[best]) < 2:
            return None
        further = self.losses[selection] - self.losses[best]
        return float(further.mean()), float(further.std() / math.sqrt(len(further)))


def scores_of(verdicts: Mapping[Selection, Verdict]) -> dict[Selection, float]:
    """The score of each selection."""
    return {one: verdict.score for one, verdict in verdicts.items()}


def losses_of(verdicts: Mapping[Selection, Verdict]) -> dict[Selection, Tensor]:
    """The losses of each row, where they are known."""
    return {one: verdict.losses for one, verdict in verdicts.items() if verdict.losses is not None}


def in_one_order(first: Mapping[Selection, float], second: Mapping[Selection, float]) -> dict[Selection, float]:
    """
    One order of all selections: those of a second round as it says, the others behind them as the first one said.

    Args:
        first (`Mapping`): Scores of all.
        second (`Mapping`): Scores of those that went on.

    Returns: `dict`: the scores of the second round, and those of the first moved so that none is above these.
    """
    shift = min(second.values()) - max((score for one, score in first.items() if one not in second), default=0.0)
    return {one: second[one] if one in second else score + min(shift, 0.0) for one, score in first.items()}


def steps_for(
    trained: SideBySide, selections: Sequence[Selection], units: float, small_batches: bool = True
) -> tuple[int, int]:
    """
    How to spend what there is on training.

    Args:
        trained ([`SideBySide`]): What it costs.
        selections (`Sequence[tuple[str, ...]]`): Each takes a step on each batch.
        units (`float`): What may be spent, in forward passes of one row through the whole model.
        small_batches (`bool`, *optional*, defaults to `True`): Whether batches may be smaller than in a full training.

    Returns: `tuple[int, int]`: rows of a batch, and number of batches.
    Raises: [`BudgetTooSmall`]: If that gives fewer than three.
    """
    problem, price = trained.problem, trained.units(selections)
    rows = max(units, 0.0) / price
    size = min(problem.batch_size, trained.rows)
    if small_batches:
        size = min(size, max(int(rows / _STEPS), _SMALLEST_BATCH))
    steps = int(rows / size)
    if steps < _FEWEST_STEPS:
        missing = (_FEWEST_STEPS * size * price - units) / problem.meter.fine_tune
        raise BudgetTooSmall(
            f"The budget must pay at least {_FEWEST_STEPS} steps of {size} rows for {len(selections)} selections, but "
            f"leaves room for {steps}. Raise it, name fewer `blocks` to choose from, or use strategy='exact'.",
            missing,
        )
    return size, steps
