"""
Trials on folds, final trainings on all rows, and the bench on which a whole comparison is made.

Hyperparameters are chosen by scores on the training rows; the test set is only ever scored by [`repeat`]. Runs are
units of work that processes of a launch share; which process made a run changes nothing about it.
"""

from __future__ import annotations

import hashlib
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentsError, NonFiniteScoreError
from ..training.team import Solo
from ..training.world import alone
from .log import RunLog
from .method import Method, Settings, design, middle_of_best, refine
from .task import Task

if TYPE_CHECKING:
    from ..search.folds import Fold
    from .choosing import Choice


@dataclass(frozen=True)
class Trials:
    """
    The trials of one method, all on the same folds.

    Args:
        method ([`Method`]): The method.
        settings (`tuple[dict, ...]`): The hyperparameters of each trial.
        fold_scores (`tuple[tuple[float, ...], ...]`): Scores of each trial, in the order of the folds; `None` where
            training diverged.
        fold_sizes (`tuple[int, ...]`): Rows scored in each fold.
        seconds (`float`): Of all trials.
    """

    method: Method
    settings: tuple[Settings, ...]
    fold_scores: tuple[tuple[float | None, ...], ...]
    fold_sizes: tuple[int, ...]
    seconds: float

    def mean(self, trial: int) -> float:
        """Mean of a trial over folds, weighted by their sizes; minus infinity for one that diverged."""
        pairs = list(zip(self.fold_scores[trial], self.fold_sizes, strict=True))
        if any(score is None for score, _ in pairs):
            return -math.inf
        return math.fsum(score * size for score, size in pairs if score is not None) / sum(self.fold_sizes)

    @property
    def best_trial(self) -> int:
        """The trial with the best mean; of equal ones the middle one by learning rate."""
        places = sorted(range(len(self.settings)), key=lambda at: (self.settings[at].get("learning_rate", 0.0), at))
        return places[middle_of_best([self.mean(at) for at in places])]

    @property
    def best(self) -> Settings:
        """Its hyperparameters."""
        return self.settings[self.best_trial]

    @property
    def best_mean(self) -> float:
        """Its mean."""
        return self.mean(self.best_trial)

    @property
    def standard_error(self) -> float | None:
        """Of the best mean, from the spread between folds; `None` for one fold."""
        scores = [score for score in self.fold_scores[self.best_trial] if score is not None]
        return statistics.stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else None

    def without(self, trial: int) -> Trials:
        """The same, where one trial counts as diverged."""
        scores = list(self.fold_scores)
        scores[trial] = (None,) * len(self.fold_sizes)
        return replace(self, fold_scores=tuple(scores))

    @property
    def at_edge(self) -> bool:
        """Whether the best learning rate is the lowest or the highest tried, so that a wider range might do better."""
        rates = [one["learning_rate"] for one in self.settings if "learning_rate" in one]
        return len(set(rates)) > 1 and self.best.get("learning_rate") in (min(rates), max(rates))


@dataclass(frozen=True)
class Run:
    """
    One training and its score: a unit of work.

    Args:
        method ([`Method`]), settings (`dict`), seed (`int`): What to train.
        fold ([`Fold`], *optional*): Learnt from and scored; all training rows and the test rows by default.
    """

    method: Method
    settings: Settings
    seed: int
    fold: Fold | None = None

    def key(self, task: Task) -> dict[str, Any]:
        """JSON of everything the result depends on."""
        key = {"task": task.identity, **self.method.key(), **self.settings, "seed": self.seed}
        if self.fold is None:
            return key | {"scored": "test"}
        return key | {"rows": _short(self.fold.train), "scored": _short(self.fold.validation)}

    def __call__(self, task: Task) -> dict[str, Any]:
        """Do it; a training that diverges has no score, and that is what it found."""
        rows, scored = task.train, task.test
        if self.fold is not None:
            rows, scored = task.train.select(self.fold.train), task.train.select(self.fold.validation)
        started = time.perf_counter()
        try:
            return self.method.run(task, self.settings, self.seed, rows, scored)
        except NonFiniteScoreError as error:
            return {"score": None, "diverged": str(error), "seconds": time.perf_counter() - started}


