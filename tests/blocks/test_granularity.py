"""`find_blocks` by stages and by parts of blocks: names, kinds, order by hooks, and what is left out."""

import collections
import itertools
import time
import warnings

import pytest
import torch
from peft import get_peft_model
from torch import nn

from subtuning_hf import SubTuningConfig
from subtuning_hf.blocks import Block, find_blocks, partition, resolve_blocks
from subtuning_hf.errors import ArgumentsError, DuplicateBlockError, NoBlocksFoundError, UnknownBlockError
from toys import TOYS, expand


@pytest.fixture(params=TOYS.values(), ids=TOYS)
def toy(request):
    return request.param


def quietly(model, granularity):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return find_blocks(model, granularity)


def units_of(model):
    """Stages (where there are some), blocks and parts of a model."""
    found = {}
    for granularity in ("stage", "block", "submodule"):
        try:
            found[granularity] = quietly(model, granularity)
        except NoBlocksFoundError:
            assert granularity == "stage"
    return found


def calls(model, names, inputs):
    """The names in the order of their calls."""
    called = []
    for name in names:
        model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: called.append(name))
    with torch.no_grad():
        model(**inputs)
    return called


# --- what holds for every model --------------------------------------------------------------
def test_units_are_called_once_each_in_the_order_listed(toy):
    for units in units_of(toy.build_meta()).values():
        names = [unit.name for unit in units]
        assert calls(toy.build(), names, toy.inputs()) == names


def test_units_lie_apart_and_are_counted_right(toy):
    model = toy.build()
    for granularity, units in units_of(model).items():
        names = [unit.name for unit in units]
        assert [unit.index for unit in units] == list(range(len(units)))
        owners = collections.Counter()
        for unit in units:
            parameters = {id(p): p.numel() for p in model.get_submodule(unit.name).parameters()}
            assert unit.num_parameters == sum(parameters.values()) > 0
            owners.update(parameters.keys())
        assert max(owners.values()) == 1, "no parameter in two units"
        assert not [(a, b) for a, b in itertools.permutations(names, 2) if a.startswith(f"{b}.")]
        kinds = {"stage": {"stage"}, "block": {"block"}}
        assert {unit.kind for unit in units} <= kinds.get(
            granularity, {"attention", "mlp", "norm", "convolution", "other"}
        )


def test_parts_lie_in_blocks_and_blocks_in_stages(toy):
    found = units_of(toy.build_meta())
    for inner, outer in (("submodule", "block"), ("block", "stage")):
        if outer in found:
            around = [next(o.name for o in found[outer] if u.name.startswith(f"{o.name}.")) for u in found[inner]]
            assert list(dict.fromkeys(around)) == [unit.name for unit in found[outer]], "each holds some, in order"


def test_all_ways_to_name_units(toy):
    model = toy.build_meta()
    for granularity, units in units_of(model).items():
        names = [unit.name for unit in units]
        assert resolve_blocks(model, names[::-1]) == names, "full names, whatever the granularity"
        assert resolve_blocks(model, units) == names
        assert resolve_blocks(model, range(len(names)), granularity) == names
        assert resolve_blocks(model, ["*"], granularity) == names
        assert resolve_blocks(model, [-1, 0], granularity) == [names[0], names[-1]]


def test_partition_by_units(toy):
    model = toy.build_meta()
    for units in units_of(model).values():
        parts = partition(model, units)
        names = [*parts.stem, *(name for inside in parts.blocks.values() for name in inside), *parts.head]
        assert sorted(names) == sorted(name for name, _ in model.named_parameters())
        assert list(parts.blocks) == [unit.name for unit in units]


def test_the_same_on_the_meta_device_with_adapters_and_each_time(toy):
    bare = units_of(toy.build())
    assert units_of(toy.build_meta()) == bare
    parts = [unit.name for unit in bare["submodule"]]
    tuned = get_peft_model(toy.build(), SubTuningConfig(blocks=parts[::2]))
    assert units_of(tuned) == bare
    if "stage" in bare:
        tuned = get_peft_model(toy.build(), SubTuningConfig(blocks=[bare["stage"][-1].name]))
        assert units_of(tuned) == bare


