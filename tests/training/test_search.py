"""The search as a Trainer: what it finds, that it resumes, repeats nothing and leaves the base alone."""

import itertools
import shutil

import pytest
import torch
from transformers import Trainer, TrainerCallback

from subtuning_hf.errors import JournalBusyError, StudyMismatchError
from subtuning_hf.search.journal import Journal, read_study
from subtuning_hf.training.evaluator import Evaluator
from subtuning_hf.training.heads import FILE_NAME
from training.cases import (
    BLOCKS,
    Rows,
    Untouchable,
    accuracy,
    assert_same_state,
    count_trainings,
    files_under,
    make_model,
    make_trainer,
    state_of,
)

ACCURACY = {"metric_for_best_model": "accuracy"}


def scores_in(folder):
    return {(e.candidate.blocks, e.fold): e.score for e in read_study(folder / "journal").evaluations}


def summary(result):
    return [(r.index, [(e.candidate, e.fold, e.score) for e in r.evaluations], r.decision) for r in result.rounds]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One whole search over three blocks: folder, result and the number of its trainings."""
    folder = tmp_path_factory.mktemp("whole")
    trainer = make_trainer(folder, args={"min_gain": 0.0, "max_blocks": 2})
    result = trainer.search()
    return folder, result, len(read_study(folder / "journal").evaluations)


def brute_force(scores, folds, most, sizes):
    """The greedy rule written out anew, over a table of scores."""
    mean = {
        blocks: sum(scores[blocks, fold] * sizes[fold] for fold in folds) / sum(sizes.values())
        for blocks, fold in scores
        if fold == 0
    }
    chosen, added = (), []
    while len(chosen) < most:
        tried = {tuple(b for b in BLOCKS if b in (*chosen, new)): new for new in BLOCKS if new not in chosen}
        best = max(reversed(tried), key=lambda blocks: mean[blocks])
        if mean[best] - mean[chosen] < 0:
            break
        chosen = best
        added.append(tried[best])
    return chosen, tuple(added)


def test_the_result_is_what_brute_force_finds_in_the_journal(whole):
    folder, result, count = whole
    scores = scores_in(folder)
    chosen, order = brute_force(scores, range(2), 2, {0: 12, 1: 12})
    assert result.blocks == order
    assert [r.decision.winner.blocks for r in result.rounds if r.decision.winner][-1] == chosen
    assert count == len(scores) == 2 * (1 + sum(3 - r for r in range(min(len(order) + 1, 2))))
    for evaluation in read_study(folder / "journal").evaluations:
        assert evaluation.score == -evaluation.metrics["eval_loss"]
        assert evaluation.num_examples == 12 and evaluation.seconds > 0
        assert not any("runtime" in name for name in evaluation.metrics)
        assert evaluation.info["steps"] == 2
    assert not [name for name in files_under(folder) if ".candidate-" in name]


def test_trainable_parameters_are_those_of_the_blocks_and_the_head(whole):
    folder, _, _ = whole
    model = make_model()
    head = sum(p.numel() for p in model.classifier.parameters())
    for evaluation in read_study(folder / "journal").evaluations:
        blocks = [model.get_submodule(name) for name in evaluation.candidate.blocks]
        assert evaluation.trainable_parameters == head + sum(p.numel() for b in blocks for p in b.parameters())


def test_same_seed_same_scores_in_any_order(whole, tmp_path):
    folder, result, _ = whole
    trainer = make_trainer(tmp_path, args={"min_gain": 0.0, "max_blocks": 2})
    torch.rand(5)
    trainer.profile()  # another order of work, and a process that has drawn other numbers
    assert summary(trainer.search()) == summary(result)
    assert scores_in(tmp_path) == scores_in(folder)
    assert make_seeded(tmp_path / "seed", 1) != scores_in(folder)[(), 0]


def make_seeded(folder, seed):
    trainer = make_trainer(folder, args={"max_blocks": 0, "seed": seed, "fold_seed": 42})
    trainer.search()
    return scores_in(folder)[(), 0]


def test_a_finished_search_repeats_nothing(whole, tmp_path, monkeypatch):
    folder, result, _ = whole
    shutil.copytree(folder, tmp_path / "out")
    before = {name: (tmp_path / "out" / name).read_bytes() for name in files_under(tmp_path / "out")}
    trainings = count_trainings(monkeypatch)
    trainer = make_trainer(tmp_path / "out", args={"min_gain": 0.0, "max_blocks": 2})
    assert summary(trainer.search()) == summary(result)
    assert trainer.profile().to_rows()
    assert trainings == []
    after = {name: (tmp_path / "out" / name).read_bytes() for name in files_under(tmp_path / "out")}
    assert {k: v for k, v in after.items() if k in before} == before or set(after) == set(before)


class Killed(BaseException):
    """As a signal would end it: no `except Exception` sees it."""


def test_interrupted_after_any_evaluation_and_resumed_is_the_whole(whole, tmp_path, monkeypatch):
    _, result, count = whole
    original = Evaluator.__call__
    for survive in (0, 1, count - 1):
        folder = tmp_path / str(survive)
        done = itertools.count()

        def stopping(self, candidate, fold, survive=survive, done=done):
            if next(done) == survive:
                raise Killed
            return original(self, candidate, fold)

        monkeypatch.setattr(Evaluator, "__call__", stopping)
        model = make_model()
        before = state_of(model)
        with pytest.raises(Killed):
            make_trainer(folder, model=model, args={"min_gain": 0.0, "max_blocks": 2}).search()
        assert_same_state({**before, "config": None}, {**state_of(model), "config": None})
        monkeypatch.setattr(Evaluator, "__call__", original)
        trainings = count_trainings(monkeypatch)
        resumed = make_trainer(folder, args={"min_gain": 0.0, "max_blocks": 2}).search()
        assert len(trainings) == count - survive
        assert summary(resumed) == summary(result)


def test_searches_with_other_limits_share_the_journal(whole, tmp_path, monkeypatch):
    folder, _, count = whole
    shutil.copytree(folder, tmp_path / "out")
    trainings = count_trainings(monkeypatch)
    one = make_trainer(tmp_path / "out", args={"min_gain": 0.0, "max_blocks": 1}).search()
    assert not trainings and len(one.blocks) <= 1
    none = make_trainer(tmp_path / "out", args={"min_gain": 1e9}).search()
    assert not trainings and none.blocks == ()
    assert len(read_study(tmp_path / "out" / "journal").evaluations) == count


# --- another study ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"args": {"learning_rate": 0.5}}, "learning_rate"),
        ({"args": {"num_folds": 3}}, "num_folds"),
        ({"args": {"seed": 1}}, "seed"),
        ({"args": {"study_tag": "again"}}, "study_tag"),
        ({"args": ACCURACY}, "metric"),
        ({"args": {"head_learning_rate": 0.1}}, "head_learning_rate"),
        ({"model": lambda: make_model(seed=1)}, "stem"),
        ({"model": lambda: make_model(hidden_act="gelu")}, "hidden_act"),
        ({"train_dataset": Rows(seed=5)}, "data"),
        ({"train_dataset": Rows(27)}, "rows"),
        ({"compute_metrics": lambda prediction: {**accuracy(prediction), "more": 1.0}}, "compute_metrics"),
        ({"eval_transform": dict}, "eval_transform"),
        ({"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.01})}, "optimizer_cls_and_kwargs"),
        ({"trainer_cls": type("Own", (Trainer,), {})}, "trainer_cls"),
        ({"callbacks": [TrainerCallback]}, "callbacks"),
    ],
)
def test_a_change_never_reuses_an_old_score(whole, tmp_path, monkeypatch, change, named):
    shutil.copytree(whole[0], tmp_path / "out")
    before = {name: (tmp_path / "out" / name).read_bytes() for name in files_under(tmp_path / "out")}
    trainings = count_trainings(monkeypatch)
    change = {**change, "args": {"min_gain": 0.0, "max_blocks": 2, **change.get("args", {})}}
    if "model" in change:
        change["model"] = change["model"]()
    with pytest.raises(StudyMismatchError, match=named):
        make_trainer(tmp_path / "out", **change).search()
    assert trainings == []
    assert {name: (tmp_path / "out" / name).read_bytes() for name in files_under(tmp_path / "out")} == before


def test_what_cannot_change_a_score_reuses_it(whole, tmp_path, monkeypatch):
    shutil.copytree(whole[0], tmp_path / "out")
    trainings = count_trainings(monkeypatch)
    args = {"min_gain": 0.0, "max_blocks": 2, "logging_strategy": "steps", "logging_steps": 1, "run_name": "again"}
    make_trainer(tmp_path / "out", args=args, eval_dataset=Untouchable()).search()
    assert trainings == []


def test_a_journal_in_use_is_refused(whole, tmp_path, monkeypatch):
    shutil.copytree(whole[0], tmp_path / "out")
    trainings = count_trainings(monkeypatch)
    spec = read_study(tmp_path / "out" / "journal").spec
    with Journal.open(tmp_path / "out" / "journal", spec), pytest.raises(JournalBusyError):
        make_trainer(tmp_path / "out", args={"min_gain": 0.0, "max_blocks": 2}).search()
    assert trainings == []


def test_another_environment_is_said(whole, tmp_path, monkeypatch):
    shutil.copytree(whole[0], tmp_path / "out")
    warned = collect_warnings(monkeypatch, "subtuning_hf.training.uniting")
    args = {"min_gain": 0.0, "max_blocks": 2}
    make_trainer(tmp_path / "out", args=args).search()
    assert warned == []
    make_trainer(tmp_path / "out", args={**args, "num_threads": 2}).search()
    assert len(warned) == 1 and "threads 1 -> 2" in warned[0]
    assert torch.get_num_threads() == 1


# --- the head ---------------------------------------------------------------------------------
def test_a_newly_drawn_head_does_not_spoil_a_study(whole, tmp_path, monkeypatch, caplog):
    folder, result, count = whole
    out = tmp_path / "out"
    shutil.copytree(folder, out)
    lines = (out / "journal" / "rank-0000.jsonl").read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if b'"decision"' not in line][:5]
    (out / "journal" / "rank-0000.jsonl").write_bytes(b"".join(kept))
    trainings = count_trainings(monkeypatch)
    model = make_model(head_seed=1)
    warned = collect_warnings(monkeypatch, "subtuning_hf.training.heads")
    trainer = make_trainer(out, model=model, args={"min_gain": 0.0, "max_blocks": 2})
    assert summary(trainer.search()) == summary(result)
    assert len(trainings) == count - len(read_kept(kept))
    assert torch.equal(model.classifier[1].weight, make_model().classifier[1].weight)
    assert len(warned) == 1 and "To use the new head, start a study in another `output_dir`" in warned[0]


def read_kept(lines):
    return [line for line in lines if b'"evaluation"' in line]


def collect_warnings(monkeypatch, name):
    from transformers.utils import logging

    warned = []
    monkeypatch.setattr(logging.get_logger(name), "warning", lambda message, *args: warned.append(message))
    return warned


def test_a_head_of_another_size_is_another_study(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "out")
    with pytest.raises(StudyMismatchError, match="num_labels"):
        make_trainer(tmp_path / "out", model=make_model(labels=4), args={"max_blocks": 2}).search()


def test_a_lost_or_changed_head_file(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "out")
    path = tmp_path / "out" / "journal" / FILE_NAME
    args = {"min_gain": 0.0, "max_blocks": 2}
    data = bytearray(path.read_bytes())
    path.unlink()
    make_trainer(tmp_path / "out", args=args).search()  # the same head: written again
    assert path.read_bytes() == bytes(data)
    path.unlink()
    with pytest.raises(StudyMismatchError, match="restore the file"):
        make_trainer(tmp_path / "out", model=make_model(head_seed=1), args=args).search()
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(StudyMismatchError, match="it was changed since"):
        make_trainer(tmp_path / "out", args=args).search()


# --- the base ---------------------------------------------------------------------------------
def test_the_base_is_unaltered(tmp_path):
    model = make_model().train()
    model.resnet.embedder.requires_grad_(False)
    trainer = make_trainer(tmp_path, model=model, args={"max_blocks": 1})
    before = state_of(model)
    trainer.search()
    assert_same_state(before, state_of(model))
    assert trainer.model is model


def test_the_base_is_unaltered_after_an_error(tmp_path):
    class Failing(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise RuntimeError("the callback fails")

    model = make_model()
    trainer = make_trainer(tmp_path, model=model, callbacks=[Failing], args={"neftune_noise_alpha": None})
    before = state_of(model)
    with pytest.raises(RuntimeError, match="the callback fails") as caught:
        trainer.search()
    assert "candidate head only on fold 0" in "".join(caught.value.__notes__)
    assert_same_state(before, state_of(model))
    assert read_study(tmp_path / "journal").evaluations == ()
    assert not list(tmp_path.glob(".candidate-*"))


def test_stale_folders_of_a_killed_search_are_removed(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "out")
    (tmp_path / "out" / ".candidate-old").mkdir()
    make_trainer(tmp_path / "out", args={"min_gain": 0.0, "max_blocks": 2}).search()
    assert not (tmp_path / "out" / ".candidate-old").exists()


# --- the profile -----------------------------------------------------------------------------
def test_profile_is_the_first_round(whole, tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, args={"min_gain": 0.0, "max_blocks": 2})
    trainings = count_trainings(monkeypatch)
    profile = trainer.profile()
    assert len(trainings) == 8
    assert [row["block"] for row in profile.to_rows()] == list(BLOCKS)
    trainer.search()
    assert len(trainings) == whole[2]


def test_a_search_that_predicts_costs_what_it_may_and_repeats_nothing(tmp_path):
    args = {"strategy": "short-profile", "search_budget": 4.0, "num_train_epochs": 4}
    result = make_trainer(tmp_path, args=args).search()
    run = result.proposal
    assert run.planned <= 4.0 and result.blocks and set(result.blocks) <= set(run.shortlist[0].blocks) | {
        name for candidate in run.shortlist for name in candidate.blocks
    }
    assert {e.unit for e in result.confirmations} == set(run.units)
    before = (tmp_path / "journal" / "rank-0000.jsonl").read_bytes()
    assert make_trainer(tmp_path, args=args).search().blocks == result.blocks
    assert (tmp_path / "journal" / "rank-0000.jsonl").read_bytes() == before
