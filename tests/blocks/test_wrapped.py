"""Blocks, head and partition of a model are the same with adapters in it and with wrappers around it."""

import copy
import warnings

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from subtuning_hf import SubTuningConfig
from subtuning_hf.blocks import find_blocks, find_head, partition, resolve_blocks
from subtuning_hf.errors import UnknownBlockError
from toys import TOYS


class FakeLayer(nn.Module):
    """What the rules may rely on in a tuned block: the original and copies, and attributes passed on."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer = base_layer
        self.subtuning_blocks = nn.ModuleDict({"default": copy.deepcopy(base_layer)})

    def forward(self, *args, **kwargs):
        return self.subtuning_blocks["default"](*args, **kwargs)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base_layer"), name)


class FakeHead(nn.Module):
    """The same for a head."""

    def __init__(self, module):
        super().__init__()
        self.original_module = module
        self.modules_to_save = nn.ModuleDict({"default": copy.deepcopy(module), "other": copy.deepcopy(module)})

    forward = FakeLayer.forward


def put(model, name, module):
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def facts(model):
    chosen = resolve_blocks(model, [-1, 0]), resolve_blocks(model, ["*"])
    return find_blocks(model), find_head(model), partition(model), chosen


@pytest.mark.parametrize("toy", TOYS.values(), ids=TOYS)
@pytest.mark.parametrize("chosen", [slice(0, 1), slice(None)], ids=["one-block", "all-blocks"])
def test_adapters_inside_are_looked_through(toy, chosen):
    model = toy.build()
    bare = facts(model)
    for name in toy.blocks[chosen]:
        put(model, name, FakeLayer(model.get_submodule(name)))
    for name in toy.head:
        put(model, name, FakeHead(model.get_submodule(name)))
    assert facts(model) == bare


@pytest.mark.parametrize("toy", TOYS.values(), ids=TOYS)
def test_the_tuner_is_looked_through_at_every_level(toy):
    bare = facts(toy.build())
    model = get_peft_model(toy.build(), SubTuningConfig(blocks=[0, -1]))
    model.add_adapter("second", SubTuningConfig(blocks=[1]))
    for level in (model, model.base_model, model.base_model.model):
        assert facts(level) == bare
    assert facts(model.unload()) == bare


def test_names_inside_an_adapter_are_unknown():
    model = get_peft_model(TOYS["vit"].build(), SubTuningConfig(blocks=[0]))
    for name in ("vit.layers.0.base_layer", "vit.layers.0.subtuning_blocks.default", "base_model.model.vit.layers.0"):
        with pytest.raises(UnknownBlockError):
            resolve_blocks(model, [name])
    assert resolve_blocks(model, ["vit.layers.0.mlp"]) == ["vit.layers.0.mlp"]
    with pytest.raises(UnknownBlockError, match="fits no block"):
        resolve_blocks(model, ["*default*"])


@pytest.mark.parametrize("name", ["vit", "llama", "plain-resnet", "wrapped-resnet"])
@pytest.mark.parametrize(
    "wrap",
    [torch.compile, nn.DataParallel, lambda model: torch.compile(nn.DataParallel(model))],
    ids=["compile", "data-parallel", "both"],
)
def test_wrappers_around_are_taken_off(name, wrap):
    model = TOYS[name].build()
    assert facts(wrap(model)) == facts(model)
    tuned = get_peft_model(TOYS[name].build(), SubTuningConfig(blocks=[0]))
    assert facts(wrap(tuned)) == facts(model)


def test_lora_does_not_hide_blocks():
    bare = TOYS["vit"].build()
    model = get_peft_model(TOYS["vit"].build(), LoraConfig(target_modules=["q_proj", "v_proj", "query", "value"]))
    assert [block.name for block in find_blocks(model)] == [block.name for block in find_blocks(bare)]
    assert find_head(model) == find_head(bare)


def test_a_model_whose_only_child_is_called_model_is_no_tuner():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = TOYS["plain-resnet"].build()
            self.peft_config = {}  # PEFT leaves this attribute on every base it has worked on

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [block.name for block in find_blocks(Around())] == [f"model.{n}" for n in TOYS["plain-resnet"].blocks]
    assert find_head(Around()) == ["model.fc"]
