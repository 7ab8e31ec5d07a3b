"""The simulation of many processes decides, claims and pauses as they do, and its time adds up."""

import json
import random
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from subtuning_hf.search.greedy import replay, speculate
from subtuning_hf.search.journal import Journal
from subtuning_hf.search.records import BlockInfo, Evaluation, SearchSpec, StudySpec, Unit
from subtuning_hf.training import team
from subtuning_hf.training.team import Solo, Team

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import simulate_search
from simulate_search import MODES, Mode, Problem, Scheduler, Store, modelled, recorded, rows_of

BLOCKS, FOLDS, ROWS = 6, 3, 50


def small(seed=0, pruner="none", **search):
    """A search of 6 blocks whose durations differ much, and scores that are mostly noise."""

    def make(unit: Unit) -> Evaluation:
        draw = random.Random(f"{seed}/{unit.candidate.key}/{unit.fold}")
        score = 0.1 * min(len(unit.candidate.blocks), 3) + draw.gauss(0, 0.02)
        return Evaluation(unit.candidate, unit.fold, score, ROWS, seconds=draw.uniform(5, 100), budget=unit.budget)

    spec = StudySpec(tuple(BlockInfo(f"b{place}", 1) for place in range(BLOCKS)), FOLDS, "accuracy", True)
    return Problem("small", spec, SearchSpec(pruner=pruner, **search), make)


class Checked(Scheduler):
    """Asks the package at every result what the simulation derives."""

    checks = 0

    def _publish(self, number, now):
        super()._publish(number, now)
        if self.state.finished:
            return
        spec, search, known = self.problem.spec, self.problem.search, list(self.known.values())
        real, mine = replay(spec, search, known), self.present()
        assert [round_.to_json() for round_ in mine.rounds] == [round_.to_json() for round_ in real.rounds]
        assert (mine.selection, mine.pending, mine.finished) == (real.selection, real.pending, real.finished)
        assert [self.units[number] for number in self.guessed()] == list(speculate(spec, search, known, real))
        Checked.checks += 1


@pytest.mark.parametrize("mode", list(MODES))
@pytest.mark.parametrize("pruner", ["none", "race", "halving"])
def test_the_state_is_that_of_a_replay_after_every_result(pruner, mode):
    Checked.checks = 0
    Checked(small(pruner=pruner), 7, MODES[mode]).run()
    assert Checked.checks > 30


@pytest.mark.parametrize("mode", list(MODES))
@pytest.mark.parametrize("pruner", ["none", "race"])
@pytest.mark.parametrize("seed", range(3))
def test_any_number_of_processes_decides_the_same(seed, pruner, mode):
    alone = Scheduler(small(seed, pruner), 1).run()
    assert alone.ended == pytest.approx(sum(each.seconds for each in alone.known.values()))
    for workers in (2, 5, 60):
        several = Scheduler(small(seed, pruner), workers, MODES[mode]).run()
        assert several.state == alone.state
        assert several.ended <= alone.ended
        assert several.ended >= alone.ended / workers


def test_the_time_of_all_processes_adds_up():
    from simulate_report import row_of, shares_of

    for workers in (1, 4, 30):
        for mode in MODES.values():
            run = Scheduler(small(), workers, mode).run()
            shares = shares_of(run)
            assert sum(shares.values()) == pytest.approx(workers * run.ended)
            assert all(share > -1e-6 for share in shares.values()), (workers, mode, shares)
            row = row_of([run], [Scheduler(small(), 1).run()])
            assert sum(row["shares"].values()) == pytest.approx(1)
            assert (row["made"] == row["used"]) or mode.ahead == "all"


def test_guesses_in_round_0_are_never_wrong():
    run = Scheduler(small(), 30, Mode("start")).run()
    assert run.guesses and set(run.guesses.values()) == {0}
    assert {each.unit for round_ in run.state.rounds for each in round_.evaluations} == {
        each.unit for each in run.known.values()
    }
    assert run.ended < Scheduler(small(), 30).run().ended


