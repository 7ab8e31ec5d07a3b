"""
Scores of blocks by the gradients of the loss, and by where a short training of everything goes.

All gradients are those of the frozen model in eval mode, over the training rows of the first fold.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .base import Problem
from .copies import Copies, call
from .features import Features
from .intact import Rows, labels_at, looked_at
from .ranking import BlockScores
from .scoring import fitted

KINDS = ("rgn", "snr", "fisher")
HEADS = ("fitted", "initial")


class GradientScores(BlockScores):
    """
    A norm of each block's gradient, from one pass over the training rows in batches.

    Args:
        kind (`str`, *optional*, defaults to `"rgn"`):
            - `"rgn"`: norm of the mean gradient over the norm of the weights;
            - `"snr"`: squared mean over variance of the batches' gradients, its mean over the weights;
            - `"fisher"`: diagonal of the empirical Fisher information, its mean over the weights. Taken from the
              moments of batches: the variance of a batch is that of its rows over their number.
        head (`str`, *optional*, defaults to `"fitted"`):
            `"fitted"` to the rows first, so that the gradient does not speak of the head's error alone, or `"initial"`.

    Source: "rgn" and "snr": Lee et al., Surgical Fine-Tuning, arXiv 2210.11466, where they set learning rates.
    """

    def __init__(self, kind: str = "rgn", head: str = "fitted") -> None:
        if kind not in KINDS or head not in HEADS:
            raise ValueError(f"`kind` must be one of {KINDS} and `head` one of {HEADS}, found {kind!r}, {head!r}.")
        self.kind, self.head = kind, head
        self.name = f"{kind} ({head} head)"

    def scores(self, problem: Problem) -> list[float]:
        rows = first_training_rows(problem)
        if self.head == "fitted":
            fit_into_place(problem, rows)
        blocks = [list(problem.model.get_submodule(name).parameters()) for name in problem.blocks]
        moments = [_Moments(parameters) for parameters in blocks]
        size = 0
        for places, batch in rows.batches(problem, problem.batch_size):
            size = max(size, places.stop - places.start)
            with torch.enable_grad(), asking(p for parameters in blocks for p in parameters):
                _loss(problem, batch).backward()
                problem.meter.train(places.stop - places.start)
                for one in moments:
                    one.add()
        return [one.score(self.kind, size) for one in moments]


class DisplacementScores(BlockScores):
    """
    How far each block moves, relative to its weights, in a short training of the whole model.

    Args:
        share (`float`, *optional*, defaults to 0.25): Of the epochs of a full training.

    Source: SALFT; here with AdamW at the problem's learning rate, linearly falling.
    """

    name = "displacement"

    def __init__(self, share: float = 0.25) -> None:
        self.share = share

    def scores(self, problem: Problem) -> list[float]:
        rows = first_training_rows(problem)
        fit_into_place(problem, rows)
        copies = Copies(problem.model, [*problem.blocks, *problem.head])
        with copies.installed():
            copies.use(copies.names)
            copies.train(copies.names)
            self._train(problem, rows, copies)
            copies.eval(copies.names)
        return [
            _norm(_differences(copies, name)) / max(_norm(copies.originals[name].parameters()), 1e-30)
            for name in problem.blocks
        ]

    def _train(self, problem: Problem, rows: Rows, copies: Copies) -> None:
        groups = [
            {"params": copies.parameters(problem.blocks), "lr": problem.learning_rate},
            {"params": copies.parameters(problem.head), "lr": problem.head_learning_rate or problem.learning_rate},
        ]
        optimizer = torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=problem.weight_decay)
        per_epoch = max(len(rows) // problem.batch_size, 1)
        steps = max(round(self.share * problem.epochs * per_epoch), 1)
        decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
        order: list[int] = []
        for _ in range(steps):
            if len(order) < min(problem.batch_size, len(rows)):
                order = torch.randperm(len(rows)).tolist()
            chosen, order = order[: problem.batch_size], order[problem.batch_size :]
            with torch.enable_grad():
                loss = _loss(problem, problem.train_batch([rows.numbers[place] for place in chosen]))
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
            decay.step()
            problem.meter.train(len(chosen))


class _Moments:
    """Sums over batches of the gradients of some parameters and of their squares."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = [p for p in parameters if p.is_floating_point()]
        self.sums = [torch.zeros_like(p, dtype=torch.float32) for p in self.parameters]
        self.squares = [torch.zeros_like(one) for one in self.sums]
        self.count = 0

    def add(self) -> None:
        """Take the gradients of a batch in."""
        self.count += 1
        for parameter, total, square in zip(self.parameters, self.sums, self.squares, strict=True):
            if parameter.grad is not None:
                total += parameter.grad
                square.addcmul_(parameter.grad, parameter.grad)

    def score(self, kind: str, batch_size: int) -> float:
        """The score of the block whose parameters these are."""
        if not self.parameters:
            return 0.0
        mean = torch.cat([one.flatten() for one in self.sums]) / self.count
        variance = torch.cat([one.flatten() for one in self.squares]) / self.count - mean.square()
        variance = variance.clamp_min(0.0) * self.count / max(self.count - 1, 1)
        if kind == "rgn":
            return float(mean.norm()) / max(_norm(self.parameters), 1e-30)
        if kind == "fisher":
            return float((variance * batch_size + mean.square()).mean())
        seen = variance > 0
        return float((mean[seen].square() / variance[seen]).mean()) if bool(seen.any()) else 0.0


