"""Scores of single blocks against what they are defined to be."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from proposal.problem_cases import Broken, breaking, make_tower, state_of, tower_problem, toy_problem, unsettle
from subtuning_hf.proposal.base import Problem
from subtuning_hf.proposal.gradients import DisplacementScores, GradientScores
from subtuning_hf.proposal.ranking import BlockScores
from subtuning_hf.proposal.transfer import TransferScores, h_score, log_evidence, pooled
from subtuning_hf.proposal.weights import WeightScores

GRADIENTS = [GradientScores(kind, head) for kind in ("rgn", "snr", "fisher") for head in ("fitted", "initial")]
OTHERS = [DisplacementScores(), TransferScores(), TransferScores("h-score")]
CONTROLS = [WeightScores(kind) for kind in ("parameters", "spectrum", "kappa", "random", "last", "first")]


def by_name(proposal: BlockScores) -> str:
    return proposal.name.replace(" ", "-")


def tower(rows: int = 48, **settings) -> tuple[Problem, nn.Module, Tensor, Tensor]:
    model, x = make_tower(0, rows)
    labels = torch.arange(rows) % 3
    return tower_problem(model, labels, x, **settings), model, x, labels


def scores(problem: Problem, proposal: BlockScores) -> list[float]:
    predict = proposal.fit(problem, 2.0)
    return [predict([block]).score for block in problem.blocks]


@pytest.mark.parametrize("name", ["resnet", "bert", "gpt2", "t5"])
@pytest.mark.parametrize("proposal", [*GRADIENTS, *OTHERS, *CONTROLS], ids=by_name)
def test_scores_every_block_and_leaves_the_model_alone(name, proposal):
    problem = toy_problem(name)
    unsettle(problem.model)
    before = state_of(problem.model)
    found = scores(problem, proposal)
    assert state_of(problem.model) == before
    assert all(map(math.isfinite, found))
    assert len(set(found)) > 1 or (proposal.name == "parameters" and name in ("bert", "gpt2"))
    assert scores(toy_problem(name), proposal) == found


@pytest.mark.parametrize("proposal", [GRADIENTS[0], OTHERS[0], OTHERS[1]], ids=by_name)
@pytest.mark.parametrize("calls", [0, 1])
def test_an_error_inside_leaves_the_model_alone(proposal, calls):
    problem = breaking(toy_problem("resnet", eval_batch_size=8), calls)
    unsettle(problem.model)
    before = state_of(problem.model)
    with pytest.raises(Broken):
        proposal.fit(problem, 1.0)
    assert state_of(problem.model) == before


@pytest.mark.parametrize("proposal", [GRADIENTS[0], OTHERS[1], CONTROLS[0]], ids=by_name)
def test_a_selection_is_its_best_block_and_none_comes_last(proposal):
    problem = toy_problem("resnet")
    predict = proposal.fit(problem, 1.0)
    alone = {name: predict([name]).score for name in problem.blocks}
    assert predict(problem.blocks).score == max(alone.values())
    assert predict(problem.blocks[:2]).score == max(alone[name] for name in problem.blocks[:2])
    assert predict([]).score < min(alone.values())
    assert not proposal.predicts_subsets


# --- gradients -------------------------------------------------------------------------------
def gradients(problem: Problem, model: nn.Module, x: Tensor, labels: Tensor, each: bool) -> list[Tensor]:
    """Gradients of the loss by block, of shape `(rows or 1, parameters)`, on the first fold's training rows."""
    rows = torch.tensor(problem.folds[0].train)
    parts = rows.split(1) if each else [rows]
    found = []
    for block in model.blocks:
        parameters = list(block.parameters())
        grads = [
            torch.autograd.grad(nn.functional.cross_entropy(model(x[part]), labels[part]), parameters) for part in parts
        ]
        found.append(torch.stack([torch.cat([g.flatten() for g in one]) for one in grads]))
    return found


def test_relative_gradient_norm():
    problem, model, x, labels = tower(batch_size=16)
    found = scores(problem, GradientScores("rgn", "initial"))
    for score, grad, block in zip(found, gradients(problem, model, x, labels, False), model.blocks, strict=True):
        norm = torch.cat([p.flatten() for p in block.parameters()]).norm()
        assert score == pytest.approx(float(grad.norm() / norm.detach()), rel=1e-4)


def test_signal_to_noise_and_fisher_of_single_rows():
    problem, model, x, labels = tower(batch_size=1)
    each = gradients(problem, model, x, labels, True)
    snr, fisher = (scores(problem, GradientScores(kind, "initial")) for kind in ("snr", "fisher"))
    for place, rows in enumerate(each):
        seen = rows.var(0) > 1e-12
        wanted = (rows.mean(0)[seen].square() / rows.var(0)[seen]).mean()
        assert snr[place] == pytest.approx(float(wanted), rel=1e-2)
        assert fisher[place] == pytest.approx(float(rows.square().mean(0).mean()), rel=5e-2)


def test_fisher_of_batches_estimates_that_of_rows():
    problem, model, x, labels = tower(rows=900, batch_size=6)
    each = [float(rows.square().mean()) for rows in gradients(problem, model, x, labels, True)]
    found = scores(problem, GradientScores("fisher", "initial"))
    assert found == pytest.approx(each, rel=0.25)
    assert [one / other for one, other in zip(found, each, strict=True)] != pytest.approx([1 / 6] * 4, rel=0.5)


