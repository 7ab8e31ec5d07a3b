"""
Active learning: a method labels its own training set, round by round.

In each round the model starts anew from the pretrained weights, is trained on the labelled rows, looks at the others,
and an acquisition names those that are labelled next. What looks is given rows whose labels are blanked; test rows are
scored and nothing else. Knows no rule of acquisition.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArgumentsError
from ..search.tables import text_table
from ..training.data import class_labels, read_labels
from ..training.fingerprint import fingerprint_value
from .active_outputs import KeptMethod, blank_labels, look_at
from .active_plan import Plan, Planner
from .active_rules import ACQUISITIONS, RULES, chance
from .choosing import Chooser, Following
from .log import RunLog, only_writer
from .method import Settings, format_settings
from .study import METHODS, check_methods, check_rate
from .task import Task
from .training import TrainedMethod

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class ActiveLearning:
    """
    What active learning found.

    Args:
        rounds (`list[dict]`): One for each method, acquisition and budget: their names, `budget`, `score`, `hits`,
            `seconds`, `rows`, the numbers of the labelled rows, and `blocks` and `settings`, which were trained.
        methods (`dict[str, dict]`): Of each method `blocks`, `settings` and `words`, why these, on the first rows.
    """

    rounds: list[dict[str, Any]]
    methods: dict[str, dict[str, Any]]

    def score(self, method: str, acquisition: str, budget: int) -> float:
        """The test score of one round."""
        return next(
            one["score"]
            for one in self.rounds
            if (one["method"], one["acquisition"], one["budget"]) == (method, acquisition, budget)
        )

    def table(self) -> str:
        """`str`: test scores, a line for each method and acquisition, a column for each budget."""
        budgets = sorted({one["budget"] for one in self.rounds})
        pairs = dict.fromkeys((one["method"], one["acquisition"]) for one in self.rounds)
        cells = []
        for pair in pairs:
            scores = [self.score(*pair, budget) for budget in budgets]
            cells.append([*pair, *(f"{score:.4f}" for score in scores), f"{statistics.fmean(scores):.4f}"])
        return text_table(["method", "acquisition", *(f"{budget:,} rows" for budget in budgets), "mean"], cells, left=2)


def active_learning(
    task: Task,
    methods: Sequence[str] = ("LP", "FT", "SubTuning"),
    acquisitions: Sequence[str] = ACQUISITIONS,
    budgets: Sequence[int] = (100, 200, 400, 800),
    *,
    learning_rate: float,
    settings: Mapping[str, Settings] | None = None,
    blocks: Sequence[str] | None = None,
    num_trials: int = 4,
    num_refinements: int = 2,
    num_folds: int = 3,
    tuning_folds: int = 1,
    choose_each_round: bool = False,
    seed: int = 0,
    label_column: str = "label",
    output_dir: str | Path | None = None,
    search_arguments: Mapping[str, Any] | None = None,
    on_round: Callable[[], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> ActiveLearning:
    """
    Let methods choose the rows that they are trained on.

    The first rows are drawn by the seed, the same for every method and acquisition. On them each method chooses its
    blocks, if it chooses any, and its hyperparameters among the same number of trials on the same folds; it keeps both,
    unless it is to choose in every round. Random picks too are the same for all methods. Every round trains from the
    pretrained weights, with the epochs of the task, so that a larger budget has more steps.

    Args:
        task ([`Task`]): `train` is the pool, of whose rows a method knows the labels that it has asked for.
        methods (`Sequence[str]`, *optional*): Names among `METHODS`, of those that learn by gradients.
        acquisitions (`Sequence[str]`, *optional*): Names among `ACQUISITIONS`.
        budgets (`Sequence[int]`, *optional*): Labelled rows in each round, rising.
        learning_rate (`float`): Around it rates are tried, and blocks chosen.
        settings (`Mapping[str, dict]`, *optional*): Hyperparameters of methods by name, which then have no trials.
        blocks (`Sequence[str]`, *optional*): What SubTuning trains, in place of what a search on the first rows finds.
        num_trials (`int`, *optional*, defaults to 4), num_refinements (`int`, *optional*, defaults to 2), num_folds
            (`int`, *optional*, defaults to 3), tuning_folds (`int`, *optional*, defaults to 1), search_arguments
            (`Mapping`, *optional*): As in [`compare`], for the rows on which is chosen.
        choose_each_round (`bool`, *optional*, defaults to `False`): Choose anew on all labelled rows in every round:
            few rows may want other blocks than many. Trials and a search then come before every training.
        seed (`int`, *optional*): Of the first rows, of choosing, training and picking.
        label_column (`str`, *optional*, defaults to `"label"`): Blanked in the rows that acquisitions look at.
        output_dir (`str` or `Path`, *optional*): Finished rounds are kept there, a JSON line each, and found again;
            several seeds may share it.
        on_round (`Callable`, *optional*): Called after each round.
        say (`Callable`, *optional*): Given a line about each method and acquisition when it is done.

    Returns: [`ActiveLearning`]
    Raises:
        [`ArgumentsError`]: For unknown names, budgets that do not rise or exceed the pool, rows without classes, or a
            model without one score per class.
        [`NonFiniteScoreError`]: If a training diverges.
    """
    check_rate(learning_rate)
    names = _checked(task, methods, acquisitions, budgets, label_column)
    order = list(range(len(task.train)))
    random.Random(f"first rows {seed}").shuffle(order)
    first = tuple(sorted(order[: budgets[0]]))
    folder = None if output_dir is None else Path(output_dir)
    file = None if folder is None else folder / "rounds.jsonl"
    found: list[dict[str, Any]] = []
    chosen: dict[str, dict[str, Any]] = {}
    with only_writer(file):
        log = RunLog(file)
        planner = Planner(
            task, first, num_folds, num_trials, num_refinements, tuning_folds, seed, learning_rate, log, folder,
            search_arguments or {}, label_column, settings or {}, blocks,
        )  # fmt: skip
        blank = blank_labels(task.train, label_column, first[0])
        for name in names:
            plan = planner.plan(name, first)
            chosen[name] = plan.to_json() | {"words": plan.words}
            again = partial(planner.plan, name) if choose_each_round else None
            learner = _Learner(task, blank, plan, again, seed, log, tuple(acquisitions), on_round)
            for acquisition in acquisitions:
                path = learner.learn(acquisition, first, tuple(budgets))
                found += [{"method": name, "acquisition": acquisition} | one for one in path]
                if say is not None:
                    scores = ", ".join(f"{one['budget']}: {one['score']:.4f}" for one in path)
                    say(f"{name} ({format_settings(plan.settings)}), {acquisition}: {scores}")
    return ActiveLearning(found, chosen)


@dataclass(frozen=True)
class _Learner:
    """One method that learns from rows it asks for."""

    task: Task
    blank: Dataset
    first: Plan
    again: Callable[[tuple[int, ...]], Plan] | None
    seed: int
    log: RunLog
    acquisitions: tuple[str, ...]
    on_round: Callable[[], None] | None

    def learn(self, acquisition: str, first: tuple[int, ...], budgets: tuple[int, ...]) -> list[dict[str, Any]]:
        """All rounds of one acquisition."""
        rows, rounds, plan = first, list[dict[str, Any]](), self.first
        for place, budget in enumerate(budgets):
            more = budgets[place + 1] - budget if place + 1 < len(budgets) else 0
            # The first round is the same for all acquisitions, so it picks for each of them.
            wanted = (self.acquisitions if place == 0 else (acquisition,)) if more else ()
            if place and self.again is not None:
                plan = self.again(rows)
            work = partial(self._run, plan, rows, wanted, more)
            found = self.log.get_or_run(self._key(plan, rows, wanted, more), work)
            if self.on_round is not None:
                self.on_round()
            kept = [name for name in ("score", "num_examples", "hits", "seconds") if name in found]
            rounds.append(
                {"budget": budget, "rows": list(rows), **plan.to_json()} | {name: found[name] for name in kept}
            )
            if more:
                rows = tuple(sorted({*rows, *found["picked"][acquisition]}))
        return rounds

    def _key(self, plan: Plan, rows: tuple[int, ...], wanted: tuple[str, ...], more: int) -> dict[str, Any]:
        key = {"task": self.task.identity, **plan.method.key(), **plan.settings, "seed": self.seed}
        return key | {"labelled": fingerprint_value(list(rows)), "picks": more, "acquisitions": list(wanted)}

    def _run(self, plan: Plan, rows: tuple[int, ...], wanted: tuple[str, ...], more: int) -> dict[str, Any]:
        """Train, score the test rows, and pick for each acquisition."""
        kept = KeptMethod(plan.method)
        found = kept.run(self.task, plan.settings, self.seed, self.task.train.select(rows), self.task.test)
        pool = sorted(set(range(len(self.task.train))) - set(rows))
        seen = None
        if set(wanted) & set(RULES):
            seen = look_at(kept.trained(), self.task, self.blank.select(pool), self.blank.select(rows))
        picked = {}
        for name in wanted:
            rng = np.random.default_rng([self.seed, len(rows)])  # no method in it: the same random rows for all
            places = chance(len(pool), more, rng) if seen is None or name not in RULES else RULES[name](seen, more, rng)
            picked[name] = [pool[place] for place in places]
        return found | {"rows": list(rows), "picked": picked}


def _checked(
    task: Task, methods: Sequence[str], acquisitions: Sequence[str], budgets: Sequence[int], label_column: str
) -> list[str]:
    """The methods in the order in which they are made."""
    names = check_methods(methods)
    able = [name for name, one in METHODS.items() if isinstance(one, TrainedMethod | Chooser)]
    able = [name for name in able if not isinstance(METHODS[name], Following)]
    if any(name not in able for name in names):
        unable = ", ".join(name for name in names if name not in able)
        raise ArgumentsError(f"Active learning takes the methods {', '.join(able)}. Found {unable}: leave it out.")
    wrong = [name for name in acquisitions if name not in ACQUISITIONS]
    if wrong or not acquisitions or len(set(acquisitions)) < len(acquisitions):
        found = ", ".join(wrong or acquisitions) or "none"
        raise ArgumentsError(f"`acquisitions` must be different names among {', '.join(ACQUISITIONS)}. Found {found}.")
    rising = all(low < high for low, high in zip((0, *budgets), budgets, strict=False))
    rising = rising and all(isinstance(budget, int) for budget in budgets)
    if not budgets or not rising or budgets[-1] > len(task.train):
        raise ArgumentsError(
            f"`budgets` must be whole numbers of rows that rise up to at most the {len(task.train)} of `task.train`. "
            f"Found {', '.join(map(str, budgets)) or 'none'}."
        )
    if class_labels(read_labels(task.train, label_column)) is None:
        raise ArgumentsError(f"Active learning needs one class per row in '{label_column}'; name the column that has.")
    return names
