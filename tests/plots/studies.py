"""Studies with known worths of blocks, trained by nobody: for pictures of every kind of search."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from subtuning_hf.search.greedy import replay
from subtuning_hf.search.journal import Study
from subtuning_hf.search.records import BlockInfo, Candidate, Evaluation, SearchSpec, StudySpec, Unit
from subtuning_hf.search.result import SearchResult

NAMES = [f"net.stages.{stage}.layers.{layer}" for stage in range(3) for layer in range(2)]
LONG = [
    "features.denseblock1.denselayer_with_a_long_name",
    "features.transition_one",
    "classifier_trunk.a.very.long.path.of.modules.projection",
]
MANY = [f"vit.encoder.layer.{index}" for index in range(48)]


def study_of(
    names: Sequence[str],
    worth: dict[str, float],
    searches: Iterable[SearchSpec] = (SearchSpec(),),
    candidates: Iterable[Candidate] = (),
    folds: int = 3,
    repeats: int = 1,
    processes: int = 1,
    loss: bool = False,
    timed: bool = True,
    has_head: bool = True,
) -> Study:
    """
    A study in which block b adds `worth[b]` to 0.5; processes take the next training as soon as they are free, but wait
    for each other at the end of a round, as without speculation.
    """
    chance = random.Random(0)
    spec = StudySpec(
        tuple(BlockInfo(name, 1000 * (index + 1)) for index, name in enumerate(names)),
        folds,
        "eval_loss" if loss else "accuracy",
        not loss,
        environment={} if has_head else {"head": ""},
    )
    place = {name: index for index, name in enumerate(names)}
    evaluations: list[Evaluation] = []
    writers: list[str] = []
    clocks = [1_700_000_000.0] * processes

    def train(units: Iterable[Unit]) -> None:
        clocks[:] = [max(clocks)] * processes
        for unit in units:
            blocks, process = unit.candidate.blocks, clocks.index(min(clocks))
            score = 0.5 + sum(worth.get(name, 0.0) for name in blocks) + chance.gauss(0, 0.002)
            depth = len(names) - min((place[name] for name in blocks), default=len(names))
            seconds = (10.0 + depth) * unit.budget
            info = {"started": clocks[process], "process": process} if timed else {}
            size = 50 + sum(1000 * (place[name] + 1) for name in blocks)
            score = score - 1 if loss else score
            evaluations.append(
                Evaluation(unit.candidate, unit.fold, score, 50, {}, size, seconds, info, unit.repeat, unit.budget)
            )
            writers.append(f"rank-{process:04d}")
            clocks[process] += seconds

    for search in searches:
        while not (state := replay(spec, search, evaluations)).finished:
            train(state.pending)
    known = {evaluation.unit for evaluation in evaluations}
    wanted = [Unit(c, fold, repeat) for c in candidates for fold in range(folds) for repeat in range(repeats)]
    train(unit for unit in wanted if unit not in known)
    return Study(spec, tuple(evaluations), tuple(searches), writers=tuple(writers))


def result_of(study: Study, search: SearchSpec | None = None) -> SearchResult:
    """What a search of the study came to."""
    state = replay(study.spec, search or study.searches[0], study.evaluations)
    return SearchResult.from_state(study.spec, state, study.evaluations)


def texts_of(figure) -> list[str]:
    """All that is written in a picture, tick labels left out."""
    return [text.get_text() for text in (*figure.axes[0].texts, *figure.texts)]


def ticks_of(figure, which: str = "x") -> list[str]:
    """Tick labels."""
    axes = figure.axes[0]
    return [tick.get_text() for tick in (axes.get_xticklabels() if which == "x" else axes.get_yticklabels())]
