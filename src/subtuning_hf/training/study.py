"""
A study: what is searched, what identifies it, and the loop that evaluates what is pending.

Decisions come from `search` by replaying records; this module only does the work they ask for and appends what came
out. Knows the journal, the evaluator and the progress bar; not the public trainer.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate
import datasets
import peft
import torch
import transformers
from torch import nn
from transformers.utils import logging

from .. import __version__
from ..blocks import find_blocks, find_head, resolve_blocks
from ..errors import ArgumentsError, StudyMismatchError
from ..search.folds import Fold
from ..search.greedy import SearchState, replay
from ..search.journal import Journal, find_study
from ..search.records import BlockInfo, Evaluation, SearchSpec, StudySpec
from .arguments import GreedySubTuningArguments
from .data import check_labels, read_labels
from .evaluator import Evaluator, cheap_collections, remove_stale_scratch
from .fingerprint import Hasher, fingerprint_dataset, fingerprint_value, fingerprint_weights
from .heads import head_fingerprint, save_head, settle_head
from .identity import describe, fingerprint_code, model_identity, settings_of
from .preflight import check_head_rate, check_scoring, check_steps, cut_folds, random_rows
from .progress import StudyProgress
from .recipe import Recipe

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Prepared:
    """
    A study that passed all checks.

    Args:
        spec ([`StudySpec`]): What it is.
        folds (`tuple[Fold, ...]`): Its folds.
        folder (`Path`): Its journal.
    """

    spec: StudySpec
    folds: tuple[Fold, ...]
    folder: Path


def journal_folder(args: GreedySubTuningArguments) -> Path:
    """`Path`: where the journal of a study is."""
    return args.folder / "journal"


def search_spec(args: GreedySubTuningArguments, num_blocks: int) -> SearchSpec:
    """What is decided, and how."""
    most = num_blocks if args.max_blocks is None else min(args.max_blocks, num_blocks)
    return SearchSpec(strategy=args.strategy, max_blocks=most, min_gain=args.min_gain)


def prepare(recipe: Recipe) -> Prepared:
    """
    Check everything that can be checked before the first training, and say what the study is.

    Args:
        recipe ([`Recipe`]): How candidates are trained. Its `labels` and `groups` are filled in.

    Returns: [`Prepared`]
    Raises: [`DataError`], [`FoldError`], [`BlockSelectionError`], [`ArgumentsError`], [`MetricNotFoundError`],
        [`NonFiniteScoreError`]: Nothing was trained or written then.
    """
    blocks = candidate_blocks(recipe.model, recipe.args)
    check_head_rate(recipe)
    labels = read_labels(recipe.train_dataset, recipe.args.label_column)
    check_labels(labels, recipe.model)
    folds = cut_folds(recipe, labels)
    check_steps(recipe, folds[0])
    random_items = random_rows(recipe, folds[0])
    if random_items:
        logger.warning(
            "A row of the training data read twice gives two different things: it carries a random transform of its "
            "own, and validation folds would be augmented too. Give the data set without it, and pass the "
            "augmentation as `train_transform` and the plain one as `eval_transform`."
        )
    spec = study_spec(recipe, blocks, folds, labels, random_items)
    folder = journal_folder(recipe.args)
    if (known := find_study(folder)) is not None and known.spec.fingerprint != spec.fingerprint:
        raise_mismatch(folder, known.spec, spec)
    check_scoring(recipe, folds[0])
    return Prepared(spec, folds, folder)


def raise_mismatch(folder: Path, old: StudySpec, new: StudySpec) -> None:
    """
    Say what differs between a journal's study and the present one.

    Raises: [`StudyMismatchError`]
    """
    differences = "\n  ".join(old.differences(new)) or "(nothing readable)"
    raise StudyMismatchError(
        f"The journal in '{folder}' belongs to another study:\n  {differences}\nIts scores cannot be used here. "
        "Choose another `output_dir`, or restore what changed. Nothing was trained or written."
    )


def candidate_blocks(model: nn.Module, args: GreedySubTuningArguments) -> tuple[BlockInfo, ...]:
    """
    The blocks to choose from, in forward order.

    Raises: [`NoBlocksFoundError`], [`BlockSelectionError`]
    """
    if args.blocks is None:
        return tuple(BlockInfo(block.name, block.num_parameters) for block in find_blocks(model))
    names = resolve_blocks(model, args.blocks)
    return tuple(BlockInfo(n, sum(p.numel() for p in model.get_submodule(n).parameters())) for n in names)


def study_spec(
    recipe: Recipe, blocks: Sequence[BlockInfo], folds: Sequence[Fold], labels: Sequence[Any] | None, random_items: bool
) -> StudySpec:
    """
    What identifies a study: everything a score depends on but the head, which the study keeps a copy of.

    Returns: [`StudySpec`]
    """
    args, model = recipe.args, recipe.model
    random_data = random_items or recipe.train_transform is not None
    settings: dict[str, Any] = {
        "arguments": settings_of(args, recipe.needs_inner_split, random_data),
        "model": model_identity(model),
        "code": {name: describe(thing) for name, thing in _code(recipe).items()},
        "data": {"rows": len(recipe.train_dataset), "type": type(recipe.train_dataset).__name__},
        "study_tag": args.study_tag,
    }
    weights = fingerprint_weights(model, {"head": find_head(model), "blocks": [block.name for block in blocks]})
    data = Hasher().raw("train", fingerprint_dataset(recipe.train_dataset, labels, random_items).encode())
    if recipe.validation_dataset is not None:
        settings["data"]["validation_rows"] = len(recipe.validation_dataset)
        data.raw("validation", fingerprint_dataset(recipe.validation_dataset, None, random_items).encode())
    code = Hasher()
    for name, thing in _code(recipe).items():
        code.raw(name, fingerprint_code(thing).encode())
    return StudySpec(
        blocks=tuple(blocks),
        num_folds=len(folds),
        metric=args.score_name,
        greater_is_better=args.score_greater_is_better,
        fingerprints={
            "stem": weights["stem"],
            "blocks": weights["blocks"],
            "model": fingerprint_value(settings["model"]),
            "data": data.hex(),
            "folds": fingerprint_value([[list(f.train), list(f.validation)] for f in folds]),
            "settings": fingerprint_value(settings["arguments"]),
            "code": code.hex(),
            "study_tag": fingerprint_value(args.study_tag),
        },
        settings=settings,
        environment=environment(args, model),
    )


def _code(recipe: Recipe) -> dict[str, Any]:
    """Functions and classes that a score depends on, by the argument they were given as."""
    things = {
        "trainer_cls": recipe.trainer_cls,
        "train_transform": recipe.train_transform,
        "eval_transform": recipe.eval_transform,
        **recipe.trainer_kwargs,
        **{f"callbacks[{i}]": make for i, make in enumerate(recipe.callbacks)},
    }
    return {name: thing for name, thing in sorted(things.items()) if thing is not None}


def environment(args: GreedySubTuningArguments, model: nn.Module) -> dict[str, Any]:
    """Where a study is run; recorded with it, not part of its identity. The head's fingerprint is here."""
    libraries = {"torch": torch, "transformers": transformers, "peft": peft, "accelerate": accelerate}
    libraries["datasets"] = datasets
    return {
        "head": head_fingerprint(model),
        "threads": torch.get_num_threads(),
        "device": str(args.device),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "subtuning_hf": __version__,
        **{name: module.__version__ for name, module in libraries.items()},
    }


