"""
Methods that train weights of the model itself: all, some of them, or all at different rates and times.

Source: layer-wise rates arXiv 1905.05583, gradual unfreezing arXiv 1801.06146, LP-FT arXiv 2202.10054, BitFit arXiv
2106.10199, Auto-RGN arXiv 2210.11466.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from peft import get_peft_model
from torch import nn
from transformers import TrainerCallback

from ..blocks import find_blocks, find_head, partition
from ..tuner import SubTuningConfig
from .closed import fit_output_layer
from .method import Point, Settings
from .training import TrainedMethod, head_parameters

if TYPE_CHECKING:
    from datasets import Dataset

    from .task import Task

# A new head alone bears, and needs, rates that would wreck pretrained blocks.
PROBE_RATE = 16.0
# Few and small parameters bear larger steps than whole blocks do.
SMALL_RATE = 4.0


@dataclass(frozen=True)
class BlockMethod(TrainedMethod):
    """
    Trains whole blocks and the head, or everything.

    Args:
        name (`str`): For tables.
        blocks (`tuple[str, ...]`, *optional*): Blocks that train beside the head; `None` means every parameter.
        rate_scale (`float`, *optional*): See [`Method`].
    """

    name: str
    blocks: tuple[str, ...] | None = None
    rate_scale: float = 1.0

    def key(self) -> dict[str, Any]:
        """As [`Method.key`]: by the blocks, whatever the name."""
        return {"blocks": "all" if self.blocks is None else sorted(self.blocks)}

    def settings(self, point: Point, learning_rate: float) -> Settings:
        """As [`Method.settings`]; without blocks there is one rate, the head's."""
        values = super().settings(point, learning_rate)
        if self.blocks == ():  # nothing but the head, whose rate is the rate
            del values["head_factor"]
        return values

    def prepare(self, model: nn.Module, settings: Settings, task: Task, rows: Dataset) -> nn.Module:
        """As [`TrainedMethod.prepare`]: an adapter of the blocks, or the model with every parameter free."""
        if self.blocks is None:
            return model.requires_grad_(True)
        return get_peft_model(model, SubTuningConfig(blocks=list(self.blocks)))  # type: ignore[arg-type]


LinearProbe = BlockMethod("LP", (), PROBE_RATE)
FullFineTuning = BlockMethod("FT")


def Selection(blocks: Sequence[str], name: str = "SubTuning") -> BlockMethod:
    """
    The method that trains these blocks and the head.

    Args:
        blocks (`Sequence[str]`): Full names.
        name (`str`, *optional*, defaults to `"SubTuning"`): For tables.

    Returns: [`BlockMethod`]
    """
    return BlockMethod(name, tuple(blocks))


class _Whole(TrainedMethod):
    """A method that may change every weight."""

    def key(self) -> dict[str, Any]:
        return {"method": self.name}

    def prepare(self, model: nn.Module, settings: Settings, task: Task, rows: Dataset) -> nn.Module:
        return model.requires_grad_(True)


class ProbeThenFull(_Whole):
    """The head fitted to frozen features first, from where it is, then everything: LP-FT."""

    name = "LP-FT"

    def key(self) -> dict[str, Any]:
        return {"method": self.name, "head": "from its own"}

    def prepare(self, model: nn.Module, settings: Settings, task: Task, rows: Dataset) -> nn.Module:
        fit_output_layer(model, task, rows)
        return model.requires_grad_(True)


class LayerWiseDecay(_Whole):
    """Everything, each block at a rate lower by a factor than the block above it."""

    name = "LLRD"

    def settings(self, point: Point, learning_rate: float) -> Settings:
        return {**super().settings(point, learning_rate), "decay": round(0.5 + 0.5 * point[2], 3)}

    def factors(self, model: nn.Module, settings: Settings) -> dict[str, float]:
        decay, parts = settings["decay"], partition(model)
        depth = len(parts.blocks)
        found: dict[str, float] = dict.fromkeys(parts.stem, decay**depth)
        for place, names in enumerate(parts.blocks.values()):
            found |= dict.fromkeys(names, decay ** (depth - 1 - place))
        return found | super().factors(model, settings)


class GradualUnfreezing(_Whole):
    """The head first, then one block after the other from the top, all by half of the training."""

    name = "gradual unfreezing"

    def callbacks(self, model: nn.Module, settings: Settings) -> list[TrainerCallback]:
        return [_Unfreezing(model)]


