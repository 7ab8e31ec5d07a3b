"""
What exact searches would have chosen with another epsilon or fewer folds, and what every added block gained.

    python benchmarks/sensitivity.py --results benchmarks/results

Nothing is trained: the decisions are those of the package, replayed over the journals of the exact searches, which hold
one round more than was needed. What they do not hold is said so.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from subtuning_hf.search.greedy import replay
from subtuning_hf.search.journal import read_study
from subtuning_hf.search.records import SearchSpec

sys.path.insert(0, str(Path(__file__).parent / "proxies"))
from problems import Truth, read_truth
from settings import SETTINGS

from report import in_short

MOST = 3
EPSILONS = (0.0, 0.005, 0.01, 0.02, 0.05)


def truths(folder: Path, greedy: bool) -> Iterator[tuple[str, Path, Truth]]:
    """Settings whose profile is there; with `greedy` those whose search went on."""
    for setting in SETTINGS.values():
        for seed in (0, 1):
            truth = read_truth(folder, setting, seed)
            if truth is not None and truth.has_profile and (setting.greedy or not greedy):
                yield f"{setting.name}, seed {seed}", folder / f"{setting.name}_seed-{seed}" / "journal", truth


def points(value: float) -> str:
    """A share in percent."""
    return f"{100 * value:.1f}"


# --- epsilon ---------------------------------------------------------------------------------
def epsilon_table(folder: Path) -> list[str]:
    """What each stop rule ends at."""
    rules = [("one standard error", None), *((f"{100 * one:g} points", one) for one in EPSILONS)]
    lines = [f"| setting | {' | '.join(name for name, _ in rules)} |", "|---|" + "---|" * len(rules)]
    for name, journal, truth in truths(folder, greedy=True):
        study, cells = read_study(journal), []
        for _, least in rules:
            state = replay(study.spec, SearchSpec(max_blocks=MOST, min_gain=least), study.evaluations)
            blocks = state.selection.blocks
            cells.append(f"{in_short(blocks)} ({points(truth.mean(blocks))})" if state.finished else "not trained")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def gain_table(folder: Path) -> list[str]:
    """Score of the best selection of each size along the greedy search, and what its last block gained."""
    lines = [
        f"| setting | head alone | {' | '.join(f'block {number}' for number in range(1, MOST + 1))} |",
        "|---|---|" + "---|" * MOST,
    ]
    for name, journal, truth in truths(folder, greedy=True):
        study, cells = read_study(journal), [points(truth.mean(()))]
        state = replay(study.spec, SearchSpec(max_blocks=MOST, min_gain=0.0), study.evaluations)
        before: tuple[str, ...] = ()
        for round_ in state.rounds:
            known = [one.blocks for one in round_.candidates if one.blocks in truth.scores]
            if not known or not known[0]:
                continue
            winner = round_.decision.winner if round_.decision else None
            # The round at which the search stopped has no winner, but a best one.
            best = winner.blocks if winner is not None and winner.blocks != before else max(known, key=truth.mean)
            gains = [100 * gain for gain in paired(truth, best, before)]
            error = statistics.stdev(gains) / math.sqrt(len(gains))
            added = in_short([one for one in best if one not in before])
            cells.append(f"+ {added}: {points(truth.mean(best))} ({statistics.fmean(gains):+.1f} ± {error:.1f})")
            before = best
        lines.append(f"| {name} | {' | '.join([*cells, *['not trained'] * (MOST + 1 - len(cells))])} |")
    return lines


def paired(truth: Truth, one: Sequence[str], other: Sequence[str]) -> list[float]:
    """Differences fold by fold."""
    return [a - b for a, b in zip(truth.scores[tuple(one)], truth.scores[tuple(other)], strict=True)]


# --- folds -----------------------------------------------------------------------------------
def folds_of(truth: Truth) -> dict[int, dict[str, Any]]:
    """
    Choosing the best block by some folds, judged by the others: agreement and score lost there.

    With all folds there are none left to judge by.
    """
    blocks = [(name,) for name in truth.blocks]
    number = len(truth.scores[blocks[0]])
    found: dict[int, dict[str, Any]] = {}
    for count in range(1, number):
        lost, same = [], []
        for chosen in combinations(range(number), count):
            others = [fold for fold in range(number) if fold not in chosen]

            def mean(one: tuple[str, ...], folds: Sequence[int]) -> float:
                return math.fsum(truth.scores[one][fold] for fold in folds) / len(folds)

            pick = max(reversed(blocks), key=lambda one: mean(one, chosen))
            lost.append(max(mean(one, others) for one in blocks) - mean(pick, others))
            same.append(truth.mean(pick) >= max(truth.mean(one) for one in blocks) - 1e-9)
        found[count] = {"lost": statistics.fmean(lost), "same": statistics.fmean(same)}
    return found


def fold_table(folder: Path) -> list[str]:
    """One line for each setting."""
    lines = [
        "| setting | 1 fold: best of all 3 | lost on the 2 others | 2 folds: best of all 3 | lost on the other |",
        "|---|---|---|---|---|",
    ]
    every = []
    for name, _, truth in truths(folder, greedy=False):
        one = folds_of(truth)
        every.append(one)
        lines.append(f"| {name} | {' | '.join(_cells(one))} |")
    mean = {
        count: {key: statistics.fmean(one[count][key] for one in every) for key in ("lost", "same")} for count in (1, 2)
    }
    return [*lines, f"| **mean** | {' | '.join(_cells(mean))} |"]


def _cells(found: dict[int, dict[str, Any]]) -> list[str]:
    return [text for count in (1, 2) for text in (f"{100 * found[count]['same']:.0f} %", points(found[count]["lost"]))]


def main() -> None:
    """Write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="folder of all results")
    options = parser.parse_args()
    truth, output = options.results / "proxies" / "truth", options.results / "sensitivity"
    text = "\n".join(
        [
            "# What epsilon, folds and every added block do",
            "",
            "Written by `benchmarks/sensitivity.py` from the exact searches in `benchmarks/results/proxies/truth` "
            "(3 folds, at most 3 blocks; nothing was trained for this). Accuracy by cross-validation, in percent.",
            "",
            "## Where the search stops, by stop rule",
            "",
            *epsilon_table(truth),
            "",
            "## What every added block gained",
            "",
            "Paired over folds, ± one standard error. The best of many candidates is chosen by these very folds, so "
            "gains are flattered.",
            "",
            *gain_table(truth),
            "",
            "## Fewer folds",
            "",
            "The best single block by some folds only: how often it is the best of all three, and what it loses, on "
            "folds that did not choose it, against the block that is best there (which chance flatters).",
            "",
            *fold_table(truth),
            "",
        ]
    )
    output.mkdir(parents=True, exist_ok=True)
    (output / "sensitivity.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
