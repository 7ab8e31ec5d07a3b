"""Bases that bitsandbytes or torchao has quantised: copies are floating point, the frozen part stays as it is."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig, TorchAoConfig

from subtuning_hf import SubTuningConfig
from subtuning_hf.errors import ArgumentsError
from subtuning_hf.tuner.floating import floating_copy
from support.cases import PREDICT, Texts, pad
from support.test_tasks import make
from toys import LLAMA
from training.cases import make_trainer

pytest.importorskip("bitsandbytes")


def by_torchao():
    quantization = pytest.importorskip("torchao.quantization")
    return TorchAoConfig(quant_type=quantization.Int8WeightOnlyConfig())


BITS = {
    "torchao": by_torchao,
    "8 bit": lambda: BitsAndBytesConfig(load_in_8bit=True),
    "4 bit": lambda: BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
}
SIZES = {**LLAMA, "hidden_size": 64, "intermediate_size": 128}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    make("LlamaForSequenceClassification", **SIZES, num_labels=3)().save_pretrained(folder)
    return folder


def loader(saved, bits):
    """Loads the base anew."""
    settings = {"quantization_config": BITS[bits](), "device_map": "cpu"}
    return lambda: AutoModelForSequenceClassification.from_pretrained(saved, **settings)


@pytest.fixture(params=["8 bit", "torchao"])
def load(saved, request):
    BITS[request.param]()  # skips where it is not installed
    return loader(saved, request.param)


def rows():
    return Texts(lambda row, ids: row % 3)


def trainer_of(folder, load, **args):
    return make_trainer(folder, model=load(), train_dataset=rows(), data_collator=pad, args=args)


@pytest.mark.parametrize("bits", BITS)
def test_a_copy_holds_what_the_integers_stand_for(bits, saved):
    block = loader(saved, bits)().model.layers[1]
    copy = floating_copy(block)
    whole = AutoModelForSequenceClassification.from_pretrained(saved).model.layers[1]
    assert [name for name, _ in copy.named_parameters()] == [name for name, _ in whole.named_parameters()]
    for (name, ours), theirs in zip(copy.named_parameters(), whole.parameters(), strict=True):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype, name
        assert (ours - theirs).abs().max() < 0.2 * theirs.abs().max(), name
    assert any(p.data.dtype != q.data.dtype or type(p) is not type(q)
               for p, q in zip(block.parameters(), copy.parameters(), strict=True))  # the block itself stays as it is


def test_searched_trained_saved_and_loaded(load, tmp_path):
    trainer = trainer_of(tmp_path / "out", load, max_blocks=1)
    assert set(trainer.search().blocks) <= {f"model.layers.{i}" for i in range(3)}
    trainer.train(blocks=[1])
    trained = [name for name, p in trainer.model.named_parameters() if p.requires_grad]
    assert sum(".layers.1." in name and name.endswith("proj.weight") for name in trained) == 7
    trainer.save_model(str(tmp_path / "adapter"))
    batch = pad([rows()[i] for i in range(6)])
    loaded = PeftModel.from_pretrained(load(), tmp_path / "adapter").eval()
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, trainer.model.eval()(**batch).logits)


def test_every_weight_of_the_block_learns(load, tmp_path):
    trainer = trainer_of(tmp_path, load)
    before = dict(floating_copy(trainer.base_model.model.layers[1]).named_parameters())
    trainer.train(blocks=[1])
    after = {name.split(".default.")[1]: p for name, p in trainer.model.named_parameters() if "blocks.default" in name}
    assert after.keys() == before.keys()
    assert all(not torch.equal(after[name], before[name]) for name in before)


def test_gradients_pass_through_frozen_blocks(load, saved):
    """As through a base that holds the same weights in floating point."""
    base, same = load(), AutoModelForSequenceClassification.from_pretrained(saved)
    for place in range(3):
        same.model.layers[place] = floating_copy(base.model.layers[place])
    batch, found = pad([rows()[i] for i in range(6)]), []
    with torch.no_grad():
        base.eval()(**batch)
    for model in (base, same):
        adapted = get_peft_model(model, SubTuningConfig(blocks=[0])).train()
        adapted(**batch).loss.backward()
        found.append([p.grad for name, p in adapted.named_parameters() if ".layers.0." in name and p.requires_grad])
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).norm() < 0.02 * theirs.norm()


def test_four_bits_on_a_cpu_are_refused(saved, tmp_path):
    with pytest.raises(ArgumentsError, match="4-bit layers of bitsandbytes on a CPU: .* gradients .* are wrong"):
        trainer_of(tmp_path / "out", loader(saved, "4 bit"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_predicted(load, tmp_path):
    result = trainer_of(tmp_path, load, **PREDICT).search()
    assert result.cost.num_evaluations >= 2


def test_integers_of_another_kind_are_refused():
    block = torch.nn.Sequential(torch.nn.Linear(2, 2))
    block[0].weight = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ArgumentsError, match="'0.weight' of a 'Sequential' holds torch.int8, in which nothing"):
        floating_copy(block)
