"""
Copies that start from newly drawn weights instead of the pretrained ones.

The draw is the model's own initialiser's, from torch's random numbers. Knows modules and where transformers keeps its
initialiser; does not know adapters.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import ArgumentsError

INITS = ("pretrained", "random")


@torch.no_grad()
def initialise(block: nn.Module, model: nn.Module, name: str) -> None:
    """
    Draw the parameters of a block anew, and reset the statistics of its batch norms.

    Drawn by `_init_weights` of the innermost `PreTrainedModel` around the block; what that leaves out, or all where
    there is none, by `reset_parameters` of the modules themselves. Other buffers, such as tables, stay.

    Args:
        block (`torch.nn.Module`): A copy of a block; changed in place.
        model (`torch.nn.Module`): The base model.
        name (`str`): Name of the block in it.

    Raises: [`ArgumentsError`]: If a parameter is set by neither.
    """
    owner = _owner(model, name)
    for parameter in block.parameters():
        # Whatever is still NaN afterwards was not drawn: a pretrained weight that stayed would look like any other.
        parameter.fill_(float("nan"))
    if owner is not None:
        block.apply(owner._init_weights)
    for module in block.modules():
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if callable(reset) and _left_out(module):
            reset()
    for path, module in block.named_modules():
        if left := _left_out(module):
            kind = type(module).__name__
            way = f"neither {type(owner).__name__}._init_weights nor " if owner is not None else "no "
            raise ArgumentsError(
                f"init_blocks='random' cannot draw '{'.'.join(filter(None, [name, path, left]))}': {way}"
                f"reset_parameters of '{kind}' sets it. Give '{kind}' a method `reset_parameters`, or leave "
                "`init_blocks` out."
            )
        if hasattr(module, "reset_running_stats"):
            module.reset_running_stats()  # type: ignore[operator]


def _owner(model: nn.Module, name: str) -> Any:
    """The innermost model of transformers around a block, `None` where there is none."""
    from transformers import PreTrainedModel

    found, module = None, model
    for part in [*name.split("."), None]:
        if isinstance(module, PreTrainedModel):
            found = module
        if part is not None:
            module = getattr(module, part)
    return found


def _left_out(module: nn.Module) -> str | None:
    """A parameter of the module itself that was not drawn."""
    own = module.named_parameters(recurse=False)
    return next((name for name, p in own if not p.is_meta and bool(p.isnan().any())), None)
