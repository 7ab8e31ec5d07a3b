"""
Stages and parts of blocks as what an adapter tunes: the life of an adapter on every toy, compared bit for bit.

Weights are moved before they are saved or merged, so that a step that does nothing fails.
"""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from torch import nn

from life import changed, frozen_keys, mixed_and_alone, move, run, same, snapshot, steps, wrap
from subtuning_hf import SubTuningConfig, find_blocks, lora_config_for_blocks
from subtuning_hf.errors import NestedBlocksError, NoBlocksFoundError
from subtuning_hf.tuner import BlockLayer
from toys import NUM_LABELS, TOYS, logits_of, pixels

# Their attention gets windows of images: more rows than there are samples.
WINDOWED = {"swin", "timm-swin"}
STAGED = [
    "resnet", "resnet-bottleneck", "convnext", "swin", "timm-resnet", "timm-convnext", "timm-swin", "timm-mobilenet",
    "timm-efficientnet", "timm-densenet", "timm-regnet", "timm-resnetv2-conv-head", "wrapped-resnet",
    "wrapped-convnext", "wrapped-efficientnet", "plain-resnet",
]  # fmt: skip


@pytest.fixture(params=sorted(TOYS))
def toy(request):
    return TOYS[request.param]


def one_of_each(model: nn.Module, granularity: str = "submodule") -> list[str]:
    """Names of one unit of each kind, from the middle of the model."""
    kinds: dict[str, list[str]] = {}
    for unit in find_blocks(model, granularity):
        kinds.setdefault(unit.kind, []).append(unit.name)
    chosen = {names[len(names) // 2] for names in kinds.values()}
    return [unit.name for unit in find_blocks(model, granularity) if unit.name in chosen]


def selections(toy) -> list[list[str]]:
    """One part of each kind; and the stage in the middle, where there are stages."""
    model = toy.build_meta()
    return [one_of_each(model), *([one_of_each(model, "stage")] if toy.name in STAGED else [])]


def test_which_toys_have_stages(toy):
    if toy.name in STAGED:
        assert len(find_blocks(toy.build_meta(), "stage")) > 1
    else:
        with pytest.raises(NoBlocksFoundError):
            find_blocks(toy.build_meta(), "stage")


def test_trains_saves_reloads_merges(toy, tmp_path):
    base = run(toy.build(), toy)
    for names in selections(toy):
        model = wrap(toy.build(), blocks=names)
        assert model.peft_config["first"].blocks == names, "in the order in which they are listed"
        assert same(run(model, toy), base)
        before = snapshot(model)
        model.train()
        steps(model, toy, count=2)
        after = snapshot(model)
        frozen = frozen_keys(before)
        assert not changed(before, after, frozen)
        moved = changed(before, after, set(before) - set(frozen))
        assert all(any(f"{name}.subtuning_blocks." in key for key in moved) for name in names)
        move(model)
        expected = run(model, toy)
        assert not same(expected, base)
        with model.disable_adapter():
            assert same(run(model, toy), base)

        folder = tmp_path / names[0]
        model.save_pretrained(folder)
        loaded = PeftModel.from_pretrained(toy.build(), folder / "first", adapter_name="other")
        assert same(run(loaded, toy), expected)
        model.merge_adapter()
        assert same(run(model, toy), expected)
        model.unmerge_adapter()
        merged = model.merge_and_unload()
        assert same(run(merged, toy), expected)
        assert set(merged.state_dict()) == set(toy.build().state_dict())
        assert not any(isinstance(module, BlockLayer) for module in merged.modules())
        assert same(run(loaded.unload(), toy), base)


def test_every_part_has_an_effect(toy):
    # Else a saved and reloaded part would prove nothing.
    model, names = toy.build(), selections(toy)[0]
    base = run(model, toy)
    for name in names:
        tuned = wrap(model, blocks=[name], head=[])
        move(tuned)
        assert not same(run(tuned, toy), base), name
        model = tuned.unload()
    assert same(run(model, toy), base)


def test_mixed_batch(toy):
    units = find_blocks(toy.build_meta(), "submodule")
    names = [unit.name for unit in units if not (toy.name in WINDOWED and unit.kind == "attention")]
    model = wrap(toy.build(), blocks=names[1::2])
    move(model, "first", seed=1)
    model.add_adapter("second", SubTuningConfig(blocks=names[::3], num_labels=NUM_LABELS if toy.head else None))
    move(model, "second", seed=2)
    for mixed, alone in mixed_and_alone(model, toy, ["second", "first", "__base__", "second"]):
        torch.testing.assert_close(mixed, alone, rtol=1e-4, atol=1e-4 * float(alone.abs().max()))


@pytest.mark.parametrize("name", sorted(WINDOWED))
def test_parts_that_get_windows_refuse_a_mixed_batch(name):
    toy = TOYS[name]
    attention = next(unit.name for unit in find_blocks(toy.build_meta(), "submodule") if unit.kind == "attention")
    model = wrap(toy.build(), blocks=[attention])
    with pytest.raises(ValueError, match=r"got 4 and 16 respectively.*gets 4 rows of each.*tune the whole block"):
        run(model, toy, 4, adapter_names=["first", "__base__", "first", "first"])
    assert torch.isfinite(run(model, toy, 4)).all()


def test_units_of_all_sizes_side_by_side(tmp_path):
    toy = TOYS["timm-resnet"]
    names = ["layer1", "layer2.1", "layer3.0.conv1", "layer3.0.bn2"]
    model = wrap(toy.build(), blocks=["layer3.0.bn2", "layer2.1", "layer3.0.conv1", "layer1"])
    assert model.peft_config["first"].blocks == names
    move(model)
    expected = run(model, toy)
    # A second adapter chooses inside what the first tunes whole, which cannot be: the layer stands there already.
    with pytest.raises(NestedBlocksError, match=r"layer1\.0\.conv1"):
        model.add_adapter("second", SubTuningConfig(blocks=["layer1.0.conv1"]))
    assert list(model.peft_config) == ["first"]
    assert same(run(model, toy), expected)
    model.save_pretrained(tmp_path)
    assert same(run(PeftModel.from_pretrained(toy.build(), tmp_path / "first"), toy), expected)


def test_norms_alone_follow_their_batch_and_nothing_else_does():
    toy = TOYS["timm-resnet"]
    norms = [unit.name for unit in find_blocks(toy.build_meta(), "submodule") if unit.kind == "norm"]
    model = wrap(toy.build(), blocks=norms[2:4])
    before = snapshot(model)
    model.train()
    steps(model, toy)
    after = snapshot(model)
    statistics = [key for key in before if key.endswith("running_mean")]
    moved = changed(before, after, statistics)
    assert len(moved) == 2 and all(".subtuning_blocks." in key for key in moved)


@pytest.mark.parametrize("reentrant", [False, True], ids=["non-reentrant", "reentrant"])
@pytest.mark.parametrize("name", ["vit", "swin", "dinov2", "bert", "llama", "gpt2", "t5", "whisper"])
def test_checkpointed_layers_with_tuned_parts_lose_no_gradient(name, reentrant):
    # The layer around a tuned part is frozen and is run again in backward.
    toy = TOYS[name]

    def gradients(checkpoint: bool):
        model = wrap(toy.build(), blocks=one_of_each(toy.build_meta()))
        if checkpoint:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.train()
        torch.manual_seed(0)
        logits_of(model(**toy.inputs(4))).float().pow(2).mean().backward()
        return {key: p.grad for key, p in model.named_parameters() if p.requires_grad}

    plain, checkpointed = gradients(False), gradients(True)
    assert plain.keys() == checkpointed.keys()
    assert sum(".subtuning_blocks." in key and plain[key] is not None for key in plain) > 2
    for key, expected in plain.items():
        assert (expected is None) == (checkpointed[key] is None), key
        if expected is not None:
            torch.testing.assert_close(checkpointed[key], expected, rtol=1e-5, atol=1e-7)


def test_lora_in_parts():
    toy = TOYS["vit"]
    names = [unit.name for unit in find_blocks(toy.build_meta(), "submodule") if unit.kind == "mlp"]
    config = lora_config_for_blocks(toy.build(), names[:2])
    assert sorted(config.target_modules) == [f"vit.layers.{i}.mlp.fc{j}" for i in (0, 1) for j in (1, 2)]


class Encoder(nn.Module):
    """torch's own layers, which read the weights of their attention without calling it where that is faster."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder, self.fc = nn.TransformerEncoder(layer, 3), nn.Linear(16, NUM_LABELS)

    def forward(self, x):
        return self.fc(self.encoder(x).mean(1))


def test_parts_whose_weights_are_read_from_outside():
    def build():
        torch.manual_seed(0)
        return Encoder().eval()

    x = torch.randn(4, 5, 16)
    names = [unit.name for unit in find_blocks(build(), "submodule")]
    parts = ("self_attn", "norm1", "linear1", "linear2", "norm2")
    assert names == [f"encoder.layers.{i}.{part}" for i in range(3) for part in parts]
    with torch.no_grad():
        base = build()(x)
        model = wrap(build(), blocks=names)
        assert same(model.eval()(x=x), base)
        move(model)
        tuned = model(x=x)
        assert not torch.allclose(tuned, base)
        with model.disable_adapter():
            assert same(model(x=x), base)
        mixed = model(x=x, adapter_names=["__base__", "first", "first", "__base__"])
        merged = model.merge_and_unload()(x)
    assert same(merged, tuned)
    torch.testing.assert_close(mixed, torch.stack([base[0], tuned[1], tuned[2], base[3]]), rtol=1e-4, atol=1e-5)


def test_a_stage_is_called_once_as_a_whole():
    model = wrap(TOYS["plain-resnet"].build(), blocks=["layer2"])
    assert isinstance(model.get_base_model().layer2, BlockLayer)
    assert model.get_base_model()(**pixels(16, "x")(2)).shape == (2, NUM_LABELS)
