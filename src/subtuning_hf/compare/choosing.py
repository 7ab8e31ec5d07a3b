"""
Methods that choose which blocks train: by a search, by groups, or by chance.

Choosing sees the training rows alone. What it costs is told apart from the trials that all methods get.

Source: surgical fine-tuning arXiv 2210.11466.
"""

from __future__ import annotations

import itertools
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .lora import LoRA
from .method import Method, Settings, design
from .partial import BlockMethod, block_names

if TYPE_CHECKING:
    from datasets import Dataset

    from .harness import Bench
    from .task import Task

_GROUPS = 4
# Rules of exact searches, which searches that predict refuse: their scores have a scale of their own.
_EXACT_ONLY = ("min_gain", "pruner")


@dataclass(frozen=True)
class Choice:
    """
    What a chooser found.

    Args:
        method ([`Method`]): What is tuned and trained.
        trainings (`int`): How many whole trainings it took.
        seconds (`float`): How long.
        words (`str`): In one sentence, why.
        fine_tunes (`float`, *optional*): What predictions took, in full fine-tunes by count of arithmetic.
    """

    method: Method
    trainings: int
    seconds: float
    words: str
    fine_tunes: float | None = None


class Chooser(ABC):
    """A method whose blocks must be chosen before it can be tuned."""

    name: str

    @abstractmethod
    def choose(self, bench: Bench) -> Choice:
        """
        Choose blocks by the training rows.

        Args:
            bench ([`Bench`]): The comparison's task, folds, log and folder.

        Returns: [`Choice`]
        """


@dataclass(frozen=True)
class GreedySearch(Chooser):
    """
    The search of this package.

    Args:
        name (`str`, *optional*), strategy (`str`, *optional*): By default the default search.
        arguments (`dict`, *optional*): Further [`GreedySubTuningArguments`]. `min_gain` and `pruner`, the
            comparison's included, hold for the exact search only.
    """

    name: str = "SubTuning"
    strategy: str = "short-profile"
    arguments: dict[str, Any] = field(default_factory=dict, hash=False)

    def choose(self, bench: Bench) -> Choice:
        from ..training import GreedySubTuningArguments, GreedySubTuningTrainer

        task = bench.task
        folder = bench.folder / f"search-{self.strategy}" if bench.folder else None
        asked = {**bench.search_arguments, **self.arguments}
        if self.strategy != "exact":
            asked = {name: value for name, value in asked.items() if name not in _EXACT_ONLY}
        with bench.scratch(folder) as output_dir:
            arguments = GreedySubTuningArguments(
                **{
                    **task.arguments,
                    "output_dir": str(output_dir),
                    "metric_for_best_model": task.metric,
                    "greater_is_better": True,
                    "remove_unused_columns": False,
                    "save_strategy": "no",
                    "eval_strategy": "no",
                    "logging_strategy": "no",
                    "report_to": [],
                    "num_folds": bench.num_folds,
                    "seed": bench.seed,
                    "learning_rate": bench.learning_rate,
                    "head_learning_rate": bench.middle["head_factor"] * bench.learning_rate,
                    "strategy": self.strategy,
                    **asked,
                }
            )
            trainer = GreedySubTuningTrainer(
                model=task.model,
                args=arguments,
                train_dataset=task.train,
                train_transform=task.train_transform,
                eval_transform=task.eval_transform,
                data_collator=task.data_collator,
                compute_metrics=task.compute_metrics,
            )
            result: Any = trainer.search()
        proposal = result.proposal
        seconds = result.cost.seconds + (0.0 if proposal is None else proposal.seconds)
        method = BlockMethod(self.name, tuple(result.blocks))
        planned = None if proposal is None else proposal.planned
        return Choice(method, result.cost.num_evaluations, seconds, result.reason, planned)


@dataclass(frozen=True)
class Surgical(Chooser):
    """One of up to four contiguous groups of blocks, by cross-validation."""

    name: str = "surgical"

    def choose(self, bench: Bench) -> Choice:
        groups = contiguous(block_names(bench.task.model), _GROUPS)
        methods = [BlockMethod(self.name, tuple(group)) for group in groups]
        tuned = bench.score(methods, [bench.middle], bench.folds)
        best = max(range(len(groups)), key=lambda at: (tuned[at].best_mean, -at))
        first, last = groups[best][0], groups[best][-1]
        return Choice(
            methods[best],
            len(groups) * len(bench.folds),
            sum(one.seconds for one in tuned),
            f"Blocks {first} to {last} are best of {len(groups)} groups on {len(bench.folds)} folds.",
        )


@dataclass(frozen=True)
class RandomBlocks(Method):
    """
    Random blocks, drawn anew for each seed.

    Args:
        count (`int`): How many.
    """

    count: int
    name: str = "random blocks"

    def key(self) -> dict[str, Any]:
        return {"method": self.name, "count": self.count}

    def run(self, task: Task, settings: Settings, seed: int, rows: Dataset, scored: Dataset) -> dict[str, Any]:
        blocks = random.Random(f"blocks {seed}").sample(block_names(task.model), self.count)
        return BlockMethod(self.name, tuple(blocks)).run(task, settings, seed, rows, scored)


@dataclass(frozen=True)
class Following(Chooser):
    """
    A method on what another one has chosen.

    Args:
        name (`str`): `"random blocks"` or `"LoRA in chosen blocks"`.
    """

    name: str

    def choose(self, bench: Bench) -> Choice:
        found = bench.chosen.get("SubTuning") or bench.chosen["SubTuning, exact"]
        blocks = found.method.blocks or ()
        method: Method
        if self.name == "random blocks":
            count = max(len(blocks), 1)
            method, words = RandomBlocks(count), f"{count} as SubTuning chose, drawn anew for each seed."
        elif blocks:
            method, words = LoRA(self.name, tuple(blocks)), "The blocks that SubTuning chose."
        else:
            method, words = BlockMethod(self.name, ()), "SubTuning chose the head alone."
        return Choice(method, 0, 0.0, words)


def contiguous(names: Sequence[str], count: int) -> list[list[str]]:
    """Blocks in up to so many runs of about equal length."""
    count = min(count, len(names))
    cuts = [round(place * len(names) / count) for place in range(count + 1)]
    return [list(names[low:high]) for low, high in itertools.pairwise(cuts)]


def middle_settings(learning_rate: float) -> Settings:
    """What is used before anything was tuned: the given rate, and the middle of the head's range."""
    method = BlockMethod("", None)
    point = (0.5,) * len(design(1)[0])
    return method.settings(point, learning_rate)
