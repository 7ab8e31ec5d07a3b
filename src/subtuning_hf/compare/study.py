"""
A whole comparison: choose, try, train, hold against each other.

Every method gets the same rows, epochs, number of trials on the same rows, and final seeds. Does not know how any
method works.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ArgumentsError, SubTuningError
from ..search.folds import make_folds
from ..training.data import class_labels, read_labels
from ..training.team import make_team
from .choosing import Choice, Chooser, Following, GreedySearch, Surgical, middle_settings
from .closed import FittedProbe, HeadToToe
from .harness import Bench, Trials
from .log import RunLog, only_writer
from .lora import LoRA
from .method import Method
from .partial import (
    AutoRGN,
    FullFineTuning,
    GradualUnfreezing,
    LayerWiseDecay,
    LinearProbe,
    ProbeThenFull,
    SmallParameters,
)
from .table import add_differences, comparison_table, method_rows
from .task import Task

# In the order in which they are made: those that follow SubTuning's choice come behind it.
METHODS: dict[str, Method | Chooser] = {
    method.name: method
    for method in (
        LinearProbe,
        FittedProbe(),
        FullFineTuning,
        ProbeThenFull(),
        LayerWiseDecay(),
        GradualUnfreezing(),
        AutoRGN(),
        LoRA(),
        LoRA("LoRA and norms", norms=True),
        LoRA("DoRA", dora=True),
        SmallParameters("BitFit"),
        SmallParameters("norms"),
        HeadToToe(),
        Surgical(),
        GreedySearch(),
        GreedySearch("SubTuning, exact", "exact"),
        Following("random blocks"),
        Following("LoRA in chosen blocks"),
    )
}
CORE = ("LP", "FT", "LP-FT", "LoRA", "surgical", "SubTuning")


@dataclass(frozen=True)
class Comparison:
    """
    What a comparison found.

    Args:
        rows (`list[dict]`): As [`method_rows`], with `choosing` and `against` beside.
        trials (`dict[str, Trials]`): Of each method.
        runs (`dict[str, list[dict]]`): Its final trainings, by seed.
    """

    rows: list[dict[str, Any]]
    trials: dict[str, Trials]
    runs: dict[str, list[dict[str, Any]]]

    def table(self) -> str:
        """`str`: best first, held against SubTuning."""
        return comparison_table(self.rows, self.ours)

    @property
    def ours(self) -> str:
        """`str`: the method that others are held against."""
        return next((name for name in ("SubTuning", "SubTuning, exact") if name in self.runs), self.rows[0]["method"])

    def to_json(self) -> dict[str, Any]:
        """`dict`: rows and trials."""
        trials = {
            name: {"settings": list(one.settings), "fold_scores": [list(scores) for scores in one.fold_scores]}
            for name, one in self.trials.items()
        }
        return {"methods": self.rows, "trials": trials}


def compare(
    task: Task,
    methods: Sequence[str] = CORE,
    *,
    learning_rate: float,
    num_trials: int = 4,
    num_refinements: int = 2,
    num_seeds: int = 5,
    num_folds: int = 3,
    tuning_folds: int = 1,
    seed: int = 0,
    label_column: str | None = None,
    output_dir: str | Path | None = None,
    search_arguments: dict[str, Any] | None = None,
    on_run: Callable[[], None] | None = None,
    say: Callable[[str], None] | None = None,
    args: Any = None,
) -> Comparison:
    """
    Compare methods of fine-tuning on one task.

    Args:
        task ([`Task`]): Model, rows and arguments.
        methods (`Sequence[str]`, *optional*): Names among `METHODS`.
        learning_rate (`float`): Around it rates are tried, four of them at an eighth, a half, two and eight times it
            for most methods.
        num_trials (`int`, *optional*, defaults to 4): Trials of hyperparameters of each method, spread alike.
        num_refinements (`int`, *optional*, defaults to 2): Further trials of each, one after the other: beyond the edge
            where the best rate so far is the lowest or the highest, else between it and its better neighbour.
        num_seeds (`int`, *optional*, defaults to 5): Final trainings of each method.
        num_folds (`int`, *optional*, defaults to 3): Folds of the training rows.
        tuning_folds (`int`, *optional*, defaults to 1): The first so many of them score trials; choosing uses all.
        seed (`int`, *optional*): Of folds, choosing and trials, and the first of the final seeds.
        label_column (`str`, *optional*): What folds are stratified by; by default "label", "labels" or "label_ids".
        output_dir (`str` or `Path`, *optional*): Finished runs are kept there, and found there again.
        search_arguments (`dict`, *optional*): Further [`GreedySubTuningArguments`] of searches.
        on_run (`Callable`, *optional*): Called after each training that is not a search's.
        say (`Callable`, *optional*): Given a line about each method when it is done.
        args ([`~transformers.TrainingArguments`], *optional*): Under a launcher: its processes share the trainings.

    Returns: [`Comparison`]
    Raises: [`ArgumentsError`]: For an unknown method or a number out of range.
    """
    wanted = check_methods(methods)
    numbers = {"num_trials": (num_trials, 1), "num_refinements": (num_refinements, 0), "num_seeds": (num_seeds, 1)}
    for name, (value, least) in (numbers | {"num_folds": (num_folds, 2)}).items():
        if value < least:
            raise ArgumentsError(f"`{name}` must be at least {least}, found {value}.")
    check_rate(learning_rate)
    if not 1 <= tuning_folds <= num_folds:
        raise ArgumentsError(f"`tuning_folds` must lie between 1 and num_folds={num_folds}, found {tuning_folds}.")
    labels = class_labels(read_labels(task.train, label_column))
    folds = tuple(make_folds(len(task.train), num_folds, seed, labels=labels))
    folder = None if output_dir is None else Path(output_dir)
    team = None if args is None else make_team(args)
    process = 0 if team is None else team.rank
    file = None if folder is None else folder / "runs.jsonl"
    middle, asked = middle_settings(learning_rate), search_arguments or {}
    trials, runs = dict[str, Trials](), dict[str, list[dict[str, Any]]]()
    with _sharing(team), only_writer(file, process):
        log = RunLog(file, process)
        bench = Bench(task, folds, seed, learning_rate, middle, log, folder, asked, team, args, on_run)
        # Searches first: one that cannot be made is to say so before anything else is trained.
        for name in wanted:
            if isinstance(METHODS[name], GreedySearch):
                bench.chosen[name] = _chosen(name, bench)
        for name in wanted:
            chosen = bench.chosen[name] = bench.chosen.get(name) or _chosen(name, bench)
            tuned = bench.tune(chosen.method, num_trials, num_refinements, folds[:tuning_folds])
            trials[name], runs[name] = bench.final(tuned, range(seed, seed + num_seeds))
            if say is not None:
                mean, count = sum(run["score"] for run in runs[name]) / num_seeds, runs[name][0]["num_examples"]
                say(f"{name}: {task.metric} {mean:.4f} on {count:,} test rows. {chosen.words}".rstrip())
    rows = method_rows([(trials[name], runs[name]) for name in wanted])
    for row, name in zip(rows, wanted, strict=True):
        choice = bench.chosen[name]
        row["method"] = name
        row["choosing"] = {
            "trainings": choice.trainings,
            "fine_tunes": choice.fine_tunes,
            "seconds": choice.seconds,
            "words": choice.words,
        }
    found = Comparison(rows, trials, runs)
    add_differences(rows, runs, found.ours)
    if folder is not None and process == 0:
        text = json.dumps(found.to_json() | {"runs": runs}, indent=2)
        (folder / "comparison.json").write_text(text + "\n", encoding="utf-8")
    return found


@contextmanager
def _sharing(team: Any) -> Iterator[None]:
    """Work that processes share: one that fails tells the others, and none leaves before all have read the results."""
    if team is None:
        yield
        return
    try:
        yield
        team.meet()
        team.gather(None)  # the first process keeps the results until then
    except BaseException as error:
        team.fail(error)
        raise
    finally:
        team.end()


def check_rate(learning_rate: float) -> None:
    """Raises: [`ArgumentsError`]: For a rate that is not above 0."""
    if not (isinstance(learning_rate, int | float) and 0 < learning_rate < math.inf):
        raise ArgumentsError(f"`learning_rate` must be a number above 0, found {learning_rate!r}.")


def check_methods(names: Sequence[str]) -> list[str]:
    """
    The methods of a comparison, in the order in which they are made.

    Args:
        names (`Sequence[str]`): Names among `METHODS`.

    Returns: `list[str]`
    Raises: [`ArgumentsError`]: For a name that nothing has, one given twice, or one that follows a choice nobody makes.
    """
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        listed = ", ".join(METHODS)
        raise ArgumentsError(f"`methods` must be names among: {listed}. Found {', '.join(unknown) or 'none'}.")
    if len(set(names)) < len(names):
        raise ArgumentsError(f"`methods` names one twice: {', '.join(names)}.")
    followers = [name for name in names if isinstance(METHODS[name], Following)]
    if followers and not any(isinstance(METHODS[name], GreedySearch) for name in names):
        raise ArgumentsError(f"'{followers[0]}' follows SubTuning's choice: add 'SubTuning' to `methods`.")
    return [name for name in METHODS if name in names]


def _chosen(name: str, bench: Bench) -> Choice:
    method = METHODS[name]
    if not isinstance(method, Chooser):
        return Choice(method, 0, 0.0, "")
    try:
        return method.choose(bench)
    except SubTuningError as error:
        error.add_note(f"This is of the method '{name}' of the comparison: leave it out, or mend what it says.")
        raise
