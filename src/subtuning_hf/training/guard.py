"""
Gives a base model back as it was, whatever a training did around it, also after an error.

Knows torch modules only. Values of frozen tensors are not copied, since nothing trains them; that nothing wrote into
them is checked.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..errors import ArgumentsError

_TREE = ("_modules", "_parameters", "_buffers")
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_hooks",
    "_backward_pre_hooks",
)
# What activation checkpointing, NEFTune and the capture of hidden states leave on modules. The last is a mark that the
# hooks are there: left behind without them, no hidden state would ever be captured again.
_FLAGS = (
    "_output_capturing_hooks_installed",
    "gradient_checkpointing",
    "_gradient_checkpointing_func",
    "neftune_noise_alpha",
    "_require_grads_hook",
    "_require_grads_hooks",
)
_CONFIGS = ("config", "generation_config")
_ABSENT = object()


@contextmanager
def unaltered(model: nn.Module) -> Iterator[None]:
    """
    Restore a model when the block ends: its modules, parameters and buffers (as objects), `requires_grad`, gradients,
    training modes, hooks, checkpointing flags and config.

    Args:
        model (`torch.nn.Module`): The base model, without adapters.

    Raises: [`ArgumentsError`]: If something wrote into a frozen tensor, which cannot be undone.
    """
    state = Snapshot(model)
    try:
        yield
    finally:
        state.restore()
    state.check_written()


class Snapshot:
    """
    What [`unaltered`] restores, for whoever keeps a model changed for longer than a block of code.

    Args:
        model (`torch.nn.Module`): The base model, without adapters.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.attributes = set(model.__dict__)
        modules = list(model.modules())
        self.trees = [(module, {name: dict(module.__dict__[name]) for name in _TREE}) for module in modules]
        self.hooks = [
            (module, {name: dict(module.__dict__[name]) for name in _HOOKS if name in module.__dict__})
            for module in modules
        ]
        self.flags = [(module, {name: module.__dict__.get(name, _ABSENT) for name in _FLAGS}) for module in modules]
        self.modes = [(module, module.training) for module in modules]
        self.versions = {name: (tensor, _version(tensor)) for name, tensor in _tensors(model).items()}
        self.gradients = [(p, p.requires_grad, p.grad) for p in model.parameters()]
        self.configs = {
            name: (value, copy.deepcopy(value.__dict__))
            for name in _CONFIGS
            if hasattr(value := model.__dict__.get(name), "__dict__")
        }

    def restore(self) -> None:
        """Put everything back."""
        for module, tree in self.trees:
            for name, content in tree.items():
                _refill(module.__dict__[name], content)
        for module, hooks in self.hooks:
            for name, content in hooks.items():
                _refill(module.__dict__[name], content)
        for module, flags in self.flags:
            for name, value in flags.items():
                if value is _ABSENT:
                    module.__dict__.pop(name, None)
                else:
                    module.__dict__[name] = value
        for module, mode in self.modes:
            module.training = mode
        for parameter, requires_grad, grad in self.gradients:
            parameter.requires_grad_(requires_grad)
            parameter.grad = grad
        for name, (config, content) in self.configs.items():
            config.__dict__.clear()
            config.__dict__.update(content)
            self.model.__dict__[name] = config
        for name in set(self.model.__dict__) - self.attributes:
            del self.model.__dict__[name]

    def check_written(self) -> None:
        """
        Notice writes into tensors that were to stay as they are.

        Raises: [`ArgumentsError`]
        """
        written = [name for name, (tensor, version) in self.versions.items() if _version(tensor) != version]
        if written:
            raise ArgumentsError(
                f"A training wrote into {len(written)} tensors of the base model, '{written[0]}' first, which are "
                "frozen: later candidates would start from another model than earlier ones. Look for it in "
                "`trainer_cls`, `callbacks` or `compute_metrics`, and load the model anew. The score was not recorded."
            )


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _version(tensor: torch.Tensor) -> Any:
    if tensor.numel() == 1 and not tensor.is_meta:
        # By value: loading a checkpoint writes BatchNorm's counters onto themselves.
        return tensor.item()
    # Torch counts writes to a tensor, but not to one made in inference mode.
    return -1 if tensor.is_inference() else tensor._version


def _refill(mapping: Any, content: dict) -> None:
    same = len(mapping) == len(content) and all(mapping.get(key, _ABSENT) is value for key, value in content.items())
    if not same or list(mapping) != list(content):
        mapping.clear()
        mapping.update(content)
