"""What the tests of the tuner share: wrapping a toy, moving its weights, comparing bit for bit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from peft import PeftModel, get_peft_model
from torch import nn

from subtuning_hf.tuner import BlockLayer, SubTuningConfig, TaskModuleWrapper
from toys import Toy, logits_of

# A middle block and the last one, so that a frozen block lies before, between and (as head or norm) behind.
SELECTION = [1, -1]


def wrap(model: nn.Module, adapter_name: str = "first", **config) -> PeftModel:
    """The model with one adapter, by default on `SELECTION`."""
    config.setdefault("blocks", SELECTION)
    return get_peft_model(model, SubTuningConfig(**config), adapter_name=adapter_name)


def copies(model: nn.Module, adapter_name: str) -> list[nn.Module]:
    """The modules an adapter owns."""
    found = []
    for module in model.modules():
        owned = None
        if isinstance(module, BlockLayer):
            owned = module.subtuning_blocks
        elif isinstance(module, TaskModuleWrapper):
            owned = module.modules_to_save
        if owned is not None and adapter_name in owned:
            found.append(owned[adapter_name])
    return found


def move(model: nn.Module, adapter_name: str = "first", seed: int = 1) -> None:
    """Move every tensor an adapter saves, so that nothing untouched can pass for loaded."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in copies(model, adapter_name):
            for tensor in module.state_dict().values():
                if tensor.is_floating_point():
                    noise = torch.rand(tensor.shape, generator=generator) * 0.2 + 0.05
                    tensor.add_(noise.to(tensor.dtype))
                elif tensor.ndim == 0:  # a counter, not a table of indices
                    tensor.add_(1)


@torch.no_grad()
def run(model: nn.Module, toy: Toy, batch_size: int = 2, seed: int = 0, **extra) -> torch.Tensor:
    """Logits in eval mode."""
    model.eval()
    return logits_of(model(**toy.inputs(batch_size, seed), **extra)).clone()


def mixed_and_alone(model: nn.Module, toy: Toy, names: list[str]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Each row of a batch of several adapters, and the same row where its adapter answers the whole batch."""
    extra = {"use_cache": False} if getattr(getattr(model, "config", None), "use_cache", False) else {}
    mixed = run(model, toy, len(names), adapter_names=names, **extra)
    for row, name in enumerate(names):
        if name == "__base__":
            with model.disable_adapter():
                alone = run(model, toy, len(names), **extra)
        else:
            model.set_adapter(name)
            alone = run(model, toy, len(names), **extra)
        yield mixed[row], alone[row]


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    """All tensors of a model, copied."""
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def same(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Equal bit for bit."""
    return left.dtype == right.dtype and left.shape == right.shape and torch.equal(left, right)


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], keys: Iterable[str]) -> list[str]:
    """Keys whose tensors differ in any bit."""
    return [key for key in keys if not same(before[key], after[key])]


def frozen_keys(tensors: Iterable[str]) -> list[str]:
    """Keys of what no adapter owns."""
    return [key for key in tensors if ".subtuning_blocks." not in key and ".modules_to_save." not in key]


def steps(model: nn.Module, toy: Toy, count: int = 3) -> None:
    """Real training steps with AdamW on whatever requires grad, in the mode the model is in."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    for step in range(count):
        optimizer.zero_grad()
        logits_of(model(**toy.inputs(4, seed=step))).float().pow(2).mean().backward()
        optimizer.step()
