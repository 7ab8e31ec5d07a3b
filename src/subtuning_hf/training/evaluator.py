"""
One candidate on one fold: the unit of work of a search.

Wraps the base, trains, scores, and takes the adapter out again. Any order of evaluations gives the same scores: each
starts from the same base, the same seed and a Trainer of its own. Decides nothing and writes no journal.
"""

from __future__ import annotations

import copy
import gc
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from torch import nn
from transformers import Trainer, TrainerCallback, enable_full_determinism, set_seed

from ..blocks import find_head
from ..errors import DataError, MetricNotFoundError, NonFiniteScoreError
from ..search.folds import Fold, inner_split
from ..search.records import Candidate, Evaluation, FinalRun, Unit
from ..search.space import HEAD_ONLY
from ..tuner import SubTuningConfig
from .arguments import GreedySubTuningArguments
from .cache import Cache
from .first_head import Head, fitted_head, put_head
from .guard import unaltered
from .recipe import Recipe, Rows
from .scoring import find_metric as find_metric
from .scoring import plain_metrics, score_of_metrics

SCRATCH = ".candidate-"


@dataclass(frozen=True)
class _Outcome:
    """What a training gave."""

    metrics: dict[str, Any]
    train_loss: float
    trainable_parameters: int
    info: dict[str, Any]


class Evaluator:
    """
    Trains and scores candidates.

    Args:
        recipe ([`Recipe`]): How to train and score.
        process (`int`, *optional*, defaults to 0): Number of this process, which is recorded.
        watcher ([`~transformers.TrainerCallback`], *optional*): Sees every step of every training, and may end it.

    Attributes: `cache` ([`Cache`], *optional*): What trainings share; set by whoever has many to make.
    """

    def __init__(self, recipe: Recipe, process: int = 0, watcher: TrainerCallback | None = None) -> None:
        self.recipe = recipe
        self.process = process
        self.watcher = watcher
        self.cache: Cache | None = None
        self._heads: dict[tuple[int, ...], Head] = {}

    def __call__(self, unit: Unit, fold: Fold) -> Evaluation:
        """
        Train a candidate on a fold's training rows and score it on its validation rows.

        Args:
            unit ([`Unit`]): Candidate, fold, repeat and budget.
            fold ([`Fold`]): The rows of that fold.

        Returns: [`Evaluation`]
        Raises:
            [`NonFiniteScoreError`]: If a loss or the score is NaN or infinite.
            [`MetricNotFoundError`]: If the metric is not returned.
        """
        start, recipe = time.perf_counter(), self.recipe
        where = f"fold {fold.index}"
        with _named(unit.candidate, where):
            args = scaled(recipe.args, unit.repeat, unit.budget)
            rows = self._rows(self._cut(unit.candidate))
            outcome = self._train(unit.candidate, args, fold, rows.validation_rows(fold.validation))
            train_loss = outcome.train_loss
            score = score_of_metrics(
                outcome.metrics, recipe.args, unit.candidate, where, len(fold.validation), train_loss
            )
        return Evaluation(
            candidate=unit.candidate,
            fold=fold.index,
            score=score,
            num_examples=len(fold.validation),
            metrics=plain_metrics(outcome.metrics),
            trainable_parameters=outcome.trainable_parameters,
            seconds=time.perf_counter() - start,
            info=outcome.info,
            repeat=unit.repeat,
            budget=unit.budget,
        )

    def final(self, candidate: Candidate, rows: Any, fingerprint: str, seed: int) -> FinalRun:
        """
        Train a selection on all training rows and score it on rows that chose nothing.

        Where training needs an evaluation of its own (early stopping, the best checkpoint), an inner split of the
        training rows is held for it, as in a candidate's training.

        Args:
            candidate ([`Candidate`]): The selection.
            rows: Rows to score, as validation rows are given to a Trainer.
            fingerprint (`str`): Of these rows, recorded.
            seed (`int`): Seed of the training.

        Returns: [`FinalRun`]
        """
        start, recipe = time.perf_counter(), self.recipe
        everything = Fold(0, tuple(range(len(recipe.train_dataset))), ())
        where = f"the whole training set, seed {seed}"
        with _named(candidate, where):
            args = scaled(recipe.args, seed - recipe.args.seed, 1.0)
            outcome = self._train(candidate, args, everything, rows)
            score_of_metrics(outcome.metrics, recipe.args, candidate, where, len(rows), outcome.train_loss)
        return FinalRun(
            candidate=candidate,
            seed=seed,
            metrics=plain_metrics(outcome.metrics),
            trainable_parameters=outcome.trainable_parameters,
            seconds=time.perf_counter() - start,
            info=outcome.info | {"rows": fingerprint, "num_rows": len(rows)},
        )

    def _cut(self, candidate: Candidate) -> int:
        return 0 if self.cache is None else self.cache.cut_of(candidate.blocks)

    def _rows(self, cut: int) -> Rows:
        """Where data sets come from for a training that starts at a cut."""
        return self.recipe if self.cache is None else self.cache.at(cut)

    def _train(self, candidate: Candidate, args: GreedySubTuningArguments, fold: Fold, rows: Any) -> _Outcome:
        """Train on a fold's training rows and evaluate on others; leaves the base as it was."""
        recipe, started, cut = self.recipe, time.time(), self._cut(candidate)
        if not candidate.blocks and not find_head(recipe.model):
            return self._untouched(args, fold, rows)
        with unaltered(recipe.model), self._scratch() as folder, ExitStack() as shared:
            args = args.for_candidate(folder, recipe.needs_inner_split)
            head = self._first_head(args, fold) if args.init_head == "fit" else None
            seed_all(args)
            config = SubTuningConfig(blocks=list(candidate.blocks), init_blocks=args.init_blocks)
            model = get_peft_model(recipe.model, config)
            if head is not None:
                put_head(model, head)
            trainer: Trainer | None = None
            try:
                trainer = self._trainer(model, args, fold, self._rows(cut))
                if self.cache is not None:
                    shared.enter_context(self.cache.starting_at(trainer, cut))
                seed_all(args)
                output = trainer.train()
                if trainer.state.global_step == 0:
                    raise DataError(
                        f"The {len(fold.train)} training rows give no training step. Lower "
                        "`per_device_train_batch_size`, or set `dataloader_drop_last=False`."
                    )
                # With persistent workers Trainer would score the rows of its last evaluation once more.
                getattr(trainer, "_eval_dataloaders", {}).clear()
                metrics = trainer.evaluate(rows)
                steps, loss = int(trainer.state.global_step), float(output.training_loss)
                info = self._info(args, fold, started, loss, steps) | ({"cut": cut} if cut else {})
                trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
                return _Outcome(metrics, loss, trained, info)
            finally:
                model.unload()
                if args.torch_compile:
                    torch.compiler.reset()  # code that all candidates share has places for few graphs
                if trainer is not None:
                    release(trainer)

    def _untouched(self, args: GreedySubTuningArguments, fold: Fold, rows: Any) -> _Outcome:
        """Where nothing is chosen in a model without a head of its own, nothing is trained: what the base gives."""
        recipe, started = self.recipe, time.time()
        with unaltered(recipe.model), self._scratch() as folder:
            args = args.for_candidate(folder, keep_evaluation=False)
            seed_all(args)
            trainer = recipe.trainer(recipe.model, args, recipe.training_rows(fold.train))
            try:
                # Rows of a cache may be stored from a later block on; the base is given whole ones.
                metrics = trainer.evaluate(recipe.validation_rows(fold.validation) if fold.validation else rows)
            finally:
                release(trainer)
            return _Outcome(metrics, 0.0, 0, self._info(args, fold, started, 0.0, 0))

    def _info(
        self, args: GreedySubTuningArguments, fold: Fold, started: float, train_loss: float, steps: int
    ) -> dict[str, Any]:
        return {
            "train_loss": train_loss,
            "steps": steps,
            "train_rows": len(fold.train),
            "device": str(args.device),
            "threads": torch.get_num_threads(),
            "process": self.process,
            "started": started,
        }

    def _first_head(self, args: GreedySubTuningArguments, fold: Fold) -> Head:
        """The head fitted to a fold's training rows, the same for all candidates."""
        if fold.train not in self._heads:
            seed_all(args)
            cut = self._cut(HEAD_ONLY)

            def start(trainer: Trainer) -> AbstractContextManager[Any]:
                return nullcontext() if self.cache is None else self.cache.starting_at(trainer, cut)

            rows = self._rows(cut).training_rows(fold.train)
            self._heads[fold.train] = fitted_head(self.recipe, args, rows, start)
        return self._heads[fold.train]

    def _trainer(self, model: nn.Module, args: GreedySubTuningArguments, fold: Fold, rows: Rows) -> Trainer:
        recipe = self.recipe
        train, inner = fold.train, None
        if recipe.needs_inner_split:
            train, held = inner_split(
                fold.train,
                recipe.labels,
                args.inner_validation_fraction,
                recipe.args.resolved_fold_seed,
                groups=recipe.groups,
            )
            inner = rows.inner_rows(held)
        trainer = recipe.trainer(model, args, rows.training_rows(train), inner)
        if self.watcher is not None:
            trainer.add_callback(self.watcher)
        return trainer

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


