"""
Pruning of tuned blocks: an adapter's copies lose their least inner channels before they are trained.

Widths of the blocks as their neighbours see them stay, and so do the frozen originals. Needs torch-pruning; adapters
that were pruned do not.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..errors import ArgumentsError
from .channels import Call, Channels, find_channels, kept_by, own_call
from .checks import adapter_tensors, bare
from .head import TaskModuleWrapper
from .layer import BlockLayer
from .thin import changed_widths, cut

__all__ = ["PrunedChannels", "PruningReport", "prune_blocks"]

_NORMS = {"l1": 1, "l2": 2}
_SCOPES = ("local", "global")


@dataclass(frozen=True)
class PrunedChannels:
    """
    Channels of one block that go together.

    Args:
        block (`str`): Name of the block.
        layers (`tuple[str, ...]`): Names in it of the layers that compute them.
        before (`int`), after (`int`): How many there are for the layer that takes them.
    """

    block: str
    layers: tuple[str, ...]
    before: int
    after: int


@dataclass(frozen=True)
class PruningReport:
    """
    What [`prune_blocks`] did.

    Args:
        pruned (`tuple[PrunedChannels, ...]`): Channels before and after, in forward order.
        left (`dict[str, dict[str, str]]`): For each block, layers that keep their outputs, and why.
        parameters (`tuple[int, int]`): Of the model as the adapter runs it, before and after.
        flops (`tuple[int, int]`): Of its forward on the example inputs, as PyTorch counts them: two for each
            multiplication in convolutions, linear layers and attention.
        adapter_bytes (`tuple[int, int]`): Of the tensors in the adapter's file.
    """

    pruned: tuple[PrunedChannels, ...]
    left: dict[str, dict[str, str]]
    parameters: tuple[int, int]
    flops: tuple[int, int]
    adapter_bytes: tuple[int, int]

    @property
    def unpruned_blocks(self) -> tuple[str, ...]:
        """`tuple[str, ...]`: Tuned blocks that have no channels to take out."""
        pruned = {one.block for one in self.pruned}
        return tuple(block for block in self.left if block not in pruned)

    def table(self) -> str:
        """The report as text."""
        lines = [f"{one.block}: {' + '.join(one.layers)} {one.before} -> {one.after}" for one in self.pruned]
        for block, layers in self.left.items():
            for why in dict.fromkeys(layers.values()):
                names = " + ".join(layer for layer in layers if layers[layer] == why)
                lines.append(f"{block}: {names or 'all of it'} as it was: {why}")
        totals = {"parameters": self.parameters, "FLOPs": self.flops, "bytes of the adapter": self.adapter_bytes}
        for name, (before, after) in totals.items():
            lines.append(f"{name}: {before:,} -> {after:,} ({after / before - 1:+.1%})")
        return "\n".join(lines)


def prune_blocks(
    model: Any,
    example_inputs: Mapping[str, Any],
    ratio: float = 0.5,
    norm: str = "l1",
    scope: str = "local",
    adapter_name: str | None = None,
) -> PruningReport:
    """
    Take the channels with the smallest weights out of the tuned blocks of an adapter, before it is trained.

    Only channels inside a block go: what it is given and what it gives are as wide as before, so the frozen blocks
    around it, and the frozen original, stay as they are. Attention keeps its heads, and channels that a norm takes
    together stay too; the report says so. What is left is written into the adapter's configuration, from which it is
    saved, loaded, merged and served as any other. Make the optimizer (or the `Trainer`) afterwards: the copies have new
    parameters. An adapter may be pruned again, from the widths it has by then.

    Args:
        model (`PeftModel`): With a SubTuning adapter that is active and not merged.
        example_inputs (`Mapping[str, Any]`): One batch, as the model is called with it, on its device.
        ratio (`float`, *optional*, defaults to 0.5): Share of the channels to take out, between 0 and 1. Each layer
            keeps one at least.
        norm (`str`, *optional*, defaults to `"l1"`): `"l1"` or `"l2"`, of all weights that belong to a channel.
        scope (`str`, *optional*, defaults to `"local"`):
            `"local"` takes the same share of each layer's channels; `"global"` ranks the channels of all tuned blocks
            together, by their weights relative to the mean of their layer's.
        adapter_name (`str`, *optional*): The adapter; by default the active one.

    Returns: [`PruningReport`]: A warning names blocks that have no channels to take out.
    Raises:
        [`ArgumentsError`]: If an argument has a value that means nothing, or the adapter is not active or is merged.
        [`MissingDependencyError`]: If torch-pruning is not installed.
    Source: SubTuning, arXiv 2302.06354v1, which prunes half of the channels of ResNet-50's last stage in one shot, by
        their L1 norms within each layer; dependencies of layers after DepGraph, arXiv 2301.12900.
    """
    _check_arguments(ratio, norm, scope)
    base, name = bare(model), _adapter_of(model, adapter_name)
    layers = {
        key: one for key, one in base.named_modules() if isinstance(one, BlockLayer) and name in one.subtuning_blocks
    }
    if not layers:
        raise ArgumentsError(f"Adapter '{name}' tunes no block, so there is nothing to prune. Choose blocks.")
    with _evaluating(base):
        calls = _calls(model, layers, example_inputs)
        before = _measures(model, name, example_inputs)
        found: dict[str, list[Channels]] = {}
        left: dict[str, dict[str, str]] = {}
        for block, layer in layers.items():
            found[block], left[block] = find_channels(layer.subtuning_blocks[name], calls[block], _NORMS[norm])
        removed = _choose(found, ratio, scope)
        pruned = [one for block in layers for one in _prune(block, layers[block], name, removed[block], left[block])]
        after = _measures(model, name, example_inputs)
    config = model.peft_config[name]
    widths = {block: changed_widths(layer.original, layer.subtuning_blocks[name]) for block, layer in layers.items()}
    config.pruned_channels = {block: layers for block, layers in widths.items() if layers} or None
    totals = list(zip(before, after, strict=True))
    report = PruningReport(tuple(pruned), left, totals[0], totals[1], totals[2])
    _warn(report)
    return report


def _warn(report: PruningReport) -> None:
    blocks = report.unpruned_blocks
    if blocks:
        reasons = sorted({why for block in blocks for why in report.left[block].values()})
        why = "; ".join(reasons) or "it has no linear or convolution layers"
        warnings.warn(f"Nothing was pruned in {', '.join(blocks)}: {why}.", stacklevel=3)


def _check_arguments(ratio: float, norm: str, scope: str) -> None:
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio < 1:
        raise ArgumentsError(f"`ratio` must be a number between 0 and 1, found {ratio!r}. 0.5 takes half out.")
    for field, value, choices in (("norm", norm, _NORMS), ("scope", scope, _SCOPES)):
        if value not in choices:
            raise ArgumentsError(f"`{field}` must be one of {', '.join(choices)}, found {value!r}.")


def _adapter_of(model: Any, adapter_name: str | None) -> str:
    configs = getattr(model, "peft_config", {})
    active = [name for name in getattr(model, "active_adapters", []) if name in configs] if configs else []
    name = adapter_name if adapter_name is not None else next(iter(active), None)
    if name is None or not hasattr(model, "get_base_model"):
        raise ArgumentsError("Expected a PeftModel with an active adapter. Make one with get_peft_model.")
    if name not in configs or not hasattr(configs[name], "pruned_channels"):
        raise ArgumentsError(f"'{name}' is no SubTuning adapter of this model, which has {', '.join(configs)}.")
    if name not in active:
        raise ArgumentsError(f"Adapter '{name}' is not active. Call set_adapter('{name}') first.")
    blocks = [one for one in bare(model).modules() if isinstance(one, BlockLayer)]
    if any(one.merged or one.disable_adapters for one in blocks):
        raise ArgumentsError("Adapters are merged or disabled. Call unmerge_adapter(), or enable them, first.")
    return name


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """In eval mode, and without the cache of decoders, which would grow with each call of a block."""
    modes = {module: module.training for module in model.modules()}
    config = getattr(model, "config", None)
    cached = getattr(config, "use_cache", None)
    model.eval()
    if cached is not None:
        config.use_cache = False  # type: ignore[union-attr]
    try:
        yield
    finally:
        if cached is not None:
            config.use_cache = cached  # type: ignore[union-attr]
        # Copies that were made meanwhile are put in the mode of training by the model, before each forward.
        for module in model.modules():
            module.training = modes.get(module, module.training)


def _calls(model: Any, layers: Mapping[str, BlockLayer], inputs: Mapping[str, Any]) -> dict[str, Call]:
    """What each block is called with, first time."""
    calls: dict[str, Call] = {}

    def record(block: str, args: tuple, kwargs: dict[str, Any]) -> None:
        if block not in calls:
            calls[block] = own_call((args, kwargs))

    handles = [
        layer.register_forward_pre_hook(
            lambda _, args, kwargs, block=block: record(block, args, kwargs), with_kwargs=True
        )
        for block, layer in layers.items()
    ]
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    idle = [block for block in layers if block not in calls]
    if idle:
        raise ArgumentsError(f"With these `example_inputs` the model does not call {idle[0]}. Give a whole batch.")
    return calls


def _measures(model: Any, name: str, inputs: Mapping[str, Any]) -> tuple[int, int, int]:
    """Parameters that the model runs with, FLOPs of one call, bytes of the adapter."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(**inputs)
    base = bare(model)
    tensors = adapter_tensors(base, name)
    return _parameters(base), counter.get_total_flops(), sum(one.nbytes for one in tensors.values())


