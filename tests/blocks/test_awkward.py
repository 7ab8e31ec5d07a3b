"""Models the rules do not fit or barely fit: what is said, and that naming blocks always works."""

import time
import warnings

import pytest
import torch
from torch import nn

from subtuning_hf.blocks import find_blocks, find_head, partition, resolve_blocks
from subtuning_hf.errors import NoBlocksFoundError
from toy_modules import PlainBlock
from toys import BERT, LLAMA, expand


def hf(name, **settings):
    import transformers

    cls = getattr(transformers, name)
    with torch.device("meta"):
        return cls(cls.config_class(**settings))


def timm(name, **settings):
    import timm

    with torch.device("meta"):
        return timm.create_model(name, **settings)


# --- nothing is found ------------------------------------------------------------------------
NOTHING = {
    # One layer is used twelve times: there is nothing to choose from.
    "albert": (
        lambda: hf("AlbertForSequenceClassification", **BERT, embedding_size=8),
        ["albert.encoder.albert_layer_groups.0"],
        "albert.encoder.albert_layer_groups.*",
        ["albert.encoder.albert_layer_groups.0"],
    ),
    "mobilenet-v1": (
        lambda: hf("MobileNetV1ForImageClassification", depth_multiplier=0.25),
        ["mobilenet_v1.layer.3", "mobilenet_v1.layer.7"],
        "mobilenet_v1.layer.1?",
        [f"mobilenet_v1.layer.{i}" for i in range(10, 20)],
    ),
    "vgg": (
        lambda: timm("vgg11"),
        ["features.0", "features.8"],
        "features.1?",
        ["features.11", "features.13", "features.16", "features.18"],
    ),
    "inception": (
        lambda: timm("inception_v3"),
        ["Mixed_5b", "Mixed_7c"],
        "Mixed_6*",
        [f"Mixed_6{c}" for c in "abcde"],
    ),
    "one-block": (lambda: nn.Sequential(PlainBlock(4, 4), nn.Linear(4, 2)), ["0"], "?", ["0"]),
    "perceptron": (lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), ["0"], "*", ["0"]),
}


@pytest.mark.parametrize(("build", "names", "pattern", "matched"), NOTHING.values(), ids=NOTHING)
def test_nothing_found_says_how_to_name_blocks_and_naming_works(build, names, pattern, matched):
    model = build()
    with pytest.raises(NoBlocksFoundError, match="Expected at least two blocks") as raised:
        find_blocks(model)
    message = str(raised.value)
    assert "Name the blocks explicitly" in message
    # The examples in the message can be used as they stand.
    example = message.split("such as '")[1].split("'")[0]
    assert resolve_blocks(model, [example]) == [example]
    assert resolve_blocks(model, names) == names
    assert resolve_blocks(model, [pattern]) == matched
    assert list(partition(model, names).blocks) == names
    with pytest.raises(NoBlocksFoundError, match=r"index -1\. Expected"):
        resolve_blocks(model, [-1])
    with pytest.raises(NoBlocksFoundError):
        partition(model)


def test_no_parameters_at_all():
    with pytest.raises(NoBlocksFoundError, match="found none"):
        find_blocks(nn.Sequential(nn.ReLU(), nn.Flatten()))


def test_all_places_filled_by_one_module():
    block = PlainBlock(4, 4)
    with pytest.raises(NoBlocksFoundError, match="'0' stands in several places"):
        find_blocks(nn.Sequential(block, block, block))


# --- found with a doubt ----------------------------------------------------------------------
DOUBTS = {
    "mobilevit": (
        lambda: hf("MobileViTForImageClassification"),
        "3 of the 7 found look like stages.*blocks=.'mobilevit.encoder.layer.2.transformer.layer.0'",
    ),
    "timm-mobilevit": (lambda: timm("mobilevit_xxs"), "3 of the 10 found look like stages"),
    "crossvit": (lambda: timm("crossvit_tiny_240"), "3 of the 3 found look like stages"),
    "gcvit": (lambda: timm("gcvit_xxtiny"), "4 of the 4 found look like stages"),
    "xlm": (
        lambda: hf("XLMForSequenceClassification", n_layers=3, emb_dim=16, n_heads=2, n_words=50),
        "'transformer.attentions' and 'transformer.ffns' are of one length",
    ),
    "selecsls": (lambda: timm("selecsls42b"), "hold only 1. % of the parameters.*such as 'head"),
}


