"""
Several selections trained at once, on the same batches.

Each batch goes through the frozen model once; every selection then runs from its first block on and takes a step of its
own. What this module does not know: which selections, how long, and how they are scored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ArgumentsError
from ..search.folds import Fold
from .base import Batch, Problem
from .copies import Copies, Trunk, call, predicts_numbers, trainable_copy
from .features import Features

Selection = tuple[str, ...]

# As Trainer does by default.
_LARGEST_GRADIENT = 1.0
_LEAST_WARMUP = 0.1
# Features of more rows than this are not kept for a selection.
_MOST_KEPT = 2048


@dataclass
class Head:
    """
    A head that trains, with what it saw.

    Args:
        modules (`dict[str, torch.nn.Module]`): By name; empty for a model without head.
        optimizer (`torch.optim.Optimizer`, *optional*): Of its parameters.
        seen (`dict[int, tuple[Tensor, Tensor]]`, *optional*):
            By row, the latest vector of shape `(dim,)` that went into its last layer, and the row's label.
    """

    modules: dict[str, nn.Module]
    optimizer: torch.optim.Optimizer | None
    seen: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


class SideBySide:
    """
    Trains selections on the training rows of a fold.

    All selections share one copy of each block, and each has a head of its own or all share one.

    Args:
        problem ([`Problem`]): The model and how it is trained.
        fold ([`Fold`]): Whose training rows.
        copies ([`Copies`]): Of blocks and head, `installed` while anything here is called.
        shared_head (`bool`): Whether all selections train one head.
    """

    def __init__(self, problem: Problem, fold: Fold, copies: Copies, shared_head: bool) -> None:
        self.problem, self.fold, self.copies, self.shared_head = problem, fold, copies, shared_head
        self.trunk = Trunk(copies, problem.blocks)
        self.rows = len(fold.train)
        self._generator = torch.Generator().manual_seed(problem.seed)
        self._optimizers = {name: self._adam(copies.parameters([name])) for name in problem.blocks}
        self._heads: dict[Selection, Head] = {}

    def look(self) -> None:
        """Find out, on two rows, whether selections can share the frozen blocks."""
        rows = self.fold.train[:2]
        self.trunk.record(self.problem.eval_batch(rows))
        self.problem.meter.forward(len(rows))

    # --- what it costs -----------------------------------------------------------------------
    def units(self, selections: Sequence[Selection]) -> float:
        """Price of one row in a step of each of these selections, in forward passes of the whole model."""
        shares, exact = self.problem.meter.shares, self.trunk.is_exact
        rest = 1.0 - math.fsum(shares)
        total = 1.0 if exact else 0.0
        for selection in selections:
            first, start = self.first(selection), self.start(selection)
            forward = math.fsum(shares[start:]) + (rest if start == 0 else 0.0)
            total += forward + 2 * (math.fsum(shares[first:]) + (rest if first == 0 else 0.0))
        return total

    def first(self, selection: Selection) -> int:
        """Place of a selection's first block; behind the last one for the head alone."""
        return min((self.problem.blocks.index(name) for name in selection), default=len(self.problem.blocks))

    def start(self, selection: Selection) -> int:
        """The first block that runs for a selection."""
        return self.first(selection) if self.trunk.is_exact else 0

    # --- training ----------------------------------------------------------------------------
    def train(self, steps: Sequence[Sequence[Selection]], batch_size: int) -> None:
        """
        Train.

        Args:
            steps (`Sequence[Sequence[tuple[str, ...]]]`): The selections that take a step on each batch.
            batch_size (`int`): Rows of a batch. The learning rate follows its square root.

        Raises: [`ArgumentsError`]: If the model gives no loss.
        """
        problem = self.problem
        scale = math.sqrt(batch_size / problem.batch_size)
        used = sorted({name for selections in steps for one in selections for name in one})
        self.copies.train(used)
        order: list[int] = []
        for place, selections in enumerate(steps):
            if len(order) < min(batch_size, self.rows):
                order = torch.randperm(self.rows, generator=self._generator).tolist()
            chosen, order = [self.fold.train[at] for at in order[:batch_size]], order[batch_size:]
            batch = problem.train_batch(chosen)
            if self.trunk.is_exact:
                self.trunk.record(batch)
                problem.meter.forward(len(chosen))
            for selection in selections:
                self._step(selection, batch, chosen, scale * _rate(place, len(steps), problem.warmup))
        self.copies.eval(used)

    def _step(self, selection: Selection, batch: Any, rows: Sequence[int], scale: float) -> None:
        problem, head = self.problem, self.use(selection)
        for module in head.modules.values():
            module.train()
        features = Features(problem.model, problem.head)
        with torch.enable_grad(), self.trunk.starting_at(self.start(selection)), features.watching():
            output, loss = call(problem.model, batch)
            if loss is None:
                raise ArgumentsError(
                    f"A proposal trains on the model's loss, but '{type(problem.model).__name__}' gives none for "
                    f"batches with {', '.join(batch)}. Name the label column 'labels', or use strategy='exact'."
                )
            self._keep(head, rows, features.of(output), plain_labels(problem.model, batch, len(rows)))
            loss.backward()
        for module in head.modules.values():
            module.eval()
        parameters = self.copies.parameters((*selection, *head.modules))
        torch.nn.utils.clip_grad_norm_(parameters, _LARGEST_GRADIENT)
        head_rate = problem.learning_rate if problem.head_learning_rate is None else problem.head_learning_rate
        _update(head.optimizer, scale * head_rate)
        for name in selection:
            _update(self._optimizers[name], scale * problem.learning_rate)
        problem.meter.train(len(rows), first=self.first(selection), start=self.start(selection))

    def _keep(self, head: Head, rows: Sequence[int], vectors: Tensor | None, labels: Tensor | None) -> None:
        # What one head saw of several selections says nothing of each.
        if vectors is None or labels is None or self.shared_head:
            return
        for row, vector, label in zip(rows, vectors.detach().float(), labels, strict=True):
            head.seen.pop(row, None)
            head.seen[row] = vector, label
        while len(head.seen) > _MOST_KEPT:
            del head.seen[next(iter(head.seen))]

    # --- heads -------------------------------------------------------------------------------
    def head(self, selection: Selection) -> Head:
        """The head that a selection trains."""
        key = () if self.shared_head else selection
        if key not in self._heads:
            modules = {name: trainable_copy(self.copies.originals[name]) for name in self.problem.head}
            parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
            self._heads[key] = Head(modules, self._adam(parameters))
        return self._heads[key]

    def use(self, selection: Selection) -> Head:
        """Put a selection and its head into the model."""
        head = self.head(selection)
        self.copies.copies.update(head.modules)
        self.copies.use((*selection, *head.modules))
        return head

    def _adam(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer | None:
        return torch.optim.AdamW(parameters, weight_decay=self.problem.weight_decay) if parameters else None


def plain_labels(model: nn.Module, batch: Batch, rows: int) -> Tensor | None:
    """
    The labels of a batch, where each row has one.

    Args:
        model (`torch.nn.Module`): What learns them.
        batch (`Mapping`): As the model gets it.
        rows (`int`): Its rows.

    Returns: `Tensor` of shape `(rows,)` or `None`: classes from 0, or numbers.
    """
    labels = batch.get("labels")
    if not isinstance(labels, Tensor) or labels.numel() != rows:
        return None
    if predicts_numbers(model):
        return labels.flatten().float()
    return labels.flatten() if labels.is_floating_point() or int(labels.min()) >= 0 else None


def _rate(place: int, steps: int, warmup: float) -> float:
    """A cosine behind a short rise."""
    done = (place + 0.5) / steps
    return min(1.0, done / max(warmup, _LEAST_WARMUP)) * 0.5 * (1 + math.cos(math.pi * done))


def _update(optimizer: torch.optim.Optimizer | None, rate: float) -> None:
    if optimizer is None:
        return
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()