def _parameters(base: nn.Module) -> int:
    idle: set[nn.Parameter] = set()
    for module in base.modules():
        if isinstance(module, BlockLayer):
            idle |= {*module.parameters()} - {*module.active_block.parameters()}
        elif isinstance(module, TaskModuleWrapper):
            idle |= {*module.parameters()} - {*module.active_module.parameters()}
    return sum(one.numel() for one in {*base.parameters()} - idle)


def _choose(found: Mapping[str, list[Channels]], ratio: float, scope: str) -> dict[str, list[tuple[Channels, Tensor]]]:
    """The units that go, by block."""
    groups = [channels for block in found.values() for channels in block]
    if scope == "local" or not groups:
        take = [int(channels.count * ratio) for channels in groups]
    else:
        units = sorted((float(one), i) for i, channels in enumerate(groups) for one in channels.importance)
        chosen = [i for _, i in units[: int(len(units) * ratio)]]
        take = [min(chosen.count(i), channels.count - 1) for i, channels in enumerate(groups)]
    smallest = [
        channels.importance.argsort(stable=True)[:number] for channels, number in zip(groups, take, strict=True)
    ]
    answer = iter(zip(groups, smallest, strict=True))
    return {block: [next(answer) for _ in channels] for block, channels in found.items()}


def _prune(
    block: str, layer: BlockLayer, name: str, removed: list[tuple[Channels, Tensor]], left: dict[str, str]
) -> Iterator[PrunedChannels]:
    """Put a copy with fewer channels in the place of the adapter's; what stays for want of channels to go is noted."""
    copy = deepcopy(layer.subtuning_blocks[name])
    cut(copy, kept_by(copy, removed))
    layer.subtuning_blocks[name] = copy
    for channels, units in removed:
        if not len(units):
            left.update(dict.fromkeys(channels.makers, "none of its channels is among those to go"))
            continue
        yield PrunedChannels(block, channels.makers, channels.width, channels.width - len(units) * channels.groups)