# --- what practitioners expect ---------------------------------------------------------------
VIT = "norm:layernorm_before attention:attention norm:layernorm_after mlp:mlp"
TIMM_VIT = "norm:norm1 attention:attn norm:norm2 mlp:mlp"
BERT = "attention:attention mlp:intermediate mlp:output.dense norm:output.LayerNorm"
LLAMA = "norm:input_layernorm attention:self_attn norm:post_attention_layernorm mlp:mlp"
BASIC = "convolution:conv1 norm:bn1 convolution:conv2 norm:bn2"
HF_BASIC = " ".join(f"convolution:layer.{i}.convolution norm:layer.{i}.normalization" for i in (0, 1))
PARTS = {
    "vit": VIT,
    "swin": VIT,
    "dinov2": TIMM_VIT.replace("attn", "attention"),
    "clip-vision": "norm:layer_norm1 attention:self_attn norm:layer_norm2 mlp:mlp",
    "timm-vit": TIMM_VIT,
    "timm-swin": TIMM_VIT,
    "bert": BERT,
    "roberta": BERT,
    "deberta": BERT,
    "deberta-v2": BERT,
    "distilbert": "attention:attention norm:sa_layer_norm mlp:ffn norm:output_layer_norm",
    "modernbert": "norm:attn_norm attention:attn norm:mlp_norm mlp:mlp",
    "llama": LLAMA,
    "qwen3": LLAMA,
    "mistral": LLAMA,
    "gpt2": "norm:ln_1 attention:attn norm:ln_2 mlp:mlp",
    "t5": "norm:layer.0.layer_norm attention:layer.0.SelfAttention norm:layer.1.layer_norm "
    "attention:layer.1.EncDecAttention norm:layer.2.layer_norm mlp:layer.2.DenseReluDense",
    "whisper": "norm:self_attn_layer_norm attention:self_attn norm:final_layer_norm mlp:fc1 mlp:fc2",
    "wav2vec2": "attention:attention norm:layer_norm mlp:feed_forward norm:final_layer_norm",
    "resnet": HF_BASIC,
    "timm-resnet": BASIC,
    "plain-resnet": BASIC,
    "timm-resnetv2-conv-head": "norm:norm1 convolution:conv1 norm:norm2 convolution:conv2",
    "timm-densenet": "norm:norm1 convolution:conv1 norm:norm2 convolution:conv2",
    "timm-regnet": " ".join(f"convolution:conv{i}.conv norm:conv{i}.bn" for i in (1, 2, 3)),
    "convnext": "convolution:dwconv norm:layernorm mlp:pwconv1 mlp:pwconv2",
    "timm-convnext": "convolution:conv_dw norm:norm mlp:mlp",
    "mobilenet-v2": " ".join(
        f"convolution:{part}.convolution norm:{part}.normalization" for part in ("expand_1x1", "conv_3x3", "reduce_1x1")
    ),
    "timm-mobilenet": "convolution:conv_pw norm:bn1 convolution:conv_dw norm:bn2 other:se "
    "convolution:conv_pwl norm:bn3",
    "plain-head-list": "norm:norm "
    + " ".join(f"attention:attention.{i}.{part}" for i in (0, 1) for part in ("query", "key", "value"))
    + " mlp:mlp",
}  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_the_last_block(name):
    toy = TOYS[name]
    last = 1 + toy.blocks[-1].count(".")
    inside = [u for u in find_blocks(toy.build_meta(), "submodule") if u.name.startswith(f"{toy.blocks[-1]}.")]
    assert [f"{u.kind}:{'.'.join(u.name.split('.')[last:])}" for u in inside] == PARTS[name].split()


def test_squeeze_and_excitation_is_one_part_and_a_shortcut_two():
    names = {u.name: u.kind for u in find_blocks(TOYS["timm-mobilenet"].build_meta(), "submodule")}
    assert names["blocks.0.0.se"] == "other"
    names = {u.name: u.kind for u in find_blocks(TOYS["timm-resnet"].build_meta(), "submodule")}
    assert names["layer2.0.downsample.0"] == "convolution" and names["layer2.0.downsample.1"] == "norm"


@pytest.mark.parametrize(
    ("name", "rest"), [("convnext", "layer_scale_parameter"), ("dinov2", "lambda1"), ("timm-convnext", "gamma")]
)
def test_layer_scales_are_in_no_part(name, rest):
    model = TOYS[name].build_meta()
    whole, parts = partition(model), partition(model, find_blocks(model, "submodule"))
    left = set(parts.stem) - set(whole.stem)
    assert left and all(parameter.endswith(f".{rest}") for parameter in left)


def test_everything_else_is_covered(toy):
    if toy.name not in ("convnext", "dinov2", "timm-convnext", "wrapped-convnext"):
        model = toy.build_meta()
        assert partition(model, find_blocks(model, "submodule")).stem == partition(model).stem


