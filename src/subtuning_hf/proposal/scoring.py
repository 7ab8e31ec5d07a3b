"""
From features or predictions to the score of every fold.

What this module does not know: where they come from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from .base import Estimate, Problem
from .copies import call
from .fast_head import fit_head, fit_linear
from .intact import Rows


def loss_of(logits: Tensor, labels: Tensor) -> float:
    """
    The mean loss of some rows.

    Args:
        logits (`torch.Tensor` of shape `(rows, outputs)`): Predictions.
        labels (`torch.Tensor` of shape `(rows,)`): Classes or numbers.

    Returns: `float`: cross-entropy for classes, squared error for numbers.
    """
    if labels.is_floating_point():
        return float(nn.functional.mse_loss(logits.reshape(labels.shape), labels))
    return float(nn.functional.cross_entropy(logits, labels))


def score_of(problem: Problem, logits: Tensor, labels: Tensor) -> float:
    """The problem's score of some rows; arguments as for [`loss_of`]."""
    return float(problem.score(logits.cpu().numpy(), labels.cpu().numpy(), loss_of(logits, labels)))


def fitted(features: Tensor, labels: Tensor, outputs: int) -> tuple[Tensor, Tensor]:
    """
    A head for some rows.

    Args:
        features (`torch.Tensor` of shape `(rows, dim)`): What goes into it.
        labels (`torch.Tensor` of shape `(rows,)`): Classes or numbers.
        outputs (`int`): Of the head.

    Returns: `tuple[Tensor, Tensor]`: weight of shape `(outputs, dim)` and bias of shape `(outputs,)`.
    """
    return fit_linear(features, labels) if labels.is_floating_point() else fit_head(features, labels, outputs)


def score_features(problem: Problem, rows: Rows, features: Tensor, labels: Tensor, outputs: int) -> Estimate:
    """
    The score of a head that is fitted to each fold's training rows.

    Args:
        problem ([`Problem`]): Scores.
        rows ([`Rows`]): Their folds.
        features (`torch.Tensor` of shape `(rows, dim)`): What goes into the head.
        labels (`torch.Tensor` of shape `(rows,)`): Classes or numbers.
        outputs (`int`): Of the head.

    Returns: [`Estimate`]
    """
    scores = []
    for train, validation in rows.folds:
        weight, bias = fitted(features[train], labels[train], outputs)
        scores.append(score_of(problem, features[validation] @ weight.T + bias, labels[validation]))
    return Estimate(tuple(scores))


def score_model(problem: Problem, rows: Rows) -> Estimate:
    """
    Minus the loss of the model as it stands, on each fold's validation rows: for heads that cannot be fitted.

    Args:
        problem ([`Problem`]): Whose model, frozen and in eval mode.
        rows ([`Rows`]): Their folds.

    Returns: [`Estimate`]
    """
    return Estimate(tuple(-_mean_loss(problem, rows, validation) for _, validation in rows.folds))


def _mean_loss(problem: Problem, rows: Rows, places: Tensor) -> float:
    part = replace(rows, numbers=tuple(rows.numbers[place] for place in places.tolist()), folds=())
    total = sum(size * loss for size, loss in _losses(problem, part))
    return total / len(part)


def _losses(problem: Problem, rows: Rows) -> Iterator[tuple[int, float]]:
    for places, batch in rows.batches(problem):
        with torch.no_grad():
            _, loss = call(problem.model, batch)
        problem.meter.forward(places.stop - places.start)
        yield places.stop - places.start, float(loss)  # type: ignore[arg-type]
