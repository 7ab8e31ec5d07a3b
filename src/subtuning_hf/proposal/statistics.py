"""
Re-estimated statistics: what a block gains before a single weight is trained.

Under a shift of the inputs, much of what tuning a block of a network with BatchNorm gains is that its running
statistics are taken anew. That alone is cheap to try: the statistics of one block from the rows at hand, the head
fitted in closed form. A network without running statistics is not told apart by this: all its selections score alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .base import Batch, Estimate, Prediction, Problem, Proposal
from .copies import Copies, Trunk, call, reestimated
from .features import Features
from .intact import Rows, intact, labels_at, looked_at
from .scoring import score_features, score_model


class _Stop(Exception):
    """Ends a forward pass behind the block that was asked for."""


class Settled:
    """
    Copies of blocks with statistics of their own, each taken as if it were the only block that is tuned.

    Statistics come from all rows looked at, without their labels: one set for all folds.

    Args:
        problem ([`Problem`]): Whose model; to be used while it is frozen and in eval mode.
        rows ([`Rows`]): To estimate from.
    """

    def __init__(self, problem: Problem, rows: Rows) -> None:
        self.problem, self.rows = problem, rows
        self.copies = Copies(problem.model, problem.blocks)
        for parameter in self.copies.parameters(problem.blocks):
            parameter.requires_grad_(False)
        self.copies.eval(problem.blocks)
        self.trunk = Trunk(self.copies, problem.blocks)
        self.features = Features(problem.model, problem.head)
        # Sequence models without a head may make inputs of their labels.
        self.labelled = labels_at(problem, rows) is None
        self.places = [place for place, name in enumerate(problem.blocks) if self.copies.norms([name])]

    def estimate(self) -> None:
        """Take the statistics of every block anew, from the inputs that it gets in the frozen model."""
        blocks, meter = self.problem.blocks, self.problem.meter
        if not self.places:
            return
        with torch.no_grad(), reestimated(self.copies.norms(blocks)):
            for places, batch in self.rows.batches(self.problem, labelled=self.labelled):
                size = places.stop - places.start
                self.trunk.record(batch)
                meter.forward(size)
                for place in self.places:
                    with self.using(place), _ending_with(self.copies.copies[blocks[place]]):
                        call(self.problem.model, batch)
                    meter.forward(size, place if self.trunk.is_exact else 0, place + 1)

    def estimate_together(self, names: Sequence[str]) -> None:
        """Take the statistics of a selection anew, each block getting its inputs from those before it."""
        with torch.no_grad(), reestimated(self.copies.norms(names)):
            self.copies.use(names)
            for places, batch in self.rows.batches(self.problem, labelled=self.labelled):
                call(self.problem.model, batch)
                self.problem.meter.forward(places.stop - places.start)

    @contextmanager
    def using(self, place: int) -> Iterator[None]:
        """Inside, one block stands in with its copy, and the blocks before it give what was recorded."""
        self.copies.use([self.problem.blocks[place]])
        try:
            with self.trunk.starting_at(place):
                yield
        finally:
            self.copies.use(())

    def batches(self) -> Iterator[tuple[slice, Batch, Tensor | None]]:
        """Yields: places, rows, and their features in the frozen model, which is recorded for `using`."""
        for places, batch in self.rows.batches(self.problem, labelled=self.labelled):
            with self.features.watching():
                output, _ = self.trunk.record(batch)
                features = self.features.of(output)
            self.problem.meter.forward(places.stop - places.start)
            yield places, batch, features

    def first(self, place: int) -> int:
        """Where a pass for a block has to begin."""
        return place if self.trunk.is_exact else 0


@contextmanager
def _ending_with(module: nn.Module) -> Iterator[None]:
    """Inside, a forward pass ends behind this module, and nothing is said about it."""

    def stop(module: nn.Module, args: object, output: object) -> None:
        raise _Stop

    handle = module.register_forward_hook(stop)
    try:
        yield
    except _Stop:
        pass
    finally:
        handle.remove()


class StatisticsProposal(Proposal):
    """
    Scores a selection by what its re-estimated statistics and a fitted head give, without training.

    Single blocks are predicted with three forward passes in all, and half a pass per block; a selection of several
    costs two more when it is asked for, and where the budget is spent it is predicted by the best of its blocks.

    Without norms with running statistics all selections score alike.
    """

    name = "statistics"

    def fit(self, problem: Problem, budget: float) -> Prediction:
        with problem.meter.timed(), intact(problem.model, problem.seed):
            rows = looked_at(problem)
            settled = Settled(problem, rows)
            prediction = _Prediction(problem, settled, labels_at(problem, rows), budget)
            with settled.copies.installed():
                prediction.look()
        return prediction


@dataclass
class _Prediction(Prediction):
    """Estimates of single blocks, and of any selection that is asked for."""

    problem: Problem
    settled: Settled
    labels: Tensor | None
    budget: float
    known: dict[tuple[str, ...], Estimate] = field(default_factory=dict)

    def look(self) -> None:
        """Predict the head alone and all single blocks."""
        settled, problem = self.settled, self.problem
        settled.estimate()
        found: dict[int, list[Tensor]] = {place: [] for place in (-1, *settled.places)}
        for places, batch, features in settled.batches():
            if features is None or self.labels is None:
                return self._look_at_losses()
            found[-1].append(features)
            for place in settled.places:
                with torch.no_grad(), settled.using(place):
                    found[place].append(settled.features(batch))  # type: ignore[arg-type]
                problem.meter.forward(places.stop - places.start, settled.first(place))
        estimates = {place: self._of_features(torch.cat(parts).float()) for place, parts in found.items()}
        self.known[()] = estimates[-1]
        for place, name in enumerate(problem.blocks):
            self.known[(name,)] = estimates.get(place, estimates[-1])
        return None

    def _look_at_losses(self) -> None:
        self.known[()] = score_model(self.problem, self.settled.rows)
        for place, name in enumerate(self.problem.blocks):
            self.known[(name,)] = self.known[()]
            if place in self.settled.places:
                self.settled.copies.use([name])
                self.known[(name,)] = score_model(self.problem, self.settled.rows)
                self.settled.copies.use(())

    def _of_features(self, features: Tensor) -> Estimate:
        assert self.labels is not None
        labels, outputs = self.labels.to(features.device), self.settled.features.outputs
        return score_features(self.problem, self.settled.rows, features, labels, outputs)

    def __call__(self, blocks: Sequence[str]) -> Estimate:
        key = tuple(blocks)
        normed = tuple(name for name in key if self.settled.copies.norms([name]))
        if key not in self.known and len(normed) < 2:
            self.known[key] = self.known[normed]
        if key not in self.known:
            meter = self.problem.meter
            if meter.spent + 2 * 3 * len(self.settled.rows) / meter.fine_tune > self.budget:
                return max((self.known[(name,)] for name in normed), key=lambda one: one.score)
            with meter.timed(), intact(self.problem.model, self.problem.seed):
                self.known[key] = self._together(normed)
        return self.known[key]

    def _together(self, names: Sequence[str]) -> Estimate:
        settled = self.settled
        # Copies anew: the statistics of the single blocks were taken without the others.
        settled.copies = Copies(self.problem.model, names)
        for parameter in settled.copies.parameters(names):
            parameter.requires_grad_(False)
        settled.copies.eval(names)
        with settled.copies.installed():
            settled.estimate_together(names)
            settled.copies.use(names)
            if self.labels is None or settled.features.layer is None:
                return score_model(self.problem, settled.rows)
            parts = []
            for places, batch in settled.rows.batches(self.problem, labelled=settled.labelled):
                with torch.no_grad():
                    parts.append(settled.features(batch))
                self.problem.meter.forward(places.stop - places.start)
            return self._of_features(torch.cat(parts).float())  # type: ignore[arg-type]
