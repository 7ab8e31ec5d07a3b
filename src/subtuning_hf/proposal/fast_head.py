"""
A linear head fitted to features in milliseconds, without a training loop.

Softmax regression by L-BFGS for classes, ridge regression in closed form for numbers; features are standardised inside,
and what comes back is a weight and a bias for the features as they were given. Knows tensors only.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

RIDGE = 1e-2
_STEPS = 100


def fit_head(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    ridge: float | None = RIDGE,
    seed: int = 0,
    start: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """
    Softmax regression with a ridge penalty: mean cross-entropy + ridge / 2 x squared weights.

    Args:
        features (`torch.Tensor` of shape `(rows, dim)`): What goes into the head, of any floating type.
        labels (`torch.Tensor` of shape `(rows,)`): Class of each row, from 0; not every class need occur.
        num_classes (`int`): Number of outputs.
        ridge (`float`, *optional*, defaults to 0.01):
            Strength of the penalty, for features of variance 1; `None` chooses it among `RIDGES` by rows held apart.
        seed (`int`, *optional*): Of that choice.
        start (`tuple[torch.Tensor, torch.Tensor]`, *optional*): Weight and bias of a head, the distance from which is
            penalised; by default that from zero.

    Returns: `tuple[torch.Tensor, torch.Tensor]`: weight of shape `(num_classes, dim)` and bias of shape
    `(num_classes,)`, in float32.
    """
    x, mean, scale = _standardised(features)
    said: Tensor | float = 0.0
    if start is not None:
        said = features.detach().float() @ start[0].T + start[1]
    if ridge is None:
        ridge = _best_ridge(x, labels, num_classes, seed, said)
    weight, bias = _on_raw_features(*_softmax_regression(x, labels, num_classes, ridge, said), mean, scale)
    return (weight, bias) if start is None else (start[0] + weight, start[1] + bias)


def fit_linear(features: Tensor, targets: Tensor, ridge: float = RIDGE) -> tuple[Tensor, Tensor]:
    """
    Ridge regression in closed form.

    Args:
        features (`torch.Tensor` of shape `(rows, dim)`): What goes into the head.
        targets (`torch.Tensor` of shape `(rows,)` or `(rows, outputs)`): Numbers.
        ridge (`float`, *optional*, defaults to 0.01): Strength of the penalty per row, for features of variance 1.

    Returns: `tuple[torch.Tensor, torch.Tensor]`: weight of shape `(outputs, dim)` and bias of shape `(outputs,)`.
    """
    x, mean, scale = _standardised(features)
    y = targets.float().reshape(len(targets), -1)
    centre = y.mean(0)
    rows, dim = x.shape
    if rows < dim:  # the smaller of the two systems
        kernel = x @ x.T + ridge * rows * torch.eye(rows, device=x.device)
        weight = (x.T @ torch.linalg.solve(kernel, y - centre)).T
    else:
        gram = x.T @ x + ridge * rows * torch.eye(dim, device=x.device)
        weight = torch.linalg.solve(gram, x.T @ (y - centre)).T
    return _on_raw_features(weight, centre, mean, scale)


RIDGES: Sequence[float] = (1e-3, 1e-2, 1e-1)


def _standardised(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x = features.detach().float()
    mean = x.mean(0)
    x = x - mean
    scale = x.pow(2).mean(0).sqrt()
    # A feature that hardly varies says nothing, and dividing by its spread would blow up its noise.
    scale = scale.clamp_min(1e-4 * float(scale.max()) + 1e-12)
    return x / scale, mean, scale


def _on_raw_features(weight: Tensor, bias: Tensor, mean: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    weight = weight / scale
    return weight, bias - weight @ mean


def _softmax_regression(
    x: Tensor, labels: Tensor, num_classes: int, ridge: float, said: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    """Weight and bias of what is added to the logits that another head `said`."""
    weight = torch.zeros(num_classes, x.shape[1], device=x.device, requires_grad=True)
    bias = torch.zeros(num_classes, device=x.device, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=_STEPS, history_size=10, tolerance_grad=1e-5, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        solver.zero_grad()
        logits = x @ weight.T + bias + said
        value = torch.nn.functional.cross_entropy(logits, labels) + ridge / 2 * weight.pow(2).sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    return weight.detach(), bias.detach()


def _best_ridge(x: Tensor, labels: Tensor, num_classes: int, seed: int, said: Tensor | float = 0.0) -> float:
    """By the loss on a quarter of the rows."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).to(x.device)
    held, rest = order[: len(x) // 4], order[len(x) // 4 :]
    if len(held) == 0:
        return RIDGE
    losses = {}
    said_rest, said_held = (said[rest], said[held]) if isinstance(said, Tensor) else (said, said)
    for ridge in RIDGES:
        weight, bias = _softmax_regression(x[rest], labels[rest], num_classes, ridge, said_rest)
        losses[ridge] = float(torch.nn.functional.cross_entropy(x[held] @ weight.T + bias + said_held, labels[held]))
    return min(losses, key=lambda ridge: (losses[ridge], -ridge))
