"""Searches that predict, on tiny models: what they cost and leave alone, that they resume and repeat nothing."""

import os
import random
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from subtuning_hf.errors import ArgumentsError, NonFiniteScoreError
from subtuning_hf.proposal import PROPOSALS
from subtuning_hf.search.journal import read_study
from subtuning_hf.search.records import STRATEGIES
from subtuning_hf.training import proposing, study
from subtuning_hf.training.evaluator import Evaluator
from toys import NUM_LABELS, TOYS
from training.cases import (
    BLOCKS,
    Rows,
    Untouchable,
    assert_same_state,
    count_trainings,
    files_under,
    make_model,
    make_trainer,
    state_of,
)

pytestmark = pytest.mark.slow

# Enough for three steps of every block, and for trainings of three selections.
ARGS = {"num_train_epochs": 4, "search_budget": 4.0}
KERNEL = {**ARGS, "strategy": "kernel"}
PLAIN = {"prefix_cache": False}  # faster here, where three blocks are nothing
PREDICTING = [name for name in STRATEGIES if name != "exact"]


def run_in(folder):
    """The one proposal record of a study."""
    (run,) = read_study(folder / "journal").proposals
    return run


def told(folder):
    """All that a study holds, but for the times."""
    known = read_study(folder / "journal")
    scores = {each.unit: each.score for each in known.evaluations}
    runs = [{k: v for k, v in run.to_json().items() if k not in ("seconds", "info")} for run in known.proposals]
    return scores, runs, known.searches, known.decisions


def contents(folder):
    return {name: (folder / name).read_bytes() for name in files_under(folder)}


def count_predictions(monkeypatch):
    """A list that grows by one with each proposal that is made."""
    seen, original = [], study.propose

    def counted(recipe, spec, folds, search, cache):
        seen.append(search)
        return original(recipe, spec, folds, search, cache)

    monkeypatch.setattr(study, "propose", counted)
    return seen


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One whole search: its folder and result."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, make_trainer(folder, args=KERNEL).search()


def test_every_strategy_that_predicts_has_a_proposal():
    assert sorted(PREDICTING) == sorted(PROPOSALS)
    with pytest.raises(ArgumentsError, match="must be one of short-profile, .*found 'magic'"):
        proposing.make_proposal("magic")


@pytest.mark.parametrize("strategy", PREDICTING)
def test_every_strategy(strategy, tmp_path):
    model = make_model().train()
    model.resnet.embedder.requires_grad_(False)
    trainer = make_trainer(tmp_path, model=model, eval_dataset=Untouchable(), args={**ARGS, "strategy": strategy})
    before = state_of(model)
    result = trainer.search()
    assert_same_state(before, state_of(model))
    run = run_in(tmp_path)
    assert result.proposal == run and run.search.strategy == strategy and run.search.budget == 4.0
    assert set(result.blocks) <= set(BLOCKS) and result.rounds == ()
    assert result.blocks in [candidate.blocks for candidate in run.shortlist]
    assert {each.candidate.blocks for each in run.predictions} >= {(), *((name,) for name in BLOCKS)}
    assert 2 <= len(run.shortlist) <= 3 and run.seconds > 0 and run.info["started"] > 0
    # What was planned is what was done, within the budget.
    assert [each.unit for each in read_study(tmp_path / "journal").evaluations] == list(run.units)
    assert 0 < run.fine_tunes <= 2.0 and run.fine_tunes < run.planned <= 4.0
    text = result.table()
    assert f"{len(run.units)} trainings" in text and f"{run.planned:.2f} full fine-tunes" in text
    assert not [name for name in files_under(tmp_path) if ".candidate-" in name]


def test_the_trainings_cost_what_was_planned(whole):
    folder, result = whole
    run, rows, epochs = result.proposal, 24, 4
    shares = proposing.forward_shares(make_model(), BLOCKS, {"pixel_values": Rows().images[:2]})
    assert len(shares) == 3 and all(share > 0.05 for share in shares) and sum(shares) < 1
    # Counted anew from what the trainings say of themselves: forward from the cut, backward from the first block.
    spent = 0.0
    for each in read_study(folder / "journal").evaluations:
        cut = each.info.get("cut", 0)
        forward = sum(shares[cut:]) + (1 - sum(shares) if cut == 0 else 0)
        first = min((BLOCKS.index(name) for name in each.candidate.blocks), default=3)
        backward = sum(shares[first:]) + (1 - sum(shares) if first == 0 else 0)
        trained = each.info["train_rows"] * epochs * each.budget
        spent += trained * (forward + 2 * backward) + each.num_examples * forward
    assert run.planned - run.fine_tunes == pytest.approx(spent / (3 * rows * epochs))


