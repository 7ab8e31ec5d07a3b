"""Searches with and without the cache: the same scores, and nothing left behind."""

import random

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainerCallback

from subtuning_hf.errors import ArgumentsError, PrefixCacheError
from subtuning_hf.search.folds import Fold
from subtuning_hf.search.journal import read_study
from subtuning_hf.search.records import Candidate, Unit
from subtuning_hf.training import trainer as trainer_module
from subtuning_hf.training.cache import FOLDER, Cache, open_cache
from subtuning_hf.training.evaluator import Evaluator
from subtuning_hf.training.rows import NumberedRows, NumberingCollator, RowSource, RowStore, bytes_of
from toys import NUM_LABELS, TOYS, logits_of
from training.cases import (
    BLOCKS,
    Rows,
    assert_same_state,
    files_under,
    make_args,
    make_trainer,
    state_of,
)

ARGS = {"max_blocks": 2, "num_train_epochs": 2}


def scores(trainer):
    return {e.unit: (e.score, e.metrics["eval_loss"]) for e in read_study(trainer.journal_folder).evaluations}


def cuts(trainer):
    return {e.info.get("cut") for e in read_study(trainer.journal_folder).evaluations}


def both(tmp_path, make, **kwargs):
    """The trainer of a search with the cache, and of one without."""
    trainers = []
    for cached in (True, False):
        args = {**ARGS, **kwargs.get("args", {}), "prefix_cache": cached}
        trainer = make(tmp_path / str(cached), **{**kwargs, "args": args})
        trainer.search()
        trainers.append(trainer)
    return trainers


def assert_equal_scores(cached, plain, tolerance=1e-6):
    one, other = scores(cached), scores(plain)
    assert one.keys() == other.keys()
    for unit in one:
        assert one[unit] == pytest.approx(other[unit], rel=tolerance, abs=tolerance), unit
    assert cached.result.blocks == plain.result.blocks


def test_a_search_with_the_cache_is_one_without(tmp_path):
    cached, plain = both(tmp_path, make_trainer)
    assert_equal_scores(cached, plain)
    assert cuts(cached) == {None, 1, 2, 3} and cuts(plain) == {None}
    assert_same_state(state_of(plain.base_model), state_of(cached.base_model))
    assert not (tmp_path / "True" / FOLDER).exists()


class ToyRows(torch.utils.data.Dataset):
    """Rows of a toy with labels that its inputs do not tell."""

    def __init__(self, toy, count=16):
        self.batch, self.count = toy.inputs(count), count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return {**{name: value[index] for name, value in self.batch.items()}, "labels": index % NUM_LABELS}


def cross_entropy(output, labels, **ignored):
    return torch.nn.functional.cross_entropy(logits_of(output).float(), labels)


@pytest.mark.parametrize("name", ["vit", "bert", "resnet", "swin", "gpt2", "densenet"])
def test_architectures(name, tmp_path):
    if name not in TOYS:
        name = next(other for other in TOYS if name in other)
    toy = TOYS[name]

    def make(folder, args):
        return make_trainer(
            folder, model=toy.build(), train_dataset=ToyRows(toy),
            compute_metrics=None, compute_loss_func=cross_entropy,
            args={**args, "max_blocks": 1, "learning_rate": 1e-3, "label_names": ["labels"]},
        )  # fmt: skip

    cached, plain = both(tmp_path, make)
    assert_equal_scores(cached, plain, tolerance=2e-4)
    if "densenet" in name:  # a dense layer reads what all before it gave: behind the first it cannot be started
        assert cuts(cached) <= {None, 1}
    else:
        assert len(cuts(cached)) == toy.num_blocks + 1


# --- rows ------------------------------------------------------------------------------------
class Noisy:
    """Random augmentation by three sources of random numbers."""

    def __call__(self, item):
        noise = torch.randn(()) + random.random() + float(np.random.rand())
        return {**item, "pixel_values": item["pixel_values"] + noise}


