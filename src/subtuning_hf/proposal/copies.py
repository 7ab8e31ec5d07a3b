"""
Copies of blocks and head, put into a model and taken out again, and the frozen part that they share.

A selection is used by putting the copies of its blocks in the places of the originals, as the tuner does with a tuned
block: what is frozen stays in eval mode, a copy has statistics of its own. Knows neither training nor scores.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..tuner.floating import floating_copy
from .base import Batch

_LABELS = "labels"


class Copies:
    """
    Copies of some modules of a model, any of which can stand in the originals' places.

    Args:
        model (`torch.nn.Module`): The base model, altered inside [`Copies.installed`] only.
        names (`Sequence[str]`): Modules to copy, none inside another.

    Attributes: `names`; `originals` and `copies`, both (`dict[str, torch.nn.Module]`). A copy may be exchanged.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self.model, self.names = model, tuple(names)
        self.originals = {name: model.get_submodule(name) for name in names}
        self.copies = {name: trainable_copy(module) for name, module in self.originals.items()}
        self._places = {name: _place(model, name) for name in names}

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Freeze the model and put it in eval mode; when this ends it is as it was, also after an error."""
        modes = [(module, module.training) for module in self.model.modules()]
        asking = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        try:
            self.model.eval()
            for parameter in asking:
                parameter.requires_grad_(False)
            yield
        finally:
            self.use(())
            for parameter in asking:
                parameter.requires_grad_(True)
            for module, mode in modes:
                module.training = mode

    def use(self, names: Iterable[str]) -> None:
        """Put these copies in, and the originals everywhere else."""
        wanted = set(names)
        for name, (parent, child) in self._places.items():
            parent._modules[child] = self.copies[name] if name in wanted else self.originals[name]

    def parameters(self, names: Iterable[str]) -> list[nn.Parameter]:
        """Parameters of these copies that can train."""
        return [p for name in names for p in self.copies[name].parameters() if p.requires_grad]

    def train(self, names: Iterable[str]) -> None:
        """Training mode for these copies: dropout on, statistics of the batch."""
        for name in names:
            self.copies[name].train()

    def eval(self, names: Iterable[str]) -> None:
        """Eval mode for these copies."""
        for name in names:
            self.copies[name].eval()

    def norms(self, names: Iterable[str]) -> list[nn.Module]:
        """Norms with running statistics in these copies."""
        return [m for name in names for m in self.copies[name].modules() if has_statistics(m)]


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    parent, _, child = name.rpartition(".")
    return model.get_submodule(parent), child


def trainable_copy(module: nn.Module) -> nn.Module:
    """A copy in eval mode, whose floating-point parameters all ask for gradients and have none."""
    made = floating_copy(module).eval()
    for parameter in made.parameters():
        parameter.grad = None
        if parameter.is_leaf and (parameter.is_floating_point() or parameter.is_complex()):
            parameter.requires_grad_(True)
    return made


# --- statistics ------------------------------------------------------------------------------
def has_statistics(module: nn.Module) -> bool:
    """Whether a module is a norm that normalises by running statistics in eval mode."""
    return isinstance(getattr(module, "running_mean", None), Tensor) and hasattr(module, "reset_running_stats")


@contextmanager
def reestimated(norms: Sequence[Any]) -> Iterator[None]:
    """Let norms take their running statistics anew from what goes through them inside, as the mean over batches."""
    before = [(norm.momentum, norm.training) for norm in norms]
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        yield
    finally:
        for norm, (momentum, mode) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.train(mode)


# --- calls -----------------------------------------------------------------------------------
def call(model: nn.Module, batch: Batch) -> tuple[Any, Tensor | None]:
    """
    Run a model on a batch.

    Args:
        model (`torch.nn.Module`): The model.
        batch (`Mapping`): Its keyword arguments; labels are left out for a model that takes none.

    Returns: `tuple`: the output, and the loss: the model's own, or for a model that gives none cross-entropy for
    labels that are whole numbers and the squared error for others. The loss is `None` without labels.
    """
    labels = batch.get(_LABELS)
    kind: Any = type(model)
    fed = batch if _takes_labels(kind) else {name: value for name, value in batch.items() if name != _LABELS}
    output = model(**fed)
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if loss is None and isinstance(labels, Tensor):
        loss = _loss(logits_of(output), labels)
    return output, loss


def logits_of(output: Any) -> Any:
    """Logits, whatever the model wraps them in."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        return output["logits"] if "logits" in output else next(v for k, v in output.items() if k != "loss")
    return output[0]


def predicts_numbers(model: nn.Module) -> bool:
    """
    Whether labels of a model are numbers even where they are whole, such as ratings: by `problem_type` of its
    configuration, or one output, as transformers decides it.
    """
    config = getattr(model, "config", None)
    problem = getattr(config, "problem_type", None)
    return problem == "regression" or (problem is None and getattr(config, "num_labels", None) == 1)


def _loss(logits: Any, labels: Tensor) -> Tensor:
    if labels.is_floating_point():
        return nn.functional.mse_loss(logits.float().reshape(labels.shape), labels.float())
    return nn.functional.cross_entropy(logits.float().reshape(-1, logits.shape[-1]), labels.reshape(-1))


@cache
def _takes_labels(kind: Any) -> bool:
    parameters = inspect.signature(kind.forward).parameters
    return _LABELS in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


# --- the frozen part -------------------------------------------------------------------------
class Trunk:
    """
    What the frozen blocks gave for the batch at hand, so that a selection runs from its first block on.

    Exact, bit for bit, wherever a block's output depends on its inputs alone: an earlier block gives back what it gave
    for the same batch. A model that writes into the output of a block, or does not call each block once, is run in full
    instead, and `is_exact` is then false. Nothing is kept longer than the batch.

    Args:
        copies ([`Copies`]): Of at least these blocks, `installed`.
        blocks (`Sequence[str]`): The model's blocks, in forward order.
    """

    def __init__(self, copies: Copies, blocks: Sequence[str]) -> None:
        self.copies, self.blocks = copies, tuple(blocks)
        self.is_exact = True
        self._outputs: list[Any] = []

    def record(self, batch: Batch) -> tuple[Any, Tensor | None]:
        """
        Run the frozen model on a new batch, with its own modules in all places.

        Args:
            batch (`Mapping`): Its keyword arguments.

        Returns: `tuple`: as [`call`].
        """
        self._outputs = []
        seen: list[list[Any]] = [[] for _ in self.blocks]
        modules = [self.copies.originals[name] for name in self.blocks]
        handles = [m.register_forward_hook(_keep(found)) for m, found in zip(modules, seen, strict=True)]
        try:
            self.copies.use(())
            with torch.no_grad():
                result = call(self.copies.model, batch)
        finally:
            for handle in handles:
                handle.remove()
        once = all(len(found) == 1 for found in seen)
        if not once or any(leaf._version != version for found in seen for leaf, version in found[0][1]):
            self.is_exact = False
        else:
            self._outputs = [found[0][0] for found in seen]
        return result

    @contextmanager
    def starting_at(self, place: int) -> Iterator[None]:
        """Inside, the blocks before this one give back what was recorded for this batch."""
        skipped = [self.copies.originals[name] for name in self.blocks[:place]] if self.is_exact else []
        try:
            for module, output in zip(skipped, self._outputs, strict=False):
                module.__dict__["forward"] = _giving(output)
            yield
        finally:
            for module in skipped:
                module.__dict__.pop("forward", None)


def _keep(found: list[Any]) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        found.append((output, [(leaf, leaf._version) for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]))

    return hook


def _giving(output: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: output