def test_abandoned_trainings_leave_nobody_waiting_and_keep_nobody():
    plain, abandoning = (Scheduler(small(max_blocks=4), 30, MODES[mode]).run() for mode in ("speculate", "abandon"))
    assert abandoning.state == plain.state
    assert abandoning.lost > 0
    assert len(abandoning.known) < len(plain.known)
    assert not abandoning.running


def test_processes_that_ask_much_slow_each_other_down():
    problem = small()
    free, busy = (Scheduler(problem, 40, store=Store(service=service)).run() for service in (0.0, 0.05))
    one = Scheduler(problem, 40, store=Store(service=0.05, watched=1)).run()
    assert free.ended < one.ended < busy.ended
    assert free.state == one.state == busy.state


# --- as the processes do -----------------------------------------------------------------------
class Shelf:
    """What `Team` asks of a store."""

    def __init__(self):
        self.claims = {}

    def add(self, name, number):
        self.claims[name] = self.claims.get(name, 0) + number
        return self.claims[name]

    def check(self, names):
        return False


@pytest.fixture
def real_team(monkeypatch):
    """Makes processes of one team around one shelf, without a launch."""
    shelf = Shelf()
    monkeypatch.setattr(team.dist, "new_group", lambda **_: None)
    for name, value in (("_open_store", shelf), ("_connect", shelf), ("_beat", None)):
        monkeypatch.setattr(Team, name, lambda self, value=value, **_: value)

    def make(rank, size):
        return Team(SimpleNamespace(process_index=rank, local_process_index=rank, world_size=size, ddp_timeout=60))

    make.claims = shelf.claims
    return make