class Study:
    """
    A prepared study with its journal open.

    Args:
        recipe ([`Recipe`]): How candidates are trained.
        prepared ([`Prepared`]): What it is.
        may_train (`bool`, *optional*, defaults to `True`):
            Whether the base is free for candidates. If not, only what is recorded can be read.
    """

    def __init__(self, recipe: Recipe, prepared: Prepared, may_train: bool = True) -> None:
        self.recipe = recipe
        self.spec, self.folds, self.folder = prepared.spec, prepared.folds, prepared.folder
        self.may_train = may_train
        self.evaluator = Evaluator(recipe)
        self.evaluations: list[Evaluation] = []
        self.decisions: list[Any] = []
        self.searches: list[SearchSpec] = []
        self.journal: Journal | None = None

    def __enter__(self) -> Study:
        if self.may_train:
            self.journal = Journal.open(self.folder, self.spec)
        try:
            self._read()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the journal."""
        if self.journal is not None:
            self.journal.close()
            self.journal = None

    def _read(self) -> None:
        known = find_study(self.folder)
        if known is None:
            return
        self.evaluations, self.decisions = list(known.evaluations), list(known.decisions)
        self.searches = list(known.searches)
        self._compare_environment(known.spec.environment)
        if self.may_train:
            remove_stale_scratch(self.recipe.args.folder)
            if self.evaluations:
                settle_head(self.recipe.model, self.folder, str(known.spec.environment.get("head", "")))

    def _compare_environment(self, old: dict[str, Any]) -> None:
        new = self.spec.environment
        differs = [name for name in new if name in old and name != "head" and old[name] != new[name]]
        changed = [f"{name} {old[name]} -> {new[name]}" for name in differs]
        if changed and self.evaluations:
            logger.warning(
                f"The study in '{self.folder}' was begun in another environment ({', '.join(changed)}). New "
                "scores can differ from its scores in the last digits. Make the environments equal, or start a new "
                "study in another `output_dir`, where such differences matter."
            )

    def run(self, search: SearchSpec) -> SearchState:
        """
        Evaluate what a search asks for until it is finished.

        Args:
            search ([`SearchSpec`]): What is searched.

        Returns: [`SearchState`], finished.
        """
        state = replay(self.spec, search, self.evaluations)
        last_round = len(self.spec.blocks) if search.max_blocks is None else search.max_blocks
        progress = StudyProgress(self.spec, last_round, bool(self.recipe.args.disable_tqdm))
        try:
            progress.start(self.evaluations)
            with cheap_collections():
                while not state.finished:
                    self._run_round(search, state, progress)
                    state = replay(self.spec, search, self.evaluations)
        finally:
            progress.close()
        self._record(search, state)
        return state

    def _run_round(self, search: SearchSpec, state: SearchState, progress: StudyProgress) -> None:
        if not self.may_train:
            raise ArgumentsError(
                f"{len(state.pending)} evaluations of the study are still to be made, but the base model holds a "
                "trained adapter, which they would remove. Search before train(), or make a new trainer."
            )
        # The first record takes the lock, so the head is written by the process that owns the study.
        self._record(search, state)
        if not self.evaluations:
            save_head(self.recipe.model, self.folder)
        progress.round(state.rounds[-1].index, state.rounds[-1].candidates, state.pending)
        for candidate, fold in state.pending:
            evaluation = self.evaluator(candidate, self.folds[fold])
            self._append(evaluation)
            self.evaluations.append(evaluation)
            progress.done(evaluation)

    def _append(self, record: Any) -> None:
        assert self.journal is not None
        self.journal.append(record)

    def _record(self, search: SearchSpec, state: SearchState) -> None:
        """Searches and decisions follow from arguments and evaluations; they are kept for those who read the file."""
        if self.journal is None:
            return
        if search not in self.searches:
            self._append(search)
            self.searches.append(search)
        for round_ in state.rounds:
            if round_.decision is not None and round_.decision not in self.decisions:
                self._append(round_.decision)
                self.decisions.append(round_.decision)