# --- shared ----------------------------------------------------------------------------------
def first_training_rows(problem: Problem) -> Rows:
    """
    The training rows of the first fold, so that no validation label of that fold is seen.

    Args:
        problem ([`Problem`]): Whose folds.

    Returns: [`Rows`]: without folds.
    """
    rows = looked_at(problem)
    return Rows(tuple(rows.numbers[place] for place in rows.folds[0][0].tolist()), ())


def fit_into_place(problem: Problem, rows: Rows) -> None:
    """
    Give the model a head fitted to some rows, by exchanging its tensors; nothing where the head cannot be fitted.

    Args:
        problem ([`Problem`]): Whose model, inside `intact`.
        rows ([`Rows`]): To fit to.
    """
    reader, labels, found = Features(problem.model, problem.head), labels_at(problem, rows), []
    if labels is None or reader.layer is None:
        return
    for places, batch in rows.batches(problem, labelled=False):
        with torch.no_grad():
            found.append(reader(batch))
        problem.meter.forward(places.stop - places.start)
        if found[-1] is None:
            return
    features = torch.cat(found).float()  # type: ignore[arg-type]
    layer = reader.layer
    weight, bias = fitted(features, labels.to(features.device), reader.outputs)
    old = layer.weight
    layer._parameters["weight"] = nn.Parameter(weight.reshape(old.shape).to(old), requires_grad=False)  # type: ignore
    if layer.bias is not None:
        layer._parameters["bias"] = nn.Parameter(bias.to(old), requires_grad=False)  # type: ignore[arg-type]


@contextmanager
def asking(parameters: Iterator[nn.Parameter]) -> Iterator[None]:
    """Let some parameters have gradients for a while."""
    asked = [p for p in parameters if p.is_floating_point()]
    try:
        for parameter in asked:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(False)
            parameter.grad = None


def _loss(problem: Problem, batch: object) -> Tensor:
    _, loss = call(problem.model, batch)  # type: ignore[arg-type]
    if loss is None:
        raise ValueError("Expected a loss: the model gives none, and the batch has no `labels` to compute one from.")
    return loss


def _differences(copies: Copies, name: str) -> Iterator[Tensor]:
    pairs = zip(copies.copies[name].parameters(), copies.originals[name].parameters(), strict=True)
    return (one.detach() - other.detach() for one, other in pairs)


def _norm(tensors: object) -> float:
    return float(torch.stack([t.detach().float().square().sum() for t in tensors]).sum().sqrt())  # type: ignore
