"""
How a search scales with the number of processes: a discrete-event simulation of the real scheduler.

    python benchmarks/simulate_search.py --journal out/parallel/0-1/journal --measured out/parallel/parallel.json

The decisions are the package's own: `replay` says what is pending, `speculate` what may soon be. In place of processes
stand the loop of `training/study.py` and the claims and pauses of `training/team.py`, with a clock for trainings. Three
searches: that of `parallel_search.py`, with scores and durations from a journal of one process, and two of the size of
ResNet-152 and ViT-L, with models of both that the report states. Deterministic, in one thread; `--searches` simulates
some again and keeps the others' numbers. Knows no network and no data; `simulate_report.py` draws and words.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from subtuning_hf.search.greedy import SearchState, replay, speculate
from subtuning_hf.search.journal import read_study
from subtuning_hf.search.records import BlockInfo, Candidate, Evaluation, Round, SearchSpec, StudySpec, Unit
from subtuning_hf.training.team import BEAT_SECONDS, POLL_SECONDS, POLL_SECONDS_AT_MOST

FOLDER = Path(__file__).parent / "results" / "simulation"
sys.path.insert(0, str(Path(__file__).parent))
from simulate_report import read_numbers, row_of, write_numbers, write_report  # noqa: E402

WORKERS = tuple(2**power for power in range(11))
# What the report says about the modelled searches: `picks` blocks are worth it, each beyond them harms; a block brings
# a share `worth` of what the score lacks of `top`; `likeness` is the correlation of neighbours, `noise` that of a fold.
STATED: dict[str, Any] = {
    "seeds": 3, "folds": 5, "picks": 4, "train_rows": 800, "validation_rows": 200, "epochs": 20, "fixed_seconds": 2.0,
    "jitter": 0.05, "head": 0.4, "top": 0.9, "worth": 0.3, "worth_spread": 0.1, "likeness": 0.8, "harm": 0.05,
    "noise": 0.02,
}  # fmt: skip
# Millions of multiplications of the stem and the blocks at 224 pixels, and seconds of a row's forward pass. The first
# block of a ResNet's stage projects its shortcut and, but for the first stage, strides inside.
STAGES = ((231.0, 218.0, 3), (372.0, 218.0, 8), (372.0, 218.0, 36), (372.0, 218.0, 3))
MODELS = {
    "ResNet-152": ([118.0, *(first if not place else other for first, other, n in STAGES for place in range(n))], 1e-3),
    "ViT-L": ([154.0, *[2558.0] * 24], 2e-3),
}


# --- what is searched ------------------------------------------------------------------------
@dataclass
class Problem:
    """A search, what an evaluation gives and takes, and the seconds before the first one and beside each."""

    name: str
    spec: StudySpec
    search: SearchSpec
    make: Callable[[Unit], Evaluation]
    made: dict[Unit, Evaluation] = field(default_factory=dict)
    setup: float = 0.0
    overhead: float = 0.0

    def evaluation(self, unit: Unit) -> Evaluation:
        """The same for every number of processes."""
        if unit not in self.made:
            self.made[unit] = self.make(unit)
        return self.made[unit]


def recorded(journal: Path, measured: dict[str, Any]) -> Problem:
    """A search that one process has finished. What only a wrong guess asks for is taken from its like."""
    study = read_study(journal)
    made = {evaluation.unit: evaluation for evaluation in study.evaluations}
    if not study.searches or not replay(study.spec, study.searches[0], made.values()).finished:
        raise SystemExit(f"The search in '{journal}' is not finished: run it to its end first.")

    def make(unit: Unit) -> Evaluation:
        like = [each for each in study.evaluations if len(each.candidate.blocks) == len(unit.candidate.blocks)]
        near = [each for each in like if each.candidate.blocks[:1] == unit.candidate.blocks[:1]] or like
        return replace(near[unit.fold % len(near)], candidate=unit.candidate, fold=unit.fold)

    # From one training's end to the next one's beginning: the journal's write and a replay.
    order = sorted(study.evaluations, key=lambda each: float(each.info["started"]))
    starts = [float(each.info["started"]) for each in order]
    gaps = [after - before - each.seconds for each, before, after in zip(order, starts, starts[1:], strict=False)]
    span = starts[-1] + order[-1].seconds - starts[0]
    setup = statistics.median(run["one"]["search"] for run in measured["runs"]) - span if measured else 0.0
    overhead = max(0.0, statistics.median(gaps))
    return Problem("recorded", study.spec, study.searches[0], make, made, max(0.0, setup), overhead)


def modelled(name: str, seed: int, pruner: str = "none") -> Problem:
    """A search of stated costs and seeded scores."""
    costs, row_seconds = MODELS[name]
    share = [cost / sum(costs) for cost in costs[1:]]
    s, draw, level, worth = STATED, random.Random(f"{name}/{seed}"), 0.0, []
    for place in range(len(share)):  # neighbours are alike, as in measured profiles
        change = draw.gauss(0, 1) * (math.sqrt(1 - s["likeness"] ** 2) if place else 1)
        level = s["likeness"] * level + change
        worth.append(min(0.9, max(0.02, s["worth"] + s["worth_spread"] * level)))

    def make(unit: Unit) -> Evaluation:
        places = [int(block[5:]) for block in unit.candidate.blocks]
        noise = random.Random(f"{name}/{seed}/{unit.candidate.key}/{unit.fold}")
        missing = (s["top"] - s["head"]) * math.prod(1 - worth[place] for place in places)
        score = s["top"] - missing - s["harm"] * max(0, len(places) - s["picks"]) + noise.gauss(0, s["noise"])
        backward = sum(share[places[0] :]) + sum(share[place] for place in places) if places else 0.0
        passes = s["train_rows"] * s["epochs"] * (1 + backward) * unit.budget + s["validation_rows"]
        seconds = (s["fixed_seconds"] + row_seconds * passes) * math.exp(noise.gauss(0, s["jitter"]))
        return Evaluation(unit.candidate, unit.fold, score, s["validation_rows"], seconds=seconds, budget=unit.budget)

    blocks = tuple(BlockInfo(f"block{place:02d}", 1) for place in range(len(share)))
    return Problem(name, StudySpec(blocks, s["folds"], "accuracy", True), SearchSpec(pruner=pruner), make)


# --- the scheduler ---------------------------------------------------------------------------
class Mode(NamedTuple):
    """In which rounds idle processes work ahead, and whether they abandon what a decision has made useless."""

    ahead: str = "none"  # or "start": in round 0, whose only candidate wins; or "all": as with `speculate`
    abandon: bool = False


MODES = {"off": Mode(), "start": Mode("start"), "speculate": Mode("all"), "abandon": Mode("all", abandon=True)}
LOOK_SECONDS = 1.0  # until a training notices that it is to be abandoned


class Store(NamedTuple):
    """
    The store of claims and results: seconds from a question to its answer when nobody else asks; seconds that one
    question keeps it busy, which those who ask at once share; at how many processes a waiting one looks (`None`: all).
    """

    round_trip: float = 2e-4
    service: float = 2.5e-5
    watched: int | None = None


@dataclass
class Wait:
    """A process with nothing to claim: since when, when it looks again, and the pause after that."""

    since: float
    next: float
    pause: float = POLL_SECONDS


@dataclass
class Step:
    """Evaluations that one judgement waits for; `busy`, and `late` by claims and pauses: seconds of all processes."""

    round: int
    begin: float
    units: int
    end: float = 0.0
    busy: float = 0.0
    late: float = 0.0


class QuickRound(Round):
    """A round that need not go through all its evaluations for those of one candidate."""

    def of(self, candidate: Candidate, budget: float = 1.0) -> tuple[Evaluation, ...]:
        return tuple(self._found.get((candidate, budget), ()))

    @cached_property
    def _found(self) -> dict[tuple[Candidate, float], list[Evaluation]]:
        found: dict[tuple[Candidate, float], list[Evaluation]] = {}
        for evaluation in self.evaluations:
            found.setdefault((evaluation.candidate, evaluation.budget), []).append(evaluation)
        return found


class Scheduler:
    """
    `Study._work` in many processes.

    A state changes what can be claimed only when a step is complete: until then the pending units are those it began
    with, less those that are known, in the same order. So `replay` is called once for each step, and the states in
    between are put together from it. `speculate` is asked once for each new result, if somebody waits.
    """

    def __init__(self, problem: Problem, workers: int, mode: Mode = MODES["off"], store: Store | None = None) -> None:
        self.problem, self.workers, self.mode, self.store = problem, workers, mode, store or Store()
        self.units: list[Unit] = []  # by their number
        self.numbers: dict[Unit, int] = {}
        self.known: dict[int, Evaluation] = {}
        self.fresh: list[Evaluation] = []  # known since the step began
        self.claimed: set[int] = set()
        self.tried: list[set[int]] = [set() for _ in range(workers)]
        self.running: dict[int, tuple[int, float]] = {}  # by process: what, and since when
        self.waiting: dict[int, Wait] = {}
        self.heard = [-math.inf] * workers
        self.events: list[tuple[float, int, int, int | None, bool]] = []
        self.count = itertools.count()
        self.steps: list[Step] = []
        self.guesses: dict[int, int] = {}  # claimed ahead: in which round
        self._guessed: list[int] | None = None
        self.ended = self.lost = 0.0
        self.state: SearchState
        self.pending: list[int]

    def run(self) -> Scheduler:
        """Simulate."""
        self._replay(0.0)
        for rank in range(self.workers):
            self._turn(rank, 0.0)
        while self.events:
            now, _, rank, number, done = heapq.heappop(self.events)
            if number is None:
                if rank in self.waiting and self.waiting[rank].next == now:
                    self._turn(rank, now)
            elif self.running.get(rank, (None, 0.0))[0] == number:
                _, since = self.running.pop(rank)
                if done:
                    self._publish(number, now)
                else:
                    self.lost += now - since
                self._turn(rank, now)
                self._wake(now)
        self.seconds = self.problem.setup + self.ended
        return self

    # --- what is to be done -----------------------------------------------------------------
    def _number(self, unit: Unit) -> int:
        if unit not in self.numbers:
            self.numbers[unit] = len(self.units)
            self.units.append(unit)
        return self.numbers[unit]

    def _publish(self, number: int, now: float) -> None:
        self.known[number] = self.problem.evaluation(self.units[number])
        self._guessed = None
        if number in self.missing:
            self.missing.discard(number)
            self.fresh.append(self.known[number])
            if not self.missing:
                self._replay(now)

    def _replay(self, now: float) -> None:
        if self.steps:
            self.steps[-1].end = now
        self.state = replay(self.problem.spec, self.problem.search, self.known.values())
        self.pending = [self._number(unit) for unit in self.state.pending]
        self.missing, self.fresh = set(self.pending), []
        if not self.state.finished:
            self.steps.append(Step(len(self.state.rounds) - 1, now, len(self.pending)))
        if self.mode.abandon:
            useful = () if self.state.finished else self.state.rounds[-1].survivors
            size = math.inf if self.state.finished else len(self.state.rounds) - 1  # larger ones may still serve
            for rank, (number, _) in self.running.items():
                candidate = self.units[number].candidate
                if candidate not in useful and len(candidate.blocks) <= size:
                    self._push(now + LOOK_SECONDS, rank, number, False)

    def present(self) -> SearchState:
        """What `replay` would say now."""
        last = self.state.rounds[-1]
        place = {candidate: number for number, candidate in enumerate(last.candidates)}
        found = sorted((*last.evaluations, *self.fresh), key=lambda e: (place[e.candidate], e.budget, e.fold))
        now = QuickRound(last.index, last.selection, last.candidates, tuple(found), None, last.pruned, last.direction)
        pending = tuple(self.units[number] for number in self.pending if number in self.missing)
        return replace(self.state, rounds=(*self.state.rounds[:-1], now), pending=pending)

    def guessed(self) -> list[int]:
        """What `speculate` would say now. Of what is known it reads, beside the state, only the round it looks at."""
        if self._guessed is None:
            size = len(self.state.rounds)
            known = [each for each in self.known.values() if len(each.candidate.blocks) == size]
            found = speculate(self.problem.spec, self.problem.search, known, self.present())
            self._guessed = [self._number(unit) for unit in found]
        return self._guessed

    def _may_guess(self) -> bool:
        if self.workers == 1 or self.state.finished:
            return False
        return self.mode.ahead == "all" or (self.mode.ahead == "start" and self.steps[-1].round == 0)

    # --- processes --------------------------------------------------------------------------
    def _turn(self, rank: int, now: float) -> None:
        """A process has heard all that is known: it ends, claims something, or waits."""
        if self.state.finished:
            self.waiting.pop(rank, None)
            self.ended = max(self.ended, now)
            return
        number, asked = self._claim(rank)
        question = self._question()
        if number is None:
            wait = self.waiting.setdefault(rank, Wait(now, now))
            wait.next = now + asked * question
            self._sleep(rank, wait, question)
            return
        wait = self.waiting.pop(rank, Wait(now, now))
        start, step = now + (asked + 1) * question, self.steps[-1]
        seconds = self.problem.evaluation(self.units[number]).seconds + self.problem.overhead
        step.late += start - max(wait.since, step.begin)
        step.busy += seconds
        self.running[rank] = (number, start)
        self._push(start + seconds, rank, number, True)

    def _claim(self, rank: int) -> tuple[int | None, int]:
        """As `Study._claim` and `Team.claim`; and how many claims it took."""
        tried, asked = self.tried[rank], 0
        for ahead in (False, True) if self._may_guess() else (False,):
            for number in self.guessed() if ahead else self.pending:
                if number not in tried and number not in self.known:
                    tried.add(number)
                    asked += 1
                    if number not in self.claimed:
                        self.claimed.add(number)
                        if ahead:
                            self.guesses[number] = self.steps[-1].round
                        return number, asked
        return None, asked

    def _question(self) -> float:
        """Seconds from a question to its answer: all who do not train ask."""
        if self.workers == 1:
            return 0.0
        return max(self.store.round_trip, self.store.service * (self.workers - len(self.running)))

    def _sleep(self, rank: int, wait: Wait, question: float) -> None:
        """As `Team.wait`; with the questions whether one has failed, before claims and after, and what is new."""
        wait.next += wait.pause + 3 * question
        wait.pause = min(1.3 * wait.pause, POLL_SECONDS_AT_MOST)
        if wait.next - self.heard[rank] > BEAT_SECONDS:
            self.heard[rank] = wait.next
            wait.next += 2 * question * (self.workers if self.store.watched is None else self.store.watched)

    def _wake(self, now: float) -> None:
        """Of those that wait, as many as find something, at the moment they would look; the others sleep on."""
        if not self.waiting:
            return
        free = [number for number in self.pending if number not in self.claimed]
        if not free and self._may_guess():
            free = [number for number in self.guessed() if number not in self.claimed]
        count = len(self.waiting) if self.state.finished else len(free)
        if count:
            question = self._question()
            for rank, wait in self.waiting.items():
                while wait.next < now:
                    self._sleep(rank, wait, question)
            for rank in heapq.nsmallest(count, self.waiting, key=lambda rank: self.waiting[rank].next):
                self._push(self.waiting[rank].next, rank, None, False)

    def _push(self, time: float, rank: int, number: int | None, done: bool) -> None:
        heapq.heappush(self.events, (time, next(self.count), rank, number, done))


# --- the study -------------------------------------------------------------------------------
def rows_of(problems: Sequence[Problem]) -> Iterator[dict[str, Any]]:
    """Means over problems that differ in their seed, for every number of processes and every mode."""
    alone = [Scheduler(problem, 1).run() for problem in problems]
    cases = [(workers, name, None) for workers in WORKERS for name in MODES]
    for workers, name, watched in cases + [(workers, "off", 1) for workers in WORKERS]:
        runs = [Scheduler(problem, workers, MODES[name], Store(watched=watched)).run() for problem in problems]
        yield {"mode": name, "watched": watched, **row_of(runs, alone)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--journal", type=Path, help="of a search that one process has finished")
    parser.add_argument("--measured", type=Path, help="parallel.json of benchmarks/parallel_search.py")
    parser.add_argument("--searches", nargs="*", choices=[*MODELS, "recorded"], help="simulate these, keep the others")
    parser.add_argument("--output-dir", type=Path, default=FOLDER)
    options = parser.parse_args()
    numbers = read_numbers(options.output_dir)
    if options.measured:
        numbers["measured"] = json.loads(options.measured.read_text(encoding="utf-8"))
    wanted = [*MODELS, *["recorded"] * bool(options.journal)] if options.searches is None else options.searches
    studies = [
        [modelled(name, seed, pruner) for seed in range(STATED["seeds"])]
        for name, pruner in itertools.product(MODELS, ("none", "race"))
        if name in wanted
    ]
    if "recorded" in wanted:
        problem = recorded(options.journal, numbers.get("measured", {}))
        studies.append([problem])
        numbers["recorded"] = {"setup": problem.setup, "overhead": problem.overhead}
    numbers["stated"] = STATED | Store()._asdict() | {"look": LOOK_SECONDS}
    numbers["rows"] = [row for row in numbers["rows"] if row["search"] not in wanted]
    for problems in studies:
        for row in rows_of(problems):
            print(json.dumps(row), flush=True)
            numbers["rows"].append(row)
    write_numbers(numbers, options.output_dir)
    write_report(numbers, options.output_dir)
    return 0


if __name__ == "__main__":
    sys.exit(main())
