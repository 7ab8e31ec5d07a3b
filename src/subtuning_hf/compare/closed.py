"""
Methods without a training loop: heads fitted to features of the frozen model.

Source: Head2Toe arXiv 2201.03529, whose group lasso is replaced by the norms of a ridge-penalised fit.
"""

from __future__ import annotations

import copy
import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import EvalPrediction, Trainer, TrainingArguments, set_seed

from ..blocks import find_blocks, find_head
from ..errors import ArgumentsError
from ..proposal.fast_head import fit_head
from ..proposal.features import Features, output_layer
from .method import Method, Point, Settings, between, format_settings
from .task import QUIET, Task
from .training import PeakMemory, hits_of

if TYPE_CHECKING:
    from datasets import Dataset

_RIDGES = (1e-4, 1.0)


class _Fitted(Method):
    """A head fitted to features of the frozen model."""

    blocks = ()

    @property
    @abstractmethod
    def reader(self) -> Any:
        """What reads the features."""

    def key(self) -> dict[str, Any]:
        return {"method": self.name}

    def start(self, model: nn.Module) -> tuple[Tensor, Tensor] | None:
        """The head from which the fit starts; `None` for none."""
        return None

    @abstractmethod
    def choose(self, features: Tensor, labels: Tensor, classes: int, settings: Settings) -> Tensor:
        """Which features the head is fitted to, by number."""

    def run(self, task: Task, settings: Settings, seed: int, rows: Dataset, scored: Dataset) -> dict[str, Any]:
        return _run(self, task, settings, seed, rows, scored)


class FittedProbe(_Fitted):
    """Softmax regression on what goes into the head, by L-BFGS: a linear probe trained to its end, from where the
    head is."""

    name = "LP, fitted"

    def key(self) -> dict[str, Any]:
        return {"method": self.name, "head": "from its own"}

    @property
    def reader(self) -> Any:
        """What reads the features."""
        return _HeadInputs

    def settings(self, point: Point, learning_rate: float) -> Settings:
        return {"ridge": between(point[0], *_RIDGES)}

    def start(self, model: nn.Module) -> tuple[Tensor, Tensor] | None:
        """The model's own."""
        return own_head(model)

    def choose(self, features: Tensor, labels: Tensor, classes: int, settings: Settings) -> Tensor:
        """All."""
        return torch.arange(features.shape[1])


class HeadToToe(_Fitted):
    """Features of all blocks, averaged over positions; those that a first fit leans on most, and a head on these."""

    name = "Head2Toe"

    @property
    def reader(self) -> Any:
        """What reads the features."""
        return _AllBlocks

    def settings(self, point: Point, learning_rate: float) -> Settings:
        return {"ridge": between(point[0], *_RIDGES), "share": between(point[1], 0.02, 1.0)}

    def choose(self, features: Tensor, labels: Tensor, classes: int, settings: Settings) -> Tensor:
        """The share with the largest weights in a fit to all."""
        weight, _ = fit_head(features, labels, classes, settings["ridge"])
        leaned_on = (weight * features.std(0)).norm(dim=0)
        return leaned_on.topk(max(int(settings["share"] * len(leaned_on)), 1)).indices


def _run(method: _Fitted, task: Task, settings: Settings, seed: int, rows: Dataset, scored: Dataset) -> dict[str, Any]:
    start, memory = time.perf_counter(), PeakMemory()
    set_seed(seed)
    model = copy.deepcopy(task.model).eval()
    parts = (task.to_learn(rows), task.to_score(scored))
    (x, y), (x_new, y_new) = (_read(model, task, part, method.reader) for part in parts)
    classes = Features(model, find_head(model)).outputs
    chosen = method.choose(x, y, classes, settings)
    weight, bias = fit_head(x[:, chosen], y, classes, settings["ridge"], start=method.start(model))
    logits = x_new[:, chosen] @ weight.T + bias
    found = {
        **task.compute_metrics(EvalPrediction(predictions=logits.numpy(), label_ids=y_new.numpy())),
        "loss": float(nn.functional.cross_entropy(logits, y_new)),
    }
    metrics = {name if name.startswith("eval_") else f"eval_{name}": value for name, value in found.items()}
    return {
        "score": task.score_of(metrics, method.name, format_settings(settings)),
        "num_examples": len(scored),
        "trainable_parameters": weight.numel() + bias.numel(),
        "adapter_bytes": 4 * (weight.numel() + bias.numel()) + 8 * (len(chosen) if len(chosen) < x.shape[1] else 0),
        "seconds": time.perf_counter() - start,
        "peak_mb": memory.grown(),
        **hits_of(np.asarray(logits), np.asarray(y_new)),
    }


