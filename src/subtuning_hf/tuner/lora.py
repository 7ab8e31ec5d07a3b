"""
LoRA inside chosen blocks: a plain `LoraConfig` that needs this package only to be made, not to be loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peft import LoraConfig
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..blocks import find_head, resolve_blocks
from ..errors import ArgumentsError, BlockSelectionError, EmptySelectionError


def lora_config_for_blocks(model: nn.Module, blocks: Sequence[str | int], **lora: Any) -> LoraConfig:
    """
    Make a `LoraConfig` that adapts the linear and convolution layers of chosen blocks, and nothing else.

    PEFT's `layers_to_transform` counts layers within every list of the model (each stage of a Swin, both towers of a
    T5), so the layers are named in full instead. Depthwise and grouped convolutions are left out: PEFT has no LoRA
    for them.

    Args:
        model (`torch.nn.Module`): The base model.
        blocks (`Sequence[str | int]`): Blocks as in [`SubTuningConfig`].
        lora: Further fields of `LoraConfig`, such as `r` and `lora_alpha`. `modules_to_save` defaults to the head.

    Returns: `peft.LoraConfig`
    Raises:
        [`EmptySelectionError`]: If the blocks hold no layer that LoRA can adapt.
        [`ArgumentsError`]: If `target_modules` is passed, which is what this function is for.
    """
    if "target_modules" in lora:
        raise ArgumentsError("`target_modules` follows from `blocks`; leave it out, or make a LoraConfig directly.")
    names = resolve_blocks(model, blocks)
    modules = dict(model.named_modules())
    targets = [
        f"{name}.{path}" if path else name
        for name in names
        for path, layer in modules[name].named_modules()
        if isinstance(layer, (nn.Linear, Conv1D)) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
    ]
    if not targets:
        raise EmptySelectionError(
            f"Blocks {names} hold no linear layer or ungrouped convolution for LoRA to adapt. Choose other blocks."
        )
    lora.setdefault("modules_to_save", _unmistakable(modules, find_head(model)) or None)
    return LoraConfig(target_modules=targets, **lora)


def _unmistakable(modules: dict[str, nn.Module], head: list[str]) -> list[str]:
    # PEFT matches `modules_to_save` by the end of the name, so a head called "fc" would take "se.fc" along.
    for name in head:
        others = [key for key in modules if key.endswith(name) and key not in head]
        if others:
            raise BlockSelectionError(
                f"PEFT matches modules to save by the end of their names, and the head '{name}' would also match "
                f"'{others[0]}'. Pass `modules_to_save` yourself, or use SubTuningConfig, which matches exactly."
            )
    return head