def test_pauses_are_those_of_a_team(monkeypatch, real_team):
    clock, made = [1000.0], real_team(0, 3)
    monkeypatch.setattr(time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    listened = []
    monkeypatch.setattr(made, "_listen", lambda rank: listened.append((clock[0], rank)))
    run = Scheduler(small(), 3)
    wait = simulate_search.Wait(clock[0], clock[0])
    for _ in range(60):
        made.wait()
        run._sleep(0, wait, 0.0)
        assert wait.next == pytest.approx(clock[0])
        assert run.heard[0] == pytest.approx(max(moment for moment, _ in listened))


def test_claims_are_those_of_a_team(real_team):
    run, teams = Scheduler(small(), 3), [real_team(rank, 3) for rank in range(3)]
    run._replay(0.0)
    run.pending = list(range(100, 120))
    names = [str(number) for number in run.pending]
    draw = random.Random(0)
    for _ in range(30):
        rank, before = draw.randrange(3), sum(real_team.claims.values())
        number, asked = run._claim(rank)
        assert teams[rank].claim(names) == (None if number is None else str(number))
        assert asked == sum(real_team.claims.values()) - before


def test_one_process_claims_without_asking():
    run = Scheduler(small(), 1)
    run._replay(0.0)
    for number in run.pending:
        assert Solo().claim([str(n) for n in run.pending if n not in run.claimed]) == str(number)
        assert run._claim(0)[0] == number
    assert run._question() == 0.0


# --- searches ------------------------------------------------------------------------------------
@pytest.mark.parametrize("name, evaluations", [("ResNet-152", 1205), ("ViT-L", 555)])
def test_modelled_searches_have_the_rounds_they_are_meant_to(name, evaluations):
    for seed in range(simulate_search.STATED["seeds"]):
        run = Scheduler(modelled(name, seed), 1).run()
        assert len(run.state.rounds) == simulate_search.STATED["picks"] + 2
        assert run.state.rounds[-1].decision.winner is None
        assert len(run.known) == evaluations
        first, last = (run.state.rounds[1].of(run.state.rounds[1].candidates[place]) for place in (0, -1))
        assert sum(each.seconds for each in first) > 1.6 * sum(each.seconds for each in last)


def journal_of(folder, problem, gap=0.5, last=True):
    """The journal of one process that took `gap` seconds between evaluations."""
    known, now = [], 1000.0
    with Journal.open(folder, problem.spec, writer="rank-0000") as journal:
        journal.append(problem.search)
        while not (state := replay(problem.spec, problem.search, known)).finished:
            for unit in state.pending:
                made = problem.evaluation(unit)
                info = {"started": now}
                made = Evaluation(unit.candidate, unit.fold, made.score, ROWS, seconds=made.seconds, info=info)
                now += made.seconds + gap
                known.append(made)
                journal.append(made)
            if not last:
                break
    return now - 1000.0 - gap


def test_a_recorded_search_takes_as_long_as_it_took(tmp_path):
    span = journal_of(tmp_path / "journal", small(pruner="race"))
    problem = recorded(tmp_path / "journal", {"runs": [{"one": {"search": span + 2.0}}]})
    assert (problem.setup, problem.overhead) == pytest.approx((2.0, 0.5))
    assert Scheduler(problem, 1).run().seconds == pytest.approx(span + 2.0 + 0.5)  # a replay after the last one too
    several = Scheduler(problem, 9, MODES["speculate"]).run()
    assert several.state.selection == Scheduler(problem, 1).run().state.selection


def test_a_search_that_was_not_finished_is_refused(tmp_path):
    journal_of(tmp_path / "journal", small(), last=False)
    with pytest.raises(SystemExit, match="is not finished: run it to its end first"):
        recorded(tmp_path / "journal", {})


@pytest.mark.slow
def test_the_report_says_what_the_numbers_say(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(simulate_search, "WORKERS", (1, 2, 64))
    monkeypatch.setitem(simulate_search.STATED, "seeds", 1)
    monkeypatch.setattr(simulate_search, "MODELS", {"ResNet-152": ([1.0] * 7, 1e-3), "ViT-L": ([1.0] * 9, 2e-3)})
    journal_of(tmp_path / "journal", small(max_blocks=1))
    ratio = {"median": 1.9, "least": 1.8, "most": 1.95}
    summary = {"processes": 2, "cores": 2, "ratio of search": ratio}
    measured = {"summary": summary, "runs": [{"one": {"search": 1000.0}}]}
    (tmp_path / "parallel.json").write_text(json.dumps(measured))
    out = tmp_path / "out"
    command = ["simulate_search.py", "--journal", str(tmp_path / "journal"), "--output-dir", str(out)]
    monkeypatch.setattr(sys, "argv", [*command, "--measured", str(tmp_path / "parallel.json")])
    assert simulate_search.main() == 0
    numbers = json.loads((out / "results.json").read_text())
    text = (out / "results.md").read_text()
    assert "is 1.90 times as fast as with one" in text
    assert {row["search"] for row in numbers["rows"]} == {"ResNet-152", "ViT-L", "recorded"}
    for name in ("scaling", "waiting", "guessing"):
        assert (out / f"{name}.png").stat().st_size > 5000 and (out / f"{name}.svg").stat().st_size > 5000
    rows = len(numbers["rows"])
    monkeypatch.setattr(sys, "argv", ["simulate_search.py", "--searches", "ViT-L", "--output-dir", str(out)])
    assert simulate_search.main() == 0  # the others are kept
    again = json.loads((out / "results.json").read_text())
    assert len(again["rows"]) == rows and again["measured"] == measured
    key = lambda row: json.dumps(row, sort_keys=True)  # noqa: E731
    assert sorted(map(key, again["rows"])) == sorted(map(key, numbers["rows"]))


def test_rows_cover_every_mode_and_number_of_processes(monkeypatch):
    monkeypatch.setattr(simulate_search, "WORKERS", (1, 3))
    rows = list(rows_of([small()]))
    assert {(row["workers"], row["mode"], row["watched"]) for row in rows} == {
        *((workers, mode, None) for workers in (1, 3) for mode in MODES),
        *((workers, "off", 1) for workers in (1, 3)),
    }
    assert all(row["speedup"] <= row["workers"] + 1e-9 for row in rows)
