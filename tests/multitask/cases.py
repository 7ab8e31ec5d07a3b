"""Adapters of tiny models, with weights of their own, as the tests of many tasks need them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from subtuning_hf import MultiTaskModel, SubTuningConfig, find_blocks, lora_config_for_blocks
from toys import Toy, logits_of

SHAPES = ("equal", "nested", "disjoint")


def selections(num_blocks: int, count: int, shape: str) -> list[list[int]]:
    """The blocks of each task: the same, each part of the next, or none in common as far as there are enough."""
    last = num_blocks - 1
    if shape == "equal":
        return [[last // 2, last]] * count if num_blocks > 1 else [[last]] * count
    if shape == "nested":
        return [list(range(max(0, last - n % num_blocks), num_blocks)) for n in range(count)]
    return [[last - n % num_blocks] for n in range(count)]


def make_adapter(toy: Toy, folder: Path, blocks: list[int], seed: int, num_labels: int | None = None) -> Path:
    """An adapter whose weights and statistics are its own."""
    settings: dict[str, Any] = {"num_labels": num_labels} if num_labels is not None and toy.has_head else {}
    peft = get_peft_model(toy.build(), SubTuningConfig(blocks=[toy.blocks[i] for i in blocks], **settings))
    disturb(peft, seed)
    peft.save_pretrained(folder)
    return folder


def make_lora(toy: Toy, folder: Path, blocks: list[int], seed: int) -> Path:
    """A LoRA adapter in some blocks, saved without this package."""
    model = toy.build()
    config: LoraConfig = lora_config_for_blocks(model, [toy.blocks[i] for i in blocks], r=2)
    peft = get_peft_model(model, config)
    disturb(peft, seed)
    peft.save_pretrained(folder)
    return folder


def disturb(peft: nn.Module, seed: int) -> None:
    """Give what an adapter trains weights of its own, and its norms statistics."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for parameter in peft.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * parameter.std().nan_to_num(1.0).clamp_min(0.1) * torch.randn_like(parameter))
        for name, module in peft.named_modules():
            if "subtuning_blocks" in name and isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.add_(0.1 * torch.randn_like(module.running_mean))


def alone(toy: Toy, folder: Path) -> nn.Module:
    """What PEFT makes of an adapter."""
    return PeftModel.from_pretrained(toy.build(), str(folder)).eval()


def make_tasks(toy: Toy, folder: Path, count: int, shape: str, labels: bool = True) -> dict[str, Path]:
    """Adapters of several tasks, of different class counts."""
    return {
        f"task {n}": make_adapter(toy, folder / f"{shape}-{n}", blocks, n, 2 + n % 3 if labels else None)
        for n, blocks in enumerate(selections(toy.num_blocks, count, shape))
    }


def load(toy: Toy, adapters: dict[str, Path], **settings: Any) -> MultiTaskModel:
    """All of them on one trunk."""
    return MultiTaskModel.from_adapters(toy.build(), adapters, **settings)


def call(model: nn.Module, inputs: dict[str, torch.Tensor]) -> Any:
    """A pass without gradients and without a cache of keys and values."""
    config: Any = getattr(model, "config", None)
    extra = {"use_cache": False} if getattr(config, "use_cache", False) else {}
    with torch.no_grad():
        return model(**inputs, **extra)


__all__ = ["SHAPES", "alone", "call", "disturb", "find_blocks", "load", "logits_of", "make_adapter", "make_lora",
           "make_tasks", "selections"]  # fmt: skip
