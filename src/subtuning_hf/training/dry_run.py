"""
The plan of a search, with an estimate of its time from a few real steps.

Trains nothing to an end and writes nothing but a temporary folder of the system's. Knows the recipe; the number of
evaluations follows from the round rule alone.
"""

from __future__ import annotations

import heapq
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft import get_peft_model
from transformers import TrainerCallback

from ..blocks import find_head
from ..proposal import make_proposal
from ..search.directions import DIRECTIONS, left_out
from ..search.greedy import replay
from ..search.journal import find_study
from ..search.proposals import MOST_CONFIRMED
from ..search.records import Candidate, SearchSpec, StudySpec, Unit
from ..search.space import HEAD_ONLY
from ..tuner import SubTuningConfig
from .evaluator import release, seed_all
from .guard import unaltered
from .prepare import Prepared
from .progress import CostModel, format_seconds
from .proposing import allowance
from .recipe import Recipe

STEPS = 3
BATCHES = 2


@dataclass(frozen=True)
class PlannedRound:
    """
    One round of a search.

    Args:
        name (`str`): Its number, for searches with two parts after the name of the part; or what is evaluated.
        candidates (`int`): Selections tried.
        evaluations (`int`): Trainings: candidates times folds times repeats.
        seconds (`float`): Estimate; for rounds whose selection is not known yet, that of the dearest candidate.
        exact (`bool`): Whether it is known what is tried.
    """

    name: str
    candidates: int
    evaluations: int
    seconds: float
    exact: bool


@dataclass(frozen=True)
class SearchPlan:
    """
    What a search would do.

    Args:
        rounds (`tuple[PlannedRound, ...]`): All rounds there can be; the search may stop after any but the first.
        num_blocks (`int`), num_folds (`int`): Its size.
        steps (`int`): Optimiser steps of one training.
        seconds (`dict[str, float]`): Measured estimate of one evaluation for each candidate that was tried.
        recorded (`int`): Evaluations that the journal holds already.
        processes (`int`, *optional*, defaults to 1): Processes that share the work.
        pruner (`str`, *optional*, defaults to `"none"`): What may drop candidates early, which is not counted.
        left_out (`tuple[str, ...]`, *optional*): Candidates that add too much latency, and are not trained.
    """

    rounds: tuple[PlannedRound, ...]
    num_blocks: int
    num_folds: int
    steps: int
    seconds: dict[str, float]
    recorded: int = 0
    processes: int = 1
    pruner: str = "none"
    left_out: tuple[str, ...] = ()

    @property
    def evaluations(self) -> int:
        """`int`: evaluations if every round comes about."""
        return sum(round_.evaluations for round_ in self.rounds)

    @property
    def at_most_seconds(self) -> float:
        """`float`: estimate if every round comes about and none is recorded yet."""
        return sum(round_.seconds for round_ in self.rounds)

    def __str__(self) -> str:
        wide = max(len("round"), *(len(round_.name) for round_ in self.rounds))
        lines = [
            f"{self.num_blocks} blocks, {self.num_folds} fold{'s' * (self.num_folds > 1)}, "
            f"{self.steps} steps per training, {self.processes} process{'es' * (self.processes > 1)}",
            f"{'round':>{wide}}  candidates  evaluations  time",
        ]
        total = 0.0
        for round_ in self.rounds:
            total += round_.seconds
            about = "about" if round_.exact else "at most"
            lines.append(
                f"{round_.name:>{wide}}  {round_.candidates:>10}  {round_.evaluations:>11}  "
                f"{about} {format_seconds(round_.seconds)}, {format_seconds(total)} so far"
            )
        if len(self.rounds) > 1:
            lines.append(
                f"At most {self.evaluations} evaluations and {format_seconds(self.at_most_seconds)}; the search ends "
                "earlier where no step is worth it."
            )
        if self.pruner != "none":
            lines.append(f"Without what the pruner '{self.pruner}' saves, or spends on shorter trainings first.")
        if self.left_out:
            lines.append(f"Not trained, since they add more than max_added_latency: {', '.join(self.left_out)}.")
        if self.recorded:
            lines.append(f"{self.recorded} evaluations are in the journal already and will not be repeated.")
        measured = ", ".join(f"{label} {format_seconds(value)}" for label, value in self.seconds.items())
        lines.append(f"One evaluation, from a few measured steps: {measured}. Nothing was trained or written.")
        return "\n".join(lines)


