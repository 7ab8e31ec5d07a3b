"""The load test notices wrong answers, tells what it measured, and runs as its users run it."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import load_test
import pytest
import server
from loadtest.clients import Churn, Outcome, is_right, make_load, run_load
from serving.errors import ServeError

from subtuning_hf.errors import ArgumentsError


def answer_of(problem, adapter, number):
    """As the server would give it."""
    shares = problem.wanted[adapter][number].tolist()
    pairs = zip(problem.labels[adapter], shares, strict=True)
    found = [{"label": label, "probability": share} for label, share in pairs]
    return {"label": max(found, key=lambda one: one["probability"])["label"], "probabilities": found}


def test_an_answer_of_another_input_task_or_label_is_wrong(texts):
    right = answer_of(texts, "task-1", 0)
    assert is_right(right, texts, "task-1", 0, 1e-4)
    assert not is_right(right, texts, "task-1", 1, 1e-4)
    assert not is_right(right, texts, "task-2", 0, 1e-4)
    other = next(label for label in texts.labels["task-1"] if label != right["label"])
    assert not is_right({**right, "label": other}, texts, "task-1", 0, 1e-4)
    close = [{**one, "probability": one["probability"] + 5e-5} for one in right["probabilities"]]
    assert is_right({**right, "probabilities": close}, texts, "task-1", 0, 1e-4)


def run(texts, reply):
    """A load that a function answers."""

    async def send(number, tasks):
        return reply(number, tasks)

    load = make_load(list(texts.adapters), len(texts.bodies), 20, 3, seed=1)
    return load, asyncio.run(run_load(send, texts, load, 4, 1e-4))


def test_a_load_counts_right_wrong_missing_and_refused_answers(texts):
    load, good = run(texts, lambda n, tasks: (200, {task: answer_of(texts, task, n) for task in tasks}))
    assert good.wrong == [] and good.answers == sum(len(tasks) for _, tasks in load) and good.statuses == {200: 20}
    _, swapped = run(texts, lambda n, tasks: (200, {task: answer_of(texts, task, (n + 1) % 12) for task in tasks}))
    assert swapped.answers == 0 and len(swapped.wrong) == good.answers
    _, missing = run(texts, lambda n, tasks: (200, {}))
    _, refused = run(texts, lambda n, tasks: (503, {}))
    assert len(missing.wrong) == len(refused.wrong) == 20 and refused.statuses == {503: 20}


def test_what_is_right_while_a_task_comes_and_goes():
    churn = Churn(None, "", "leaves", "swaps", "other")
    assert churn.allowed(["stays"], (0, True), (3, False)) == {200}
    assert churn.allowed(["stays", "leaves"], (2, True), (2, True)) == {200}
    assert churn.allowed(["leaves"], (2, False), (2, False)) == {404}
    assert (
        churn.allowed(["leaves"], (1, True), (1, True))
        == churn.allowed(["leaves"], (2, True), (4, False))
        == {200, 404}
    )
    assert churn.adapters_of("swaps") == ("swaps", "other") and churn.adapters_of("stays") == ("stays",)


def test_a_load_is_the_same_for_the_same_seed():
    first, again, other = (make_load(list("abcd"), 9, 50, 3, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert {len(tasks) for _, tasks in first} == {1, 2, 3} and all(len(set(t)) == len(t) for _, t in first)


def test_the_report_sets_both_ways_side_by_side():
    def one(rate, wrong=0):
        outcome = Outcome(2.0, [0.01] * 50 + [0.03] * 50, rate * 2, wrong=["x"] * wrong)
        return load_test.summary(outcome)

    setting = dict.fromkeys(("model", "tasks", "most_tasks", "clients", "requests", "repeats", "cores"), 3)
    found = {
        "setting": {**setting, "cores_of_the_servers": 1},
        "changing": {**one(10, 1), "changes": 7},
        "runs": {"shared": [one(100), one(120), one(110)], "separate": [one(50), one(40), one(55)]},
        "memory_mib": {"shared": 10.0, "separate": 30.0},
    }
    page = load_test.table(found)
    assert "| shared | 110 (100 to 120) |" in page and "| separate | 50 (40 to 55) |" in page
    assert "one server over one for each task: 2 (2 to 3)" in page
    assert "971 answers, 1 wrong" in page and "7 adapters" in page


def test_options_that_contradict_each_other(tmp_path, capsys):
    assert load_test.main(["--output", str(tmp_path), "--base", "x"]) == 2
    assert "--base, --adapters and --kind together" in capsys.readouterr().err


def test_answers_that_are_all_alike_are_no_test(texts, monkeypatch):
    from loadtest import problem

    monkeypatch.setattr(problem, "make_inputs", lambda kind, count: ["w1 w2"] * count)
    with pytest.raises(ArgumentsError, match="answers different inputs alike"):
        problem.make_problem(texts.base, texts.adapters, "text", 4, 1e-4)


# --- the server's own command ---------------------------------------------------------------
def options(*words):
    return server.parser().parse_args(["--base", "x", *words])


def test_adapters_are_named_by_their_folders_or_on_the_command_line(texts):
    root = next(iter(texts.adapters.values())).parent
    found = server.named_adapters(options("--adapters", str(root), "--adapter", f"more={root / 'task-0'}"))
    assert list(found) == [*texts.adapters, "more"] and found["more"] == root / "task-0"
    for words, message in (
        (["--adapter", f"task-0={root / 'task-1'}", "--adapters", str(root)], "two adapters for the task 'task-0'"),
        (["--adapter", "task-0"], "expected NAME=FOLDER_OR_HUB_NAME"),
        (["--adapter", f"more={root}"], "no adapter_config.json"),
        (["--adapters", str(root / "none")], "found none at"),
    ):
        with pytest.raises(ServeError, match=message):
            server.named_adapters(options(*words))


def test_a_server_without_adapters_says_what_it_needs(tmp_path, capsys):
    assert server.main(["--base", str(tmp_path), "--adapters", str(tmp_path)]) == 2
    assert "Expected at least one adapter" in capsys.readouterr().err


@pytest.mark.parametrize(("host", "is_local"), [("127.0.0.1", True), ("::1", True), ("localhost", True),
                                                ("0.0.0.0", False), ("example.org", False)])  # fmt: skip
def test_what_only_this_machine_reaches(host, is_local):
    assert server.is_loopback(host) is is_local


@pytest.mark.slow
def test_the_whole_load_test(tmp_path):
    words = ["--output", str(tmp_path), "--tasks", "3", "--inputs", "10", "--requests", "60", "--repeats", "2"]
    words += ["--clients", "4", "--separate", "--most-tasks", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # Apart, as it keeps to some cores.
    done = subprocess.run([sys.executable, load_test.__file__, *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(Path(tmp_path, "load.json").read_text())
    assert {mode: len(runs) for mode, runs in found["runs"].items()} == {"shared": 2, "separate": 2}
    assert found["changing"]["wrong"] == 0 and found["changing"]["changes"] > 0
    assert all(run["statuses"] == {"200": 60} for runs in found["runs"].values() for run in runs)
    assert "| separate |" in Path(tmp_path, "load.md").read_text()
