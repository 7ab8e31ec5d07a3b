"""
Odd orders: what people do to adapters out of turn, and what is left behind when a step fails.

Each test names one sequence that once gave a wrong result in silence, or could.
"""

from __future__ import annotations

from collections import OrderedDict, namedtuple

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from peft import PeftModel, TaskType, get_peft_model
from peft.utils import ModulesToSaveWrapper
from torch import nn

from life import copies, move, run, same, wrap
from subtuning_hf.errors import (
    AdapterMismatchError,
    AdapterNameError,
    ArgumentsError,
    BlockSelectionError,
    SubTuningError,
)
from subtuning_hf.tuner import BlockLayer, SubTuningConfig, TaskModuleWrapper
from toys import NUM_LABELS, TOYS

VIT, BERT = TOYS["vit"], TOYS["bert"]
WIDER = NUM_LABELS + 2


@pytest.fixture
def pair():
    """A model with adapters "a" (active) and "z", which share a block and differ in labels; logits of both, of none."""
    base = run(VIT.build(), VIT)
    model = wrap(VIT.build(), "a", blocks=[0, 2])
    move(model, "a", seed=1)
    model.add_adapter("z", SubTuningConfig(blocks=[1, 2], num_labels=WIDER))
    move(model, "z", seed=2)
    logits = {"base": base, "a": run(model, VIT)}
    model.set_adapter("z")
    logits["z"] = run(model, VIT)
    model.set_adapter("a")
    return model, logits


def trained(model: nn.Module) -> set[str]:
    """The adapters whose parameters ask for gradients; the names of parameters that no adapter owns."""
    owners = set()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parts = name.split(".")
            holder = next((key for key in ("subtuning_blocks", "modules_to_save") if key in parts), None)
            owners.add(parts[parts.index(holder) + 1] if holder else name)
    return owners


def wrappers(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, (BlockLayer, ModulesToSaveWrapper))]


# --- switching while disabled ----------------------------------------------------------------
def test_adapter_set_while_disabled_trains_afterwards(pair):
    model, logits = pair
    with model.disable_adapter():
        model.set_adapter("z")
        assert same(run(model, VIT), logits["base"]) and not trained(model)
    assert same(run(model, VIT), logits["z"]) and trained(model) == {"z"}


def test_adapter_added_while_disabled_stays_out(pair):
    model, logits = pair
    with model.disable_adapter():
        model.add_adapter("c", SubTuningConfig(blocks=[0, 1]))
        model.set_adapter("c")
        move(model, "c", seed=3)
        assert same(run(model, VIT), logits["base"]) and not trained(model)
    assert trained(model) == {"c"} and not same(run(model, VIT), logits["base"])


def test_adapter_deleted_while_disabled(pair):
    model, logits = pair
    with model.disable_adapter():
        model.delete_adapter("a")
        assert same(run(model, VIT), logits["base"])
    assert same(run(model, VIT), logits["z"]) and trained(model) == {"z"}


def test_native_disable_and_enable_switch_the_head_along():
    model = VIT.build()
    base = run(model, VIT)
    for name, block, labels in (("a", 0, NUM_LABELS), ("z", 1, WIDER)):
        model.add_adapter(SubTuningConfig(blocks=[block], num_labels=labels), adapter_name=name)
        move(model, name)
    wide = run(model, VIT)
    model.disable_adapters()
    assert same(run(model, VIT), base) and model.num_labels == NUM_LABELS
    model.enable_adapters()
    assert same(run(model, VIT), wide) and model.num_labels == WIDER and trained(model) == {"z"}
    model.disable_adapters()
    model.set_adapter("a")
    assert same(run(model, VIT), base)
    model.enable_adapters()
    assert trained(model) == {"a"} and not any(module.disable_adapters for module in wrappers(model))
    model.delete_adapter(["a", "z"])
    assert same(run(model, VIT), base)


