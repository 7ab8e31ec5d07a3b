"""The final training: an ordinary Trainer on the chosen blocks, starting from the base at every call."""

import json

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import Trainer, TrainerCallback

from subtuning_hf.blocks import resolve_blocks
from subtuning_hf.errors import ArgumentsError, UnknownBlockError
from training.cases import (
    BLOCKS,
    Rows,
    accuracy,
    assert_same_state,
    count_trainings,
    files_under,
    make_args,
    make_images,
    make_model,
    make_trainer,
    state_of,
)


def tensors_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_train_searches_first_and_trains_what_was_found(tmp_path, monkeypatch):
    trainings = count_trainings(monkeypatch)
    model = make_model()
    base = tensors_of(model)
    trainer = make_trainer(tmp_path, model=model, eval_dataset=Rows(12, seed=9), args={"max_blocks": 1})
    output = trainer.train()
    assert trainings[-1] == "GreedySubTuningTrainer" and len(trainings) == 9
    assert isinstance(trainer.model, PeftModel) and trainer.model is trainer.callback_handler.model
    config = trainer.model.peft_config["default"]
    assert config.blocks == resolve_blocks(make_model(), trainer.result.blocks)
    assert (config.num_labels, config.id2label) == (3, model.config.id2label)
    assert output.global_step == 3
    trained = {name.split("base_model.model.")[-1] for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert all("subtuning_blocks.default" in name or "modules_to_save.default" in name for name in trained)
    trainer.model.unload()
    assert equal(base, tensors_of(model))


def test_train_blocks_skips_the_search(tmp_path, monkeypatch):
    trainings = count_trainings(monkeypatch)
    trainer = make_trainer(tmp_path)
    trainer.train(blocks=[-1, "*stages.0*"])
    assert len(trainings) == 1 and not (tmp_path / "journal").exists() and trainer.result is None
    assert trainer.model.peft_config["default"].blocks == [BLOCKS[0], BLOCKS[2]]
    trainer.train(blocks=[])
    assert trainer.model.peft_config["default"].blocks == []
    with pytest.raises(UnknownBlockError):
        trainer.train(blocks=["nowhere"])
    assert len(trainings) == 2


def test_every_call_starts_from_the_base_and_equals_a_plain_trainer(tmp_path):
    trainer = make_trainer(tmp_path / "a", args={"num_train_epochs": 2})
    trainer.train(blocks=[1])
    first = tensors_of(trainer.model)
    trainer.train(blocks=[0])
    trainer.evaluate(Rows(6))
    trainer.train(blocks=[1])
    assert equal(first, tensors_of(trainer.model))

    from peft import get_peft_model

    from subtuning_hf import SubTuningConfig

    model = get_peft_model(make_model(), SubTuningConfig(blocks=[1]))
    Trainer(model=model, args=make_args(tmp_path / "b", num_train_epochs=2), train_dataset=Rows()).train()
    assert equal(first, tensors_of(model))


def test_a_resumed_search_gives_the_same_final_model(tmp_path):
    def run():
        trainer = make_trainer(tmp_path, args={"max_blocks": 1})
        trainer.train()
        return trainer.result.blocks, tensors_of(trainer.model)

    (first, one), (second, two) = run(), run()
    assert first == second and equal(one, two)


def test_resume_from_checkpoint_equals_the_straight_run(tmp_path):
    class Stop(TrainerCallback):
        active = True

        def on_step_end(self, args, state, control, **kwargs):
            if Stop.active and state.global_step == 3:
                raise KeyboardInterrupt

    args = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 2}
    straight = make_trainer(tmp_path / "straight", args={**args, "save_strategy": "no"})
    straight.train(blocks=[0, 2])
    Stop.active = True
    trainer = make_trainer(tmp_path / "out", args=args)
    trainer.add_callback(Stop)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(blocks=[0, 2])
    Stop.active = False
    resumed = make_trainer(tmp_path / "out", args=args)
    output = resumed.train(resume_from_checkpoint=True, blocks=[0, 2])
    assert output.global_step == 6
    ours, theirs = tensors_of(resumed.model), tensors_of(straight.model)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-6)


