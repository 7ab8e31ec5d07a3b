"""
One candidate on one fold: the unit of work of a search.

Wraps the base, trains, scores, and takes the adapter out again. Any order of evaluations gives the same scores: each
starts from the same base, the same seed and a Trainer of its own. Decides nothing and writes no journal.
"""

from __future__ import annotations

import gc
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from torch import nn
from transformers import Trainer, enable_full_determinism, set_seed

from ..errors import DataError, MetricNotFoundError, NonFiniteScoreError
from ..search.folds import Fold, inner_split
from ..search.records import Candidate, Evaluation
from ..tuner import SubTuningConfig
from .arguments import GreedySubTuningArguments
from .guard import unaltered
from .recipe import Recipe

SCRATCH = ".candidate-"
# Times, not scores.
_NOT_METRICS = ("_runtime", "_per_second", "_preparation_time")


class Evaluator:
    """
    Trains and scores candidates.

    Args:
        recipe ([`Recipe`]): How to train and score.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def __call__(self, candidate: Candidate, fold: Fold) -> Evaluation:
        """
        Train a candidate on a fold's training rows and score it on its validation rows.

        Args:
            candidate ([`Candidate`]): The selection under trial.
            fold ([`Fold`]): The rows.

        Returns: [`Evaluation`]
        Raises:
            [`NonFiniteScoreError`]: If a loss or the score is NaN or infinite.
            [`MetricNotFoundError`]: If the metric is not returned.
        """
        start = time.perf_counter()
        recipe = self.recipe
        with unaltered(recipe.model), self._scratch() as folder, _named(candidate, fold):
            args = recipe.args.for_candidate(folder, recipe.needs_inner_split)
            seed_all(args)
            model = get_peft_model(recipe.model, SubTuningConfig(blocks=list(candidate.blocks)))
            trainer: Trainer | None = None
            try:
                trainer = self._trainer(model, args, fold)
                seed_all(args)
                output = trainer.train()
                if trainer.state.global_step == 0:
                    raise DataError(
                        f"The {len(fold.train)} training rows give no training step. Lower "
                        "`per_device_train_batch_size`, or set `dataloader_drop_last=False`."
                    )
                metrics = trainer.evaluate(recipe.validation_rows(fold.validation))
                score = score_of_metrics(metrics, recipe.args, candidate, fold, output.training_loss)
                return Evaluation(
                    candidate=candidate,
                    fold=fold.index,
                    score=score,
                    num_examples=len(fold.validation),
                    metrics=plain_metrics(metrics),
                    trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
                    seconds=time.perf_counter() - start,
                    info={
                        "train_loss": float(output.training_loss),
                        "steps": int(trainer.state.global_step),
                        "train_rows": len(fold.train),
                        "device": str(args.device),
                        "threads": torch.get_num_threads(),
                    },
                )
            finally:
                model.unload()
                if trainer is not None:
                    release(trainer)

    def _trainer(self, model: nn.Module, args: GreedySubTuningArguments, fold: Fold) -> Trainer:
        recipe = self.recipe
        if not recipe.needs_inner_split:
            return recipe.trainer(model, args, recipe.training_rows(fold.train))
        train, inner = inner_split(
            fold.train, recipe.labels, args.inner_validation_fraction, args.resolved_fold_seed, groups=recipe.groups
        )
        return recipe.trainer(model, args, recipe.training_rows(train), recipe.inner_rows(inner))

    @contextmanager
    def _scratch(self) -> Iterator[str]:
        """A folder for what a Trainer writes, gone when the evaluation ends."""
        output_dir = self.recipe.args.folder
        output_dir.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=SCRATCH, dir=output_dir)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_stale_scratch(output_dir: str | os.PathLike) -> None:
    """Remove what a killed search left; only for the process that holds the journal."""
    for folder in Path(output_dir).glob(f"{SCRATCH}*"):
        shutil.rmtree(folder, ignore_errors=True)


def seed_all(args: GreedySubTuningArguments) -> None:
    """Set every seed as Trainer does."""
    if args.full_determinism:
        enable_full_determinism(args.seed)
    else:
        set_seed(args.seed)


@contextmanager
def _named(candidate: Candidate, fold: Fold) -> Iterator[None]:
    """Say in an error from inside which training it came from."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, NonFiniteScoreError | MetricNotFoundError):
            error.add_note(
                f"While training candidate {candidate.label} on fold {fold.index}. The base model is as it was, and "
                "finished evaluations are in the journal: run the same again to continue."
            )
        raise


