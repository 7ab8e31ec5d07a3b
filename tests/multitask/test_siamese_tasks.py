"""Siamese adapters among others on one trunk: the frozen features are computed once, and answers are as alone."""

import pytest
import torch
from peft import get_peft_model

from multitask.cases import alone, call, disturb, load, logits_of, make_adapter, make_lora
from subtuning_hf import SubTuningConfig
from subtuning_hf.multitask.plan import FROZEN, make_plan
from toys import TOYS

NAMES = [
    pytest.param(name, marks=() if name in ("vit", "bert", "gpt2", "timm-resnet") else pytest.mark.slow)
    for name in ("vit", "bert", "gpt2", "timm-resnet", "resnet", "llama", "swin", "timm-vit", "timm-densenet")
]
VIT = TOYS["vit"]


def make_siamese(toy, folder, blocks, seed, **config):
    """A Siamese adapter whose weights are its own, in both halves of its head."""
    names = [toy.blocks[i] if isinstance(i, int) else i for i in blocks]
    peft = get_peft_model(toy.build(), SubTuningConfig(blocks=names, siamese=True, **config))
    disturb(peft, seed)
    peft.save_pretrained(folder)
    return folder


def make_mixture(toy, folder):
    """Two Siamese tasks, a plain one and the head alone, of different class counts; one of them tunes early."""
    return {
        "early": make_siamese(toy, folder / "early", [0], 1, num_labels=5),
        "plain": make_adapter(toy, folder / "plain", [toy.num_blocks - 1], 2, 3),
        "late": make_siamese(toy, folder / "late", [toy.num_blocks - 1], 3, num_labels=2),
        "head": make_adapter(toy, folder / "head", [], 4, 4),
    }


def check(toy, model, adapters, inputs, rows=None):
    """Answers in float64 are those of each adapter alone."""
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}
    answers = model.double()(**inputs, **({} if rows is None else {"rows": rows}))
    for task, answer in answers.items():
        want = logits_of(call(alone(toy, adapters[task]).double(), inputs))
        want = want if rows is None else want[list(rows[task])]
        found = logits_of(answer)
        assert found.shape == want.shape, task
        assert float((found - want).abs().max()) <= 1e-6 * max(1.0, float(want.abs().max())), task
    return answers


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_those_of_each_alone(name, tmp_path):
    toy = TOYS[name]
    adapters = make_mixture(toy, tmp_path)
    model = load(toy, adapters)
    for batch in (3, 1):
        assert list(check(toy, model, adapters, toy.inputs(batch, seed=batch))) == list(adapters)
    assert (model.way == "alone") == (name == "timm-densenet")


def test_the_frozen_half_costs_nothing_beside_another_task_on_the_trunk(tmp_path):
    adapters = make_mixture(VIT, tmp_path)
    model, inputs = load(VIT, adapters), VIT.inputs(2)
    counts = []
    for name in VIT.blocks:
        module = model.stack.get_submodule(name).base_layer
        module.register_forward_hook(lambda _m, args, _o: counts.append(args[0].shape[0]))
    model(**inputs)
    counts.clear()
    model(**inputs)
    # the trunk once, and behind its first block also the lane of "early"
    assert counts == [2, 4, 4]
    without = load(VIT, {task: adapters[task] for task in ("early", "plain", "head")})
    without(**inputs)
    both = load(VIT, {**{task: adapters[task] for task in ("early", "plain")}, "head": adapters["head"]})
    both(**inputs)
    assert [s.num_rows for s in both.plan(batch_size=2).steps] == [s.num_rows for s in without.plan(batch_size=2).steps]


def test_one_siamese_task_shares_the_trunk_with_itself(tmp_path):
    adapters = {"late": make_siamese(VIT, tmp_path / "late", [2], 3)}
    model, inputs = load(VIT, adapters), VIT.inputs(2)
    model(**inputs)
    assert model.way == "once" and [step.num_rows for step in model.plan(batch_size=2).steps] == [2, 2, 4]
    check(VIT, model, adapters, inputs)
    assert "1 task, 2 answers" in str(model.plan(batch_size=2))


