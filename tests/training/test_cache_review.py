"""Habits of other people's data sets, collators and Trainers, each with the cache and without: the same scores."""

import contextlib

import datasets
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback

from subtuning_hf.errors import ArgumentsError
from subtuning_hf.search.folds import Fold
from subtuning_hf.search.journal import read_study
from subtuning_hf.search.records import Candidate, Unit
from subtuning_hf.training import GreedySubTuningTrainer
from subtuning_hf.training.cache import open_cache
from subtuning_hf.training.evaluator import Evaluator
from subtuning_hf.training.rows import NumberedRows, RowSource, RowStore, bytes_of
from toys import TOYS
from training.cases import BLOCKS, Rows, assert_same_state, make_model, make_trainer, state_of
from training.test_cache import ToyRows

pytestmark = pytest.mark.slow

FOLD = Fold(0, tuple(range(10)), tuple(range(10, 24)))
LAST = Candidate((BLOCKS[2],))


def evaluated(folder, cached, candidate=LAST, **kwargs):
    """One candidate on one fold, and the cache it had."""
    args = {"num_train_epochs": 2, "prefix_cache": cached, **kwargs.pop("args", {})}
    recipe = make_trainer(folder, args=args, **{"eval_dataset": Rows(4, seed=9), **kwargs})._recipe
    evaluator = Evaluator(recipe)
    evaluator.cache = open_cache(recipe, False)
    return evaluator(Unit(candidate, 0), FOLD), evaluator.cache


def assert_same(folder, make=lambda: {}, late=None, tolerance=1e-6):
    """`make` gives the arguments anew; `late` says whether the cached training is to start late."""
    plain, _ = evaluated(folder / "plain", False, **make())
    cached, cache = evaluated(folder / "cached", True, **make())
    assert cached.metrics.keys() == plain.metrics.keys()
    for name, value in plain.metrics.items():
        assert cached.metrics[name] == pytest.approx(value, rel=tolerance, abs=tolerance), name
    if late is not None:
        assert (cache is not None and cache.trunk is not None and cache.trunk.calls["started late"] > 0) is late
    return cache


# --- what reads inputs ------------------------------------------------------------------------
def brightness(prediction):
    return {"brightness": float(np.asarray(prediction.inputs, dtype=np.float64).mean())}


def test_metrics_that_read_inputs(tmp_path):
    assert_same(tmp_path, lambda: {
        "args": {"include_for_metrics": ["inputs"], "metric_for_best_model": "brightness"},
        "compute_metrics": brightness,
    }, late=True)  # fmt: skip


class SeesInputs(Trainer):
    """Weighs the loss by the content of the inputs, before the step."""

    def training_step(self, model, inputs, *args, **kwargs):
        loss = super().training_step(model, inputs, *args, **kwargs)
        return loss * inputs["pixel_values"].abs().mean()


def test_a_training_step_that_reads_inputs(tmp_path):
    plain, _ = evaluated(tmp_path / "plain", False, trainer_cls=SeesInputs)
    cached, _ = evaluated(tmp_path / "cached", True, trainer_cls=SeesInputs)
    assert cached.info["train_loss"] == pytest.approx(plain.info["train_loss"], rel=1e-6)


class Mixed(Trainer):
    """Mixes inputs before the model sees them."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        if model.training:
            inputs = {**inputs, "pixel_values": inputs["pixel_values"].flip(0)}
        return super().compute_loss(model, inputs, return_outputs, **kwargs)


class MixedInPlace(Trainer):
    """The same, written into the batch, a step earlier."""

    def training_step(self, model, inputs, *args, **kwargs):
        inputs["pixel_values"].copy_(inputs["pixel_values"].flip(0))
        return super().training_step(model, inputs, *args, **kwargs)


class Prepared(Trainer):
    """The same, where inputs are moved to the device."""

    def _prepare_inputs(self, inputs):
        inputs = dict(super()._prepare_inputs(inputs))
        if self.model.training:
            inputs["pixel_values"] = 0.5 * inputs["pixel_values"]
        return inputs


@pytest.mark.parametrize("kind", [Mixed, MixedInPlace, Prepared])
def test_trainers_that_change_inputs(kind, tmp_path):
    assert_same(tmp_path, lambda: {"trainer_cls": kind})


class Weighted(Trainer):
    """What most people override: a loss of their own."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = torch.nn.functional.cross_entropy(outputs.logits, labels, weight=torch.tensor([1.0, 2.0, 3.0]))
        return (loss, outputs) if return_outputs else loss


def test_a_loss_of_ones_own_starts_late(tmp_path):
    assert_same(tmp_path, lambda: {"trainer_cls": Weighted}, late=True)