def test_views_depend_on_seed_row_and_view_alone():
    def read(seed, number):
        source = RowSource(Rows(4), Noisy(), views=3, seed=seed)
        return source.read([number])[0]["pixel_values"]

    torch.manual_seed(0)
    random.seed(0)
    expected = torch.randn(()), random.random()
    torch.manual_seed(0)
    random.seed(0)
    first = read(1, 4)
    assert (torch.randn(()), random.random()) == expected  # a training's own random numbers are left alone
    assert torch.equal(first, read(1, 4))
    assert not torch.equal(first, read(2, 4)) and not torch.equal(first, read(1, 5))
    source = RowSource(Rows(4), Noisy(), first=10, views=3)
    assert list(source.numbers) == list(range(10, 22))
    assert [source.number(2, epoch) for epoch in range(4)] == [16, 17, 18, 16]


def test_random_augmentation_is_cached_by_views(tmp_path):
    def make(folder, args):
        return make_trainer(folder, args=args, train_transform=Noisy(), eval_transform=dict)

    # Scores do not depend on the order of trainings.
    cached = make(tmp_path / "cached", {**ARGS, "augmentation_views": 2})
    cached.search()
    assert cuts(cached) == {None, 1, 2, 3}
    again = make(tmp_path / "again", {**ARGS, "augmentation_views": 2})
    again.profile()
    again.search()
    assert scores(again) == scores(cached)
    endless = make(tmp_path / "endless", ARGS)
    endless.search()
    assert all(scores(endless)[unit] != score for unit, score in scores(cached).items() if not unit.candidate.blocks)


def test_each_epoch_shows_its_view(tmp_path):
    class Seen(TrainerCallback):
        log: list = []  # noqa: RUF012

        def on_epoch_end(self, args, state, control, train_dataloader=None, **kwargs):
            self.log.append((train_dataloader.dataset.epoch, train_dataloader.dataset[0]["subtuning_rows"]))

    trainer = make_trainer(
        tmp_path, args={"augmentation_views": 2, "num_train_epochs": 3, "max_blocks": 0},
        train_transform=Noisy(), eval_transform=dict, callbacks=[Seen],
    )  # fmt: skip
    trainer.search()
    epochs = [epoch for epoch, _ in Seen.log]
    values = [value for _, value in Seen.log]
    assert epochs == [0, 1, 2] * 2
    assert values[0] == values[2] != values[1] and values[0] != values[3]  # the other fold begins with another row


def test_rows_are_read_once(tmp_path):
    quiet = Counted()
    make_trainer(tmp_path, args=ARGS, train_transform=quiet, eval_transform=quiet).search()
    assert quiet.counts and max(quiet.counts.values()) <= 20  # checks before and at the start read some rows again
    assert sum(quiet.counts.values()) < 10 * 24


class Counted:
    """A transform that counts how often it is asked for a row."""

    def __init__(self):
        self.counts = {}

    def __call__(self, item):
        key = float(item["pixel_values"].sum())
        self.counts[key] = self.counts.get(key, 0) + 1
        return item


def test_the_store_keeps_no_more_than_its_budget():
    rows = Rows(8)
    one = bytes_of(rows[0])
    store = RowStore([RowSource(rows, None)], 3 * one)
    for _ in range(2):
        found = store.read(range(8))
        assert all(torch.equal(found[i]["pixel_values"], rows[i]["pixel_values"]) for i in range(8))
    assert store.held == 3 * one


def test_light_rows_have_the_shape_of_the_others():
    store = RowStore([RowSource(Rows(4), None)], 10**6)
    store.skip(["pixel_values"])
    light = NumberedRows(store, store.sources[0], [3, 1])[0]
    assert light["pixel_values"].shape == (1, 16, 16) and not light["pixel_values"].any()
    assert light["labels"] == Rows(4)[3]["labels"] and light["subtuning_rows"] == 3
    assert NumberedRows(store, store.sources[0], [3, 1], numbered=False)[0]["pixel_values"].any()
    with pytest.raises(IndexError):
        NumberedRows(store, store.sources[0], [3, 1])[2]