def scaled(args: GreedySubTuningArguments, repeat: int, budget: float) -> GreedySubTuningArguments:
    """
    Arguments of one training among several of the same candidate.

    Args:
        args ([`GreedySubTuningArguments`]): The study's.
        repeat (`int`): Added to the seeds.
        budget (`float`): Share of the steps, in (0, 1]; the schedule shrinks with them, as in a shorter training.

    Returns: [`GreedySubTuningArguments`], a copy; the folds keep their seed.
    """
    changed: Any = copy.copy(args)
    changed.seed = args.seed + repeat
    if args.data_seed is not None:
        changed.data_seed = args.data_seed + repeat
    if budget < 1.0:
        if args.max_steps > 0:
            changed.max_steps = max(round(args.max_steps * budget), 1)
        else:
            changed.num_train_epochs = args.num_train_epochs * budget
        if args.warmup_steps >= 1:  # in steps; below 1 it is a share already
            changed.warmup_steps = max(round(args.warmup_steps * budget), 1)
    return changed


@contextmanager
def _named(candidate: Candidate, where: str) -> Iterator[None]:
    """Say in an error from inside which training it came from."""
    try:
        yield
    except Exception as error:
        told = isinstance(error, NonFiniteScoreError | MetricNotFoundError) or getattr(error, "from_peer", False)
        if not told:  # the others say themselves where they come from
            error.add_note(
                f"While training candidate {candidate.label} on {where}. The base model is as it was, and "
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
