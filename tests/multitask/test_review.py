"""What a second reader found: adapters that write into the base, outputs that are not split, early verdicts."""

import copy
import dataclasses
import gc
import io
import pickle
import threading
import types
import weakref

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from multitask.cases import alone, call, disturb, load, logits_of, make_adapter, make_lora, make_tasks
from subtuning_hf import MultiTaskModel, SubTuningConfig
from subtuning_hf.errors import BlockSelectionError, MultiTaskError
from subtuning_hf.multitask import engine as engines
from toys import TOYS

VIT, BERT, ROBERTA, LLAMA, T5 = (TOYS[name] for name in ("vit", "bert", "roberta", "llama", "t5"))


def close(found, want):
    return found.shape == want.shape and torch.allclose(found, want, rtol=1e-4, atol=1e-5)


def right(toy, model, adapters, inputs):
    answers = model(**inputs)
    return all(close(logits_of(answers[t]), logits_of(call(alone(toy, f), inputs))) for t, f in adapters.items())


def save_lora(toy, folder, seed=3, **settings):
    peft = get_peft_model(toy.build(), LoraConfig(r=2, **settings))
    disturb(peft, seed)
    peft.save_pretrained(folder)
    return folder


# --- the base is never written into ----------------------------------------------------------
WRITING = [{"bias": "all"}, {"bias": "lora_only"}, {"init_lora_weights": "pissa"}, {"init_lora_weights": "olora"}]


@pytest.mark.parametrize("settings", WRITING, ids=str)
def test_lora_that_writes_into_the_base(settings, tmp_path):
    lora = save_lora(BERT, tmp_path / "lora", target_modules=["query", "value"], **settings)
    tasks = {"own": make_adapter(BERT, tmp_path / "own", [2], 1), "lora": lora}
    tasks["again"] = save_lora(BERT, tmp_path / "again", 4, target_modules=["query"], **settings)
    base = BERT.build()
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    model = MultiTaskModel.from_adapters(base, tasks)
    assert right(BERT, model, tasks, BERT.inputs(2))
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())


def test_weights_that_lora_leaves_alone_are_shared(tmp_path):
    model = load(VIT, {"a": make_lora(VIT, tmp_path / "a", [2], 1)})
    own = {p.data_ptr() for name, p in model.task_model("a").named_parameters() if "lora_" not in name}
    heads = {p.data_ptr() for p in model.own_modules("a")["classifier"].parameters()}
    assert own - heads <= {p.data_ptr() for p in model.bare.parameters()}


def test_buffers_of_a_lora_task_follow_to_another_dtype(tmp_path):
    toy = TOYS["resnet"]
    tasks = {"a": make_lora(toy, tmp_path / "a", [3, 4], 1), "b": make_lora(toy, tmp_path / "b", [4], 2)}
    model = load(toy, tasks).double()
    pixels = toy.inputs(2)["pixel_values"].double()
    assert model(pixel_values=pixels, tasks=["a"])["a"].logits.dtype == torch.float64
    assert {b.dtype for b in model.task_model("a").buffers()} == {torch.float64, torch.int64}


def test_activated_lora_is_refused(tmp_path):
    toy = TOYS["llama-causal"]
    settings = {"target_modules": ["q_proj"], "alora_invocation_tokens": [7], "task_type": "CAUSAL_LM"}
    folder = save_lora(toy, tmp_path / "alora", **settings)
    with pytest.raises(MultiTaskError, match="activated LoRA"):
        load(toy, {"a": folder})


def test_loading_draws_no_random_numbers(tmp_path):
    lora, own = make_lora(VIT, tmp_path / "a", [2], 1), make_adapter(VIT, tmp_path / "b", [2], 1, 5)
    torch.manual_seed(0)
    state = torch.random.get_rng_state()
    load(VIT, {"a": lora, "b": own})
    assert torch.equal(torch.random.get_rng_state(), state)


