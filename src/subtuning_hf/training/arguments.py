"""
The arguments of a search: `TrainingArguments`, plus what is asked of the search itself.

Every field of `TrainingArguments` means what it means there; the score of the search is its `metric_for_best_model`.
Knows nothing of models and data.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType

from ..errors import ArgumentsError

STRATEGIES = ("exact",)
# Schedules that are steered by an evaluation in the middle of training.
_METRIC_SCHEDULES = tuple(
    getattr(SchedulerType, name) for name in ("REDUCE_ON_PLATEAU", "GREEDY") if hasattr(SchedulerType, name)
)


@dataclass
class GreedySubTuningArguments(TrainingArguments):
    """
    Arguments of [`GreedySubTuningTrainer`].

    No default of `TrainingArguments` is changed. The score that the search maximises is `metric_for_best_model` with
    `greater_is_better`, by default `eval_loss`, lower better, as in [`~transformers.Trainer`]; `"accuracy"` and
    `"eval_accuracy"` mean the same. Epochs, batch sizes, schedule, seed and precision hold for each candidate's
    training and for the final training alike.

    Args:
        num_folds (`int`, *optional*, defaults to 5):
            Parts into which the training set is cut; each candidate is trained that often. Ignored with
            `fold_column` or a `validation_dataset`.
        strategy (`str`, *optional*, defaults to `"exact"`):
            How candidates are judged. `"exact"` trains each candidate on each fold.
        min_gain (`float`, *optional*):
            Least gain in score for which a block is added, the paper's epsilon: 0.01 is one point of accuracy. By
            default a block must gain more than one standard error of the paired differences over folds, or
            with a single fold anything above 0.
        max_blocks (`int`, *optional*):
            Most blocks that are chosen.
        blocks (`list[str | int]`, *optional*):
            The blocks to choose from: names, indices or glob patterns. By default all that `find_blocks` finds.
        stratify (`bool`, *optional*, defaults to `True`):
            Cut folds with equal shares of each label where labels are classes.
        label_column (`str`, *optional*):
            Column of the class labels, for stratification. By default `"label"` or `"labels"`.
        group_column (`str`, *optional*):
            Column of a group (patient, document, author): no group is ever split between folds.
        fold_column (`str`, *optional*):
            Column that says which fold validates a row, for folds of your own.
        fold_seed (`int`, *optional*):
            Seed of the folds; by default `seed`.
        head_learning_rate (`float`, *optional*):
            Peak learning rate of the head, if it shall differ from the blocks' `learning_rate`.
        inner_validation_fraction (`float`, *optional*, defaults to 0.2):
            Share of a fold's training rows kept apart inside a candidate's training when that training itself needs
            an evaluation: `load_best_model_at_end`, early stopping, or a schedule steered by a metric. The rows that
            score a candidate never steer its training.
        dry_run (`bool`, *optional*, defaults to `False`):
            `search()` then prints and returns the plan with an estimate of its time, and trains nothing.
        study_tag (`str`, *optional*, defaults to `""`):
            Any text. Part of the study's identity: change it when something changes that the arguments and the code
            of your functions do not show.
        num_threads (`int`, *optional*):
            CPU threads of torch during search and training; recorded with the study. By default as torch has it.

    Raises: [`ArgumentsError`]: If a value means nothing here.
    """

    num_folds: int = field(default=5, metadata={"help": "Parts into which the training set is cut."})
    strategy: str = field(default="exact", metadata={"help": "How candidates are judged.", "choices": list(STRATEGIES)})
    min_gain: float | None = field(
        default=None,
        metadata={"help": "Least gain in score for a block to be added; by default one standard error over folds."},
    )
    max_blocks: int | None = field(default=None, metadata={"help": "Most blocks that are chosen."})
    blocks: list[str] | None = field(
        default=None, metadata={"help": "Blocks to choose from: names, indices or patterns. By default all."}
    )
    stratify: bool = field(default=True, metadata={"help": "Cut folds with equal shares of each label."})
    label_column: str | None = field(default=None, metadata={"help": "Column of the class labels."})
    group_column: str | None = field(default=None, metadata={"help": "Column of a group that no fold splits."})
    fold_column: str | None = field(default=None, metadata={"help": "Column with the fold that validates a row."})
    fold_seed: int | None = field(default=None, metadata={"help": "Seed of the folds; by default `seed`."})
    head_learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate of the head; by default `learning_rate`."}
    )
    inner_validation_fraction: float = field(
        default=0.2,
        metadata={"help": "Share of a candidate's training rows for its own early stopping or best checkpoint."},
    )
    dry_run: bool = field(default=False, metadata={"help": "Print the plan of the search and train nothing."})
    study_tag: str = field(default="", metadata={"help": "Any text that tells this study from others."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads of torch; recorded with the study."})

    def __post_init__(self) -> None:
        if self.greater_is_better is not None and self.metric_for_best_model is None:
            raise ArgumentsError(
                f"`greater_is_better={self.greater_is_better}` says which way a metric is better, but "
                "`metric_for_best_model` names none. Name it, such as 'accuracy', or leave both out for eval_loss."
            )
        super().__post_init__()
        self._check_search()
        self._check_folds()
        self._check_training()

    def _check_search(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ArgumentsError(f"`strategy` must be one of {', '.join(STRATEGIES)}, found {self.strategy!r}.")
        if self.min_gain is not None:
            _check_number("min_gain", self.min_gain, "a number of 0 or more, or None", lambda v: v >= 0)
        if self.max_blocks is not None:
            _check_int("max_blocks", self.max_blocks, 0)
        if self.num_threads is not None:
            _check_int("num_threads", self.num_threads, 1)
        if not isinstance(self.study_tag, str):
            raise ArgumentsError(f"`study_tag` must be text, found {self.study_tag!r}.")
        if self.blocks is not None:
            if isinstance(self.blocks, str | int) or not hasattr(self.blocks, "__iter__"):
                raise ArgumentsError(f"`blocks` must be a list, found {self.blocks!r}. Did you mean [{self.blocks!r}]?")
            self.blocks = list(self.blocks)
            if not self.blocks:
                raise ArgumentsError(
                    "`blocks` lists the blocks to choose from, and is empty. Leave it out for all blocks; to train "
                    "the head alone, call train(blocks=[])."
                )

    def _check_folds(self) -> None:
        _check_int("num_folds", self.num_folds, 2, " One validation set of your own goes into `validation_dataset`.")
        if self.fold_seed is not None:
            _check_int("fold_seed", self.fold_seed, 0)
        for name in ("label_column", "group_column", "fold_column"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise ArgumentsError(f"`{name}` must be the name of a column, found {value!r}.")
        fraction = self.inner_validation_fraction
        _check_number("inner_validation_fraction", fraction, "a share between 0 and 1", lambda v: 0 < v < 1)

    def _check_training(self) -> None:
        if self.head_learning_rate is not None:
            _check_number("head_learning_rate", self.head_learning_rate, "a number above 0, or None", lambda v: v > 0)
        if self.max_steps <= 0 and self.num_train_epochs <= 0:
            raise ArgumentsError(
                f"Nothing would be trained: `num_train_epochs` is {self.num_train_epochs} and `max_steps` is "
                f"{self.max_steps}. Give one of them a value above 0."
            )
        if self.auto_find_batch_size:
            raise ArgumentsError(
                "`auto_find_batch_size` would let candidates train with different batch sizes, and their scores could "
                "not be compared. Find the batch size once and set `per_device_train_batch_size`."
            )

        for name in ("fp16_full_eval", "bf16_full_eval"):
            if getattr(self, name, False):
                raise ArgumentsError(
                    f"`{name}` casts the whole model for good, and all later candidates would start from it. Use "
                    f"`{name.removesuffix('_full_eval')}=True`, or load the model in that precision."
                )

    @property
    def score_name(self) -> str:
        """`str`: the metric that is the score, with its `eval_` prefix."""
        name = self.metric_for_best_model or "loss"
        return name if name.startswith("eval_") else f"eval_{name}"

    @property
    def score_greater_is_better(self) -> bool:
        """`bool`: whether a greater value of the metric is better."""
        if self.greater_is_better is not None:
            return bool(self.greater_is_better)
        return not self.score_name.endswith("loss")

    @property
    def resolved_fold_seed(self) -> int:
        """`int`: the seed that the folds are cut with."""
        return self.seed if self.fold_seed is None else self.fold_seed

    @property
    def evaluates_while_training(self) -> bool:
        """`bool`: whether a training with these arguments needs rows to evaluate on (callbacks aside)."""
        return bool(self.load_best_model_at_end) or self.lr_scheduler_type in _METRIC_SCHEDULES

    @property
    def folder(self) -> Path:
        """`Path`: `output_dir`."""
        return Path(str(self.output_dir))

    def for_candidate(self, output_dir: str, keep_evaluation: bool) -> GreedySubTuningArguments:
        """
        Arguments for one candidate's training: the same learning, none of the reporting.

        Args:
            output_dir (`str`): A temporary folder.
            keep_evaluation (`bool`): Whether the training evaluates (and saves) on an inner split as it goes.

        Returns: [`GreedySubTuningArguments`], a copy.
        """
        # A plain copy, since `dataclasses.replace` would run `__post_init__` on values it has changed already.
        args: Any = copy.copy(self)
        for name, value in _CANDIDATE.items():
            if hasattr(args, name):
                setattr(args, name, value)
        args.output_dir = output_dir
        if not (keep_evaluation and self.load_best_model_at_end):
            args.save_strategy = type(self.save_strategy)("no")
            args.load_best_model_at_end = False
        else:
            # The best checkpoint is only loaded again: no optimiser state, and none but the best and the last.
            args.save_total_limit = 1
            args.save_only_model = True
        if not keep_evaluation:
            args.eval_strategy = type(self.eval_strategy)("no")
            args.eval_on_start = False
        args.logging_strategy = type(self.logging_strategy)("no")
        return args


# What differs in a candidate's training whatever the arguments say. A NaN must show, so nothing filters it.
_CANDIDATE: dict[str, Any] = {
    "report_to": [],
    "push_to_hub": False,
    "disable_tqdm": True,
    "logging_first_step": False,
    "logging_nan_inf_filter": False,
    "resume_from_checkpoint": None,
    "skip_memory_metrics": True,
    "enable_jit_checkpoint": False,
    "debug": [],
    "dry_run": False,
}


def _check_number(name: str, value: Any, expected: str, holds: Callable[[float], bool]) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not holds(value):
        raise ArgumentsError(f"`{name}` must be {expected}, found {value!r}.")


def _check_int(name: str, value: Any, least: int, hint: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ArgumentsError(f"`{name}` must be a whole number of {least} or more, found {value!r}.{hint}")
