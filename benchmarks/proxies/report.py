"""
The table and the picture of how well cheap methods choose.

    python benchmarks/proxies/report.py --results benchmarks/results/proxies --output-dir docs

Reads the exact studies, `predictions.jsonl` and `choices.jsonl`; trains nothing. A method is judged on single blocks by
Spearman's rank correlation with the exact profile, by whether its first choice (or one of its first three) is the best
block, and by its regret: the exact score lost by trusting its first choice. `leave one out` is the mean regret over
settings of the method that is best on the other settings: what it costs to choose the method by such a table.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from subtuning_hf.plots.style import save_figure
from subtuning_hf.search.pruners import student_t_quantile
from subtuning_hf.search.specs import STRATEGIES
from subtuning_hf.search.tables import text_table

sys.path.insert(0, str(Path(__file__).parent))
from problems import Truth, agreement, read_truth
from settings import SETTINGS

Key = tuple[str, int]
SECONDS = ("search_seconds", "full_fine_tune_seconds")
READING = """
A setting is a model, a data set, a number of rows and a seed, with an exact profile (every block alone, 3 folds) as the
truth. `Spearman` is the rank correlation with it; `best first` counts the settings in which the method's first choice
is the best block, `best in 3` those in which one of its first three is; `regret` is the exact score lost by trusting
the first choice, in points of accuracy, on the mean and at worst. `fine-tunes` is the arithmetic in full fine-tunes,
`seconds` the time as a share of a full fine-tune in the same process (median)."""
CHOICES = """
Both selections trained on all rows with the same five seeds, test accuracy on rows that chose nothing; the difference
is paired, with its standard error over these seeds. The exact search is the greedy one where that was run
(`contrast-300`, `trec6-200`, `digits-300`; at most three blocks), else the best single block, beside which a search
that takes several has an advantage. `fine-tunes` and `seconds` are those of the whole search that predicts. The
first table is the default search: two rounds, and what is no more than two standard errors behind the best is tuned
with it. These rules were found on these very settings, so they may be flattered: the two rounds on their exact
profiles, the ties on the gaps that the search itself reports and on test scores of `noise-300`, which had been seen.
The [comparisons](evidence.md) mark the settings whose results made us look for the rule about ties; the others there
were first run after it. The error counts the five seeds alone, not other test rows (500 to 1,000 here). Seconds with
seed 0 were taken in turn with a full fine-tune, thrice, before ties were joined, which costs nothing; those with seed 1
once, beside other programs.
"""


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL file, none if it is not there."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def judged(results: Path) -> tuple[dict[Key, Truth], dict[str, dict[Key, Any]]]:
    """
    Every method on every setting.

    Args:
        results (`Path`): Folder of the study.

    Returns: `tuple`: the exact scores by (setting, seed); and by method and (setting, seed) its agreement with them,
    with `fine_tunes`, and `relative_seconds` as a share of a full fine-tune timed in the same process.
    """
    truths: dict[Key, Truth] = {}
    methods: dict[str, dict[Key, Any]] = {}
    for line in lines_of(results / "predictions.jsonl"):
        key = (line["setting"], line["seed"])
        if key not in truths:
            truth = read_truth(results / "truth", SETTINGS[key[0]], key[1])
            if truth is None or not truth.has_profile:
                continue
            truths[key] = truth
        truth = truths[key]
        scores = {(block,): score for block, score in zip(truth.blocks, line["blocks"], strict=True)}
        found = agreement(truth, scores)
        found.fine_tunes = line["fine_tunes"]
        found.relative_seconds = line["seconds"] / line["full_fine_tune_seconds"]
        methods.setdefault(line["method"], {})[key] = found
    return truths, methods


def mean(values: Iterable[float]) -> float:
    """Mean of those that are numbers; NaN if none is."""
    known = [value for value in values if not math.isnan(value)]
    return statistics.fmean(known) if known else math.nan


def method_table(truths: Mapping[Key, Truth], methods: Mapping[str, Mapping[Key, Any]]) -> str:
    """One row for each method, the least regret first, and last what any block loses on the mean."""

    def row(name: str) -> list[str]:
        found = list(methods[name].values())
        regrets = [100 * one.regret for one in found]
        return [
            name,
            str(len(found)),
            f"{mean(one.spearman for one in found):.2f}",
            f"{sum(one.top1 for one in found)} / {len(found)}",
            f"{sum(one.top3 for one in found)} / {len(found)}",
            f"{mean(regrets):.1f}",
            f"{max(regrets):.1f}",
            f"{mean(one.fine_tunes for one in found):.2f}",
            f"{statistics.median(one.relative_seconds for one in found):.2f}",
        ]

    order = sorted(methods, key=lambda name: mean(one.regret for one in methods[name].values()))
    heads = ["method", "settings", "Spearman", "best first", "best in 3", "regret", "worst", "fine-tunes", "seconds"]
    lost = [100 * lost_by_chance(truth) for truth in truths.values()]
    rows = [row(name) for name in order]
    if lost:
        rows.append(["any block", str(len(lost)), "", "", "", f"{mean(lost):.1f}", f"{max(lost):.1f}", "0.00", "0.00"])
    return text_table(heads, rows, left=1)


def lost_by_chance(truth: Truth) -> float:
    """Mean regret over all blocks."""
    singles = [truth.mean((block,)) for block in truth.blocks]
    return max(singles) - statistics.fmean(singles)


def setting_table(truths: Mapping[Key, Truth], methods: Mapping[str, Mapping[Key, Any]], names: Sequence[str]) -> str:
    """Spearman and regret of some methods on each setting, beside what chance would lose."""
    rows = []
    for key, truth in truths.items():
        singles = [truth.mean((block,)) for block in truth.blocks]
        shown = [f"{methods[name][key].spearman:.2f} / {100 * methods[name][key].regret:.1f}"
                 if key in methods.get(name, {}) else "" for name in names]  # fmt: skip
        chance = f"{100 * lost_by_chance(truth):.1f}"
        rows.append([f"{key[0]}, seed {key[1]}", f"{100 * max(singles):.1f}", chance, *shown])
    return text_table(["setting", "best", "chance loses", *names], rows, left=1)


def leave_one_out(methods: Mapping[str, Mapping[Key, Any]], keys: Sequence[Key]) -> tuple[float, dict[str, int]]:
    """Mean regret of the method that is best elsewhere, in points, and how often each method is that."""
    whole = {name: found for name, found in methods.items() if all(key in found for key in keys)}
    settings = sorted({name for name, _ in keys})
    regrets, picked = [], dict[str, int]()
    for setting in settings if whole else ():
        others = [key for key in keys if key[0] != setting]
        if not others:
            continue
        best = min(whole, key=lambda name: (mean(whole[name][key].regret for key in others), name))
        picked[best] = picked.get(best, 0) + 1
        regrets += [100 * whole[best][key].regret for key in keys if key[0] == setting]
    return mean(regrets), picked


def in_short(blocks: Sequence[str]) -> str:
    """Names without what all of a model's begin with."""
    return ", ".join(name.removeprefix("bert.encoder.") for name in blocks) or "head only"


