"""The base model comes back as it was, whatever happened to it."""

import copy
import math

import pytest
import torch
from peft import get_peft_model

from subtuning_hf.errors import ArgumentsError
from subtuning_hf.proposal.intact import intact
from subtuning_hf.training.guard import unaltered
from subtuning_hf.tuner import SubTuningConfig
from training.cases import BLOCKS, assert_same_state, make_model, make_trainer, state_of


def disturb(model):
    """All that a Trainer, PEFT and a callback may leave behind."""
    model.train()
    model.requires_grad_(False)
    model.config.num_labels = 7
    model.config.use_cache = False
    model.register_forward_hook(lambda *args: None)
    model.resnet.embedder.register_forward_pre_hook(lambda *args: None)
    model.resnet.embedder.gradient_checkpointing = True
    model.resnet.encoder = torch.nn.Identity()
    model.classifier[1].bias.grad = torch.ones_like(model.classifier[1].bias)
    model.left_behind = 3


@pytest.mark.parametrize("fails", [False, True])
def test_everything_is_put_back(fails):
    model = make_model()
    model.resnet.encoder.stages[0].requires_grad_(False)
    model.classifier.train()
    config, encoder = model.config, model.resnet.encoder
    before = copy.deepcopy(state_of(model))
    try:
        with unaltered(model):
            disturb(model)
            if fails:
                raise RuntimeError("training failed")
    except RuntimeError:
        assert fails
    assert_same_state(before, state_of(model))
    assert model.config is config and model.resnet.encoder is encoder
    assert model.resnet.embedder.__dict__.get("gradient_checkpointing") in (None, False)


def test_hidden_states_are_captured_as_before(tmp_path):
    """transformers hooks its modules at the first use and marks that it has; hooks and marks go together."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(0)
    config = SegformerConfig(
        num_channels=1, num_encoder_blocks=2, depths=[1, 1], sr_ratios=[1, 1], hidden_sizes=[8, 8], num_labels=2,
        patch_sizes=[3, 3], strides=[2, 2], num_attention_heads=[1, 1], mlp_ratios=[1, 1], decoder_hidden_size=8,
    )  # fmt: skip
    model, pictures = SegformerForSemanticSegmentation(config).eval(), torch.randn(12, 1, 16, 16)
    with unaltered(model):
        expected = model(pixel_values=pictures).logits  # its head reads the hidden states
    with intact(model):
        torch.testing.assert_close(model(pixel_values=pictures).logits, expected)
    torch.testing.assert_close(model(pixel_values=pictures).logits, expected)
    rows = [{"pixel_values": one, "labels": (one[0] > 0).long()} for one in pictures]
    for strategy in ("exact", "short-profile"):
        args = {"num_folds": 2, "strategy": strategy, "search_budget": 8.0, "num_train_epochs": 4, "stratify": False}
        given = {"model": copy.deepcopy(model), "train_dataset": rows, "compute_metrics": None, "args": args}
        trainer = make_trainer(tmp_path / strategy, **given)
        trainer.train()
        assert all(math.isfinite(one.score) for one in trainer.study().evaluations)


def test_a_write_into_the_base_is_noticed():
    model = make_model()
    with pytest.raises(ArgumentsError, match=r"wrote into 2 tensors .* 'classifier.1.bias' first"), unaltered(model):
        with torch.no_grad():
            model.classifier[1].bias.add_(1)
        model.resnet.embedder.embedder.normalization.running_mean.zero_()
    with unaltered(model):
        model.train()
        model.requires_grad_(False)
        model.to("cpu")


def test_an_adapter_left_half_way_is_taken_out(monkeypatch):
    model = make_model()
    before = state_of(model)
    with unaltered(model):
        get_peft_model(model, SubTuningConfig(blocks=[1]))
    assert_same_state(before, state_of(model))

    calls = []

    def fail(*args, **kwargs):
        calls.append(1)
        raise MemoryError("no room for the copy")

    with pytest.raises(MemoryError), unaltered(model):
        from subtuning_hf.tuner.layer import BlockLayer

        original = BlockLayer.__init__

        def second_fails(self, *args, **kwargs):
            if calls:
                fail()
            calls.append(1)
            original(self, *args, **kwargs)

        monkeypatch.setattr(BlockLayer, "__init__", second_fails)
        get_peft_model(model, SubTuningConfig(blocks=list(BLOCKS)))
    assert_same_state(before, state_of(model))
    monkeypatch.undo()
    # Hooks included: a new adapter works as the first would have.
    peft_model = get_peft_model(model, SubTuningConfig(blocks=[0])).train()
    peft_model(torch.randn(4, 1, 16, 16))
    frozen = model.resnet.embedder.embedder.normalization
    assert torch.equal(frozen.running_mean, torch.zeros(4))
