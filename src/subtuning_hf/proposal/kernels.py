"""
Gradient-feature kernels: scores of all selections from one look at the gradients of each row.

While its weights change little, a network is linear in them: training the blocks of a selection is a regression on
their gradients, and its kernel is the sum of the kernels of its blocks and of the head. So a selection is
cross-validated in closed form, without training. What the linear picture cannot see is how features move, so that its
scores are low; their order is what counts.

A block with running statistics changes the features under the head before a weight moves. Its head kernel is therefore
taken with that block's statistics estimated anew; gradients are those of the frozen model.

Source: SubTuning, arXiv 2302.06354, section on theory; differs in everything practical (see the tests).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .base import Batch, Estimate, Prediction, Problem, Proposal
from .copies import call, logits_of
from .intact import Rows, intact, labels_at, looked_at
from .ridge import fold_predictions
from .scoring import score_of
from .sketch import Sketch
from .statistics import Settled

# Weight of the blocks' kernels beside the head's, each of mean diagonal 1; chosen with the ridge.
SHARES: tuple[float, ...] = (0.1, 0.5, 0.9, 0.99)
MEASURES = ("explained", "score")


@dataclass(frozen=True)
class Kernels:
    """
    What every selection is predicted from: `(1 + blocks) x 2` matrices at most, in float32.

    Args:
        heads (`dict[int, Tensor]`):
            Kernels of what goes into the head, of shape `(rows, rows)`, by the place of the block whose statistics were
            estimated anew; -1 for the frozen model. Empty where the head takes no single vector per row.
        blocks (`list[Tensor]`): Kernels of the gradients of each block, of shape `(rows, rows)`.
    """

    heads: dict[int, Tensor]
    blocks: list[Tensor]

    def of(self, places: Sequence[int], share: float) -> Tensor:
        """
        The kernel of a selection.

        Args:
            places (`Sequence[int]`): Of its blocks.
            share (`float`): Weight of the blocks beside the head.

        Returns: `Tensor` of shape `(rows, rows)`, in float64.
        """
        inside = [self.blocks[place] for place in places]
        heads = [self.heads[place] for place in places if place in self.heads] or [*self.heads.values()][:1]
        if not inside or not heads:
            return _mean(inside or heads)
        return (1 - share) * _mean(heads) + share * _mean(inside)


class KernelProposal(Proposal):
    """
    Scores a selection by kernel ridge regression on sketched gradients.

    Costs a forward pass and one backward pass without weight gradients (counted as a forward pass) per direction; for
    networks with running statistics three passes more, and half a pass per block. Fewer directions are used where that
    costs more than the budget, and then fewer rows. Memory: one matrix of `rows x max(rows, width)` numbers per block.

    Args:
        directions (`int`, *optional*, defaults to 4):
            Number of random combinations of what goes into the head whose gradients are taken. Outputs of a head that
            was fitted to all rows would show the kernels the labels of validation rows: where such a head learns its
            rows by heart, the order of blocks that comes out is the same for shuffled labels.
        side (`int`, *optional*, defaults to 32): Dimensions that a layer's inputs, and its output gradients, keep.
        width (`int`, *optional*, defaults to 4096): Length of the sketched gradient of a row and block.
        statistics (`bool`, *optional*, defaults to `True`): Estimate running statistics anew.
        measure (`str`, *optional*, defaults to `"explained"`):
            What is predicted: `"explained"`, the share of the targets' variance on validation rows, or `"score"`, the
            problem's own score of the predictions, which is coarser.
        max_rows (`int`, *optional*, defaults to 1500): Beside the problem's limit; time grows with the third power.
    """

    name = "kernel"

    def __init__(
        self,
        directions: int = 4,
        side: int = 32,
        width: int = 4096,
        statistics: bool = True,
        measure: str = "explained",
        max_rows: int = 1500,
    ) -> None:
        if measure not in MEASURES:
            raise ValueError(f"`measure` must be one of {MEASURES}, found {measure!r}.")
        self.directions, self.side, self.width = directions, side, width
        self.statistics, self.measure, self.max_rows = statistics, measure, max_rows

    def fit(self, problem: Problem, budget: float) -> Prediction:
        with problem.meter.timed(), intact(problem.model, problem.seed):
            look = _Look(self, problem, budget)
            with look.settled.copies.installed():
                kernels = look.kernels()
        return _Prediction(problem, look.rows, kernels, look.labels if kernels.heads else None, look.outputs, self)


class _Look:
    """The passes through the model."""

    def __init__(self, asked: KernelProposal, problem: Problem, budget: float) -> None:
        self.asked, self.problem = asked, problem
        self.rows = looked_at(problem, asked.max_rows)
        self.settled = Settled(problem, self.rows)
        if not asked.statistics:
            self.settled.places = []
        self.directions = self._fit_into(budget * problem.meter.fine_tune)
        self.settled.rows = self.rows
        self.labels = labels_at(problem, self.rows)
        self.outputs = self.settled.features.outputs

    def _fit_into(self, units: float) -> int:
        """Choose how many directions, and if need be how many rows, the budget allows."""
        per_row = 2.0
        if self.settled.places:
            shares = self.problem.meter.shares
            per_row += 2 + math.fsum(shares) + sum(1 - math.fsum(shares[:place]) for place in self.settled.places)
        spare = units / len(self.rows) - per_row
        directions = max(1, min(self.asked.directions, int(spare)))
        affordable = int(units / (per_row + directions))
        if affordable < len(self.rows):
            self.rows = looked_at(self.problem, max(affordable, 2 * len(self.problem.folds)))
        return directions

    def kernels(self) -> Kernels:
        """All that predictions need."""
        features = self._features()
        heads = {}
        if features is not None and self.labels is not None:
            heads = {place: _unit(_gram(_standardised(found))) for place, found in features.items()}
            features_there = features[-1]
        else:
            features_there = None
        return Kernels(heads, self._gradients(features_there))

    def _features(self) -> dict[int, Tensor] | None:
        """What goes into the head: in the frozen model, and with each block's statistics of its own."""
        settled, meter = self.settled, self.problem.meter
        settled.estimate()
        found: dict[int, list[Tensor]] = {place: [] for place in (-1, *settled.places)}
        for places, batch, features in settled.batches():
            if features is None or self.labels is None:
                return None
            found[-1].append(features)
            for place in settled.places:
                with torch.no_grad(), settled.using(place):
                    found[place].append(settled.features(batch))  # type: ignore[arg-type]
                meter.forward(places.stop - places.start, settled.first(place))
        return {place: torch.cat(parts).float() for place, parts in found.items()}

    def _gradients(self, features: Tensor | None) -> list[Tensor]:
        """Kernels of the gradients of each block."""
        asked, problem = self.asked, self.problem
        directions = self._directions(features)
        width = max(asked.width // len(directions), 1)
        modules = [problem.model.get_submodule(name) for name in problem.blocks]
        sketch = Sketch(modules, asked.side, width, problem.seed)
        found = [torch.zeros(len(self.rows), len(directions), width) for _ in modules]
        for places, batch in self.rows.batches(problem, labelled=features is None):
            sketch.rows = places.stop - places.start
            with torch.enable_grad(), sketch.listening(), self.settled.features.watching():
                answer = self._answer(batch, features is not None)
                for place, vectors in enumerate(sketch.read(answer, directions)):
                    for block, part in zip(found, vectors, strict=True):
                        block[places, place] = part.to(block)
            for _ in range(1 + len(directions)):
                problem.meter.forward(sketch.rows)
        kernels = []
        for place in range(len(found)):
            kernels.append(_unit(_gram(found[place].flatten(1))))
            found[place] = torch.empty(0)  # a kernel takes the place of its features
        return kernels

    def _directions(self, features: Tensor | None) -> Tensor:
        """
        Linear functions, of what goes into the head, whose gradients are taken.

        Returns: `Tensor` of shape `(directions, dim)`; for a loss `(1, 1)`.
        """
        if features is None:
            return torch.ones(1, 1)
        random = torch.Generator().manual_seed(self.problem.seed)
        drawn = torch.randn(self.directions, features.shape[1], generator=random)
        return drawn.to(features) / _spread(features)

    def _answer(self, batch: Batch, vectors: bool) -> Tensor:
        """What gradients are taken of: what goes into the head, or the summed loss of the rows."""
        if vectors:
            answer = self.settled.features.of(call(self.problem.model, batch)[0])
            assert answer is not None
            return answer
        output, loss = call(self.problem.model, batch)
        rows = next(len(value) for value in batch.values() if isinstance(value, Tensor))
        return (logits_of(output).float().logsumexp(-1).mean() if loss is None else loss).reshape(1) * rows


@dataclass
class _Prediction(Prediction):
    """Cross-validates selections in closed form."""

    problem: Problem
    rows: Rows
    kernels: Kernels
    labels: Tensor | None
    outputs: int
    asked: KernelProposal
    known: dict[tuple[int, ...], Estimate] = field(default_factory=dict)

    def __call__(self, blocks: Sequence[str]) -> Estimate:
        places = tuple(self.problem.blocks.index(name) for name in blocks)
        if places not in self.known:
            with self.problem.meter.timed():
                self.known[places] = Estimate(tuple(self._score(places, *fold) for fold in self.rows.folds))
        return self.known[places]

    def _targets(self) -> Tensor:
        if self.labels is None:  # one unit less loss for every row
            return torch.ones(len(self.rows), 1, dtype=torch.float64)
        if self.labels.is_floating_point():
            return self.labels.double()[:, None]
        return nn.functional.one_hot(self.labels, self.outputs).double()

    def _score(self, places: Sequence[int], train: Tensor, validation: Tensor) -> float:
        targets = self._targets()
        if not places and not self.kernels.heads:
            return 0.0
        best: tuple[float, Tensor] | None = None
        for share in SHARES if places and self.kernels.heads else SHARES[:1]:
            kernel = self.kernels.of(places, share)
            predicted, left_out, _ = fold_predictions(kernel, targets, train, validation, self.labels is not None)
            error = float((left_out - targets[train]).square().mean())
            if best is None or error < best[0]:
                best = (error, predicted)
        assert best is not None
        return self._measured(best[1], targets, train, validation)

    def _measured(self, predicted: Tensor, targets: Tensor, train: Tensor, validation: Tensor) -> float:
        if self.asked.measure == "score" and self.labels is not None:
            return score_of(self.problem, predicted.float(), self.labels[validation])
        around = targets[train].mean(0) if self.labels is not None else 0.0
        wrong, there = (predicted - targets[validation]).square().sum(), (targets[validation] - around).square().sum()
        return 1.0 - float(wrong / there.clamp_min(1e-12))


# --- matrices --------------------------------------------------------------------------------
def _gram(features: Tensor) -> Tensor:
    return features @ features.T


def _spread(features: Tensor) -> Tensor:
    spread = features.std(0, unbiased=False)
    return spread.clamp_min(1e-4 * float(spread.max()) + 1e-12)


def _standardised(features: Tensor) -> Tensor:
    return (features - features.mean(0)) / _spread(features)


def _unit(kernel: Tensor) -> Tensor:
    """Mean diagonal 1, so that large blocks do not win by their size; zero stays zero."""
    return kernel / kernel.diagonal().mean().clamp_min(1e-30)


def _mean(kernels: Sequence[Tensor]) -> Tensor:
    return torch.stack([kernel.double() for kernel in kernels]).mean(0).cpu()
