"""
One training by plain Trainer, for every method that learns by gradients.

A method says which model trains, at which rates, and with which callbacks; everything else is the task's. Batch norms
whose weights are frozen keep their statistics too, in every method: what is not in the adapter must not change.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import gc
import math
import tempfile
import time
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from peft import PeftModel
from torch import nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from ..blocks import find_head
from ..errors import NonFiniteScoreError
from .method import Method, Settings, format_settings, pack_hits
from .task import QUIET, Task

if TYPE_CHECKING:
    from datasets import Dataset


class TrainedMethod(Method):
    """A method that learns by gradients: a model to train, and rates for its parameters."""

    @abstractmethod
    def prepare(self, model: nn.Module, settings: Settings, task: Task, rows: Dataset) -> nn.Module:
        """
        Make of the pretrained model what trains; parameters that do not have `requires_grad` off.

        Args:
            model (`torch.nn.Module`): A copy that may be changed.
            settings (`dict`), task ([`Task`]): Of this run.
            rows (`datasets.Dataset`): Learnt from.
        """

    def factors(self, model: nn.Module, settings: Settings) -> dict[str, float]:
        """Learning rates of parameters by name, as multiples of the run's; 1 for those that are not named."""
        factor = float(settings.get("head_factor", 1.0))
        return dict.fromkeys(head_parameters(model), factor) if factor != 1.0 else {}

    def callbacks(self, model: nn.Module, settings: Settings) -> list[TrainerCallback]:
        """What acts while it trains."""
        return []

    def run(self, task: Task, settings: Settings, seed: int, rows: Dataset, scored: Dataset) -> dict[str, Any]:
        start = time.perf_counter()
        set_seed(seed)
        memory = PeakMemory()
        model = self.prepare(copy.deepcopy(task.model), settings, task, rows)
        trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
        factors = self.factors(model, settings)
        with tempfile.TemporaryDirectory(prefix="subtuning-compare-") as folder:
            own = {"seed": seed, "learning_rate": settings["learning_rate"]}
            trainer = RatesTrainer(
                model,
                TrainingArguments(folder, **{**QUIET, **task.arguments, **own}),
                train_dataset=task.to_learn(rows),
                data_collator=task.data_collator,
                compute_metrics=task.compute_metrics,
                callbacks=self.callbacks(model, settings),
                factors={id(trainable[name]): factor for name, factor in factors.items() if name in trainable},
            )
            trainer.remove_callback(PrinterCallback)  # which prints a dict per run where there is no bar
            set_seed(seed)
            loss = trainer.train().training_loss
            if not math.isfinite(loss):
                tried = format_settings(settings)
                raise NonFiniteScoreError(f"{self.name} came to a loss of {loss} with {tried}. Try lower rates.")
            output = trainer.predict(task.to_score(scored), metric_key_prefix="eval")
        return {
            "score": task.score_of(output.metrics or {}, self.name, format_settings(settings)),
            "num_examples": len(scored),
            "trainable_parameters": sum(parameter.numel() for parameter in trainable.values()),
            "adapter_bytes": changed_bytes(model, trainable),
            "seconds": time.perf_counter() - start,
            "peak_mb": memory.grown(),
            **hits_of(output.predictions, output.label_ids),
        }


class RatesTrainer(Trainer):
    """
    A Trainer with learning rates by parameter, in which frozen batch norms stay as they are.

    Args:
        factors (`Mapping[int, float]`): By `id` of a parameter, its rate as a multiple of the others'.
    """

    def __init__(self, *args: Any, factors: Mapping[int, float], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._factors = factors

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        made = self.optimizer is not None
        optimizer = super().create_optimizer(*args, **kwargs)
        if not made:
            split_rates(optimizer, self._factors)
        return optimizer

    def compute_loss(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
                own = list(module.parameters(recurse=False))
                if own and not any(parameter.requires_grad for parameter in own):
                    module.eval()
        return super().compute_loss(model, *args, **kwargs)


def split_rates(optimizer: torch.optim.Optimizer, factors: Mapping[int, float]) -> None:
    """
    Give parameters rates of their own: one group for each factor, everything else about their group kept.

    Args:
        optimizer (`torch.optim.Optimizer`): Changed in place.
        factors (`Mapping[int, float]`): By `id` of a parameter.
    """
    for group in list(optimizer.param_groups):
        apart: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            apart.setdefault(factors.get(id(parameter), 1.0), []).append(parameter)
        if list(apart) in ([], [1.0]):
            continue
        first, *others = apart
        shared = {name: value for name, value in group.items() if name != "params"}
        group.update({"params": apart[first], "lr": first * shared["lr"]})
        for factor in others:
            optimizer.add_param_group({**shared, "params": apart[factor], "lr": factor * shared["lr"]})


def head_parameters(model: nn.Module) -> list[str]:
    """Names of the trainable parameters of the output layer, in a bare model or below adapters."""
    bare = model.get_base_model() if isinstance(model, PeftModel) else model
    heads = [bare.get_submodule(name) for name in find_head(bare)]
    inside = {id(parameter) for head in heads for parameter in head.parameters()}
    return [name for name, parameter in model.named_parameters() if id(parameter) in inside and parameter.requires_grad]


def changed_bytes(model: nn.Module, trainable: Mapping[str, nn.Parameter]) -> int:
    """Size of what training can change: trained parameters, and the statistics of norms that have some."""
    total = sum(parameter.numel() * parameter.element_size() for parameter in trainable.values())
    for module in model.modules():
        own = [parameter for parameter in module.parameters(recurse=False) if parameter.requires_grad]
        if own:
            total += sum(buffer.numel() * buffer.element_size() for buffer in module.buffers(recurse=False))
    return total


def hits_of(predictions: Any, labels: Any) -> dict[str, str]:
    """Which rows were right, where a row has one class; nothing elsewhere."""
    logits = predictions[0] if isinstance(predictions, tuple) else predictions
    if not (isinstance(logits, np.ndarray) and isinstance(labels, np.ndarray)):
        return {}
    if logits.ndim != 2 or labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        return {}
    return {"hits": pack_hits((logits.argmax(-1) == labels).tolist())}


class PeakMemory:
    """The most memory since it was made, beyond what there was then, where the system tells."""

    def __init__(self) -> None:
        self._device = torch.cuda.is_available()
        if self._device:
            torch.cuda.reset_peak_memory_stats()
            self._before: float | None = torch.cuda.memory_allocated() / 2**20
            return
        try:
            _give_back_memory()  # else what an earlier run left free is taken up unseen
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
            self._before = _status("VmRSS")
        except OSError:
            self._before = None

    def grown(self) -> float | None:
        """`float` or `None`: in MiB."""
        if self._before is None:
            return None
        most = torch.cuda.max_memory_allocated() / 2**20 if self._device else _status("VmHWM")
        return round(most - self._before, 1)


def _give_back_memory() -> None:
    """Free memory that nothing refers to goes back to the system, where glibc is there to do it."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024