def plan_search(
    recipe: Recipe, prepared: Prepared, asked: SearchSpec | Sequence[Unit], processes: int = 1
) -> SearchPlan:
    """
    Plan a search, or a set of evaluations.

    Args:
        recipe ([`Recipe`]): How candidates are trained.
        prepared ([`Prepared`]): The study.
        asked ([`SearchSpec`] or `Sequence[Unit]`): What is searched, or evaluated.
        processes (`int`, *optional*, defaults to 1): Processes that share the work.

    Returns: [`SearchPlan`]
    """
    if isinstance(asked, SearchSpec) and asked.strategy != "exact":
        return _plan_predictions(recipe, prepared, asked)
    names = [block.name for block in prepared.spec.blocks]
    slow = left_out(prepared.spec, asked) if isinstance(asked, SearchSpec) else ()
    tried_alone = [name for name in names if Candidate((name,)) not in slow]
    ends = dict.fromkeys((*tried_alone[-1:], *tried_alone[:1]))
    # Where there is no head, nothing is trained with no block.
    bare = [HEAD_ONLY] if find_head(recipe.model) else []
    candidates = [*bare, *(Candidate((name,)) for name in ends)]
    cost, seconds, steps = CostModel(names), {}, 0
    for candidate in candidates:
        steps, measured = measure(recipe, prepared, candidate)
        seconds[candidate.label] = measured
        cost.add_seconds(candidate, measured)
    known = find_study(prepared.folder)
    evaluations = () if known is None else known.evaluations
    if isinstance(asked, SearchSpec):
        shapes = _shapes(prepared.spec, asked)
        state = replay(prepared.spec, asked, evaluations)
        rounds_ = [round_ for part in state.parts or (state,) for round_ in part.rounds]
        recorded = len({e.unit for round_ in rounds_ for e in round_.evaluations})
        pruner, trainings = asked.pruner, len(prepared.folds)
    else:
        listed = tuple(dict.fromkeys(unit.candidate for unit in asked))
        shapes = [("all", listed)]
        recorded = len({e.unit for e in evaluations} & set(asked))
        pruner, trainings = "none", len(asked) // len(listed)
    dearest = max(seconds.values())
    rounds = []
    for name, tried in shapes:
        exact = not isinstance(tried, int)
        each = [dearest] * tried if isinstance(tried, int) else [cost.seconds(c) or 0.0 for c in tried]
        spent = makespan([value for value in each for _ in range(trainings)], processes)
        rounds.append(PlannedRound(name, len(each), len(each) * trainings, spent, exact))
    return SearchPlan(
        tuple(rounds),
        len(names),
        len(prepared.folds),
        steps,
        seconds,
        recorded,
        processes,
        pruner,
        tuple(each.label for each in slow),
    )


