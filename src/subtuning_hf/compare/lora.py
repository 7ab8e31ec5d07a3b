"""
Low-rank adapters, of all blocks or of chosen ones, by PEFT.

Source: LoRA arXiv 2106.09685, DoRA arXiv 2402.09353.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peft import get_peft_model
from torch import nn

from ..tuner import lora_config_for_blocks
from .method import Point, Settings
from .partial import SMALL_RATE, block_names, is_norm
from .training import TrainedMethod

if TYPE_CHECKING:
    from datasets import Dataset

    from .task import Task

RANKS = (2, 4, 8, 16, 32)


@dataclass(frozen=True)
class LoRA(TrainedMethod):
    """
    LoRA in linear layers and convolutions, the head trained beside it. The rank is tried like a rate, the high ones at
    low rates, since `lora_alpha` is twice the rank and high ranks diverge first.

    Args:
        name (`str`, *optional*, defaults to `"LoRA"`): For tables.
        blocks (`tuple[str, ...]`, *optional*): Where; in all blocks by default.
        dora (`bool`, *optional*, defaults to `False`): Whether magnitudes are learnt apart.
        norms (`bool`, *optional*, defaults to `False`): Whether norms train too, batch norms with their statistics.
    """

    name: str = "LoRA"
    blocks: tuple[str, ...] | None = None
    dora: bool = False
    norms: bool = False
    rate_scale: float = SMALL_RATE

    def key(self) -> dict[str, Any]:
        where = "all" if self.blocks is None else sorted(self.blocks)
        return {"method": "DoRA" if self.dora else "LoRA", "blocks": where} | ({"norms": True} if self.norms else {})

    def settings(self, point: Point, learning_rate: float) -> Settings:
        rank = RANKS[min(int(point[-1] * len(RANKS)), len(RANKS) - 1)]
        return super().settings(point, learning_rate) | {"rank": rank}

    def prepare(self, model: nn.Module, settings: Settings, task: Task, rows: Dataset) -> nn.Module:
        where = block_names(model) if self.blocks is None else list(self.blocks)
        rank = settings["rank"]
        config = lora_config_for_blocks(model, where, r=rank, lora_alpha=2 * rank, use_dora=self.dora)
        norms = [module for module in model.modules() if is_norm(module)] if self.norms else []
        adapted: nn.Module = get_peft_model(model, config)  # type: ignore[arg-type]
        for norm in norms:
            norm.requires_grad_(True)
        return adapted
