"""
The life of an adapter on every toy architecture, each step compared bit for bit.

Weights are moved before they are saved or merged, so that a step that does nothing fails.
"""

from __future__ import annotations

import copy
import json

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import PreTrainedModel

from life import SELECTION, changed, copies, frozen_keys, mixed_and_alone, move, run, same, snapshot, steps, wrap
from subtuning_hf import find_blocks
from subtuning_hf.tuner import BlockLayer, SubTuningConfig
from toys import NUM_LABELS, TOYS

WIDER = NUM_LABELS + 2


@pytest.fixture(params=sorted(TOYS))
def toy(request):
    return TOYS[request.param]


def tuned_names(toy) -> list[str]:
    return [toy.blocks[i] for i in SELECTION]


def test_disabled_is_base_and_enabled_is_not(toy):
    base = run(toy.build(), toy)
    model = wrap(toy.build())
    assert same(run(model, toy), base), "a fresh adapter computes what the base computes"
    move(model)
    moved = run(model, toy)
    assert not same(moved, base)
    with model.disable_adapter():
        assert same(run(model, toy), base)
    assert same(run(model, toy), moved)


def test_save_and_load(toy, tmp_path):
    model = wrap(toy.build())
    move(model)
    expected = run(model, toy)
    model.save_pretrained(tmp_path)
    folder = tmp_path / "first"
    assert not list(folder.glob("*.bin"))
    loaded = PeftModel.from_pretrained(toy.build(), folder)
    assert same(run(loaded, toy), expected)
    renamed = PeftModel.from_pretrained(toy.build(), folder, adapter_name="other_name")
    assert same(run(renamed, toy), expected)
    # and once more through a second file: nothing is lost on the way
    renamed.save_pretrained(tmp_path / "again")
    again = PeftModel.from_pretrained(toy.build(), tmp_path / "again" / "other_name", adapter_name="third")
    assert same(run(again, toy), expected)


def test_file_holds_blocks_buffers_and_head_only(toy, tmp_path):
    model = wrap(toy.build())
    model.save_pretrained(tmp_path)
    owned = {}
    reference = toy.build()
    for name in [*tuned_names(toy), *toy.head]:
        owned.update({f"{name}.{k}": v for k, v in reference.get_submodule(name).state_dict().items()})
    path = tmp_path / "first" / "adapter_model.safetensors"
    with safe_open(path, framework="pt") as file:
        found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    stripped = {k.removeprefix("base_model.model.").replace(".subtuning_blocks", "") for k in found}
    assert stripped == set(owned)
    size = sum(v.numel() * v.element_size() for v in owned.values())
    header = path.stat().st_size - sum(v.numel() * v.element_size() for v in found.values())
    assert sum(v.numel() * v.element_size() for v in found.values()) == size
    assert 0 < header < 200 * len(found) + 1000


def test_merge(toy):
    base = toy.build()
    keys = set(base.state_dict())
    model = wrap(base)
    move(model)
    expected = run(model, toy)
    model.merge_adapter()
    assert same(run(model, toy), expected)
    model.unmerge_adapter()
    assert same(run(model, toy), expected)
    merged = model.merge_and_unload()
    assert same(run(merged, toy), expected)
    assert set(merged.state_dict()) == keys
    assert not any(isinstance(m, BlockLayer) for m in merged.modules())


def test_save_while_merged(toy, tmp_path):
    model = wrap(toy.build())
    move(model)
    expected = run(model, toy)
    model.merge_adapter()
    model.save_pretrained(tmp_path)
    assert same(run(PeftModel.from_pretrained(toy.build(), tmp_path / "first"), toy), expected)


def test_unload_gives_the_base_back(toy):
    base = toy.build()
    before = snapshot(base)
    expected = run(base, toy)
    model = wrap(base)
    move(model)
    back = model.unload()
    assert back is base
    after = snapshot(back)
    assert list(after) == list(before)
    assert not changed(before, after, before)
    assert same(run(back, toy), expected)
    assert not back._forward_pre_hooks


def test_delete_and_switch(toy):
    base = run(toy.build(), toy)
    model = wrap(toy.build(), "first")
    move(model, "first", seed=1)
    first = run(model, toy)
    model.add_adapter("second", SubTuningConfig(blocks=[0], num_labels=WIDER if toy.head else None))
    assert same(run(model, toy), first), "adding an adapter does not activate it"
    model.set_adapter("second")
    move(model, "second", seed=2)
    second = run(model, toy)
    if toy.head:
        assert second.shape[-1] == WIDER
    model.set_adapter("first")
    assert same(run(model, toy), first)
    model.delete_adapter("first")
    assert model.active_adapters == ["second"]
    assert same(run(model, toy), second)
    model.delete_adapter("second")
    # PeftModel itself cannot be called without any adapter, with no method: it looks the deleted one up.
    assert same(run(model.base_model.model, toy), base)
    assert not copies(model, "first") and not copies(model, "second")