@pytest.mark.parametrize(("build", "said"), DOUBTS.values(), ids=DOUBTS)
def test_doubts_are_told_once_and_only_if_wanted(build, said, recwarn):
    model = build()
    recwarn.clear()
    with pytest.warns(UserWarning, match=said) as caught:
        blocks = find_blocks(model)
    assert len([w for w in caught if str(w.message).startswith("Blocks of '")]) == 1
    assert caught[0].filename == __file__
    recwarn.clear()
    assert find_blocks(model, warn=False) == blocks
    assert resolve_blocks(model, [0]) == [blocks[0].name]
    assert not recwarn.list
    # Coarser or finer units can be named instead.
    assert resolve_blocks(model, [f"{blocks[-1].name}"]) == [blocks[-1].name]


def test_the_finer_blocks_of_a_stage_can_be_chosen():
    model = hf("MobileViTForImageClassification")
    found = resolve_blocks(model, ["mobilevit.encoder.layer.?.transformer.layer.*"])
    inner = "mobilevit.encoder.layer.{}.transformer.layer."
    assert tuple(found) == expand(inner.format(2) + "{0-1}", inner.format(3) + "{0-3}", inner.format(4) + "{0-2}")


# --- structures that mislead -----------------------------------------------------------------
class Called(nn.Module):
    """A module with parts, for its structure only."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x):
        raise NotImplementedError


def linear(width=8):
    return nn.Linear(width, width)


def names(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return [block.name for block in find_blocks(model)]


def mlp():
    return nn.Sequential(linear(), nn.ReLU(), linear())


def test_experts_are_no_blocks():
    def layer(count=8):
        return Called(attention=mlp(), router=linear(), experts=nn.ModuleList(mlp() for _ in range(count)))

    model = Called(layers=nn.ModuleList(layer() for _ in range(3)), head=linear())
    assert names(model) == [f"layers.{i}" for i in range(3)]

    def named(count=8):
        experts = nn.ModuleDict({f"expert_{i}": mlp() for i in range(count)})
        return Called(attention=linear(), mlp=Called(router=linear(), experts=experts))

    assert names(Called(block=nn.ModuleList(named() for _ in range(2)), head=linear())) == ["block.0", "block.1"]

    def only_experts():  # nothing but the name tells this layer from a stage
        return Called(gate=linear(), experts=nn.ModuleList(mlp() for _ in range(4)))

    layers = nn.ModuleList(only_experts() for _ in range(2))
    assert names(Called(layers=layers, head=linear())) == ["layers.0", "layers.1"]


def test_mixture_of_experts_of_transformers():
    model = hf(
        "Qwen2MoeForCausalLM", **LLAMA, num_experts=4, moe_intermediate_size=8, shared_expert_intermediate_size=8
    )
    assert names(model) == [f"model.layers.{i}" for i in range(3)]


def test_branches_and_excitations_are_no_blocks():
    def inception():
        return Called(branch0=mlp(), branch1=mlp(), branch2=mlp(), out=linear())

    mixed = nn.Sequential(*(inception() for _ in range(3)))
    assert names(Called(mixed=mixed, fc=linear())) == ["mixed.0", "mixed.1", "mixed.2"]

    def excited():
        return Called(layer=nn.Sequential(linear(), mlp(), linear()), shortcut=linear())

    stage = nn.Sequential(*(excited() for _ in range(3)))
    assert names(Called(stage=stage, fc=linear())) == ["stage.0", "stage.1", "stage.2"]


def test_one_among_single_layers_is_no_block():
    stem = Called(layer=nn.Sequential(linear(), mlp(), linear()))  # the second is a squeeze-and-excitation, say
    model = Called(stem=stem, body=nn.ModuleList(mlp() for _ in range(3)), fc=linear())
    assert names(model) == ["body.0", "body.1", "body.2"]


def test_stages_give_way_to_blocks_whatever_they_are_called():
    def stage(depth):
        return Called(down=nn.Conv2d(3, 3, 1), units=nn.ModuleList(mlp() for _ in range(depth)))

    model = Called(parts=nn.ModuleList(stage(depth) for depth in (1, 2, 3)), fc=linear())
    assert tuple(names(model)) == expand("parts.0.units.0", "parts.1.units.{0-1}", "parts.2.units.{0-2}")


def test_a_list_is_no_block_since_nothing_calls_it():
    # A common way to write a transformer: `for attention, feed_forward in self.layers`.
    pairs = [nn.ModuleList([mlp(), Called(first=linear(), second=linear())]) for _ in range(2)]
    model = Called(layers=nn.ModuleList(pairs), head=linear())
    assert names(model) == ["layers.0.0", "layers.0.1", "layers.1.0", "layers.1.1"]


def test_numbers_in_the_names_of_models_do_not_count():
    model = Called(backbone_v2=Called(layers=nn.ModuleList(mlp() for _ in range(3)), norm=nn.LayerNorm(8)), fc=linear())
    assert names(model) == [f"backbone_v2.layers.{i}" for i in range(3)]


def test_two_towers_come_one_after_the_other():
    def tower():
        return Called(embed=nn.Embedding(9, 8), layers=nn.ModuleList(mlp() for _ in range(2)))

    model = Called(tower1=tower(), tower2=tower(), classifier=linear())
    assert names(model) == [f"tower{t}.layers.{i}" for t in (1, 2) for i in range(2)]


def test_layers_of_one_number_of_a_block_are_no_blocks():
    def block():
        separable = [Called(depthwise=linear(), pointwise=linear()) for _ in range(3)]
        inner = [part for layer in separable for part in (nn.ReLU(), layer, nn.BatchNorm1d(8))]
        return Called(rep=nn.Sequential(*inner))

    assert names(Called(block1=block(), block2=block(), block3=block(), fc=linear())) == ["block1", "block2", "block3"]


def test_order_is_the_order_of_writing():
    model = Called(up2=mlp(), up1=mlp(), head=linear())
    assert names(model) == ["up2", "up1"], "a decoder counts down"


def test_a_head_of_several_layers_in_a_numbered_place_is_no_block():
    model = Called(body=nn.Sequential(*(mlp() for _ in range(3))), head=nn.Sequential(mlp(), mlp()))
    assert names(model) == [f"body.{i}" for i in range(3)]


def test_large_models_are_quick():
    model = Called(layers=nn.ModuleList(Called(a=mlp(), b=mlp(), c=mlp()) for _ in range(500)), head=linear(4))
    start = time.process_time()
    assert len(find_blocks(model)) == 500
    partition(model)
    assert time.process_time() - start < 5


# --- marks that libraries leave --------------------------------------------------------------
def test_layers_marked_for_checkpointing_need_no_number():
    marked = type("GradientCheckpointingLayer", (Called,), {})

    def layer():
        return type("Layer", (marked,), {})(attention=mlp(), output=linear())

    model = Called(stem=linear(), bottom=layer(), middle=layer(), neck=mlp(), top=layer(), fc=linear())
    assert names(model) == ["bottom", "middle", "top"]


class LikeTimm(Called):
    """A model that says what its blocks are; the pattern that is listed first fits behind the other."""

    pretrained_cfg = {"classifier": "out"}  # noqa: RUF012

    def group_matcher(self, coarse=False):
        return {"blocks": r"^late" if coarse else [(r"^late\.(\d+)", None), (r"^early(\d+)", (0,))]}


def test_blocks_of_timm_stand_in_forward_order_whatever_the_order_of_its_patterns():
    model = LikeTimm(early1=mlp(), early2=mlp(), late=nn.ModuleList(mlp() for _ in range(2)), out=linear())
    assert names(model) == ["early1", "early2", "late.0", "late.1"]


def test_a_decoder_beside_the_base_model_is_no_head():
    class Task(Called):
        base_model_prefix = "base"

    def layers():
        return Called(layers=nn.ModuleList(mlp() for _ in range(2)))

    model = Task(base=layers(), decoder=layers(), out=linear())
    assert names(model) == [*(f"base.layers.{i}" for i in range(2)), *(f"decoder.layers.{i}" for i in range(2))]
    assert find_head(model) == ["out"]


def test_tables_make_no_block():
    def table():
        return Called(table=nn.Embedding(9, 8), project=linear())

    def patches():
        part = Called(project=linear())
        part.positions = nn.Parameter(torch.zeros(1, 5, 8))
        return part

    body = nn.ModuleList(mlp() for _ in range(2))
    for stem in (table, patches):
        model = Called(stem=nn.ModuleList(stem() for _ in range(3)), body=body, fc=linear())
        assert names(model) == ["body.0", "body.1"]
