"""
Switching the gradients of a module on and off.

Leaves alone what cannot have gradients: integer tensors of quantised blocks, sharded views.
"""

from torch import nn


def require_grad(module: nn.Module, value: bool) -> None:
    """Set `requires_grad` of every parameter that can have a gradient."""
    for parameter in module.parameters():
        if parameter.is_leaf and (parameter.is_floating_point() or parameter.is_complex()):
            parameter.requires_grad_(value)


def needs_grad(module: nn.Module) -> bool:
    """Whether any parameter asks for a gradient."""
    return any(parameter.requires_grad for parameter in module.parameters())
