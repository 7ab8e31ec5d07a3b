"""
One way to train and score any method: a linear probe, a full fine-tune or a selection of blocks.

The three differ in which parameters train, and in nothing else. Learning rates are chosen by cross-validation on the
training rows; the test set is only ever scored by [`repeat`].
"""

from __future__ import annotations

import copy
import hashlib
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from peft import get_peft_model
from transformers import PrinterCallback, Trainer, TrainingArguments, set_seed

from ..errors import ArgumentsError, MetricNotFoundError, NonFiniteScoreError
from ..training.fingerprint import fingerprint_dataset, fingerprint_tensors, fingerprint_value
from ..training.identity import fingerprint_code
from ..tuner import SubTuningConfig
from .log import RunLog

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import nn

    from ..search.folds import Fold


@dataclass(frozen=True)
class Method:
    """
    Which parameters train.

    Args:
        name (`str`): For tables.
        blocks (`tuple[str, ...]`, *optional*): Blocks that train beside the head; `None` means every parameter.
    """

    name: str
    blocks: tuple[str, ...] | None


LinearProbe = Method("LP", ())
FullFineTuning = Method("FT", None)


def Selection(blocks: Sequence[str], name: str = "SubTuning") -> Method:
    """The method that trains these blocks and the head."""
    return Method(name, tuple(blocks))


@dataclass(frozen=True)
class Task:
    """
    What every method is given alike.

    Args:
        model (`torch.nn.Module`): The pretrained model with its head; copied for each run, never altered.
        train (`datasets.Dataset`): Rows to learn from and to choose by.
        test (`datasets.Dataset`): Rows for [`repeat`] only.
        arguments (`dict`): [`TrainingArguments`] of every run, without `output_dir`, `seed` and `learning_rate`.
        compute_metrics (`Callable`): As in [`Trainer`].
        metric (`str`, *optional*, defaults to `"accuracy"`): What counts; more is better.
        train_transform (`Callable`, *optional*), eval_transform (`Callable`, *optional*):
            As in `Dataset.set_transform`, for rows that are learnt from and rows that are scored.
        data_collator (`Callable`, *optional*): As in [`Trainer`].
    """

    model: nn.Module
    train: Dataset
    test: Dataset
    arguments: dict[str, Any]
    compute_metrics: Callable[[Any], dict[str, float]]
    metric: str = "accuracy"
    train_transform: Callable | None = None
    eval_transform: Callable | None = None
    data_collator: Callable | None = None
    _identity: list[str] = field(default_factory=list, repr=False, compare=False)

    @property
    def identity(self) -> str:
        """Hash of weights, rows and arguments: what a stored run must share to be used again."""
        if not self._identity:
            self._identity.append(_identity_of(self))
        return self._identity[0]


def _identity_of(task: Task) -> str:
    functions = (task.compute_metrics, task.train_transform, task.eval_transform, task.data_collator)
    parts = [
        fingerprint_tensors(task.model.state_dict()),
        *(fingerprint_dataset(rows, None, random_items=False) for rows in (task.train, task.test)),
        *(fingerprint_code(function) for function in functions),
        fingerprint_value([task.metric, {**QUIET, **task.arguments}]),
    ]
    return fingerprint_value(parts)[:16]


def run_once(
    task: Task, method: Method, learning_rate: float, seed: int, rows: Dataset, scored: Dataset
) -> dict[str, Any]:
    """
    Train one method on some rows and score it on others.

    Args:
        task ([`Task`]), method ([`Method`]): What to train.
        learning_rate (`float`): Its learning rate, for blocks and head alike.
        seed (`int`): Seed of the order of rows and of dropout.
        rows (`datasets.Dataset`): Learnt from.
        scored (`datasets.Dataset`): Scored, once, after the last step.

    Returns: `dict`: `score`, `num_examples`, `trainable_parameters`, `seconds` (of training and scoring).
    Raises: [`NonFiniteScoreError`], [`MetricNotFoundError`]
    """
    start = time.perf_counter()
    set_seed(seed)
    model = copy.deepcopy(task.model)
    if method.blocks is None:
        model.requires_grad_(True)
    else:
        model = get_peft_model(model, SubTuningConfig(blocks=list(method.blocks)))  # type: ignore[arg-type]
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    with tempfile.TemporaryDirectory(prefix="subtuning-compare-") as folder:
        arguments = TrainingArguments(
            folder, **{**QUIET, **task.arguments, "seed": seed, "learning_rate": learning_rate}
        )
        trainer = Trainer(
            model,
            arguments,
            train_dataset=_with(rows, task.train_transform),
            eval_dataset=_with(scored, task.eval_transform),
            data_collator=task.data_collator,
            compute_metrics=task.compute_metrics,
        )
        trainer.remove_callback(PrinterCallback)  # which prints a dict per run where there is no bar
        trainer.train()
        metrics = trainer.evaluate()
    return {
        "score": _score(task, method, learning_rate, metrics),
        "num_examples": len(scored),
        "trainable_parameters": trainable,
        "seconds": time.perf_counter() - start,
    }


QUIET = {
    "save_strategy": "no",
    "eval_strategy": "no",
    "logging_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
    "remove_unused_columns": False,
}


