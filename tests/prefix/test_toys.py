"""Every architecture started at several cuts: bits, gradients, rows batched anew, and what cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature

import pytest
import torch
from peft import get_peft_model
from torch import nn

from subtuning_hf import SubTuningConfig
from subtuning_hf.prefix import ROWS, Trunk
from toys import TOYS, Toy, logits_of

# Dense connections: what runs behind a block reads what all earlier ones return.
REFUSED = {"timm-densenet": {3, 5, 6}}
NUM_ROWS = 6


def trunk_of(toy: Toy, model: nn.Module) -> Trunk:
    data = toy.inputs(NUM_ROWS)

    def batch_of(rows):
        return {name: value[list(rows)] for name, value in data.items()}

    return Trunk(model, toy.blocks, batch_of, NUM_ROWS, batch_size=4)


def cuts_of(toy: Toy) -> list[int]:
    last = toy.num_blocks
    return sorted({1, (last + 1) // 2, last - 1, last})


def passed(model: nn.Module, batch: dict, **extra) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits and gradients of one training pass."""
    model.zero_grad(set_to_none=True)
    torch.manual_seed(3)  # of dropout in the tuned blocks
    logits = logits_of(model(**batch, **extra))
    logits.float().pow(2).mean().backward()
    return logits.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def differing(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> list[str]:
    return [n for n in {**left, **right} if n not in left or n not in right or not torch.equal(left[n], right[n])]


@contextmanager
def counted(modules: list[nn.Module]) -> Iterator[list[nn.Module]]:
    """Modules that were called while the block ran."""
    called: list[nn.Module] = []
    handles = [module.register_forward_pre_hook(lambda module, _: called.append(module)) for module in modules]
    try:
        yield called
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("name", [name for name in TOYS if name not in REFUSED])
def test_training_from_a_cut_gives_the_bits_of_a_full_pass(name):
    toy = TOYS[name]
    model = toy.build()
    trunk, cuts = trunk_of(toy, model), cuts_of(toy)
    assert trunk.fill(cuts) == tuple(cuts), trunk.check(cuts)
    rows = [0, 1, 2, 3]  # together, as they were stored
    batch = trunk.batch_of(rows)
    if "use_cache" in signature(model.forward).parameters:
        # A trunk keeps no keys and values; with them attention gets tensors of another layout and may round otherwise.
        batch = {**batch, "use_cache": False}
    for cut in cuts:
        if cut == toy.num_blocks and not toy.has_head:
            continue
        tuned = get_peft_model(model, SubTuningConfig(blocks=list(toy.blocks[cut:])))
        assert trunk.cut_of(toy.blocks[cut:]) == cut
        tuned.train()
        logits, grads = passed(tuned, batch)
        inside = [m for block in toy.blocks[:cut] for n, m in model.get_submodule(block).named_modules() if n]
        with trunk.starting_at(tuned, cut) as used:
            assert used == cut
            with counted(inside) as called:
                started, from_cut = passed(tuned, batch, **{ROWS: torch.tensor(rows)})
            assert not called, "a block before the cut ran"
            with counted(inside) as called:
                whole, _ = passed(tuned, batch)
            assert called, "a call without row numbers runs in full"
        assert torch.equal(logits, started), cut
        assert torch.equal(logits, whole), cut
        assert grads and not differing(grads, from_cut), cut
        tuned.unload()


@pytest.mark.parametrize("name", [name for name in TOYS if name not in REFUSED])
def test_rows_batched_anew_stay_within_rounding(name):
    toy = TOYS[name]
    model = toy.build()
    trunk, cuts = trunk_of(toy, model), cuts_of(toy)
    assert trunk.fill(cuts) == tuple(cuts)
    rows = [5, 0, 3]
    batch = trunk.batch_of(rows)
    with torch.no_grad():
        full = logits_of(model(**batch))
        alone = torch.cat([logits_of(model(**trunk.batch_of([row]))) for row in rows])
        # What the model itself makes of other batches; BatchNorm over toy statistics magnifies rounding.
        allowed = max(1e-6, 4 * float((alone - full).abs().max() / full.abs().max()))
        assert allowed < 1e-4
        for cut in cuts:
            with trunk.starting_at(model, cut):
                found = logits_of(model(**batch, **{ROWS: torch.tensor(rows)}))
            assert float((found - full).abs().max() / full.abs().max()) <= allowed, cut


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_started_in_the_middle_says_so(name):
    toy = TOYS[name]
    trunk, cuts = trunk_of(toy, toy.build()), cuts_of(toy)
    verdicts = trunk.check(cuts)
    assert {cut for cut, verdict in verdicts.items() if verdict is not True} == REFUSED[name]
    assert all("reads more than the output" in verdicts[cut] for cut in REFUSED[name])
    assert trunk.fill(cuts) == tuple(cut for cut in cuts if cut not in REFUSED[name])


def test_a_model_that_cannot_is_warned_of_once(monkeypatch):
    warned = []
    monkeypatch.setattr("subtuning_hf.prefix.trunk.logger.warning", warned.append)
    toy = TOYS["timm-densenet"]
    model = toy.build()
    trunk = trunk_of(toy, model)
    assert trunk.fill([5, 6]) == () and trunk.store is None
    assert len(warned) == 1 and "DenseNet" in warned[0] and "reads more than" in warned[0]
    batch = trunk.batch_of([1, 2])
    with trunk.starting_at(model, 6) as used, torch.no_grad():
        assert used == 0
        assert torch.equal(model(**batch, **{ROWS: torch.tensor([1, 2])}), model(**batch))
