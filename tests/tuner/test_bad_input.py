"""
Bad input to the tuner: each refused with its own message, and the model left as it was.
"""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from life import changed, move, run, same, snapshot, wrap
from subtuning_hf import errors
from subtuning_hf.tuner import BlockLayer, SubTuningConfig
from toys import TOYS

BAD_SELECTIONS = [
    (None, errors.EmptySelectionError, "blocks=\\[\\]"),
    (["vit.layers.7"], errors.UnknownBlockError, "vit.layers.7"),
    (["vit.layer.1"], errors.UnknownBlockError, "Did you mean"),
    ([3], errors.UnknownBlockError, "3"),
    (["vit.nothing.*"], errors.UnknownBlockError, "nothing"),
    ([1, 1], errors.DuplicateBlockError, "vit.layers.1"),
    ([1, "vit.layers.1"], errors.DuplicateBlockError, "vit.layers.1"),
    (["vit.layers.1", "vit.layers.1.attention"], errors.NestedBlocksError, "attention"),
    (["classifier"], errors.NestedBlocksError, "classifier"),
]


@pytest.mark.parametrize(("blocks", "error", "message"), BAD_SELECTIONS)
def test_selection_is_refused_and_model_untouched(blocks, error, message):
    toy = TOYS["vit"]
    model = toy.build()
    before, keys = snapshot(model), list(model.state_dict())
    with pytest.raises(error, match=message) as caught:
        get_peft_model(model, SubTuningConfig(blocks=blocks))
    assert isinstance(caught.value, (errors.SubTuningError, ValueError))
    assert list(model.state_dict()) == keys and not changed(before, snapshot(model), keys)
    assert not any(isinstance(m, BlockLayer) for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"blocks": "vit.layers.1"}, "must be a list"),
        ({"blocks": [1.5]}, "must hold str or int"),
        ({"blocks": [True]}, "must hold str or int"),
        ({"blocks": [{"a": 1}]}, "must hold str or int"),
        ({"blocks": 3}, "must be a list"),
        ({"blocks": [0], "num_labels": 0}, "positive int"),
        ({"blocks": [0], "num_labels": "7"}, "positive int"),
        ({"blocks": [0], "num_labels": 3, "id2label": {0: "a"}}, "Make `num_labels` and `id2label` agree"),
        ({"blocks": [0], "id2label": ["a", "b"]}, "must map label indices"),
        ({"blocks": [0], "head": 7}, "must be a list"),
        ({"blocks": [0], "modules_to_save": "pooler"}, "must be a list"),
        ({"blocks": [0], "base_architecture": {"x": 1}}, "class name"),
    ],
)
def test_config_fields(fields, message):
    with pytest.raises(errors.ArgumentsError, match=message):
        SubTuningConfig(**fields)


def test_unknown_field():
    with pytest.raises(TypeError, match="block_names"):
        SubTuningConfig(block_names=[1])


@pytest.mark.parametrize("name", ["mlp", "layers", "weight", "classifier", "vit", "model", "base_layer", "a.b", ""])
def test_adapter_name_collisions(name):
    model = wrap(TOYS["vit"].build(), "first")
    with pytest.raises(errors.AdapterNameError):
        model.add_adapter(name, SubTuningConfig(blocks=[0]))
    assert list(model.peft_config) == ["first"]


def test_head_that_does_not_exist():
    with pytest.raises(errors.BlockSelectionError, match="Did you mean"):
        wrap(TOYS["vit"].build(), head=["clasifier"])


def test_no_head_and_no_block():
    with pytest.raises(errors.EmptySelectionError, match="head"):
        wrap(TOYS["llama-causal"].build(), blocks=[])


def test_labels_without_head():
    with pytest.raises(errors.ArgumentsError, match="num_labels"):
        wrap(TOYS["llama-causal"].build(), blocks=[0], num_labels=4)


def test_nested_across_adapters():
    toy = TOYS["resnet"]
    model = wrap(toy.build(), "a", blocks=["resnet.encoder.stages.2"])
    with pytest.raises(errors.NestedBlocksError, match="adapter 'a'"):
        model.add_adapter("b", SubTuningConfig(blocks=["resnet.encoder.stages.2.layers.0"]))
    assert list(model.peft_config) == ["a"]


# --- files -----------------------------------------------------------------------------------
@pytest.fixture
def saved(tmp_path):
    toy = TOYS["vit"]
    model = wrap(toy.build(), "default")
    move(model, "default")
    model.save_pretrained(tmp_path / "adapter")
    return toy, tmp_path / "adapter"


def _refused(toy, folder, error, message):
    base = toy.build()
    before = snapshot(base)
    with pytest.raises(error, match=message):
        PeftModel.from_pretrained(base, folder)
    after = snapshot(base)
    assert list(after) == list(before) and not changed(before, after, before), "the base is as it was"


def test_other_architecture(saved):
    _, folder = saved
    _refused(TOYS["bert"], folder, errors.AdapterMismatchError, "made for .*ViTForImageClassification.*vit.layers")


