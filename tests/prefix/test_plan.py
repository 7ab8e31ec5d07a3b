"""The plan against brute force."""

import random
from itertools import chain, combinations

import pytest

from subtuning_hf.errors import ArgumentsError
from subtuning_hf.prefix import plan_cuts


def saving(cuts, shares, uses):
    """Computing saved by all passes, each of which starts at the greatest stored cut that it may."""
    return sum(
        count * sum(shares[: max((cut for cut in cuts if cut <= first), default=0)]) for first, count in enumerate(uses)
    )


def every_plan(blocks):
    return chain.from_iterable(combinations(range(1, blocks + 1), size) for size in range(blocks + 1))


def best_saving(shares, sizes, uses, rows, budget):
    return max(
        saving(cuts, shares, uses)
        for cuts in every_plan(len(shares))
        if sum(sizes[cut] * rows for cut in cuts) <= budget
    )


@pytest.mark.parametrize("seed", range(150))
def test_equals_brute_force(seed):
    rng = random.Random(seed)
    blocks = rng.randint(1, 8)
    shares = [rng.choice([0, 1, 1, 2, 5]) for _ in range(blocks)]
    sizes = [0, *(rng.choice([1, 2, 3, 7, 10]) for _ in range(blocks))]
    uses = [rng.choice([0, 0, 1, 3, 9]) for _ in range(blocks + 1)]
    rows, budget = rng.randint(1, 4), rng.randint(0, 60)
    cuts = plan_cuts(shares, sizes, uses, rows, budget)
    assert cuts == tuple(sorted(set(cuts))) and 0 not in cuts
    assert sum(sizes[cut] * rows for cut in cuts) <= budget
    assert saving(cuts, shares, uses) == best_saving(shares, sizes, uses, rows, budget)
    for cut in cuts:  # none is there for nothing
        assert saving(tuple(set(cuts) - {cut}), shares, uses) < saving(cuts, shares, uses)


def test_all_cuts_fit_a_large_budget_and_none_an_empty_one():
    shares, sizes = [0.25] * 4, [0, 8, 8, 8, 8]
    assert plan_cuts(shares, sizes, [1] * 5, 10, 1e9) == (1, 2, 3, 4)
    assert plan_cuts(shares, sizes, [1] * 5, 10, 79) == ()


def test_the_least_useful_go_first():
    shares, sizes, uses = [0.25] * 4, [0, 8, 8, 8, 8], [5, 5, 5, 5, 5]
    plans = [plan_cuts(shares, sizes, uses, 1, budget) for budget in (0, 8, 16, 24, 32)]
    assert [len(plan) for plan in plans] == [0, 1, 2, 3, 4]
    # 2 serves the passes at 2 and 3 and 4 with half the model each; 3 would leave out those at 2.
    assert plans[1] in ((2,), (3,)) and saving(plans[1], shares, uses) == 7.5


def test_cuts_that_nobody_uses_are_not_stored():
    assert plan_cuts([1, 1, 1], [0, 1, 1, 1], [9, 0, 4, 0], 1, 100) == (2,)
    assert plan_cuts([1, 1, 1], [0, 1, 1, 1], [9, 0, 0, 0], 1, 100) == ()
    assert plan_cuts([0, 0, 1], [0, 1, 1, 1], [0, 5, 5, 5], 1, 100) == (3,)


def test_ties_go_to_fewer_bytes_then_to_earlier_cuts():
    assert plan_cuts([1, 0], [0, 5, 3], [0, 0, 1], 1, 100) == (2,)
    assert plan_cuts([1, 0], [0, 3, 3], [0, 0, 1], 1, 100) == (1,)


def test_forty_blocks_of_many_sizes():
    rng = random.Random(0)
    shares = [rng.random() for _ in range(40)]
    sizes = [0, *(rng.choice([1, 2, 4, 8]) * 4096 for _ in range(40))]
    uses = [rng.randint(0, 100) for _ in range(41)]
    first = plan_cuts(shares, sizes, uses, 1000, 6e7)
    assert first and first == plan_cuts(shares, sizes, uses, 1000, 6e7)
    assert sum(sizes[cut] * 1000 for cut in first) <= 6e7


@pytest.mark.parametrize(
    "wrong", [([1, 1], [0, 1], [1, 1, 1], 1, 1), ([1], [0, 1], [1], 1, 1), ([-1], [0, 1], [1, 1], 1, 1)]
)
def test_wrong_numbers_are_refused(wrong):
    with pytest.raises(ArgumentsError, match="Expected"):
        plan_cuts(*wrong)
