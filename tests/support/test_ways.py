"""Ways to train, in a search and in the final training; compared with a plain Trainer where that tells anything."""

import math

import pytest
import torch
from peft import PeftModel
from transformers import DataCollatorWithFlattening, EarlyStoppingCallback, TrainerCallback

from support.cases import NUM_LABELS, Case, Texts, compare, pad, predicted, searched, toy
from support.test_tasks import TASKS, make
from toys import LLAMA
from training.cases import Rows, make_model, make_trainer

TEXTS = {"data_collator": pad}
EVALUATED = {"eval_strategy": "epoch", "save_strategy": "epoch", "metric_for_best_model": "loss"}


def texts(**args):
    return Case(args, TEXTS, lambda: toy("bert"), lambda: Texts(lambda row, ids: row % NUM_LABELS))


def differ(first, second):
    return any(not torch.allclose(first[1][name], second[1][name], rtol=1e-5, atol=1e-7) for name in first[1])


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return compare(texts(), tmp_path_factory.mktemp("plain"))


# --- of texts ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "args",
    [{"neftune_noise_alpha": 50.0}, {"train_sampling_strategy": "group_by_length"}, {"label_smoothing_factor": 0.4}],
    ids=lambda args: next(iter(args)),
)
def test_options_of_texts(args, plain, tmp_path):
    assert differ(compare(texts(**args), tmp_path), plain)


@pytest.mark.parametrize("reentrant", [None, {"use_reentrant": True}, {"use_reentrant": False}])
def test_gradient_checkpointing_changes_nothing(reentrant, plain, tmp_path):
    args = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": reentrant}
    found = compare(texts(**args), tmp_path)
    for name, value in found[1].items():
        torch.testing.assert_close(value, plain[1][name], rtol=1e-3, atol=1e-5)


def packed():
    """Rows behind each other in one sequence."""

    class Unpadded(Texts):
        def __getitem__(self, index):
            row = super().__getitem__(index)
            return {"input_ids": row["input_ids"], "labels": row["labels"]}

    kwargs = {"data_collator": DataCollatorWithFlattening(), "compute_metrics": None}
    rows = lambda: Unpadded(lambda row, ids: list(ids))  # noqa: E731
    return Case({}, kwargs, make("LlamaForCausalLM", **LLAMA), rows)


def test_packed_batches(tmp_path):
    """No prefix is cached, and scores are those of a plain Trainer."""
    compare(packed(), tmp_path)


def test_packed_batches_predicting(tmp_path):
    result = predicted(packed(), tmp_path)
    assert all(math.isfinite(one.score) for one in result.proposal.predictions)
    assert len({one.score for one in result.proposal.predictions}) > 2


# --- of pictures -------------------------------------------------------------------------------
@pytest.mark.slow
def test_compiled(tmp_path):
    """A search and a training through torch.compile; the adapter fits the plain model."""
    args = {"torch_compile": True, "torch_compile_backend": "eager"}
    compare(Case(args), tmp_path / "a")
    trainer = make_trainer(tmp_path / "b", args=args)
    trainer.train(blocks=[1])
    trainer.save_model(str(tmp_path / "adapter"))
    batch = torch.stack([Rows(4)[i]["pixel_values"] for i in range(4)])
    loaded = PeftModel.from_pretrained(make_model(), tmp_path / "adapter").eval()
    with torch.no_grad():
        assert torch.allclose(loaded(batch).logits, trainer.model.eval()(batch).logits, atol=1e-6)


@pytest.mark.slow
def test_compiled_by_inductor(tmp_path):
    found, _ = searched(Case({"torch_compile": True}), tmp_path / "a")
    plain, _ = searched(Case(), tmp_path / "b")
    for key, metrics in plain.items():
        assert found[key]["eval_loss"] == pytest.approx(metrics["eval_loss"], rel=1e-3)


@pytest.mark.parametrize("strategy", ["exact", pytest.param("short-profile", marks=pytest.mark.slow)])
def test_early_stopping(strategy, tmp_path):
    """Candidates stop by rows of their own, the final training by `eval_dataset`."""
    stopped, watched = [], []

    class Watch(TrainerCallback):
        def on_train_end(self, args, state, control, **kwargs):
            stopped.append(state.epoch)

        def on_evaluate(self, args, state, control, **kwargs):
            watched.append(state.epoch)

    args = {**EVALUATED, "strategy": strategy, "max_blocks": 1, "num_train_epochs": 6, "learning_rate": 3.0}
    if strategy != "exact":
        args |= {"search_budget": 6.0}
    callbacks = [Watch, lambda: EarlyStoppingCallback(1)]
    more = {"load_best_model_at_end": True}
    trainer = make_trainer(tmp_path, eval_dataset=Rows(9, seed=4), args={**args, **more}, callbacks=callbacks)
    result = trainer.search()
    assert len(stopped) == result.cost.num_evaluations >= 2 and min(stopped) < 6 and len(watched) > len(stopped)
    before = len(stopped)
    trainer.train(blocks=[1])
    assert len(stopped) == before + 1 and stopped[-1] < 6
    assert trainer.state.best_model_checkpoint is not None


