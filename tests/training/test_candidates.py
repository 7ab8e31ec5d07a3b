"""What candidates are trained and scored with: the user's functions, and the right rows through the right transform."""

import math
from typing import ClassVar

import pytest
import torch
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

from subtuning_hf.errors import ArgumentsError
from subtuning_hf.search.journal import read_study
from subtuning_hf.training import GreedySubTuningTrainer
from subtuning_hf.training.evaluator import Evaluator
from subtuning_hf.training.heads import FILE_NAME
from toys import TOYS
from training.cases import BLOCKS, Rows, Untouchable, assert_same_state, files_under, make_trainer, state_of

ACCURACY = {"metric_for_best_model": "accuracy"}


def scores_in(folder):
    return {(e.candidate.blocks, e.fold): e.score for e in read_study(folder / "journal").evaluations}


# --- what candidates are trained with ---------------------------------------------------------
class Steered(Trainer):
    """Own loss; says which class trained which model."""

    seen: ClassVar[list] = []

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        Steered.seen.append((type(self).__mro__, self.model, model.training))
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        return (3 * loss, outputs) if return_outputs else 3 * loss


def test_an_own_trainer_is_honoured_everywhere(tmp_path):
    Steered.seen = []
    plain = make_trainer(tmp_path / "plain", args={"max_blocks": 0})
    plain.search()
    trainer = make_trainer(tmp_path / "own", trainer_cls=Steered, args={"max_blocks": 0})
    assert isinstance(trainer, GreedySubTuningTrainer) and isinstance(trainer, Steered)
    trainer.search()
    for fold in (0, 1):
        ratio = scores_in(tmp_path / "own")[(), fold] / scores_in(tmp_path / "plain")[(), fold]
        assert ratio == pytest.approx(3, rel=0.2)
    candidates = [mro for mro, _, training in Steered.seen if training]
    assert len(candidates) == 4 and all(GreedySubTuningTrainer not in mro for mro in candidates)
    Steered.seen = []
    trainer.train()
    assert Steered.seen and all(GreedySubTuningTrainer in mro for mro, _, _ in Steered.seen)
    assert all(model is trainer.model for _, model, _ in Steered.seen)


def test_an_override_that_candidates_do_not_see_is_warned_about(tmp_path):
    class Own(GreedySubTuningTrainer):
        def compute_loss(self, *args, **kwargs):
            return super().compute_loss(*args, **kwargs)

    with pytest.warns(UserWarning, match="Own overrides compute_loss of Trainer, which candidates will not see"):
        make_trainer(tmp_path, cls=Own)


def test_the_loss_function_optimiser_and_collator_are_used(tmp_path):
    calls = {"loss": 0, "collate": 0, "optimizer": 0}

    class Optimizer(torch.optim.SGD):
        def __init__(self, *args, **kwargs):
            calls["optimizer"] += 1
            super().__init__(*args, **kwargs)

    def loss(outputs, labels, num_items_in_batch=None):
        calls["loss"] += 1
        return torch.nn.functional.cross_entropy(outputs.logits, labels)

    def collate(rows):
        calls["collate"] += 1
        return {
            "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
            "labels": torch.tensor([row["labels"] for row in rows]),
        }

    trainer = make_trainer(
        tmp_path, args={"max_blocks": 0}, compute_loss_func=loss, data_collator=collate,
        optimizer_cls_and_kwargs=(Optimizer, {"lr": 0.1}),
    )  # fmt: skip
    trainer.search()
    assert calls["optimizer"] == 2 and calls["loss"] >= 6 and calls["collate"] >= 6
    trainer.train()
    assert calls["optimizer"] == 3 and isinstance(trainer.optimizer.optimizer, Optimizer)


def test_each_training_has_callbacks_of_its_own(tmp_path):
    made = []

    class Counting(TrainerCallback):
        def __init__(self):
            made.append(self)
            self.steps = 0

        def on_step_end(self, args, state, control, **kwargs):
            self.steps += 1

    trainer = make_trainer(tmp_path, args={"max_blocks": 0}, callbacks=[Counting, lambda: Counting()])
    trainer.search()
    assert sorted(callback.steps for callback in made if callback.steps) == [2, 2, 2, 2]
    before = len(made)
    trainer.train()
    trainer.train()
    assert [callback.steps for callback in made[before:]] == [3, 3, 3, 3]


