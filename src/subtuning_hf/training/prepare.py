"""
What a study is: its blocks, its folds, what identifies it, and what can be known to be wrong before it begins.

Trains nothing and writes nothing. Knows the recipe and the journal's header; not how work is done.
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
from ..errors import ArgumentsError, BlockSelectionError, StudyMismatchError
from ..search.folds import Fold
from ..search.journal import find_study
from ..search.origin import SearchStart
from ..search.records import BlockInfo, Candidate, SearchSpec, StudySpec
from ..search.space import in_forward_order, pairs, windows
from .arguments import GreedySubTuningArguments
from .data import check_labels, read_labels
from .fingerprint import Hasher, fingerprint_dataset, fingerprint_value, fingerprint_weights
from .first_head import check_first_head
from .heads import head_fingerprint
from .identity import describe, fingerprint_code, model_identity, settings_of
from .preflight import check_head_rate, check_scoring, check_steps, cut_folds, random_rows
from .recipe import Recipe
from .serving import serving_cost

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Prepared:
    """
    A study that passed all checks.

    Args:
        spec ([`StudySpec`]): What it is.
        folds (`tuple[Fold, ...]`): Its folds.
        folder (`Path`): Its journal.
        random_rows (`bool`, *optional*): Whether rows of the data set itself differ from reading to reading.
    """

    spec: StudySpec
    folds: tuple[Fold, ...]
    folder: Path
    random_rows: bool = False


def journal_folder(args: GreedySubTuningArguments) -> Path:
    """`Path`: where the journal of a study is."""
    return args.folder / "journal"


def search_spec(
    args: GreedySubTuningArguments, model: nn.Module, spec: StudySpec, start: SearchStart | None = None
) -> SearchSpec:
    """
    What is decided, and how.

    Args:
        args ([`GreedySubTuningArguments`]): What is asked for.
        model (`torch.nn.Module`): The base model, whose head counts among what is trained.
        spec ([`StudySpec`]): The study.
        start ([`SearchStart`], *optional*): What it starts from.

    Returns: [`SearchSpec`]
    Raises: [`ArgumentsError`], [`BlockSelectionError`]
    """
    count = len(spec.blocks)
    return SearchSpec(
        strategy=args.strategy,
        direction=args.direction,
        max_blocks=count if args.max_blocks is None else min(args.max_blocks, count),
        min_gain=args.min_gain,
        max_block_parameters=_block_budget(args, model),
        candidates=listed_candidates(args, model, [block.name for block in spec.blocks]),
        pruner=args.pruner,
        confidence=args.confidence,
        reduction=args.reduction,
        smallest_budget=args.smallest_budget,
        score_limit=args.best_score if args.pruner == "certain" else None,
        budget=None if args.strategy == "exact" else args.search_budget,
        serving=serving_cost(args, spec),
        max_added_latency=args.max_added_latency,
        serving_aware=args.serving_aware,
        start=start,
    )


def _block_budget(args: GreedySubTuningArguments, model: nn.Module) -> int | None:
    """What is left of `max_trainable_parameters` for blocks; the head is trained in any case."""
    if args.max_trainable_parameters is None:
        return None
    head = head_parameters(model)
    if args.max_trainable_parameters < head:
        raise ArgumentsError(
            f"`max_trainable_parameters` is {args.max_trainable_parameters:,}, but the head alone has {head:,}, and it "
            "is always trained. Give at least that, and more for blocks."
        )
    return args.max_trainable_parameters - head


def head_parameters(model: nn.Module) -> int:
    """`int`: parameters of the head, which every candidate trains."""
    found = {id(p): p.numel() for name in find_head(model) for p in model.get_submodule(name).parameters()}
    return sum(found.values())


def listed_candidates(args: GreedySubTuningArguments, model: nn.Module, blocks: Sequence[str]) -> tuple[Candidate, ...]:
    """
    The candidates of a search in direction "list".

    Args:
        args ([`GreedySubTuningArguments`]): Its `candidates`: selections, or the name of a set of them.
        model (`torch.nn.Module`): The base model.
        blocks (`Sequence[str]`): The blocks to choose from, in forward order.

    Returns: `tuple[Candidate, ...]`: each once; empty in other directions.
    Raises: [`BlockSelectionError`]: If a selection names something else.
    """
    if args.candidates is None:
        return ()
    if args.candidates == "pairs":
        return pairs(blocks)
    if isinstance(args.candidates, str):
        return windows(blocks, int(args.candidates.partition(":")[2]))
    found = []
    for given in args.candidates:
        names = resolve_blocks(model, given, granularity=args.granularity)
        strangers = [name for name in names if name not in blocks]
        if strangers:
            raise BlockSelectionError(
                f"`candidates` names '{strangers[0]}' (in {given!r}), which is none of the {len(blocks)} blocks to "
                f"choose from: {', '.join(map(repr, blocks[:3]))}{' ...' if len(blocks) > 3 else ''}. Name one of "
                "them, or change `blocks` or `granularity`."
            )
        found.append(in_forward_order(blocks, names))
    return tuple(dict.fromkeys(found))


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
    check_first_head(recipe)
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
    return Prepared(spec, folds, folder, random_items)


def raise_mismatch(folder: Path | str, old: StudySpec, new: StudySpec) -> None:
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
        units = find_blocks(model, granularity=args.granularity)
        return tuple(BlockInfo(block.name, block.num_parameters) for block in units)
    names = resolve_blocks(model, args.blocks, granularity=args.granularity)
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
