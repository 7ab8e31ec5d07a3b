"""
Cross-validation of kernel ridge regression in closed form.

One eigendecomposition per fold gives every ridge at once, and the error of leaving each training row out, by which the
ridge is chosen: validation rows choose nothing. Knows tensors only.

Source: leave-one-out residual (y - f) / (1 - h) of linear smoothers, Allen 1974.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Relative to the mean eigenvalue of the training kernel.
RIDGES: tuple[float, ...] = tuple(10.0 ** (power / 2) for power in range(-8, 7))


def fold_predictions(
    kernel: Tensor,
    targets: Tensor,
    train: Tensor,
    validation: Tensor,
    intercept: bool = True,
    ridges: Sequence[float] = RIDGES,
) -> tuple[Tensor, Tensor, float]:
    """
    Fit on some rows, predict others.

    Args:
        kernel (`torch.Tensor` of shape `(rows, rows)`): Symmetric, positive semi-definite.
        targets (`torch.Tensor` of shape `(rows, outputs)`): What to predict.
        train (`torch.Tensor` of shape `(train,)`), validation (`torch.Tensor` of shape `(validation,)`): Rows.
        intercept (`bool`, *optional*, defaults to `True`): Fit the targets' mean without a penalty.
        ridges (`Sequence[float]`, *optional*): To choose from, in means of the training kernel's eigenvalues.

    Returns: `tuple`: predictions for the validation rows, of shape `(validation, outputs)`; predictions for each
    training row by all others, of shape `(train, outputs)`; the ridge as chosen.
    """
    if intercept:
        inner, across = centred(kernel, train, validation)
        centre = targets[train].mean(0)
    else:
        inner, across = kernel[train][:, train], kernel[validation][:, train]
        centre = torch.zeros_like(targets[0])
    wanted = targets[train] - centre
    values, vectors = torch.linalg.eigh(inner)
    values = values.clamp_min(0.0)
    unit = values.mean().clamp_min(torch.finfo(values.dtype).tiny)
    turned = vectors.T @ wanted  # (train, outputs)
    best: tuple[float, float, Tensor] | None = None
    for ridge in ridges:
        kept = values / (values + ridge * unit)
        leverage = vectors.square() @ kept + intercept / len(train)  # the mean is fitted too
        residual = (wanted - vectors @ (kept[:, None] * turned)) / (1.0 - leverage).clamp_min(1e-6)[:, None]
        error = float(residual.square().mean())
        if best is None or error <= best[0]:  # of equals the stronger
            best = (error, ridge, residual)
    assert best is not None
    error, ridge, residual = best
    weights = vectors @ (turned / (values + ridge * unit)[:, None])
    return across @ weights + centre, targets[train] - residual, ridge


def centred(kernel: Tensor, train: Tensor, validation: Tensor) -> tuple[Tensor, Tensor]:
    """
    The kernel of features from which their mean over the training rows is taken.

    Args:
        kernel (`torch.Tensor` of shape `(rows, rows)`): Of the features as they are.
        train (`torch.Tensor`), validation (`torch.Tensor`): Rows.

    Returns: `tuple[Tensor, Tensor]`: of shapes `(train, train)` and `(validation, train)`.
    """
    inner, across = kernel[train][:, train], kernel[validation][:, train]
    means = inner.mean(0)
    return inner - means - means[:, None] + means.mean(), across - means - across.mean(1)[:, None] + means.mean()