def test_head_learning_rate_reaches_candidates_and_the_final_training(tmp_path):
    rates = []

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, optimizer=None, **kwargs):
            rates.append(sorted({group["lr"] for group in optimizer.param_groups if group["params"]}))

    args = {"max_blocks": 1, "head_learning_rate": 0.5, "learning_rate": 0.25, "blocks": [-1]}
    trainer = make_trainer(tmp_path, args=args, callbacks=[Watch])
    trainer.search()
    assert rates == [[0.5], [0.5], [0.25, 0.5], [0.25, 0.5]]
    trainer.train(blocks=[0])
    assert rates[-1] == [0.25, 0.5]


def test_a_callback_that_writes_into_the_base_is_noticed(tmp_path):
    class Writes(TrainerCallback):
        def on_train_end(self, args, state, control, model=None, **kwargs):
            model.get_base_model().resnet.embedder.embedder.normalization.running_mean.add_(1)

    with pytest.raises(ArgumentsError, match=r"wrote into 1 tensors .*running_mean"):
        make_trainer(tmp_path, callbacks=[Writes]).search()
    assert read_study(tmp_path / "journal").evaluations == ()


@pytest.mark.parametrize("name", ["vit", "bert"])
def test_activation_checkpointing_and_neftune_leave_nothing_behind(tmp_path, name):
    toy = TOYS[name]
    rows = [{**{k: v[0] for k, v in toy.inputs(1, seed=i).items()}, "labels": i % 3} for i in range(12)]
    model = toy.build()
    found = {}
    for kind in ("plain", "checkpointed"):
        args = {"max_blocks": 1, "blocks": [1], "gradient_checkpointing": kind == "checkpointed"}
        if name == "bert":
            args["neftune_noise_alpha"] = 1e-6
        trainer = make_trainer(tmp_path / kind, model=model, train_dataset=rows, args=args)
        before = state_of(model)
        trainer.search()
        assert_same_state(before, state_of(model))
        assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
        found[kind] = scores_in(tmp_path / kind)
    assert found["plain"] == pytest.approx(found["checkpointed"], rel=1e-4)


# --- rows -------------------------------------------------------------------------------------
class Marked:
    """A transform that writes down which rows it saw."""

    def __init__(self, log, name):
        self.log, self.name = log, name

    def __call__(self, item):
        self.log.setdefault(self.name, []).append(item["row"])
        return {"pixel_values": item["pixel_values"], "labels": item["labels"]}


def rows_with_numbers(count=24, **columns):
    return Rows(count, row=list(range(count)), **columns)


def watch_rows(monkeypatch):
    """For each evaluation: the fold, and the rows each transform saw."""
    log, seen = {}, []
    original = Evaluator.__call__

    def watched(self, candidate, fold):
        log.clear()
        result = original(self, candidate, fold)
        seen.append((fold, {name: set(rows) for name, rows in log.items()}))
        return result

    monkeypatch.setattr(Evaluator, "__call__", watched)
    return log, seen


def test_validation_rows_only_ever_see_eval_transform(tmp_path, monkeypatch):
    log, seen = watch_rows(monkeypatch)
    trainer = make_trainer(
        tmp_path, train_dataset=rows_with_numbers(), eval_dataset=Untouchable(),
        args={"max_blocks": 1, "prefix_cache": False},
        train_transform=Marked(log, "train"), eval_transform=Marked(log, "eval"),
    )  # fmt: skip
    trainer.search()
    assert len(seen) == 8
    for fold, rows in seen:
        assert rows["train"] == set(fold.train) and rows["eval"] == set(fold.validation)
        assert not rows["train"] & rows["eval"]
    assert {row for fold, _ in seen for row in fold.validation} == set(range(24))