class _Unfreezing(TrainerCallback):
    def __init__(self, model: nn.Module) -> None:
        parts, named = partition(model), dict(model.named_parameters())
        self.groups = [[named[name] for name in names] for names in reversed([parts.stem, *parts.blocks.values()])]
        self.free = -1

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        share = 2 * state.global_step / max(state.max_steps, 1)  # the whole by half of the steps
        free = min(int(share * (len(self.groups) + 1)), len(self.groups))
        if free != self.free:
            for place, group in enumerate(self.groups):
                for parameter in group:
                    parameter.requires_grad_(place < free)
            self.free = free

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for group in self.groups:
            for parameter in group:
                parameter.requires_grad_(True)


class AutoRGN(_Whole):
    """Everything, each block at a rate in proportion to its gradient's size relative to its weights', read anew in each
    epoch."""

    name = "Auto-RGN"

    def factors(self, model: nn.Module, settings: Settings) -> dict[str, float]:
        # Groups of their own, by rates that no two share, so that a callback can scale each.
        parts = partition(model)
        groups = [names for names in (parts.stem, *parts.blocks.values()) if names]
        found = {name: 1.0 + 1e-9 * (place + 1) for place, names in enumerate(groups) for name in names}
        return found | dict.fromkeys(head_parameters(model), float(settings["head_factor"]))

    def callbacks(self, model: nn.Module, settings: Settings) -> list[TrainerCallback]:
        return [_Relative(model)]


class _Relative(TrainerCallback):
    """Scales the rates of an optimiser's groups by the relative gradient norms of their blocks."""

    def __init__(self, model: nn.Module, batches: int = 5) -> None:
        self.batches = batches
        parts, named = partition(model), dict(model.named_parameters())
        self.parts = {
            name: [named[one] for one in names] for name, names in {"": parts.stem, **parts.blocks}.items() if names
        }
        self.weights: dict[int, float] = {}

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model, loader = kwargs["model"], kwargs["train_dataloader"]
        norms = dict.fromkeys(self.parts, 0.0)
        model.eval()  # the statistics of norms stay as they are
        device = next(model.parameters()).device
        with torch.random.fork_rng():
            for batch in itertools.islice(loader, self.batches):
                model.zero_grad()
                model(**{name: value.to(device) for name, value in batch.items()}).loss.backward()
                for name, parameters in self.parts.items():
                    grads = [p.grad.norm() for p in parameters if p.grad is not None]
                    weights = torch.stack([p.detach().norm() for p in parameters]).norm().clamp_min(1e-12)
                    norms[name] += float(torch.stack(grads).norm() / weights) if grads else 0.0
        model.zero_grad()
        most = max(norms.values()) or 1.0
        self.weights = {id(p): norms[name] / most for name, parameters in self.parts.items() for p in parameters}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        optimizer = kwargs["optimizer"]
        for group in getattr(optimizer, "optimizer", optimizer).param_groups:
            # The schedule sets the rate anew after each step, so factors do not pile up.
            group["lr"] *= self.weights.get(id(group["params"][0]), 1.0)


@dataclass(frozen=True)
class SmallParameters(TrainedMethod):
    """
    Only biases, or only the weights of norms, beside the head.

    Args:
        name (`str`): `"BitFit"` or `"norms"`.
    """

    name: str
    rate_scale: float = SMALL_RATE

    def key(self) -> dict[str, Any]:
        return {"method": self.name}

    def prepare(self, model: nn.Module, settings: Settings, task: Task, rows: Dataset) -> nn.Module:
        model.requires_grad_(False)
        for module in model.modules():
            if self.name == "norms" and is_norm(module):
                for parameter in module.parameters(recurse=False):
                    parameter.requires_grad_(True)
            bias = getattr(module, "bias", None)
            if self.name == "BitFit" and isinstance(bias, nn.Parameter):
                bias.requires_grad_(True)
        for name in find_head(model):
            model.get_submodule(name).requires_grad_(True)
        return model


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm with weights of its own, by the name of its class."""
    kind = type(module).__name__.lower()
    return "norm" in kind and not list(module.children()) and bool(list(module.parameters(recurse=False)))


def block_names(model: nn.Module) -> list[str]:
    """The blocks of a model, in forward order."""
    return [block.name for block in find_blocks(model, warn=False)]