# --- outputs ----------------------------------------------------------------------------------
@dataclasses.dataclass
class Output:
    logits: torch.Tensor


class Dressed(nn.Module):
    """A plain model whose output is something of its own."""

    def __init__(self, dress):
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)) for _ in range(3))
        self.head, self.dress = nn.Linear(6, 3), dress

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.dress(self.head(x))


class Named(dict):
    pass


def undressed(output):
    return output.logits if isinstance(output, Output) else output[0 if isinstance(output, tuple) else "logits"]


def plain_tasks(base, folder, count=3):
    tasks = {}
    for n in range(count):
        peft = get_peft_model(copy.deepcopy(base), SubTuningConfig(blocks=[f"layers.{n % 3}"], head=["head"]))
        disturb(peft, n)
        peft.save_pretrained(folder / str(n))
        tasks[f"t{n}"] = folder / str(n)
    return tasks


DRESSES = {
    "dataclass": (Output, "alone"),
    "kind of dict": (lambda x: Named(logits=x), "alone"),
    "dict": (lambda x: {"logits": x}, "once"),
    "tuple": (lambda x: (x, None), "once"),
}


@pytest.mark.parametrize("name", DRESSES)
def test_outputs_that_cannot_be_taken_apart_are_not_stacked(name, tmp_path):
    dress, way = DRESSES[name]
    torch.manual_seed(0)
    base = Dressed(dress).eval()
    tasks = plain_tasks(base, tmp_path)
    model = MultiTaskModel.from_adapters(base, tasks)
    x = torch.randn(4, 6)
    answers = model(x)
    assert model.way == way
    for task, folder in tasks.items():
        reference = PeftModel.from_pretrained(copy.deepcopy(base), str(folder)).eval()
        want, found = reference(x), answers[task]
        pick = (
            (lambda o: o.logits)
            if isinstance(want, Output)
            else (lambda o: o[0] if isinstance(o, tuple) else o["logits"])
        )
        assert type(found) is type(want) and close(pick(found), pick(want).detach())