def test_the_collator_sees_no_numbers():
    seen = []
    collate = NumberingCollator(lambda rows: seen.extend(rows) or {"x": torch.zeros(len(rows))})
    assert collate([{"x": 1, "subtuning_rows": 5}, {"x": 2, "subtuning_rows": 7}])["subtuning_rows"].tolist() == [5, 7]
    assert all("subtuning_rows" not in row for row in seen)
    assert "subtuning_rows" not in collate([{"x": 1}, {"x": 2, "subtuning_rows": 7}])


# --- limits ----------------------------------------------------------------------------------
def test_no_budget_no_trunk(tmp_path):
    cached, plain = both(tmp_path, make_trainer, args={"prefix_cache_gb": 0})
    assert_equal_scores(cached, plain, tolerance=0)
    assert cuts(cached) == {None}


def test_a_small_budget_keeps_what_saves_most(tmp_path):
    trainer = make_trainer(tmp_path, args={**ARGS, "prefix_cache_gb": 1.6e-5})
    cache = Cache(trainer._recipe)
    assert cache.trunk is not None and 0 < len(cache.trunk.cuts) < 3
    assert cache.trunk.store.nbytes + cache.rows.held <= 1.6e4
    assert cache.cut_of([BLOCKS[0]]) == 0


@pytest.mark.parametrize(
    ("changes", "word"), [({"neftune_noise_alpha": 5.0}, "neftune"), ({"torch_compile": True}, "torch_compile")]
)
def test_what_cannot_be_cached_is_said(tmp_path, changes, word, caplog):
    trainer = make_trainer(tmp_path, args={"max_blocks": 0})
    for name, value in changes.items():
        setattr(trainer._recipe.args, name, value)
    assert open_cache(trainer._recipe, False) is None
    assert any(word in record.getMessage() for record in caplog.records)


def test_a_callback_that_unfreezes_the_trunk_is_seen(tmp_path):
    class Thaw(TrainerCallback):
        """Trains the first block too."""

        def on_train_begin(self, args, state, control, model=None, **kwargs):
            model.get_submodule(f"base_model.model.{BLOCKS[0]}").requires_grad_(True)

    make_trainer(tmp_path / "plain", callbacks=[Thaw], args={"max_blocks": 0, "prefix_cache": False}).search()
    with pytest.raises(PrefixCacheError, match="prefix_cache=False"):
        make_trainer(tmp_path / "cached", callbacks=[Thaw], args={"max_blocks": 0}).search()