@contextmanager
def cheap_collections() -> Iterator[None]:
    """
    Keep what is alive now out of garbage collections.

    Every Trainer collects once per training; with the libraries' hundreds of thousands of objects that takes longer
    than a small training does.
    """
    if gc.get_freeze_count():  # somebody else's doing, and theirs to undo
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


# --- scores ---------------------------------------------------------------------------------
def find_metric(metrics: Mapping[str, Any], args: GreedySubTuningArguments) -> float:
    """
    The metric that is the score, as it was returned.

    Raises: [`MetricNotFoundError`]: If it is not there, or is no number.
    """
    name = args.score_name
    if name not in metrics:
        names = sorted(key for key in metrics if not key.endswith(_NOT_METRICS) and key != "epoch")
        way_out = (
            "Without a loss the rows have no labels that the model knows: check the label column and `label_names`."
            if name == "eval_loss"
            else "Set `metric_for_best_model` to one of them, or return it from `compute_metrics`."
        )
        raise MetricNotFoundError(
            f"The score is '{name}' (`metric_for_best_model={args.metric_for_best_model!r}`), but an evaluation "
            f"returned only {', '.join(names) or 'nothing'}. {way_out}"
        )
    value = metrics[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MetricNotFoundError(
            f"The score '{name}' must be a number, but `compute_metrics` returned {value!r} ({type(value).__name__})."
        )
    return float(value)


def score_of_metrics(
    metrics: Mapping[str, Any], args: GreedySubTuningArguments, candidate: Candidate, fold: Fold, train_loss: float
) -> float:
    """
    The score of an evaluation, to be maximised.

    Raises: [`NonFiniteScoreError`], [`MetricNotFoundError`]
    """
    where = f"candidate {candidate.label} on fold {fold.index}"
    if not math.isfinite(train_loss):
        raise NonFiniteScoreError(
            f"The training loss of {where} is {train_loss}. Lower `learning_rate` (now {args.learning_rate}) or "
            "`head_learning_rate`, set `max_grad_norm`, or look for NaN in the data. Nothing was recorded for it."
        )
    value = find_metric(metrics, args)
    for name in dict.fromkeys((args.score_name, "eval_loss")):
        found = metrics.get(name, 0.0)
        if isinstance(found, int | float) and not math.isfinite(found):
            raise NonFiniteScoreError(
                f"'{name}' of {where} is {found} on {len(fold.validation)} validation rows. Check `compute_metrics` "
                f"and the data, or lower `learning_rate` (now {args.learning_rate}). Nothing was recorded for it."
            )
    return value if args.score_greater_is_better else -value


def plain_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of an evaluation without its timings."""
    return {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, int | float) and not name.endswith(_NOT_METRICS) and name != "epoch"
    }


def release(trainer: Trainer) -> None:
    """Break the cycles that keep a finished Trainer's tensors alive."""
    for name in ("_models", "_optimizers", "_schedulers", "_dataloaders"):
        getattr(trainer.accelerator, name, []).clear()
    handler = trainer.callback_handler
    for owner in (trainer, handler):
        for name in ("model", "optimizer", "lr_scheduler", "train_dataloader", "eval_dataloader", "model_wrapped"):
            if hasattr(owner, name):
                setattr(owner, name, None)
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
