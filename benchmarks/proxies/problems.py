"""
What a cheap choice of blocks is given on a setting, and the truth that it is judged by.

The same model, rows, folds and batches as in the exact study of the setting, so that the two cannot differ in anything
but the choice. What is measured here: agreement of single blocks with the exact profile, and what a choice costs.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from subtuning_hf.blocks import find_blocks, find_head
from subtuning_hf.compare import Task
from subtuning_hf.proposal.base import Batch, Meter, Prediction, Problem
from subtuning_hf.search.folds import make_folds
from subtuning_hf.search.journal import find_study
from subtuning_hf.training.proposing import forward_shares

sys.path.insert(0, str(Path(__file__).parent))
from settings import NUM_FOLDS, Setting


def problem_of(task: Task, setting: Setting, seed: int) -> Problem:
    """
    What a proposal is given on a setting.

    Args:
        task ([`Task`]): Of `settings.load` with the same seed.
        setting ([`Setting`]): Which.
        seed (`int`): Cuts the folds as the study does, and is the proposal's own.

    Returns: [`Problem`]
    """
    labels = list(task.train["label"])
    blocks = tuple(block.name for block in find_blocks(task.model))
    train = _batches(task, task.train_transform)
    shares = forward_shares(task.model, blocks, train(range(2)))
    return Problem(
        model=task.model,
        blocks=blocks,
        head=tuple(find_head(task.model)),
        folds=make_folds(len(labels), NUM_FOLDS, seed, labels=labels),
        labels=labels,
        train_batch=train,
        eval_batch=train if task.eval_transform is task.train_transform else _batches(task, task.eval_transform),
        score=_scored(task),
        epochs=setting.epochs,
        batch_size=setting.batch_size,
        learning_rate=setting.learning_rate,
        weight_decay=task.arguments["weight_decay"],
        warmup=task.arguments["warmup_steps"],
        meter=Meter(shares, 3.0 * len(labels) * setting.epochs),
        seed=seed,
    )


def _batches(task: Task, transform: Any) -> Callable[[Sequence[int]], Batch]:
    """Rows to batches; each row goes through the transform once, since none of the settings augments."""
    kept: dict[int, dict[str, Any]] = {}

    def batch(rows: Sequence[int]) -> Batch:
        numbers = [int(row) for row in rows]
        missing = [row for row in dict.fromkeys(numbers) if row not in kept]
        if missing:
            found = transform(task.train[missing])
            for place, row in enumerate(missing):
                kept[row] = {name: column[place] for name, column in found.items()}
        assert task.data_collator is not None
        return dict(task.data_collator([dict(kept[row]) for row in numbers]))

    return batch


def _scored(task: Task) -> Callable[[Any, Any, float], float]:
    return lambda logits, labels, loss: task.compute_metrics((logits, labels))[task.metric]


# --- truth -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Truth:
    """
    What the exact study has found so far.

    Args:
        blocks (`tuple[str, ...]`): Names of all blocks, in forward order.
        scores (`dict[tuple[str, ...], tuple[float, ...]]`):
            Score on each fold of every selection trained on all folds, by its blocks in forward order.
        seconds (`dict[tuple[str, ...], float]`): Wall clock of its trainings, all folds together.
    """

    blocks: tuple[str, ...]
    scores: dict[tuple[str, ...], tuple[float, ...]]
    seconds: dict[tuple[str, ...], float]

    def mean(self, selection: Sequence[str]) -> float:
        """The mean over folds, all about equally large."""
        return math.fsum(self.scores[tuple(selection)]) / len(self.scores[tuple(selection)])

    @property
    def has_profile(self) -> bool:
        """`bool`: whether the head alone and every single block are there."""
        return all(one in self.scores for one in [(), *((block,) for block in self.blocks)])


def read_truth(folder: Path, setting: Setting, seed: int) -> Truth | None:
    """
    The truth of a setting, `None` where nothing was journalled yet.

    Args:
        folder (`Path`): `--output-dir` of the exact study.
        setting ([`Setting`]), seed (`int`): Which.

    Returns: [`Truth`] or `None`
    """
    study = find_study(folder / f"{setting.name}_seed-{seed}" / "journal")
    if study is None:
        return None
    names = tuple(block.name for block in study.spec.blocks)
    found: dict[tuple[str, ...], dict[int, Any]] = {}
    for one in study.evaluations:
        if one.repeat == 0 and one.budget == 1.0:
            found.setdefault(tuple(sorted(one.candidate.blocks, key=names.index)), {})[one.fold] = one
    whole = {key: ones for key, ones in found.items() if len(ones) == study.spec.num_folds}
    return Truth(
        names,
        {key: tuple(ones[fold].score for fold in sorted(ones)) for key, ones in whole.items()},
        {key: math.fsum(one.seconds for one in ones.values()) for key, ones in whole.items()},
    )


# --- agreement -------------------------------------------------------------------------------
def ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 0, equal values sharing the mean of theirs."""
    array = np.asarray(values, dtype=float)
    return np.array([(array < value).sum() + ((array == value).sum() - 1) / 2 for value in array])


def spearman(left: Sequence[float], right: Sequence[float]) -> float:
    """Rank correlation; NaN where one of the two does not vary."""
    one, other = ranks(left), ranks(right)
    if one.std() == 0 or other.std() == 0:
        return math.nan
    return float(np.corrcoef(one, other)[0, 1])


def agreement(truth: Truth, predicted: Mapping[tuple[str, ...], float]) -> SimpleNamespace:
    """
    How well predictions of some selections agree with the truth.

    Args:
        truth ([`Truth`]): The exact scores.
        predicted (`Mapping`): Predicted score by selection; those without a true score are left out.

    Returns: `SimpleNamespace`: `spearman`; `top1`, whether the best is put first (ties in truth count); `top3`,
    whether it is among the first three; `regret` and `regret3`, the true score lost by trusting the first, and the
    best of the first three.
    """
    keys = [key for key in predicted if key in truth.scores]
    true = {key: truth.mean(key) for key in keys}
    # Of equal predictions the one nearest the head, as in the search.
    order = sorted(keys, key=lambda key: (-predicted[key], [-truth.blocks.index(name) for name in key]))
    best = max(true.values())
    regret, regret3 = best - true[order[0]], best - max(true[key] for key in order[:3])
    return SimpleNamespace(
        spearman=spearman([true[key] for key in keys], [predicted[key] for key in keys]),
        top1=regret < 1e-9,
        top3=regret3 < 1e-9,
        regret=regret,
        regret3=regret3,
    )


def singles(truth: Truth, prediction: Prediction) -> dict[tuple[str, ...], float]:
    """Predictions of every single block."""
    return {(block,): prediction((block,)).score for block in truth.blocks}
