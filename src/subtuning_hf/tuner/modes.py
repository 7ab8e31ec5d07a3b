"""
Frozen means frozen: while a model trains, everything but the active copies is in eval mode.

Dropout off and BatchNorm statistics still in all frozen blocks, on every route into training. Knows the wrappers of
this package and transformers' gradient checkpointing; does not know configs.
"""

from __future__ import annotations

import inspect
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from .head import TaskModuleWrapper
from .layer import BlockLayer


def freeze_modes(model: nn.Module) -> None:
    """Put all but the active copies of a training model in eval mode; the model itself keeps its flag."""
    live: set[nn.Module] = {model}
    checkpointed: list[nn.Module] = []
    for module in model.modules():
        copy = None
        if isinstance(module, BlockLayer) and module.active_block is not module.base_layer:
            copy = module.active_block
        elif isinstance(module, TaskModuleWrapper) and module.active_module is not module.original_module:
            copy = module.active_module
        if copy is not None:
            if not copy.training:  # else a part of it that was put in eval mode by hand stays there
                copy.train()
            live.update(copy.modules())
        if getattr(module, "gradient_checkpointing", False) and not isinstance(module, BlockLayer):
            checkpointed.append(module)
    for module in model.modules():
        if module not in live:
            # Trainer's NEFTune adds noise where embeddings are in training mode, which is all the mode of one does.
            noisy = isinstance(module, nn.Embedding) and hasattr(module, "neftune_noise_alpha")
            module.training = noisy
    for module in checkpointed:
        function = getattr(module, "_gradient_checkpointing_func", None)
        if function is None:
            continue
        # Reentrant checkpointing drops the gradients of whatever it wraps when no input asks for one, which is the
        # case behind a frozen prefix.
        if isinstance(function, partial) and function.keywords.get("use_reentrant", True):
            keywords = {**function.keywords, "use_reentrant": False}
            module._gradient_checkpointing_func = partial(function.func, *function.args, **keywords)  # type: ignore[assignment]
        # A transformers layer checkpoints only while its own flag says training; children stay in eval.
        kind: Any = type(module)
        module.training = module in live or not _reads_training(kind)
    if checkpointed:
        _drop_input_grads(model)


def _drop_input_grads(model: nn.Module) -> None:
    # transformers and PEFT both make the embeddings' output require grad when checkpointing is on, which only reentrant
    # checkpointing needs: backward would run through the whole frozen prefix. Only the handle of the second hook is
    # kept by the model, so both are found by their name.
    for module in model.modules():
        for key, hook in list(module._forward_hooks.items()):
            if getattr(hook, "__name__", "").startswith("make_inputs_require_grad"):
                del module._forward_hooks[key]


@cache
def _reads_training(kind: Any) -> bool:
    """Whether a layer's own code asks for `self.training` (functional dropout), so that the flag changes its output."""
    for parent in kind.__mro__:
        if parent is nn.Module or parent.__name__ == "GradientCheckpointingLayer":
            continue
        for function in vars(parent).values():
            function = getattr(function, "__wrapped__", function)
            code = getattr(function, "__code__", None)
            if code is not None and "training" in code.co_names:
                return True
    return False


@cache
def _takes_use_cache(kind: Any) -> bool:
    parameters = inspect.signature(kind.forward).parameters
    return "use_cache" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _before_forward(model: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    # Under torch.compile the modes were set by `train()`; changing them while tracing would break the graph.
    if not model.training or torch.compiler.is_compiling():
        return None
    freeze_modes(model)
    config: Any = getattr(model, "config", None)
    kind: Any = type(model)
    if getattr(config, "use_cache", False) and _takes_use_cache(kind) and _checkpoints(model):
        # Decoders switch their cache off by themselves only while all of them is in training mode; a checkpointed
        # layer run again in backward would write to it twice.
        return args, {**kwargs, "use_cache": False}
    return None


def _checkpoints(model: nn.Module) -> bool:
    return any(module.__dict__.get("gradient_checkpointing", False) for module in model.modules())


def install(model: nn.Module) -> None:
    """
    Keep frozen modules in eval on every forward of a training base model.

    `SubTuningModel.train` alone is bypassed by adapters added through transformers and by
    `get_base_model().train()`.
    """
    if "_subtuning_modes" not in model.__dict__:
        model.__dict__["_subtuning_modes"] = model.register_forward_pre_hook(
            _before_forward, prepend=True, with_kwargs=True
        )


def uninstall(model: nn.Module) -> None:
    """Take the hook off again."""
    handle = model.__dict__.pop("_subtuning_modes", None)
    if handle is not None:
        handle.remove()
    for key, hook in list(model._forward_pre_hooks.items()):
        # A copied model's handle still points at the original.
        if hook is _before_forward:
            del model._forward_pre_hooks[key]
            model._forward_pre_hooks_with_kwargs.pop(key, None)
