"""Pruned copies: what goes and what stays, and an adapter's life with fewer channels, compared bit for bit."""

from __future__ import annotations

import builtins
import json

import pytest
import torch
from peft import AutoPeftModel, PeftModel, get_peft_model
from safetensors import safe_open
from torch import nn

from life import changed, frozen_keys, move, run, same, snapshot, steps, wrap
from subtuning_hf import MultiTaskModel, SubTuningConfig
from subtuning_hf.errors import AdapterFileError, AdapterMismatchError, ArgumentsError, MissingDependencyError
from subtuning_hf.tuner import channels
from subtuning_hf.tuner.channels import find_channels, kept_by
from subtuning_hf.tuner.pruning import prune_blocks
from subtuning_hf.tuner.thin import changed_widths, cut, problem_of
from toys import TOYS

# What goes in the last block: the layers that lose outputs, of how many, and how many are left of half.
EXPECTED = {
    "resnet": [(("layer.0.convolution",), 16, 8)],
    "resnet-bottleneck": [(("layer.0.convolution",), 4, 2), (("layer.1.convolution",), 4, 2)],
    "mobilenet-v2": [(("expand_1x1.convolution",), 96, 48)],
    "convnext": [(("pwconv1",), 64, 32)],
    "timm-mobilenet": None,
    "timm-regnet": None,
    "vit": [(("mlp.fc1",), 32, 16)],
    "bert": [(("intermediate.dense",), 32, 16)],
    "llama": [(("mlp.gate_proj", "mlp.up_proj"), 32, 16)],
    "modernbert": [(("mlp.Wi",), 32, 16)],
    "t5": [(("layer.2.DenseReluDense.wi",), 32, 16)],
}


@pytest.fixture(params=EXPECTED)
def toy(request):
    return TOYS[request.param]


def pruned(toy, **asked):
    model = wrap(toy.build())
    return model, prune_blocks(model, toy.inputs(2, 0), **asked)


def tensors_in(path):
    with safe_open(path / "adapter_model.safetensors", framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


# --- what goes -------------------------------------------------------------------------------
def test_half_of_the_inner_channels_go(toy):
    model, report = pruned(toy)
    last = [one for one in report.pruned if one.block == toy.blocks[-1]]
    assert last
    if EXPECTED[toy.name]:
        assert [(tuple(sorted(one.layers)), one.before, one.after) for one in last] == EXPECTED[toy.name]
    assert report.unpruned_blocks == ()
    for before, after in (report.parameters, report.flops, report.adapter_bytes):
        assert 0 < after < before
    assert f"{report.flops[0]:,} -> {report.flops[1]:,}" in report.table()
    # What a block is given and gives is as wide as before, and attention is whole.
    for block, left in report.left.items():
        assert not {layer for one in report.pruned if one.block == block for layer in one.layers} & left.keys()
    assert torch.isfinite(run(model, toy)).all()


def test_frozen_parts_stay_bit_for_bit(toy):
    model = wrap(toy.build())
    before = snapshot(model)
    prune_blocks(model, toy.inputs(2, 0))
    after = snapshot(model)
    keys = frozen_keys(before)
    assert keys == frozen_keys(after) and not changed(before, after, keys)
    with model.disable_adapter():
        assert same(run(model, toy), run(toy.build(), toy))


def test_what_is_left_computes_what_it_did(toy):
    """A thin block answers like the whole one whose next layers do not look at what went."""
    model, report = pruned(toy)
    whole = wrap(toy.build())
    block, name = report.pruned[-1].block, report.pruned[-1].layers[0]
    full = whole.get_submodule(f"base_model.model.{block}").subtuning_blocks["first"]
    thin = model.get_submodule(f"base_model.model.{block}").subtuning_blocks["first"]
    before, after = (one.get_submodule(name).weight.detach() for one in (full, thin))
    rows = {row.numpy().tobytes() for row in before[:, : after.shape[1]]}
    if before.shape[1:] == after.shape[1:]:
        assert all(row.numpy().tobytes() in rows for row in after), "rows of the pretrained weight, none made up"
    assert set(changed_widths(full, thin)) == set(model.peft_config["first"].pruned_channels[block])


def test_smallest_channels_go_by_either_norm():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        # By L1: 3, 2.9, 2.8, 0.3. By L2 the second is the largest.
        net[0].weight.copy_(torch.tensor([[1.0, 1, 1], [2.9, 0, 0], [1.0, 1, 0.8], [0.1, 0.1, 0.1]]))
        net[2].weight.fill_(0.0)
    call = ((torch.randn(5, 3),), {})
    for norm, order in ((1, [3, 2, 1, 0]), (2, [3, 2, 0, 1])):
        (units,), left = find_channels(net, call, norm)
        assert units.importance.argsort().tolist() == order
        assert list(left) == ["2"]
    thin = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3))
    thin.load_state_dict(net.state_dict())
    cut(thin, kept_by(thin, [(units, torch.tensor([3, 1]))]))
    assert torch.equal(thin[0].weight, net[0].weight[[0, 2]]) and thin[2].weight.shape == (3, 2)
    assert (thin[0].out_features, thin[2].in_features) == (2, 2)