def run_all(
    task: Task,
    runs: Sequence[Run],
    log: RunLog | None = None,
    on_run: Callable[[], None] | None = None,
    team: Any = None,
    args: Any = None,
) -> list[dict[str, Any]]:
    """
    Make runs, or find them in the log.

    Args:
        task ([`Task`]): What they are given.
        runs (`Sequence[Run]`): Which.
        log ([`RunLog`], *optional*): Where finished runs are kept and looked up.
        on_run (`Callable`, *optional*): Called after each run.
        team ([`Team`], *optional*): Processes that share the work.
        args ([`~transformers.TrainingArguments`], *optional*): With a team: made under its launcher.

    Returns: `list[dict]`: what [`Method.run`] returns, in the order of `runs`.
    """
    log, team = log or RunLog(), team or Solo()
    by_key = {log.name(run.key(task)): run for run in runs}
    told = {key for key in by_key if log.has(key)}
    log.reused += len(told)
    team.begin()
    for _ in told:
        if on_run is not None:
            on_run()
    while len(told) < len(by_key):
        key = team.claim([key for key in by_key if key not in told])
        if key is None:
            team.wait()
        else:
            with nullcontext() if args is None else alone(args):
                found_run = log.get_or_run(by_key[key].key(task), partial(by_key[key], task))
            team.publish(log.line(key, found_run))
        for line in team.results():
            if (found := log.learn(line)) in by_key and found not in told:
                told.add(found)
                if on_run is not None:
                    on_run()
    return [log.found(log.name(run.key(task))) for run in runs]


def tune(
    task: Task,
    method: Method,
    settings: Sequence[Settings],
    folds: Sequence[Fold],
    seed: int,
    log: RunLog | None = None,
    on_run: Callable[[], None] | None = None,
) -> Trials:
    """
    Try hyperparameters on folds of the training rows; the test rows are not touched.

    Args:
        task ([`Task`]), method ([`Method`]): What to train.
        settings (`Sequence[dict]`): The trials; give every method as many.
        folds (`Sequence[Fold]`): The same for every method.
        seed (`int`): Seed of all trials.
        log ([`RunLog`], *optional*), on_run (`Callable`, *optional*): See [`run_all`].

    Returns: [`Trials`]
    Raises:
        [`ArgumentsError`]: Without a trial or a fold.
        [`NonFiniteScoreError`]: If all trials diverged.
    """
    if not settings or not folds:
        raise ArgumentsError("`settings` and `folds` must not be empty.")
    runs = [Run(method, one, seed, fold) for one in settings for fold in folds]
    found = run_all(task, runs, log, on_run)
    scores = [run["score"] for run in found]
    if all(score is None for score in scores):
        raise NonFiniteScoreError(found[0]["diverged"])
    count = len(folds)
    return Trials(
        method,
        tuple(settings),
        tuple(tuple(scores[at : at + count]) for at in range(0, len(scores), count)),
        tuple(len(fold.validation) for fold in folds),
        math.fsum(run["seconds"] for run in found),
    )


def repeat(
    task: Task,
    method: Method,
    settings: Settings,
    seeds: Sequence[int],
    log: RunLog | None = None,
    on_run: Callable[[], None] | None = None,
) -> list[dict[str, Any]]:
    """
    Train on all training rows and score the test rows, once per seed.

    Args:
        task ([`Task`]): Model, rows and arguments.
        method ([`Method`]): What is trained.
        settings (`dict`): Its hyperparameters.
        seeds (`Sequence[int]`): One run each.
        log ([`RunLog`], *optional*): Finished runs are taken from it and written to it.
        on_run (`Callable[[], None]`, *optional*): Called after each run.

    Returns: `list[dict]`: what [`Method.run`] returns, by seed.
    Raises: [`NonFiniteScoreError`]: If one diverged.
    """
    found = run_all(task, [Run(method, settings, seed) for seed in seeds], log, on_run)
    if (diverged := _first_diverged(found)) is not None:
        raise NonFiniteScoreError(diverged)
    return found


def _first_diverged(runs: Sequence[dict[str, Any]]) -> str | None:
    return next((run["diverged"] for run in runs if run["score"] is None), None)


def rates(*learning_rates: float) -> list[Settings]:
    """
    Trials that differ in the learning rate alone, which is that of blocks and head alike.

    Args:
        learning_rates (`float`): One trial each.

    Returns: `list[dict]`: hyperparameters, for [`tune`].
    """
    return [{"learning_rate": rate} for rate in learning_rates]