class OwnLoader(Trainer):
    """Collates by itself, and takes the columns that it knows."""

    def get_train_dataloader(self):
        def collate(rows):
            return {
                "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
                "labels": torch.tensor([row["labels"] for row in rows]),
            }

        generator = torch.Generator().manual_seed(0)
        return torch.utils.data.DataLoader(self.train_dataset, 4, shuffle=True, collate_fn=collate, generator=generator)


class MixingLoader(Trainer):
    """Changes batches on their way out of the loader."""

    def get_train_dataloader(self):
        loader, mixed = super().get_train_dataloader(), self.args

        class Loader:
            dataset, args = loader.dataset, mixed

            def __len__(self):
                return len(loader)

            def __iter__(self):
                for batch in loader:
                    yield {**batch, "pixel_values": batch["pixel_values"].flip(0)}

        return Loader()


@pytest.mark.parametrize("kind", [OwnLoader, MixingLoader])
def test_loaders_of_ones_own(kind, tmp_path):
    assert_same(tmp_path, lambda: {"trainer_cls": kind})


# --- collators --------------------------------------------------------------------------------
def stack(rows):
    return {
        "pixel_values": torch.stack([torch.as_tensor(row["pixel_values"]) for row in rows]),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


class Fresh(Rows):
    """Rows made anew at every reading, as from a file."""

    def __getitem__(self, index):
        row = super().__getitem__(index)
        return {**row, "pixel_values": row["pixel_values"].clone()}


def scaling(rows):
    for row in rows:
        row["pixel_values"].mul_(0.5)
    return stack(rows)


def test_a_collator_that_writes_into_rows(tmp_path):
    assert_same(tmp_path, lambda: {"train_dataset": Fresh(), "data_collator": scaling})


class Lists(Rows):
    def __getitem__(self, index):
        row = super().__getitem__(index)
        return {**row, "pixel_values": row["pixel_values"].tolist(), "path": ["a", "b"]}


def popping(rows):
    for row in rows:
        assert row["path"].pop() == "b"
    return stack(rows)


def test_a_collator_that_shortens_lists(tmp_path):
    args = {"remove_unused_columns": False}
    assert_same(tmp_path, lambda: {"train_dataset": Lists(), "data_collator": popping, "args": args})


def labels_from_pixels(rows):
    batch = stack(rows)
    return {**batch, "labels": (batch["pixel_values"].mean((1, 2, 3)) > 0).long()}


def test_a_collator_that_makes_labels_of_inputs(tmp_path):
    assert_same(tmp_path, lambda: {"data_collator": labels_from_pixels}, late=True)


def sometimes_random(rows):
    batch = stack(rows)
    if torch.rand(()) < 0.1:
        batch["pixel_values"] = batch["pixel_values"].flip(-1)
    return batch


def test_a_random_collator(tmp_path):
    for seed in range(3):
        torch.manual_seed(seed)
        assert_same(tmp_path / str(seed), lambda: {"data_collator": sometimes_random})


# --- rows -------------------------------------------------------------------------------------
class Pairs(Dataset):
    def __init__(self):
        self.rows = Rows()

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        return row["pixel_values"], row["labels"]


def of_pairs(rows):
    return {"pixel_values": torch.stack([row[0] for row in rows]), "labels": torch.tensor([row[1] for row in rows])}


def test_rows_that_are_pairs(tmp_path):
    assert_same(tmp_path, lambda: {"train_dataset": Pairs(), "data_collator": of_pairs})


class Rarely:
    """Augments one reading in twenty."""

    def __call__(self, row):
        return {**row, "pixel_values": row["pixel_values"].flip(-1)} if torch.rand(()) < 0.05 else row


def test_rare_augmentation_is_seen(tmp_path):
    for seed in range(3):
        torch.manual_seed(seed)
        assert_same(tmp_path / str(seed), lambda: {"train_transform": Rarely(), "eval_transform": dict})


# --- trainers ---------------------------------------------------------------------------------
class NeedsRows(Trainer):
    """Counts the classes when it is made."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.counts = np.bincount([self.train_dataset[i]["labels"] for i in range(len(self.train_dataset))])


def test_a_trainer_that_reads_its_rows_at_once(tmp_path):
    assert_same(tmp_path, lambda: {"trainer_cls": NeedsRows}, late=True)


class Renames(Trainer):
    """The model knows the columns by other names."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        outputs = model(pixel_values=inputs["image"], labels=inputs["labels"])
        return (outputs.loss, outputs) if return_outputs else outputs.loss


class Images(Rows):
    def __getitem__(self, index):
        row = super().__getitem__(index)
        return {"image": row["pixel_values"], "labels": row["labels"]}


def test_batches_that_the_model_does_not_know(tmp_path):
    args = {"remove_unused_columns": False}
    assert_same(tmp_path, lambda: {"train_dataset": Images(), "trainer_cls": Renames, "args": args})


class Soft(Rows):
    def __getitem__(self, index):
        row = super().__getitem__(index)
        return {**row, "labels": torch.nn.functional.one_hot(torch.tensor(row["labels"]), 3).float()[None]}


def soft_loss(outputs, labels, num_items_in_batch=None):
    return torch.nn.functional.cross_entropy(outputs.logits, labels[:, 0])


def test_labels_that_only_the_loss_understands(tmp_path):
    make = lambda: {"train_dataset": Soft(), "compute_loss_func": soft_loss, "compute_metrics": None}  # noqa: E731
    assert_same(tmp_path, make, late=True)


BEST = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}


