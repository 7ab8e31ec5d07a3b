"""What cannot work here is refused before anything is trained or written, with the way out."""

import logging

import pytest
import torch
from transformers import Trainer

from subtuning_hf.errors import ArgumentsError, DataError, EmptySelectionError
from subtuning_hf.training import GreedySubTuningTrainer, preflight
from support.cases import Case, predicted
from support.test_tasks import TASKS
from training.cases import Rows, count_trainings, files_under, make_trainer


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"fp16": True}, "`fp16=True` does nothing on a CPU.*`bf16=True`"),
        ({"auto_find_batch_size": True}, "different batch sizes"),
        ({"fp16_full_eval": True}, "casts the whole model for good"),
        ({"load_best_model_at_end": True}, "eval_strategy='no' evaluates none. Set `eval_strategy`"),
        ({"metric_for_best_model": "mse"}, "'mse' is better the lower it is, but greater_is_better is True"),
        ({"metric_for_best_model": "eval_wer", "greater_is_better": True}, "Set `greater_is_better=False`"),
    ],
)
def test_by_the_constructor(args, message, tmp_path):
    with pytest.raises(ArgumentsError, match=message):
        make_trainer(tmp_path / "out", args=args)
    assert not (tmp_path / "out").exists()


def test_fsdp_without_an_accelerator(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path / "a")
    monkeypatch.setattr(trainer.args, "fsdp", ["full_shard"])  # accelerate itself refuses it in a single process
    with pytest.raises(ArgumentsError, match="`fsdp` does nothing on a CPU: Trainer would train with DDP"):
        GreedySubTuningTrainer(model=trainer.base_model, args=trainer.args, train_dataset=Rows())


@pytest.mark.parametrize("name", ["neg_mse", "accuracy", "f1", "terms_found"])
def test_metrics_that_are_better_the_higher_pass(name, tmp_path):
    assert make_trainer(tmp_path, args={"metric_for_best_model": name}).args.score_greater_is_better


@pytest.mark.parametrize("strategy", ["exact", "short-profile"])
@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"optim": "lomo"}, "`optim='lomo'` cannot be used: You need to install `lomo_optim`"),
        ({"optim": "galore_adamw"}, "`optim='galore_adamw'` cannot be used"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "`lr_scheduler_type='cosine_with_min_lr'` .* min_lr_rate"),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"oops": 1}}, "unexpected keyword argument 'oops'"),
        ({"neftune_noise_alpha": 5.0}, "noise to the embeddings of tokens, and 'ResNet"),
        ({"gradient_checkpointing": True}, "'ResNet.*' does not support gradient checkpointing"),
        ({"use_liger_kernel": True}, "liger-kernel, which is not installed"),
    ],
)
def test_by_the_search(args, message, strategy, tmp_path, monkeypatch):
    trainings = count_trainings(monkeypatch)
    trainer = make_trainer(tmp_path / "out", args={**args, "strategy": strategy})
    with pytest.raises(ArgumentsError, match=message):
        trainer.search()
    assert trainings == [] and files_under(tmp_path) == []


def test_lengths_of_rows_that_have_none(tmp_path):
    trainer = make_trainer(tmp_path / "out", args={"train_sampling_strategy": "group_by_length"})
    with pytest.raises(ValueError, match="dictionaries with an 'input_ids' key"):
        trainer.search()
    assert files_under(tmp_path) == []


def test_own_schedules_are_not_second_guessed(tmp_path):
    class Own(Trainer):
        def create_scheduler(self, num_training_steps, optimizer=None):
            self.lr_scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer or self.optimizer, 0.5)
            self._created_lr_scheduler = True
            return self.lr_scheduler

    args = {"lr_scheduler_type": "cosine_with_min_lr", "max_blocks": 0}
    trainer = make_trainer(tmp_path, trainer_cls=Own, args=args)
    assert trainer.search().blocks == ()


def test_a_loss_that_predictions_do_not_know_is_told(tmp_path, caplog):
    def loss(outputs, labels, num_items_in_batch=None):
        return torch.nn.functional.cross_entropy(outputs.logits, labels)

    told = "predicts with the model's own loss and does not know compute_loss_func and label_smoothing_factor"
    logger = logging.getLogger(preflight.__name__)
    logger.addHandler(caplog.handler)
    try:
        case = Case({"label_smoothing_factor": 0.1}, {"compute_loss_func": loss})
        predicted(case, tmp_path / "a")
        assert told in caplog.text
        caplog.clear()
        case.trainer(tmp_path / "b", max_blocks=0).search()
        assert "predicts with" not in caplog.text
    finally:
        logger.removeHandler(caplog.handler)


# --- models without a head ---------------------------------------------------------------------
def test_nothing_chosen_where_there_is_no_head(tmp_path):
    trainer = TASKS["causal LM, GPT-2"].trainer(tmp_path, min_gain=100.0)
    result = trainer.search()
    assert result.blocks == ()
    base = [one for one in trainer.study().evaluations if not one.candidate.blocks]
    assert len(base) == 2 and all(one.trainable_parameters == 0 and one.info["steps"] == 0 for one in base)
    with pytest.raises(EmptySelectionError, match="Nothing to train"):
        trainer.train()


def test_rows_of_choices_need_no_more_classes(tmp_path):
    case = TASKS["multiple choice"]
    assert case.model().config.num_labels == 2  # while rows have three choices
    assert case.trainer(tmp_path, max_blocks=0).search().blocks == ()
    with pytest.raises(DataError, match="has 3 labels"):
        make_trainer(tmp_path / "b", train_dataset=[{**row, "labels": 3} for row in Rows(12)]).search()


def test_dropped_batches_are_scored(tmp_path):
    rows = 22  # 11 in each fold: a batch of 8, and 3 more
    args = {"dataloader_drop_last": True, "per_device_eval_batch_size": 8, "max_blocks": 0}
    seen = []

    def counting(prediction):
        seen.append(len(prediction.label_ids))
        return {}

    make_trainer(tmp_path, train_dataset=Rows(rows), compute_metrics=counting, args=args).search()
    assert set(seen) == {11}
