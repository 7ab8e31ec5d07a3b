"""
What a cheap choice of blocks is given, and what it gives back.

A proposal looks at the model and the training rows for a fraction of the price of one full fine-tune and then predicts,
for any selection of blocks, the score that training it would give on each fold. How rows are read, collated and scored
is handed in, so a proposal knows neither Trainer nor journal; it never sees rows outside the folds.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..errors import ArgumentsError
from ..search.folds import Fold

Batch = Mapping[str, Any]


@dataclass(frozen=True)
class Estimate:
    """
    The predicted score of one selection.

    Args:
        fold_scores (`tuple[float, ...]`):
            One for each fold that the proposal looked at, maximised, in the order of [`Problem`]'s folds. They are
            comparable between selections, and need not have the scale of true scores.
        standard_error (`float`): Of their mean, as far as the proposal knows its own noise; 0 where it does not.
        behind (`tuple[float, float]`, *optional*):
            How far below the block that is predicted best, on the same rows, and the standard error of that
            difference; for that block itself `(0.0, 0.0)`. `None` where they were not compared row by row.
    """

    fold_scores: tuple[float, ...]
    standard_error: float = 0.0
    behind: tuple[float, float] | None = None

    @property
    def score(self) -> float:
        """`float`: the mean over folds."""
        return math.fsum(self.fold_scores) / len(self.fold_scores)


@dataclass
class Meter:
    """
    What has been spent, in full fine-tunes of the same rows and epochs.

    A forward pass of one row through the whole model costs 1 unit, a backward pass through what is tuned 2; a full
    fine-tune costs 3 units for each row and epoch.

    Args:
        shares (`tuple[float, ...]`): Each block's share of the cost of a forward pass; what is left is stem and head.
        fine_tune (`float`): Units of one full fine-tune: 3 x rows x epochs.
        units (`float`, *optional*): Spent so far.
        seconds (`float`, *optional*): Spent so far, wall clock, inside [`Meter.timed`].
    """

    shares: tuple[float, ...]
    fine_tune: float
    units: float = 0.0
    seconds: float = 0.0

    @property
    def spent(self) -> float:
        """`float`: in full fine-tunes."""
        return self.units / self.fine_tune

    def forward(self, rows: int, first: int = 0, last: int | None = None) -> float:
        """Count a forward pass from block `first` up to block `last` (not included, by default to the end)."""
        return self._add(rows * self._share(first, last))

    def train(self, rows: int, first: int = 0, start: int = 0) -> float:
        """Count training steps: forward from block `start` to the end, backward down to block `first`."""
        return self._add(rows * (self._share(start, None) + 2 * self._share(first, None)))

    def _share(self, first: int, last: int | None) -> float:
        inside = math.fsum(self.shares[first:last])
        stem_and_head = 1.0 - math.fsum(self.shares)
        return inside + (stem_and_head if first == 0 and last is None else 0.0)

    def _add(self, units: float) -> float:
        self.units += units
        return units / self.fine_tune

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the wall-clock time of what is done inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start


@dataclass
class Problem:
    """
    What a proposal may look at.

    Args:
        model (`torch.nn.Module`):
            The base model with its head, on its device. Whatever a proposal does to it must be undone when it returns,
            also after an error.
        blocks (`tuple[str, ...]`): Names of the choosable blocks, in forward order.
        head (`tuple[str, ...]`): Names of the output layer's modules; may be empty.
        folds (`tuple[Fold, ...]`): Training and validation rows, as numbers of rows.
        labels (`Sequence`, *optional*): Label of each row where that is a class or a number; `None` for anything else.
        train_batch (`Callable[[Sequence[int]], Batch]`):
            Rows through the training transform and the collator: keyword arguments of the model, labels included, on
            the model's device.
        eval_batch (`Callable[[Sequence[int]], Batch]`): The same through the evaluation transform.
        score (`Callable[[Any, Any, float], float]`):
            Logits and labels of some rows (as numpy arrays, or nested tuples of them) and their mean loss, to the
            score that is maximised.
        epochs (`float`), batch_size (`int`), learning_rate (`float`), weight_decay (`float`): Of a full training.
        meter ([`Meter`]): Counts what is spent.
        head_learning_rate (`float`, *optional*): By default `learning_rate`.
        warmup (`float`, *optional*): Share of the steps in which the learning rate rises.
        eval_batch_size (`int`, *optional*, defaults to 64): Rows in a forward pass without gradients.
        seed (`int`, *optional*): Of all randomness.
        max_rows (`int`, *optional*, defaults to 4096): Larger training sets are subsampled to so many rows.
    """

    model: nn.Module
    blocks: tuple[str, ...]
    head: tuple[str, ...]
    folds: tuple[Fold, ...]
    labels: Sequence[Any] | None
    train_batch: Callable[[Sequence[int]], Batch]
    eval_batch: Callable[[Sequence[int]], Batch]
    score: Callable[[Any, Any, float], float]
    epochs: float
    batch_size: int
    learning_rate: float
    weight_decay: float
    meter: Meter
    head_learning_rate: float | None = None
    warmup: float = 0.0
    eval_batch_size: int = 64
    seed: int = 0
    max_rows: int = 4096
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Of the model's first parameter."""
        return next(self.model.parameters()).device


class Prediction(ABC):
    """What a proposal has learned: predicts any selection without training."""

    @abstractmethod
    def __call__(self, blocks: Sequence[str]) -> Estimate:
        """
        Predict a selection.

        Args:
            blocks (`Sequence[str]`): Names among the problem's blocks, in forward order; empty for the head alone.

        Returns: [`Estimate`]
        """


class BudgetTooSmall(ArgumentsError):
    """
    A budget that does not pay for the fewest steps.

    Args:
        text (`str`): The message.
        missing (`float`): What training lacks, in full fine-tunes.

    Attributes:
        needed (`float`): About what [`Proposal.fit`] would have to be given.
    """

    def __init__(self, text: str, missing: float) -> None:
        super().__init__(text)
        self.missing, self.needed = missing, math.inf


@contextmanager
def asking(budget: float, share: float) -> Iterator[None]:
    """
    Let an error about a budget say which one would do.

    Args:
        budget (`float`): What was given, in full fine-tunes.
        share (`float`): Which part of more of it would go to training.
    """
    try:
        yield
    except BudgetTooSmall as error:
        error.needed = budget + error.missing / share
        raise


class Proposal(ABC):
    """A cheap way to choose blocks."""

    name: str = ""
    # Whether selections of several blocks are predicted for themselves, and not by their best block.
    predicts_subsets: bool = True

    def allowance(self, budget: float) -> float:
        """
        What of a search's budget predictions may take; the rest trains the best predicted.

        Args:
            budget (`float`): In full fine-tunes.

        Returns: `float`: likewise.
        """
        return 0.5 * budget

    @abstractmethod
    def fit(self, problem: Problem, budget: float) -> Prediction:
        """
        Look at the model and the rows.

        Args:
            problem ([`Problem`]): The model as it was before when this returns.
            budget (`float`): What may be spent in all, predictions included, in full fine-tunes; counted by the
                problem's meter. A proposal that needs less spends less.

        Returns: [`Prediction`]
        """
