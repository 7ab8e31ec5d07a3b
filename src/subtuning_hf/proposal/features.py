"""
What goes into the head: one vector for each row.

Taken where the last linear layer of the head is called. A head that scores every position and keeps one of them, as
those of decoders do, is recognised by its output. What this module does not know: blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .base import Batch
from .copies import call, logits_of


def output_layer(model: nn.Module, head: Sequence[str]) -> nn.Module | None:
    """
    The last linear layer of the head; a convolution over a single position is one.

    Args:
        model (`torch.nn.Module`): The model.
        head (`Sequence[str]`): Names of its output layer's modules.

    Returns: `torch.nn.Module` or `None`
    """
    inside = [module for name in head for module in model.get_submodule(name).modules()]
    layers = [module for module in inside if isinstance(module, nn.Linear | nn.Conv2d)]
    return layers[-1] if layers else None


class Features:
    """
    Reads the vectors that go into the output layer, with their graph where gradients are on.

    Args:
        model (`torch.nn.Module`): The model.
        head (`Sequence[str]`): Names of its output layer's modules.
    """

    def __init__(self, model: nn.Module, head: Sequence[str]) -> None:
        self.model = model
        self.layer = output_layer(model, head)
        self._seen: tuple[Tensor, Tensor] | None = None

    @property
    def outputs(self) -> int:
        """`int`: number of outputs of the output layer, 1 where there is none."""
        return 1 if self.layer is None else len(self.layer.weight)  # type: ignore[arg-type]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, what goes into the output layer is seen."""
        handle = None
        if self.layer is not None:
            handle = self.layer.register_forward_hook(self._see)
        try:
            yield
        finally:
            self._seen = None
            if handle is not None:
                handle.remove()

    def _see(self, layer: nn.Module, args: Any, output: Any) -> None:
        self._seen = (args[0], output)

    def of(self, output: Any) -> Tensor | None:
        """
        The vectors of the last forward pass.

        Args:
            output: What the model returned.

        Returns: `Tensor` of shape `(rows, dim)`, or `None` where the head takes no single vector per row.
        """
        logits = logits_of(output)
        return None if self._seen is None or not isinstance(logits, Tensor) else _vectors(*self._seen, logits)

    def __call__(self, batch: Batch) -> Tensor | None:
        """Run the model on a batch. Returns: as [`Features.of`]."""
        with self.watching():
            return self.of(call(self.model, batch)[0])


def _vectors(into: Tensor, out: Tensor, logits: Tensor) -> Tensor | None:
    if logits.ndim != 2 or len(into) != len(logits):
        return None
    if into.ndim == 4 and into.shape[2:].numel() == 1:  # (rows, dim, 1, 1)
        return into.flatten(1)
    if into.ndim == 2:
        return into
    if into.ndim == 3 and out.shape[-1] == logits.shape[-1]:  # (rows, positions, dim), of which one is kept
        distances = (out.detach() - logits.detach()[:, None]).abs().amax(-1)  # (rows, positions)
        return into[torch.arange(len(into), device=into.device), distances.argmin(1)]
    return None