def test_rows_and_some_tasks(tmp_path):
    adapters = make_mixture(VIT, tmp_path)
    model = load(VIT, adapters)
    check(VIT, model, adapters, VIT.inputs(5), {"late": (4, 0, 4), "plain": (1,), "early": (2, 0)})
    check(VIT, model, adapters, VIT.inputs(2), {"plain": (0, 1), "head": (0, 1)})
    check(VIT, load(VIT, adapters, max_lanes=1), adapters, VIT.inputs(3))


def test_tasks_come_and_go_and_lora_and_the_base_beside(tmp_path):
    adapters = {"lora": make_lora(VIT, tmp_path / "lora", [1], 5)}
    model = load(VIT, adapters, base_task="base")
    adapters["late"] = make_siamese(VIT, tmp_path / "late", [2], 3)
    model.add_task("late", adapters["late"])
    inputs = VIT.inputs(2)
    answers = model(**inputs)
    assert torch.allclose(logits_of(answers["base"]), logits_of(call(VIT.build(), inputs)), atol=1e-5)
    for task in ("lora", "late"):
        assert torch.allclose(logits_of(answers[task]), logits_of(call(alone(VIT, adapters[task]), inputs)), atol=1e-5)
    model.remove_task("late")
    assert list(model(**inputs)) == ["base", "lora"]
    assert not hasattr(model.bare, "peft_config") and not model.bare._forward_hooks


def test_weights_of_the_trunk_are_held_once(tmp_path):
    model = load(VIT, {"late": make_siamese(VIT, tmp_path / "late", [2], 3)})
    own = sum(p.numel() for module in model.own_modules("late").values() for p in module.parameters())
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in VIT.build().parameters()) + own
    trunk = {p.data_ptr() for p in model.bare.parameters()}
    assert trunk <= {p.data_ptr() for p in model.task_model("late").parameters()}


def test_parts_of_blocks(tmp_path):
    part = next(name for name, _ in VIT.build().named_modules() if name.startswith(VIT.blocks[1]) and "mlp" in name)
    adapters = {
        "part": make_siamese(VIT, tmp_path / "part", [part], 3),
        "plain": make_adapter(VIT, tmp_path / "p", [2], 1),
    }
    model = load(VIT, adapters)
    check(VIT, model, adapters, VIT.inputs(2))
    assert model.way == "once"


def test_fixed_tasks(tmp_path):
    adapters = make_mixture(VIT, tmp_path)
    model, inputs = load(VIT, adapters), VIT.inputs(3)
    want, fixed = model(**inputs), model.fixed(**inputs)
    with torch.inference_mode():
        found = fixed(**inputs)
    assert list(found) == list(want)
    assert all(torch.equal(logits_of(found[task]), logits_of(want[task])) for task in want)


# --- plans -----------------------------------------------------------------------------------
def test_a_plan_pairs_frozen_features_with_the_rows_they_are_of():
    owners = {"a": {1: "a"}, "b": {0: "b"}, "c": {1: "c"}}
    requests = {"a": (2, 0), "b": (1,), "c": (0,)}
    heads = {"fc": {task: task for task in owners}}
    plan = make_plan(2, owners, requests, 3, heads=heads, siamese={"fc": ["a", "c"]})
    assert plan.requests[-1] == (FROZEN, (0, 2)) and [task for task, _ in plan.asked] == ["a", "b", "c"]
    ((_, step),) = plan.heads
    answers = [(task, row) for task, rows in plan.requests for row in rows]
    for group in step.groups:
        rows = [answers[number][1] for number in group.state.rows]
        if group.owner == "b":
            assert group.beside is None and rows == [1]
        else:
            assert [answers[number] for number in group.beside.rows] == [(FROZEN, row) for row in rows]
    made = [number for group in step.groups for number in group.state.rows]
    assert [made[i] for i in step.order.rows] == list(range(len(answers)))
    assert "3 tasks, 4 answers" in str(plan)


def test_a_plan_without_them_is_as_before():
    owners, requests = {"a": {0: "a"}, "b": {}}, {"a": (0,), "b": (0, 1)}
    heads = {"fc": {"a": "a", "b": "b"}}
    assert make_plan(1, owners, requests, 2, heads=heads, siamese={"fc": []}) == make_plan(
        1, owners, requests, 2, heads=heads
    )
    asked = make_plan(1, owners, {"b": (0, 1)}, 2, heads={"fc": {"b": "b"}}, siamese={"fc": ["a"]})
    assert asked.requests == (("b", (0, 1)),)
