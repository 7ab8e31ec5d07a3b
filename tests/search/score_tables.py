"""
Score tables: what every selection would score on every fold, as counts of right answers, and the exact greedy search.

The reference works with fractions, so it has neither rounding nor tolerance, and it shares no code with the package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from itertools import combinations

from subtuning_hf.search.greedy import SearchState, replay
from subtuning_hf.search.records import BlockInfo, Candidate, Evaluation, SearchSpec, StudySpec, Unit

Counts = Mapping[tuple[str, ...], tuple[int, ...]]


def make_spec(blocks: str = "abcd", num_folds: int = 1, **fields) -> StudySpec:
    infos = tuple(BlockInfo(name, 10 * (place + 1)) for place, name in enumerate(blocks))
    return StudySpec(infos, num_folds, **{"metric": "accuracy", "greater_is_better": True} | fields)


def subsets(blocks: str) -> Iterator[tuple[str, ...]]:
    for size in range(len(blocks) + 1):
        yield from combinations(blocks, size)


def evaluation(blocks: tuple[str, ...], fold: int, count: int, size: int, **fields) -> Evaluation:
    return Evaluation(Candidate(blocks), fold, count / size, size, **fields)


def all_evaluations(table: Counts, sizes: tuple[int, ...]) -> list[Evaluation]:
    return [
        evaluation(blocks, fold, count, sizes[fold])
        for blocks, counts in table.items()
        for fold, count in enumerate(counts)
    ]


def reference(
    table: Counts,
    sizes: tuple[int, ...],
    blocks: str = "abcd",
    min_gain: Fraction | None = None,
    max_blocks: int | None = None,
) -> list[str]:
    """The blocks in the order in which the exact greedy search adds them."""
    chosen: list[str] = []
    most = len(blocks) if max_blocks is None else max_blocks

    def selection(names: list[str]) -> tuple[str, ...]:
        return tuple(name for name in blocks if name in names)

    while len(chosen) < most and len(chosen) < len(blocks):
        old = table[selection(chosen)]
        best, most_right = "", -1
        for name in blocks:
            if name not in chosen:
                right = sum(table[selection([*chosen, name])])
                if right >= most_right:  # ties to the later block
                    best, most_right = name, right
        new = table[selection([*chosen, best])]
        gain = Fraction(sum(new) - sum(old), sum(sizes))
        if min_gain is not None:
            good = gain >= min_gain
        elif len(sizes) == 1:
            good = gain > 0
        else:
            gains = [Fraction(after - before, size) for before, after, size in zip(old, new, sizes, strict=True)]
            squares = sum(size * (each - gain) ** 2 for each, size in zip(gains, sizes, strict=True))
            good = gain > 0 and gain**2 > Fraction(squares, sum(sizes) * (len(sizes) - 1))
        if not good:
            break
        chosen.append(best)
    return chosen


def chosen_order(state: SearchState) -> list[str]:
    """The blocks in the order in which a replay added them."""
    order: list[str] = []
    for round_ in state.rounds:
        if round_.decision is not None and round_.decision.winner is not None:
            order += [name for name in round_.decision.winner.blocks if name not in order]
    return order


def drive(
    spec: StudySpec, search: SearchSpec, score: Callable[[Unit], Evaluation], pick: Callable = min
) -> tuple[SearchState, list[Evaluation]]:
    """Run a search as a trainer would, one pending evaluation at a time; `pick` chooses which."""
    done: list[Evaluation] = []
    while not (state := replay(spec, search, done)).finished:
        done.append(score(pick(state.pending, key=lambda unit: (unit.candidate.blocks, unit.fold))))
    return state, done
