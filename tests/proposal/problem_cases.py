"""Tiny problems for proposals, and what must not change on a model that a proposal has looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from subtuning_hf.proposal.base import Meter, Problem
from subtuning_hf.search.folds import make_folds
from toys import TOYS


def accuracy(logits: Any, labels: Any, loss: float) -> float:
    """Share of rows that are right; minus the loss where labels are no classes."""
    return float((logits.argmax(-1) == labels).mean()) if np.issubdtype(labels.dtype, np.integer) else -loss


def make_problem(
    model: nn.Module,
    inputs: dict[str, Tensor],
    labels: Tensor | None,
    blocks: Sequence[str],
    head: Sequence[str],
    num_folds: int = 3,
    **settings: Any,
) -> Problem:
    """A problem over rows that lie in memory."""
    rows = len(next(iter(inputs.values())))
    targets = inputs.get("decoder_input_ids", inputs.get("input_ids")) if labels is None else labels

    def batch(numbers: Sequence[int]) -> dict[str, Tensor]:
        index = torch.tensor(list(numbers))
        return {name: values[index] for name, values in inputs.items()} | {"labels": targets[index]}

    classes = labels is not None and not labels.is_floating_point()
    folds = make_folds(rows, num_folds, 0, labels=labels.tolist() if classes else None)
    shares = tuple(0.8 / len(blocks) for _ in blocks)
    asked = {"epochs": 4.0, "batch_size": 8, "learning_rate": 1e-3, "weight_decay": 0.0, **settings}
    return Problem(
        model=model, blocks=tuple(blocks), head=tuple(head), folds=folds,
        labels=None if labels is None else labels.tolist(), train_batch=batch, eval_batch=batch, score=accuracy,
        meter=Meter(shares, 3.0 * rows * asked["epochs"]), **asked,
    )  # fmt: skip


def toy_problem(name: str, rows: int = 24, numbers: bool = False, **settings: Any) -> Problem:
    """A toy with random rows; labels are classes, numbers, or for a model without head the tokens."""
    toy = TOYS[name]
    model = toy.build()
    labels: Tensor | None = torch.arange(rows) % 3
    if numbers:
        labels = torch.randn(rows, generator=torch.Generator().manual_seed(0))
    return make_problem(model, toy.inputs(rows), labels if toy.head else None, toy.blocks, toy.head, **settings)


class Residual(nn.Module):
    """A residual block with or without BatchNorm."""

    def __init__(self, dim: int, norm: bool) -> None:
        super().__init__()
        self.up = nn.Linear(dim, dim)
        self.norm = nn.BatchNorm1d(dim) if norm else nn.Identity()
        self.down = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.norm(self.up(x))))


class Tower(nn.Module):
    """A few residual blocks under a linear head."""

    def __init__(self, blocks: int = 4, dim: int = 12, classes: int = 3, norm: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Residual(dim, norm) for _ in range(blocks))
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def tower_problem(model: Tower, labels: Tensor, x: Tensor, **settings: Any) -> Problem:
    """A problem for a tower."""
    names = [f"blocks.{place}" for place in range(len(model.blocks))]
    return make_problem(model, {"x": x}, labels, names, ["head"], **settings)


def make_tower(seed: int, rows: int, dim: int = 12, **shape: Any) -> tuple[Tower, Tensor]:
    """A random tower and rows for it; statistics are those of the rows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, x = Tower(dim=dim, **shape), torch.randn(rows, dim)
        with torch.no_grad():
            for block in model.blocks:
                if isinstance(block.norm, nn.BatchNorm1d):
                    block.norm.momentum = None
            model.train()(x)
        return model.eval(), x


def state_of(model: nn.Module) -> list[Any]:
    """All that must be as it was: objects, values, modes, gradients, hooks and attributes of instances."""
    found: list[Any] = []
    for name, module in model.named_modules():
        hooks = [len(content) for key, content in sorted(module.__dict__.items()) if key.endswith("_hooks")]
        found.append((name, id(module), module.training, sorted(module.__dict__), hooks))
        found.append(getattr(module, "momentum", None))
        for key, value in [*module._parameters.items(), *module._buffers.items()]:
            if value is not None:
                grad = None if value.grad is None else value.grad.tolist()
                found.append((key, id(value), value._version, value.requires_grad, grad, value.tolist()))
    config = getattr(model, "config", None)
    return [*found, torch.get_rng_state().tolist(), getattr(config, "use_cache", None)]


class Broken(Exception):
    """Raised by a row that cannot be read."""


def breaking(problem: Problem, calls: int) -> Problem:
    """The same problem, whose rows cannot be read after some calls."""
    readers = problem.eval_batch, problem.train_batch
    left = [calls]

    def reader(of: Any) -> Any:
        def read(numbers: Sequence[int]) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Broken
            return of(numbers)

        return read

    problem.eval_batch, problem.train_batch = map(reader, readers)
    return problem


def unsettle(model: nn.Module) -> None:
    """Give a model the marks of use: a mode per module, some gradients, one frozen parameter, a hook."""
    model.train()
    for place, module in enumerate(model.modules()):
        module.training = place % 3 == 0
    parameters = list(model.parameters())
    parameters[0].requires_grad_(False)
    parameters[-1].grad = torch.ones_like(parameters[-1])
    model.register_forward_hook(lambda module, args, output: None)