class ByHand(Trainer):
    """A loss of its own, which hands the model what it knows of and nothing else."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        outputs = model(pixel_values=inputs["pixel_values"], labels=inputs["labels"])
        return (outputs.loss, outputs) if return_outputs else outputs.loss


def test_a_trainer_that_drops_the_numbers_runs_in_full(tmp_path):
    cached, plain = both(tmp_path, make_trainer, trainer_cls=ByHand)
    assert_equal_scores(cached, plain, tolerance=0)


@pytest.mark.parametrize("name", ["bert", "gpt2", "vit"])
def test_every_call_starts_late(name, tmp_path):
    toy = TOYS[name]
    trainer = make_trainer(tmp_path, model=toy.build(), train_dataset=ToyRows(toy), compute_metrics=None, args=ARGS)
    cache = Cache(trainer._recipe)
    evaluator = Evaluator(trainer._recipe)
    evaluator.cache = cache
    evaluator(Unit(Candidate((toy.blocks[-1],)), 0), Fold(0, tuple(range(10)), tuple(range(10, 16))))
    assert cache.trunk.calls == {"started late": 2 * 2 + 1, "in full": 0}


def test_the_files_of_several_processes_are_those_of_one(tmp_path):
    trainer = make_trainer(tmp_path / "out", args=ARGS)
    memory = Cache(trainer._recipe)
    files = Cache(trainer._recipe, tmp_path / "files" / "study")
    assert files.trunk.cuts == memory.trunk.cuts
    assert files_under(tmp_path / "files")
    numbers = torch.arange(6)
    batch = memory.batch(range(6))
    outputs = []
    for cache in (memory, files):
        with torch.no_grad(), cache.trunk.starting_at(trainer.base_model, 2) as used:
            assert used == 2
            outputs.append(trainer.base_model(**batch, subtuning_rows=numbers).logits)
    assert torch.equal(*outputs)
    files.close(remove=True)
    assert not (tmp_path / "files").exists()


def test_arguments_are_checked(tmp_path):
    for bad in ({"prefix_cache_gb": -1}, {"augmentation_views": 0}, {"init_head": "best"},
                {"augmentation_views": 2, "prefix_cache": False}):
        with pytest.raises(ArgumentsError, match=next(iter(bad))):
            make_args(tmp_path, **bad)


# --- the final training ----------------------------------------------------------------------
def trained(folder, blocks, **args):
    """Weights and losses of a final training, and its trainer."""
    trainer = make_trainer(folder, args={"num_train_epochs": 3, "logging_strategy": "epoch", **args})
    trainer.train(blocks=blocks)
    weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    return weights, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], trainer


@pytest.mark.parametrize("blocks", [[2], []])
def test_a_late_selection_trains_from_its_first_block(tmp_path, blocks):
    weights, losses, trainer = trained(tmp_path / "cached", blocks)
    plain, plain_losses, other = trained(tmp_path / "plain", blocks, prefix_cache=False)
    assert losses == pytest.approx(plain_losses, rel=1e-6) and weights.keys() == plain.keys()
    for name in weights:
        torch.testing.assert_close(weights[name], plain[name], rtol=1e-5, atol=1e-6)
    assert_same_state(state_of(other.base_model), state_of(trainer.base_model))
    assert type(trainer.data_collator) is type(other.data_collator)
    rows = Rows(9, seed=5)
    assert trainer.evaluate(rows)["eval_loss"] == pytest.approx(other.evaluate(rows)["eval_loss"], rel=1e-5)


def test_the_final_training_is_stored_only_where_it_pays(tmp_path, monkeypatch):
    opened, original = [], trainer_module.open_training_cache

    def watched(*args):
        opened.append(original(*args))
        return opened[-1]

    monkeypatch.setattr(trainer_module, "open_training_cache", watched)
    trained(tmp_path / "late", [2])
    trained(tmp_path / "first", [0])
    trained(tmp_path / "short", [2], num_train_epochs=1)
    trained(tmp_path / "off", [2], prefix_cache=False)
    trained(tmp_path / "steps", [2], max_steps=7)
    assert [cache is not None for cache in opened] == [True, False, False, False, True]


# --- the fitted head -------------------------------------------------------------------------
def test_a_fitted_head_starts_better_and_is_the_same_for_all(tmp_path):
    first = {}

    class Watch(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **kwargs):
            head = [p.detach().clone() for n, p in model.named_parameters() if "classifier" in n and p.requires_grad]
            first.setdefault("heads", []).append(head)

    runs = {}
    for init in ("model", "fit"):
        args = {"max_blocks": 1, "init_head": init, "learning_rate": 1e-5}
        runs[init] = make_trainer(tmp_path / init, args=args, callbacks=[Watch])
        runs[init].search()
    heads = first["heads"]
    assert len(heads) == 16
    distinct = {tuple(head[0].flatten().tolist()) for head in heads[8:]}
    assert len(distinct) == 2  # one for each fold
    assert not torch.equal(heads[0][0], heads[8][0])
    for fold in (0, 1):
        loss = {
            init: next(e.info["train_loss"] for e in read_study(run.journal_folder).evaluations
                       if not e.candidate.blocks and e.fold == fold)
            for init, run in runs.items()
        }  # fmt: skip
        assert loss["fit"] < 0.8 * loss["model"]


def test_a_fitted_head_with_and_without_the_cache(tmp_path):
    cached, plain = both(tmp_path, make_trainer, args={"init_head": "fit"})
    assert_equal_scores(cached, plain, tolerance=1e-4)
    losses = [trained(tmp_path / str(on), [2], init_head="fit", prefix_cache=on)[1] for on in (True, False)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_head_that_cannot_be_fitted_is_refused(tmp_path):
    class Numbers(Rows):
        def __getitem__(self, index):
            return {**super().__getitem__(index), "labels": [0.5, 0.1, 0.2]}

    with pytest.raises(ArgumentsError, match="one class per row"):
        make_trainer(tmp_path, train_dataset=Numbers(), args={"init_head": "fit"}).search()