@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "greedy"])
def test_schedules_steered_by_a_metric(schedule, tmp_path):
    """They follow rows inside the fold, so a candidate has fewer rows to train on."""
    args = {"eval_strategy": "epoch", "lr_scheduler_type": schedule, "max_blocks": 0, "num_train_epochs": 2}
    trainer = make_trainer(tmp_path, eval_dataset=Rows(9, seed=4), args=args)
    trainer.search()
    plain = make_trainer(tmp_path / "plain", args={"max_blocks": 0, "num_train_epochs": 2})
    plain.search()
    ours, theirs = (each.study().evaluations for each in (trainer, plain))
    assert [one.info["steps"] for one in ours] == [2 * 2, 2 * 2] and [one.info["steps"] for one in theirs] == [4, 4]
    assert [one.score for one in ours] != [one.score for one in theirs]
    trainer.train(blocks=[1])
    assert trainer.state.global_step == 6


def test_what_is_scored_may_be_the_loss_alone(tmp_path):
    trainer = make_trainer(tmp_path, args={"prediction_loss_only": True, "max_blocks": 0})
    trainer.search()
    assert all(one.metrics.keys() == {"eval_loss"} for one in trainer.study().evaluations)
    trainer.train(blocks=[1])
    other = make_trainer(tmp_path / "plain", args={"max_blocks": 0})
    other.train(blocks=[1])
    found, whole = trainer.evaluate(Rows(11, seed=3)), other.evaluate(Rows(11, seed=3))
    assert "eval_accuracy" in whole and "eval_accuracy" not in found and found["eval_loss"] == whole["eval_loss"]


class Adding:
    """Accuracy that is told batches one after another."""

    def __init__(self):
        self.right = self.rows = 0

    def __call__(self, prediction, compute_result=False):
        self.right += int((prediction.predictions.argmax(-1) == prediction.label_ids).sum())
        self.rows += len(prediction.label_ids)
        if not compute_result:
            return {}
        found = {"accuracy": self.right / self.rows}
        self.right = self.rows = 0
        return found


def test_metrics_by_batches_after_the_final_training(tmp_path):
    """Also in the middle of it, where they say which checkpoint is the best."""
    steered = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    steered |= {"metric_for_best_model": "accuracy", "num_train_epochs": 3, "per_device_eval_batch_size": 5}
    scores = []
    for name, args, kwargs in (
        ("batches", {"batch_eval_metrics": True}, {"compute_metrics": Adding()}), ("whole", {}, {}),
    ):  # fmt: skip
        trainer = make_trainer(tmp_path / name, args={**steered, **args}, eval_dataset=Rows(11, seed=3), **kwargs)
        trainer.train(blocks=[1])
        log = [one["eval_accuracy"] for one in trainer.state.log_history if "eval_accuracy" in one]
        scores.append((log, trainer.state.best_global_step, trainer.evaluate()["eval_accuracy"]))
    assert scores[0] == scores[1] and len(scores[0][0]) == 3


def test_metrics_by_batches(tmp_path):
    """`batch_eval_metrics`: a metric that adds up batches gives the score that one over all rows gives."""
    args = {"metric_for_best_model": "accuracy", "per_device_eval_batch_size": 5}
    ours, _ = searched(Case({**args, "batch_eval_metrics": True}, {"compute_metrics": Adding()}), tmp_path / "a")
    theirs, _ = searched(Case(args), tmp_path / "b")
    assert {k: v["eval_accuracy"] for k, v in ours.items()} == {k: v["eval_accuracy"] for k, v in theirs.items()}


@pytest.mark.parametrize("name", ["causal LM, Llama", "token classification"])
def test_bf16_of_texts(name, tmp_path):
    case = TASKS[name]
    bf16 = Case({**case.args, "bf16": True}, case.kwargs, case.model, case.rows)
    found, _ = searched(bf16, tmp_path / "a")
    plain, _ = searched(case, tmp_path / "b")
    assert all(found[key]["eval_loss"] == pytest.approx(plain[key]["eval_loss"], rel=0.05) for key in plain)
    assert any(found[key]["eval_loss"] != plain[key]["eval_loss"] for key in plain)