def with_times(choices: Sequence[Any], times: Sequence[Any]) -> list[Any]:
    """Choices with the seconds that were taken for themselves, where they were."""
    key = ("setting", "seed", "strategy")
    taken = {tuple(line[name] for name in key): line for line in times}
    return [
        {**line, **{name: taken.get(tuple(line[name] for name in key), line)[name] for name in SECONDS}}
        for line in choices
    ]


def choice_table(choices: Sequence[Mapping[str, Any]]) -> str:
    """Test accuracy of both searches' selections, and what the search cost."""
    rows, differences, ratios, highest = [], [], [], []
    for one in choices:
        paired = [100 * (a - b) for a, b in zip(one["test"], one["exact_test"], strict=True)]
        error = statistics.stdev(paired) / math.sqrt(len(paired)) if len(paired) > 1 else math.nan
        ratio = [a / b for a, b in zip(one["search_seconds"], one["full_fine_tune_seconds"], strict=True)]
        differences.append(statistics.fmean(paired))
        highest.append(differences[-1] + student_t_quantile(0.975, len(paired) - 1) * error)
        ratios.append(statistics.median(ratio))
        same = one["chosen"] == one["exact"]
        rows.append(
            [
                f"{one['setting']}, seed {one['seed']}",
                in_short(one["chosen"]),
                "the same" if same else in_short(one["exact"]),
                f"{100 * statistics.fmean(one['test']):.1f}",
                f"{100 * statistics.fmean(one['exact_test']):.1f}",
                f"{statistics.fmean(paired):+.1f} ± {error:.1f}",
                f"{one['fine_tunes']:.2f}",
                f"{statistics.median(ratio):.2f}",
            ]
        )
    heads = ["setting", "chosen", "exact", "test", "exact", "difference", "fine-tunes", "seconds"]
    text = text_table(heads, rows, left=3)
    if differences:
        error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan
        worst = min(range(len(differences)), key=differences.__getitem__)
        lowest = 2 * differences[worst] - highest[worst]
        text += (
            f"\n\nMean difference over {len(differences)} settings: {statistics.fmean(differences):+.2f} ± {error:.2f} "
            f"points; worst {min(differences):+.1f} (95 % interval over seeds {lowest:+.1f} to {highest[worst]:+.1f}). "
            f"Blocks, mean: {statistics.fmean(len(one['chosen']) for one in choices):.1f}. "
            f"Seconds: median {statistics.median(ratios):.2f} of a full fine-tune (lowest {min(ratios):.2f}, "
            f"highest {max(ratios):.2f})."
        )
    return text


