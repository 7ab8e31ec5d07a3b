"""What every method of a comparison is given alike: model, rows, arguments, metric."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from transformers import TrainingArguments

from ..errors import ArgumentsError, MetricNotFoundError, NonFiniteScoreError
from ..training.fingerprint import fingerprint_dataset, fingerprint_tensors, fingerprint_value
from ..training.identity import fingerprint_code

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import nn

QUIET = {
    "save_strategy": "no",
    "eval_strategy": "no",
    "logging_strategy": "no",
    "logging_nan_inf_filter": False,  # else a training that diverged has the mean loss of the steps before
    "report_to": [],
    "disable_tqdm": True,
    "remove_unused_columns": False,
}


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

    def __post_init__(self) -> None:
        if self.metric.removeprefix("eval_") == "loss":
            raise ArgumentsError("`metric` is 'loss', of which less is better. Name one of which more is, such as a "
                                 "negative loss that compute_metrics returns.")  # fmt: skip
        _check_arguments(self.arguments)
        for name, rows in (("train", self.train), ("test", self.test)):
            if not (hasattr(rows, "select") and hasattr(rows, "with_transform") and hasattr(rows, "__len__")):
                raise ArgumentsError(f"`{name}` must be a datasets.Dataset, found {type(rows).__name__}. Make one with "
                                     "datasets.Dataset.from_dict or from_list.")  # fmt: skip
            if not len(rows):
                raise ArgumentsError(f"`{name}` has no rows.")
        if getattr(self.model, "peft_config", None) or getattr(self.model, "_hf_peft_config_loaded", False):
            raise ArgumentsError("`model` holds adapters, which would be part of every method. Pass the plain model: "
                                 "`unload()` takes them out, `merge_and_unload()` keeps what they learned.")

    @property
    def identity(self) -> str:
        """Hash of weights, rows and arguments: what a stored run must share to be used again."""
        if not self._identity:
            self._identity.append(_identity_of(self))
        return self._identity[0]

    def to_learn(self, rows: Dataset) -> Dataset:
        """Rows through the training transform."""
        return _with(rows, self.train_transform)

    def to_score(self, rows: Dataset) -> Dataset:
        """Rows through the evaluation transform."""
        return _with(rows, self.eval_transform)

    def score_of(self, metrics: dict[str, float], method: str, settings: str) -> float:
        """
        The metric that counts.

        Args:
            metrics (`dict[str, float]`): Of an evaluation, each name with `eval_` before it.
            method (`str`), settings (`str`): Named in an error.

        Raises: [`MetricNotFoundError`], [`NonFiniteScoreError`]
        """
        key = f"eval_{self.metric}"
        if key not in metrics:
            names = ", ".join(sorted(name.removeprefix("eval_") for name in metrics if name.startswith("eval_")))
            raise MetricNotFoundError(f"`metric` is '{self.metric}', an evaluation returns {names}.")
        if not math.isfinite(metrics[key]):
            raise NonFiniteScoreError(f"{method} scored {metrics[key]} with {settings}. Try lower learning rates.")
        return metrics[key]


def _check_arguments(arguments: dict[str, Any]) -> None:
    known = {field.name for field in fields(TrainingArguments) if field.init}
    unknown = sorted(set(arguments) - known)
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise ArgumentsError(f"`arguments` must be fields of TrainingArguments, found '{unknown[0]}'.{hint}")
    ours = [name for name in ("output_dir", "seed", "learning_rate") if name in arguments]
    if ours:
        raise ArgumentsError(f"`arguments` holds '{ours[0]}', which each run of a comparison sets for itself. Leave it "
                             "out; the rate is an argument of compare().")  # fmt: skip


def _identity_of(task: Task) -> str:
    functions = (task.compute_metrics, task.train_transform, task.eval_transform, task.data_collator)
    parts = [
        fingerprint_tensors(task.model.state_dict()),
        *(fingerprint_dataset(rows, None, random_items=False) for rows in (task.train, task.test)),
        *(fingerprint_code(function) for function in functions),
        fingerprint_value([task.metric, {**QUIET, **task.arguments}]),
    ]
    return fingerprint_value(parts)[:16]


def _with(rows: Dataset, transform: Callable | None) -> Dataset:
    return rows if transform is None else rows.with_transform(transform)