# --- gradients ---------------------------------------------------------------------------------
def test_inference_adapter_stays_frozen_when_another_is_deleted(pair, tmp_path):
    model, logits = pair
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(VIT.build(), tmp_path / "a", adapter_name="a")
    loaded.load_adapter(tmp_path / "z", "z")
    loaded.delete_adapter("z")
    assert not trained(loaded)
    loaded.load_adapter(tmp_path / "z", "z", is_trainable=True)
    assert trained(loaded) == {"z"} and same(run(loaded, VIT), logits["a"])


def test_part_of_a_copy_put_in_eval_by_hand_stays_there():
    toy = TOYS["plain-resnet"]
    model = wrap(toy.build(), "a", blocks=[0])
    model.add_adapter("z", SubTuningConfig(blocks=[0]))
    model.train()
    norm = next(m for m in copies(model, "a")[0].modules() if isinstance(m, nn.BatchNorm2d))
    norm.eval()
    model(**toy.inputs(4))
    assert not norm.training
    model.set_adapter("z")
    model(**toy.inputs(4))
    assert all(m.training for m in copies(model, "z")[0].modules())


# --- merging -----------------------------------------------------------------------------------
def test_inactive_adapter_is_not_merged_without_its_head(pair):
    model, logits = pair
    with pytest.raises(ValueError, match="not active"):
        model.merge_adapter(adapter_names=["z"])
    assert same(run(model, VIT), logits["a"])
    model.merge_adapter()
    assert same(run(model.merge_and_unload(adapter_names=["z"]), VIT), logits["z"])


@pytest.mark.parametrize("place", [0, 1, 2], ids=["first block", "last block", "head"])
def test_refused_safe_merge_changes_nothing(pair, place):
    model, logits = pair
    with torch.no_grad():
        next(copies(model, "a")[place].parameters()).view(-1)[0] = float("nan")
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(ValueError, match="NaN or infinity"):
            merge(safe_merge=True)
        assert not any(layer.merged_adapters for layer in wrappers(model)) and len(wrappers(model)) == 4
    model.set_adapter("z")
    assert same(run(model, VIT), logits["z"])
    assert same(run(model.unload(), VIT), logits["base"])


# --- one base, one config, several times ---------------------------------------------------------
def test_second_adapter_of_the_same_name_on_one_base(pair, tmp_path):
    model, logits = pair
    model.save_pretrained(tmp_path)
    config = model.peft_config["a"]
    with pytest.raises(AdapterNameError, match="already holds an adapter 'a'"):
        get_peft_model(model.get_base_model(), SubTuningConfig(blocks=[1]), adapter_name="a")
    assert model.peft_config["a"] is config and same(run(model, VIT), logits["a"])
    base = model.unload()
    assert same(run(PeftModel.from_pretrained(base, tmp_path / "z", adapter_name="a"), VIT), logits["z"])


def test_config_object_that_means_something_else_for_the_next_model():
    config = SubTuningConfig(blocks=[-1])
    first = get_peft_model(VIT.build(), config)
    get_peft_model(VIT.build(), config)
    other = VIT.build()
    other.vit.layers.append(VIT.build().vit.layers[0])
    with pytest.raises(ArgumentsError, match="filled in for another model"):
        get_peft_model(other, config)
    assert first.peft_config["default"].blocks == ["vit.layers.2"]


@pytest.mark.parametrize("name", ["type", "train", "items", "_modules"])
def test_names_a_module_dict_does_not_take(name):
    base = VIT.build()
    before = set(vars(base))
    with pytest.raises(AdapterNameError, match="attribute of torch's modules"):
        wrap(base, name)
    assert set(vars(base)) == before and not wrappers(base)


def test_failed_injection_leaves_nothing():
    base = VIT.build()
    base.vit.spare = nn.ModuleList([nn.Linear(2, 2)])
    expected = run(base, VIT)
    before = set(vars(base))
    bad = {"blocks": [0, 1], "num_labels": WIDER, "modules_to_save": ["vit.spare"]}
    with pytest.raises(TypeError, match="ModuleList"):
        wrap(base, "a", **bad)
    assert set(vars(base)) == before and not wrappers(base) and same(run(base, VIT), expected)
    model = wrap(base, "a", blocks=[0])
    move(model, "a")
    expected = run(model, VIT)
    with pytest.raises(TypeError, match="ModuleList"):
        model.add_adapter("z", SubTuningConfig(**bad))
    assert same(run(model, VIT), expected) and trained(model) == {"a"} and len(wrappers(model)) == 2