def _plan_predictions(recipe: Recipe, prepared: Prepared, asked: SearchSpec) -> SearchPlan:
    """A search that predicts costs what it is given."""
    assert asked.budget is not None
    names = [block.name for block in prepared.spec.blocks]
    steps, seconds = measure(recipe, prepared, Candidate(tuple(names)))
    whole = seconds * len(recipe.train_dataset) / len(prepared.folds[0].train)
    known = find_study(prepared.folder)
    run = None if known is None else next((one for one in known.proposals if one.search == asked), None)
    done = 0 if run is None or known is None else len({each.unit for each in known.evaluations} & set(run.units))
    predicting = allowance(make_proposal(asked.strategy), asked)
    rounds = [PlannedRound(f"predict ({asked.strategy})", len(names) + 1, 0, predicting * whole, False)]
    if predicting < asked.budget:
        rest = (asked.budget - predicting) * whole
        rounds.append(PlannedRound("train the best", MOST_CONFIRMED, MOST_CONFIRMED, rest, False))
    shown = {"all blocks, all training rows": whole}
    slow = tuple(each.label for each in left_out(prepared.spec, asked))
    return SearchPlan(tuple(rounds), len(names), len(prepared.folds), steps, shown, recorded=done, left_out=slow)


def _shapes(spec: StudySpec, search: SearchSpec) -> list[tuple[str, tuple[Candidate, ...] | int]]:
    """The rounds that there can be: their candidates where these are known, else how many they are."""
    if search.direction == "best":
        parts = [(way, _shapes(spec, replace(search, direction=way))) for way in ("forward", "backward")]
        return [(f"{way} {name}", tried) for way, shapes in parts for name, tried in shapes]
    rules = DIRECTIONS[search.direction](spec, search)
    shapes: list[tuple[str, tuple[Candidate, ...] | int]] = [("0", (rules.start,))]
    first = rules.following(rules.start)
    if isinstance(first, str):
        return shapes
    shapes.append(("1", first if search.direction != "backward" else first[::-1]))  # from the dearest
    count = len(first)
    last = {"list": 1, "backward": count}.get(search.direction, min(search.max_blocks or count, count))
    # Blocks are added or removed one by one; the first ones are known.
    return shapes + [(str(index), count - index + 1) for index in range(2, last + 1)]


def makespan(durations: Iterable[float], processes: int) -> float:
    """Seconds until the last of some pieces of work is done, if each process takes the next one as it gets free."""
    free = [0.0] * processes
    for duration in durations:
        heapq.heappush(free, heapq.heappop(free) + duration)
    return max(free)


def measure(recipe: Recipe, prepared: Prepared, candidate: Candidate) -> tuple[int, float]:
    """
    Estimate one evaluation of a candidate from a few real steps.

    Returns: `tuple[int, float]`: steps of one whole training, and seconds of training and scoring.
    """
    fold = prepared.folds[0]
    clock = _Clock()
    begin = time.perf_counter()
    with unaltered(recipe.model), tempfile.TemporaryDirectory() as folder:
        args = recipe.args.for_candidate(folder, keep_evaluation=False)
        batches = math.ceil(len(fold.train) / args.train_batch_size)
        updates = max(math.ceil(batches / args.gradient_accumulation_steps), 1)
        steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * updates)
        args.max_steps = min(steps, STEPS + 1)
        seed_all(args)
        config = SubTuningConfig(blocks=list(candidate.blocks), init_blocks=args.init_blocks)
        model = get_peft_model(recipe.model, config)
        trainer = recipe.without_callbacks().trainer(model, args, recipe.training_rows(fold.train))
        try:
            trainer.add_callback(clock)
            overhead = time.perf_counter() - begin
            trainer.train()
            rows = fold.validation[: BATCHES * args.eval_batch_size]
            scoring = _timed(lambda: trainer.evaluate(recipe.validation_rows(rows)))
            return steps, overhead + steps * clock.seconds + scoring * len(fold.validation) / len(rows)
        finally:
            model.unload()
            release(trainer)


def _timed(function: Callable[[], Any]) -> float:
    """Seconds of the second call: the first pays for what is only done once."""
    function()
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


class _Clock(TrainerCallback):
    """Mean seconds of a step; the first, which pays for what is only done once, is left out where there are more."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.times.append(time.perf_counter())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """`float`: seconds of one step."""
        times = self.times[1:] if len(self.times) > 2 else self.times
        return (times[-1] - times[0]) / max(len(times) - 1, 1)
