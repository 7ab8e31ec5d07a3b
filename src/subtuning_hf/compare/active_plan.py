"""
What a method trains in active learning, and how: chosen by the labelled rows.

Source of the equal budget of trials: [`compare`].
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..search.folds import make_folds
from ..training.data import read_labels
from ..training.fingerprint import fingerprint_value
from .choosing import Choice, Chooser, middle_settings
from .harness import Bench
from .log import RunLog
from .method import Settings
from .partial import Selection
from .study import METHODS
from .task import Task
from .training import TrainedMethod


@dataclass(frozen=True)
class Plan:
    """
    What is trained.

    Args:
        method ([`TrainedMethod`]): With its blocks.
        settings (`dict`): Its hyperparameters.
        words (`str`): Why these blocks.
    """

    method: TrainedMethod
    settings: Settings
    words: str

    def to_json(self) -> dict[str, Any]:
        """`dict`: `blocks`, `None` for all, and `settings`."""
        blocks = self.method.blocks
        return {"blocks": None if blocks is None else list(blocks), "settings": self.settings}


@dataclass(frozen=True)
class Planner:
    """
    Makes plans by labelled rows.

    Args:
        task ([`Task`]): `train` is the pool.
        first (`tuple[int, ...]`): The first labelled rows.
        num_folds (`int`), num_trials (`int`), num_refinements (`int`), tuning_folds (`int`), seed (`int`),
            learning_rate (`float`), search_arguments (`Mapping`), label_column (`str`), settings (`Mapping`), blocks
            (`Sequence[str]`, *optional*): See [`active_learning`].
        log ([`RunLog`]): Finished trials.
        folder (`Path`, *optional*): Of searches; temporary by default.
    """

    task: Task
    first: tuple[int, ...]
    num_folds: int
    num_trials: int
    num_refinements: int
    tuning_folds: int
    seed: int
    learning_rate: float
    log: RunLog
    folder: Path | None
    search_arguments: Mapping[str, Any]
    label_column: str
    settings: Mapping[str, Settings]
    blocks: Sequence[str] | None = None

    def plan(self, name: str, rows: tuple[int, ...]) -> Plan:
        """
        Choose blocks and hyperparameters; those that were given are kept.

        Args:
            name (`str`): Of the method.
            rows (`tuple[int, ...]`): The labelled rows of the pool.

        Returns: [`Plan`]
        Raises: [`NonFiniteScoreError`]: If all trials diverge.
        """
        bench = self._bench(rows)
        choice = bench.chosen[name] = self._choice(name, bench)
        assert isinstance(choice.method, TrainedMethod)
        own: Settings = dict(self.settings.get(name, {}))
        if not own:
            folds = bench.folds[: self.tuning_folds]
            own = bench.tune(choice.method, self.num_trials, self.num_refinements, folds).best
        return Plan(choice.method, own, choice.words)

    def _choice(self, name: str, bench: Bench) -> Choice:
        method = METHODS[name]
        if name == "SubTuning" and self.blocks is not None:
            return Choice(Selection(self.blocks), 0, 0.0, "Blocks given by name.")
        return method.choose(bench) if isinstance(method, Chooser) else Choice(method, 0, 0.0, "")

    def _bench(self, rows: tuple[int, ...]) -> Bench:
        """What choosers and trials share: the labelled rows."""
        start = replace(self.task, train=self.task.train.select(rows), _identity=[])
        labels = read_labels(start.train, self.label_column)
        # Rows drawn by chance may hold a single one of a class, by which no fold can be stratified.
        stratify = min(Counter(labels).values()) > 1  # type: ignore[arg-type]
        folds = make_folds(len(rows), self.num_folds, self.seed, labels=labels, stratify=stratify)
        folder = None
        if self.folder is not None:
            folder = self.folder / f"seed-{self.seed}"
            folder = folder if rows == self.first else folder / f"rows-{fingerprint_value(list(rows))}"
        return Bench(
            task=start,
            folds=tuple(folds),
            seed=self.seed,
            learning_rate=self.learning_rate,
            middle=middle_settings(self.learning_rate),
            log=self.log,
            folder=folder,
            search_arguments={"stratify": stratify, "label_column": self.label_column, **self.search_arguments},
        )