def _with(rows: Dataset, transform: Callable | None) -> Dataset:
    return rows if transform is None else rows.with_transform(transform)


def _score(task: Task, method: Method, learning_rate: float, metrics: dict[str, float]) -> float:
    key = f"eval_{task.metric}"
    if key not in metrics:
        names = ", ".join(sorted(name.removeprefix("eval_") for name in metrics if name.startswith("eval_")))
        raise MetricNotFoundError(f"`metric` is '{task.metric}', an evaluation returns {names}.")
    if not math.isfinite(metrics[key]):
        raise NonFiniteScoreError(
            f"{method.name} scored {metrics[key]} at learning rate {learning_rate:g}. Try lower learning rates."
        )
    return metrics[key]


@dataclass(frozen=True)
class Trials:
    """
    The learning-rate trials of one method, all on the same folds.

    Args:
        method ([`Method`]): The method.
        fold_scores (`dict[float, tuple[float, ...]]`): Scores by learning rate, in the order of the folds.
        fold_sizes (`tuple[int, ...]`): Rows scored in each fold.
        seconds (`float`): Of all trials.
    """

    method: Method
    fold_scores: dict[float, tuple[float, ...]]
    fold_sizes: tuple[int, ...]
    seconds: float

    def mean(self, learning_rate: float) -> float:
        """Mean over folds, weighted by their sizes."""
        weighted = math.fsum(s * n for s, n in zip(self.fold_scores[learning_rate], self.fold_sizes, strict=True))
        return weighted / sum(self.fold_sizes)

    @property
    def best(self) -> float:
        """The learning rate with the best mean; of equal ones the lowest."""
        return min(self.fold_scores, key=lambda rate: (-self.mean(rate), rate))

    @property
    def standard_error(self) -> float | None:
        """Of the best mean, from the spread between folds; `None` for one fold."""
        scores = self.fold_scores[self.best]
        return statistics.stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else None

    @property
    def at_edge(self) -> bool:
        """Whether the best one is the lowest or the highest tried, so that a wider range might do better."""
        return len(self.fold_scores) > 1 and self.best in (min(self.fold_scores), max(self.fold_scores))


def tune_learning_rate(
    task: Task,
    method: Method,
    learning_rates: Sequence[float],
    folds: Sequence[Fold],
    seed: int,
    log: RunLog | None = None,
    on_run: Callable[[], None] | None = None,
) -> Trials:
    """
    Try learning rates by cross-validation on the training rows; the test rows are not touched.

    Args:
        task ([`Task`]), method ([`Method`]): What to train.
        learning_rates (`Sequence[float]`): The trials; give every method the same.
        folds (`Sequence[Fold]`): The same for every method.
        seed (`int`): Seed of all trials.
        log ([`RunLog`], *optional*): Where finished runs are kept and looked up.
        on_run (`Callable`, *optional*): Called after each run.

    Returns: [`Trials`]
    Raises: [`ArgumentsError`]: Without a learning rate or a fold.
    """
    if not learning_rates or not folds:
        raise ArgumentsError("`learning_rates` and `folds` must not be empty.")
    log = log or RunLog()
    scores: dict[float, tuple[float, ...]] = {}
    seconds = 0.0
    for rate in learning_rates:
        runs = []
        for fold in folds:
            rows, scored = task.train.select(fold.train), task.train.select(fold.validation)
            key = _key(task, method, rate, seed) | {"rows": _short(fold.train), "scored": _short(fold.validation)}
            runs.append(log.get_or_run(key, _bound(task, method, rate, seed, rows, scored)))
            if on_run is not None:
                on_run()
        scores[rate] = tuple(run["score"] for run in runs)
        seconds += math.fsum(run["seconds"] for run in runs)
    return Trials(method, scores, tuple(len(fold.validation) for fold in folds), seconds)


def repeat(
    task: Task,
    method: Method,
    learning_rate: float,
    seeds: Sequence[int],
    log: RunLog | None = None,
    on_run: Callable[[], None] | None = None,
) -> list[dict[str, Any]]:
    """
    Train on all training rows and score the test rows, once per seed.

    Args: as [`tune_learning_rate`]; `seeds` (`Sequence[int]`): one run each.

    Returns: `list[dict]`: what [`run_once`] returns, by seed.
    """
    log = log or RunLog()
    runs = []
    for seed in seeds:
        key = _key(task, method, learning_rate, seed) | {"scored": "test"}
        runs.append(log.get_or_run(key, _bound(task, method, learning_rate, seed, task.train, task.test)))
        if on_run is not None:
            on_run()
    return runs


def _bound(*args: Any) -> Callable[[], dict[str, Any]]:
    return lambda: run_once(*args)


def _key(task: Task, method: Method, learning_rate: float, seed: int) -> dict[str, Any]:
    blocks = "all" if method.blocks is None else sorted(method.blocks)
    return {"task": task.identity, "blocks": blocks, "learning_rate": learning_rate, "seed": seed}


def _short(rows: Sequence[int]) -> str:
    return hashlib.sha256(repr(tuple(rows)).encode()).hexdigest()[:12]
