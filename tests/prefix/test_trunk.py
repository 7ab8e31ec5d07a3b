"""The trunk around its bits: nothing is left behind, wrong rows are refused, selections lead to their cuts."""

import random

import numpy as np
import pytest
import torch
from peft import get_peft_model
from torch import nn

from subtuning_hf import SubTuningConfig
from subtuning_hf.errors import PrefixCacheError, UnknownBlockError
from subtuning_hf.prefix import ROWS, Trunk
from toys import TOYS, logits_of


def trunk_of(name="vit", rows=6, model=None, **settings):
    toy = TOYS[name]
    data = toy.inputs(rows)
    model = toy.build() if model is None else model
    settings = {"batch_size": 4, **settings}
    return Trunk(model, toy.blocks, lambda n: {k: v[list(n)] for k, v in data.items()}, rows, **settings)


def state_of(model):
    """Everything on the modules: attributes, hooks, modes."""
    return [
        (name, {key: list(value) if isinstance(value, dict) else id(value) for key, value in module.__dict__.items()})
        for name, module in model.named_modules()
    ]


def logits(trunk, rows, top=None, **extra):
    with torch.no_grad():
        return logits_of((top or trunk.model)(**trunk.batch_of(rows), **{ROWS: torch.tensor(rows)}, **extra))


# --- nothing is left --------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["vit", "t5", "timm-swin", "timm-densenet"])
def test_learning_checking_and_filling_leave_nothing(name):
    model = TOYS[name].build()
    model.train()
    next(module for module in model.modules() if isinstance(module, nn.Dropout)).eval()
    before, modes = state_of(model), [module.training for module in model.modules()]
    values = {key: value.clone() for key, value in model.state_dict().items()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    trunk = trunk_of(name, model=model)
    trunk.probe()
    trunk.fill(range(1, len(trunk.blocks) + 1))
    assert [module.training for module in model.modules()] == modes
    assert state_of(model) == before
    assert all(torch.equal(value, values[key]) for key, value in model.state_dict().items())
    assert torch.equal(states[0], torch.get_rng_state()) and states[1] == random.getstate()
    assert states[2] == np.random.get_state()[1].tolist()


@pytest.mark.parametrize("error", [False, True])
def test_running_leaves_nothing(error):
    trunk = trunk_of()
    trunk.fill([1, 2])
    own = lambda *args, **kwargs: type(module).forward(module, *args, **kwargs)  # noqa: E731
    module = trunk.learned.modules["vit.layers.0"]
    module.forward = own  # as accelerate leaves one
    top = get_peft_model(trunk.model, SubTuningConfig(blocks=["vit.layers.2"]))
    before = state_of(top)
    try:
        with trunk.starting_at(top, 2):
            assert state_of(top) != before
            logits(trunk, [1, 2], top)
            if error:
                with pytest.raises(AttributeError):
                    top(pixel_values="no image", **{ROWS: torch.tensor([0])})
                raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert state_of(top) == before
    assert module.__dict__["forward"] is own
    del module.forward
    top.unload()


def test_a_failing_call_does_not_touch_the_next():
    trunk = trunk_of()
    trunk.fill([2])
    broken = trunk.learned.modules["vit.layers.2"]
    full = logits_of(trunk.model(**trunk.batch_of([0, 1])))
    top = get_peft_model(trunk.model, SubTuningConfig(blocks=[]))
    with trunk.starting_at(top, 2):
        handle = broken.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            logits(trunk, [4, 5], top)
        handle.remove()
        # The base model, which brings no row numbers: those of the failed call must be gone.
        assert torch.equal(logits_of(trunk.model(**trunk.batch_of([0, 1]))), full)
    top.unload()


def test_contexts_nest_and_repeat():
    trunk = trunk_of()
    trunk.fill([1, 2])
    model, before = trunk.model, state_of(trunk.model)

    def skipped():
        return ["forward" in trunk.learned.modules[block].__dict__ for block in trunk.blocks]

    with trunk.starting_at(model, 2):
        outer = logits(trunk, [0, 3])
        with trunk.starting_at(model, 1) as used:
            assert used == 1 and skipped() == [True, False, False]
            logits(trunk, [0, 3])
        assert skipped() == [True, True, False]
        assert torch.equal(logits(trunk, [0, 3]), outer)
    assert state_of(model) == before
    with trunk.starting_at(model, 2):
        assert torch.equal(logits(trunk, [0, 3]), outer)


def test_row_numbers_never_reach_the_model():
    trunk = trunk_of()
    trunk.fill([2])
    top = get_peft_model(trunk.model, SubTuningConfig(blocks=["vit.layers.2"]))
    seen = []
    handle = top.register_forward_pre_hook(lambda _m, _a, kwargs: seen.append(set(kwargs)), with_kwargs=True)
    for cut in (0, 1, 2, 3):  # at 0 and 1 nothing is stored; the batch brings the numbers all the same
        with trunk.starting_at(top, cut) as used:
            assert used == (2 if cut >= 2 else 0)
            logits(trunk, [0, 1], top)
            top(**trunk.batch_of([0, 1]), **{ROWS: None})
    handle.remove()
    assert len(seen) == 8 and all(names == {"pixel_values"} for names in seen)
    top.unload()


# --- rows -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0, 6], "row numbers in 0 ... 5, found 0 ... 6"),
        ([-1, 2], "found -1 ... 2"),
        ([0], "one row number per row"),
        ([[0, 1]], "of shape \\(1, 2\\)"),
        ([0.0, 1.0], "float32"),
    ],
)
def test_wrong_row_numbers_are_refused(rows, message):
    trunk = trunk_of()
    trunk.fill([2])
    with torch.no_grad(), trunk.starting_at(trunk.model, 2), pytest.raises(PrefixCacheError, match=message):
        trunk.model(**trunk.batch_of([0, 1]), **{ROWS: torch.tensor(rows)})


