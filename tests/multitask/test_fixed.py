"""A fixed set of tasks as one module: compiled, exported, and run elsewhere."""

import pytest
import torch

from multitask.cases import load, logits_of, make_adapter, make_tasks
from subtuning_hf.errors import MultiTaskError
from toys import TOYS

EXPORTED = ("resnet", "vit", "bert", "gpt2", "t5", "swin", "timm-resnet", "timm-vit")


def prepared(name, folder):
    toy = TOYS[name]
    model, inputs = load(toy, make_tasks(toy, folder, 3, "nested")), toy.inputs(3)
    return model, model.fixed(**inputs), toy.inputs(3, seed=5), inputs


def off(found, want):
    return max(float((logits_of(found[task]) - logits_of(want[task])).abs().max()) for task in want)


@pytest.mark.parametrize("name", ["resnet", "gpt2"])
def test_fixed_tasks_answer_alike(name, tmp_path):
    model, fixed, inputs, _ = prepared(name, tmp_path)
    want = model(**inputs)
    with torch.inference_mode():
        found = fixed(**inputs)
    assert list(found) == list(want) and off(found, want) == 0.0
    assert [logits_of(found[t]).shape for t in want] == [logits_of(want[t]).shape for t in want]


def test_fixed_tasks_share_all_weights(tmp_path):
    model, fixed, _, _ = prepared("resnet", tmp_path)
    assert {p.data_ptr() for p in fixed.parameters()} <= {p.data_ptr() for p in model.parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_export(name, tmp_path):
    model, fixed, inputs, example = prepared(name, tmp_path)
    program = torch.export.export(fixed, (), example)
    assert off(program.module()(**inputs), model(**inputs)) <= 1e-5


@pytest.mark.slow
def test_compile_without_breaks(tmp_path):
    model, fixed, inputs, _ = prepared("vit", tmp_path)
    compiled = torch.compile(fixed, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert off(compiled(**inputs), model(**inputs)) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet", "bert"])
def test_onnx(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, fixed, inputs, example = prepared(name, tmp_path)
    torch.onnx.export(fixed, (), kwargs=example, dynamo=True, verbose=False).save(tmp_path / "tasks.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "tasks.onnx")
    found = session.run(None, {one.name: inputs[one.name].numpy() for one in session.get_inputs()})
    for logits, answer in zip(found, model(**inputs).values(), strict=True):
        assert torch.allclose(torch.from_numpy(logits), logits_of(answer), atol=1e-4)


def test_tasks_that_cannot_run_together_are_not_fixed(tmp_path):
    toy = TOYS["timm-densenet"]
    model = load(toy, {f"t{n}": make_adapter(toy, tmp_path / str(n), [n], n) for n in range(2)})
    with pytest.raises(MultiTaskError, match="cannot run in one pass"):
        model.fixed(**toy.inputs(2))


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_another_number_of_rows_is_refused(rows, tmp_path):
    _, fixed, _, _ = prepared("resnet", tmp_path)
    with pytest.raises(MultiTaskError, match=f"fixed for batches of 3 rows, found {rows}. Make others"):
        fixed(**TOYS["resnet"].inputs(rows))
