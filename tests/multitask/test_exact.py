"""Every architecture: each task's answer is that of its adapter alone, in PEFT's own hands."""

import pytest

from multitask.cases import SHAPES, alone, call, load, logits_of, make_tasks
from toys import TOYS

# Which way each is fed; all others take each row once.
TILED = {"llama", "qwen2", "qwen3", "mistral", "gpt2", "t5", "t5-generation"}
ALONE = {"timm-densenet"}
QUICK = ("resnet", "bert", "gpt2", "t5", "wav2vec2", "timm-densenet")


def rounding(reference, inputs, want):
    """What the adapter differs by when its rows run one by one: small variances of a BatchNorm magnify rounding."""
    rows = [call(reference, {name: value[i : i + 1] for name, value in inputs.items()}) for i in range(len(want))]
    return max(float((logits_of(row)[0] - one).abs().max()) for row, one in zip(rows, want, strict=True))


def compare(toy, adapters, model, inputs, exact=False):
    """Answers within rounding, and no two tasks alike: an answer of the wrong task would not pass."""
    answers = model(**inputs)
    wanted = {task: logits_of(call(alone(toy, folder), inputs)) for task, folder in adapters.items()}
    assert list(answers) == list(adapters)
    for task, want in wanted.items():
        found = logits_of(answers[task])
        assert found.shape == want.shape and found.dtype == want.dtype
        most = (
            0.0
            if exact
            else max(1e-5 * float(want.abs().max()), 4 * rounding(alone(toy, adapters[task]), inputs, want))
        )
        assert most <= 1e-3 and float((found - want).abs().max()) <= most, task
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
    compare(toy, adapters, load(toy, adapters), toy.inputs(2), exact=True)
