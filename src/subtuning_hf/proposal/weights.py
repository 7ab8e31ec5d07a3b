"""
Controls that never see a row: scores of blocks by their weights, and by chance.

A cheap choice that is no better than these has learned nothing from the data.
"""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor, nn

from .base import Problem
from .ranking import BlockScores

KINDS = ("parameters", "spectrum", "kappa", "random", "last", "first")


class WeightScores(BlockScores):
    """
    A score that costs nothing.

    Args:
        kind (`str`, *optional*, defaults to `"parameters"`):
            - `"parameters"`: number of parameters;
            - `"spectrum"`: signal-to-noise of the singular values, split where the Marchenko-Pastur law ends;
            - `"kappa"`: smallest condition number, in logarithms;
            - `"random"`: by the problem's seed;
            - `"last"`, `"first"`: position.

            Of matrices, averages over those of a block are taken, weighted by size.

    Source: "spectrum": Hartford et al., arXiv 2406.06623; "kappa": as the kappa selector of PEFT.
    """

    def __init__(self, kind: str = "parameters") -> None:
        if kind not in KINDS:
            raise ValueError(f"`kind` must be one of {KINDS}, found {kind!r}.")
        self.kind = self.name = kind

    def scores(self, problem: Problem) -> list[float]:
        blocks = [problem.model.get_submodule(name) for name in problem.blocks]
        if self.kind == "random":
            chance = random.Random(problem.seed)
            return [chance.random() for _ in blocks]
        if self.kind in ("last", "first"):
            return [float(place if self.kind == "last" else -place) for place in range(len(blocks))]
        if self.kind == "parameters":
            return [float(sum(p.numel() for p in block.parameters())) for block in blocks]
        return [_average(block, _signal_to_noise if self.kind == "spectrum" else _conditioning) for block in blocks]


def _average(block: nn.Module, score: object) -> float:
    matrices = [p.detach().float().flatten(1) for p in block.parameters() if p.ndim > 1 and min(p.shape[:2]) > 1]
    if not matrices:
        return 0.0
    total = sum(matrix.numel() for matrix in matrices)
    return sum(matrix.numel() / total * score(torch.linalg.svdvals(matrix), matrix) for matrix in matrices)  # type: ignore


def _signal_to_noise(values: Tensor, matrix: Tensor) -> float:
    """Singular values above the edge of noise over those below, per largest singular value."""
    quartiles = torch.quantile(values, torch.tensor([0.25, 0.75], device=values.device))
    sigma = float(quartiles[1] - quartiles[0]) / 1.349  # of a normal distribution with these quartiles
    edge = sigma * (1 + math.sqrt(min(matrix.shape) / max(matrix.shape)))
    signal, noise = float(values[values > edge].sum()), float(values[values <= edge].sum())
    return signal / max(noise, 1e-3 * float(values.sum())) / max(float(values[0]), 1e-30)


def _conditioning(values: Tensor, matrix: Tensor) -> float:
    return -math.log(max(float(values[0]), 1e-30) / max(float(values[-1]), 1e-7 * float(values[0]) + 1e-30))
