"""`find_blocks` on every toy: which blocks, in which order, and that nothing is said where nothing is in doubt."""

import subprocess
import sys
import warnings

import pytest
import torch

from subtuning_hf.blocks import Block, find_blocks
from toys import TOYS


@pytest.fixture(params=TOYS.values(), ids=TOYS)
def toy(request):
    return request.param


def find_quietly(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return find_blocks(model)


def test_finds_the_expected_blocks(toy):
    model = toy.build()
    blocks = find_quietly(model)
    assert tuple(block.name for block in blocks) == toy.blocks
    assert [block.index for block in blocks] == list(range(toy.num_blocks))
    for block in blocks:
        parameters = {id(p): p.numel() for p in model.get_submodule(block.name).parameters()}
        assert block.num_parameters == sum(parameters.values()) > 0


def test_order_is_the_order_of_the_calls(toy):
    model, called = toy.build(), []
    for block in find_blocks(model):
        module = model.get_submodule(block.name)
        module.register_forward_pre_hook(lambda *_, name=block.name: called.append(name))
    with torch.no_grad():
        model(**toy.inputs())
    assert tuple(called) == toy.blocks


def test_blocks_lie_apart(toy):
    names = [block.name for block in find_blocks(toy.build_meta())]
    assert not [(a, b) for a in names for b in names if a.startswith(f"{b}.")]


def test_the_same_on_the_meta_device_and_each_time(toy):
    blocks = find_blocks(toy.build())
    assert find_blocks(toy.build()) == blocks
    assert find_blocks(toy.build_meta()) == blocks


def test_depth_follows_the_model():
    from transformers import BertConfig, BertModel

    for depth in (2, 5):
        small = {"hidden_size": 8, "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 16}
        model = BertModel(BertConfig(num_hidden_layers=depth, **small))
        assert find_blocks(model) == [
            Block(f"encoder.layer.{i}", i, sum(p.numel() for p in model.encoder.layer[i].parameters()))
            for i in range(depth)
        ]


def test_does_not_touch_the_model():
    model = TOYS["resnet"].build()
    modes = {name: module.training for name, module in model.named_modules()}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.requires_grad_(False)
    find_blocks(model)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert not any(p.requires_grad for p in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_needs_neither_transformers_nor_timm():
    code = (
        "import sys, torch.nn as nn; from subtuning_hf.blocks import find_blocks, find_head\n"
        "block = lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))\n"
        "model = nn.Sequential(*(block() for _ in range(3)), nn.Linear(4, 2))\n"
        "loaded = {'transformers', 'timm', 'peft'} & set(sys.modules)\n"
        "print([b.name for b in find_blocks(model)], find_head(model), loaded)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "['0', '1', '2'] ['3'] set()", done.stderr