def test_best_checkpoint_is_chosen_on_an_inner_split(tmp_path, monkeypatch):
    log, seen = watch_rows(monkeypatch)
    best = []

    class Watch(TrainerCallback):
        def on_train_end(self, args, state, control, **kwargs):
            best.append((state.best_model_checkpoint is not None, args.output_dir))

    trainer = make_trainer(
        tmp_path, train_dataset=rows_with_numbers(), callbacks=[Watch, lambda: EarlyStoppingCallback(2)],
        train_transform=Marked(log, "train"), eval_transform=Marked(log, "eval"),
        args={"max_blocks": 0, "prefix_cache": False, "load_best_model_at_end": True,
              "eval_strategy": "epoch", "save_strategy": "epoch",
              "num_train_epochs": 2, "inner_validation_fraction": 0.25, **ACCURACY},
        eval_dataset=Untouchable(),
    )  # fmt: skip
    trainer.search()
    assert len(seen) == 2
    for fold, rows in seen:
        inner = rows["eval"] - set(fold.validation)
        assert len(inner) == 3 and inner <= set(fold.train)
        assert rows["train"] == set(fold.train) - inner
    assert [chosen for chosen, _ in best] == [True, True]
    assert files_under(tmp_path) == sorted(["journal/rank-0000.jsonl", f"journal/{FILE_NAME}", *locks(tmp_path)])


def locks(folder):
    return [name for name in files_under(folder) if name.endswith(".lock")]


def test_groups_are_never_split(tmp_path, monkeypatch):
    _, seen = watch_rows(monkeypatch)
    groups = [f"patient {row // 3}" for row in range(24)]
    data = Rows(24, patient=groups)
    make_trainer(tmp_path, train_dataset=data, args={"max_blocks": 0, "group_column": "patient"}).search()
    assert len(seen) == 2
    for fold, _ in seen:
        assert not {groups[row] for row in fold.train} & {groups[row] for row in fold.validation}


def test_a_fold_column_is_taken_as_it_is(tmp_path, monkeypatch):
    _, seen = watch_rows(monkeypatch)
    column = [row // 8 for row in range(24)]
    make_trainer(tmp_path, train_dataset=Rows(24, part=column), args={"max_blocks": 0, "fold_column": "part"}).search()
    assert [list(fold.validation) for fold, _ in seen] == [list(range(8 * k, 8 * k + 8)) for k in range(3)]


def test_a_validation_set_of_ones_own_is_the_only_fold(tmp_path, monkeypatch):
    _, seen = watch_rows(monkeypatch)
    trainer = make_trainer(
        tmp_path,
        validation_dataset=Rows(9, seed=3),
        eval_dataset=Untouchable(),
        args={"max_blocks": 1, "min_gain": None},
    )
    result = trainer.search()
    assert len(seen) == 4
    assert all(len(fold.train) == 24 and len(fold.validation) == 9 for fold, _ in seen)
    assert result.rounds[1].decision.standard_error is None
    with pytest.raises(ArgumentsError, match="`group_column` cuts folds"):
        make_trainer(tmp_path / "b", validation_dataset=Rows(9), args={"group_column": "row"}).search()


def test_candidate_blocks_can_be_restricted(tmp_path):
    result = make_trainer(tmp_path, args={"blocks": [-1, "*stages.0*"], "min_gain": 0.0}).search()
    tried = {block for candidate in result.rounds[1].candidates for block in candidate.blocks}
    assert tried == {BLOCKS[0], BLOCKS[2]}


def test_scores_are_the_metric_with_its_sign(tmp_path):
    make_trainer(tmp_path / "a", args={"max_blocks": 0, **ACCURACY}).search()
    for evaluation in read_study(tmp_path / "a" / "journal").evaluations:
        assert evaluation.score == evaluation.metrics["eval_accuracy"]
        assert math.isfinite(evaluation.metrics["eval_loss"])
    args = {"max_blocks": 0, "metric_for_best_model": "eval_accuracy", "greater_is_better": False}
    make_trainer(tmp_path / "b", args=args).search()
    for evaluation in read_study(tmp_path / "b" / "journal").evaluations:
        assert evaluation.score == -evaluation.metrics["eval_accuracy"]
