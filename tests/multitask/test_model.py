"""The model of many tasks as its users meet it: rows, tasks that come and go, gradients, and what is refused."""

import json
import shutil
import threading

import pytest
import torch
from peft import IA3Config, get_peft_model
from safetensors.torch import load_file
from transformers.utils import logging

from multitask.cases import alone, call, disturb, load, logits_of, make_adapter, make_lora, make_tasks
from subtuning_hf import MultiTaskModel, SubTuningConfig
from subtuning_hf.errors import AdapterMismatchError, MultiTaskError
from subtuning_hf.multitask import fork
from toys import TOYS

VIT, BERT, RESNET = TOYS["vit"], TOYS["bert"], TOYS["resnet"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def adapters(folder):
    return {
        "early": make_adapter(VIT, folder / "early", [0], 1, 2),
        "late": make_adapter(VIT, folder / "late", [2], 2, 5),
        "both": make_adapter(VIT, folder / "both", [1, 2], 3, 3),
        "head": make_adapter(VIT, folder / "head", [], 4, 4),
    }


@pytest.fixture
def model(adapters):
    return load(VIT, adapters)


def wanted(adapters, task, inputs, toy=VIT):
    return logits_of(call(alone(toy, adapters[task]), inputs))


def close(found, want):
    return found.shape == want.shape and torch.allclose(found, want, rtol=1e-4, atol=1e-5)


# --- rows and tasks --------------------------------------------------------------------------
def test_all_tasks_for_all_rows(model, adapters):
    inputs = VIT.inputs(3)
    answers = model(**inputs)
    assert list(answers) == ["early", "late", "both", "head"]
    assert all(close(answers[task].logits, wanted(adapters, task, inputs)) for task in adapters)
    assert type(answers["late"]).__name__ == "ImageClassifierOutput"


def test_some_tasks(model, adapters):
    inputs = VIT.inputs(2)
    answers = model(**inputs, tasks=["head", "early"])
    assert list(answers) == ["head", "early"] and close(answers["early"].logits, wanted(adapters, "early", inputs))


def test_each_row_only_the_tasks_it_asks_for(model, adapters):
    inputs = VIT.inputs(5)
    answers = model(**inputs, rows={"early": [4, 0], "late": [1], "both": [1, 2, 4]})
    for task, rows in {"early": [4, 0], "late": [1], "both": [1, 2, 4]}.items():
        assert close(answers[task].logits, wanted(adapters, task, inputs)[rows])
    assert list(answers) == ["early", "late", "both"]


def test_tasks_by_row(model, adapters):
    inputs = VIT.inputs(4)
    answers = model(**inputs, rows=["late", ["late", "head"], "early", []])
    for task, rows in {"late": [0, 1], "head": [1], "early": [2]}.items():
        assert close(answers[task].logits, wanted(adapters, task, inputs)[rows])


def test_rows_that_swap_places_in_the_stack_meet_their_own_masks(folder):
    """As many rows in the stack as were fed, but in another order: sizes alone do not tell them apart."""
    tasks = {n: make_adapter(BERT, folder / f"mask-{n}", [n], n) for n in range(3)}
    tasks = {f"t{n}": path for n, path in tasks.items()}
    model, inputs = load(BERT, tasks), BERT.inputs(6)
    inputs["attention_mask"][:] = 1
    for row in range(6):
        inputs["attention_mask"][row, 9 - row :] = 0
    rows = {"t2": [3, 0], "t0": [5, 1], "t1": [4, 2]}
    answers = model(**inputs, rows=rows)
    for task, of_task in rows.items():
        assert close(logits_of(answers[task]), wanted(tasks, task, inputs, BERT)[of_task])


def test_other_lengths_and_no_mask(folder):
    tasks = make_tasks(BERT, folder / "lengths", 2, "nested")
    model = load(BERT, tasks)
    for length in (9, 4):
        inputs = {"input_ids": torch.randint(5, 20, (2, length))}
        answers = model(**inputs)
        assert all(close(logits_of(answers[task]), wanted(tasks, task, inputs, BERT)) for task in tasks)


def test_the_base_answers_too(adapters):
    model, inputs = load(VIT, adapters, base_task="base"), VIT.inputs(2)
    answers = model(**inputs)
    assert next(iter(answers)) == "base" and close(answers["base"].logits, logits_of(call(VIT.build(), inputs)))


def test_positional_inputs_and_plain_tensors(folder):
    toy = TOYS["timm-vit"]
    tasks = make_tasks(toy, folder / "timm", 2, "disjoint")
    model, inputs = load(toy, tasks), toy.inputs(2)
    answers = model(inputs["x"])
    assert all(close(answers[task], wanted(tasks, task, inputs, toy)) for task in tasks)


def test_lanes_can_be_bounded(adapters):
    inputs = VIT.inputs(3)
    model = load(VIT, adapters, max_lanes=1)
    most = 0

    def watch(_module, args, _output):
        nonlocal most
        most = max(most, args[0].shape[0])

    for name in VIT.blocks:
        model.stack.get_submodule(name).base_layer.register_forward_hook(watch)
    model.check(**inputs)
    most = 0
    answers = model(**inputs)
    assert most == 3
    assert all(close(answers[task].logits, wanted(adapters, task, inputs)) for task in adapters)


def test_many_rows_run_in_parts_of_at_least_a_batch(adapters, monkeypatch):
    """What serves a CPU's caches; the rows of the parts serve calls with gradients as well, whoever came first."""
    model = load(VIT, adapters)
    last, sizes = model.stack.get_submodule(VIT.blocks[-1]).base_layer, []
    last.register_forward_hook(lambda _module, args, _output: sizes.append(args[0].shape[0]))
    rows = {task: [2, 0, 1] for task in ("early", "head")}  # not one behind the other
    for at_once, expected in ((16, [6]), (1, [3, 3])):
        monkeypatch.setattr(fork, "CPU_ROWS", at_once)
        monkeypatch.setattr(fork, "CPU_BYTES", 0)
        inputs = VIT.inputs(3)
        model(**inputs)
        sizes.clear()
        answers = model(**inputs, rows=rows)
        assert sizes == expected
        assert all(close(answers[task].logits, wanted(adapters, task, inputs)[[2, 0, 1]]) for task in rows)
    inputs["pixel_values"].requires_grad_(True)
    model(**inputs, rows=rows)["early"].logits.sum().backward()
    assert inputs["pixel_values"].grad is not None


def test_rows_of_a_mask_are_taken_once_for_all_blocks(folder, monkeypatch):
    tasks = {f"t{n}": make_adapter(BERT, folder / f"once-{n}", [0], n) for n in range(2)}
    model, inputs, calls = load(BERT, tasks), BERT.inputs(2), []
    inputs["attention_mask"][:, 5:] = 0
    model(**inputs)
    run = fork.Stacked.run
    monkeypatch.setattr(fork.Stacked, "run", lambda call, *args: calls.append(call) or run(call, *args))
    model(**inputs)
    assert len(BERT.blocks) > 2
    assert [len(rows) for _, rows in calls[0]._taken.values()] == [4]


# --- kinds of adapters -----------------------------------------------------------------------
def test_lora_beside_subtuning(folder, adapters):
    tasks = {"lora": make_lora(VIT, folder / "lora", [1, 2], 5), "late": adapters["late"]}
    tasks["other lora"] = make_lora(VIT, folder / "other", [2], 6)
    model, inputs = load(VIT, tasks), VIT.inputs(3)
    answers = model(**inputs)
    assert all(close(answers[task].logits, wanted(tasks, task, inputs)) for task in tasks)
    assert model.way == "once" and model.plan().steps[0].num_rows == 1
    base = sum(p.numel() for p in VIT.build().parameters())
    saved = sum(t.numel() for path in tasks.values() for t in load_file(path / "adapter_model.safetensors").values())
    assert sum(p.numel() for p in model.parameters()) == base + saved  # no weight of the trunk is held twice


def test_adapters_of_other_kinds_are_refused(folder):
    config = IA3Config(target_modules=["q_proj"], feedforward_modules=[])
    get_peft_model(VIT.build(), config).save_pretrained(folder / "ia3")
    with pytest.raises(MultiTaskError, match="SubTuning or LoRA, found one of IA3"):
        load(VIT, {"a": folder / "ia3"})


def test_an_adapter_of_another_base_is_refused_and_leaves_nothing(model, folder):
    other = make_adapter(RESNET, folder / "other-base", [0], 1)
    before = model.tasks
    with pytest.raises((AdapterMismatchError, ValueError)):
        model.add_task("other", other)
    assert model.tasks == before and not any("other" in name for name, _ in model.named_modules())


def test_parts_of_blocks(folder):
    from peft import get_peft_model

    part = "bert.encoder.layer.1.attention"
    peft = get_peft_model(BERT.build(), SubTuningConfig(blocks=[part]))
    disturb(peft, 3)
    peft.save_pretrained(folder / "part")
    tasks = {"part": folder / "part", "last": make_adapter(BERT, folder / "last", [2], 4)}
    model, inputs = load(BERT, tasks), BERT.inputs(2)
    answers = model(**inputs)
    assert all(close(logits_of(answers[task]), wanted(tasks, task, inputs, BERT)) for task in tasks)
    assert model.plan().steps[0].num_rows == 1 and model.plan().steps[1].num_rows == 2


def test_a_task_with_a_stem_of_its_own_runs_by_itself(folder, adapters):
    from peft import get_peft_model

    from multitask.cases import disturb

    peft = get_peft_model(VIT.build(), SubTuningConfig(blocks=[2], modules_to_save=["vit.embeddings"]))
    disturb(peft, 3)
    peft.save_pretrained(folder / "stem")
    tasks = {"stem": folder / "stem", "late": adapters["late"], "both": adapters["both"]}
    model, inputs = load(VIT, tasks), VIT.inputs(2)
    answers = model(**inputs)
    assert all(close(answers[task].logits, wanted(tasks, task, inputs)) for task in tasks)
    assert model.way == "once"


# --- tasks that come and go ------------------------------------------------------------------
def test_tasks_are_added_and_removed(model, adapters, folder):
    inputs = VIT.inputs(2)
    model(**inputs)
    trunk = {p.data_ptr() for p in model.bare.parameters()}
    model.remove_task("both")
    new = make_adapter(VIT, folder / "new", [0, 2], 9, 7)
    model.add_task("new", new)
    answers = model(**inputs)
    assert list(answers) == ["early", "late", "head", "new"]
    assert close(answers["new"].logits, logits_of(call(alone(VIT, new), inputs)))
    assert close(answers["late"].logits, wanted(adapters, "late", inputs))
    assert {p.data_ptr() for p in model.bare.parameters()} == trunk


def test_what_a_removed_task_held_is_let_go(model):
    before = sum(p.numel() for p in model.parameters())
    own = sum(p.numel() for module in model.own_modules("both").values() for p in module.parameters())
    model.remove_task("both")
    assert sum(p.numel() for p in model.parameters()) == before - own


def test_nothing_but_tuned_blocks_and_heads_is_held_twice(model):
    base = VIT.build()
    own = [p for task in model.tasks for module in model.own_modules(task).values() for p in module.parameters()]
    held = {p.data_ptr(): p.numel() for p in model.parameters()}
    assert sum(held.values()) == sum(p.numel() for p in base.parameters()) + sum(p.numel() for p in own)
    # And nothing that is not registered holds tensors of its own.
    for task in model.tasks:
        assert {p.data_ptr() for p in model.task_model(task).parameters()} <= held.keys()


def test_tasks_may_come_and_go_while_others_are_answered(model, adapters, folder):
    inputs = VIT.inputs(2)
    want = {task: wanted(adapters, task, inputs) for task in adapters}
    new = make_adapter(VIT, folder / "hot", [1], 11, 2)
    wrong, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            answers = model(**inputs, tasks=list(adapters))
            wrong.extend(task for task in adapters if not close(answers[task].logits, want[task]))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for n in range(5):
            model.add_task(f"hot {n}", new)
            assert f"hot {n}" in model(**inputs)
            model.remove_task(f"hot {n}")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong and model.tasks == tuple(adapters)


def test_names_with_dots_and_slashes(adapters):
    model = load(VIT, {"user/a.b": adapters["early"], "user/a%2Eb": adapters["late"]})
    assert list(model(**VIT.inputs(1))) == ["user/a.b", "user/a%2Eb"]


def test_each_task_has_labels_of_its_own(model):
    assert [model.config_of(task).num_labels for task in model.tasks] == [2, 5, 3, 4]
    assert model.bare.config.num_labels == 3


# --- the base --------------------------------------------------------------------------------
def test_the_base_is_left_as_it_was(adapters):
    base, inputs = VIT.build(), VIT.inputs(2)
    names, before = [name for name, _ in base.named_modules()], logits_of(call(base, inputs))
    model = MultiTaskModel.from_adapters(base, adapters)
    model(**inputs)
    assert [name for name, _ in base.named_modules()] == names and base.config.num_labels == 3
    assert torch.equal(logits_of(call(base, inputs)), before)


def test_bases_by_name(folder, adapters):
    base = VIT.build()
    base.save_pretrained(folder / "base")
    model, inputs = MultiTaskModel.from_adapters(folder / "base", adapters), VIT.inputs(2)
    assert type(model.bare).__name__ == "ViTForImageClassification"
    answers = model(**inputs)
    assert all(close(answers[task].logits, wanted(adapters, task, inputs)) for task in adapters)


def test_a_class_from_elsewhere_is_not_imported(folder, adapters):
    VIT.build().save_pretrained(folder / "base2")
    shutil.copytree(adapters["late"], folder / "hostile")
    path = folder / "hostile" / "adapter_config.json"
    config = json.loads(path.read_text())
    config["auto_mapping"] = {"parent_library": "antigravity", "base_model_class": "Popen"}
    path.write_text(json.dumps(config))
    with pytest.raises(MultiTaskError, match="does not say which class"):
        MultiTaskModel.from_adapters(folder / "base2", {"a": folder / "hostile"})


def test_another_dtype_moves_everything(model, adapters):
    inputs = VIT.inputs(2)
    model(**inputs)
    model.double()
    answers = model(pixel_values=inputs["pixel_values"].double())
    assert answers["late"].logits.dtype == torch.float64
    reference = alone(VIT, adapters["late"]).double()
    assert close(answers["late"].logits, logits_of(call(reference, {"pixel_values": inputs["pixel_values"].double()})))


def test_buffers_follow_to_another_dtype(folder):
    tasks = make_tasks(RESNET, folder / "buffers", 2, "nested")
    model = load(RESNET, tasks).double()
    assert {b.dtype for b in model.bare.buffers()} == {torch.float64, torch.int64}
    pixels = RESNET.inputs(2)["pixel_values"].double()
    assert model(pixel_values=pixels)["task 1"].logits.dtype == torch.float64


# --- gradients -------------------------------------------------------------------------------
def test_answers_carry_no_gradients_by_default(model):
    answers = model(**VIT.inputs(2))
    assert answers["late"].logits.is_inference() and not any(p.requires_grad for p in model.parameters())


def test_heads_can_be_trained_jointly(model, adapters):
    inputs = VIT.inputs(3)
    model(**inputs)
    heads = {task: model.own_modules(task)["classifier"].requires_grad_(True) for task in ("early", "late")}
    answers = model(**inputs)
    sum(answers[task].logits.square().mean() for task in heads).backward()
    for task, head in heads.items():
        reference = alone(VIT, adapters[task])
        own = dict(reference.named_parameters())
        weight = next(p for name, p in own.items() if name.endswith("classifier.modules_to_save.default.weight"))
        weight.requires_grad_(True)
        logits_of(reference(**inputs)).square().mean().backward()
        assert torch.allclose(head.weight.grad, weight.grad, rtol=1e-4, atol=1e-6)
    assert model.own_modules("both")["classifier"].weight.grad is None


def test_training_mode_changes_nothing(folder):
    toy = TOYS["resnet"]
    tasks = make_tasks(toy, folder / "modes", 2, "nested")
    model, inputs = load(toy, tasks), toy.inputs(2)
    before = model(**inputs)["task 0"].logits
    model.train()
    assert torch.equal(model(**inputs)["task 0"].logits, before) and not model.training


# --- what cannot be ---------------------------------------------------------------------------
def test_hidden_states_are_those_of_each_adapter(model, adapters):
    inputs = VIT.inputs(2)
    answers = model(**inputs, output_hidden_states=True)
    reference = alone(VIT, adapters["both"])
    with torch.no_grad():
        want = reference(**inputs, output_hidden_states=True).hidden_states
    assert all(close(a, b) for a, b in zip(answers["both"].hidden_states, want, strict=True))


def test_dense_connections_run_task_by_task_and_say_so(folder, caplog):
    toy = TOYS["timm-densenet"]
    tasks = make_tasks(toy, folder / "dense", 2, "nested")
    model = load(toy, tasks)
    logging.get_logger("subtuning_hf").propagate = True
    logging.enable_propagation()
    with caplog.at_level("WARNING"):
        model(**toy.inputs(2))
    assert model.way == "alone" and "DenseNet answers its tasks one by one" in caplog.text


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"tasks": ["flowers"]}, "among early, late, both, head, found 'flowers'"),
        ({"tasks": "late"}, "a list of tasks, found 'late'"),
        ({"rows": {"late": [2]}}, r"rows in 0 \.\.\. 1 for 'late', found \[2\]"),
        ({"rows": ["late"]}, "tasks of each of 2 rows"),
        ({"rows": {"late": []}}, "at least one row"),
        ({"labels": torch.tensor([0, 1])}, "labels of their own"),
    ],
)
def test_bad_calls(model, asked, message):
    with pytest.raises(MultiTaskError, match=message):
        model(**VIT.inputs(2), **asked)