@pytest.mark.parametrize("strategy", ["kernel", "swap"])
@pytest.mark.parametrize("budget", [0.3, 2.0])
def test_no_budget_is_overdrawn(strategy, budget, tmp_path):
    args = {**ARGS, **PLAIN, "strategy": strategy, "search_budget": budget, "max_blocks": 1}
    trainer = make_trainer(tmp_path, args=args)
    if strategy == "swap" and budget < 2:  # three steps of a full fine-tune are more than that
        with pytest.raises(ArgumentsError, match="at least 3 steps") as caught:
            trainer.search()
        assert f"`search_budget` is {budget:g}, of which predictions may take 50 %" in str(caught.value)
        assert read_study_or_none(tmp_path) in (None, ())
        return
    result = trainer.search()
    assert result.proposal.planned <= budget
    known = read_study(tmp_path / "journal").evaluations
    assert {each.budget for each in known} <= {result.proposal.share} and len(known) == len(result.proposal.units)
    if result.proposal.share < 1:
        assert {each.info["steps"] for each in known} <= {3, 4, 5, 6, 7}  # of 8


def read_study_or_none(folder):
    from subtuning_hf.search.journal import find_study

    found = find_study(folder / "journal")
    return None if found is None else found.proposals + found.evaluations


def test_steps_are_counted_where_they_are_given(tmp_path):
    """With `max_steps` a fold of half the rows takes as many steps as all of them would."""
    trainer = make_trainer(tmp_path, args={**KERNEL, "max_steps": 12, "prefix_cache": False})
    run = trainer.search().proposal
    shares = proposing.forward_shares(make_model(), BLOCKS, {"pixel_values": Rows().images[:2]})
    expected = 0.0
    for unit in run.units:
        first = min((BLOCKS.index(name) for name in unit.candidate.blocks), default=3)
        backward = 1.0 if first == 0 else sum(shares[first:])
        expected += 12 * 8 * unit.budget * (1 + 2 * backward) + 12
    assert run.planned - run.fine_tunes == pytest.approx(expected / (3 * 12 * 8))


# --- resuming --------------------------------------------------------------------------------
def test_a_finished_search_repeats_nothing(whole, tmp_path, monkeypatch):
    folder, result = whole
    shutil.copytree(folder, tmp_path / "out")
    before = contents(tmp_path / "out")
    trainings, predictions = count_trainings(monkeypatch), count_predictions(monkeypatch)
    trainer = make_trainer(tmp_path / "out", args=KERNEL)
    for _ in range(2):
        again = trainer.search()
        assert (again.blocks, again.proposal, again.reason) == (result.blocks, result.proposal, result.reason)
        assert again.table() == result.table()
    assert trainings == predictions == [] and contents(tmp_path / "out") == before


def test_another_budget_is_another_search_of_the_same_study(whole, tmp_path, monkeypatch):
    shutil.copytree(whole[0], tmp_path / "out")
    trainings, predictions = count_trainings(monkeypatch), count_predictions(monkeypatch)
    richer = make_trainer(tmp_path / "out", args={**KERNEL, "search_budget": 5.0}).search()
    # The same selections on the same folds, in full: nothing is left to train.
    assert len(predictions) == 1 and trainings == [] and richer.blocks == whole[1].blocks
    assert [run.search.budget for run in read_study(tmp_path / "out" / "journal").proposals] == [4.0, 5.0]


class Killed(BaseException):
    """As a signal would end it: no `except Exception` sees it."""


