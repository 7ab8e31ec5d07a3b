"""Latency of blocks: what is measured is what it says, on a clock of the tests' own, and models are left alone."""

import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from subtuning_hf.errors import ArgumentsError, MultiTaskError
from subtuning_hf.multitask import latency
from subtuning_hf.multitask.latency import _by_block, _in_turn, measure_latency
from subtuning_hf.search.latency import LatencyProfile
from toys import TOYS


class Clock:
    """Goes on when a module says so, and at no other time: machines are busy."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


CLOCK = Clock()


@pytest.fixture
def clock(monkeypatch):
    """The clock that measuring reads."""
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=CLOCK.perf_counter))
    return CLOCK


class Slow(nn.Module):
    """Takes so many milliseconds for each row."""

    def __init__(self, per_row):
        super().__init__()
        self.linear, self.per_row = nn.Linear(3, 3), per_row

    def forward(self, x):
        CLOCK.now += len(x) * self.per_row / 1e3
        return x + self.linear(x)


class Chain(nn.Module):
    """Three blocks of 3, 6 and 12 ms a row, and 3 ms a row outside of them."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Slow(3), Slow(6), Slow(12)])
        self.classifier = nn.Linear(3, 2)

    def forward(self, x):
        CLOCK.now += len(x) * 3 / 1e3
        for layer in self.layers:
            x = layer(x)
        return self.classifier(x)


BLOCKS = [f"layers.{place}" for place in range(3)]


def test_each_variant_runs_the_rows_it_should(clock):
    found = measure_latency(Chain(), {"x": torch.randn(1, 3)}, 3, 3, batches=[2], blocks=BLOCKS, end_to_end=False)
    each = found.of(2)
    for place, per_row in enumerate((3, 6, 12)):
        assert each.shared[place].median == pytest.approx(2 * per_row)
        assert each.stacked[place].median == pytest.approx(6 * per_row)
        assert each.tuned[place].median == pytest.approx(6 * per_row)
    assert each.outside.median == pytest.approx(6)
    assert each.whole.median == pytest.approx(48)
    assert found.blocks == tuple(BLOCKS) and found.num_parameters == (12,) * 3 and found.tuned_bytes == (48,) * 3
    assert each.measured == () and each.repeats == 3


def test_whole_models_of_many_tasks_agree_with_what_blocks_add_up_to(tmp_path, clock):
    found = measure_latency(Chain(), {"x": torch.randn(2, 3)}, 3, 3, blocks=BLOCKS)
    runs = {run.blocks: run.time.median for run in found.measured(2)}
    assert list(runs) == [(), ("layers.0",), ("layers.1",), ("layers.2",)]
    for blocks in list(runs)[1:]:
        assert runs[blocks] == pytest.approx(found.predicted(blocks, 2))
    assert runs["layers.0",] > runs["layers.1",] > runs["layers.2",] > found.of(2).whole.median
    assert LatencyProfile.load(found.save(tmp_path / "latency.json")) == found


@pytest.mark.parametrize("name", ["resnet", "bert", "gpt2", "t5", "timm-vit", "plain-sequential"])
def test_models_of_all_kinds(name):
    toy = TOYS[name]
    model = toy.build()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    found = measure_latency(model, toy.inputs(2), 2, 1, batches=[1, 3])
    assert found.blocks == toy.blocks and found.batch_sizes == (1, 3)
    assert all(time_.median > 0 for each in found.batches for time_ in (*each.shared, *each.stacked, *each.tuned))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters()) and model.training


def test_timing_changes_no_answer_and_leaves_no_clock():
    toy = TOYS["bert"]
    model, seen = toy.build(), []
    inputs = toy.inputs(2)
    with torch.no_grad():
        alone = model(**inputs).logits
        handle = model.classifier.register_forward_hook(lambda module, args, output: seen.append(output))
        for copies in (0, 2):
            _by_block(lambda: 1e3 * time.perf_counter(), model, toy.blocks, inputs, copies)
        handle.remove()
    assert len(seen) == 2 and all(torch.equal(one, alone) for one in seen)
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_variants_take_turns_and_end_in_time():
    order = []
    runs = _in_turn({name: lambda name=name: order.append(name) or len(order) for name in "abc"}, 4, 60)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert runs["a"] == [4, 9, 11, 13]
    assert len(_in_turn({"a": lambda: time.sleep(0.01)}, 50, 0.0)["a"]) == 3


def test_a_model_without_a_trunk_is_refused():
    toy = TOYS["timm-densenet"]
    with pytest.raises(MultiTaskError, match="DenseNet answers them one by one"):
        measure_latency(toy.build(), toy.inputs(2), 2, 1)


@pytest.mark.parametrize("fields", [{"num_tasks": 1}, {"repeats": 0}, {"batches": [2, 2]}, {"batches": []}])
def test_numbers_that_mean_nothing(fields):
    with pytest.raises(ArgumentsError):
        measure_latency(Chain(), {"x": torch.randn(1, 3)}, **fields)
