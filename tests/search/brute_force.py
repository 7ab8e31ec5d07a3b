"""
All directions and pruners anew, in fractions over tables of counts: what the package must find, bit or no bit.

Shares no code with the package: candidates are texts like "ac", whose letters are the blocks in forward order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from fractions import Fraction
from itertools import combinations

from subtuning_hf.search.records import BlockInfo, Candidate, Evaluation, StudySpec

# One-sided quantiles of Student's t, from printed tables, by confidence and degrees of freedom.
STUDENT_T = {
    0.95: [None, "6.313752", "2.919986", "2.353363", "2.131847", "2.015048"],
    0.9: [None, "3.077684", "1.885618", "1.637744", "1.533206", "1.475884"],
}


def names_of(blocks: str) -> list[str]:
    return ["".join(names) for size in range(len(blocks) + 1) for names in combinations(blocks, size)]


class BruteForce:
    """
    The exact search.

    Args:
        counts: Right answers by budget, candidate and fold.
        sizes: Rows of each fold.
        parameters: Parameters of each block.
        min_gain, max_blocks, max_parameters: As in a SearchSpec.
        keep: Takes candidates, a key to break ties (greatest wins) and self; gives the survivors.
    """

    def __init__(
        self,
        counts: dict,
        sizes: tuple[int, ...],
        parameters: dict[str, int],
        min_gain: Fraction | None = None,
        max_blocks: int | None = None,
        max_parameters: int | None = None,
        keep: Callable = lambda pool, tie, self: pool,
    ) -> None:
        self.counts, self.sizes, self.parameters = counts, sizes, parameters
        self.blocks = "".join(parameters)
        self.min_gain, self.max_blocks, self.max_parameters, self.keep = min_gain, max_blocks, max_parameters, keep

    def mean(self, names: str, folds: Iterable[int] | None = None, budget: float = 1.0) -> Fraction:
        folds = range(len(self.sizes)) if folds is None else list(folds)
        return Fraction(sum(self.counts[budget][names][f] for f in folds), sum(self.sizes[f] for f in folds))

    def gain(self, old: str, new: str, folds: Iterable[int] | None = None) -> tuple[Fraction, Fraction | None]:
        """Gain and its squared standard error."""
        folds = list(range(len(self.sizes)) if folds is None else folds)
        rows = sum(self.sizes[f] for f in folds)
        gain = self.mean(new, folds) - self.mean(old, folds)
        if len(folds) == 1:
            return gain, None
        each = [Fraction(self.counts[1.0][new][f] - self.counts[1.0][old][f], self.sizes[f]) for f in folds]
        squares = sum(self.sizes[f] * (value - gain) ** 2 for f, value in zip(folds, each, strict=True))
        return gain, squares / rows / (len(folds) - 1)

    def worth_it(self, old: str, new: str) -> bool:
        gain, square = self.gain(old, new)
        if self.min_gain is not None:
            return gain >= self.min_gain
        return gain > 0 and (square is None or gain**2 > square)

    def over(self, names: str) -> bool:
        if self.max_blocks is not None and len(names) > self.max_blocks:
            return True
        return self.max_parameters is not None and self.size(names) > self.max_parameters

    def size(self, names: str) -> int:
        return sum(self.parameters[name] for name in names)

    def best(self, pool: list[str], tie: Callable) -> str:
        return max(self.keep(pool, tie, self), key=lambda names: (self.mean(names), tie(names)))

    def forward(self) -> list[str]:
        """The selections on the way, the head alone first."""
        path = [""]
        while len(path[-1]) < len(self.blocks):
            pool = ["".join(sorted(path[-1] + new)) for new in self.blocks if new not in path[-1]]
            pool = [names for names in pool if not self.over(names)]
            if not pool:
                break
            here = set(path[-1])
            best = self.best(pool, lambda names, here=here: self.blocks.index((set(names) - here).pop()))
            if not self.worth_it(path[-1], best):
                break
            path.append(best)
        return path

    def backward(self) -> list[str]:
        """The selections on the way, all blocks first."""
        path = [self.blocks]
        while path[-1]:
            here = path[-1]
            pool = [here.replace(gone, "") for gone in here]
            best = self.best(pool, lambda names, here=here: -here.index((set(here) - set(names)).pop()))
            if not self.over(here):
                allowed = [names for names in path if not self.over(names)]
                if self.worth_it(best, max(allowed, key=lambda names: (self.mean(names), -len(names)))):
                    break
            path.append(best)
        return path

    def both(self) -> str:
        forward, backward = self.forward()[-1], self.backward()[-1]
        return backward if self.worth_it(forward, backward) else forward

    def listed(self, pool: list[str]) -> str:
        pool = [names for names in pool if names and not self.over(names)]
        if not pool:
            return ""
        best = self.best(pool, lambda names: (-self.size(names), [self.blocks.index(name) for name in names]))
        return best if self.worth_it("", best) else ""


def race(confidence: float) -> Callable:
    quantiles = [value and Fraction(value) for value in STUDENT_T[confidence]]

    def keep(pool: list[str], tie: Callable, exact: BruteForce) -> list[str]:
        for last in range(1, len(exact.sizes) - 1):  # after the last fold nothing is left to be saved
            folds = range(last + 1)
            leader = max(pool, key=lambda names: (exact.mean(names, folds), tie(names)))
            survivors = []
            for names in pool:
                gap, square = exact.gain(names, leader, folds)
                if not (gap > 0 and gap**2 > quantiles[last] ** 2 * square):
                    survivors.append(names)
            pool = survivors
        return pool

    return keep


def halving(reduction: int, budgets: tuple[float, ...]) -> Callable:
    def keep(pool: list[str], tie: Callable, exact: BruteForce) -> list[str]:
        for budget in budgets:
            if len(pool) > 1:
                ranked = sorted(pool, key=lambda names: (exact.mean(names, None, budget), tie(names)), reverse=True)
                pool = ranked[: (len(pool) + reduction - 1) // reduction]
        return pool

    return keep


# --- tables ----------------------------------------------------------------------------------
def random_counts(seed: int, sizes: tuple[int, ...], blocks: str, budgets: tuple[float, ...] = ()) -> dict:
    """
    Counts in which blocks have worths of their own, with little noise and coarse, so that ties are common.

    With less budget everything is worse and noisier.
    """
    chance = random.Random(seed)
    worth = {name: chance.choice([-0.1, 0, 0, 0.1, 0.2, 0.3]) for name in blocks}
    noise = chance.choice([0, 1, 2])
    counts: dict = {}
    for budget in (*budgets, 1.0):
        counts[budget] = {}
        for names in names_of(blocks):
            share = 0.3 + sum(worth[name] for name in names) * budget**0.5
            right = [round(size * share) + chance.randint(-noise, noise) for size in sizes]
            counts[budget][names] = tuple(min(max(r, 0), size) for r, size in zip(right, sizes, strict=True))
    return counts


def study_of(parameters: dict[str, int], num_folds: int) -> StudySpec:
    infos = tuple(BlockInfo(name, size) for name, size in parameters.items())
    return StudySpec(infos, num_folds, "accuracy", True)


def evaluations_of(counts: dict, sizes: tuple[int, ...]) -> list[Evaluation]:
    return [
        Evaluation(Candidate(tuple(names)), fold, right / sizes[fold], sizes[fold], budget=budget)
        for budget, table in counts.items()
        for names, rights in table.items()
        for fold, right in enumerate(rights)
    ]
