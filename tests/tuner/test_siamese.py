"""
Siamese adapters against two towers made by hand: the frozen network and the tuned one, each with its half of the head.

Weights are moved before they are compared or saved, so that a half that is never read fails.
"""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from life import SELECTION, changed, copies, frozen_keys, move, run, same, snapshot, steps, wrap
from subtuning_hf import SubTuningConfig
from subtuning_hf.errors import AdapterMismatchError, ArgumentsError, NestedBlocksError
from subtuning_hf.prefix import ROWS, Trunk
from subtuning_hf.tuner import BlockLayer, TaskModuleWrapper
from toys import NUM_LABELS, TOYS, logits_of

REFUSED = {
    "roberta", "deberta", "deberta-v2", "distilbert", "modernbert", "llama-causal", "gpt2-causal", "t5",
    "t5-generation", "whisper", "wav2vec2", "timm-deit-distilled", "timm-resnetv2-conv-head",
}  # fmt: skip
QUICK = {"vit", "bert", "resnet", "gpt2", "timm-resnet", "plain-resnet"}
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in sorted(set(TOYS) - REFUSED)]
VIT, BERT, RESNET = TOYS["vit"], TOYS["bert"], TOYS["resnet"]


@pytest.fixture(params=NAMES)
def toy(request):
    return TOYS[request.param]


def siamese(toy, adapter_name="first", **config):
    return wrap(toy.build(), adapter_name, siamese=True, **config)


def wide_layer(model, adapter_name="first"):
    """The output layer of a Siamese adapter."""
    (head,) = [m for m in model.modules() if isinstance(m, TaskModuleWrapper)]
    return head.modules_to_save[adapter_name]


@torch.no_grad()
def nudge(model, adapter_name="first"):
    """Move weights by a tenth of their spread, so that neither tower outshouts the other in float32."""
    generator = torch.Generator().manual_seed(1)
    for module in copies(model, adapter_name):
        for weight in module.parameters():
            spread = weight.std().nan_to_num(1.0).clamp_min(0.1)
            weight.add_(0.1 * spread * torch.randn(weight.shape, generator=generator))


def towers(model, toy, adapter_name="first"):
    """Logits of the frozen network with the left half of the head, and of the tuned one with the right half."""
    wide, (name,) = wide_layer(model, adapter_name), model.peft_config[adapter_name].head
    half = wide.in_features // 2
    frozen, tuned = toy.build(), toy.build()
    for block in model.peft_config[adapter_name].blocks:
        parent, _, child = block.rpartition(".")
        own = model.get_base_model().get_submodule(block).subtuning_blocks[adapter_name]
        setattr(tuned.get_submodule(parent), child, copy.deepcopy(own))
    for tower, weight, bias in (
        (frozen, wide.weight[:, :half], torch.zeros_like(wide.bias) if wide.bias is not None else None),
        (tuned, wide.weight[:, half:], wide.bias),
    ):
        layer = torch.nn.Linear(half, wide.out_features, bias is not None)
        layer.weight.data = weight.detach().clone()
        if bias is not None:
            layer.bias.data = bias.detach().clone()
        parent, _, child = name.rpartition(".")
        setattr(tower.get_submodule(parent), child, layer)
    return run(frozen, toy), run(tuned, toy)


def close(left, right):
    return torch.allclose(left, right, rtol=1e-4, atol=1e-5)


# --- what it computes ------------------------------------------------------------------------
def test_starts_as_the_base(toy):
    assert close(run(siamese(toy), toy), run(toy.build(), toy))


def test_is_two_towers(toy):
    model = siamese(toy)
    nudge(model)
    frozen, tuned = towers(model, toy)
    found = run(model, toy)
    assert close(found, frozen + tuned)
    assert not close(found, tuned) and not close(found, frozen)