def test_saved_and_loaded_again_it_is_the_same_model(tmp_path):
    test = Rows(18, seed=4)
    trainer = make_trainer(tmp_path / "out", args={"num_train_epochs": 3})
    trainer.train(blocks=[1, 2])
    metrics = trainer.evaluate(test)
    predicted = trainer.predict(test)
    assert predicted.metrics["test_accuracy"] == metrics["eval_accuracy"]
    trainer.save_model(str(tmp_path / "adapter"))
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(files_under(tmp_path / "adapter"))
    saved = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert saved["blocks"] == list(BLOCKS[1:]) and saved["num_labels"] == 3
    # Another head, so that a load that does nothing is found out.
    model = PeftModel.from_pretrained(make_model(head_seed=7), tmp_path / "adapter").eval()
    images, _ = make_images(18, seed=4)
    with torch.no_grad():
        logits = torch.cat([model(pixel_values=images[:16]).logits, model(pixel_values=images[16:]).logits])
    assert np.array_equal(logits.numpy(), predicted.predictions)


def test_transforms_of_the_final_training(tmp_path):
    seen = []

    def transform(name):
        def apply(item):
            seen.append((name, item["row"]))
            return {"pixel_values": item["pixel_values"], "labels": item["labels"]}

        return apply

    data = Rows(8, row=list(range(8)))
    others = {"a": Rows(4, row=list(range(100, 104))), "b": Rows(3, row=list(range(200, 203)))}
    trainer = make_trainer(
        tmp_path, train_dataset=data, eval_dataset=others, args={"eval_strategy": "epoch"},
        train_transform=transform("train"), eval_transform=transform("eval"),
    )  # fmt: skip
    trainer.train(blocks=[1])
    assert {row for name, row in seen if name == "train"} == set(range(8))
    assert {row for name, row in seen if name == "eval"} == {*range(100, 104), *range(200, 203)}
    seen.clear()
    assert {"eval_a_accuracy", "eval_b_accuracy"} <= trainer.evaluate().keys()
    trainer.predict(data)
    assert {name for name, _ in seen} == {"eval"} and trainer.train_dataset is data and trainer.eval_dataset is others


def test_best_checkpoint_on_eval_dataset_is_loaded(tmp_path):
    args = {"num_train_epochs": 3, "load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch"}
    trainer = make_trainer(tmp_path, eval_dataset=Rows(9, seed=2), args={**args, "learning_rate": 0.2})
    trainer.train(blocks=[2])
    assert trainer.state.best_model_checkpoint is not None
    assert trainer.evaluate()["eval_loss"] == pytest.approx(trainer.state.best_metric, abs=1e-6)


def test_an_untrained_trainer_evaluates_the_base(tmp_path):
    trainer = make_trainer(tmp_path)
    before = trainer.evaluate(Rows(9))
    plain = Trainer(model=make_model(), args=make_args(tmp_path), compute_metrics=accuracy).evaluate(Rows(9))
    assert before["eval_loss"] == plain["eval_loss"]
    trainer.search()
    assert trainer.evaluate(Rows(9))["eval_loss"] == plain["eval_loss"]


def test_after_training_the_finished_study_can_be_read_but_not_continued(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, args={"max_blocks": 1})
    trainer.train()
    trained = tensors_of(trainer.model)
    trainings = count_trainings(monkeypatch)
    assert trainer.search().blocks == trainer.result.blocks
    assert len(trainer.profile().to_rows()) == 3
    trainer.args.max_blocks, trainer.args.min_gain = 3, None
    trainer.args.min_gain = 0.0
    if len(trainer.result.blocks) == 1:
        with pytest.raises(ArgumentsError, match="holds a trained adapter"):
            trainer.search()
    fresh = make_trainer(tmp_path / "other")
    fresh.train(blocks=[0])
    with pytest.raises(ArgumentsError, match="Search before train"):
        fresh.search()
    assert len(trainings) == 1 and equal(trained, tensors_of(trainer.model))


def test_an_adapter_that_cannot_be_put_in_leaves_the_base_alone(tmp_path, monkeypatch):
    from subtuning_hf.tuner.layer import BlockLayer

    model = make_model()
    trainer = make_trainer(tmp_path, model=model)
    before = state_of(model)

    def fail(*args, **kwargs):
        raise MemoryError("no room")

    monkeypatch.setattr(BlockLayer, "__init__", fail)
    with pytest.raises(MemoryError):
        trainer.train(blocks=[0, 1])
    assert_same_state(before, state_of(model))
    assert trainer.model is model