def test_other_shapes(saved):
    from transformers import ViTConfig, ViTForImageClassification

    _, folder = saved
    wide = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    other = ViTForImageClassification(ViTConfig(**wide, image_size=32, patch_size=8))
    with pytest.raises(errors.AdapterMismatchError, match=r"vit\.layers\.1.* has shape .* made|made for .*shape"):
        PeftModel.from_pretrained(other, folder)
    assert not any(isinstance(m, BlockLayer) for m in other.modules())


def test_failed_load_beside_another_adapter(saved):
    toy, folder = saved
    tensors = load_file(folder / "adapter_model.safetensors")
    key = next(k for k in tensors if "subtuning_blocks" in k)
    tensors[key] = torch.zeros(3, 3)
    save_file(tensors, folder / "adapter_model.safetensors")
    model = wrap(toy.build(), "mine")
    move(model, "mine")
    expected = run(model, toy)
    with pytest.raises(errors.AdapterMismatchError):
        model.load_adapter(folder, adapter_name="theirs")
    assert list(model.peft_config) == ["mine"]
    assert same(run(model, toy), expected)


@pytest.mark.parametrize("size", [0, 4, 100, 2000])
def test_truncated_file(saved, size):
    toy, folder = saved
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    _refused(toy, folder, errors.AdapterFileError, "adapter_model.safetensors.*truncated")


def test_missing_weights(saved):
    toy, folder = saved
    (folder / "adapter_model.safetensors").unlink()
    _refused(toy, folder, errors.AdapterFileError, "no adapter_model.safetensors")


def test_pickle_is_never_read(saved):
    toy, folder = saved
    shutil.move(folder / "adapter_model.safetensors", folder / "adapter_model.bin")
    _refused(toy, folder, errors.AdapterFileError, "pickle")


def test_foreign_weights(saved):
    toy, folder = saved
    save_file({"lora_A.weight": torch.zeros(2)}, folder / "adapter_model.safetensors")
    _refused(toy, folder, errors.AdapterFileError, "does not belong")


def test_extra_and_missing_tensors(saved):
    toy, folder = saved
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "base_model.model.vit.embeddings.cls_token": torch.zeros(1, 1, 16)}, path)
    _refused(toy, folder, errors.AdapterMismatchError, "cls_token.*no place")
    dropped = next(k for k in tensors if k.endswith("layernorm_before.bias"))
    save_file({k: v for k, v in tensors.items() if k != dropped}, path)
    _refused(toy, folder, errors.AdapterMismatchError, "layernorm_before.bias.*not in the adapter")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("blocks", "../../etc/passwd"),
        ("blocks", [["a"]]),
        ("blocks", {"a": 1}),
        ("num_labels", "many"),
        ("num_labels", -2),
        ("id2label", ["x"]),
        ("head", {"path": "/"}),
        ("modules_to_save", 4),
        ("base_architecture", ["a"]),
    ],
)
def test_config_values_that_do_not_belong(saved, field, value):
    toy, folder = saved
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config[field] = value
    path.write_text(json.dumps(config))
    _refused(toy, folder, errors.AdapterFileError, "adapter_config.json")


@pytest.mark.parametrize("name", ["../secrets", "/etc/passwd", "__class__", "vit.layers.1.__dict__"])
def test_block_names_that_are_no_modules(saved, name):
    toy, folder = saved
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["blocks"] = [name]
    path.write_text(json.dumps(config))
    _refused(toy, folder, errors.AdapterFileError, f"does not belong .*{re.escape(name)}")
    with pytest.raises(errors.UnknownBlockError, match=re.escape(name)):
        wrap(toy.build(), blocks=[name])


def test_broken_json(saved):
    toy, folder = saved
    (folder / "adapter_config.json").write_text('{"peft_type": "SUBTUNING", ')
    with pytest.raises(ValueError):  # PEFT reads the type of the adapter before this package is asked
        PeftModel.from_pretrained(toy.build(), folder)
    with pytest.raises(errors.AdapterFileError, match=r"adapter_config\.json.*save the adapter again"):
        SubTuningConfig.from_pretrained(folder)


def test_adapter_of_another_kind(tmp_path):
    toy = TOYS["vit"]
    get_peft_model(toy.build(), LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path)
    with pytest.raises(errors.AdapterFileError, match="LORA"):
        SubTuningConfig.from_pretrained(tmp_path)


def test_two_adapters_on_one_block_cannot_be_active():
    model = wrap(TOYS["vit"].build(), "a", blocks=[1])
    model.add_adapter("b", SubTuningConfig(blocks=[1]))
    with pytest.raises(ValueError, match=r"at once|at a time"):
        model.base_model.set_adapter(["a", "b"])


def test_mixed_batch_names():
    toy = TOYS["vit"]
    model = wrap(toy.build(), "a").eval()
    with pytest.raises(ValueError, match="non-existing"):
        model(**toy.inputs(2), adapter_names=["a", "z"])
    with pytest.raises(ValueError, match="same as the number of inputs"):
        model(**toy.inputs(2), adapter_names=["a"])
    model.train()
    with pytest.raises(ValueError, match="training mode"):
        model(**toy.inputs(2), adapter_names=["a", "a"])