def fit_output_layer(model: nn.Module, task: Task, rows: Dataset) -> None:
    """
    Fit the model's output layer to its frozen features, in place and from where it is, since a head that knows these
    classes already should not forget them; the strength of its penalty by rows held apart.

    Raises: [`ArgumentsError`]: If the head does not take one vector per row, or rows have no single class.
    """
    layer: Any = output_layer(model, find_head(model))
    was = model.training
    features, labels = _read(model.eval(), task, task.to_learn(rows), _HeadInputs)
    outputs = Features(model, find_head(model)).outputs
    weight, bias = fit_head(features, labels, outputs, None, start=own_head(model))
    with torch.no_grad():
        layer.weight.copy_(weight.view_as(layer.weight))
        if layer.bias is not None:
            layer.bias.copy_(bias)
    model.train(was)


def own_head(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Weight, of shape `(classes, dim)`, and bias of a model's output layer, on the CPU."""
    layer: Any = output_layer(model, find_head(model))
    weight = layer.weight.detach().flatten(1).float().cpu()
    bias = torch.zeros(len(weight)) if layer.bias is None else layer.bias.detach().float().cpu()
    return weight, bias


# --- features --------------------------------------------------------------------------------
class _HeadInputs:
    """The vectors that go into the output layer."""

    def __init__(self, model: nn.Module) -> None:
        self.features = Features(model, find_head(model))

    def __call__(self, inputs: dict[str, Any]) -> Tensor:
        found = self.features(inputs)
        if found is None:
            kind = type(self.features.model).__name__
            raise ArgumentsError(f"A fitted head needs one vector per row; the head of '{kind}' takes no such. Leave "
                                 "out the methods that fit one.")  # fmt: skip
        return found


class _AllBlocks(_HeadInputs):
    """The outputs of all blocks, averaged over positions, and the vectors that go into the output layer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.blocks = [model.get_submodule(block.name) for block in find_blocks(model, warn=False)]

    def __call__(self, inputs: dict[str, Any]) -> Tensor:
        parts: list[Tensor] = []

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            parts.append(_pooled(output[0] if isinstance(output, tuple) else output))

        with ExitStack() as hooks:
            for block in self.blocks:
                hooks.callback(block.register_forward_hook(keep).remove)
            last = super().__call__(inputs)
        # Each block's vectors to the same length, so that wide blocks do not outweigh others.
        return torch.cat([part / part.norm(dim=1, keepdim=True).clamp_min(1e-6) for part in (*parts, last)], dim=1)


def _pooled(output: Tensor) -> Tensor:
    """Averages over positions: `(rows, channels, height, width)` or `(rows, positions, dim)` to `(rows, dim)`."""
    positions = range(2, output.ndim) if output.ndim == 4 else range(1, output.ndim - 1)
    return output.float().mean(dim=tuple(positions)) if positions else output.float()


def _read(model: nn.Module, task: Task, rows: Any, kind: Any) -> tuple[Tensor, Tensor]:
    """Features and classes of rows."""
    reader, features, labels = kind(model), [], []
    for inputs in _batches(model, task, rows):
        truth = inputs.get("labels")
        if not isinstance(truth, Tensor) or truth.ndim != 1 or truth.is_floating_point():
            raise ArgumentsError("A fitted head needs one class per row in 'labels'; leave out methods that fit one.")
        with torch.no_grad():
            features.append(reader(inputs).float().cpu())
        labels.append(truth.cpu())
    return torch.cat(features), torch.cat(labels)


def _batches(model: nn.Module, task: Task, rows: Any) -> Iterator[dict[str, Any]]:
    arguments = TrainingArguments(output_dir="unused", **{**QUIET, **task.arguments})
    trainer = Trainer(model, arguments, data_collator=task.data_collator)
    for batch in trainer.get_eval_dataloader(rows):
        yield dict(trainer._prepare_inputs(batch))  # type: ignore[arg-type]