def beside(points: Sequence[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Points with their names, one line of names where points lie so close that two would overlap."""
    groups: list[list[tuple[float, float, str]]] = []
    for point in sorted(points, key=lambda one: (round(one[0] / 0.05), one[1])):
        last = groups[-1][-1] if groups else None
        if last is not None and abs(point[0] - last[0]) < 0.05 and abs(point[1] - last[1]) < 0.5:
            groups[-1].append(point)
        else:
            groups.append([point])
    return [
        (max(p[0] for p in group), statistics.fmean(p[1] for p in group), ", ".join(p[2] for p in group))
        for group in groups
    ]


def draw(methods: Mapping[str, Mapping[Key, Any]], path: Path) -> None:
    """Mean regret against price."""
    import matplotlib.pyplot as plt

    from subtuning_hf.plots.ticks import label_points

    figure, axes = plt.subplots(figsize=(7.5, 4.8), layout="constrained")
    points: list[tuple[float, float, str]] = []
    for name, found in methods.items():
        price = mean(one.fine_tunes for one in found.values())
        regret = mean(100 * one.regret for one in found.values())
        points.append((price, regret, name))
        axes.plot(price, regret, "o", color="tab:blue", markersize=5)
    axes.set_xlabel("price, full fine-tunes")
    axes.set_ylabel("regret of the first choice, points of accuracy")
    axes.set_ylim(bottom=-0.5)
    axes.set_xlim(-0.03, None)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    figure.canvas.draw()  # the layout, and with it the room around each point, stands
    named = beside(points)
    places, names = [point[:2] for point in named], [point[2] for point in named]
    dots = [point[:2] for point in points]
    label_points(axes, places, names, ["black"] * len(names), around=dots, fontsize=8)
    save_figure(figure, path)
    plt.close(figure)


def main() -> None:
    """Write `proxies.md` and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--output-dir", type=Path, required=True)
    options = parser.parse_args()
    truths, methods = judged(options.results)
    methods = {name: found for name, found in methods.items() if 2 * len(found) >= len(truths)}  # others: not run yet
    choices = with_times(lines_of(options.results / "choices.jsonl"), lines_of(options.results / "times.jsonl"))
    default = [one for one in choices if one["strategy"] == STRATEGIES[1]]
    names = dict.fromkeys(one["strategy"] for one in choices if one["strategy"] != STRATEGIES[1])
    others = [
        f"### {name}\n\n```\n{choice_table([one for one in choices if one['strategy'] == name])}\n```\n"
        for name in names
    ]
    rates = options.results / "rates.md"
    keys = list(truths)
    regret, picked = leave_one_out(methods, keys)
    leading = ["short profile, two rounds", "short profile 0.5", "swap 0.5", "one-shot 0.5", "kernel", "statistics"]
    leading = [name for name in leading if name in methods]
    how = ", ".join(f"{name} {count} times" for name, count in picked.items())
    text = "\n".join(
        [
            "# How well do cheap methods choose blocks?",
            "\nWritten by `benchmarks/proxies/report.py` from the journals in `benchmarks/results/proxies`.",
            READING,
            f"\n## Single blocks, {len(keys)} exact profiles\n\n```\n{method_table(truths, methods)}\n```",
            "\n![Regret of the first choice against the price of each method](proxies.png)",
            f"\nLeave-one-out: a method picked by its regret on all other settings loses {regret:.1f} points on the "
            f"one left out, on the mean (picked, out of {len(keys)}: {how}).",
            f"\n## Setting by setting: Spearman / regret\n\n```\n{setting_table(truths, methods, leading)}\n```",
            f"\n## The search that predicts, against the exact one\n{CHOICES}\n```\n{choice_table(default)}\n```\n",
            *others,
            f"## Other learning rates\n\n{rates.read_text(encoding='utf-8')}" if rates.exists() else "",
        ]
    )
    options.output_dir.mkdir(parents=True, exist_ok=True)
    (options.output_dir / "proxies.md").write_text(text, encoding="utf-8")
    draw(methods, options.output_dir / "proxies")
    print(text)


if __name__ == "__main__":
    main()
