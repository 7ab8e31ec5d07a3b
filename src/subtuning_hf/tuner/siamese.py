"""
Siamese adapters: the output layer sees the frozen network's features beside the tuned ones.

The base model runs up to its output layer once with everything frozen, then as ever; the layer takes `[frozen, tuned]`.
What a pass is doing is kept per thread and not on modules, so that several threads may answer at once. Knows the two
passes and the output layer; does not know blocks or configs.

Source: siamese SubTuning, arXiv 2302.06354 (first version).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.hooks import add_hook_to_module
from torch import Tensor, nn

from ..errors import ArgumentsError

_HEADS = "_subtuning_siamese"  # where a base model keeps the names of output layers that take both


@dataclass
class _Frozen:
    """The pass in which all is frozen, which ends at this output layer."""

    head: nn.Module


@dataclass
class _Tuned:
    """The pass after it, with what the frozen one gave to this output layer; `None` once that was taken."""

    head: nn.Module
    features: Tensor | None


class _Reached(Exception):
    """The frozen pass is where it ends."""

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features


_PASS: ContextVar[_Frozen | _Tuned | None] = ContextVar("subtuning_siamese_pass", default=None)


def frozen_pass() -> bool:
    """`bool`: whether the pass that runs is the frozen one, so that every module is the base's own."""
    # What torch.compile traces is the tuned pass: the frozen one stays outside of its graphs.
    return not torch.compiler.is_dynamo_compiling() and isinstance(_PASS.get(), _Frozen)


def at_head(head: nn.Module, args: tuple) -> None:
    """End the frozen pass if this is the output layer that it is for."""
    now = _PASS.get()
    if isinstance(now, _Frozen) and now.head is head:
        if not args or not isinstance(args[0], Tensor):
            raise ArgumentsError(f"A Siamese adapter's output layer must be called with a tensor, found {args!r:.80}.")
        raise _Reached(args[0])


@torch.compiler.disable
def both(head: nn.Module, tuned: Tensor) -> Tensor:
    """
    What a Siamese output layer takes.

    Args:
        head (`torch.nn.Module`): The layer's wrapper.
        tuned (`torch.Tensor` of shape `(..., features)`): Its input in the tuned pass.

    Returns: `torch.Tensor` of shape `(..., 2 * features)`: the frozen features, then the tuned ones.
    Raises: [`ArgumentsError`]: If the frozen pass gave nothing for this call.
    """
    now = _PASS.get()
    if not isinstance(now, _Tuned) or now.head is not head or now.features is None:
        raise ArgumentsError(
            "The output layer of a Siamese adapter takes one input per call of the base model, beside that of the "
            "frozen network. It was called more often, or outside of the base model's own `forward`."
        )
    frozen, now.features = now.features, None
    return torch.cat([frozen, tuned], -1)  # (..., 2 * features)


def widened(layer: nn.Linear) -> nn.Linear:
    """
    A layer for both kinds of features.

    It starts as the given layer on the tuned features, with zeros for the frozen ones: training begins where plain
    SubTuning does, with the same gradients for the blocks, and an output layer needs no random numbers to learn.

    Args:
        layer (`torch.nn.Linear`): Of `features` inputs.

    Returns: `torch.nn.Linear`: of `2 * features`.
    """
    weight = layer.weight
    wide = nn.Linear(2 * layer.in_features, layer.out_features, layer.bias is not None, weight.device, weight.dtype)
    with torch.no_grad():
        wide.weight[:, : layer.in_features].zero_()
        wide.weight[:, layer.in_features :].copy_(weight)
        if layer.bias is not None:
            wide.bias.copy_(layer.bias)
    wide.requires_grad_(weight.requires_grad).train(layer.training)
    hook = getattr(layer, "_hf_hook", None)
    if hook is not None:
        add_hook_to_module(wide, deepcopy(hook))
    return wide


def refuse_merge(names: list[str], configs: dict[str, Any]) -> None:
    """
    Refuse to merge an adapter that needs two networks.

    Raises: [`ArgumentsError`]
    """
    for name in names:
        if getattr(configs.get(name), "siamese", False):
            raise ArgumentsError(
                f"Adapter '{name}' is Siamese: its output layer takes features of the frozen network and of the tuned "
                "one, and one merged network cannot give both. Keep it as an adapter, or train one with siamese=False."
            )


# --- on the base model -----------------------------------------------------------------------
def install(model: nn.Module, head: str) -> None:
    """
    Let a base model run frozen ahead of every call in which a Siamese adapter is active.

    Args:
        model (`torch.nn.Module`): The base model.
        head (`str`): Name of the output layer.
    """
    if _HEADS not in model.__dict__:
        model.__dict__[_HEADS] = []
        # Behind the hook that puts frozen modules in eval mode, whose changed arguments are for both passes.
        model.register_forward_pre_hook(_before_forward, with_kwargs=True)
        model.register_forward_hook(_after_forward, always_call=True)
    if head not in model.__dict__[_HEADS]:
        model.__dict__[_HEADS].append(head)


def uninstall(model: nn.Module) -> None:
    """Take the hooks off again."""
    model.__dict__.pop(_HEADS, None)
    for hooks in (model._forward_pre_hooks, model._forward_hooks):
        # By what they are: a copied model's handles still point at the original.
        for key in [key for key, hook in hooks.items() if hook in (_before_forward, _after_forward)]:
            for one in (hooks, model._forward_pre_hooks_with_kwargs, model._forward_hooks_always_called):
                one.pop(key, None)


@torch.compiler.disable
def _before_forward(model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
    heads = [model.get_submodule(name) for name in model.__dict__.get(_HEADS, ())]
    head = next((one for one in heads if getattr(one, "takes_both", False)), None)
    if head is None:
        return
    for name in ("past_key_values", "cache"):  # its name since transformers 5.24
        if kwargs.get(name) is not None:
            raise ArgumentsError(
                f"A Siamese adapter runs two networks, which cannot share one cache of keys and values. Leave `{name}` "
                "out."
            )
    _PASS.set(_Frozen(head))
    try:
        with torch.no_grad(), _evaluating(model):
            # Not the call of the module: its hooks are for the one call that was made.
            model.forward(*args, **kwargs)
    except _Reached as reached:
        _PASS.set(_Tuned(head, reached.features))
    except BaseException:
        _PASS.set(None)
        raise
    else:
        _PASS.set(None)
        raise ArgumentsError(
            f"'{type(model).__name__}' never called the output layer of its Siamese adapter, so that there are no "
            "frozen features for it. Name the layer that is called with `head=[...]`."
        )


@torch.compiler.disable
def _after_forward(*_ignored: Any) -> None:
    _PASS.set(None)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode for the time being, whatever single modules were in."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
