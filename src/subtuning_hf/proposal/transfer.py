"""
Scores of blocks by how well their outputs tell the labels, without gradients.

Made to choose among pretrained models; here each block's output, averaged over positions, stands for a model. What this
measures is how far the features have come at a block, not what tuning the block would change.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .base import Batch, Problem
from .copies import call
from .gradients import first_training_rows
from .intact import labels_at
from .ranking import BlockScores

KINDS = ("logme", "h-score")


class TransferScores(BlockScores):
    """
    Transferability of each block's output, from one forward pass over the training rows of the first fold.

    Args:
        kind (`str`, *optional*, defaults to `"logme"`): `"logme"` or `"h-score"`, the latter for classes only.
    """

    def __init__(self, kind: str = "logme") -> None:
        if kind not in KINDS:
            raise ValueError(f"`kind` must be one of {KINDS}, found {kind!r}.")
        self.kind = self.name = kind

    def scores(self, problem: Problem) -> list[float]:
        rows = first_training_rows(problem)
        labels = labels_at(problem, rows)
        if labels is None or (labels.is_floating_point() and self.kind == "h-score"):
            return [0.0] * len(problem.blocks)  # says nothing
        found: list[list[Tensor]] = [[] for _ in problem.blocks]
        handles = []
        batch: Batch = {}

        def keep(place: int) -> Any:
            return lambda module, args, output: found[place].append(pooled(output, batch))

        try:
            for place, name in enumerate(problem.blocks):
                handles.append(problem.model.get_submodule(name).register_forward_hook(keep(place)))
            for places, batch in rows.batches(problem, labelled=False):  # the hooks read `batch`
                with torch.no_grad():
                    call(problem.model, batch)
                problem.meter.forward(places.stop - places.start)
        finally:
            for handle in handles:
                handle.remove()
        targets = labels.double()[:, None] if labels.is_floating_point() else nn.functional.one_hot(labels).double()
        score = log_evidence if self.kind == "logme" else h_score
        return [score(torch.cat(parts).double().cpu(), targets) for parts in found]


def pooled(output: Any, batch: Batch) -> Tensor:
    """
    One vector per row.

    Args:
        output: Of a block: a tensor, or a structure whose first tensor counts. Four axes are taken for
            `(rows, channels, height, width)` unless only the last differs from the others, three for
            `(rows, positions, channels)`.
        batch (`Mapping`): An `attention_mask` that fits the positions is heeded.

    Returns: `Tensor` of shape `(rows, channels)`
    """
    leaves = torch.utils._pytree.tree_leaves(output)
    values = next(leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()).float()
    if values.ndim == 4:
        last = values.shape[1] == values.shape[2] != values.shape[3]
        return values.mean((1, 2)) if last else values.mean((2, 3))
    if values.ndim != 3:
        return values.flatten(1)
    mask = batch.get("attention_mask")
    if isinstance(mask, Tensor) and mask.shape == values.shape[:2]:
        weight = mask.to(values)[..., None]
        return (values * weight).sum(1) / weight.sum(1).clamp_min(1.0)
    return values.mean(1)


def log_evidence(features: Tensor, targets: Tensor) -> float:
    """
    LogME: the largest evidence of a Bayesian linear model, per row, averaged over outputs.

    Args:
        features (`torch.Tensor` of shape `(rows, dim)`): What it predicts from.
        targets (`torch.Tensor` of shape `(rows, outputs)`): What it predicts.

    Returns: `float`
    Source: You et al., LogME, arXiv 2102.11005, fixed-point iteration of algorithm 1.
    """
    rows, dim = features.shape
    left, values, _ = torch.linalg.svd(features, full_matrices=False)
    squares = values.square()
    total = 0.0
    for target in targets.T:
        inside = (left.T @ target).square()  # of the target, along each singular direction
        outside = float((target.square().sum() - inside.sum()).clamp_min(0.0))
        alpha, beta = 1.0, 1.0
        for _ in range(50):
            gamma = float((beta * squares / (alpha + beta * squares)).sum())
            norm = float((beta**2 * squares * inside / (alpha + beta * squares).square()).sum())
            residual = float((alpha**2 * inside / (alpha + beta * squares).square()).sum()) + outside
            before = alpha / beta
            alpha, beta = gamma / max(norm, 1e-12), (rows - gamma) / max(residual, 1e-12)
            if abs(alpha / beta - before) <= 1e-4 * before:
                break
        norm = float((beta**2 * squares * inside / (alpha + beta * squares).square()).sum())
        residual = float((alpha**2 * inside / (alpha + beta * squares).square()).sum()) + outside
        # Directions without data have precision alpha.
        log_det = float((alpha + beta * squares).log().sum()) + (dim - len(values)) * _log(alpha)
        evidence = dim * _log(alpha) + rows * _log(beta) - rows * _log(2 * torch.pi) - log_det
        total += 0.5 * (evidence - beta * residual - alpha * norm) / rows
    return total / targets.shape[1]


def h_score(features: Tensor, targets: Tensor, shrinkage: float = 0.1) -> float:
    """
    H-score: how much of the features' variance lies between classes, in units of their own covariance.

    Args:
        features (`torch.Tensor` of shape `(rows, dim)`): Of the rows.
        targets (`torch.Tensor` of shape `(rows, classes)`): One-hot.
        shrinkage (`float`, *optional*, defaults to 0.1): Of the covariance towards a multiple of the identity.

    Returns: `float`
    Source: Bao et al. 2019; shrinkage as in Ibrahim et al., arXiv 2110.06893, with a fixed amount.
    """
    features = features - features.mean(0)
    covariance = features.T @ features / len(features)
    scale = covariance.diagonal().mean().clamp_min(1e-12)
    shrunk = (1 - shrinkage) * covariance + shrinkage * scale * torch.eye(len(covariance), dtype=covariance.dtype)
    means = (targets.T @ features) / targets.sum(0).clamp_min(1.0)[:, None]
    weighted = means * (targets.mean(0).sqrt())[:, None]
    return float(torch.linalg.solve(shrunk, weighted.T @ weighted).diagonal().sum())


def _log(value: float) -> float:
    return float(torch.tensor(value, dtype=torch.float64).clamp_min(1e-300).log())
