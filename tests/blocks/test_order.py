"""Call order read from the source of `forward`: what Python evaluates first stands first."""

import pytest
import torch
from torch import nn

from subtuning_hf.blocks.order import in_call_order, sort_forward, walk_in_call_order
from subtuning_hf.blocks.tree import Tree
from toys import TOYS


class Parts(nn.Module):
    """Four linear layers `a` ... `d`, registered in this order."""

    def __init__(self, **settings):
        super().__init__()
        for key in "abcd":
            setattr(self, key, nn.Linear(2, 2))
        self.drop = nn.Dropout()
        self.optional = None
        for key, value in settings.items():
            setattr(self, key, value)


class NestedCalls(Parts):
    def forward(self, x):
        return self.drop(self.a(self.b(x)) + self.c(input=self.d(x)))


class InMethods(Parts):
    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(self.middle, self.d(x)) + self.end(self.c(x))

    def middle(self, x):
        return self.b(x)

    def end(self, x):
        return self.a(x)


class Inherited(InMethods):
    def forward(self, x):
        x = self.a(x)
        return super().forward(x)


class Switch(Parts):
    def forward(self, x):
        if self.first:
            x = self.d(x)
        x = self.c(x) if self.optional is not None else self.b(x)
        if not self.first:
            x = self.d(x)
        return self.a(self.c(x))


class Early(Parts):
    def forward(self, x):
        if self.first is None or not self.first:
            return self.c(self.d(x)) + self.a(self.b(x))
        if x.sum() > 0:
            return self.b(x)
        return self.d(self.c(self.a(x)))


class Looked(Parts):
    """What is looked at or passed on counts only where nothing is called."""

    def forward(self, x):
        size = self.d.weight.shape[0] if self.a is not None else 0
        x = self.c(x.view(-1, size))
        y = self.b(x)
        return self.d(self.a(y))


class Docstring(Parts):
    def forward(self, x):
        """Text
        that is not indented."""
        return self.a(self.b(self.c(self.d(x))))


class Lists(nn.Module):
    def __init__(self):
        super().__init__()
        self.late, self.early = nn.ModuleList([nn.Linear(2, 2)]), nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        self.last, self.by_index = nn.Linear(2, 2), nn.ModuleDict({"x": nn.Linear(2, 2)})

    def forward(self, x):
        for layer in self.early:
            x = layer(x)
        x = self.by_index["x"](x)
        for layer in self.late:
            x = layer(x)
        return self.last(x)


class ByName(Parts):
    def forward(self, x):
        for key in "dcba":
            x = getattr(self, key)(x)
        return self.d(x)


class Recursive(Parts):
    def forward(self, x, depth=2):
        return self.forward(x, depth - 1) if depth else self.d(self.a(self.c(self.b(x))))


def order(module):
    return "".join(child.key for child in in_call_order(Tree(module).root) if child.sizes)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (NestedCalls(), "badc"),
        (InMethods(), "dbca"),
        (Inherited(), "adbc"),
        (Switch(first=True), "dbca"),
        (Switch(first=False), "bdca"),
        (Switch(first=True, optional=1), "abcd"),  # `b` is in the branch not taken: not all parts are named
        (Early(first=None), "dcba"),
        (Early(first=False), "dcba"),
        (Early(first=True), "bacd"),
        (Looked(), "cbad"),
        (Docstring(), "dcba"),
        (Recursive(), "bcad"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else value,
)
def test_order_of_calls(module, expected):
    assert order(module) == expected


def test_lists_stand_where_they_are_mentioned():
    names = [node.name for node in walk_in_call_order(Tree(Lists()).root) if not node.children][:5]
    assert names == ["early.0", "early.1", "by_index.x", "late.0", "last"]


def test_registration_order_where_forward_cannot_be_read():
    assert order(ByName()) == "abcd"
    space = {"Parts": Parts}
    exec("class NoSource(Parts):\n    def forward(self, x):\n        return self.a(self.b(self.c(self.d(x))))", space)
    assert order(space["NoSource"]()) == "abcd"
    assert order(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))) == "01"
    assert order(nn.Linear(2, 2)) == ""


def test_mode_is_not_read():
    class Mode(Parts):
        def forward(self, x):
            if self.training:
                x = self.d(x)
            return self.d(self.a(self.b(self.c(x))))

    assert order(Mode().train()) == order(Mode().eval()) == "dcba"


@pytest.mark.parametrize("first", [True, False])
def test_torch_layers_by_their_flag(first):
    names = order(nn.TransformerEncoderLayer(4, 2, 4, norm_first=first))
    assert names == ("norm1self_attnnorm2linear1linear2" if first else "self_attnnorm1linear1linear2norm2")


def test_nothing_of_the_model_is_run():
    class Trap(Parts):
        @property
        def first(self):
            raise RuntimeError("a property must not run")

        def forward(self, x):
            return self.b(x) if self.first else self.d(self.c(self.a(x)))

    assert order(Trap()) == "bacd"


def test_sorting_mixes_units_of_all_sizes():
    toy = TOYS["vit"]
    tree = Tree(toy.build_meta())
    names = [
        "vit.embeddings",
        "vit.layers.0.layernorm_before",
        "vit.layers.0.attention",
        "vit.layers.1",
        "vit.layers.2.layernorm_after",
        "vit.layers.2.mlp.fc1",
        "vit.layernorm",
    ]
    blocks = [tree.nodes[name] for name in toy.blocks]
    for written in (names, names[::-1], sorted(names)):
        assert [node.name for node in sort_forward([tree.nodes[name] for name in written], blocks)] == names