def test_several_adapters_are_saved_alone(toy, tmp_path):
    model = wrap(toy.build(), "first")
    move(model, "first", seed=1)
    first = run(model, toy)
    model.add_adapter("second", SubTuningConfig(blocks=[0, -1], num_labels=WIDER if toy.head else None))
    model.set_adapter("second")
    move(model, "second", seed=2)
    second = run(model, toy)
    model.save_pretrained(tmp_path)
    assert same(run(PeftModel.from_pretrained(toy.build(), tmp_path / "first"), toy), first)
    both = PeftModel.from_pretrained(toy.build(), tmp_path / "second", adapter_name="b")
    both.load_adapter(tmp_path / "first", adapter_name="a")
    assert same(run(both, toy), second)
    both.set_adapter("a")
    assert same(run(both, toy), first)


def test_training_leaves_everything_frozen_bit_identical(toy):
    model = wrap(toy.build())
    base = model.get_base_model()
    for route in ("peft", "base"):
        before = snapshot(base)
        (model if route == "peft" else base).train()
        steps(model, toy)
        after = snapshot(base)
        frozen = frozen_keys(before)
        owned = [k for k in before if k not in set(frozen)]
        assert not changed(before, after, frozen), route
        assert changed(before, after, owned), route
    untouched = toy.build().state_dict()
    plain = {k.replace(".base_layer.", ".").replace(".original_module.", "."): v for k, v in after.items()}
    assert not changed(untouched, plain, untouched)


def test_native_transformers_route(toy, tmp_path):
    base = toy.build()
    if not isinstance(base, PreTrainedModel):
        pytest.skip("not a transformers model")
    if "load_adapter" in vars(type(base)) or toy.name.startswith("wav2vec2"):
        pytest.skip("the architecture has a load_adapter of its own")
    untouched = snapshot(base)
    base.add_adapter(SubTuningConfig(blocks=SELECTION), adapter_name="first")
    base.set_adapter("first")
    base.train()
    steps(base, toy)
    trained = snapshot(base)
    plain = {k.replace(".base_layer.", ".").replace(".original_module.", "."): v for k, v in trained.items()}
    assert not changed(untouched, plain, untouched)
    expected = run(base, toy)
    base.disable_adapters()
    assert same(run(base, toy), run(toy.build(), toy))

    model = wrap(toy.build())
    model.get_base_model().load_state_dict(trained)
    model.save_pretrained(tmp_path)
    native = toy.build()
    native.load_adapter(str(tmp_path / "first"), adapter_name="named")
    loaded = {k.replace(".named.", ".first."): v for k, v in snapshot(native).items()}
    assert not changed(trained, loaded, trained)
    # The tensors are equal bit for bit, but stay views of the file at odd addresses, where vectorised kernels may
    # round the last bit differently.
    torch.testing.assert_close(run(native, toy), expected, rtol=1e-6, atol=1e-6)
    native.delete_adapter("named")
    assert same(run(native, toy), run(toy.build(), toy))


def test_mixed_batch(toy):
    model = wrap(toy.build(), "first")
    move(model, "first", seed=1)
    model.add_adapter("second", SubTuningConfig(blocks=[0, -1], num_labels=WIDER if toy.head else None))
    move(model, "second", seed=2)
    for mixed, alone in mixed_and_alone(model, toy, ["second", "first", "__base__", "second"]):
        got = mixed[..., : alone.shape[-1]]
        torch.testing.assert_close(got, alone, rtol=2e-5, atol=2e-6)
        assert (mixed[..., alone.shape[-1] :] == float("-inf")).all()


@pytest.mark.parametrize("name", ["bert", "vit", "gpt2", "wav2vec2"])
def test_what_is_inside_a_mixed_batch_is_shown_row_by_row(name):
    toy = TOYS[name]
    model = wrap(toy.build(), "first", blocks=[0])
    move(model, "first", seed=1)
    model.add_adapter("second", SubTuningConfig(blocks=[1]))
    move(model, "second", seed=2)
    names, inputs = ["second", "first", "first", "second"], toy.inputs(4)
    asked = {"output_hidden_states": True, "output_attentions": True}
    model.eval().base_model.model.set_attn_implementation("eager")  # of the copies too
    model.base_model.model.config.use_cache = False
    with torch.no_grad():
        mixed = model(**inputs, adapter_names=names, **asked)
        for row, adapter in enumerate(names):
            model.set_adapter(adapter)
            alone = model(**inputs, **asked)
            for kind in ("hidden_states", "attentions"):
                assert len(mixed[kind]) == len(alone[kind]) > 1
                for ours, theirs in zip(mixed[kind], alone[kind], strict=True):
                    assert ours.shape == theirs.shape
                    torch.testing.assert_close(ours[row], theirs[row], rtol=2e-5, atol=2e-6)


def test_deepcopy(toy):
    model = wrap(toy.build())
    move(model)
    twin = copy.deepcopy(model)
    assert same(run(twin, toy), run(model, toy))
    move(twin, seed=5)
    assert not same(run(twin, toy), run(model, toy))
    assert same(run(twin.unload(), toy), run(toy.build(), toy))
    assert any(isinstance(m, BlockLayer) for m in model.modules())


def test_config_on_disk_is_resolved(toy, tmp_path):
    model = wrap(toy.build())
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "first" / "adapter_config.json").read_text())
    assert saved["blocks"] == tuned_names(toy)
    assert saved["head"] == list(toy.head)
    assert saved["peft_type"] == "SUBTUNING"
    assert saved["base_architecture"] == type(toy.build()).__name__
    assert [b.name for b in find_blocks(model.get_base_model())] == list(toy.blocks)