@pytest.mark.filterwarnings("ignore:Nothing was pruned in vit.layers.1")
def test_local_takes_the_same_share_and_global_ranks_all():
    toy = TOYS["vit"]
    shares = {}
    for scope in ("local", "global"):
        model = wrap(toy.build())
        with torch.no_grad():  # one block with weights that are all alike, one with many that are small
            for block, power in zip(toy.blocks[1:], (0.0, 3.0), strict=True):
                mlp = model.get_submodule(f"base_model.model.{block}").subtuning_blocks["first"].mlp
                mlp.fc1.weight.copy_(torch.linspace(0.1, 1, 32)[:, None].expand(32, 16) ** power)
                mlp.fc2.weight.fill_(0.0)
        report = prune_blocks(model, toy.inputs(2, 0), ratio=0.25, scope=scope)
        shares[scope] = {one.block: one.after for one in report.pruned}
        assert sum(one.before - one.after for one in report.pruned) == 16
    assert list(shares["local"].values()) == [24, 24]
    assert shares["global"] == {toy.blocks[2]: 16}, "nothing of the block whose weights are alike"


@pytest.mark.parametrize("scope", ["local", "global"])
def test_one_channel_is_always_left(scope):
    _, report = pruned(TOYS["resnet-bottleneck"], ratio=0.99, scope=scope)
    assert all(one.after >= 1 for one in report.pruned) and min(one.after for one in report.pruned) == 1


def test_widths_that_layers_write_down():
    model, _ = pruned(TOYS["mobilenet-v2"])
    block = model.get_submodule("base_model.model.mobilenet_v2.layer.15").subtuning_blocks["first"]
    depthwise, norm = block.conv_3x3.convolution, block.conv_3x3.normalization
    assert depthwise.groups == depthwise.in_channels == depthwise.out_channels == len(depthwise.weight) == 48
    assert norm.num_features == len(norm.running_mean) == len(norm.weight) == 48
    model, _ = pruned(TOYS["llama"])
    assert model.base_model.model.model.layers[2].mlp.intermediate_size == 16
    assert model.base_model.model.model.layers[0].mlp.intermediate_size == 32
    model, _ = pruned(TOYS["timm-regnet"])
    block = model.base_model.model.s4.b3
    assert block.conv2.conv.groups == TOYS["timm-regnet"].build().s4.b3.conv2.conv.groups > 1
    assert block.conv2.conv.weight.shape[1] * block.conv2.conv.groups == block.conv2.conv.in_channels


def test_what_cannot_be_pruned_is_told():
    toy = TOYS["vit"]
    model = wrap(toy.build(), blocks=["vit.layers.1.attention", "vit.layers.2.mlp"])
    with pytest.warns(UserWarning, match="Nothing was pruned in vit.layers.1.attention: .*apart from one another"):
        report = prune_blocks(model, toy.inputs(2, 0))
    assert report.unpruned_blocks == ("vit.layers.1.attention",)
    assert set(report.left["vit.layers.1.attention"]) == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert "vit.layers.1.attention: q_proj + k_proj + v_proj as it was" in report.table()
    assert [one.block for one in report.pruned] == ["vit.layers.2.mlp"]


class Mixing(nn.Module):
    """Channels that a norm, a softmax or a sum takes together, or that change places; a gate; a pair to prune."""

    def __init__(self):
        super().__init__()
        for name in ("normed", "soft", "summed", "turned", "one"):
            setattr(self, name, nn.Linear(4, 8))
            setattr(self, f"after_{name}", nn.Linear(8, 4))
        self.gate, self.norm = nn.Linear(4, 4), nn.GroupNorm(2, 8)

    def forward(self, x):
        y = self.after_normed(self.norm(self.normed(x))) + self.after_soft(self.soft(x).softmax(-1))
        y = y + self.after_summed(self.summed(x).cumsum(-1)) + self.after_turned(self.turned(x).flip(-1))
        return y + self.after_one(self.one(x * self.gate(x)).relu())


