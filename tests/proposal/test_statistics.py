"""Re-estimated statistics find the block whose statistics are wrong."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from proposal.problem_cases import Broken, breaking, make_tower, state_of, tower_problem, toy_problem, unsettle
from subtuning_hf.proposal.copies import Copies, reestimated
from subtuning_hf.proposal.intact import intact, looked_at
from subtuning_hf.proposal.statistics import Settled, StatisticsProposal


def shifted(place: int, rows: int = 180):
    """A tower whose labels are its own answers, before the statistics of one block were spoilt."""
    model, x = make_tower(3, rows, blocks=3, norm=True)
    with torch.no_grad():
        for block in model.blocks:
            block.down.weight.mul_(3.0)  # what a block adds must matter
        model(x)
        labels = model(x).argmax(-1)
    norm = model.blocks[place].norm
    norm.running_mean.add_(3.0)
    norm.running_var.mul_(25.0)
    return model, x, labels


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_block_whose_statistics_are_wrong_comes_first(place):
    model, x, labels = shifted(place)
    problem = tower_problem(model, labels, x)
    predict = StatisticsProposal().fit(problem, 1.0)
    scores = {name: predict([name]).score for name in problem.blocks}
    assert max(scores, key=scores.get) == f"blocks.{place}", scores
    assert predict([f"blocks.{place}"]).score > predict([]).score + 0.05


def test_statistics_are_those_of_the_rows():
    model, x, labels = shifted(1)
    problem = tower_problem(model, labels, x, eval_batch_size=60)
    with intact(model):
        rows = looked_at(problem)
        settled = Settled(problem, rows)
        with settled.copies.installed():
            settled.estimate()
        # Each block alone: the input of the second is that of the frozen model.
        hidden = x
        for place, block in enumerate(model.blocks):
            inside = block.up(hidden).detach()
            found = settled.copies.copies[f"blocks.{place}"].norm
            assert torch.allclose(found.running_mean, inside.mean(0), atol=1e-4)
            assert torch.allclose(found.running_var, inside.var(0), rtol=0.1)
            hidden = block(hidden).detach()
    assert not torch.allclose(model.blocks[1].norm.running_mean, found.running_mean)


@pytest.mark.parametrize("name", ["bert", "vit", "gpt2", "t5"])
def test_without_running_statistics_all_selections_score_alike(name):
    problem = toy_problem(name)
    predict = StatisticsProposal().fit(problem, 1.0)
    assert len({predict(one).fold_scores for one in [(), *((b,) for b in problem.blocks), problem.blocks]}) == 1


@pytest.mark.parametrize("name", ["resnet", "timm-resnet", "vit", "gpt2-causal", "t5-generation"])
def test_leaves_the_model_alone(name):
    problem = toy_problem(name)
    unsettle(problem.model)
    before = state_of(problem.model)
    predict = StatisticsProposal().fit(problem, 2.0)
    assert state_of(problem.model) == before
    scores = predict(problem.blocks[:3]).fold_scores
    assert state_of(problem.model) == before
    assert len(scores) == 3 and all(map(math.isfinite, scores))
    again = StatisticsProposal().fit(toy_problem(name), 2.0)
    assert again(problem.blocks[:3]).fold_scores == scores


@pytest.mark.parametrize("calls", [0, 2, 5])
def test_an_error_inside_leaves_the_model_alone(calls):
    problem = breaking(toy_problem("resnet", eval_batch_size=8), calls)
    unsettle(problem.model)
    before = state_of(problem.model)
    with pytest.raises(Broken):
        StatisticsProposal().fit(problem, 1.0)
    assert state_of(problem.model) == before


def test_a_selection_is_estimated_together():
    model, x, labels = shifted(0)
    problem = tower_problem(model, labels, x, eval_batch_size=len(x))
    predict = StatisticsProposal().fit(problem, 5.0)
    names = ["blocks.0", "blocks.2"]
    alone = predict.settled.copies.copies["blocks.2"].norm.running_mean.clone()
    spent = problem.meter.units
    found = predict(names)
    assert problem.meter.units == spent + 2 * len(x)
    assert predict(names) is found and problem.meter.units == spent + 2 * len(x)
    # By hand: the second block's input comes from the first with its new statistics.
    copies = Copies(model, names)
    with intact(model), copies.installed(), torch.no_grad():
        with reestimated(copies.norms(names)):
            copies.use(names)
            model(x)
        hidden = x
        for name in ("blocks.0", "blocks.1", "blocks.2"):
            if name == "blocks.2":
                wanted = copies.copies[name].up(hidden).mean(0)
                # Running variances are unbiased, those of a batch are not: not exactly equal.
                assert torch.allclose(predict.settled.copies.copies[name].norm.running_mean, wanted, atol=2e-2)
                assert not torch.allclose(alone, wanted, atol=2e-1)
            hidden = model.get_submodule(name)(hidden)


def test_beyond_the_budget_the_best_block_stands_for_a_selection():
    model, x, labels = shifted(2)
    problem = tower_problem(model, labels, x)
    predict = StatisticsProposal().fit(problem, 0.0)
    spent = problem.meter.units
    best = max((predict([name]) for name in problem.blocks), key=lambda one: one.score)
    assert predict(problem.blocks) is best
    assert problem.meter.units == spent


def test_cost_is_counted():
    model, x, labels = shifted(0)
    problem = tower_problem(model, labels, x)
    StatisticsProposal().fit(problem, 1.0)
    block = 0.8 / 3
    # Two passes, each block once, and then from each block to the end; the stem is part of a pass from the first.
    tails = 1.0 + 2 * block + block
    assert problem.meter.units == pytest.approx(len(x) * (2 + 3 * block + tails))


def test_norms_of_other_kinds_have_no_statistics():
    problem = toy_problem("plain-resnet")
    assert any(isinstance(module, nn.BatchNorm2d) for module in problem.model.modules())
    with intact(problem.model):
        settled = Settled(problem, looked_at(problem))
        assert settled.places == list(range(len(problem.blocks)))
    vit = toy_problem("vit")
    with intact(vit.model):
        assert Settled(vit, looked_at(vit)).places == []
