"""
Runs a model quietly and takes down what some of its modules return.

A module's `forward` is replaced on the instance and put back; hooks that others registered stay outside of it, so they
see the same calls as ever. Knows modules; does not know rows, cuts or stores.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

_ABSENT = object()
Forward = Callable[..., Any]


class _Enough(Exception):
    """All outputs that were asked for are there; the rest of the model need not run."""


class Forwards:
    """Replaces the `forward` of modules, and puts back what was there."""

    def __init__(self) -> None:
        self._saved: list[tuple[nn.Module, Any]] = []

    def replace(self, module: nn.Module, make: Callable[[Forward], Forward]) -> None:
        """
        Replace one.

        Args:
            module (`torch.nn.Module`): Whose.
            make (`Callable`): Takes the `forward` that is there now, returns the one to put in its place.
        """
        original = module.forward
        self._saved.append((module, module.__dict__.get("forward", _ABSENT)))
        module.__dict__["forward"] = make(original)

    def restore(self) -> None:
        """Put all back, the last replaced first."""
        while self._saved:
            module, before = self._saved.pop()
            if before is _ABSENT:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = before


@contextmanager
def replaced(forwards: Mapping[nn.Module, Callable[[Forward], Forward]]) -> Iterator[None]:
    """Replace the `forward` of several modules while the block runs."""
    replacing = Forwards()
    try:
        for module, make in forwards.items():
            replacing.replace(module, make)
        yield
    finally:
        replacing.restore()


@contextmanager
def undisturbed(model: nn.Module, autocast: torch.dtype | None = None) -> Iterator[None]:
    """
    Run a model in eval mode without gradients, and leave modes and random states as they were.

    Args:
        model (`torch.nn.Module`): Any.
        autocast (`torch.dtype`, *optional*): Run under `torch.autocast` of this type.
    """
    modes = [(module, module.training) for module in model.modules()]
    device = device_of(model)
    with ExitStack() as stack:
        devices = [device] if device.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(torch.no_grad())
        if autocast is not None:
            # Weights cast while gradients are off must not be found again by a pass that needs theirs.
            stack.enter_context(torch.autocast(device.type, autocast, cache_enabled=False))
        try:
            model.eval()
            yield
        finally:
            for module, training in modes:
                module.training = training


def device_of(model: nn.Module) -> torch.device:
    """Where the inputs of a model belong."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def on_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch with its tensors moved."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


def without_cache(model: nn.Module, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a call that keeps no keys and values: blocks that do not run could not add theirs."""
    config: Any = getattr(model, "config", None)
    kind: Any = type(model)
    if getattr(config, "use_cache", False) and _takes_use_cache(kind) and kwargs.get("use_cache") is None:
        return {**kwargs, "use_cache": False}
    return dict(kwargs)


@cache
def _takes_use_cache(kind: Any) -> bool:
    return "use_cache" in inspect.signature(kind.forward).parameters


def capture(model: nn.Module, modules: Mapping[str, nn.Module], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """
    What some modules return, once each; the model stops as soon as all of them have.

    Args:
        model (`torch.nn.Module`): Bare, in the mode and context it is to run in.
        modules (`Mapping[str, torch.nn.Module]`): By name.
        inputs (`Mapping[str, Any]`): Keyword arguments of the model.

    Returns: `dict[str, Any]`: By name, copied: later modules may write into what earlier ones returned.
    """
    found: dict[str, Any] = {}

    def watch(name: str) -> Callable[[Forward], Forward]:
        def make(original: Forward) -> Forward:
            def forward(*args: Any, **kwargs: Any) -> Any:
                output = original(*args, **kwargs)
                found[name] = pytree.tree_map(lambda x: x.clone() if isinstance(x, Tensor) else x, output)
                if len(found) == len(modules):
                    raise _Enough
                return output

            return forward

        return make

    with replaced({module: watch(name) for name, module in modules.items()}):
        with suppress(_Enough):
            model(**without_cache(model, inputs))
    return found