def test_bad_tasks(model, adapters):
    with pytest.raises(MultiTaskError, match="'late' already"):
        model.add_task("late", adapters["late"])
    with pytest.raises(MultiTaskError, match="found 'none of them'"):
        model.remove_task("none of them")
    with pytest.raises(MultiTaskError, match="without adapters"):
        MultiTaskModel(alone(VIT, adapters["late"]))
    with pytest.raises(MultiTaskError, match="no task"):
        MultiTaskModel(VIT.build())(**VIT.inputs(1))


def test_the_check_says_how_far_answers_are_off(model, adapters):
    off = model.check(**VIT.inputs(2))
    assert off.keys() == adapters.keys() and all(0 <= value < 1e-5 for value in off.values())


# --- caches of keys and values --------------------------------------------------------------
def past_of(model, inputs):
    with torch.no_grad():
        return model(**inputs, use_cache=True).past_key_values


def test_tasks_go_on_from_the_same_past(tmp_path):
    toy = TOYS["gpt2"]
    folders = make_tasks(toy, tmp_path, 3, "nested", labels=False)
    model, inputs = load(toy, folders), {"input_ids": torch.randint(0, 20, (3, 4))}
    base = toy.build().eval()
    token = torch.randint(0, 20, (3, 1))
    past = past_of(base, inputs)
    kept = past.get_seq_length()
    found = model(input_ids=token, past_key_values=past)
    assert past.get_seq_length() == kept
    some = model(input_ids=token, past_key_values=past, rows={"task 0": [0, 2], "task 2": [1]})
    for task, folder in folders.items():
        with torch.no_grad():
            want = logits_of(alone(toy, folder)(input_ids=token, past_key_values=past_of(base, inputs)))
        assert torch.allclose(logits_of(found[task]), want, atol=1e-6)
        if task in some:
            rows = [0, 2] if task == "task 0" else [1]
            assert torch.allclose(logits_of(some[task]), want[rows], atol=1e-6)