class Masked(Dressed):
    """Hands a mask of lengths to its blocks, which has no rows whatever its size."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x, mask):
            return x + self.down(torch.tanh(mask @ self.up(x)))

    def __init__(self):
        super().__init__(lambda x: x)
        self.layers = nn.ModuleList(self.Block() for _ in range(3))

    def forward(self, x):
        mask = torch.ones(x.shape[1], x.shape[1]).tril() / x.shape[1]
        for layer in self.layers:
            x = layer(x, mask)
        return self.head(x.mean(1))


def test_what_has_no_rows_keeps_none_when_its_size_is_theirs(tmp_path):
    torch.manual_seed(0)
    base = Masked().eval()
    tasks = plain_tasks(base, tmp_path)
    model = MultiTaskModel.from_adapters(base, tasks)
    for rows, length in ((3, 7), (4, 4), (3, 3), (6, 6), (2, 4)):
        x = torch.randn(rows, length, 6)
        answers = model(x)
        for task, folder in tasks.items():
            reference = PeftModel.from_pretrained(copy.deepcopy(base), str(folder)).eval()
            assert close(answers[task], reference(x).detach())
    assert model.way == "once"


# --- rows -------------------------------------------------------------------------------------
def test_rows_are_counted_on_the_main_input(tmp_path):
    tasks = make_tasks(BERT, tmp_path, 2, "nested")
    model, inputs = load(BERT, tasks), BERT.inputs(3)
    given = {"position_ids": torch.arange(9)[None], **inputs}
    answers = model(**given, rows={"task 0": [2], "task 1": [0, 2]})
    for task, rows in {"task 0": [2], "task 1": [0, 2]}.items():
        assert close(logits_of(answers[task]), logits_of(call(alone(BERT, tasks[task]), given))[rows])
    assert model.way == "once"


def test_rows_inside_of_nested_inputs(tmp_path):
    tasks = make_tasks(TOYS["t5-generation"], tmp_path, 2, "nested", labels=False)
    toy = TOYS["t5-generation"]
    model, inputs = load(toy, tasks), toy.inputs(3)
    encoded = toy.build().get_encoder()(inputs["input_ids"], attention_mask=inputs["attention_mask"])
    given = {"encoder_outputs": (encoded[0].detach(),), "attention_mask": inputs["attention_mask"],
             "decoder_input_ids": inputs["decoder_input_ids"]}  # fmt: skip
    for _ in range(3):
        answers = model(**given, rows={"task 0": [2], "task 1": [0, 1]})
    for task, rows in {"task 0": [2], "task 1": [0, 1]}.items():
        assert close(logits_of(answers[task]), logits_of(call(alone(toy, tasks[task]), given))[rows])
    assert len(model._tasks.ready) <= 1


@pytest.mark.parametrize(
    "rows",
    [{"task 0": torch.tensor([True, False])}, {"task 0": [1.5]}, {"task 0": ["1"]}, {"task 0": 1}, torch.tensor([0, 1]),
     ["task 0", None], "task 0", {"task 0": torch.zeros(2, 2, dtype=torch.int64)}],
    ids=str,
)  # fmt: skip
def test_rows_that_are_none(rows, tmp_path):
    model = load(VIT, make_tasks(VIT, tmp_path, 2, "nested"))
    with pytest.raises(MultiTaskError, match="Expected"):
        model(**VIT.inputs(2), rows=rows)


def test_tasks_and_rows_together_are_refused(tmp_path):
    model = load(VIT, make_tasks(VIT, tmp_path, 2, "nested"))
    with pytest.raises(MultiTaskError, match="found both"):
        model(**VIT.inputs(2), tasks=["task 0"], rows={"task 1": [0]})
    with pytest.raises(MultiTaskError, match="empty batch"):
        model(pixel_values=torch.zeros(0, 3, 32, 32))


def test_bad_blocks_and_names(tmp_path):
    with pytest.raises(MultiTaskError, match="at least one block"):
        MultiTaskModel(VIT.build(), blocks=[])
    with pytest.raises(BlockSelectionError, match="nope"):
        MultiTaskModel(VIT.build(), blocks=["nope"])
    model = load(VIT, {"a": make_adapter(VIT, tmp_path / "a", [1], 1)})
    with pytest.raises(MultiTaskError, match="a name for the task, found 5"):
        model.add_task(5, tmp_path / "a")


# --- one task among others --------------------------------------------------------------------
def test_heads_inside_of_heads_share_all_the_same(tmp_path):
    """RoBERTa's head is two layers to SubTuning, and one module to a LoRA that saves it."""
    lora = save_lora(ROBERTA, tmp_path / "lora", target_modules=["query"], modules_to_save=["classifier"])
    own = {f"own{n}": make_adapter(ROBERTA, tmp_path / f"own{n}", [n], n, 2 + n) for n in (1, 2)}
    for tasks in ({"lora": lora, **own}, {**own, "lora": lora}):
        model = load(ROBERTA, tasks)
        assert right(ROBERTA, model, tasks, ROBERTA.inputs(3)) and model.way == "once"
        model.remove_task("lora")
        rest = {task: folder for task, folder in tasks.items() if task != "lora"}
        assert right(ROBERTA, model, rest, ROBERTA.inputs(2)) and model.way == "once"