def test_failed_native_injection_can_be_repeated():
    model = VIT.build()
    for _ in range(2):
        with pytest.raises(SubTuningError):
            model.add_adapter(SubTuningConfig(blocks=["nowhere"]), adapter_name="a")
    model.add_adapter(SubTuningConfig(blocks=[0]), adapter_name="a")
    with pytest.raises(SubTuningError):
        model.add_adapter(SubTuningConfig(blocks=["nowhere"]), adapter_name="z")
    assert list(model.peft_config) == ["a"]


# --- labels --------------------------------------------------------------------------------------
def test_kind_of_loss_follows_the_adapter():
    inputs, classes, values = BERT.inputs(4), torch.tensor([0, 1, 2, 0]), torch.tensor([0.5, 1.0, 2.0, 0.0])
    base = BERT.build()
    base(**inputs, labels=classes)
    assert base.config.problem_type == "single_label_classification", "transformers writes down what it infers"
    model = wrap(base, "amount", blocks=[0], num_labels=1)
    assert model(**inputs, labels=values).loss > 0 and base.config.problem_type == "regression"
    model.add_adapter("kinds", SubTuningConfig(blocks=[1], num_labels=3))
    model.set_adapter("kinds")
    assert model(**inputs, labels=classes).loss > 0
    base.config.problem_type = "multi_label_classification"
    model.set_adapter("amount")
    assert base.config.problem_type == "regression"
    model.set_adapter("kinds")
    assert base.config.problem_type == "multi_label_classification"
    model.unload()
    assert base.config.problem_type == "single_label_classification"


def test_number_of_classes_without_names():
    toy = TOYS["timm-vit"]
    base = toy.build()
    model = wrap(base, "a", blocks=[0], num_labels=WIDER)
    assert base.num_classes == WIDER
    with model.disable_adapter():
        assert base.num_classes == NUM_LABELS
    model.unload()
    assert base.num_classes == NUM_LABELS


# --- what PEFT would take along -------------------------------------------------------------------
def test_modules_to_save_are_exact(tmp_path):
    toy = TOYS["timm-swin"]
    model = wrap(toy.build(), "a", blocks=[0], modules_to_save=["norm"])
    assert [key for key, m in model.get_base_model().named_modules() if isinstance(m, ModulesToSaveWrapper)] == [
        "norm",
        "head.fc",
    ]
    move(model, "a")
    expected = run(model, toy)
    model.save_pretrained(tmp_path)
    assert same(run(PeftModel.from_pretrained(toy.build(), tmp_path / "a"), toy), expected)


@pytest.mark.parametrize("task_type", [TaskType.SEQ_CLS, "TOKEN_CLS"])
def test_shared_head_with_a_task_type(task_type):
    with pytest.raises(ArgumentsError, match="would also train 'classifier'"):
        get_peft_model(BERT.build(), SubTuningConfig(blocks=[0], head=[], task_type=task_type))


@pytest.mark.parametrize("task_type", [TaskType.SEQ_CLS, TaskType.TOKEN_CLS])
def test_a_second_adapter_needs_no_task_type_of_its_own(task_type):
    """PEFT adds names of modules of the first adapter's task to every later one."""
    model = get_peft_model(BERT.build(), SubTuningConfig(blocks=[0], task_type=task_type))
    model.add_adapter("second", SubTuningConfig(blocks=[1]))
    assert model.peft_config["second"].task_type == task_type
    with pytest.raises(BlockSelectionError, match="modules_to_save"):
        get_peft_model(BERT.build(), SubTuningConfig(blocks=[0], modules_to_save=["score"]))


# --- unusual bases ----------------------------------------------------------------------------------
def test_offloaded_block_is_refused():
    base = cpu_offload(VIT.build(), execution_device=torch.device("cpu"))
    with pytest.raises(ArgumentsError, match="offloaded"):
        wrap(base, "a", blocks=[0])