STAGES = {
    "resnet": "resnet.encoder.stages.{0-2}",
    "convnext": "convnext.encoder.stages.{0-2}",
    "swin": "swin.encoder.layers.{0-1}",
    "timm-resnet": "layer{1-4}",
    "timm-swin": "layers.{0-1}",
    "timm-densenet": "features.denseblock{1-3}",
    "timm-regnet": "s{1-4}",
    "timm-mobilenet": "blocks.{0-4}",
    "wrapped-convnext": "timm_model.stages.{0-3}",
    "plain-resnet": "layer{1-3}",
}


@pytest.mark.parametrize("name", STAGES)
def test_stages(name):
    units = find_blocks(TOYS[name].build_meta(), "stage")
    assert tuple(unit.name for unit in units) == expand(STAGES[name])
    assert units[0] == Block(units[0].name, 0, units[0].num_parameters, "stage")


@pytest.mark.parametrize("name", ["vit", "bert", "t5", "llama", "timm-vit", "mobilenet-v2", "plain-sequential"])
def test_models_without_stages_say_what_to_use(name):
    model, blocks = TOYS[name].build_meta(), TOYS[name].blocks
    expected = (
        rf"found none: its {len(blocks)} blocks are '{blocks[0]}' \.\.\. '{blocks[-1]}'\. Use granularity='block'"
    )
    with pytest.raises(NoBlocksFoundError, match=expected):
        find_blocks(model, "stage")
    with pytest.raises(NoBlocksFoundError, match="index 0. Expected stages"):
        resolve_blocks(model, [0], "stage")
    assert resolve_blocks(model, [blocks[0]], "stage") == [blocks[0]]


# --- larger models, called without weights ---------------------------------------------------
BEYOND = [
    "cait_xxs24_224", "coatnet_pico_rw_224", "dpn48b", "efficientformer_l1", "ghostnet_100", "levit_128",
    "maxvit_pico_rw_256", "mobilenetv4_conv_small", "nfnet_f0", "repvit_m0_9", "swinv2_tiny_window8_256",
    "vit_base_patch16_224_miil", "volo_d1_224", "xcit_nano_12_p16_224",
]  # fmt: skip


@pytest.mark.parametrize("name", BEYOND)
def test_order_in_architectures_beyond_the_toys(name):
    timm = pytest.importorskip("timm")
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = timm.create_model(name).eval()
        units = [unit.name for unit in find_blocks(model, "submodule", warn=False)]
        inputs = {"x": torch.empty(1, *model.pretrained_cfg["input_size"])}
        assert list(dict.fromkeys(calls(model, units, inputs))) == units


# --- structures that toys do not have --------------------------------------------------------
class Called(nn.Module):
    def __init__(self, **parts):
        super().__init__()
        for key, part in parts.items():
            setattr(self, key, part)

    def forward(self, x):
        return x


def linear():
    return nn.Linear(8, 8)


def parts_of(block):
    model = Called(layers=nn.ModuleList(block() for _ in range(3)), fc=linear())
    found = [unit for unit in find_blocks(model, "submodule") if unit.name.startswith("layers.0")]
    return {unit.name.removeprefix("layers.0").removeprefix("."): unit.kind for unit in found}


def named(cls, **parts):
    return type(cls, (Called,), {})(**parts)


def test_an_attention_block_that_holds_an_mlp_is_taken_apart():
    def block():
        both = named("GridAttention", norm=nn.LayerNorm(8), attn=linear(), norm2=nn.LayerNorm(8), mlp=linear())
        return Called(conv=nn.Conv1d(8, 8, 1), attn_block=both)

    assert parts_of(block) == {
        "conv": "convolution",
        "attn_block.norm": "norm",
        "attn_block.attn": "attention",
        "attn_block.norm2": "norm",
        "attn_block.mlp": "mlp",
    }


def test_an_attention_keeps_the_norms_and_the_mlp_of_its_bias():
    def block():
        inner = named("SelfAttention", query=linear(), q_norm=nn.LayerNorm(8), bias_mlp=nn.Sequential(linear()))
        return Called(attention=Called(self_attention=inner, output=linear()), fc=linear())

    assert parts_of(block) == {"attention": "attention", "fc": "mlp"}


def test_modules_that_compute_with_parameters_of_their_own_are_one_part():
    def block():
        mixer = Called(in_proj=linear(), norm=nn.LayerNorm(8), out_proj=linear())
        mixer.decay = nn.Parameter(torch.ones(8, 2))
        return Called(norm=nn.LayerNorm(8), mixer=mixer)

    assert parts_of(block) == {"norm": "norm", "mixer": "other"}


