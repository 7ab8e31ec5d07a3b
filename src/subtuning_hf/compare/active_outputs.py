"""
What a trained model makes of rows: class probabilities, and what goes into its output layer.

Keeps the model that a method trains, which methods do not give out, and reads rows that have no label in them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainingArguments, default_data_collator

from ..blocks import find_head
from ..errors import ArgumentsError
from ..proposal.copies import call, logits_of
from ..proposal.features import Features
from .active_rules import Array, Seen
from .method import Settings
from .task import QUIET, Task
from .training import TrainedMethod

if TYPE_CHECKING:
    from datasets import Dataset


class KeptMethod(TrainedMethod):
    """
    A method whose trained model stays.

    Args:
        method ([`TrainedMethod`]): What trains.
    """

    def __init__(self, method: TrainedMethod) -> None:
        self.method = method
        self.name, self.blocks, self.rate_scale = method.name, method.blocks, method.rate_scale
        self._model: nn.Module | None = None

    def key(self) -> dict[str, Any]:
        return self.method.key()

    def prepare(self, model: nn.Module, settings: Settings, task: Task, rows: Dataset) -> nn.Module:
        self._model = self.method.prepare(model, settings, task, rows)
        return self._model

    def factors(self, model: nn.Module, settings: Settings) -> dict[str, float]:
        return self.method.factors(model, settings)

    def callbacks(self, model: nn.Module, settings: Settings) -> list[TrainerCallback]:
        return self.method.callbacks(model, settings)

    def trained(self) -> nn.Module:
        """`torch.nn.Module`: of the last run, in eval mode, without adapters around it."""
        model: Any = self._model
        return (model.merge_and_unload() if isinstance(model, PeftModel) else model).eval()


def blank_labels(rows: Dataset, label_column: str, known: int) -> Dataset:
    """
    The same rows, all with one label.

    The column stays, since transforms and collators made for training ask for it.

    Args:
        rows (`datasets.Dataset`): Left as they are.
        label_column (`str`): Where labels are.
        known (`int`): Number of the row whose label all get: one that is labelled anyway.

    Returns: `datasets.Dataset`
    """
    feature, label = rows.features[label_column], rows[known][label_column]
    return rows.remove_columns(label_column).add_column(label_column, [label] * len(rows), feature=feature)


def look_at(model: nn.Module, task: Task, pool: Dataset, labelled: Dataset) -> Seen:
    """
    Run a model on rows.

    Args:
        model (`torch.nn.Module`): In eval mode.
        task ([`Task`]): Its evaluation transform, collator and batch size.
        pool (`datasets.Dataset`), labelled (`datasets.Dataset`): Rows with blanked labels.

    Returns: [`Seen`]
    Raises: [`ArgumentsError`]: For a model that does not give one score per class, or whose head takes no single
        vector per row.
    """
    probabilities, features = _read(model, task, pool)
    return Seen(probabilities, features, _read(model, task, labelled)[1])


def _read(model: nn.Module, task: Task, rows: Dataset) -> tuple[Array, Array]:
    arguments = TrainingArguments(output_dir="unused", **{**QUIET, **task.arguments})
    # No Trainer's loader: it may sort rows by length, and here their order counts.
    loader: Any = DataLoader(
        task.to_score(rows),  # type: ignore[arg-type]
        batch_size=arguments.eval_batch_size,
        collate_fn=task.data_collator or default_data_collator,
    )
    reader = Features(model, find_head(model))
    device = next(model.parameters()).device
    probabilities, features = [], []
    for batch in loader:
        inputs = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
        with torch.no_grad(), reader.watching():
            output, _ = call(model, inputs)
            logits, vectors = logits_of(output), reader.of(output)
        if logits.ndim != 2 or logits.shape[1] < 2 or vectors is None:
            raise ArgumentsError(
                "Active learning needs one score per class and one vector per row before the head; the model gives "
                f"logits of shape {tuple(logits.shape)}. Give it a classification head with two outputs or more."
            )
        probabilities.append(logits.double().softmax(-1).cpu().numpy())
        features.append(vectors.double().cpu().numpy())
    return np.concatenate(probabilities), np.concatenate(features)