def test_resized_head_keeps_the_hook_of_a_dispatched_base():
    base = VIT.build()
    add_hook_to_module(base.classifier, AlignDevicesHook(execution_device="cpu", io_same_device=True))
    model = wrap(base, "a", blocks=[0], num_labels=WIDER)
    assert isinstance(copies(model, "a")[-1]._hf_hook, AlignDevicesHook)
    assert run(model, VIT).shape[-1] == WIDER


Named = namedtuple("Named", "hidden rest")


class Step(nn.Module):
    def __init__(self, pack):
        super().__init__()
        self.pack, self.one, self.two = pack, nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, packed):
        hidden = self.two(self.one(next(iter(packed.values() if isinstance(packed, dict) else packed)))).relu()
        return self.pack(hidden)


class Packed(nn.Module):
    """A plain network with a convolution as head, whose blocks take and return what `pack` makes of their tensor."""

    def __init__(self, pack):
        super().__init__()
        self.pack, self.stem, self.head = pack, nn.Linear(4, 8), nn.Conv1d(8, 3, 1)
        self.layers = nn.ModuleList(Step(pack) for _ in range(3))

    def forward(self, x):
        packed = self.pack(self.stem(x))
        for layer in self.layers:
            packed = layer(packed)
        return self.head(next(iter(packed.values() if isinstance(packed, dict) else packed))[:, :, None]).flatten(1)


@pytest.mark.parametrize(
    "pack",
    [lambda x: Named(x, None), lambda x: OrderedDict(hidden=x, rest=None), lambda x: (x, {"rest": [x, None]})],
    ids=["namedtuple", "OrderedDict", "nested"],
)
def test_mixed_batch_of_structures(pack):
    model = wrap(Packed(pack), "a", blocks=[0, 2])
    model.add_adapter("z", SubTuningConfig(blocks=[1], num_labels=WIDER))
    move(model, "a", seed=1)
    move(model, "z", seed=2)
    x = torch.randn(4, 4)
    with torch.no_grad():
        mixed = model.eval()(x, adapter_names=["z", "a", "__base__", "z"])
        for row, name, width in ((1, "a", 3), (0, "z", WIDER), (3, "z", WIDER)):
            model.set_adapter(name)
            torch.testing.assert_close(mixed[row, :width], model(x)[row])


def test_mixed_batch_refuses_what_has_no_rows():
    model = wrap(Packed(lambda x: (x, x.new_zeros(7, 2))), "a", blocks=[0])
    model.add_adapter("z", SubTuningConfig(blocks=[0]))
    with pytest.raises(ValueError, match="put back in the order"):
        model.eval()(torch.randn(3, 4), adapter_names=["a", "z", "a"])


# --- loading over what is there ----------------------------------------------------------------------
def test_loading_over_an_adapter(pair, tmp_path):
    model, logits = pair
    model.save_pretrained(tmp_path)
    move(model, "a", seed=9)
    model.load_adapter(tmp_path / "a", "a")
    assert same(run(model, VIT), logits["a"])
    with pytest.raises(AdapterMismatchError):
        model.load_adapter(tmp_path / "z", "a")
    assert same(run(model, VIT), logits["a"]) and set(model.peft_config) == {"a", "z"}


def test_extra_modules_of_one_adapter_only():
    model = wrap(BERT.build(), "a", blocks=[0], modules_to_save=["bert.pooler"], head=["classifier"])
    move(model, "a")
    model.add_adapter("z", SubTuningConfig(blocks=[1]))
    move(model, "z", seed=2)
    first = run(model, BERT)
    model.set_adapter("z")
    second = run(model, BERT)
    with model.disable_adapter():
        assert same(run(model, BERT), run(BERT.build(), BERT))
    assert same(run(model, BERT), second)
    model.set_adapter("a")
    assert same(run(model, BERT), first)
    assert any(isinstance(m, TaskModuleWrapper) for m in model.modules())
    assert same(run(model.merge_and_unload(adapter_names=["z"]), BERT), second)
