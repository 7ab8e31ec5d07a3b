"""
The score of a selection that was trained, by forward passes over the validation rows of its fold.

A head that saw few steps tells little of the features below it, so a new one is fitted to them where the model ends in
one linear layer and a row has one label; elsewhere the trained head is taken as it is. What is compared is minus the
loss, which needs fewer rows than a share of right answers to tell two selections apart.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .base import Batch, Problem
from .copies import call, logits_of, reestimated
from .fast_head import fit_head, fit_linear
from .features import Features
from .side_by_side import Selection, SideBySide, plain_labels

# Statistics settle on few rows: each gives as many values as it has positions.
_STATISTICS_ROWS = 128
# Of a fitted head. Features seen while they trained are told apart better than new ones: they need a stronger one.
RIDGE_SEEN, RIDGE_NEW = 0.3, 0.1


@dataclass
class Reading:
    """
    What a selection gives for some rows.

    Args:
        logits (`list[Tensor]`), vectors (`list[Tensor]`), labels (`list[Tensor]`):
            Of each batch; left out where they are not one vector, or one label, per row.
        losses (`list[float]`), sizes (`list[int]`): The model's own mean loss of each batch, and its rows.
    """

    logits: list[Tensor] = field(default_factory=list)
    vectors: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    @property
    def loss(self) -> float:
        """`float`: the mean loss over rows."""
        return sum(a * b for a, b in zip(self.losses, self.sizes, strict=True)) / sum(self.sizes)

    def whole(self, name: str) -> Tensor | None:
        """`logits`, `vectors` or `labels` of all rows; `None` where a batch lacks them, or has as many as rows."""
        parts = getattr(self, name)
        alike = len({part.shape[1:] for part in parts}) == 1  # contrastive logits are as wide as their batch
        return torch.cat(parts) if alike and len(parts) == len(self.sizes) else None


@dataclass(frozen=True)
class Verdict:
    """
    What validation rows say of a selection.

    Args:
        score (`float`): Maximised.
        losses (`Tensor` of shape `(rows,)`, *optional*): Of each row, where the score is minus their mean.
    """

    score: float
    losses: Tensor | None = None


class Judge:
    """
    Scores selections that a [`SideBySide`] has trained.

    Args:
        trained ([`SideBySide`]): Copies and heads.
        fitted (`bool`): Whether heads are fitted anew where that is possible, and the score is minus the loss.
            Otherwise it is the problem's own score of the trained head.
        validation (`Sequence[int]`): Rows that score.
    """

    def __init__(self, trained: SideBySide, fitted: bool, validation: Sequence[int]) -> None:
        self.trained, self.problem, self.fitted = trained, trained.problem, fitted
        self.validation = list(validation)

    def from_seen(self, selections: Sequence[Selection]) -> dict[Selection, Verdict]:
        """
        Score selections that have heads of their own, fitting new ones to the features that training has seen.

        Args:
            selections (`Sequence[tuple[str, ...]]`): All trained.

        Returns: `dict`: [`Verdict`] by selection, all on the same rows.
        """
        read, found = self._read(self.validation, selections), {}
        for selection in selections:
            seen = list(self.trained.head(selection).seen.values())
            vectors = torch.stack([vector for vector, _ in seen]) if seen else None
            labels = torch.stack([label for _, label in seen]) if seen else None
            found[selection] = self._judge(vectors, labels, read[selection], RIDGE_SEEN)
        return found

    def from_passes(self, selections: Sequence[Selection], rows: Sequence[int]) -> dict[Selection, float]:
        """
        Score selections no two of which share a block, with statistics re-estimated for each.

        Args:
            selections (`Sequence[tuple[str, ...]]`): Which.
            rows (`Sequence[int]`): Training rows that statistics and heads are fitted to.

        Returns: `dict`: score by selection, maximised.
        """
        norms = self.trained.copies.norms([name for selection in selections for name in selection])
        if norms:
            with reestimated(norms):
                self._read(rows[:_STATISTICS_ROWS], selections)
        fit = self._read(rows, selections) if self.fitted else {}
        read, scores = self._read(self.validation, selections), {}
        for one in selections:
            vectors, labels = (fit[one].whole("vectors"), fit[one].whole("labels")) if fit else (None, None)
            scores[one] = self._judge(vectors, labels, read[one], RIDGE_NEW).score
        return scores

    def passes(self, selections: Sequence[Selection], rows: int) -> float:
        """Price of `from_passes` with so many training rows, in forward passes of one row through the whole model."""
        norms = self.trained.copies.norms([name for selection in selections for name in selection])
        read = (min(rows, _STATISTICS_ROWS) if norms else 0) + (rows if self.fitted else 0) + len(self.validation)
        return read * self.units(selections)

    def units(self, selections: Sequence[Selection]) -> float:
        """Price of reading one row with each of these selections."""
        if len(selections) == 1:
            return 1.0
        starts = [self.trained.start(selection) for selection in selections]
        shares = self.problem.meter.shares
        tails = sum(sum(shares[start:]) if start else 1.0 for start in starts)
        return tails + (1.0 if self.trained.trunk.is_exact else 0.0)

    def _read(self, rows: Sequence[int], selections: Sequence[Selection]) -> dict[Selection, Reading]:
        """Run selections on rows, which share the frozen blocks."""
        trained, problem = self.trained, self.problem
        readings = {selection: Reading() for selection in selections}
        shared = len(selections) > 1
        for begin in range(0, len(rows), problem.eval_batch_size):
            chosen = rows[begin : begin + problem.eval_batch_size]
            batch = problem.eval_batch(chosen)
            if shared and trained.trunk.is_exact:
                trained.trunk.record(batch)
                problem.meter.forward(len(chosen))
            for selection in selections:
                start = trained.start(selection) if shared else 0
                trained.use(selection)
                with torch.no_grad(), trained.trunk.starting_at(start):
                    _take(readings[selection], problem, batch, len(chosen))
                problem.meter.forward(len(chosen), first=start)
        return readings

    def _judge(self, vectors: Tensor | None, labels: Tensor | None, read: Reading, ridge: float) -> Verdict:
        logits, held, wanted = read.whole("logits"), read.whole("vectors"), read.whole("labels")
        if not self.fitted and logits is not None and wanted is not None:
            return Verdict(float(self.problem.score(logits.cpu().numpy(), wanted.cpu().numpy(), read.loss)))
        if not self.fitted or vectors is None or labels is None or logits is None or held is None or wanted is None:
            return Verdict(-read.loss)
        if wanted.is_floating_point():
            weight, bias = fit_linear(vectors, labels, ridge)
            losses = ((held @ weight.T + bias).flatten() - wanted.float()).square()
        else:
            weight, bias = fit_head(vectors, labels, logits.shape[-1], ridge)
            losses = nn.functional.cross_entropy(held @ weight.T + bias, wanted, reduction="none")
        return Verdict(-float(losses.mean()), losses.cpu())


def _take(reading: Reading, problem: Problem, batch: Batch, rows: int) -> None:
    features = Features(problem.model, problem.head)
    with features.watching():
        output, loss = call(problem.model, batch)
        vectors = features.of(output)
    reading.sizes.append(rows)
    reading.losses.append(math.nan if loss is None else float(loss))
    logits, labels = logits_of(output), plain_labels(problem.model, batch, rows)
    if vectors is not None:
        reading.vectors.append(vectors.float())
    if isinstance(logits, Tensor) and logits.ndim == 2:
        reading.logits.append(logits.float())
    if labels is not None:
        reading.labels.append(labels)


def sample(rows: Sequence[int], most: int, seed: int) -> list[int]:
    """At most so many rows, drawn by the seed, in their order."""
    return list(rows) if len(rows) <= most else sorted(random.Random(seed).sample(list(rows), most))
