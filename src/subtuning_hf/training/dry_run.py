"""
The plan of a search, with an estimate of its time from a few real steps.

Trains nothing to an end and writes nothing but a temporary folder of the system's. Knows the recipe; the number of
evaluations follows from the round rule alone.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft import get_peft_model
from transformers import TrainerCallback

from ..search.greedy import replay
from ..search.journal import find_study
from ..search.records import Candidate, SearchSpec
from ..tuner import SubTuningConfig
from .evaluator import release, seed_all
from .guard import unaltered
from .progress import CostModel, format_seconds
from .recipe import Recipe
from .study import Prepared

STEPS = 3
BATCHES = 2


@dataclass(frozen=True)
class PlannedRound:
    """
    One round of a search.

    Args:
        index (`int`): 0 is the head alone, 1 the profile.
        candidates (`int`): Selections tried.
        evaluations (`int`): Trainings: candidates times folds.
        seconds (`float`): Estimate; for rounds whose selection is not known yet, that of the dearest candidate.
    """

    index: int
    candidates: int
    evaluations: int
    seconds: float


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
    """

    rounds: tuple[PlannedRound, ...]
    num_blocks: int
    num_folds: int
    steps: int
    seconds: dict[str, float]
    recorded: int = 0

    @property
    def evaluations(self) -> int:
        """`int`: evaluations if every round comes about."""
        return sum(round_.evaluations for round_ in self.rounds)

    @property
    def at_most_seconds(self) -> float:
        """`float`: estimate if every round comes about and none is recorded yet."""
        return sum(round_.seconds for round_ in self.rounds)

    def __str__(self) -> str:
        lines = [
            f"{self.num_blocks} blocks, {self.num_folds} fold{'s' * (self.num_folds > 1)}, "
            f"{self.steps} steps per training",
            "round  candidates  evaluations  time",
        ]
        total = 0.0
        for round_ in self.rounds:
            total += round_.seconds
            about = "about" if round_.index < 2 else "at most"
            lines.append(
                f"{round_.index:>5}  {round_.candidates:>10}  {round_.evaluations:>11}  "
                f"{about} {format_seconds(round_.seconds)}, {format_seconds(total)} so far"
            )
        lines.append(
            f"At most {self.evaluations} evaluations and {format_seconds(self.at_most_seconds)}; a round that adds "
            "no block is the last."
        )
        if self.recorded:
            lines.append(f"{self.recorded} evaluations are in the journal already and will not be repeated.")
        measured = ", ".join(f"{label} {format_seconds(value)}" for label, value in self.seconds.items())
        lines.append(f"One evaluation, from a few measured steps: {measured}. Nothing was trained or written.")
        return "\n".join(lines)


def plan_search(recipe: Recipe, prepared: Prepared, search: SearchSpec) -> SearchPlan:
    """
    Plan a search.

    Args:
        recipe ([`Recipe`]): How candidates are trained.
        prepared ([`Prepared`]): The study.
        search ([`SearchSpec`]): What is searched.

    Returns: [`SearchPlan`]
    """
    names = [block.name for block in prepared.spec.blocks]
    candidates = [Candidate(()), *(Candidate((name,)) for name in dict.fromkeys((names[-1], names[0])))]
    cost, seconds, steps = CostModel(names), {}, 0
    for candidate in candidates:
        steps, measured = measure(recipe, prepared, candidate)
        seconds[candidate.label] = measured
        cost.add_seconds(candidate, measured)
    dearest = max(seconds.values())
    folds, count = len(prepared.folds), len(names)
    head = cost.seconds(candidates[0]) or 0.0
    rounds = [PlannedRound(0, 1, folds, folds * head)]
    last = count if search.max_blocks is None else min(search.max_blocks, count)
    for index in range(1, last + 1):
        tried = count - index + 1
        each = [cost.seconds(Candidate((name,))) or 0.0 for name in names] if index == 1 else [dearest] * tried
        rounds.append(PlannedRound(index, tried, tried * folds, folds * sum(each)))
    return SearchPlan(tuple(rounds), count, folds, steps, seconds, _recorded(prepared, search))


def _recorded(prepared: Prepared, search: SearchSpec) -> int:
    """Evaluations of the journal that this search would use."""
    known = find_study(prepared.folder)
    if known is None:
        return 0
    state = replay(prepared.spec, search, known.evaluations)
    return sum(len(round_.evaluations) for round_ in state.rounds)


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
        model = get_peft_model(recipe.model, SubTuningConfig(blocks=list(candidate.blocks)))
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