def test_only_the_task_that_cannot_share_runs_by_itself(tmp_path, monkeypatch):
    tasks = make_tasks(VIT, tmp_path, 3, "nested")
    model, inputs = load(VIT, tasks), VIT.inputs(2)
    block = model._tasks.models["task 1"].own["vit.layers.2"]

    class Moody(type(block)):  # goes by the number of rows, which is the stack's and not the task's
        def forward(self, hidden_states, *args, **kwargs):
            if torch.is_inference_mode_enabled() is False and hidden_states.shape[0] == 3 and not self.known:
                raise KeyError(3)
            return super().forward(hidden_states, *args, **kwargs)

    block.__class__, block.known = Moody, False
    answers = model(**inputs)
    assert list(answers) == list(tasks)
    ready = next(iter(model._tasks.ready.values()))
    assert ready.together.keys() == {"task 0", "task 2"} and "KeyError" in ready.reason
    assert "By themselves, in full: task 1." in str(model.plan())
    model.remove_task("task 1")
    model(**inputs)
    assert next(iter(model._tasks.ready.values())).together.keys() == {"task 0", "task 2"}


def test_only_new_tasks_are_compared(tmp_path, monkeypatch):
    tasks = make_tasks(VIT, tmp_path, 3, "disjoint")
    model, inputs = load(VIT, {task: tasks[task] for task in ("task 0", "task 1")}), VIT.inputs(2)
    model(**inputs)
    compared, original = [], engines.Engine._compare

    def watch(self, now, kind, learned, names):
        compared.append(names)
        return original(self, now, kind, learned, names)

    monkeypatch.setattr(engines.Engine, "_compare", watch)
    model.add_task("task 2", tasks["task 2"])
    assert right(VIT, model, tasks, inputs) and compared == [["task 0", "task 2"]]
    model.remove_task("task 1")
    assert right(VIT, model, {t: f for t, f in tasks.items() if t != "task 1"}, inputs) and len(compared) == 1
    model.add_task("task 1", make_adapter(VIT, tmp_path / "wide", [0], 9, 9))  # another of the same name, more classes
    answers = model(**inputs)
    assert [answers[t].logits.shape[1] for t in model.tasks] == [2, 4, 9] and compared[1:] == [["task 0", "task 1"]]


def test_nothing_holds_what_a_removed_task_had(tmp_path):
    tasks = make_tasks(VIT, tmp_path, 3, "disjoint")
    model, inputs = load(VIT, tasks), VIT.inputs(2)
    model(**inputs)
    held = [weakref.ref(p) for module in model.own_modules("task 1").values() for p in module.parameters()]
    model.remove_task("task 1")
    gc.collect()
    assert held and not any(one() is not None for one in held)


def test_what_was_found_outlasts_changes_without_a_call(tmp_path, monkeypatch):
    tasks = make_tasks(VIT, tmp_path, 3, "disjoint")
    model, inputs = load(VIT, {"task 0": tasks["task 0"], "task 1": tasks["task 1"]}), VIT.inputs(2)
    model(**inputs)
    model.add_task("task 2", tasks["task 2"])
    model.remove_task("task 2")
    monkeypatch.setattr(engines.Engine, "_compare", None)  # would be called
    assert right(VIT, model, {task: tasks[task] for task in ("task 0", "task 1")}, inputs)


def test_a_failure_in_a_shared_pass_is_answered_one_by_one(tmp_path, monkeypatch):
    tasks = make_tasks(VIT, tmp_path, 2, "nested")
    model, inputs = load(VIT, tasks), VIT.inputs(2)
    model(**inputs)

    def fail(*_args, **_kwargs):
        raise AssertionError("no such shape")

    monkeypatch.setattr(model.stack, "forward", fail)
    assert right(VIT, model, tasks, inputs)
    assert model.way == "alone"


def test_errors_of_the_inputs_are_those_of_the_model(tmp_path):
    tasks = make_tasks(VIT, tmp_path, 2, "nested")
    model = load(VIT, tasks)
    model(**VIT.inputs(2))
    with pytest.raises(ValueError, match="doesn't match model"):
        model(pixel_values=torch.zeros(2, 3, 40, 40))
    assert model.way == "once" and right(VIT, model, tasks, VIT.inputs(2))


