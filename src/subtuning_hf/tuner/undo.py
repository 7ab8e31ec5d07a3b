"""
Taking an adapter out of a model again: where an injection or a load failed, and which modules hold adapters.

Knows the wrappers; does not know files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from .head import TaskModuleWrapper
from .labels import labels_of
from .layer import BlockLayer


def take_out(model: nn.Module, adapter_name: str, configs: dict[str, Any]) -> None:
    """
    Undo an injection that failed, wherever it stopped.

    Args:
        model (`torch.nn.Module`): The base model.
        adapter_name (`str`): The adapter.
        configs (`dict[str, PeftConfig]`): Configurations by adapter; the adapter's is taken out.
    """
    configs.pop(adapter_name, None)
    labels_of(model).remove(adapter_name)
    for parent, child_name, module in list(wrapped(model)):
        if isinstance(module, BlockLayer):
            module.delete_adapter(adapter_name)
            if not module.subtuning_blocks:
                setattr(parent, child_name, module.base_layer)
        elif isinstance(module, TaskModuleWrapper):
            module.delete_adapter(adapter_name, None)
            if not module.modules_to_save:
                setattr(parent, child_name, module.original_module)
    if not configs and "peft_config" not in model.__dict__:
        model.__dict__.pop("_subtuning_labels", None)
        if model.__dict__.get("_hf_peft_config_loaded"):
            model._hf_peft_config_loaded = False  # type: ignore[assignment]  # set by transformers before it calls PEFT


def wrapped(model: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    """Wrappers outermost in the model, with parent and name; never one inside an adapter's copy."""
    for name, child in model.named_children():
        if isinstance(child, (BlockLayer, AuxiliaryTrainingWrapper)):
            yield model, name, child
        else:
            yield from wrapped(child)
