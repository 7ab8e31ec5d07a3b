"""
Everything that can be known to be wrong before anything is trained or written.

Knows the recipe and the folds; reads a few rows, trains nothing, leaves nothing on disk.
"""

from __future__ import annotations

import importlib.util
import math
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, get_scheduler
from transformers.utils import logging

from ..blocks import find_head
from ..errors import ArgumentsError, JournalError, MetricNotFoundError, NonFiniteScoreError
from ..proposal.copies import predicts_numbers
from ..search.folds import Fold, make_folds, single_split
from .arguments import GreedySubTuningArguments
from .carrying import overridden
from .data import class_labels, is_random, read_column
from .evaluator import release, seed_all
from .guard import unaltered
from .recipe import Recipe
from .scoring import find_metric

logger = logging.get_logger(__name__)

FEW_ROWS = 16


def check_world(args: GreedySubTuningArguments) -> None:
    """
    Refuse a launch in which each process believes to be alone: they would overwrite each other's output.

    Raises: [`ArgumentsError`]
    """
    announced = os.environ.get("WORLD_SIZE")
    if announced is not None and announced.isdigit() and int(announced) != args.world_size:
        raise ArgumentsError(
            f"The launcher started {announced} processes (WORLD_SIZE), but the arguments see {args.world_size}: each "
            "would run the whole search and overwrite the others. On CPU pass `use_cpu=True` (with "
            "`accelerate launch --multi_gpu`) or set ACCELERATE_USE_CPU=1 (with torchrun); else start one process."
        )
    if args.n_gpu > 1:
        logger.warning(
            f"There are {args.n_gpu} GPUs and one process: candidates are trained on the first GPU alone. To use all, "
            f"start with `torchrun --nproc_per_node {args.n_gpu}` or `accelerate launch --multi_gpu`."
        )


def check_writable(output_dir: str | os.PathLike) -> None:
    """
    Refuse an output folder that cannot be made or written to, without making it.

    Raises: [`JournalError`]
    """
    path = Path(output_dir).absolute()
    existing = path
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    try:
        if not existing.is_dir():
            raise NotADirectoryError(f"'{existing}' is a file")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise PermissionError(f"'{existing}' is read-only")
        # Some file systems are read-only to root too, which `access` does not see.
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise JournalError(
            f"`output_dir` '{output_dir}' cannot be written to: {error}. Every finished evaluation is kept there; "
            "choose another folder, or free space and check its permissions. Nothing was trained."
        ) from error


def cut_folds(recipe: Recipe, all_labels: Sequence[Any] | None) -> tuple[Fold, ...]:
    """
    The folds of a study.

    Args:
        recipe ([`Recipe`]): Data and arguments; its `labels` and `groups` are filled in.
        all_labels (`Sequence`, *optional*): Labels of the training rows, of any kind.

    Returns: `tuple[Fold, ...]`: a single one with a validation set of the user's own.
    Raises: [`FoldError`], [`ArgumentsError`]
    """
    args, rows = recipe.args, len(recipe.train_dataset)
    recipe.labels, recipe.groups = class_labels(all_labels), None
    # Whole numbers to regress on, such as prices, are classes to cut by only where each of them is had often enough.
    if recipe.labels and predicts_numbers(recipe.model) and min(Counter(recipe.labels).values()) < args.num_folds:
        recipe.labels = None
    if recipe.validation_dataset is not None:
        for name in ("fold_column", "group_column"):
            if getattr(args, name) is not None:
                raise ArgumentsError(
                    f"`{name}` cuts folds from the training rows, but with a `validation_dataset` there is nothing "
                    "to cut. Give one of the two."
                )
        return tuple(single_split(rows, len(recipe.validation_dataset)))
    folds = None
    if args.group_column is not None:
        recipe.groups = read_column(recipe.train_dataset, args.group_column, "group_column")
    if args.fold_column is not None:
        folds = read_column(recipe.train_dataset, args.fold_column, "fold_column")
    return tuple(
        make_folds(
            rows,
            args.num_folds,
            args.resolved_fold_seed,
            labels=recipe.labels,
            groups=recipe.groups,
            fold_ids=folds,
            stratify=args.stratify,
        )
    )


def check_head_rate(recipe: Recipe) -> None:
    """
    Refuse a learning rate for a head that is not there.

    Raises: [`ArgumentsError`]
    """
    if recipe.args.head_learning_rate is not None and not find_head(recipe.model):
        raise ArgumentsError(
            f"`head_learning_rate` is {recipe.args.head_learning_rate}, but '{type(recipe.model).__name__}' has no "
            "output layer of its own that is trained with the blocks. Leave it out."
        )


def check_steps(recipe: Recipe, fold: Fold) -> None:
    """
    Refuse a batch size that leaves no batch.

    Raises: [`ArgumentsError`]
    """
    args = recipe.args
    size = args.per_device_train_batch_size
    if args.dataloader_drop_last and len(fold.train) < size:
        raise ArgumentsError(
            f"With `dataloader_drop_last=True` a batch of {size} rows never fills from the "
            f"{len(fold.train)} training rows of fold {fold.index}. Lower `per_device_train_batch_size`."
        )


def random_rows(recipe: Recipe, fold: Fold) -> bool:
    """Whether validation rows differ from reading to reading; the caller says so."""
    return is_random(recipe.validation_rows(fold.validation))


