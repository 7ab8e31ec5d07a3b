"""What the check finds out before a model is trusted: what can be left out, and what cannot be."""

import copy

import pytest
import torch
from peft import get_peft_model
from torch import nn

from prefix.test_trunk import logits, trunk_of
from subtuning_hf import SubTuningConfig
from subtuning_hf.errors import PrefixCacheError
from subtuning_hf.prefix import ROWS, Trunk
from toys import logits_of


class Chain(nn.Module):
    """Three blocks, with something between them."""

    def __init__(self, between=lambda h, i: h, count=3):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Linear(6, 6), nn.Linear(6, 2)
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(count))
        self.between = between

    def forward(self, x):
        h = self.stem(x)
        for i, layer in enumerate(self.layers):
            h = self.between(layer(h), i)
        return self.head(h)


def chain(**settings):
    data = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    model = Chain(**settings).eval()
    return Trunk(model, [f"layers.{i}" for i in range(3)], lambda rows: {"x": data[list(rows)]}, 5)


def test_writing_into_a_dummy_is_found_out():
    trunk = chain(between=lambda h, i: h.mul_(2))
    assert trunk.fill([1, 3]) == (1, 3) and trunk.verdicts[3].filling == "zeros"
    with torch.no_grad():
        full = logits_of(trunk.model(**trunk.batch_of([1, 4])))
    for cut in (1, 3):
        with trunk.starting_at(trunk.model, cut):
            first, again = logits(trunk, [1, 4]), logits(trunk, [1, 4])
        assert torch.equal(first, again), "what is stored is not written into, while it is taken down or later"
        assert torch.allclose(first, full, rtol=1e-6)
    plain = chain()
    assert plain.fill([3]) == (3,) and plain.verdicts[3].filling == "thin"


def test_statistics_over_the_batch_are_refused():
    trunk = chain(between=lambda h, i: h - h.mean(0) if i == 0 else h)
    verdicts = trunk.check([1, 2, 3])
    assert "batched anew" in verdicts[3] and "batched anew" in verdicts[2]
    assert verdicts[1] is True, "at cut 1 the mean is taken behind the stored value"


def test_blocks_out_of_order_twice_or_never():
    model = chain().model
    batch_of = chain().batch_of
    with pytest.raises(PrefixCacheError, match="another order than given: 'layers.0' where 'layers.1' was"):
        Trunk(model, ["layers.1", "layers.0"], batch_of, 5).probe()
    shared = copy.deepcopy(model)
    shared.layers[2] = shared.layers[1]
    with pytest.raises(PrefixCacheError, match="'layers.1' is called more than once"):
        Trunk(shared, ["layers.0", "layers.1"], batch_of, 5).probe()
    model.unused = nn.Linear(2, 2)
    with pytest.raises(PrefixCacheError, match="'unused' is never called"):
        Trunk(model, ["layers.0", "layers.1", "unused"], batch_of, 5).probe()


def test_a_model_that_cannot_be_examined_runs_in_full():
    trunk = Trunk(chain().model, ["layers.1", "layers.0"], chain().batch_of, 5)
    assert "another order" in trunk.check([1])[1]
    assert trunk.fill([1, 2]) == ()
    with trunk.starting_at(trunk.model, 2) as used:
        assert used == 0
        assert torch.equal(logits(trunk, [1, 2]), logits_of(trunk.model(**trunk.batch_of([1, 2]))))


@pytest.mark.parametrize("rows", [1, 2])
def test_few_rows(rows):
    trunk = trunk_of(rows=rows)
    assert trunk.fill([1, 3]) == (1, 3)
    with trunk.starting_at(trunk.model, 3):
        assert torch.equal(logits(trunk, list(range(rows))), logits_of(trunk.model(**trunk.batch_of(range(rows)))))


def test_no_rows():
    with pytest.raises(PrefixCacheError, match="at least one row"):
        trunk_of(rows=0).probe()


def test_outputs_that_compare_rows_with_each_other():
    class Similar(Chain):
        def forward(self, x):
            h = super().forward(x)
            return {"logits": h, "similar": h @ h.T}

    data = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    trunk = Trunk(Similar().eval(), [f"layers.{i}" for i in range(3)], lambda rows: {"x": data[list(rows)]}, 5)
    assert trunk.fill([1, 2, 3]) == (1, 2, 3)


def test_adapters_in_the_model_are_refused():
    trunk = trunk_of()
    trunk.probe()
    top = get_peft_model(trunk.model, SubTuningConfig(blocks=["vit.layers.2"]))
    with pytest.raises(PrefixCacheError, match="Take adapters out"):
        trunk.fill([1])
    top.unload()
    assert trunk.fill([1]) == (1,)


def test_cuts_outside_the_model_are_refused():
    for cut in (0, 4):
        with pytest.raises(PrefixCacheError, match="cuts in 1 ... 3"):
            trunk_of().check([cut])


# --- inputs -----------------------------------------------------------------------------------
def test_inputs_that_nobody_reads():
    trunk = trunk_of()
    assert trunk.can_skip_inputs == frozenset()
    trunk.fill([1, 2])
    assert trunk.can_skip_inputs == {"pixel_values"}
    hollow = {"pixel_values": torch.full((), float("nan")).expand(2, 3, 32, 32)}
    with torch.no_grad(), trunk.starting_at(trunk.model, 2):
        found = trunk.model(**hollow, **{ROWS: torch.tensor([3, 1])}).logits
        assert torch.equal(found, logits(trunk, [3, 1]))
    texts = trunk_of("bert")
    texts.fill([2])
    assert texts.can_skip_inputs == frozenset()


def test_inputs_that_a_later_part_reads_are_kept():
    class Residual(nn.Module):
        """Its head looks at the image again."""

        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
            self.stem, self.head = nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x):
            h = self.stem(x)
            for layer in self.layers:
                h = layer(h)
            return self.head(h + x)

    torch.manual_seed(0)
    data = torch.randn(5, 6)
    blocks = [f"layers.{i}" for i in range(3)]
    trunk = Trunk(Residual().eval(), blocks, lambda rows: {"x": data[list(rows)]}, 5)
    assert trunk.fill([2]) == (2,)
    assert trunk.can_skip_inputs == frozenset() and trunk.verdicts[2].stem == ("stem",)
