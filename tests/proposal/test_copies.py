"""Selections that share the frozen blocks of a batch give bit for bit what they give alone."""

import pytest
import torch
from torch import nn

from proposal.problem_cases import make_tower, state_of
from subtuning_hf.proposal.copies import Copies, Trunk, call, reestimated
from subtuning_hf.proposal.intact import intact
from toys import TOYS, logits_of


def nudged(copies, name):
    """Move the weights of a copy, so that it cannot pass for the original."""
    with torch.no_grad():
        for parameter in copies.copies[name].parameters():
            parameter.add_(0.05)


@pytest.mark.parametrize("name", list(TOYS))
def test_replayed_equals_run_in_full(name):
    toy = TOYS[name]
    model, batch = toy.build(), toy.inputs(2)
    copies = Copies(model, toy.blocks)
    trunk = Trunk(copies, toy.blocks)
    with intact(model), copies.installed():
        frozen = logits_of(trunk.record(batch)[0])
        for place, block in enumerate(toy.blocks):
            nudged(copies, block)
            copies.use([block])
            with torch.no_grad():
                full = logits_of(call(model, batch)[0])
                with trunk.starting_at(place):
                    found = logits_of(call(model, batch)[0])
            assert torch.equal(found, full) and not torch.equal(found, frozen), block
    assert trunk.is_exact


@pytest.mark.parametrize("name", ["resnet", "bert", "t5", "timm-densenet"])
def test_gradients_are_those_of_a_full_run(name):
    toy = TOYS[name]
    model, batch = toy.build(), toy.inputs(4)
    copies, place = Copies(model, toy.blocks), 2
    trunk = Trunk(copies, toy.blocks)
    found = []
    with intact(model), copies.installed():
        trunk.record(batch)
        for start in (0, place):
            copies.use([toy.blocks[place]])
            copies.train([toy.blocks[place]])
            torch.manual_seed(0)  # dropout
            with trunk.starting_at(start):
                logits_of(call(model, batch)[0]).pow(2).mean().backward()
            gradients = [p.grad for p in copies.parameters([toy.blocks[place]])]
            found.append([g if g is None else g.clone() for g in gradients])
            for parameter in copies.parameters([toy.blocks[place]]):
                parameter.grad = None
    used = [(one, other) for one, other in zip(*found, strict=True) if one is not None]
    assert used and all(torch.equal(one, other) for one, other in used)


class WritesIntoOutputs(nn.Module):
    """Adds to what its blocks give, in place."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(3, 3) for _ in range(2))
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
            x += 1
        return self.head(x)


class CallsTwice(WritesIntoOutputs):
    """Runs its blocks twice."""

    def forward(self, x):
        for _ in range(2):
            for block in self.blocks:
                x = block(x)
        return self.head(x)


@pytest.mark.parametrize("kind", [WritesIntoOutputs, CallsTwice])
def test_what_cannot_be_replayed_is_run_in_full(kind):
    model, names = kind(), ["blocks.0", "blocks.1"]
    batch = {"x": torch.randn(4, 3)}
    copies = Copies(model, names)
    trunk = Trunk(copies, names)
    with copies.installed():
        trunk.record(batch)
        assert not trunk.is_exact
        nudged(copies, "blocks.1")
        copies.use(["blocks.1"])
        with torch.no_grad(), trunk.starting_at(1):
            found = call(model, batch)[0]
        assert torch.equal(found, model(**batch))


def test_a_model_is_as_it_was_also_after_an_error():
    model = TOYS["resnet"].build()
    model.train()
    next(model.parameters()).requires_grad_(False)
    before = state_of(model)
    copies = Copies(model, TOYS["resnet"].blocks)
    trunk = Trunk(copies, TOYS["resnet"].blocks)
    with pytest.raises(ZeroDivisionError), copies.installed():
        trunk.record(TOYS["resnet"].inputs(2))
        copies.use(copies.names)
        with trunk.starting_at(2):
            _ = 1 / 0
    assert state_of(model) == before


def test_statistics_are_those_of_the_rows_seen():
    model, x = make_tower(0, 64, norm=True)
    copies = Copies(model, ["blocks.0"])
    norm = copies.copies["blocks.0"].norm
    with copies.installed(), torch.no_grad():
        copies.use(["blocks.0"])
        with reestimated(copies.norms(["blocks.0"])):
            for part in (3 * x + 1).split(16):
                call(model, {"x": part})
        into = model.blocks[0].up(3 * x + 1)
    assert torch.allclose(norm.running_mean, into.mean(0), atol=1e-4)
    assert not torch.allclose(norm.running_mean, model.blocks[0].norm.running_mean, atol=1e-1)
    assert not norm.training


def test_losses_of_models_that_give_none():
    model, x = make_tower(0, 6)
    batch = {"x": x, "labels": torch.arange(6) % 3}
    logits, loss = call(model, batch)
    assert torch.equal(loss, nn.functional.cross_entropy(logits, batch["labels"]))
    numbers = torch.randn(6, 3)
    assert torch.equal(call(model, {"x": x, "labels": numbers})[1], nn.functional.mse_loss(logits, numbers))
    assert call(model, {"x": x})[1] is None
