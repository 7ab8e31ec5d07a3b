"""
The task's output layer and other modules that each adapter owns in full.

Knows which last layer gives the labels and how to make one of another size; does not know blocks.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from accelerate.hooks import add_hook_to_module
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import nn

from .floating import floating_copy
from .grads import needs_grad, require_grad
from .labels import Labels
from .mixed import mixed_forward
from .siamese import at_head, both, frozen_pass, widened

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class TaskModuleWrapper(ModulesToSaveWrapper):
    """
    A head, or another module trained in full, with one copy per adapter.

    Differs from PEFT's `ModulesToSaveWrapper`: copies may differ in their number of outputs, `unload` gives the
    original back instead of the trained copy, an adapter without a copy here passes through, any module can be part
    of a mixed batch, and the model's labels follow the active adapter.

    Args:
        module (`torch.nn.Module`): The module of the base.
        adapter_name (`str`): First adapter that owns a copy.
        labels ([`Labels`], *optional*): The labels to switch; `None` for a module that is no head.
        resize (`tuple[str, int]`, *optional*): Path of a layer inside and the number of outputs it gets.
    """

    def __init__(
        self,
        module: nn.Module,
        adapter_name: str,
        labels: Labels | None = None,
        resize: tuple[str, int] | None = None,
    ) -> None:
        # Plain objects of this kind are no modules, so they stay out of the state dict.
        object.__setattr__(self, "_labels", labels)
        object.__setattr__(self, "_not_batched", set())
        object.__setattr__(self, "_trainable", set())
        object.__setattr__(self, "_siamese", set())
        AuxiliaryTrainingWrapper.__init__(self, module, adapter_name, resize=resize)

    def update(self, adapter_name: str, resize: tuple[str, int] | None = None, **kwargs: Any) -> None:
        """Give an adapter its copy, unless it has one."""
        if adapter_name not in self.modules_to_save:
            copy = floating_copy(self.original_module)
            copy.train(self.training)
            if resize is not None:
                copy = _resized(copy, *resize)
            self.modules_to_save[adapter_name] = copy
        super().update(adapter_name)

    def widen(self, adapter_name: str) -> None:
        """Let an adapter's layer take the frozen network's features beside its own; the module is a linear layer."""
        self.modules_to_save[adapter_name] = widened(self.modules_to_save[adapter_name])  # type: ignore[arg-type]
        self._siamese.add(adapter_name)

    @property
    def takes_both(self) -> bool:
        """Whether the layer that a call goes through now is a Siamese adapter's."""
        return not self.disable_adapters and any(name in self._siamese for name in self.active_adapters)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        mixed = kwargs.get("adapter_names") is not None
        if frozen_pass():
            at_head(self, args)
            return self.original_module(*args, **{k: v for k, v in kwargs.items() if k != "adapter_names"})
        if self.takes_both and not mixed:
            args = (both(self, args[0]), *args[1:])
        return super().forward(*args, **kwargs)

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        present = [name for name in names if name in self.modules_to_save]
        if len(present) > 1:
            raise ValueError(f"Attempted to set multiple ({present}) adapters at once for modules_to_save.")
        trainable = [] if inference_mode else present
        if self.disable_adapters:
            # Gradients come back when adapters are enabled, and then to what is active by now.
            if present != self._active_adapter:
                self._trainable.clear()
                self._trainable.update(trainable)
            trainable = []
        for name, module in self.modules_to_save.items():
            require_grad(module, name in trainable)
        self._active_adapter = present
        self._sync_labels()

    def enable_adapters(self, enabled: bool) -> None:
        if enabled == (not self._disable_adapters):
            return
        if not enabled:
            self._trainable.clear()
            self._trainable.update(n for n, m in self.modules_to_save.items() if needs_grad(m))
        self._disable_adapters = not enabled
        for name, module in self.modules_to_save.items():
            # An adapter loaded for inference stays frozen when it is switched on again (peft issue 3447).
            require_grad(module, enabled and name in self.active_adapters and name in self._trainable)
        self._sync_labels()

    def delete_adapter(self, adapter_name: str, new_active_adapters: list[str] | None) -> None:
        if adapter_name not in self.modules_to_save:
            return
        self._adapters.discard(adapter_name)
        self._siamese.discard(adapter_name)
        del self.modules_to_save[adapter_name]
        if self._labels is not None:
            self._labels.remove(adapter_name)
        if adapter_name in self.active_adapters:
            self.set_adapter([name for name in new_active_adapters or [] if name in self.modules_to_save][:1])

    def unload_and_optionally_merge_module(
        self, merge: bool, safe_merge: bool, adapter_names: list[str] | None
    ) -> nn.Module:
        for name in adapter_names or self.active_adapters:
            if merge and name in self.modules_to_save:
                return self.modules_to_save[name]
        return self.original_module

    @property
    def active_module(self) -> nn.Module:
        """The module a call goes through now."""
        if not self.disable_adapters:
            for name in self.active_adapters:
                if name in self.modules_to_save:
                    return self.modules_to_save[name]
        return self.original_module

    def _check_forward_args(self, *args: Any, **kwargs: Any) -> None:
        """Row counts are checked where rows are taken."""

    def _mixed_batch_forward(self, *args: Any, adapter_names: list[str], **kwargs: Any) -> Any:
        return mixed_forward(self._module_for, adapter_names, self._not_batched, args, kwargs)

    def _module_for(self, adapter_name: str) -> nn.Module:
        if adapter_name in self.modules_to_save:
            return self.modules_to_save[adapter_name]
        return self.original_module

    def _sync_labels(self) -> None:
        if self._labels is not None:
            active = None if self.disable_adapters or not self.active_adapters else self.active_adapters[0]
            self._labels.apply(active)


