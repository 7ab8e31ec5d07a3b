"""
Per-row gradients of whole blocks, squeezed into short vectors during one ordinary backward pass.

The gradient of a row with respect to the weight of a linear layer is the sum over positions of (output gradient) x
(input). Both factors are projected to few dimensions before they are multiplied, and the products of all layers of a
block are added up in one vector by a count sketch, so that inner products of these vectors estimate inner products of
the gradients without bias: exactly, where nothing has to be projected away. Weights need no gradient of their own, so a
backward pass costs what a forward pass does.

Seen are linear layers, convolutions, gains and biases of norms; not seen are embeddings, layer scales and weights used
without calling their module (torch's `MultiheadAttention`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
# Below this a gain says nothing about what it was multiplied with.
_SMALL = 1e-6


class Sketch:
    """
    Short vectors whose inner products estimate those of per-row gradients.

    Args:
        blocks (`Sequence[torch.nn.Module]`): Whose parameters.
        side (`int`, *optional*, defaults to 32): Dimensions that a layer's inputs, and its output gradients, keep.
        width (`int`, *optional*, defaults to 1024): Length of a vector.
        seed (`int`, *optional*, defaults to 0): Of the projections.
    """

    def __init__(self, blocks: Sequence[nn.Module], side: int = 32, width: int = 1024, seed: int = 0) -> None:
        self.blocks = list(blocks)
        self.side, self.width = side, width
        self._random = torch.Generator().manual_seed(seed)
        self._sketched: dict[nn.Module, Any] = {}
        self._buckets: dict[tuple[nn.Module, str], tuple[Tensor, Tensor]] = {}
        self._taken = [0] * len(self.blocks)
        self._sizes = [sum(_sketched_size(layer, side) for layer in _layers(block)) for block in self.blocks]
        self._vectors: list[Tensor] = []
        self.rows = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, forward passes with gradients on are prepared for [`Sketch.read`]."""
        handles = []
        try:
            for place, block in enumerate(self.blocks):
                for layer in _layers(block):
                    handles.append(_affine_output(layer, partial(self._forward, place, layer)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def read(self, output: Tensor, directions: Tensor) -> Iterator[list[Tensor]]:
        """
        Gradients of some linear functions of an output.

        Args:
            output (`torch.Tensor` of shape `(rows, dim)`): Computed inside `listening`, after `rows` was set.
            directions (`torch.Tensor` of shape `(directions, dim)`): One backward pass for each.

        Yields: `list[torch.Tensor]`: for each direction one tensor of shape `(rows, width)` for each block.
        """
        for place, direction in enumerate(directions):
            self._vectors = [torch.zeros(self.rows, self.width, device=output.device) for _ in self.blocks]
            if output.requires_grad:
                last = place == len(directions) - 1
                output.backward(direction.to(output).expand_as(output), retain_graph=not last)
            yield self._vectors

    # --- hooks -------------------------------------------------------------------------------
    def _forward(self, place: int, layer: nn.Module, into: Tensor, output: Tensor) -> Tensor | None:
        if not torch.is_grad_enabled() or output.shape[0] % self.rows or not output.is_floating_point():
            return None  # without a row axis (DeBERTa's table of relative positions) rows cannot be told apart
        started = not output.requires_grad
        if started:
            # The first layers of the first block: the graph begins here. A copy, since what follows may write in place.
            output = output.detach().requires_grad_().clone()
        with torch.no_grad():
            left = self._left(layer, into.detach().float(), output.detach())
        output.register_hook(partial(self._backward, place, layer, left))
        return output if started else None

    def _backward(self, place: int, layer: nn.Module, left: Tensor, gradient: Tensor) -> None:
        gradient = gradient.detach().float()
        if isinstance(layer, _CONVOLUTIONS):
            self._add_convolution(place, layer, left, gradient)
        elif _is_linear(layer):
            right = gradient.reshape(self.rows, -1, gradient.shape[-1])  # (rows, positions, out)
            self._add(place, layer, "weight", left.transpose(1, 2) @ self._projected(layer, "out", right))
            if layer.bias is not None:
                self._add(place, layer, "bias", right.sum(1))
        else:
            by_channel = _channels_last(layer, gradient).reshape(self.rows, -1, left.shape[-1])
            self._add(place, layer, "weight", (by_channel * left).sum(1))
            if getattr(layer, "bias", None) is not None:
                self._add(place, layer, "bias", by_channel.sum(1))

    def _left(self, layer: nn.Module, into: Tensor, output: Tensor) -> Tensor:
        """What an output gradient is multiplied with: projected inputs, or the normalised values of a norm."""
        if isinstance(layer, _CONVOLUTIONS):
            return self._patches(layer, into, output)
        if _is_linear(layer):
            return self._projected(layer, "in", into.reshape(self.rows, -1, into.shape[-1]))
        weight, bias = layer.weight.detach().float(), getattr(layer, "bias", None)  # type: ignore[operator, union-attr]
        values = _channels_last(layer, output.float())
        values = values if bias is None else values - bias.detach()
        values = torch.where(weight.abs() > _SMALL, values / weight, 0.0)
        return values.reshape(self.rows, -1, values.shape[-1])

    def _patches(self, layer: Any, into: Tensor, output: Tensor) -> Tensor:
        """
        Projected patches of a convolution: another convolution, with random kernels.

        Returns: `Tensor` of shape `(rows, groups, positions, kept)`.
        """
        size = layer.weight[0].numel()
        kernels = self._projection(layer, "in", size, into.device).T  # (kept, in * kernel)
        weight = kernels.reshape(-1, *layer.weight.shape[1:]).repeat(layer.groups, *[1] * (layer.weight.ndim - 1))
        patches = layer._conv_forward(into, weight, None)  # (rows * k, groups * kept, *positions)
        if patches.shape[2:] != output.shape[2:]:
            patches = layer._conv_forward(_padded_to_same(layer, into), weight, None)
        if patches.shape[2:] != output.shape[2:]:
            raise ValueError(f"Cannot tell the patches of {layer}: {tuple(into.shape)} gave {tuple(output.shape)}.")
        return self._grouped(patches, layer.groups)

    def _grouped(self, values: Tensor, groups: int) -> Tensor:
        """`(rows * k, groups * channels, *positions)` as `(rows, groups, k * positions, channels)`."""
        values = values.flatten(2).unflatten(1, (groups, -1)).unflatten(0, (self.rows, -1))
        return values.permute(0, 2, 1, 4, 3).flatten(2, 3)

    def _add_convolution(self, place: int, layer: Any, left: Tensor, gradient: Tensor) -> None:
        right = self._grouped(gradient, layer.groups)  # (rows, groups, positions, out)
        if layer.bias is not None:
            self._add(place, layer, "bias", right.sum(2).flatten(1))
        self._add(place, layer, "weight", left.transpose(2, 3) @ self._projected(layer, "out", right))

    # --- random projections ------------------------------------------------------------------
    def _projected(self, layer: nn.Module, side: str, values: Tensor) -> Tensor:
        if values.shape[-1] <= self.side:
            return values
        return values @ self._projection(layer, side, values.shape[-1], values.device)

    def _projection(self, layer: nn.Module, side: str, size: int, device: torch.device) -> Tensor:
        """Orthogonal directions, of shape `(size, kept)`; the identity where nothing is lost."""
        known = self._sketched.setdefault(layer, {})
        if side not in known:
            if size <= self.side:
                known[side] = torch.eye(size, device=device)
            else:
                drawn = torch.randn(size, self.side, generator=self._random)
                known[side] = (torch.linalg.qr(drawn)[0] * math.sqrt(size / self.side)).to(device)
        return known[side]

    def _add(self, place: int, layer: nn.Module, name: str, values: Tensor) -> None:
        """Add a layer's part to the vectors of its block."""
        values = values.flatten(1)
        if (layer, name) not in self._buckets:
            self._buckets[layer, name] = self._draw(place, values.shape[1], values.device)
        buckets, signs = self._buckets[layer, name]
        self._vectors[place].index_add_(1, buckets, values * signs)

    def _draw(self, place: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
        if self._sizes[place] <= self.width:  # room for every value
            start = self._taken[place]
            self._taken[place] += size
            return torch.arange(start, start + size, device=device), torch.ones(size, device=device)
        buckets = torch.randint(self.width, (size,), generator=self._random)
        signs = torch.randint(2, (size,), generator=self._random) * 2.0 - 1.0
        return buckets.to(device), signs.to(device)


# --- layers ----------------------------------------------------------------------------------
def _is_linear(layer: nn.Module) -> bool:
    # transformers' Conv1D, of GPT-2, is a linear layer whose weight is transposed.
    return isinstance(layer, nn.Linear) or type(layer).__name__ == "Conv1D"


def _is_norm(layer: nn.Module) -> bool:
    weight = layer._parameters.get("weight")
    return "Norm" in type(layer).__name__ and weight is not None and weight.ndim == 1


def _layers(block: nn.Module) -> list[nn.Module]:
    return [m for m in block.modules() if isinstance(m, _CONVOLUTIONS) or _is_linear(m) or _is_norm(m)]


def _sketched_size(layer: Any, side: int) -> int:
    """Values of a layer after the projections and before the count sketch."""
    bias = 0 if getattr(layer, "bias", None) is None else layer.bias.numel()
    if isinstance(layer, _CONVOLUTIONS):
        into, out = layer.weight[0].numel(), layer.weight.shape[0] // layer.groups
        return layer.groups * min(into, side) * min(out, side) + bias
    if layer.weight.ndim == 1:
        return layer.weight.numel() + bias
    return math.prod(min(size, side) for size in layer.weight.shape) + bias


def _affine_output(layer: nn.Module, listener: Any) -> Any:
    """Hear the input of a layer and its output, before the activation that timm puts into some norms."""
    inside = layer._modules.get("drop") if _is_norm(layer) else None
    if inside is None:
        return layer.register_forward_hook(lambda module, args, output: listener(args[0], output))

    def before(module: nn.Module, args: Any) -> Any:
        changed = listener(args[0], args[0])
        return None if changed is None else (changed, *args[1:])

    return inside.register_forward_pre_hook(before)


def _channels_last(layer: nn.Module, values: Tensor) -> Tensor:
    """The values that a norm returns, with the channels that its gains belong to in the last place."""
    size = layer.weight.numel()  # type: ignore[operator, union-attr]
    over_batch = isinstance(layer, nn.modules.batchnorm._NormBase | nn.GroupNorm)
    first = getattr(layer, "data_format", "") == "channels_first" or type(layer).__name__.endswith("2d")
    if over_batch or first or values.shape[-1] != size:
        return values.movedim(1, -1)
    return values


def _padded_to_same(layer: Any, into: Tensor) -> Tensor:
    """TensorFlow's padding, which timm's convolutions compute from the size of their input."""
    pad: list[int] = []
    for size, kernel, stride, dilation in zip(
        into.shape[2:], layer.kernel_size, layer.stride, layer.dilation, strict=True
    ):
        more = max((math.ceil(size / stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
        pad = [more // 2, more - more // 2, *pad]
    return nn.functional.pad(into, pad)
