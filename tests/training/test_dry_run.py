"""The plan of a search: right counts, measured times, nothing trained to an end, nothing written."""

import pytest

from subtuning_hf.errors import ArgumentsError, StudyMismatchError
from subtuning_hf.search.journal import read_study
from subtuning_hf.training.dry_run import SearchPlan, makespan
from training.cases import Rows, Untouchable, assert_same_state, files_under, make_model, make_trainer, state_of


def test_the_plan_counts_what_a_search_would_do_and_leaves_no_trace(tmp_path, capsys):
    model = make_model()
    args = {"dry_run": True, "num_folds": 3, "num_train_epochs": 4, "disable_tqdm": False}
    trainer = make_trainer(tmp_path / "out", model=model, args=args, eval_dataset=Untouchable())
    before = state_of(model)
    capsys.readouterr()
    plan = trainer.search()
    assert isinstance(plan, SearchPlan)
    shape = [(r.name, r.candidates, r.evaluations, r.exact) for r in plan.rounds]
    assert shape == [("0", 1, 3, True), ("1", 3, 9, True), ("2", 2, 6, False), ("3", 1, 3, False)]
    assert (plan.evaluations, plan.num_blocks, plan.num_folds, plan.steps, plan.recorded) == (21, 3, 3, 8, 0)
    assert all(seconds > 0 for seconds in plan.seconds.values()) and len(plan.seconds) == 3
    assert plan.at_most_seconds == pytest.approx(sum(r.seconds for r in plan.rounds)) and plan.at_most_seconds > 0
    assert_same_state(before, state_of(model))
    assert files_under(tmp_path) == [] and trainer.result is None
    shown = capsys.readouterr().out
    assert "At most 21 evaluations" in shown and "Nothing was trained or written" in shown
    with pytest.raises(ArgumentsError, match="`dry_run=True` trains nothing"):
        trainer.train()


def test_max_blocks_bounds_the_plan(tmp_path):
    plan = make_trainer(tmp_path, args={"dry_run": True, "max_blocks": 1, "max_steps": 7}).search()
    assert [r.evaluations for r in plan.rounds] == [2, 6] and plan.steps == 7


def test_the_estimate_is_of_the_right_size(tmp_path):
    args = {"max_blocks": 1, "num_train_epochs": 12}
    plan = make_trainer(tmp_path, args={**args, "dry_run": True}).search()
    make_trainer(tmp_path, args=args).search()
    seconds = sum(e.seconds for e in read_study(tmp_path / "journal").evaluations)
    # An order of magnitude: the machine may be busy with something else in either half.
    assert plan.at_most_seconds / 10 < seconds < plan.at_most_seconds * 10


def test_the_plan_knows_what_is_in_the_journal_and_whose_it_is(tmp_path):
    make_trainer(tmp_path, args={"max_blocks": 0}).search()
    before = files_under(tmp_path)
    plan = make_trainer(tmp_path, args={"max_blocks": 1, "dry_run": True}).search()
    assert plan.recorded == 2 and "2 evaluations are in the journal already" in str(plan)
    with pytest.raises(StudyMismatchError):
        make_trainer(tmp_path, train_dataset=Rows(seed=3), args={"dry_run": True}).search()
    assert files_under(tmp_path) == before


def test_work_is_shared_by_whoever_is_free():
    assert makespan([3.0, 1.0, 1.0, 1.0], 1) == 6.0
    assert makespan([3.0, 1.0, 1.0, 1.0], 2) == 3.0
    assert makespan([1.0, 1.0, 1.0, 3.0], 2) == 4.0
    assert makespan([1.0], 8) == 1.0


def test_plans_of_other_searches_and_of_profiles(tmp_path):
    def plan(**args):
        return make_trainer(tmp_path, args={"dry_run": True, "max_steps": 2, **args})

    shapes = [(r.name, r.candidates) for r in plan(direction="backward").search().rounds]
    assert shapes == [("0", 1), ("1", 3), ("2", 2), ("3", 1)]
    both = [(r.name, r.candidates) for r in plan(direction="best", max_blocks=1).search().rounds]
    assert both == [("forward 0", 1), ("forward 1", 3), ("backward 0", 1)] + [
        (f"backward {i}", n) for i, n in ((1, 3), (2, 2), (3, 1))
    ]
    listed = plan(direction="list", candidates=[[0], [0, 1]]).search()
    assert [r.evaluations for r in listed.rounds] == [2, 4] and listed.evaluations == 6
    pairs = plan().profile(pairs=True, repeats=2)
    assert [(r.name, r.candidates, r.evaluations) for r in pairs.rounds] == [("all", 4, 16)]
    raced = plan(pruner="race").search()
    assert "Without what the pruner 'race' saves" in str(raced)
    assert files_under(tmp_path) == []


def test_a_search_that_predicts_is_planned_by_its_budget(tmp_path):
    plans = {}
    for budget in (0.5, 2.0):
        args = {"strategy": "short-profile", "search_budget": budget, "dry_run": True}
        plans[budget] = make_trainer(tmp_path, args=args).search()
    whole = {budget: plan.seconds["all blocks, all training rows"] for budget, plan in plans.items()}
    for budget, plan in plans.items():
        assert plan.at_most_seconds == pytest.approx(budget * whole[budget])
        assert "predict (short-profile)" in str(plan) and plan.evaluations <= 3
    assert not (tmp_path / "journal").exists()
