"""
One training for all selections: each step trains a random one, and afterwards any selection is scored without training.

All selections share one copy of each block, the pretrained weights plus a change that has to serve in every company.
After the training a selection is put together from its copies, their statistics are re-estimated and a head is fitted:
forward passes only.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ..search.folds import Fold
from .base import Estimate, Prediction, Problem, Proposal, asking
from .chance import own_chance
from .copies import Copies
from .intact import intact
from .judging import Judge, sample
from .short_profile import steps_for
from .side_by_side import Selection, SideBySide

# Rows that statistics and heads are fitted to, at most and at least.
_MOST_ROWS, _FEWEST_ROWS = 512, 32


class SharedTraining(Proposal):
    """
    What one-shot training and the swap test have in common: one training, then forward passes.

    Args:
        training_share (`float`, *optional*, defaults to 0.5):
            Share of the budget that trains. The rest scores single blocks, and then selections as they are asked for;
            when it is spent, a selection is given the score of its best block.
    """

    def __init__(self, training_share: float = 0.5) -> None:
        self.training_share = training_share

    @abstractmethod
    def draw(self, blocks: tuple[str, ...], generator: torch.Generator) -> list[Selection]:
        """
        The selections that take a step on one batch.

        Args:
            blocks (`tuple[str, ...]`): Names of all blocks, in forward order.
            generator (`torch.Generator`): Of all chance.

        Returns: `list[tuple[str, ...]]`: names in forward order.
        """

    def fit(self, problem: Problem, budget: float) -> Prediction:
        """
        Train once, and score the single blocks.

        Args:
            problem ([`Problem`]): The model as it was before when this returns.
            budget (`float`): In full fine-tunes.

        Returns: [`Prediction`]: scores selections of several blocks by forward passes when asked, within the budget.
        Raises: [`BudgetTooSmall`]: If the budget does not pay three steps.
        """
        meter, fold = problem.meter, problem.folds[0]
        end = meter.units + budget * meter.fine_tune
        generator = torch.Generator().manual_seed(problem.seed)
        more = asking(budget, self.training_share)
        with meter.timed(), intact(problem.model, problem.seed), own_chance(problem.seed), more:
            copies = Copies(problem.model, (*problem.blocks, *problem.head))
            with copies.installed():
                trained = SideBySide(problem, fold, copies, shared_head=True)
                trained.look()
                typical = self.draw(problem.blocks, torch.Generator().manual_seed(problem.seed))
                units = self.training_share * budget * meter.fine_tune
                size, most = steps_for(trained, typical, units)
                steps: list[list[Selection]] = []
                while len(steps) < 4 * most:  # draws differ in price
                    steps.append(self.draw(problem.blocks, generator))
                    units -= size * trained.units(steps[-1])
                    if units < 0:
                        steps.pop()
                        break
                trained.train(steps, size)
                return _scored(problem, trained, fold, end)


class OneShotProposal(SharedTraining):
    """Trains random selections, mostly of one block, some of two or three, which share their blocks' changes."""

    name = "one-shot"
    sizes = (1, 1, 2, 3)

    def draw(self, blocks: tuple[str, ...], generator: torch.Generator) -> list[Selection]:
        drawn = []
        for size in self.sizes:
            order = torch.randperm(len(blocks), generator=generator).tolist()
            drawn.append(tuple(blocks[place] for place in sorted(order[:size])))
        return drawn


def _scored(problem: Problem, trained: SideBySide, fold: Fold, end: float) -> SharedPrediction:
    """Score the head alone and all single blocks on as many rows as the rest of the budget pays."""
    singles: list[Selection] = [(), *((name,) for name in problem.blocks)]
    judge = Judge(trained, True, fold.validation)
    train = sample(fold.train, _MOST_ROWS, problem.seed)
    left = end - problem.meter.units
    while judge.passes(singles, len(train)) > left and max(len(train), len(judge.validation)) > _FEWEST_ROWS:
        train = sample(train, max(int(0.9 * len(train)), _FEWEST_ROWS), problem.seed)
        judge.validation = sample(judge.validation, max(int(0.9 * len(judge.validation)), _FEWEST_ROWS), problem.seed)
    return SharedPrediction(judge, train, end, judge.from_passes(singles, train))


@dataclass
class SharedPrediction(Prediction):
    """
    Scores of the copies that were trained together.

    Args:
        judge ([`Judge`]): Scores by forward passes.
        rows (`Sequence[int]`): Training rows that statistics and heads are fitted to.
        end (`float`): Units on the meter beyond which nothing is spent.
        scores (`dict[tuple[str, ...], float]`): What is known.
    """

    judge: Judge
    rows: Sequence[int]
    end: float
    scores: dict[Selection, float] = field(default_factory=dict)

    def __call__(self, blocks: Sequence[str]) -> Estimate:
        selection = tuple(blocks)
        if selection not in self.scores:
            problem = self.judge.problem
            price = self.judge.passes([selection], len(self.rows))
            if problem.meter.units + price > self.end:
                return Estimate((max(self.scores[(name,)] for name in selection),))
            copies = self.judge.trained.copies
            with problem.meter.timed(), intact(problem.model, problem.seed), copies.installed():
                self.scores.update(self.judge.from_passes([selection], self.rows))
        return Estimate((self.scores[selection],))