def test_vectors_are_no_parts_whatever_their_shape():
    def block():
        scale = Called()
        scale.gamma = nn.Parameter(torch.ones(8, 1, 1))
        return Called(a=linear(), act=nn.PReLU(), scale=scale, b=linear(), position=nn.Embedding(4, 8))

    assert parts_of(block) == {"a": "mlp", "b": "mlp"}


def test_a_sequence_is_taken_apart_unless_it_is_an_mlp():
    def block():
        convs = nn.Sequential(nn.Conv1d(8, 8, 3), nn.ReLU(), nn.Sequential(nn.Conv1d(8, 8, 3), nn.BatchNorm1d(8)))
        return Called(convs=convs, tail=nn.Sequential(linear(), nn.GELU(), linear()))

    expected = {"convs.0": "convolution", "convs.2.0": "convolution", "convs.2.1": "norm", "tail": "mlp"}
    assert parts_of(block) == expected


def test_a_block_that_is_one_part_or_none_stands_for_itself():
    assert parts_of(lambda: named("MultiHeadAttention", q=linear(), k=linear())) == {"": "attention"}

    def bare():
        block = Called()
        block.a, block.b = nn.Parameter(torch.ones(8, 8)), nn.Parameter(torch.ones(8, 8))
        return block

    assert parts_of(bare) == {"": "block"}


def test_a_part_in_several_places_is_left_out():
    shared = linear()
    blocks = nn.ModuleList(Called(own=linear(), also=linear(), shared=shared) for _ in range(2))
    names = [unit.name for unit in find_blocks(Called(layers=blocks, fc=linear()), "submodule")]
    assert names == ["layers.0.own", "layers.0.also", "layers.1.own", "layers.1.also"]


def test_what_stands_in_no_stage_is_listed_as_it_is():
    def block():
        return nn.Sequential(linear(), linear())

    stages = nn.Sequential(block(), block()), nn.Sequential(block(), block())
    model = Called(layer1=stages[0], layer2=stages[1], blocks=nn.ModuleList([block(), block()]), fc=linear())
    assert [(u.name, u.kind) for u in find_blocks(model, "stage")] == [
        ("layer1", "stage"),
        ("layer2", "stage"),
        ("blocks.0", "block"),
        ("blocks.1", "block"),
    ]


# --- what is refused and said ----------------------------------------------------------------
@pytest.mark.parametrize(
    ("granularity", "said"),
    [
        ("submodules", "found 'submodules'. Did you mean 'submodule'?"),
        ("layer", "must be one of 'stage', 'block', 'submodule', found 'layer'"),
        (True, "found True"),
        (["block"], r"found \['block'\]"),
    ],
)
def test_unknown_granularity(granularity, said):
    model = TOYS["vit"].build_meta()
    for ask in (lambda: find_blocks(model, granularity), lambda: resolve_blocks(model, [0], granularity)):
        with pytest.raises(ArgumentsError, match=said):
            ask()


def test_errors_name_the_unit():
    model = TOYS["vit"].build_meta()
    with pytest.raises(UnknownBlockError, match="has 12 submodules: indices 0 to 11"):
        resolve_blocks(model, [12], "submodule")
    with pytest.raises(UnknownBlockError, match="Its 12 submodules are 'vit.layers.0.layernorm_before' ..."):
        resolve_blocks(model, ["vit.layers.0.mpl"], "submodule")
    with pytest.raises(DuplicateBlockError, match="as index 1 and as 'vit.layers.0.attention'"):
        resolve_blocks(model, [1, "vit.layers.0.attention"], "submodule")
    assert resolve_blocks(model, ["*.mlp", -2], "submodule") == [
        "vit.layers.0.mlp",
        "vit.layers.1.mlp",
        "vit.layers.2.layernorm_after",
        "vit.layers.2.mlp",
    ]


def test_models_without_blocks_have_no_parts():
    with pytest.raises(NoBlocksFoundError, match="Expected at least two blocks"):
        find_blocks(nn.Sequential(linear(), linear()), "submodule")


def test_large_models_are_quick():
    def block():
        return Called(norm=nn.LayerNorm(8), attn=Called(q=linear(), k=linear()), mlp=Called(a=linear(), b=linear()))

    model = Called(layers=nn.ModuleList(block() for _ in range(300)), head=linear())
    start = time.process_time()
    units = find_blocks(model, "submodule")
    assert len(units) == 900
    assert resolve_blocks(model, ["*"], "submodule") == [unit.name for unit in units]
    assert time.process_time() - start < 5
