"""Every architecture: each task's answer is that of its adapter alone, in PEFT's own hands."""

import pytest
import torch

from multitask.cases import SHAPES, alone, call, load, logits_of, make_tasks
from subtuning_hf.multitask import fork
from toys import TOYS

# Which way each is fed; all others take each row once.
TILED = {"llama", "qwen2", "qwen3", "mistral", "gpt2", "t5", "t5-generation"}
ALONE = {"timm-densenet"}
QUICK = ("resnet", "bert", "gpt2", "t5", "wav2vec2", "timm-densenet")


def double(inputs):
    """The inputs in float64: a BatchNorm of small variance magnifies what float32 rounds away, by machine."""
    return {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}


def compare(toy, adapters, model, inputs):
    """Answers within rounding, and no two tasks alike: an answer of the wrong task would not pass."""
    model.double()
    answers = model(**double(inputs))
    wanted = {task: logits_of(call(alone(toy, folder).double(), double(inputs))) for task, folder in adapters.items()}
    assert list(answers) == list(adapters)
    for task, want in wanted.items():
        found = logits_of(answers[task])
        assert found.shape == want.shape and found.dtype == want.dtype
        assert float((found - want).abs().max()) <= 1e-6 * max(1.0, float(want.abs().max())), task
    distinct = {tuple(want.flatten()[:2].tolist()) for want in wanted.values()}
    assert len(distinct) == len(wanted)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in TOYS])
def test_two_tasks(name, tmp_path):
    toy = TOYS[name]
    adapters = make_tasks(toy, tmp_path, 2, "nested")
    model = load(toy, adapters)
    for batch in (3, 1):
        compare(toy, adapters, model, toy.inputs(batch, seed=batch))
    assert model.way == ("alone" if name in ALONE else "tiled" if name in TILED else "once")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in TOYS])
def test_large_batches_in_parts(name, tmp_path, monkeypatch):
    """As on a CPU, where a block behind the fork takes no more rows at once than suit its caches."""
    toy = TOYS[name]
    adapters = make_tasks(toy, tmp_path, 3, "disjoint")
    model = load(toy, adapters)
    monkeypatch.setattr(fork, "CPU_BYTES", 0)
    monkeypatch.setattr(fork, "CPU_ROWS", 1)
    for batch in (3, 1):
        compare(toy, adapters, model, toy.inputs(batch, seed=batch))
    assert bool(model.engine._said) == (name in ALONE), "some ran one by one"


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", TOYS)
def test_eight_tasks(name, shape, tmp_path):
    toy = TOYS[name]
    adapters = make_tasks(toy, tmp_path, 8, shape)
    compare(toy, adapters, load(toy, adapters), toy.inputs(2, seed=7))


@pytest.mark.slow
@pytest.mark.parametrize("name", TOYS)
def test_one_task_is_its_adapter_bit_for_bit(name, tmp_path):
    toy = TOYS[name]
    adapters = make_tasks(toy, tmp_path, 1, "nested")
    inputs = toy.inputs(2)
    found = logits_of(load(toy, adapters)(**inputs)["task 0"])
    want = logits_of(call(alone(toy, adapters["task 0"]), inputs))
    assert found.dtype == want.dtype and torch.equal(found, want)
