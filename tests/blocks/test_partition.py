"""`partition`: each parameter in exactly one of stem, blocks, head."""

import pytest
import torch
from torch import nn

from subtuning_hf.blocks import find_blocks, partition
from subtuning_hf.errors import BlockSelectionError, NoBlocksFoundError
from toys import GPT2, T5, TOYS


def flat(parts):
    return [*parts.stem, *(name for names in parts.blocks.values() for name in names), *parts.head]


def meta(toy):
    try:
        return toy.build_meta()
    except NotImplementedError as error:  # torch 2.7 and 2.8 cannot build timm's RegNet so
        pytest.skip(f"the meta device of this torch lacks an operation: {str(error)[:60]}")


@pytest.mark.parametrize("toy", TOYS.values(), ids=TOYS)
def test_each_parameter_exactly_once(toy):
    model = toy.build()
    parts = partition(model)
    assert sorted(flat(parts)) == sorted(name for name, _ in model.named_parameters())
    assert tuple(parts.blocks) == toy.blocks
    for name, parameters in parts.blocks.items():
        assert parameters and all(p.startswith(f"{name}.") for p in parameters)
    assert {p for p in flat(parts) if p.startswith(tuple(f"{name}." for name in toy.head))} == set(parts.head)
    assert bool(parts.head) == toy.has_head
    assert parts.stem
    assert partition(model) == parts == partition(meta(toy))


@pytest.mark.parametrize("toy", TOYS.values(), ids=TOYS)
def test_sizes_add_up(toy):
    model = meta(toy)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    parts = partition(model)
    for block in find_blocks(model):
        assert sum(sizes[name] for name in parts.blocks[block.name]) == block.num_parameters
    assert sum(sizes[name] for name in flat(parts)) == sum(sizes.values())


def test_what_is_not_chosen_counts_as_stem():
    model = TOYS["vit"].build()
    parts = partition(model, [1])
    assert list(parts.blocks) == ["vit.layers.1"]
    assert "vit.layers.0.layernorm_before.weight" in parts.stem
    assert "vit.layernorm.weight" in parts.stem and "vit.embeddings.cls_token" in parts.stem
    assert sorted(flat(parts)) == sorted(name for name, _ in model.named_parameters())
    assert partition(model, []).blocks == {}


def test_explicit_blocks_finer_and_coarser_than_found():
    model = TOYS["resnet"].build()
    parts = partition(model, ["resnet.encoder.stages.0", "resnet.encoder.stages.1.layers.1.layer.0"])
    assert list(parts.blocks) == ["resnet.encoder.stages.0", "resnet.encoder.stages.1.layers.1.layer.0"]
    assert sorted(flat(parts)) == sorted(name for name, _ in model.named_parameters())


def test_tied_embeddings_are_listed_once_in_the_stem():
    from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

    model = GPT2LMHeadModel(GPT2Config(**GPT2))
    assert model.lm_head.weight is model.transformer.wte.weight
    parts = partition(model)
    assert "transformer.wte.weight" in parts.stem and "lm_head.weight" not in flat(parts)
    parts = partition(T5ForConditionalGeneration(T5Config(**T5)))
    assert [name for name in flat(parts) if "embed" in name or "shared" in name] == ["shared.weight"]
    untied = partition(GPT2LMHeadModel(GPT2Config(**GPT2, tie_word_embeddings=False)))
    assert "lm_head.weight" in untied.stem and untied.head == []


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.b(self.a(x))


class Tied(nn.Module):
    """Parameters shared between stem and block, block and block, block and head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.layers = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.ones(1))
        self.layers[0].a.weight = self.stem.weight
        self.layers[2].b.weight = self.layers[1].b.weight
        self.head.weight = self.layers[2].a.weight


def test_shared_parameters_belong_to_the_part_of_their_first_name():
    model = Tied()
    parts = partition(model)
    assert sorted(flat(parts)) == sorted(name for name, _ in model.named_parameters())
    assert parts.stem == ["scale", "stem.weight", "stem.bias"]
    assert parts.blocks["layers.0"] == ["layers.0.a.bias", "layers.0.b.weight", "layers.0.b.bias"]
    assert "layers.1.b.weight" in parts.blocks["layers.1"]
    assert parts.blocks["layers.2"] == ["layers.2.a.weight", "layers.2.a.bias", "layers.2.b.bias"]
    assert parts.head == ["head.bias"]


def test_a_module_in_two_places_is_listed_once():
    model = Tied()
    model.again = model.layers
    assert sorted(flat(partition(model))) == sorted(name for name, _ in model.named_parameters())
    assert [block.name for block in find_blocks(model)] == ["layers.0", "layers.1", "layers.2"]


def test_a_block_wins_over_the_head():
    model = TOYS["distilbert"].build()
    parts = partition(model, ["pre_classifier", 0])
    assert parts.blocks["pre_classifier"] == ["pre_classifier.weight", "pre_classifier.bias"]
    assert parts.head == ["classifier.weight", "classifier.bias"]


def test_errors_pass_through():
    with pytest.raises(NoBlocksFoundError, match="Name the blocks explicitly"):
        partition(nn.Linear(2, 2))
    with pytest.raises(BlockSelectionError, match="Put it in a list"):
        partition(TOYS["vit"].build(), "vit.layers.0")