def test_without_its_frozen_half_it_is_a_plain_adapter(toy):
    model = siamese(toy)
    move(model)
    wide = wide_layer(model)
    with torch.no_grad():
        wide.weight[:, : wide.in_features // 2] = 0
    plain = wrap(toy.build(), head=model.peft_config["first"].head)
    tensors = {}
    for key, value in snapshot(model).items():
        own = key.endswith("modules_to_save.first.weight")
        tensors[key] = value[:, wide.in_features // 2 :] if own else value
    plain.load_state_dict(tensors)
    assert close(run(model, toy), run(plain, toy))


def test_new_labels(tmp_path):
    model = siamese(VIT, num_labels=NUM_LABELS + 2)
    assert run(model, VIT).shape == (2, NUM_LABELS + 2)
    half = wide_layer(model).in_features // 2
    assert not wide_layer(model).weight[:, :half].any() and wide_layer(model).weight[:, half:].any()
    torch.manual_seed(0)
    plain = wrap(VIT.build(), num_labels=NUM_LABELS + 2)
    torch.manual_seed(0)
    again = siamese(VIT, num_labels=NUM_LABELS + 2)
    assert torch.equal(wide_layer(again).weight[:, half:], wide_layer(plain).weight), "drawn as a plain adapter's"


# --- its life --------------------------------------------------------------------------------
def test_disabled_is_base_and_enabled_is_not(toy):
    base, model = run(toy.build(), toy), siamese(toy)
    move(model)
    moved = run(model, toy)
    with model.disable_adapter():
        assert same(run(model, toy), base)
    assert same(run(model, toy), moved) and not same(moved, base)


def test_save_and_load(toy, tmp_path):
    model = siamese(toy)
    move(model)
    expected = run(model, toy)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(toy.build(), tmp_path / "first", adapter_name="other_name")
    assert loaded.peft_config["other_name"].siamese is True
    assert same(run(loaded, toy), expected)


def test_switching_deleting_unloading(toy):
    base = toy.build()
    before, expected = snapshot(base), run(base, toy)
    model = wrap(base, siamese=True)
    move(model)
    first = run(model, toy)
    model.add_adapter("plain", SubTuningConfig(blocks=[0], head=model.peft_config["first"].head))
    model.set_adapter("plain")
    move(model, "plain", seed=2)
    plain = run(model, toy)
    model.add_adapter("second", SubTuningConfig(blocks=[0], siamese=True))
    model.set_adapter("second")
    move(model, "second", seed=3)
    second = run(model, toy)
    for name, want in {"first": first, "plain": plain, "second": second}.items():
        model.set_adapter(name)
        assert same(run(model, toy), want)
    model.delete_adapter("second")
    assert same(run(model, toy), first)
    back = model.unload()
    assert same(run(back, toy), expected) and not changed(before, snapshot(back), before)
    assert not back._forward_pre_hooks and not back._forward_hooks


def test_native_transformers_route():
    base = VIT.build()
    assert isinstance(base, PreTrainedModel)
    base.add_adapter(SubTuningConfig(blocks=SELECTION, siamese=True), adapter_name="first")
    base.set_adapter("first")
    model = siamese(VIT)
    move(model)
    base.load_state_dict(snapshot(model.get_base_model()))
    assert same(run(base, VIT), run(model, VIT))
    base.disable_adapters()
    assert same(run(base, VIT), run(VIT.build(), VIT))


def test_copy():
    model = siamese(BERT)
    move(model)
    twin = copy.deepcopy(model)
    assert same(run(twin, BERT), run(model, BERT))
    move(twin, seed=5)
    assert not same(run(twin, BERT), run(model, BERT))
    assert same(run(twin.unload(), BERT), run(BERT.build(), BERT))


# --- training --------------------------------------------------------------------------------
def test_training_leaves_everything_frozen_bit_identical(toy):
    model = siamese(toy)
    before = snapshot(model)
    model.train()
    steps(model, toy)
    after = snapshot(model)
    assert not changed(before, after, frozen_keys(before))
    half = wide_layer(model).in_features // 2
    assert wide_layer(model).weight[:, :half].any(), "frozen features have weights now"
    assert changed(before, after, [key for key in before if ".subtuning_blocks." in key])


@pytest.mark.parametrize("model_of", [lambda: BERT.build(), lambda: RESNET.build()], ids=["bert", "resnet"])
def test_the_frozen_half_is_in_eval_mode(model_of):
    toy = BERT if model_of().config.model_type == "bert" else RESNET
    model, seen = siamese(toy, blocks=[0]), []
    wide_layer(model).register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    half = wide_layer(model).in_features // 2
    run(model, toy)
    model.train()
    for _ in range(2):
        model(**toy.inputs())
    assert model.training and any(copy.training for copy in copies(model, "first"))
    quiet, one, other = seen
    assert same(one[:, :half], quiet[:, :half]) and same(other[:, :half], quiet[:, :half])
    assert not same(one[:, half:], quiet[:, half:])


def test_gradient_checkpointing_changes_nothing():
    found = []
    for checkpointing in (False, True):
        model = siamese(VIT)
        move(model)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        model.train()
        logits_of(model(**VIT.inputs())).pow(2).sum().backward()
        found.append([p.grad for p in model.parameters() if p.requires_grad])
    assert all(torch.allclose(*pair, rtol=1e-4, atol=1e-6) for pair in zip(*found, strict=True))


def test_compiled_training():
    model = siamese(VIT)
    move(model)
    expected = run(model, VIT)
    compiled = torch.compile(model, backend="eager")
    assert close(run(compiled, VIT), expected)
    before = snapshot(model)
    compiled.train()
    steps(compiled, VIT, 1)
    assert not changed(before, snapshot(model), frozen_keys(before))


@pytest.mark.parametrize("block", [1, 2])
def test_stored_inputs_of_blocks_serve_both_passes(block):
    base, data = VIT.build(), VIT.inputs(6)
    trunk = Trunk(base, VIT.blocks, lambda n: {k: v[list(n)] for k, v in data.items()}, 6, batch_size=4)
    trunk.fill([1, 2])
    model = wrap(base, blocks=[block], siamese=True)
    move(model)
    model.eval()
    rows, calls = [4, 0, 3], []
    for number, name in enumerate(VIT.blocks):
        module = base.get_submodule(name)
        inner = module.base_layer if isinstance(module, BlockLayer) else module
        first = next(child for child in inner.modules() if isinstance(child, torch.nn.Linear))
        first.register_forward_hook(lambda *_, number=number: calls.append(number))
    with torch.no_grad():
        full = logits_of(model(**trunk.batch_of(rows)))
        with trunk.starting_at(model, block):
            calls.clear()
            late = logits_of(model(**trunk.batch_of(rows), **{ROWS: torch.tensor(rows)}))
    assert torch.allclose(late, full, rtol=1e-5, atol=1e-6)
    assert calls and min(calls) == block, "nothing before the first tuned block ran, in neither pass"


def test_threads_do_not_meet():
    model = siamese(VIT)
    move(model)
    model.eval()
    wanted = [run(model, VIT, seed=seed) for seed in range(4)]
    # Made before: the toys' inputs come from random numbers that threads share.
    inputs, wrong = [VIT.inputs(seed=seed) for seed in range(4)], []

    def answer(seed):
        for _ in range(20):
            with torch.no_grad():
                if not close(logits_of(model(**inputs[seed])), wanted[seed]):
                    wrong.append(seed)

    threads = [threading.Thread(target=answer, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# --- what is refused -------------------------------------------------------------------------
@pytest.mark.parametrize("name", sorted(REFUSED))
def test_heads_that_are_not_one_linear_layer(name):
    toy = TOYS[name]
    base = toy.build()
    before = set(base.state_dict())
    with pytest.raises(ArgumentsError, match="a head that is one torch.nn.Linear"):
        wrap(base, siamese=True)
    assert set(base.state_dict()) == before


def test_one_layer_of_a_longer_head():
    toy = TOYS["roberta"]
    model = siamese(toy, head=["classifier.out_proj"])
    nudge(model)
    frozen, tuned = towers(model, toy)
    assert close(run(model, toy), frozen + tuned)


def test_merging_is_refused_and_changes_nothing():
    model = siamese(VIT)
    move(model)
    expected = run(model, VIT)
    for merge in (model.merge_and_unload, model.merge_adapter):
        with pytest.raises(ArgumentsError, match="is Siamese"):
            merge()
    assert same(run(model, VIT), expected)
    model.add_adapter("plain", SubTuningConfig(blocks=[0]))
    model.set_adapter("plain")
    move(model, "plain", seed=2)
    plain = run(model, VIT)
    assert same(run(model.merge_and_unload(), VIT), plain)


def test_mixed_batches_are_refused():
    model = siamese(VIT)
    model.add_adapter("plain", SubTuningConfig(blocks=[0]))
    move(model, "plain", seed=2)
    model.eval()
    with pytest.raises(ArgumentsError, match="MultiTaskModel"):
        model(**VIT.inputs(), adapter_names=["plain", "first"])
    # one of plain adapters is not, whichever is active
    mixed = run(model, VIT, adapter_names=["plain", "__base__"])
    model.set_adapter("plain")
    assert close(mixed[0], run(model, VIT)[0]) and close(mixed[1], run(VIT.build(), VIT)[1])


def test_a_head_inside_of_another_adapters_head():
    model = wrap(RESNET.build())
    with pytest.raises(NestedBlocksError, match="contain one another"):
        model.add_adapter("pair", SubTuningConfig(blocks=[0], siamese=True))
    assert list(model.peft_config) == ["first"]


def test_caches_of_keys_and_values_are_refused():
    toy = TOYS["gpt2"]
    model = siamese(toy).eval()
    cache = model(**toy.inputs(), use_cache=True).past_key_values
    with pytest.raises(ArgumentsError, match="past_key_values"):
        model(**toy.inputs(), past_key_values=cache)
    assert same(run(model, toy), run(model, toy))


def test_a_layer_that_is_never_called(tmp_path):
    toy = TOYS["plain-resnet"]
    base = toy.build()
    base.spare = torch.nn.Linear(4, NUM_LABELS)
    model = wrap(base, siamese=True, head=["spare"])
    with pytest.raises(ArgumentsError, match="never called"):
        run(model, toy)


def test_a_layer_that_is_called_twice():
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(2))
            self.head = torch.nn.Linear(4, 3)

        def forward(self, x):
            for block in self.blocks:
                x = block(x)
            return self.head(x) + self.head(-x)

    model = wrap(Twice(), blocks=["blocks.1"], head=["head"], siamese=True)
    with pytest.raises(ArgumentsError, match="called more often"):
        model(torch.zeros(2, 4))


def test_values(tmp_path):
    with pytest.raises(ArgumentsError, match="`siamese` must be True or False"):
        SubTuningConfig(blocks=[0], siamese="yes")
    model = siamese(VIT)
    model.save_pretrained(tmp_path)
    config = tmp_path / "first" / "adapter_config.json"
    config.write_text(config.read_text().replace('"siamese": true', '"siamese": false'))
    with pytest.raises(AdapterMismatchError, match="shape"):
        PeftModel.from_pretrained(VIT.build(), tmp_path / "first")
