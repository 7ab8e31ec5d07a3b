"""Kernels of sketched gradients against exact ones, and what is predicted from them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from proposal.problem_cases import Broken, breaking, make_tower, state_of, tower_problem, toy_problem, unsettle
from subtuning_hf.proposal.features import Features
from subtuning_hf.proposal.intact import intact, labels_at, looked_at
from subtuning_hf.proposal.kernels import KernelProposal
from subtuning_hf.proposal.ridge import RIDGES, fold_predictions
from subtuning_hf.proposal.sketch import Sketch, _layers
from toys import TOYS

ROWS = 3
# Every kind of layer: normal, grouped and depthwise convolutions, TensorFlow's padding, standardised weights,
# activation inside a norm, transposed linear layers, windows folded into the rows, towers, several inputs.
KINDS = [
    "resnet", "convnext", "mobilenet-v2", "timm-efficientnet", "timm-regnet", "timm-resnetv2-conv-head", "wav2vec2",
    "bert", "vit", "swin", "timm-swin", "llama", "gpt2", "t5", "modernbert", "plain-sequential",
]  # fmt: skip


def sketched(name: str, **settings: int) -> tuple[list[Tensor], nn.Module, Tensor]:
    """Sketched gradients of one direction, of shape `(rows, width)` for each block."""
    toy = TOYS[name]
    model, batch = toy.build(), toy.inputs(ROWS)
    with intact(model):
        sketch = Sketch([model.get_submodule(block) for block in toy.blocks], **settings)
        sketch.rows = ROWS
        reader = Features(model, toy.head)
        with torch.enable_grad(), sketch.listening():
            features = reader(batch)
            direction = torch.randn(1, features.shape[1], generator=torch.Generator().manual_seed(0))
            vectors = next(sketch.read(features, direction))
    return vectors, model, direction


def exact(model: nn.Module, name: str, direction: Tensor) -> list[Tensor]:
    """The same by one backward pass per row, of shape `(rows, parameters)` for each block."""
    toy, found = TOYS[name], []
    for block in toy.blocks:
        with intact(model):
            layers = _layers(model.get_submodule(block))
            parameters = [p for layer in layers for p in layer.parameters(recurse=False)]
            for parameter in parameters:
                parameter.requires_grad_(True)
            features = Features(model, toy.head)(toy.inputs(ROWS))
            rows = []
            for row in features:
                grads = torch.autograd.grad(row @ direction[0], parameters, retain_graph=True, allow_unused=True)
                pairs = zip(grads, parameters, strict=True)
                rows.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs]))
            found.append(torch.stack(rows))
    return found


def error(one: Tensor, other: Tensor) -> float:
    """Largest difference of two kernels, relative to the largest value."""
    kernel = other @ other.T
    return float((one @ one.T - kernel).abs().max() / kernel.abs().max())


@pytest.mark.parametrize("name", KINDS)
def test_a_sketch_with_room_for_everything_is_exact(name):
    vectors, model, direction = sketched(name, side=10_000, width=60_000)
    wanted = exact(model, name, direction)
    assert all(float(one.abs().max()) > 0 for one in wanted)
    assert max(error(one, other) for one, other in zip(vectors, wanted, strict=True)) < 1e-5


@pytest.mark.parametrize("name", ["resnet", "bert"])
def test_the_error_falls_as_the_sketch_grows(name):
    _, model, direction = sketched(name, side=4, width=32)
    wanted = exact(model, name, direction)

    def mean_error(side: int, width: int) -> float:
        errors = [
            error(one, other)
            for seed in range(6)
            for one, other in zip(sketched(name, side=side, width=width, seed=seed)[0], wanted, strict=True)
        ]
        return math.fsum(errors) / len(errors)

    errors = [mean_error(*size) for size in ((3, 16), (8, 256), (24, 8192))]
    assert errors[0] > 1.5 * errors[1] and errors[1] > 1.5 * errors[2], errors


def test_the_sketch_is_unbiased():
    _, model, direction = sketched("vit", side=4, width=64)
    wanted = exact(model, "vit", direction)[1]
    found = torch.stack([(v := sketched("vit", side=4, width=64, seed=seed)[0][1]) @ v.T for seed in range(80)])
    kernel, spread = wanted @ wanted.T, found.std(0) / math.sqrt(len(found))
    assert float(((found.mean(0) - kernel).abs() / spread).max()) < 4
    assert float(spread.max() / kernel.max()) < 0.15  # the test can tell


def test_kernels_of_blocks_add_up():
    toy = TOYS["vit"]
    model = toy.build()

    def vectors(modules: list[nn.Module]) -> list[Tensor]:
        with intact(model):
            sketch = Sketch(modules, side=10_000, width=60_000)
            sketch.rows = ROWS
            with torch.enable_grad(), sketch.listening():
                features = Features(model, toy.head)(toy.inputs(ROWS))
                return next(sketch.read(features, torch.ones(1, features.shape[1])))

    blocks = [model.get_submodule(name) for name in toy.blocks]
    (together,) = vectors([nn.ModuleList(blocks)])
    apart = vectors(blocks)
    assert torch.allclose(together @ together.T, sum(one @ one.T for one in apart), rtol=1e-4)


# --- closed form -----------------------------------------------------------------------------
def regression() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    features = torch.randn(30, 5, generator=random, dtype=torch.float64) + 2.0
    targets = features @ torch.randn(5, 2, generator=random, dtype=torch.float64)
    targets = targets + torch.randn(30, 2, generator=random, dtype=torch.float64) + 1.0
    return features, targets, torch.arange(20), torch.arange(20, 30)


def refitted(features: Tensor, targets: Tensor, train: Tensor, ridge: float, intercept: bool) -> Tensor:
    """Predictions for all rows by ridge regression on the features themselves."""
    x, y = features[train], targets[train]
    middle, centre = (x.mean(0), y.mean(0)) if intercept else (torch.zeros(5).double(), torch.zeros(2).double())
    x = x - middle
    weight = torch.linalg.solve(x.T @ x + ridge * torch.eye(5).double(), x.T @ (y - centre))
    return (features - middle) @ weight + centre


@pytest.mark.parametrize("intercept", [True, False])
def test_closed_form_equals_refitting(intercept):
    features, targets, train, validation = regression()
    kernel = features @ features.T
    x = features[train] - features[train].mean(0) * intercept
    for ridge in (1e-2, 1.0):
        predicted, _, chosen = fold_predictions(kernel, targets, train, validation, intercept, [ridge])
        wanted = refitted(features, targets, train, ridge * float(x.square().sum()) / len(train), intercept)
        assert chosen == ridge
        assert torch.allclose(predicted, wanted[validation], atol=1e-8)


def test_leaving_one_out_equals_refitting_without_it():
    features, targets, train, validation = regression()
    kernel = features @ features.T
    # Without an intercept, whose removal would move the centre of the features of the others.
    _, left_out, _ = fold_predictions(kernel, targets, train, validation, False, [0.1])
    ridge = 0.1 * float(features[train].square().sum()) / len(train)
    for row in train.tolist():
        others = train[train != row]
        assert torch.allclose(left_out[row], refitted(features, targets, others, ridge, False)[row], atol=1e-8)


def test_the_ridge_is_chosen_without_validation_rows():
    features, targets, train, validation = regression()
    kernel = features @ features.T
    errors = {}
    for ridge in RIDGES:
        _, left_out, _ = fold_predictions(kernel, targets, train, validation, True, [ridge])
        errors[ridge] = float((left_out - targets[train]).square().mean())
    best = fold_predictions(kernel, targets, train, validation)
    assert best[2] == min(errors, key=errors.get) not in (RIDGES[0], RIDGES[-1])
    spoilt = targets.clone()
    spoilt[validation] = 100.0
    again = fold_predictions(kernel, spoilt, train, validation)
    assert again[2] == best[2] and torch.equal(again[0], best[0])


# --- the proposal ----------------------------------------------------------------------------
@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_block_that_differs_from_the_teacher_comes_first(place):
    model, x = make_tower(1, 300, dim=6, blocks=3, classes=1)
    weights = [p for p in model.blocks[place].parameters() if p.ndim == 2]
    kept = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        random = torch.Generator().manual_seed(7)
        for weight in weights:
            weight.add_(0.2 * torch.randn(weight.shape, generator=random))
        labels = model(x)[:, 0]
        for weight, before in zip(weights, kept, strict=True):
            weight.copy_(before)
    problem = tower_problem(model, labels, x, epochs=12.0)
    predict = KernelProposal().fit(problem, 1.0)
    scores = {name: predict([name]).score for name in problem.blocks}
    assert max(scores, key=scores.get) == f"blocks.{place}", scores
    assert scores[f"blocks.{place}"] > predict([]).score
    others = [f"blocks.{other}" for other in range(3) if other != place]
    assert scores[f"blocks.{place}"] > predict(others).score


@pytest.mark.parametrize("measure", ["explained", "score"])
@pytest.mark.parametrize("name", ["bert", "vit", "resnet", "gpt2", "t5"])
def test_predicts_every_selection_and_leaves_the_model_alone(name, measure):
    problem = toy_problem(name)
    unsettle(problem.model)
    before = state_of(problem.model)
    predict = KernelProposal(width=256, measure=measure).fit(problem, 2.0)
    selections = [(), (problem.blocks[0],), problem.blocks[:2], problem.blocks]
    found = [predict(one).fold_scores for one in selections]
    assert state_of(problem.model) == before
    assert all(len(scores) == 3 and all(map(math.isfinite, scores)) for scores in found)
    assert len(set(found)) > 1 or measure == "score"  # random rows: all may be as wrong
    again = KernelProposal(width=256, measure=measure).fit(toy_problem(name), 2.0)
    assert [again(one).fold_scores for one in selections] == found
    assert 0 < problem.meter.spent <= 2.0 and problem.meter.seconds > 0


@pytest.mark.parametrize("name", ["gpt2-causal", "t5-generation", "llama-causal"])
def test_a_model_without_a_head_is_seen_through_its_loss(name):
    problem = toy_problem(name)
    before = state_of(problem.model)
    predict = KernelProposal(width=512).fit(problem, 2.0)
    scores = [predict([block]).score for block in problem.blocks]
    assert all(map(math.isfinite, scores)) and len(set(scores)) == len(scores)
    assert predict([]).score == 0.0
    assert state_of(problem.model) == before


def test_numbers_are_regressed():
    problem = toy_problem("vit", numbers=True)
    rows = looked_at(problem)
    assert labels_at(problem, rows).is_floating_point()
    predict = KernelProposal(width=256).fit(problem, 2.0)
    assert math.isfinite(predict(problem.blocks[:1]).score)


@pytest.mark.parametrize("name", ["resnet", "bert"])
@pytest.mark.parametrize("calls", [1, 3, 6])
def test_an_error_inside_leaves_the_model_alone(name, calls):
    problem = breaking(toy_problem(name, eval_batch_size=8), calls if name == "resnet" else min(calls, 5))
    unsettle(problem.model)
    before = state_of(problem.model)
    with pytest.raises(Broken):
        KernelProposal(width=256).fit(problem, 2.0)
    assert state_of(problem.model) == before


@pytest.mark.parametrize("budget", [0.15, 0.3, 0.6])
@pytest.mark.parametrize("name", ["resnet", "bert"])
def test_no_more_is_spent_than_allowed(name, budget):
    problem = toy_problem(name, rows=60)
    predict = KernelProposal(width=256).fit(problem, budget)
    predict(problem.blocks)
    assert budget / 3 < problem.meter.spent <= budget


def test_fewer_rows_are_looked_at_where_there_are_many():
    problem = toy_problem("vit", rows=60, max_rows=30)
    rows = looked_at(problem)
    assert len(rows) == 30 and len(rows.folds) == 3
    for (train, validation), fold in zip(rows.folds, problem.folds, strict=True):
        assert {rows.numbers[place] for place in train} <= set(fold.train)
        assert {rows.numbers[place] for place in validation} <= set(fold.validation)
    KernelProposal(width=64).fit(problem, 2.0)
    assert problem.meter.units == pytest.approx(30 * (1 + 1 + len(TOYS["vit"].build().classifier.weight)), rel=0.5)


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="explained"):
        KernelProposal(measure="best")


@pytest.mark.parametrize("name", ["resnet", "bert"])
def test_no_label_touches_the_kernels(name):
    problem = toy_problem(name)
    shuffled = replace(problem, labels=problem.labels[::-1])
    assert shuffled.labels != problem.labels
    one, other = (KernelProposal(width=256).fit(each, 2.0).kernels for each in (problem, shuffled))
    pairs = list(zip(one.blocks, other.blocks, strict=True))
    assert all(torch.equal(*pair) for pair in pairs)
    assert all(torch.equal(one.heads[place], other.heads[place]) for place in one.heads)
