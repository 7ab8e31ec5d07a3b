"""`resolve_blocks`: names, indices and patterns to full names, and every way to get it wrong."""

import numpy as np
import pytest
import torch
from torch import nn

from subtuning_hf.blocks import find_blocks, resolve_blocks
from subtuning_hf.errors import (
    BlockSelectionError,
    DuplicateBlockError,
    NestedBlocksError,
    NoBlocksFoundError,
    UnknownBlockError,
)
from toys import TOYS


@pytest.fixture(scope="module")
def vit():
    return TOYS["vit"].build()


@pytest.fixture(scope="module")
def resnet():
    return TOYS["resnet"].build()


@pytest.mark.parametrize("toy", TOYS.values(), ids=TOYS)
def test_each_way_to_name_all_blocks_of_every_toy(toy):
    model = toy.build_meta()
    names = list(toy.blocks)
    assert resolve_blocks(model, names) == names
    assert resolve_blocks(model, names[::-1]) == names, "forward order, whatever order is written"
    assert resolve_blocks(model, range(len(names))) == names
    assert resolve_blocks(model, [-1, 0]) == [names[0], names[-1]]
    assert resolve_blocks(model, ["*"]) == names
    assert resolve_blocks(model, find_blocks(model)) == names


@pytest.mark.parametrize(
    ("written", "chosen"),
    [
        ([], []),
        ((), []),
        ([1], [1]),
        ([-1, 0], [0, 2]),
        (["vit.layers.2", 0], [0, 2]),
        (["vit.layers.*"], [0, 1, 2]),
        (["*.[02]"], [0, 2]),
        (["*.?"], [0, 1, 2]),
        (["*.[!0]", 0], [0, 1, 2]),
        (["*.1", "*.[12]"], [1, 2]),  # patterns may overlap each other
        (["*.1", "vit.layers.1", "*s.1"], [1]),  # and names
        ({2, 0}, [0, 2]),
        (np.array([0, 2]), [0, 2]),
        (range(1, 3), [1, 2]),
        ((i for i in (2, 1)), [1, 2]),
    ],
)
def test_what_is_accepted(vit, written, chosen):
    assert resolve_blocks(vit, written) == [f"vit.layers.{index}" for index in chosen]


def test_any_module_with_parameters_can_be_named(resnet):
    stage, inner = "resnet.encoder.stages.2", "resnet.encoder.stages.1.layers.0.layer"
    assert resolve_blocks(resnet, [stage, inner, "resnet.embedder", 0]) == [
        "resnet.embedder",
        "resnet.encoder.stages.0.layers.0",
        inner,
        stage,
    ]


def test_patterns_prefer_blocks_and_then_take_the_outermost(resnet):
    assert resolve_blocks(resnet, ["*stages.2*"]) == [f"resnet.encoder.stages.2.layers.{i}" for i in (0, 1)]
    assert resolve_blocks(resnet, ["resnet.encoder.stages.?"]) == [f"resnet.encoder.stages.{i}" for i in range(3)]
    assert resolve_blocks(resnet, ["resnet.emb*"]) == ["resnet.embedder"]
    with pytest.raises(UnknownBlockError, match="'classif"):  # the head is no block, unless named in full
        resolve_blocks(resnet, ["classif*"])