@dataclass
class Bench:
    """
    What choosers and trials of a comparison share.

    Args:
        task ([`Task`]): Model, rows and arguments.
        folds (`tuple[Fold, ...]`): For choosing blocks.
        seed (`int`): Of choosing and of trials.
        learning_rate (`float`): Around which rates are tried; the one at which blocks are chosen.
        middle (`dict`): The hyperparameters at which blocks are chosen.
        log ([`RunLog`]): Finished runs.
        folder (`Path`, *optional*): Where searches keep their journals; temporary by default.
        search_arguments (`dict`, *optional*): Further arguments of searches.
        team ([`Team`], *optional*), args ([`~transformers.TrainingArguments`], *optional*): See [`run_all`].
        on_run (`Callable`, *optional*): Called after each run.
        chosen (`dict[str, Choice]`, *optional*): What was chosen so far, by the chooser's name.
    """

    task: Task
    folds: tuple[Fold, ...]
    seed: int
    learning_rate: float
    middle: Settings
    log: RunLog
    folder: Path | None = None
    search_arguments: dict[str, Any] = field(default_factory=dict)
    team: Any = None
    args: Any = None
    on_run: Callable[[], None] | None = None
    chosen: dict[str, Choice] = field(default_factory=dict)

    @property
    def num_folds(self) -> int:
        """`int`: for choosing blocks."""
        return len(self.folds)

    def score(self, methods: Sequence[Method], settings: Sequence[Settings], folds: Sequence[Fold]) -> list[Trials]:
        """Trials of several methods, all units of work at once."""
        runs = [Run(method, one, self.seed, fold) for method in methods for one in settings for fold in folds]
        self.run(runs)
        return [tune(self.task, method, settings, folds, self.seed, self.log) for method in methods]

    def tune(self, method: Method, num_trials: int, num_refinements: int, folds: Sequence[Fold]) -> Trials:
        """
        Choose a method's hyperparameters, with as many trials as every other method has.

        Args:
            method ([`Method`]): Which.
            num_trials (`int`): Trials of [`design`].
            num_refinements (`int`): Further ones, each placed by [`refine`].
            folds (`Sequence[Fold]`): What scores them.

        Returns: [`Trials`]
        """
        points: list[tuple[float, ...]] = design(num_trials)
        trials = self.score([method], [method.settings(point, self.learning_rate) for point in points], folds)[0]
        for _ in range(num_refinements):
            points.append(refine(points, [trials.mean(at) for at in range(len(points))]))
            more = method.settings(points[-1], self.learning_rate)
            self.run([Run(method, more, self.seed, fold) for fold in folds])
            trials = tune(self.task, method, [*trials.settings, more], folds, self.seed, self.log)
        return trials

    def final(self, trials: Trials, seeds: Sequence[int]) -> tuple[Trials, list[dict[str, Any]]]:
        """
        Final trainings at the best trial; at the next best one where a training diverges.

        Args:
            trials ([`Trials`]): Of one method.
            seeds (`Sequence[int]`): One training each.

        Returns: `tuple[Trials, list[dict]]`: the trials, of which those are taken out that diverged; the runs.
        Raises: [`NonFiniteScoreError`]: If no trial is left.
        """
        while True:
            found = self.run([Run(trials.method, trials.best, seed) for seed in seeds])
            diverged = _first_diverged(found)
            if diverged is None:
                return trials, found
            trials = trials.without(trials.best_trial)
            if trials.best_mean == -math.inf:
                raise NonFiniteScoreError(diverged)

    def run(self, runs: Sequence[Run]) -> list[dict[str, Any]]:
        """Make runs, or find them in the log."""
        return run_all(self.task, runs, self.log, self.on_run, self.team, self.args)

    @contextmanager
    def scratch(self, folder: Path | None) -> Iterator[Path]:
        """A folder that stays, or one that does not."""
        if folder is not None:
            yield folder
            return
        with tempfile.TemporaryDirectory(prefix="subtuning-compare-") as temporary:
            yield Path(temporary)


def _short(rows: Sequence[int]) -> str:
    return hashlib.sha256(repr(tuple(rows)).encode()).hexdigest()[:12]
