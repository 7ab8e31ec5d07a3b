"""
Looking at a model and its rows without leaving a trace.

Values are never written into the model's own tensors: statistics and weights of the head are exchanged for other
tensors and the old ones put back, so that nobody who watches the model for writes sees one. What this module does not
know: which questions are asked of the model.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .base import Batch, Problem
from .copies import predicts_numbers

_TREE = ("_modules", "_parameters", "_buffers")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")
# The last is transformers' mark that its hooks which capture hidden states are there; it goes where they go.
_FLAGS = ("forward", "momentum", "training", "_output_capturing_hooks_installed")
_ABSENT = object()


@contextmanager
def intact(model: nn.Module, seed: int = 0) -> Iterator[None]:
    """
    Put the model in eval mode with all gradients off, and back as it was when the block ends, also after an error:
    modules, parameters and buffers (as objects), `requires_grad`, gradients, modes, hooks. Torch's random state too.

    Args:
        model (`torch.nn.Module`): The model; nothing may write into its tensors meanwhile.
        seed (`int`, *optional*, defaults to 0): Of torch's randomness inside.
    """
    modules = list(model.modules())
    kept = [{name: dict(module.__dict__[name]) for name in (*_TREE, *_HOOKS)} for module in modules]
    flags = [{name: module.__dict__.get(name, _ABSENT) for name in _FLAGS} for module in modules]
    gradients = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    caching = [c for c in {id(c): c for c in map(_config, modules)}.values() if getattr(c, "use_cache", False)]
    device = next(model.parameters()).device
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            model.eval()
            for parameter, _, _ in gradients:
                parameter.requires_grad_(False)
                parameter.grad = None
            for config in caching:  # a cache grows with every call
                config.use_cache = False
            yield
    finally:
        for config in caching:
            config.use_cache = True
        for module, content, flag in zip(modules, kept, flags, strict=True):
            _put_back(module, content, flag)
        for parameter, requires_grad, grad in gradients:
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad


def _config(module: nn.Module) -> Any:
    return module.__dict__.get("config")


def _put_back(module: nn.Module, content: dict[str, dict], flags: dict[str, Any]) -> None:
    for name, old in content.items():
        mapping = module.__dict__[name]
        if list(mapping) != list(old) or any(mapping[key] is not value for key, value in old.items()):
            mapping.clear()
            mapping.update(old)
    for name, value in flags.items():
        if value is _ABSENT:
            module.__dict__.pop(name, None)
        else:
            module.__dict__[name] = value


# --- rows ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Rows:
    """
    The rows that are looked at.

    Args:
        numbers (`tuple[int, ...]`): Of the problem's rows, ascending.
        folds (`tuple[tuple[Tensor, Tensor], ...]`): Training and validation places in `numbers`, for each fold.
    """

    numbers: tuple[int, ...]
    folds: tuple[tuple[Tensor, Tensor], ...]

    def __len__(self) -> int:
        return len(self.numbers)

    def batches(
        self, problem: Problem, size: int | None = None, labelled: bool = True
    ) -> Iterator[tuple[slice, Batch]]:
        """Yields: `tuple[slice, Batch]`: places and rows through the evaluation transform, with or without labels."""
        count = math.ceil(len(self) / (size or problem.eval_batch_size))
        # Of even size: a norm cannot tell the statistics of a single row that is left over.
        edges = [len(self) * part // count for part in range(count + 1)]
        for start, stop in pairwise(edges):
            batch = problem.eval_batch(self.numbers[start:stop])
            # A loss that nobody asked for costs time, and need not fit the labels.
            yield slice(start, stop), {key: batch[key] for key in batch if labelled or key != "labels"}


def looked_at(problem: Problem, most: int | None = None) -> Rows:
    """
    All rows of the folds, or as many as allowed, drawn by the problem's seed.

    Args:
        problem ([`Problem`]): Whose rows.
        most (`int`, *optional*): Upper limit beside the problem's own.

    Returns: [`Rows`]: folds left without training or validation rows by the draw are left out.
    """
    numbers = sorted({row for fold in problem.folds for row in (*fold.train, *fold.validation)})
    limit = min(problem.max_rows, most or problem.max_rows)
    if len(numbers) > limit:
        numbers = sorted(random.Random(problem.seed).sample(numbers, limit))
    place = {row: index for index, row in enumerate(numbers)}

    def places(rows: Sequence[int]) -> Tensor:
        return torch.tensor([place[row] for row in rows if row in place], dtype=torch.long)

    folds = [(places(fold.train), places(fold.validation)) for fold in problem.folds]
    return Rows(tuple(numbers), tuple((one, other) for one, other in folds if len(one) and len(other)))


def labels_at(problem: Problem, rows: Rows) -> Tensor | None:
    """
    Labels of the rows as a tensor.

    Args:
        problem ([`Problem`]): Whose labels.
        rows ([`Rows`]): Which.

    Returns: `Tensor` of shape `(rows,)` or `None`: `int64` for classes, `float32` for numbers, `None` for anything
    else.
    """
    if problem.labels is None:
        return None
    found = [problem.labels[row] for row in rows.numbers]
    if any(isinstance(value, str) or hasattr(value, "__len__") for value in found):
        return None
    whole = all(float(value).is_integer() for value in found) and not any(isinstance(value, float) for value in found)
    if whole and not predicts_numbers(problem.model):
        return torch.tensor([int(value) for value in found])
    return torch.tensor([float(value) for value in found], dtype=torch.float32)