def test_a_row_gets_its_own_values():
    trunk = trunk_of()
    trunk.fill([3])
    with trunk.starting_at(trunk.model, 3):
        mine, others = logits(trunk, [1, 2]), logits(trunk, [4, 5])
        batch = trunk.batch_of([4, 5])  # images that nobody looks at
        with torch.no_grad():
            swapped = logits_of(trunk.model(**batch, **{ROWS: torch.tensor([2, 1])}))
    assert torch.allclose(swapped, mine[[1, 0]], rtol=1e-6) and not torch.allclose(swapped, others)


# --- calls that cannot be served --------------------------------------------------------------
def test_other_arguments_make_a_call_run_in_full():
    trunk = trunk_of("bert")
    trunk.fill([2])
    rows = [1, 4]
    batch = trunk.batch_of(rows)
    backwards = {"position_ids": torch.arange(9).flip(0).expand(2, 9)}
    unmasked = {"input_ids": batch["input_ids"]}
    with torch.no_grad(), trunk.starting_at(trunk.model, 2):
        for called in ({**batch, **backwards}, unmasked):
            found = trunk.model(**called, **{ROWS: torch.tensor(rows)}).logits
            assert torch.equal(found, trunk.model(**called).logits)
        # Labels change nothing that is stored.
        first = trunk.learned.modules["bert.encoder.layer.0"].attention
        handle = first.register_forward_pre_hook(lambda *_: 1 / 0)
        trunk.model(**batch, labels=torch.tensor([0, 1]), **{ROWS: torch.tensor(rows)})
        handle.remove()


def test_positional_arguments_make_a_call_run_in_full():
    trunk = trunk_of()
    trunk.fill([3])
    images = trunk.batch_of([0, 1])["pixel_values"]
    with torch.no_grad(), trunk.starting_at(trunk.model, 3):
        found = trunk.model(images, **{ROWS: torch.tensor([4, 5])}).logits
        assert torch.equal(found, trunk.model(images).logits)


def test_copies_of_the_model_are_refused():
    trunk = trunk_of()
    trunk.fill([2])
    with trunk.starting_at(trunk.model, 2):
        replica = trunk.model._replicate_for_data_parallel()
        with pytest.raises(PrefixCacheError, match="one process per device"):
            replica(**trunk.batch_of([0, 1]), **{ROWS: torch.tensor([0, 1])})


def test_a_model_that_moved_is_refused(monkeypatch):
    trunk = trunk_of()
    trunk.fill([2])
    monkeypatch.setattr(trunk.learned, "device", torch.device("meta"))
    with trunk.starting_at(trunk.model, 2), pytest.raises(PrefixCacheError, match="was on meta .* is on cpu"):
        logits(trunk, [0, 1])


# --- cuts of selections, costs ----------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "names", "cut"),
    [
        ("vit", ["vit.layers.1"], 1),
        ("vit", ["vit.layers.2", "vit.layers.1"], 1),
        ("vit", ["vit.layers.2.attention"], 2),
        ("vit", ["vit.layers.1.mlp.fc1"], 1),
        ("vit", ["vit.layernorm"], 3),
        ("vit", ["classifier"], 3),
        ("vit", [], 3),
        ("vit", ["vit.embeddings.patch_embeddings"], 0),
        ("vit", ["vit"], 0),
        ("bert", ["bert.pooler"], 3),
        ("swin", ["swin.encoder.layers.1"], 2),
        ("swin", ["swin.encoder.layers.0.downsample"], 2),
        ("swin", ["swin.encoder.layers.0"], 0),
        ("convnext", ["convnext.encoder.stages.1"], 1),
        ("convnext", ["convnext.encoder.stages.2.downsampling_layer"], 3),
        ("t5", ["transformer.decoder.block.1"], 3),
        ("t5", ["transformer.shared"], 0),
        ("wav2vec2", ["wav2vec2.feature_projection"], 0),
        ("timm-resnet", ["layer2"], 2),
    ],
)
def test_cut_of_a_selection(name, names, cut):
    assert trunk_of(name).cut_of(names) == cut