def test_no_verdict_is_seen_before_it_is_final(tmp_path, monkeypatch):
    tasks = make_tasks(VIT, tmp_path, 2, "nested")
    model, inputs = load(VIT, tasks), VIT.inputs(2)
    inside, go_on, seen = threading.Event(), threading.Event(), []
    original = engines.compare

    def slow(*args):
        inside.set()
        go_on.wait(20)
        return original(*args)

    monkeypatch.setattr(engines, "compare", slow)
    first = threading.Thread(target=model, kwargs=inputs)
    first.start()
    assert inside.wait(20)
    seen.append(len(model._tasks.ready))
    go_on.set()
    first.join()
    assert seen == [0] and len(model._tasks.ready) == 1


def test_the_stem_runs_once_for_every_kind_of_inputs(tmp_path):
    tasks = make_tasks(LLAMA, tmp_path, 2, "nested")
    model, inputs = load(LLAMA, tasks), LLAMA.inputs(3)
    model(**inputs)
    model(input_ids=inputs["input_ids"])
    assert all("model.embed_tokens" in ready.learned.stem for ready in model._tasks.ready.values())
    rows = []
    embed = model.stack.get_submodule("model.embed_tokens").base_layer
    embed.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    model(input_ids=inputs["input_ids"])
    assert rows == [3]


# --- the rest ---------------------------------------------------------------------------------
def test_gradients_reach_the_inputs(tmp_path):
    tasks = make_tasks(VIT, tmp_path, 2, "nested")
    model, inputs = load(VIT, tasks), VIT.inputs(2)
    model(**inputs)
    pixels = inputs["pixel_values"].requires_grad_(True)
    model(pixel_values=pixels)["task 0"].logits.square().sum().backward()
    found, pixels.grad = pixels.grad, None
    logits_of(alone(VIT, tasks["task 0"])(pixel_values=pixels)).square().sum().backward()
    assert torch.allclose(found, pixels.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "pickle"]
)
def test_copies_answer_alike_and_share_nothing(copied, tmp_path):
    tasks = make_tasks(VIT, tmp_path, 2, "nested")
    model, inputs = load(VIT, tasks), VIT.inputs(2)
    model(**inputs)
    other = copied(model)
    assert right(VIT, other, tasks, inputs)
    assert not {p.data_ptr() for p in other.parameters()} & {p.data_ptr() for p in model.parameters()}
    assert sum(p.numel() for p in other.parameters()) == sum(p.numel() for p in model.parameters())
    other.remove_task("task 0")
    assert model.tasks == ("task 0", "task 1")


def test_weights_can_be_saved(tmp_path):
    tasks = make_tasks(VIT, tmp_path, 2, "nested")
    model, buffer = load(VIT, tasks), io.BytesIO()
    torch.save(model.state_dict(), buffer)
    other = load(VIT, tasks)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_state_dict(torch.load(io.BytesIO(buffer.getvalue())))
    assert right(VIT, other, tasks, VIT.inputs(2))


def test_the_check_is_of_the_batch_that_is_given(tmp_path, monkeypatch):
    model = load(VIT, make_tasks(VIT, tmp_path, 2, "nested"))
    model(**VIT.inputs(2))
    block = model._tasks.models["task 0"].own["vit.layers.2"]
    original = block.forward
    block.forward = types.MethodType(lambda self, *args, **kwargs: original(*args, **kwargs).roll(1, -1), block)
    assert model.check(**VIT.inputs(2))["task 0"] > 1e-3


def test_what_is_kept_is_bounded(tmp_path):
    model = load(VIT, make_tasks(VIT, tmp_path, 2, "nested"))
    for n in range(3):
        model(**VIT.inputs(2), rows={"task 0": [0] * (n + 1), "task 1": [1]})
    assert len(model._tasks.plans) == 4  # and one of the check
    for n in range(engines.KINDS_KEPT + 3):
        engines.keep(model._tasks.ready, n, None, engines.KINDS_KEPT)
    assert len(model._tasks.ready) == engines.KINDS_KEPT