def test_channels_that_depend_on_one_another_stay():
    call = ((torch.randn(3, 4),), {})
    found, left = find_channels(Mixing(), call, 1)
    assert [one.makers for one in found] == [("one",)]
    assert left["gate"] == left["after_one"] == channels.INTERFACE
    assert left["soft"] == left["summed"] == left["turned"] == channels.MIXED and "GroupNorm" in left["normed"]


def test_what_torch_pruning_takes_for_separate_is_found_out(monkeypatch):
    monkeypatch.setattr(channels, "_stands", lambda *_: True)
    found, _ = find_channels(Mixing(), ((torch.randn(3, 4),), {}), 1)
    assert {one.makers for one in found} == {("one",), ("summed",), ("turned",)}, "else the trial would be of no use"


# --- the life of a pruned adapter ------------------------------------------------------------
def test_save_and_load(toy, tmp_path):
    model, report = pruned(toy)
    move(model)
    expected = run(model, toy)
    model.save_pretrained(tmp_path)
    found = tensors_in(tmp_path / "first")
    assert sum(tensor.nbytes for tensor in found.values()) == report.adapter_bytes[1]
    loaded = PeftModel.from_pretrained(toy.build(), tmp_path / "first", adapter_name="other_name")
    assert same(run(loaded, toy), expected)
    loaded.save_pretrained(tmp_path / "again")
    again = PeftModel.from_pretrained(toy.build(), tmp_path / "again" / "other_name", low_cpu_mem_usage=True)
    before, after = (snapshot(each.get_base_model()) for each in (loaded, again))
    after = {key.replace(".default.", ".other_name."): value for key, value in after.items()}
    assert before.keys() == after.keys() and not changed(before, after, before)
    # These tensors stay views of the file at odd addresses, where kernels may round the last bit differently.
    torch.testing.assert_close(run(again, toy), expected, rtol=1e-6, atol=1e-6)


def test_the_file_is_smaller_by_what_the_report_says(toy, tmp_path):
    wrap(toy.build()).save_pretrained(tmp_path / "whole")
    model, report = pruned(toy)
    model.save_pretrained(tmp_path / "thin")
    whole, thin = (
        sum(tensor.nbytes for tensor in tensors_in(tmp_path / name / "first").values()) for name in ("whole", "thin")
    )
    assert (whole, thin) == report.adapter_bytes