ARGUMENTS = {
    "bf16 head": {"bf16": True, "init_head": "fit"},
    "smoothing": {"label_smoothing_factor": 0.1},
    "accumulation": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 3},
    "workers": {"dataloader_num_workers": 1},
    "persistent": {"dataloader_num_workers": 1, "dataloader_persistent_workers": True},
    "inner": {**BEST},
    "inner persistent": {**BEST, "dataloader_num_workers": 1, "dataloader_persistent_workers": True},
    "drop": {"dataloader_drop_last": True, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4},
}


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_arguments(kind, tmp_path):
    tolerance = 1e-2 if "bf16" in kind else 1e-6
    assert_same(tmp_path, lambda: {"args": ARGUMENTS[kind]}, late=True, tolerance=tolerance)


def test_persistent_workers_score_the_rows_that_were_asked_for(tmp_path):
    args = {**BEST, "dataloader_num_workers": 1, "dataloader_persistent_workers": True}
    count = lambda prediction: {"count": float(len(prediction.label_ids))}  # noqa: E731
    found, _ = evaluated(tmp_path, False, args=args, compute_metrics=count)
    assert found.metrics["eval_count"] == len(FOLD.validation)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(reentrant, tmp_path):
    toy = TOYS["bert"]

    def make():
        return {
            "model": toy.build(), "train_dataset": ToyRows(toy, 24), "compute_metrics": None,
            "candidate": Candidate((toy.blocks[1],)),
            "args": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": reentrant}},
        }  # fmt: skip

    assert_same(tmp_path, make, late=True, tolerance=1e-4)


class Taught(Trainer):
    """Learns from another model too, which gets the same batch."""

    teacher = make_model(seed=3)

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        outputs = model(**inputs)
        with torch.no_grad():
            logits = self.teacher(**inputs).logits
        loss = outputs.loss + torch.nn.functional.mse_loss(outputs.logits, logits)
        return (loss, outputs) if return_outputs else loss


def test_a_teacher_gets_the_whole_batch_and_no_numbers(tmp_path):
    assert_same(tmp_path, lambda: {"trainer_cls": Taught}, late=True)


# --- data sets --------------------------------------------------------------------------------
class Augmented(Rows):
    """Rows that are random by themselves, in one reading of a hundred."""

    def __getitem__(self, index):
        row = super().__getitem__(index)
        return {**row, "pixel_values": row["pixel_values"].flip(-1)} if torch.rand(()) < 0.01 else row


def cache_of(folder, args=None, **kwargs):
    return open_cache(make_trainer(folder, args=args, **kwargs)._recipe, False)


def test_random_rows_are_seen_by_the_numbers_they_draw(tmp_path):
    assert not cache_of(tmp_path / "a", train_transform=Rarely(), eval_transform=dict).fits_training
    assert cache_of(tmp_path / "b", train_dataset=Augmented()) is None
    assert not cache_of(tmp_path / "c", train_dataset=Augmented(), validation_dataset=Rows(8, seed=3)).fits_training
    assert cache_of(tmp_path / "d", validation_dataset=Augmented(8, seed=3)) is None
    viewed = cache_of(tmp_path / "e", {"augmentation_views": 2}, train_transform=Rarely(), eval_transform=dict)
    assert viewed.fits_training and viewed.sources[0].views == 2


def table(**columns):
    rows = Rows()
    images, labels = [rows[i]["pixel_values"].tolist() for i in range(24)], [rows[i]["labels"] for i in range(24)]
    return datasets.Dataset.from_dict({"pixel_values": images, "labels": labels, **columns})