def output_layers(model: nn.Module, head: list[str], num_outputs: int | None) -> dict[str, tuple[str, int]]:
    """
    The layers of the head that give one output per label.

    Args:
        model (`torch.nn.Module`): The base model.
        head (`list[str]`): Names of its head modules.
        num_outputs (`int`, *optional*): Labels of the base, where known.

    Returns: `dict[str, tuple[str, int]]`: for each head module that holds one, the path of the layer inside it and its
    number of outputs. Two of them (distilled DeiT) when both have as many outputs as there are labels.
    """
    last: dict[str, tuple[str, int]] = {}
    for name in head:
        module = model.get_submodule(name)
        module = getattr(module, "original_module", module)
        layers = [(path, _width(layer)) for path, layer in module.named_modules() if _width(layer) is not None]
        if layers:
            last[name] = layers[-1]  # type: ignore[assignment]
    matching = {name: layer for name, layer in last.items() if layer[1] == num_outputs}
    return matching or dict(list(last.items())[-1:])


def _width(layer: nn.Module) -> int | None:
    if isinstance(layer, nn.Linear):
        return layer.out_features
    if isinstance(layer, _CONVOLUTIONS):
        return layer.out_channels
    return None


def _resized(module: nn.Module, path: str, width: int) -> nn.Module:
    old = module.get_submodule(path)
    if _width(old) == width:
        return module
    common: dict[str, Any] = {"bias": old.bias is not None, "device": old.weight.device, "dtype": old.weight.dtype}
    new: nn.Module
    kind: Any = next((kind for kind in _CONVOLUTIONS if isinstance(old, kind)), None)
    if kind is not None:
        shape = (old.kernel_size, old.stride, old.padding, old.dilation)
        new = kind(old.in_channels, width, *shape, padding_mode=old.padding_mode, **common)
    else:
        new = nn.Linear(old.in_features, width, **common)  # type: ignore[arg-type]
    new.train(old.training)
    hook = getattr(old, "_hf_hook", None)
    if hook is not None:
        # A base dispatched over devices: the new layer takes its input to where it lies, too.
        add_hook_to_module(new, deepcopy(hook))
    if not path:
        return new
    parent, _, child = path.rpartition(".")
    setattr(module.get_submodule(parent), child, new)
    return module


def head_parameters(model: nn.Module, adapter_name: str = "default") -> list[nn.Parameter]:
    """
    Parameters of an adapter's head (and of its other modules outside the blocks).

    Args:
        model (`torch.nn.Module`): A model that holds the adapter.
        adapter_name (`str`, *optional*, defaults to `"default"`): The adapter.

    Returns: `list[torch.nn.Parameter]`
    """
    return [
        parameter
        for module in model.modules()
        if isinstance(module, ModulesToSaveWrapper) and adapter_name in module.modules_to_save
        for parameter in module.modules_to_save[adapter_name].parameters()
    ]


def initialise_output(layer: Any, model: nn.Module) -> None:
    """Draw a new output layer as the model's family does: normal with its `initializer_range`, bias zero."""
    std = getattr(getattr(model, "config", None), "initializer_range", None)
    if isinstance(std, float) and not layer.weight.is_meta:
        with torch.no_grad():
            layer.weight.normal_(0.0, std)
            if layer.bias is not None:
                layer.bias.zero_()