def test_loads_without_torch_pruning(tmp_path, monkeypatch):
    toy = TOYS["resnet"]
    model, _ = pruned(toy)
    move(model)
    model.save_pretrained(tmp_path)
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("torch_pruning"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    loaded = PeftModel.from_pretrained(toy.build(), tmp_path / "first")
    assert same(run(loaded, toy), run(model, toy))
    with pytest.raises(MissingDependencyError, match=r"\.\[prune\]"):
        prune_blocks(wrap(toy.build()), toy.inputs(2, 0))


def test_auto_model_and_native_loading(tmp_path):
    toy = TOYS["resnet"]
    base = toy.build()
    base.save_pretrained(tmp_path / "base")
    base = type(base).from_pretrained(tmp_path / "base")
    model = wrap(base, "default")
    prune_blocks(model, toy.inputs(2, 0))
    move(model, "default")
    expected = run(model, toy)
    model.save_pretrained(tmp_path / "adapter")
    assert same(run(AutoPeftModel.from_pretrained(tmp_path / "adapter"), toy), expected)
    native = type(base).from_pretrained(tmp_path / "base")
    native.load_adapter(str(tmp_path / "adapter"))
    assert same(run(native, toy), expected)


def test_merge_and_unload(toy):
    model, report = pruned(toy)
    move(model)
    expected = run(model, toy)
    model.merge_adapter()
    assert same(run(model, toy), expected)
    model.unmerge_adapter()
    assert same(run(model, toy), expected)
    merged = model.merge_and_unload()
    assert same(run(merged, toy), expected)
    assert sum(parameter.numel() for parameter in set(merged.parameters())) == report.parameters[1]


def test_beside_an_adapter_that_is_whole(tmp_path):
    toy = TOYS["resnet"]
    model, _ = pruned(toy)
    move(model)
    thin = run(model, toy)
    model.add_adapter("second", SubTuningConfig(blocks=[-1]))
    model.set_adapter("second")
    move(model, "second", seed=2)
    whole = run(model, toy)
    model.save_pretrained(tmp_path)
    both = PeftModel.from_pretrained(toy.build(), tmp_path / "second", adapter_name="b")
    both.load_adapter(tmp_path / "first", adapter_name="a")
    assert same(run(both, toy), whole)
    both.set_adapter("a")
    assert same(run(both, toy), thin)
    mixed = run(both, toy, 2, adapter_names=["a", "b"])
    assert torch.allclose(mixed, torch.stack([thin[0], whole[1]]), atol=1e-5)


def test_pruned_again(tmp_path):
    toy = TOYS["resnet"]
    model, first = pruned(toy)
    second = prune_blocks(model, toy.inputs(2, 0))
    assert [one.before for one in second.pruned] == [one.after for one in first.pruned]
    assert second.adapter_bytes[0] == first.adapter_bytes[1] > second.adapter_bytes[1]
    move(model)
    model.save_pretrained(tmp_path)
    assert same(run(PeftModel.from_pretrained(toy.build(), tmp_path / "first"), toy), run(model, toy))


@pytest.mark.parametrize("name", ["resnet", "mobilenet-v2", "vit", "bert"])
def test_many_tasks_answer_as_each_alone(name, tmp_path):
    toy = TOYS[name]
    expected = {}
    for task, (blocks, ratio) in {"a": ([1, -1], 0.5), "b": ([-1], 0.75), "c": ([-2], None)}.items():
        model = wrap(toy.build(), "default", blocks=blocks)
        if ratio:
            prune_blocks(model, toy.inputs(2, 0), ratio=ratio)
        move(model, "default", seed=ord(task))
        model.save_pretrained(tmp_path / task)
        expected[task] = run(model, toy)
    tasks = MultiTaskModel.from_adapters(toy.build(), {task: tmp_path / task for task in expected})
    answers = tasks(**toy.inputs(2, 0))
    assert tasks.way != "alone"
    for task, logits in expected.items():
        assert torch.allclose(answers[task].logits, logits, atol=1e-5)
        assert same(run(tasks.task_model(task), toy), logits)


def test_training_moves_only_what_is_tuned(toy):
    model, _ = pruned(toy)
    before = snapshot(model)
    model.train()
    steps(model, toy)
    after = snapshot(model)
    moved = set(changed(before, after, before))
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert not moved & set(frozen_keys(before))
    assert {key for key in moved if key in dict(model.named_parameters())} == trained
    assert any(".subtuning_blocks." in key for key in trained)


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_copies_keep_their_precision(name, tmp_path):
    toy = TOYS[name]
    model = wrap(toy.build().to(torch.bfloat16))
    inputs = {key: value.to(torch.bfloat16) for key, value in toy.inputs(2, 0).items()}
    report = prune_blocks(model, inputs)
    assert [one.after for one in report.pruned] == [one.after for one in pruned(toy)[1].pruned]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(toy.build().to(torch.bfloat16), tmp_path / "first")
    with torch.no_grad():
        assert same(loaded.eval()(**inputs).logits, model.eval()(**inputs).logits)


def test_modes_and_cache_are_given_back():
    toy = TOYS["llama"]
    for training in (True, False):
        model = wrap(toy.build()).train(training)
        cached = model.config.use_cache
        before = {name: module.training for name, module in model.named_modules()}
        prune_blocks(model, toy.inputs(2, 0))
        assert model.config.use_cache == cached
        model.train(training)
        assert {name: module.training for name, module in model.named_modules()} == before


# --- what is refused -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"ratio": 0}, "`ratio` must be a number between 0 and 1, found 0"),
        ({"ratio": 1.0}, "between 0 and 1"),
        ({"ratio": "half"}, "between 0 and 1"),
        ({"norm": "l3"}, "`norm` must be one of l1, l2"),
        ({"scope": "layer"}, "`scope` must be one of local, global"),
        ({"adapter_name": "other"}, "'other' is no SubTuning adapter"),
    ],
)
def test_arguments_that_mean_nothing(asked, words):
    with pytest.raises(ArgumentsError, match=words):
        pruned(TOYS["resnet"], **asked)