class ReadsColumns(Trainer):
    """Reads the whole label column of a `datasets.Dataset`."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        loss, outputs = super().compute_loss(model, inputs, True, **kwargs)
        share = sum(self.train_dataset["labels"]) / len(self.train_dataset) + len(self.train_dataset.column_names)
        return (share * loss, outputs) if return_outputs else share * loss


@pytest.mark.parametrize("kind", ["torch", "transform", "columns"])
def test_tables(kind, tmp_path):
    def make():
        rows = table()
        if kind == "torch":
            return {"train_dataset": rows.with_format("torch")}
        if kind == "transform":
            to_tensors = lambda batch: {**batch, "pixel_values": list(map(torch.tensor, batch["pixel_values"]))}  # noqa: E731
            return {"train_dataset": rows.with_transform(to_tensors), "args": {"remove_unused_columns": False}}
        return {"train_dataset": rows, "trainer_cls": ReadsColumns}

    assert_same(tmp_path, make, late=True)


def test_rows_sorted_by_a_column(tmp_path):
    args = {
        "train_sampling_strategy": "group_by_length", "length_column_name": "length", "remove_unused_columns": False,
    }  # fmt: skip
    rows = table(length=list(range(24)))
    assert_same(tmp_path, lambda: {"train_dataset": rows, "args": args, "data_collator": stack})


def test_light_rows_stay_within_the_budget():
    class Wide(Rows):
        def __getitem__(self, index):
            return {**super().__getitem__(index), "image": np.zeros(5000, np.uint8)}

    store = RowStore([RowSource(Wide(), None)], 30_000)
    store.read(range(24))
    store.skip(["pixel_values"])
    for _ in range(2):
        assert [row["labels"] for row in store.read_light(range(24))] == Wide().classes
    assert store.held <= 30_000 and len(store._light) == 5
    kept = sum(map(bytes_of, store._kept.values()))
    assert kept + 5 * 5000 <= store.held


def test_persistent_workers_show_the_views_of_an_epoch():
    source = RowSource(Rows(4), None, views=2)
    rows = NumberedRows(RowStore([source], 10**6), source, range(4))
    loader = torch.utils.data.DataLoader(rows, 4, num_workers=1, persistent_workers=True, collate_fn=list)
    seen = []
    for epoch in range(2):
        rows.set_epoch(epoch)
        seen.append([row["subtuning_rows"] for batch in loader for row in batch])
    assert seen == [[0, 2, 4, 6], [1, 3, 5, 7]]


# --- the final training -----------------------------------------------------------------------
def final(folder, cls=None, **args):
    settings = {"num_train_epochs": 4, "logging_strategy": "epoch", **args}
    trainer = make_trainer(folder, args=settings, cls=cls)
    trainer.train(blocks=[2])
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], trainer


class Own(GreedySubTuningTrainer):
    """Reads inputs in its own loss; its candidates do not."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        loss, outputs = super().compute_loss(model, inputs, True, **kwargs)
        loss = loss * inputs["pixel_values"].abs().mean()
        return (loss, outputs) if return_outputs else loss


def test_the_final_training_of_a_subclass_gets_its_inputs(tmp_path):
    assert final(tmp_path / "a", Own)[0] == pytest.approx(final(tmp_path / "b", Own, prefix_cache=False)[0], rel=1e-6)


def test_a_final_training_goes_on_from_a_checkpoint(tmp_path):
    whole, trainer = final(tmp_path / "a", save_strategy="epoch")
    assert trainer.data_collator.__class__.__name__ != "NumberingCollator" and "training_step" not in vars(trainer)
    again = make_trainer(tmp_path / "a", args={"num_train_epochs": 4, "logging_strategy": "epoch"})
    again.train(blocks=[2], resume_from_checkpoint=str(next((tmp_path / "a").glob("checkpoint-6"))))
    rest = [entry["loss"] for entry in again.state.log_history if "loss" in entry]
    assert rest == pytest.approx(whole, rel=1e-6)


def test_search_train_search(tmp_path):
    runs = {}
    for cached in (True, False):
        args = {"max_blocks": 1, "num_train_epochs": 3, "prefix_cache": cached}
        trainer = make_trainer(tmp_path / str(cached), args=args)
        before = state_of(trainer.base_model)
        trainer.search()
        trainer.train()
        trainer.args.max_blocks = 2
        with contextlib.suppress(ArgumentsError):  # the base holds what was trained
            trainer.search()
        trainer._unwrap()
        assert_same_state(before, state_of(trainer.base_model))
        runs[cached] = [e.score for e in read_study(trainer.journal_folder).evaluations]
    assert runs[True] == pytest.approx(runs[False])


class Stops(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        raise KeyboardInterrupt


def test_a_training_that_breaks_off_leaves_nothing(tmp_path):
    recipe = make_trainer(tmp_path, callbacks=[Stops], args={"num_train_epochs": 2})._recipe
    before = state_of(recipe.model)
    evaluator = Evaluator(recipe)
    evaluator.cache = open_cache(recipe, False)
    with pytest.raises(KeyboardInterrupt):
        evaluator(Unit(LAST, 0), FOLD)
    assert_same_state(before, state_of(recipe.model))
    assert not any("forward" in vars(module) for module in recipe.model.modules())
    recipe.callbacks = ()
    again = evaluator(Unit(LAST, 0), FOLD)
    plain, _ = evaluated(tmp_path / "plain", False)
    assert again.score == pytest.approx(plain.score, rel=1e-6)
