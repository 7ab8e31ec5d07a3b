"""
Thin copies: a block with fewer inner channels than the block it was copied from.

Takes channels out of layers, and makes room for the weights of a copy that was pruned before. Knows which layers have
channels and where they write their number down; does not know which channels are worth keeping.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Widths = Mapping[str, Sequence[int]]

# Modules around a pruned layer that write its width down once more, as those of Llama do.
_WIDTH_NAMES = ("intermediate_size", "hidden_features", "hidden_dim", "ffn_dim", "inner_dim")


def widths_of(layer: Any) -> tuple[int, int] | None:
    """
    The number of input and output channels of a layer whose channels can be taken out.

    Args:
        layer (`torch.nn.Module`): Any module.

    Returns: `tuple[int, int]` or `None`: `None` for other kinds, and for layers whose weight is computed from others.
    """
    if getattr(layer, "parametrizations", None) is not None:
        return None
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if isinstance(layer, nn.modules.conv._ConvNd) and not layer.transposed:
        return layer.in_channels, layer.out_channels
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        return layer.num_features, layer.num_features
    return None


def keeps_channels(layer: Any) -> bool:
    """Whether each output channel is one of the input's, as in batch norms and depthwise convolutions."""
    if isinstance(layer, nn.modules.conv._ConvNd):
        return 1 < layer.groups == layer.in_channels == layer.out_channels
    return isinstance(layer, nn.modules.batchnorm._BatchNorm)


def groups_of(layer: Any) -> int:
    """Groups of a convolution whose groups stay as many when channels are taken out; 1 for all other layers."""
    return layer.groups if isinstance(layer, nn.modules.conv._ConvNd) and not keeps_channels(layer) else 1


def cut(block: nn.Module, kept: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """
    Take channels out of layers of a block.

    Args:
        block (`torch.nn.Module`): Changed in place; the layers get new parameters.
        kept (`Mapping[str, tuple[torch.Tensor, torch.Tensor]]`): By name of a layer, the indices of the input and of
            the output channels that stay, ascending. Each group of a convolution keeps the same of its input channels,
            and as many outputs as the others.
    """
    for name, (inputs, outputs) in kept.items():
        layer: Any = block.get_submodule(name)
        before = widths_of(layer)
        assert before is not None, name
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            _cut_norm(layer, outputs)
        else:
            _cut_weights(layer, inputs, outputs)
        parent: Any = block.get_submodule(name.rpartition(".")[0])
        for attribute in _WIDTH_NAMES:
            if parent.__dict__.get(attribute) == before[1] != len(outputs):
                setattr(parent, attribute, len(outputs))


def _cut_norm(layer: Any, kept: Tensor) -> None:
    for name in ("weight", "bias"):
        _replace(layer, name, kept, 0)
    for name in ("running_mean", "running_var"):
        buffer = getattr(layer, name)
        if buffer is not None:
            setattr(layer, name, buffer.index_select(0, kept.to(buffer.device)))
    layer.num_features = len(kept)


def _cut_weights(layer: Any, inputs: Tensor, outputs: Tensor) -> None:
    _replace(layer, "weight", outputs, 0)
    _replace(layer, "bias", outputs, 0)
    if isinstance(layer, nn.Linear):
        _replace(layer, "weight", inputs, 1)
        layer.in_features, layer.out_features = len(inputs), len(outputs)
        return
    if keeps_channels(layer):
        layer.groups = len(outputs)
    else:  # a weight has the input channels of one group
        _replace(layer, "weight", inputs[: len(inputs) // layer.groups], 1)
    layer.in_channels, layer.out_channels = len(inputs), len(outputs)


def _replace(layer: nn.Module, name: str, kept: Tensor, dim: int) -> None:
    old = layer._parameters.get(name)
    if old is not None:
        new = old.detach().index_select(dim, kept.to(old.device))
        setattr(layer, name, nn.Parameter(new, requires_grad=old.requires_grad))


def thin(block: nn.Module, widths: Widths) -> None:
    """
    Give layers of a block the widths of a copy that was pruned: room for its weights, which are not here.

    Args:
        block (`torch.nn.Module`): A full copy; changed in place.
        widths (`Mapping[str, Sequence[int]]`): By name of a layer, its number of input and output channels.
    """
    cut(block, {name: (torch.arange(inputs), torch.arange(outputs)) for name, (inputs, outputs) in widths.items()})


def changed_widths(original: nn.Module, copy: nn.Module) -> dict[str, list[int]]:
    """
    What makes of one block the other by [`thin`].

    Args:
        original (`torch.nn.Module`), copy (`torch.nn.Module`): Two blocks of the same layers.

    Returns: `dict[str, list[int]]`: By name of a layer that differs, the copy's number of input and output channels.
    """
    found = {}
    for name, layer in copy.named_modules():
        widths = widths_of(layer)
        if widths is not None and widths != widths_of(original.get_submodule(name)):
            found[name] = list(widths)
    return found


def problem_of(block: nn.Module, widths: Widths) -> str | None:
    """
    Why a block cannot have widths that somebody wrote down.

    That its layers fit together is not looked at: such a block fails when it is called.

    Args:
        block (`torch.nn.Module`): The original.
        widths (`Mapping[str, Sequence[int]]`): As for [`thin`].

    Returns: `str` or `None`: what is wrong, in words; `None` if nothing is.
    """
    layers = dict(block.named_modules())
    for name, (inputs, outputs) in widths.items():
        layer = layers.get(name) if name else None
        full = widths_of(layer)
        if full is None:
            return f"'{name[:100]}' is none of its linear, convolution or batch norm layers"
        groups = groups_of(layer)
        if not (1 <= inputs <= full[0] and 1 <= outputs <= full[1]):
            limits = f"1 to {full[0]} input and 1 to {full[1]} output channels"
        elif keeps_channels(layer) and inputs != outputs:
            limits = "as many output channels as it has input channels"
        elif inputs % groups or outputs % groups:
            limits = f"the same number of channels in each of its {groups} groups"
        else:
            continue
        return f"'{name}' can have {limits}, not {inputs} and {outputs}"
    return None