def test_the_head_is_fitted_to_training_rows_only():
    problem, model, x, labels = tower()
    found = scores(problem, GradientScores("rgn", "fitted"))
    assert found != scores(problem, GradientScores("rgn", "initial"))
    held = torch.tensor(problem.folds[0].validation)
    labels[held] = (labels[held] + 1) % 3
    assert scores(tower_problem(model, labels, x), GradientScores("rgn", "fitted")) != found  # other folds by labels
    problem.eval_batch = problem.train_batch = _spoilt(problem, set(problem.folds[0].validation))
    assert scores(problem, GradientScores("rgn", "fitted")) == found


def _spoilt(problem: Problem, rows: set[int]):
    reader = problem.eval_batch

    def read(numbers):
        assert not rows & set(numbers)
        return reader(numbers)

    return read


def test_displacement_is_where_training_goes():
    problem = tower(batch_size=8)[0]
    moved = scores(problem, DisplacementScores(1.0))
    assert min(moved) > 0
    assert all(one < other for one, other in zip(scores(problem, DisplacementScores(0.25)), moved, strict=True))
    problem.learning_rate = 0.0
    assert scores(problem, DisplacementScores(1.0)) == [0.0] * 4


def test_unknown_kinds_are_refused():
    for wrong in (lambda: GradientScores("norm"), lambda: GradientScores("rgn", "none"), lambda: TransferScores("leep"),
                  lambda: WeightScores("age")):  # fmt: skip
        with pytest.raises(ValueError, match="must be one of"):
            wrong()


# --- features --------------------------------------------------------------------------------
def test_log_evidence_is_the_largest():
    random = torch.Generator().manual_seed(0)
    for rows, dim in ((40, 5), (8, 20)):
        features = torch.randn(rows, dim, generator=random, dtype=torch.float64)
        target = features[:, :2].sum(1) + 0.5 * torch.randn(rows, generator=random, dtype=torch.float64)

        def evidence(log_alpha: float, log_beta: float, features: Tensor = features, target: Tensor = target) -> float:
            covariance = features @ features.T * math.exp(-log_alpha) + torch.eye(len(target)) * math.exp(-log_beta)
            normal = torch.distributions.MultivariateNormal(torch.zeros_like(target), covariance)
            return float(normal.log_prob(target)) / len(target)

        grid = [step / 4 for step in range(-16, 25)]
        best = max(evidence(alpha, beta) for alpha in grid for beta in grid)
        found = log_evidence(features, target[:, None])
        assert best - 1e-3 <= found <= best + 0.02


def test_h_score_tells_classes_apart():
    random = torch.Generator().manual_seed(0)
    classes = nn.functional.one_hot(torch.arange(200) % 4).double()
    noise = torch.randn(200, 6, generator=random, dtype=torch.float64)
    apart = noise + 4.0 * classes @ torch.eye(4, 6, dtype=torch.float64)
    assert h_score(noise, classes) < 0.2
    assert 2.0 < h_score(apart, classes) < 3.0  # at most the number of classes less one
    turned = apart @ torch.linalg.qr(torch.randn(6, 6, generator=random, dtype=torch.float64))[0]
    assert h_score(turned, classes) == pytest.approx(h_score(apart, classes))


def test_features_that_tell_the_labels_come_first():
    model, x = make_tower(0, 120, blocks=3)
    with torch.no_grad():
        model.blocks[2].forward = lambda hidden: hidden.flip(0)  # every row gets the features of another
        labels = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    problem = tower_problem(model, labels, x)
    for kind in ("logme", "h-score"):
        found = scores(problem, TransferScores(kind))
        assert found[2] < min(found[:2]), (kind, found)


def test_positions_are_averaged():
    values = torch.arange(24.0).reshape(2, 3, 4)
    assert torch.equal(pooled((values, None), {}), values.mean(1))
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    wanted = torch.stack([values[0, :2].mean(0), values[1, 0]])
    assert torch.equal(pooled(values, {"attention_mask": mask}), wanted)
    maps = torch.randn(2, 5, 3, 3)
    assert torch.allclose(pooled(maps, {}), maps.mean((2, 3)))
    assert torch.allclose(pooled(maps.movedim(1, -1), {}), maps.mean((2, 3)))


# --- weights ---------------------------------------------------------------------------------
def test_weights_alone():
    model, x = make_tower(0, 24, blocks=3)
    problem = tower_problem(model, torch.arange(24) % 3, x)
    with torch.no_grad():
        for weight in (model.blocks[1].up.weight, model.blocks[1].down.weight):
            left, values, right = torch.linalg.svd(weight)
            values[2:] *= 1e-3
            values[:2] = 10.0  # signal that stands out
            weight.copy_(left @ values.diag() @ right)
    assert max(range(3), key=scores(problem, WeightScores("spectrum")).__getitem__) == 1
    assert min(range(3), key=scores(problem, WeightScores("kappa")).__getitem__) == 1
    assert scores(problem, WeightScores("parameters")) == [2 * (12 * 12 + 12)] * 3
    assert scores(problem, WeightScores("last")) == [0.0, 1.0, 2.0]
    assert problem.meter.units == 0
    chance = scores(problem, WeightScores("random"))
    problem.seed = 1
    assert scores(problem, WeightScores("random")) != chance