@pytest.mark.parametrize(
    ("written", "error", "said"),
    [
        (
            "vit.layers.0",
            BlockSelectionError,
            r"single str 'vit.layers.0'. Put it in a list: blocks=\['vit.layers.0'\]",
        ),
        (0, BlockSelectionError, r"the single int 0. Put it in a list: blocks=\[0\]"),
        (None, BlockSelectionError, r"None of type NoneType.*blocks=\[\] trains the head alone"),
        (True, BlockSelectionError, "True of type bool"),
        (1.5, BlockSelectionError, "1.5 of type float"),
        (b"vit", BlockSelectionError, "of type bytes"),
        ({"vit.layers.0": 1}, BlockSelectionError, "of type dict"),
        ([True], BlockSelectionError, "got True of type bool"),
        ([np.True_], BlockSelectionError, "of type bool"),
        ([0.0], BlockSelectionError, "got 0.0 of type float"),
        ([None], BlockSelectionError, "got None of type NoneType"),
        ([[0, 1]], BlockSelectionError, r"got \[0, 1\] of type list"),
        (torch.tensor([0]), BlockSelectionError, "of type Tensor"),
        ([3], UnknownBlockError, "index 3, but 'ViTForImageClassification' has 3 blocks: indices 0 to 2, or -3 to -1"),
        ([-4], UnknownBlockError, "index -4, but"),
        (["vit.layer.2"], UnknownBlockError, "'vit.layers.0' ... 'vit.layers.2'. Did you mean 'vit.layers.2'?"),
        (["encoder.layers.1"], UnknownBlockError, "Did you mean 'vit.layers.1'?"),
        (["layers.1"], UnknownBlockError, "Did you mean 'vit.layers.1'?"),  # no matching by suffix
        (["base_model.model.vit.layers.1"], UnknownBlockError, "Did you mean 'vit.layers.1'?"),
        (["vit.layers[1]"], UnknownBlockError, "Did you mean 'vit.layers.1'?"),
        (["vit.embedings"], UnknownBlockError, "Did you mean 'vit.embeddings'?"),
        (["1"], UnknownBlockError, "To choose by index write the number 1 without quotes"),
        ([""], UnknownBlockError, "names '', but"),
        (["zzz"], UnknownBlockError, "List them with `subtuning blocks MODEL`"),
        (["nothing*"], UnknownBlockError, r"the pattern 'nothing\*', but it fits no block"),
        (["vit.layers"], BlockSelectionError, r"a ModuleList.*with the pattern 'vit.layers.\*'"),
        (["vit.layers.0.mlp.activation_fn"], BlockSelectionError, "without parameters"),
        (["vit.layers.0", "vit.layers.0"], DuplicateBlockError, "twice, both times as 'vit.layers.0'"),
        ([0, "vit.layers.0"], DuplicateBlockError, "'vit.layers.0' twice, as index 0 and as 'vit.layers.0'"),
        ([0, -3], DuplicateBlockError, "as index 0 and as index -3"),
        (["*.0", "*.0"], DuplicateBlockError, r"the pattern '\*.0' twice"),
        (
            [0, "vit.layers.0.mlp"],
            NestedBlocksError,
            r"'vit.layers.0.mlp', which lies inside 'vit.layers.0' \(index 0\)",
        ),
        (["vit", 1], NestedBlocksError, r"'vit.layers.1' \(index 1\), which lies inside 'vit'"),
        (["vit.layers.*", "vit.layers.2.mlp"], NestedBlocksError, r"\(pattern 'vit.layers.\*'\)"),
    ],
)
def test_what_is_refused(vit, written, error, said):
    with pytest.raises(error, match=said) as raised:
        resolve_blocks(vit, written)
    assert type(raised.value) is error
    assert isinstance(raised.value, ValueError)


def test_every_misspelt_block_is_recognised(resnet):
    for block in find_blocks(resnet):
        with pytest.raises(UnknownBlockError, match=f"Did you mean '{block.name}'"):
            resolve_blocks(resnet, [block.name.replace("encoder", "enocder")])


def test_the_first_wrong_entry_is_told_even_among_right_ones(vit):
    with pytest.raises(UnknownBlockError, match="index 7"):
        resolve_blocks(vit, [0, "vit.layers.1", 7, "zzz"])


class Net(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)


def block():
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))


def test_a_module_in_several_places_cannot_be_chosen():
    once, twice = block(), block()
    model = Net(once, twice, block(), twice)
    for name in ("layers.1", "layers.3"):
        with pytest.raises(BlockSelectionError, match=r"stands in several places of 'Net' \(also at 'layers.3'\)"):
            resolve_blocks(model, [name])
    with pytest.warns(UserWarning, match="1 are left out, such as 'layers.1'"):
        assert [b.name for b in find_blocks(model)] == ["layers.0", "layers.2"]
    assert resolve_blocks(model, ["*"]) == ["layers.0", "layers.2"]


def test_another_name_of_a_container_leads_to_the_first():
    model = Net(block(), block())
    model.same = model.layers
    assert resolve_blocks(model, ["same.1"]) == ["layers.1"]
    with pytest.raises(DuplicateBlockError, match=r"twice, as 'layers\.1' and as 'same\.1'"):
        resolve_blocks(model, ["layers.1", "same.1"])


def test_names_with_signs_of_patterns_are_taken_literally_where_they_exist():
    model = nn.Sequential()
    for name in ("a[0]", "a[1]", "a0"):
        model.add_module(name, block())
    assert resolve_blocks(model, ["a[0]"]) == ["a[0]"]


def test_index_without_blocks():
    with pytest.raises(NoBlocksFoundError, match=r"index 0\. Expected at least two blocks.*Name the blocks explicitly"):
        resolve_blocks(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), [0])
