"""
The swap test: one short full fine-tune, then its blocks put into the pretrained network.

A selection is scored with its tuned blocks among pretrained ones; all blocks but one is the pretrained block put back.
Displacement with a conscience: it asks not how far a block moved, but what the move is worth.
"""

from __future__ import annotations

import torch

from .oneshot import SharedTraining
from .side_by_side import Selection


class SwapProposal(SharedTraining):
    """Trains all blocks together for a short time, then scores selections of the tuned blocks."""

    name = "swap"

    def draw(self, blocks: tuple[str, ...], generator: torch.Generator) -> list[Selection]:
        return [blocks]