def check_means(recipe: Recipe, trainer: Trainer) -> None:
    """
    Refuse an optimiser, a schedule or a way to train that is not to be had here; Trainer would say so when it trains.

    Args:
        recipe ([`Recipe`]): The base model and the arguments.
        trainer ([`~transformers.Trainer`]): One of its trainers.

    Raises: [`ArgumentsError`]
    """
    args, own = recipe.args, overridden(recipe.trainer_cls)
    model: Any = recipe.model
    kind = type(model).__name__
    checkpointing = args.gradient_checkpointing or getattr(args, "activation_checkpointing", False)
    if checkpointing and not getattr(model, "supports_gradient_checkpointing", False):
        raise ArgumentsError(f"'{kind}' does not support gradient checkpointing. Leave `gradient_checkpointing` out.")
    if args.use_liger_kernel and importlib.util.find_spec("liger_kernel") is None:
        raise ArgumentsError("`use_liger_kernel` needs the package liger-kernel, which is not installed.")
    if args.neftune_noise_alpha is not None:
        try:
            embeddings = model.get_input_embeddings()
        except (AttributeError, NotImplementedError):
            embeddings = None
        if not isinstance(embeddings, nn.Embedding):
            raise ArgumentsError(
                f"`neftune_noise_alpha` adds noise to the embeddings of tokens, and '{kind}' has none. Leave it out."
            )
    tried = "optim"
    try:
        if "optimizer_cls_and_kwargs" not in recipe.trainer_kwargs and "create_optimizer" not in own:
            trainer.get_optimizer_cls_and_kwargs(args, model)
        tried = "lr_scheduler_type"
        if "create_scheduler" not in own:
            stand_in = torch.optim.SGD([torch.zeros(1)], lr=args.learning_rate)
            further: Any = args.lr_scheduler_kwargs
            get_scheduler(args.lr_scheduler_type, stand_in, args.get_warmup_steps(10), 10, further)
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        value = getattr(args, tried)
        raise ArgumentsError(f"`{tried}={getattr(value, 'value', value)!r}` cannot be used: {error}") from error


def warn_of_losses(recipe: Recipe) -> None:
    """Warn of a loss that trainings use and predictions do not know."""
    args = recipe.args
    named = {
        "compute_loss_func": "compute_loss_func" in recipe.trainer_kwargs,
        "label_smoothing_factor": args.label_smoothing_factor > 0,
        f"{recipe.trainer_cls.__name__}.compute_loss": "compute_loss" in overridden(recipe.trainer_cls),
    }
    given = [name for name, found in named.items() if found]
    if given and args.strategy != "exact":
        logger.warning(
            f"strategy='{args.strategy}' predicts with the model's own loss and does not know {' and '.join(given)}; "
            "the trainings that choose among the best predicted selections do. strategy='exact' uses it throughout."
        )


def check_scoring(recipe: Recipe, fold: Fold) -> None:
    """
    Score the untouched model on a few validation rows, and read one batch of training rows.

    Finds what would otherwise end the first training: rows the model does not take, a metric that is not returned, a
    loss that is not finite, an optimiser that is not installed.

    Raises: [`MetricNotFoundError`], [`NonFiniteScoreError`], [`ArgumentsError`], and whatever the data or the metric
        raise.
    """
    with unaltered(recipe.model), tempfile.TemporaryDirectory() as folder:
        args = recipe.args.for_candidate(folder, keep_evaluation=False)
        seed_all(args)
        trainer = recipe.trainer(recipe.model, args, recipe.training_rows(fold.train))
        check_means(recipe, trainer)
        warn_of_losses(recipe)
        try:
            next(iter(trainer.get_train_dataloader()))
            metrics = _few_or_all(recipe, trainer, fold)
            score = find_metric(metrics, recipe.args)
            if not math.isfinite(score):
                # A correlation, say, of predictions that are all the same: training may mend it.
                logger.warning(
                    f"'{recipe.args.metric_for_best_model}' of the untouched model on validation rows is {score}. "
                    "Should it be so after training too, no candidate can be scored by it: look into `compute_metrics`."
                )
            loss = metrics.get("eval_loss", 0.0)
            if not math.isfinite(loss):
                raise NonFiniteScoreError(
                    f"The loss of the untouched model on validation rows is {loss}. Look for NaN or infinity in the "
                    "data, or labels that the loss cannot take. Nothing was trained."
                )
        except (MetricNotFoundError, NonFiniteScoreError):
            raise
        except Exception as error:
            hint = " `eval_transform` is not set: rows are scored as the data set gives them."
            error.add_note(
                "While reading a batch and scoring the untouched model on a few validation rows, before any training."
                + (hint if recipe.eval_transform is None and recipe.train_transform is not None else "")
            )
            raise
        finally:
            release(trainer)


def _few_or_all(recipe: Recipe, trainer: Trainer, fold: Fold) -> dict[str, Any]:
    if len(fold.validation) > FEW_ROWS:
        # Rows from the whole fold: the first few may all be of one class.
        step = len(fold.validation) / FEW_ROWS
        few = [fold.validation[int(i * step)] for i in range(FEW_ROWS)]
        try:
            metrics = trainer.evaluate(recipe.validation_rows(few))
            if math.isfinite(find_metric(metrics, recipe.args)):
                return metrics
        except NonFiniteScoreError:
            raise
        except Exception:
            # Some metrics need every class, or more rows: only the whole fold tells.
            pass
    return trainer.evaluate(recipe.validation_rows(fold.validation))