def test_cut_of_an_unknown_name():
    with pytest.raises(UnknownBlockError, match="'vit.layers.9'"):
        trunk_of().cut_of(["vit.layers.9"])


def test_tuning_between_blocks_starts_before_it():
    """A part between two blocks is run, with gradients, on what is stored."""
    trunk = trunk_of("swin")
    name = "swin.encoder.layers.0.downsample"
    cut = trunk.cut_of([name])
    assert trunk.fill([cut]) == (cut,) == (2,)
    trunk.model.requires_grad_(False)
    weight = dict(trunk.model.named_parameters())[f"{name}.reduction.weight"].requires_grad_()
    rows, grads = [0, 1, 2, 3], []
    for extra in ({}, {ROWS: torch.tensor(rows)}):
        with trunk.starting_at(trunk.model, cut):
            loss = trunk.model(**trunk.batch_of(rows), **extra).logits.pow(2).mean()
        grads.append(torch.autograd.grad(loss, weight)[0])
    assert torch.equal(*grads) and grads[0].any()


def test_costs():
    costs = trunk_of().probe()
    assert costs.bytes_per_row == (0.0, *(17 * 16 * 4.0,) * 3)  # 16 patches and the class token, 16 wide, 4 bytes
    assert len(set(costs.shares)) == 1 and 0.5 < sum(costs.shares) < 1
    shares = trunk_of("timm-resnet").probe().shares
    assert all(share > 0 for share in shares) and sum(shares) < 1
    decoder = trunk_of("t5").probe().bytes_per_row
    assert decoder[1] == decoder[2] and decoder[3] == 2 * decoder[2], "behind the encoder its output is needed too"


# --- other types ------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", ["vit", "bert", "resnet"])
def test_models_of_other_types(name, kind, tmp_path):
    model = TOYS[name].build().to(kind)
    data = {k: v.to(kind) if v.is_floating_point() else v for k, v in TOYS[name].inputs(6).items()}
    trunk = Trunk(model, TOYS[name].blocks, lambda n: {k: v[list(n)] for k, v in data.items()}, 6, batch_size=4)
    assert trunk.fill([1, 2], folder=tmp_path) == (1, 2)
    assert all(array.dtype == kind for array in trunk.store.arrays.values())
    rows = [0, 1, 2, 3]
    with trunk.starting_at(model, 2):
        assert torch.equal(logits(trunk, rows), logits_of(model(**trunk.batch_of(rows))))


@pytest.mark.parametrize("name", ["vit", "bert", "t5", "resnet"])
def test_under_autocast(name):
    trunk = trunk_of(name, autocast=torch.bfloat16)
    assert trunk.fill([2]) == (2,)
    top = get_peft_model(trunk.model, SubTuningConfig(blocks=list(trunk.blocks[2:])))
    rows, found = [0, 1, 2, 3], []
    for extra in ({}, {ROWS: torch.tensor(rows)}):
        top.train()
        top.zero_grad()
        torch.manual_seed(0)
        with trunk.starting_at(top, 2), torch.autocast("cpu", torch.bfloat16):
            out = logits_of(top(**trunk.batch_of(rows), **extra))
        out.float().pow(2).mean().backward()
        found.append([out.detach(), *(p.grad.clone() for p in top.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 1
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_gradient_checkpointing_of_tuned_blocks():
    trunk = trunk_of("vit")
    trunk.fill([1])
    top = get_peft_model(trunk.model, SubTuningConfig(blocks=list(trunk.blocks[1:])))
    top.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    rows, found = [0, 1, 2, 3], []
    for extra in ({}, {ROWS: torch.tensor(rows)}):
        top.train()
        top.zero_grad()
        with trunk.starting_at(top, 1):
            out = logits_of(top(**trunk.batch_of(rows), **extra))
        out.pow(2).mean().backward()  # runs tuned blocks again, after the context ended
        found.append([out.detach(), *(p.grad.clone() for p in top.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1]) > 1
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_strict_call_must_start_late():
    trunk = trunk_of()
    trunk.fill([2])
    batch = trunk.batch_of([0, 1])
    with torch.no_grad(), trunk.starting_at(trunk.model, 2, strict=True):
        trunk.model(**batch, **{ROWS: torch.tensor([0, 1])})
        with pytest.raises(PrefixCacheError, match="prefix_cache=False"):
            trunk.model(**batch, **{ROWS: torch.tensor([0, 1])}, output_hidden_states=True)
    assert trunk.calls == {"started late": 1, "in full": 1}
