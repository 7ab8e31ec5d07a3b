"""What is assigned, added or left in a model after a trainer was made counts for searches and candidates too."""

import logging
import random

import numpy as np
import pytest
import torch
from datasets import Dataset as HubDataset
from transformers import Trainer, TrainerCallback

from subtuning_hf.errors import ArgumentsError, DataError
from subtuning_hf.search.journal import read_study
from subtuning_hf.training.randomness import drawing, generators_in
from training.cases import BLOCKS, Rows, accuracy, assert_same_state, make_model, make_trainer, state_of

ONE = {"max_blocks": 1}


def trained_rows(folder):
    return {each.info["train_rows"] for each in read_study(folder / "journal").evaluations}


def test_another_trainer_s_adapter_is_refused_and_can_be_taken_out(tmp_path):
    model = make_model()
    before = state_of(model)
    first = make_trainer(tmp_path / "a", model, args=ONE)
    second = make_trainer(tmp_path / "b", model, args=ONE)
    first.train(blocks=[0])
    for call in (second.search, second.train, lambda: second.train(blocks=[1])):
        with pytest.raises(ArgumentsError, match=r"another trainer's train\(\).*unload\(\)"):
            call()
    assert not (tmp_path / "b" / "journal").exists()
    with pytest.raises(ArgumentsError, match="another trainer's"):
        make_trainer(tmp_path / "c", model)
    first.model.unload()
    second.search()
    assert second.result is not None
    alone = make_trainer(tmp_path / "alone", make_model(), args=ONE)
    assert alone.search().blocks == second.result.blocks
    assert_same_state({"tensors": before["tensors"]}, {"tensors": state_of(model)["tensors"]})


def test_other_training_rows_are_searched_and_trained(tmp_path):
    trainer = make_trainer(tmp_path, args={**ONE, "num_train_epochs": 3})
    trainer.train_dataset = Rows(48)
    trainer.search()
    assert trained_rows(tmp_path) == {24}  # half of 48, in two folds
    for block in (0, -1):  # whether the training starts at a stored block or not
        trainer.train(blocks=[block])
        assert trainer.state.global_step == 3 * 48 // 8
    trainer.train_dataset = None
    with pytest.raises(DataError, match="train_dataset"):
        trainer.train(blocks=[0])


def test_another_metric_scores_the_search(tmp_path):
    args = {**ONE, "metric_for_best_model": "accuracy", "greater_is_better": True}
    trainer = make_trainer(tmp_path / "a", args=args)
    trainer.compute_metrics = lambda prediction: {"accuracy": 0.125}
    trainer.search()
    assert {each.score for each in read_study(tmp_path / "a" / "journal").evaluations} == {0.125}
    trainer.compute_metrics = accuracy  # another metric is another study
    trainer.result = None
    with pytest.raises(Exception, match="compute_metrics"):
        trainer.search()


class Counted(TrainerCallback):
    trainings = 0

    def on_train_begin(self, *args, **kwargs):
        type(self).trainings += 1


@pytest.fixture
def counted():
    Counted.trainings = 0
    return Counted


def test_a_callback_class_that_is_added_later_sees_every_candidate(tmp_path, counted):
    trainer = make_trainer(tmp_path, args=ONE)
    trainer.add_callback(counted)
    trainer.search()
    candidates = counted.trainings
    assert candidates == len(read_study(tmp_path / "journal").evaluations)
    trainer.train()
    assert counted.trainings == candidates + 1
    trainer.remove_callback(counted)
    trainer.train(blocks=[1])
    assert counted.trainings == candidates + 1


def test_a_callback_that_is_removed_sees_no_candidate(tmp_path, counted):
    trainer = make_trainer(tmp_path, args=ONE, callbacks=[counted])
    trainer.remove_callback(counted)
    trainer.search()
    trainer.train()
    assert counted.trainings == 0


def test_an_instance_sees_the_final_training_and_a_warning_says_so(tmp_path, counted, caplog):
    trainer = make_trainer(tmp_path, args=ONE)
    logging.getLogger("subtuning_hf").propagate = True
    with caplog.at_level(logging.WARNING):
        trainer.add_callback(counted())
    assert "add_callback(Counted)" in caplog.text
    trainer.search()
    assert counted.trainings == 0
    trainer.train()
    assert counted.trainings == 1


class Narrow(Trainer):
    """With a constructor that takes only what its author has needed."""

    def __init__(self, model=None, args=None, train_dataset=None, eval_dataset=None, callbacks=None, **kwargs):
        assert set(kwargs) <= {"compute_metrics"}, kwargs
        rows = {"train_dataset": train_dataset, "eval_dataset": eval_dataset}
        super().__init__(model, args, callbacks=callbacks, **rows, **kwargs)


def test_a_trainer_class_gets_only_what_is_given(tmp_path):
    trainer = make_trainer(tmp_path, args=ONE, trainer_cls=Narrow)
    trainer.search()
    trainer.train(blocks=[0])
    assert isinstance(trainer, Narrow)


# --- generators of a transform's own --------------------------------------------------------
class Flip:
    def __init__(self, rng):
        self.rng = rng

    def __call__(self, row):
        return {**row, "pixel_values": row["pixel_values"].flip(-1) if self.rng.random() < 0.1 else row["pixel_values"]}


def closure(rng):
    return lambda row: Flip(rng)(row)


GENERATOR = np.random.default_rng(1)


def by_global(row):
    return Flip(GENERATOR)(row)


@pytest.mark.parametrize("make", [Flip, closure, lambda rng: by_global], ids=["attribute", "closure", "global"])
def test_rare_augmentation_from_an_own_generator_is_never_stored(make, tmp_path):
    read = []
    transform = make(np.random.default_rng(3))

    def counting(row):
        read.append(1)
        return transform(row)

    args = {**ONE, "num_train_epochs": 4}
    make_trainer(tmp_path, args=args, train_transform=counting, eval_transform=lambda row: row).search()
    evaluations = read_study(tmp_path / "journal").evaluations
    assert len(read) >= 4 * 12 * len(evaluations)  # every epoch reads its rows anew


@pytest.mark.parametrize(
    "generator",
    [np.random.default_rng(0), np.random.RandomState(0), random.Random(0), torch.Generator()],
    ids=lambda one: type(one).__name__,
)
def test_generators_are_found_wherever_they_are_kept(generator):
    class Rowed(torch.utils.data.Dataset):
        def __init__(self):
            self.steps = [("flip", {"with": generator})]

        def __getitem__(self, index):
            return index

    def default(row, rng=generator):
        return row

    things = [generator, [Rowed()], closure(generator), default, Flip(generator).__call__, {"a": Flip(generator)}]
    things.append(HubDataset.from_dict({"x": [1]}).with_transform(Flip(generator)))
    assert all(generators_in(thing) == [generator] for thing in things)
    with drawing(default) as drawn:
        pass
    assert drawn == [False]
    with drawing(default) as drawn:
        torch.rand(1, generator=generator) if isinstance(generator, torch.Generator) else generator.random()
    assert drawn == [True]


def test_what_holds_no_generator_is_left_alone():
    assert generators_in([BLOCKS, make_model(), np.zeros(3), None, np.random, lambda row: row]) == []
