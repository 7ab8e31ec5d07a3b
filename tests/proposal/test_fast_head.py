"""Heads fitted in closed form or nearly so."""

import pytest
import torch

from subtuning_hf.proposal.fast_head import RIDGES, fit_head, fit_linear


def clusters(rows=120, dim=6, classes=3, spread=0.5, seed=0):
    """Features around one centre per class, on very different scales."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % classes
    centres = 2 * torch.randn(classes, dim, generator=generator)
    features = centres[labels] + spread * torch.randn(rows, dim, generator=generator)
    return features, labels


def standardised(x):
    return (x - x.mean(0)) / x.std(0, unbiased=False)


def test_nothing_is_left_to_gain():
    features, labels = clusters(spread=2.0)
    weight, bias = fit_head(features, labels, 3, ridge=0.1)
    x = standardised(features)
    inner = (weight * features.std(0, unbiased=False)).requires_grad_(True)
    offset = (bias + weight @ features.mean(0)).requires_grad_(True)
    loss = torch.nn.functional.cross_entropy(x @ inner.T + offset, labels) + 0.05 * inner.pow(2).sum()
    loss.backward()
    assert inner.grad.abs().max() < 1e-3 and offset.grad.abs().max() < 1e-3


def test_classes_are_told_apart_on_new_rows():
    features, labels = clusters(rows=240)
    weight, bias = fit_head(features[:120], labels[:120], 3)
    right = ((features[120:] @ weight.T + bias).argmax(-1) == labels[120:]).float().mean()
    assert right > 0.95


def test_scale_and_place_of_features_do_not_matter():
    features, labels = clusters(spread=2.0)
    scale, place = torch.tensor([0.01, 0.1, 0.5, 1.0, 2.0, 5.0]), torch.arange(6.0)
    moved = features * scale + place
    first, second = fit_head(features, labels, 3), fit_head(moved, labels, 3)
    one, other = features @ first[0].T + first[1], moved @ second[0].T + second[1]
    assert torch.allclose(one, other, atol=2e-2)
    assert one.std() > 0.5


def test_stronger_ridge_gives_smaller_weights():
    features, labels = clusters(spread=2.0)
    sizes = [fit_head(features, labels, 3, ridge)[0].norm() for ridge in (1e-3, 1e-1, 10.0)]
    assert sizes[0] > sizes[1] > sizes[2]


def test_chosen_ridge_is_one_of_the_grid_and_fits_the_noise():
    generator = torch.Generator().manual_seed(1)
    noise, labels = torch.randn(60, 40, generator=generator), torch.arange(60) % 2
    chosen = fit_head(noise, labels, 2, ridge=None)
    grid = [fit_head(noise, labels, 2, ridge) for ridge in RIDGES]
    assert torch.equal(chosen[0], grid[-1][0])  # there is nothing to learn
    clear, labels = clusters(spread=0.1)
    assert torch.equal(fit_head(clear, labels, 3, ridge=None)[0], fit_head(clear, labels, 3, RIDGES[0])[0])


def test_awkward_features():
    features, labels = clusters()
    features = torch.cat([features, torch.full((120, 1), 5.0)], 1)  # one that never varies
    weight, bias = fit_head(features, labels, 5)  # two classes never occur
    assert weight.shape == (5, 7) and torch.isfinite(weight).all() and torch.isfinite(bias).all()
    assert int((features @ weight.T + bias).argmax(-1).max()) <= 2
    weight, _ = fit_head(torch.zeros(10, 3), torch.arange(10) % 2, 2)
    assert torch.isfinite(weight).all()


@pytest.mark.parametrize("dim", [5, 80])  # fewer and more than rows: two ways to the same solution
def test_linear_is_ridge_regression(dim):
    generator = torch.Generator().manual_seed(0)
    features, targets = torch.randn(40, dim, generator=generator) * 3 + 1, torch.randn(40, generator=generator)
    weight, bias = fit_linear(features, targets, ridge=0.1)
    x = standardised(features).double()
    gram = x.T @ x + 0.1 * 40 * torch.eye(dim, dtype=torch.double)
    wanted = torch.linalg.solve(gram, x.T @ (targets - targets.mean()).double()) / features.std(0, unbiased=False)
    assert weight.shape == (1, dim) and torch.allclose(weight[0].double(), wanted, atol=1e-4)
    assert torch.allclose((features @ weight.T + bias).mean(), targets.mean(), atol=1e-4)


def test_gradients_switched_off_outside_do_not_matter():
    features, labels = clusters()
    expected = fit_head(features, labels, 3)
    with torch.no_grad():
        found = fit_head(features, labels, 3)
    assert torch.equal(found[0], expected[0]) and not found[0].requires_grad


def test_a_fit_may_start_from_a_head():
    """The distance from it is penalised: heavily, nothing changes; without need, nothing is lost by starting."""
    generator = torch.Generator().manual_seed(0)
    features, head = torch.randn(200, 6, generator=generator), torch.randn(3, 6, generator=generator)
    labels = (features @ head.T).argmax(1)
    start = (head, torch.zeros(3))
    kept, _ = fit_head(features, labels, 3, ridge=1e6, start=start)
    assert torch.allclose(kept, head, atol=1e-4)
    anew, _ = fit_head(features, labels, 3, ridge=1e6)
    assert float(anew.abs().max()) < 1e-4
    light = [fit_head(features, labels, 3, ridge=1e-4, start=one) for one in (None, start)]
    hits = [float(((features @ weight.T + bias).argmax(1) == labels).float().mean()) for weight, bias in light]
    assert min(hits) > 0.97
