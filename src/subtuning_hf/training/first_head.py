"""
A head fitted in closed form to what the frozen model makes of the training rows, for trainings to start from.

Knows the recipe and its data; does not know candidates.

Source: linear probing before fine-tuning (LP-FT), arXiv 2202.10054.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import Trainer

from ..blocks import find_head
from ..errors import ArgumentsError
from ..proposal.copies import predicts_numbers
from ..proposal.fast_head import fit_head
from ..proposal.features import Features, output_layer
from .arguments import GreedySubTuningArguments
from .data import class_labels, read_labels
from .recipe import Recipe

Head = tuple[Tensor, Tensor]


def check_first_head(recipe: Recipe) -> None:
    """
    Refuse to fit a head that cannot be fitted.

    Raises: [`ArgumentsError`]
    """
    if recipe.args.init_head != "fit":
        return
    layer = output_layer(recipe.model, find_head(recipe.model))
    way_out = "Leave `init_head` out, and the head starts as it is given."
    if layer is None:
        kind = type(recipe.model).__name__
        raise ArgumentsError(f"init_head='fit' needs a head that ends in a linear layer; '{kind}' has none. {way_out}")
    labels = recipe.labels or class_labels(read_labels(recipe.train_dataset, recipe.args.label_column))
    if predicts_numbers(recipe.model) or labels is None or not all(isinstance(label, int) for label in labels):
        raise ArgumentsError(
            "init_head='fit' needs one class per row, as a whole number; the training rows have no such labels, the "
            f"model learns numbers, or `label_column` does not name them. {way_out}"
        )


def fitted_head(
    recipe: Recipe,
    args: GreedySubTuningArguments,
    rows: Any,
    start: Callable[[Trainer], AbstractContextManager[Any]],
) -> Head:
    """
    Softmax regression on the head's inputs.

    Args:
        recipe ([`Recipe`]): The base model, without adapters, and how rows are collated.
        args ([`GreedySubTuningArguments`]): Of this training.
        rows: Training rows, already a view.
        start (`Callable`): Lets a trainer's model start from what is stored of these rows.

    Returns: `tuple[torch.Tensor, torch.Tensor]`: weight of shape `(classes, dim)` and bias of shape `(classes,)`.
    Raises: [`ArgumentsError`]: If the head does not take one vector per row.
    """
    model = recipe.model
    model.eval()
    trainer = recipe.trainer(model, args, rows)
    features, labels = [], []
    reader = Features(model, find_head(model))
    with start(trainer), torch.no_grad(), reader.watching():
        for batch in trainer.get_eval_dataloader(rows):
            inputs: Any = trainer._prepare_inputs(batch)
            truth = inputs["labels"] if "labels" in inputs else inputs[trainer.label_names[0]]
            plain = {name: value for name, value in inputs.items() if name not in trainer.label_names}
            with trainer.accelerator.autocast():  # what is stored was made under it
                found = reader.of(model(**plain))
            if found is None or truth.ndim != 1 or truth.is_floating_point():
                raise ArgumentsError(
                    "init_head='fit' needs a head that takes one vector per row, and one class per row. Leave "
                    "`init_head` out, and the head starts as it is given."
                )
            features.append(found.float())
            labels.append(truth)
    layer: Any = reader.layer
    return fit_head(torch.cat(features), torch.cat(labels), layer.weight.shape[0])


def put_head(model: nn.Module, head: Head, adapter_name: str = "default") -> None:
    """Give an adapter's head these weights."""
    owned = [
        module.modules_to_save[adapter_name]
        for module in model.modules()
        if isinstance(module, ModulesToSaveWrapper) and adapter_name in module.modules_to_save
    ]
    layers: list[Any] = [m for part in owned for m in part.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    weight, bias = head
    with torch.no_grad():
        layers[-1].weight.copy_(weight.reshape(layers[-1].weight.shape))
        if layers[-1].bias is not None:
            layers[-1].bias.copy_(bias)
