"""Blocks that start from a fresh initialisation: drawn by the model's own initialiser, from torch's seed."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from torch import nn

from life import SELECTION, changed, copies, frozen_keys, move, run, same, snapshot, steps, wrap
from subtuning_hf import SubTuningConfig, find_blocks
from subtuning_hf.errors import ArgumentsError, JournalError, StudyMismatchError
from subtuning_hf.training import GreedySubTuningArguments
from subtuning_hf.tuner import BlockLayer
from toys import TOYS
from training.cases import make_args, make_trainer

# A bare parameter of a ConvNeXt block in timm, whose first value nothing but its constructor knows.
REFUSED = {"timm-convnext", "wrapped-convnext"}
QUICK = {"vit", "bert", "resnet", "t5", "timm-vit", "timm-resnet", "plain-resnet", "plain-sequential"}
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in sorted(set(TOYS) - REFUSED)]
BERT, RESNET = TOYS["bert"], TOYS["resnet"]


@pytest.fixture(params=NAMES)
def toy(request):
    return TOYS[request.param]


def drawn(toy, seed=0, **config):
    torch.manual_seed(seed)
    return wrap(toy.build(), init_blocks="random", **config)


def own_blocks(model):
    return [m.subtuning_blocks["first"] for m in model.modules() if isinstance(m, BlockLayer)]


def weights(model):
    """Matrices of the tuned copies, by name."""
    return {n: p for n, p in model.named_parameters() if ".subtuning_blocks." in n and p.ndim > 1}


# --- what is drawn ---------------------------------------------------------------------------
def test_every_matrix_is_drawn_from_the_seed(toy):
    model, again, other = drawn(toy), drawn(toy), drawn(toy, seed=1)
    untouched = wrap(toy.build())
    assert same(run(model, toy), run(again, toy))
    old, of_seed_1 = weights(untouched), weights(other)
    for name, weight in weights(model).items():
        assert weight.isfinite().all() and not same(weight, old[name]), name
        assert not same(weight, of_seed_1[name]) or not weight.any(), name  # a table of biases starts at 0
    before, after = snapshot(untouched), snapshot(model)
    assert not changed(before, after, frozen_keys(before)), "the originals stay"
    with model.disable_adapter():
        assert same(run(model, toy), run(toy.build(), toy))


def test_as_the_model_draws_its_own():
    model = drawn(BERT)
    std = model.config.initializer_range
    for block in own_blocks(model):
        for module in block.modules():
            if isinstance(module, nn.Linear):
                assert not module.bias.any() and 0.5 * std < module.weight.std().item() < 2 * std
            if isinstance(module, nn.LayerNorm):
                assert (module.weight == 1).all() and not module.bias.any()


@pytest.mark.parametrize("name", ["resnet", "timm-resnet", "plain-resnet"])
def test_statistics_of_norms_are_reset(name):
    toy = TOYS[name]
    for block, old in zip(own_blocks(drawn(toy)), own_blocks(wrap(toy.build())), strict=True):
        norms = [m for m in block.modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms and any(m.running_mean.any() for m in old.modules() if isinstance(m, nn.BatchNorm2d))
        assert all(not m.running_mean.any() and (m.running_var == 1).all() for m in norms)
        assert all(not m.num_batches_tracked for m in norms)


def test_loaded_models_are_drawn_anew_too(tmp_path):
    """transformers marks what it has loaded, and its initialisers pass that by."""
    BERT.build().save_pretrained(tmp_path)
    base = type(BERT.build()).from_pretrained(tmp_path)
    torch.manual_seed(0)
    found = weights(wrap(base, init_blocks="random"))
    want = weights(drawn(BERT))
    assert all(same(found[name], want[name]) for name in want)


def test_trains_saves_and_loads(toy, tmp_path):
    model = drawn(toy)
    before = snapshot(model)
    model.train()
    steps(model, toy, 1)
    assert not changed(before, snapshot(model), frozen_keys(before))
    move(model)
    expected = run(model, toy)
    model.save_pretrained(tmp_path)
    torch.manual_seed(7)
    loaded = PeftModel.from_pretrained(toy.build(), tmp_path / "first", adapter_name="other")
    assert same(run(loaded, toy), expected)


def test_beside_a_pretrained_adapter():
    model = wrap(BERT.build())
    first = run(model, BERT)
    torch.manual_seed(0)
    model.add_adapter("second", SubTuningConfig(blocks=SELECTION, init_blocks="random"))
    assert same(run(model, BERT), first)
    model.set_adapter("second")
    assert same(run(model, BERT), run(drawn(BERT), BERT))
    assert len(copies(model, "second")) == len(copies(model, "first"))


# --- what is refused -------------------------------------------------------------------------
@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_parameter_that_nothing_draws(name):
    base = TOYS[name].build()
    before = snapshot(base)
    with pytest.raises(ArgumentsError, match=r"cannot draw '.*\.gamma'.*reset_parameters of 'ConvNeXtBlock'"):
        wrap(base, init_blocks="random")
    after = snapshot(base)
    assert list(after) == list(before) and not changed(before, after, before)
    assert not any(isinstance(module, BlockLayer) for module in base.modules())


def test_a_module_that_draws_half_of_itself():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.gain, self.shift = (
                nn.Linear(4, 4),
                nn.Parameter(torch.ones(4)),
                nn.Parameter(torch.ones(4)),
            )

        def reset_parameters(self):
            nn.init.ones_(self.gain)

        def forward(self, x):
            return self.linear(x) * self.gain + self.shift

    model = nn.Sequential(Half(), Half(), nn.Linear(4, 2))
    with pytest.raises(ArgumentsError, match=r"cannot draw '1\.shift'"):
        wrap(model, blocks=["1"], head=["2"], init_blocks="random")


def test_values(tmp_path):
    with pytest.raises(ArgumentsError, match="`init_blocks` must be 'pretrained' or 'random'"):
        SubTuningConfig(blocks=[0], init_blocks="fresh")
    with pytest.raises(ArgumentsError, match="init_blocks"):
        make_args(tmp_path, init_blocks="fresh")
    with pytest.raises(ArgumentsError, match="strategy='exact'"):
        GreedySubTuningArguments(output_dir=str(tmp_path), init_blocks="random")


# --- in a search -----------------------------------------------------------------------------
def test_search_and_training_start_from_drawn_blocks(tmp_path):
    seen = {}
    for init in ("pretrained", "random"):
        args = {"init_blocks": init, "learning_rate": 1e-8, "max_blocks": 1}
        trainer = make_trainer(tmp_path / init, args=args)
        result = trainer.search()
        trainer.train(blocks=[0])
        name = find_blocks(trainer.base_model)[0].name
        own = trainer.model.get_submodule(f"base_model.model.{name}").subtuning_blocks["default"]
        original = trainer.model.get_submodule(f"base_model.model.{name}").base_layer
        pairs = zip(own.parameters(), original.parameters(), strict=True)
        seen[init] = all(torch.allclose(*pair, atol=1e-5) for pair in pairs), result.rounds
    assert seen["pretrained"][0] and not seen["random"][0]
    assert seen["pretrained"][1] != seen["random"][1]


def test_scores_of_the_two_are_never_mixed(tmp_path):
    make_trainer(tmp_path, args={"max_blocks": 1}).search()
    with pytest.raises((StudyMismatchError, JournalError), match="init_blocks"):
        make_trainer(tmp_path, args={"max_blocks": 1, "init_blocks": "random"}).search()
    make_trainer(tmp_path, args={"max_blocks": 1, "init_blocks": "pretrained"}).search()