def test_adapters_that_cannot_be_pruned():
    toy = TOYS["resnet"]
    with pytest.raises(ArgumentsError, match="Expected a PeftModel"):
        prune_blocks(toy.build(), toy.inputs(2, 0))
    with pytest.raises(ArgumentsError, match="tunes no block"):
        prune_blocks(wrap(toy.build(), blocks=[]), toy.inputs(2, 0))
    model = wrap(toy.build())
    model.add_adapter("second", SubTuningConfig(blocks=[0]))
    with pytest.raises(ArgumentsError, match="'second' is not active"):
        prune_blocks(model, toy.inputs(2, 0), adapter_name="second")
    model.merge_adapter()
    with pytest.raises(ArgumentsError, match="merged or disabled"):
        prune_blocks(model, toy.inputs(2, 0))


def test_a_configuration_of_a_pruned_adapter_is_not_for_another_model():
    toy = TOYS["resnet"]
    config = SubTuningConfig(blocks=[-1])
    prune_blocks(get_peft_model(toy.build(), config), toy.inputs(2, 0))
    with pytest.raises(ArgumentsError, match="filled in for another model: `pruned_channels`"):
        get_peft_model(toy.build(), config)
    with pytest.raises(ArgumentsError, match="Leave it out, wrap the model"):
        get_peft_model(toy.build(), SubTuningConfig(blocks=[-1], pruned_channels=config.pruned_channels))


BLOCK, LAYER = "resnet.encoder.stages.2.layers.1", "layer.0.convolution"
HOSTILE = {
    "a list": [1, 2],
    "a text": "os.system",
    "a number": 7,
    "widths that are one number": {BLOCK: {LAYER: 8}},
    "three widths": {BLOCK: {LAYER: [16, 8, 4]}},
    "a width that is a text": {BLOCK: {LAYER: ["16", "8"]}},
    "a width that is true": {BLOCK: {LAYER: [True, True]}},
    "half a channel": {BLOCK: {LAYER: [16, 7.5]}},
    "no channel": {BLOCK: {LAYER: [16, 0]}},
    "less than none": {BLOCK: {LAYER: [16, -8]}},
    "a billion channels": {BLOCK: {LAYER: [16, 10**9]}},
    "more than there are": {BLOCK: {LAYER: [16, 17]}},
    "more than there are, of inputs": {BLOCK: {LAYER: [32, 8]}},
    "a block that is none of its own": {"resnet.encoder.stages.0.layers.0": {LAYER: [8, 4]}},
    "a block out of the model": {"../../etc": {LAYER: [8, 4]}},
    "a layer that is missing": {BLOCK: {"layer.9.convolution": [16, 8]}},
    "a layer that has no channels": {BLOCK: {"activation": [16, 8]}},
    "the block itself": {BLOCK: {"": [16, 8]}},
    "an attribute": {BLOCK: {"__class__": [16, 8]}},
    "a norm with two widths": {BLOCK: {"layer.0.normalization": [16, 8]}},
    "none of what was pruned": None,
    "half of what was pruned": {BLOCK: {LAYER: [16, 8]}},
    "a hundred thousand layers": {BLOCK: {f"layer.{i}": [1, 1] for i in range(100_000)}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_fields_are_refused(name, tmp_path):
    toy = TOYS["resnet"]
    pruned(toy)[0].save_pretrained(tmp_path)
    file = tmp_path / "first" / "adapter_config.json"
    config = json.loads(file.read_text())
    assert config["pruned_channels"][BLOCK][LAYER] == [16, 8]
    file.write_text(json.dumps({**config, "pruned_channels": HOSTILE[name]}))
    base = toy.build()
    before = run(base, toy)
    with pytest.raises((AdapterFileError, AdapterMismatchError)) as caught:
        PeftModel.from_pretrained(base, tmp_path / "first")
    assert len(str(caught.value)) < 2500
    assert same(run(base, toy), before), "the base is as it was"


@pytest.mark.parametrize(
    ("widths", "words"),
    [
        ({"conv_3x3.convolution": [48, 24]}, "as many output channels"),
        ({"conv_3x3.convolution": [97, 97]}, "1 to 96 input"),
        ({"conv_3x3.convolution": [48, 48]}, None),
    ],
)
def test_widths_of_depthwise_convolutions(widths, words):
    problem = problem_of(TOYS["mobilenet-v2"].build().mobilenet_v2.layer[15], widths)
    assert words in problem if words else problem is None


def test_widths_of_grouped_convolutions():
    block = nn.Sequential(nn.Conv2d(8, 8, 1, groups=4))
    assert problem_of(block, {"0": [4, 8]}) is None
    assert "each of its 4 groups" in problem_of(block, {"0": [6, 8]})