def test_killed_anywhere_and_resumed_is_the_whole(whole, tmp_path, monkeypatch):
    folder, result = whole
    count, original = len(result.proposal.units), Evaluator.__call__
    for survive in (0, count - 1):
        left = [survive]

        def stopping(self, unit, fold, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return original(self, unit, fold)

        out = tmp_path / str(survive)
        monkeypatch.setattr(Evaluator, "__call__", stopping)
        model = make_model()
        before = state_of(model)
        with pytest.raises(Killed):
            make_trainer(out, model=model, args=KERNEL).search()
        assert_same_state({**before, "config": None}, {**state_of(model), "config": None})
        assert len(read_study(out / "journal").evaluations) == survive and run_in(out).shortlist
        monkeypatch.setattr(Evaluator, "__call__", original)
        with monkeypatch.context() as patch:
            trainings, predictions = count_trainings(patch), count_predictions(patch)
            resumed = make_trainer(out, args=KERNEL).search()
            assert len(trainings) == count - survive and predictions == []
        assert (resumed.blocks, resumed.reason) == (result.blocks, result.reason)
        assert told(out) == told(folder)


def test_killed_while_it_predicts(whole, tmp_path, monkeypatch):
    def dying(self, problem, budget):
        problem.model.train()
        raise Killed

    model = make_model()
    trainer = make_trainer(tmp_path, model=model, args=KERNEL)
    before = state_of(model)
    with monkeypatch.context() as patch:
        patch.setattr(PROPOSALS["kernel"], "fit", dying)
        with pytest.raises(Killed):
            trainer.search()
    assert_same_state(before, state_of(model))
    assert not read_study_or_none(tmp_path)
    make_trainer(tmp_path, args=KERNEL).search()
    assert told(tmp_path) == told(whole[0])


def test_predictions_that_are_not_finite(tmp_path, monkeypatch):
    from subtuning_hf.proposal import Estimate

    monkeypatch.setattr(PROPOSALS["kernel"], "fit", lambda *_: lambda blocks: Estimate((float("nan"),)))
    with pytest.raises(NonFiniteScoreError, match="head only. Lower the learning rate"):
        make_trainer(tmp_path, args=KERNEL).search()
    assert not read_study_or_none(tmp_path)


# --- beside other searches -------------------------------------------------------------------
def test_trainings_of_an_exact_search_are_used_and_left_for_one(whole, tmp_path, monkeypatch):
    folder, result = whole
    trainings = count_trainings(monkeypatch)
    exact = make_trainer(tmp_path, args={**ARGS, "max_blocks": 1})
    profile = exact.profile()
    assert len(trainings) == 8
    run = make_trainer(tmp_path, args=KERNEL).search()
    known = {(), *((name,) for name in BLOCKS)}
    units = result.proposal.units
    assert len(trainings) - 8 == sum(unit.candidate.blocks not in known for unit in units)
    assert (run.blocks, run.reason) == (result.blocks, result.reason)
    # And the other way round, in the folder of the search that predicts.
    shutil.copytree(folder, tmp_path / "out")
    trainings.clear()
    later = make_trainer(tmp_path / "out", args={**ARGS, "max_blocks": 1})
    assert later.profile().to_rows()[0]["mean"] == profile.to_rows()[0]["mean"]
    assert len(trainings) == 8 - sum(unit.candidate.blocks in known for unit in units)
    trainings.clear()
    assert later.search().proposal is None and trainings == []
    assert [search.strategy for search in read_study(tmp_path / "out" / "journal").searches] == ["kernel", "exact"]


def test_the_cache_changes_what_is_paid_and_not_what_is_predicted(whole, tmp_path):
    plain = make_trainer(tmp_path, args={**KERNEL, "prefix_cache": False}).search().proposal
    cached = whole[1].proposal
    assert plain.shortlist == cached.shortlist and plain.folds == cached.folds and plain.share == cached.share == 1.0
    assert [each.score for each in plain.predictions] == pytest.approx([each.score for each in cached.predictions])
    assert plain.fine_tunes == cached.fine_tunes and plain.planned > cached.planned


def test_blocks_that_are_some_of_all_or_larger_are_priced(tmp_path):
    """The cache counts in blocks of the model; what is chosen from may be others."""
    for place, changes in enumerate([{"blocks": [1, 2]}, {"granularity": "stage"}]):
        run = make_trainer(tmp_path / str(place), args={**KERNEL, **changes}).search().proposal
        assert run.planned > run.fine_tunes > 0
        first = run.shortlist[0].blocks
        alone = (run.planned - run.fine_tunes) / len(run.units)
        assert alone > 0.02, first  # trainings are not for nothing


# --- data ------------------------------------------------------------------------------------
def test_a_validation_set_of_ones_own(tmp_path):
    class Numbered(Rows):
        """Rows that say which were read."""

        seen: set = set()  # noqa: RUF012

        def __getitem__(self, index):
            self.seen.add((len(self), index))
            return super().__getitem__(index)

    trainer = make_trainer(
        tmp_path, train_dataset=Numbered(24), validation_dataset=Numbered(15, seed=5), args=KERNEL,
        eval_dataset=Untouchable(),
    )  # fmt: skip
    result = trainer.search()
    assert result.proposal.folds == (0,) and Numbered.seen == {(n, index) for n in (24, 15) for index in range(n)}
    assert {each.num_examples for each in read_study(tmp_path / "journal").evaluations} == {15}
    problem = proposing.make_problem(trainer._recipe, trainer._prepared.spec, trainer._prepared.folds)
    (fold,) = problem.folds
    assert fold.train == tuple(range(24)) and fold.validation == tuple(range(24, 39))
    expected = Rows(15, seed=5)
    assert torch.equal(problem.eval_batch([24, 38])["pixel_values"], expected.images[[0, 14]])
    assert problem.eval_batch([24, 38])["labels"].tolist() == [expected.classes[0], expected.classes[14]]
    assert list(problem.labels) == [row % 3 for row in range(24)] + [row % 3 for row in range(15)]


class Noisy:
    """Random augmentation by three sources of random numbers."""

    def __call__(self, item):
        noise = torch.randn(()) + random.random() + float(np.random.rand())
        return {**item, "pixel_values": item["pixel_values"] + noise}


def test_random_augmentation(tmp_path):
    args = {**ARGS, "strategy": "swap", "max_blocks": 1}
    runs = []
    for name, draws in (("one", 0), ("two", 5)):
        torch.rand(draws), [random.random() for _ in range(draws)]
        trainer = make_trainer(tmp_path / name, args=args, train_transform=Noisy(), eval_transform=dict)
        runs.append(trainer.search().proposal)
    assert runs[0].predictions == runs[1].predictions and runs[0].shortlist == runs[1].shortlist
    problem = proposing.make_problem(trainer._recipe, trainer._prepared.spec, trainer._prepared.folds)
    plain = Rows().images[[3, 1]]
    assert torch.equal(problem.eval_batch([3, 1])["pixel_values"], plain)
    drawn = problem.train_batch([3, 1])["pixel_values"]
    assert not torch.equal(drawn, plain) and torch.equal(drawn, problem.train_batch([3, 1])["pixel_values"])
    # Trainings that draw anew each time start from the beginning, and are priced like that.
    cached = make_trainer(tmp_path / "plain", args=args).search().proposal
    assert runs[0].planned - runs[0].fine_tunes > cached.planned - cached.fine_tunes


class Texts(torch.utils.data.Dataset):
    """Rows of a toy; labels are classes or numbers that its inputs do not tell."""

    def __init__(self, toy, numbers=False, count=24):
        self.batch, self.numbers, self.count = toy.inputs(count), numbers, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        row = {name: value[index] for name, value in self.batch.items()}
        return {**row, "labels": 0.1 * index if self.numbers else index % NUM_LABELS}


@pytest.mark.parametrize("strategy", ["short-profile", "one-shot", "statistics"])
def test_texts(strategy, tmp_path):
    toy = TOYS["bert"]
    trainer = make_trainer(
        tmp_path, model=toy.build(), train_dataset=Texts(toy),
        args={**ARGS, **PLAIN, "strategy": strategy, "max_blocks": 2},
    )  # fmt: skip
    result = trainer.search()
    assert set(result.blocks) <= set(toy.blocks) and result.proposal.planned <= 4.0
    assert result.cost.num_evaluations == len(result.proposal.units) >= 2


@pytest.mark.parametrize("strategy", ["short-profile", "swap", "kernel"])
def test_numbers_as_labels(strategy, tmp_path):
    toy = TOYS["bert"]
    model = toy.build()
    model.classifier, model.num_labels = torch.nn.Linear(model.config.hidden_size, 1), 1
    model.config.num_labels, model.config.problem_type = 1, "regression"
    trainer = make_trainer(
        tmp_path, model=model, train_dataset=Texts(toy, numbers=True), compute_metrics=None,
        args={**ARGS, **PLAIN, "strategy": strategy, "max_blocks": 1},
    )  # fmt: skip
    assert trainer.search().proposal.planned <= 4.0


@pytest.mark.parametrize("strategy", ["short-profile", "one-shot", "kernel"])
def test_a_model_without_a_head(strategy, tmp_path):
    toy = next(toy for toy in TOYS.values() if toy.kind == "text" and toy.num_blocks and not toy.has_head)

    class Tokens(Texts):
        def __getitem__(self, index):
            row = {name: value[index] for name, value in self.batch.items()}
            return {**row, "labels": row["input_ids"]}

    trainer = make_trainer(
        tmp_path, model=toy.build(), train_dataset=Tokens(toy), compute_metrics=None,
        args={**ARGS, **PLAIN, "strategy": strategy, "max_blocks": 1, "stratify": False},
    )  # fmt: skip
    result = trainer.search()
    assert result.blocks and set(result.blocks) <= set(toy.blocks) and result.cost.num_evaluations >= 2


# --- directions ------------------------------------------------------------------------------
def test_backward_keeps_its_bounds(tmp_path):
    run = make_trainer(tmp_path, args={**KERNEL, **PLAIN, "direction": "backward", "max_blocks": 1}).search()
    assert len(run.blocks) <= 1 and all(len(one.blocks) <= 1 for one in run.proposal.shortlist)
    assert any(len(each.candidate.blocks) == 3 for each in run.proposal.predictions)


def test_a_list(tmp_path):
    args = {**KERNEL, **PLAIN, "direction": "list", "candidates": [[0], [0, 2], [1, 2]]}
    run = make_trainer(tmp_path, args=args).search()
    listed = {(), BLOCKS[:1], (BLOCKS[0], BLOCKS[2]), BLOCKS[1:]}
    assert {each.candidate.blocks for each in run.proposal.predictions} == listed and run.blocks in listed


def test_the_head_alone_is_chosen_by_trainings_only(tmp_path, monkeypatch):
    from subtuning_hf.proposal import Estimate

    monkeypatch.setattr(PROPOSALS["kernel"], "fit", lambda *_: lambda blocks: Estimate((-float(len(blocks)),)))
    result = make_trainer(tmp_path / "short", args={**KERNEL, "max_blocks": 1, "search_budget": 1e-6}).search()
    assert len(result.blocks) == 1 and result.cost.num_evaluations == 0
    assert (
        "predicted best by kernel, although the head alone is predicted better still; the budget left no room"
        in result.reason
    )

    def evaluated(self, unit, fold):
        return replace(original(self, unit, fold), score=float(not unit.candidate.blocks))

    original = Evaluator.__call__
    monkeypatch.setattr(Evaluator, "__call__", evaluated)
    trainer = make_trainer(tmp_path / "long", args={**KERNEL, "max_blocks": 1, "search_budget": 20.0})
    result = trainer.search()
    assert result.blocks == () and "head only was best of the 3" in result.reason
    assert "Chosen: no block, the head alone." in result.table()
    trainer.train()
    assert sum(p.requires_grad for p in trainer.model.parameters()) == 2


def test_trackers_are_told(tmp_path):
    pytest.importorskip("tensorboard")
    trainer = make_trainer(tmp_path, args={**KERNEL, **PLAIN, "report_to": ["tensorboard"], "max_blocks": 1})
    assert trainer.search().to_rows()
    assert any("events.out" in name for name in files_under(tmp_path))


# --- the pictures ----------------------------------------------------------------------------
def test_pictures_of_a_study_that_predicts(whole, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    from subtuning_hf.cli.main import main

    shutil.copytree(whole[0], tmp_path / "out")
    assert main(["plot", str(tmp_path / "out"), "--format", "png", "--theme", "light"]) == 0
    said = capsys.readouterr().out
    assert "ladder: a search by kernel predicts, and climbs no ladder" in said and "strategy=exact" in said
    assert {path.name for path in (tmp_path / "out" / "plots").iterdir()} >= {"pareto.png", "timeline.png"}


# --- several processes -----------------------------------------------------------------------
def test_two_processes_give_the_study_of_one(tmp_path):
    from training import launched

    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(Path(launched.__file__))]
    done = subprocess.run(
        [sys.executable, *words, "predicting", str(tmp_path / "two")], capture_output=True, text=True, timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    launched.predicting(tmp_path / "one")
    assert told(tmp_path / "two") == told(tmp_path / "one")
    processes = {each.info["process"] for each in read_study(tmp_path / "two" / "journal").evaluations}
    assert processes == {0, 1}


def test_the_budget_that_an_error_names_is_enough(tmp_path):
    args = {**ARGS, "strategy": "short-profile", "num_train_epochs": 1, "search_budget": 0.5}
    with pytest.raises(ArgumentsError, match=r"about [\d.]+ is needed") as caught:
        make_trainer(tmp_path / "a", args=args).search()
    least = float(re.search(r"about ([\d.]+) is needed", str(caught.value))[1])
    make_trainer(tmp_path / "b", args={**args, "search_budget": least}).search()
    with pytest.raises(ArgumentsError):
        make_trainer(tmp_path / "c", args={**args, "search_budget": 0.7 * least}).search()
