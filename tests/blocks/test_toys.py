"""The table of toys keeps what it promises: the same weights at every build, finite outputs, no trace in the RNG."""

import pytest
import torch

from toys import NUM_LABELS, TOYS, expand, logits_of


def test_there_are_at_least_the_architectures_promised():
    assert len(TOYS) >= 34
    assert {toy.kind for toy in TOYS.values()} == {
        "image", "text", "seq2seq", "audio", "timm", "timm-wrapper", "plain",
    }  # fmt: skip


@pytest.mark.parametrize("toy", TOYS.values(), ids=TOYS)
def test_builds_the_same_model_each_time_and_runs(toy):
    state = torch.get_rng_state()
    first, second, inputs = toy.build(), toy.build(), toy.inputs(batch_size=3, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert not first.training
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    with torch.no_grad():
        logits = logits_of(first(**inputs))
        assert torch.equal(logits, logits_of(second(**toy.inputs(batch_size=3, seed=1))))
    assert torch.isfinite(logits).all()
    assert logits.shape == (3, NUM_LABELS) if toy.has_head else logits.shape[0] == 3


@pytest.mark.parametrize("toy", TOYS.values(), ids=TOYS)
def test_outputs_depend_on_the_inputs_and_on_every_block(toy):
    # Else a test that outputs are equal would say nothing.
    model, inputs = toy.build(), toy.inputs(8)
    with torch.no_grad():
        logits = logits_of(model(**inputs))
        assert logits.std(0).mean() > 0.02 * logits.abs().mean()
        for name in toy.blocks:
            block = model.get_submodule(name)
            before = [parameter.clone() for parameter in block.parameters()]
            for parameter in block.parameters():
                parameter.mul_(1.1)
            change = (logits_of(model(**inputs)) - logits).abs().mean()
            assert change > 1e-4 * logits.abs().mean(), name
            for parameter, value in zip(block.parameters(), before, strict=True):
                parameter.copy_(value)
        assert torch.equal(logits_of(model(**inputs)), logits)


def test_expand_writes_names_out():
    assert expand("layer{1-2}.{0,3}", "top") == ("layer1.0", "layer1.3", "layer2.0", "layer2.3", "top")
