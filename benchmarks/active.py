"""
Active learning on real data: does asking for labels help, and whom most?

    python benchmarks/active.py --bench BENCH --output-dir benchmarks/results/active
    python benchmarks/active.py --output-dir benchmarks/results/active --report

ResNet-20 of CIFAR-10 on 20 classes of CIFAR-100. The pool is 1,500 training rows drawn by the seed; each method starts
from the same 100 random ones. In every round blocks and hyperparameters (five trials, scored on two of three folds) are
chosen anew on all labelled rows, and the model starts from its pretrained weights. The linear probe and the full
fine-tune ask by margin, entropy and chance, SubTuning by coreset and BADGE too.
Finished rounds are on disk: give the same command again after a stop. `--report` writes `active.md` and the picture
from what is there. `--bench` is a folder with `models/` and `datasets/`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from subtuning_hf.compare import ACQUISITIONS, active_learning, difference
from subtuning_hf.compare.method import format_settings

sys.path.insert(0, str(Path(__file__).parent / "proxies"))
from settings import Setting, load

SETTING = Setting("cifar100-20", "resnet20", "cifar100", 1500, 8, 32, 4e-3, 600, classes=20)
FEW = ("margin", "entropy", "random")
ASKED = {"LP": FEW, "FT": FEW, "SubTuning": ACQUISITIONS}
COLOURS = {"LP": "probe", "FT": "full", "SubTuning": "chosen"}
ONE_METHOD = {"margin": "#0072b2", "random": "#6b7280", "entropy": "#009e73", "coreset": "#c2410c", "badge": "#a0508a"}
STYLES = {
    "margin": "-",
    "random": (0, (4, 2)),
    "entropy": (0, (1, 1.5)),
    "coreset": "-.",
    "badge": (0, (6, 1, 1, 1, 1, 1)),
}
MARKS = {"margin": "o", "random": "s", "entropy": "^", "coreset": "D", "badge": "v"}


def run(options: argparse.Namespace, seed: int) -> None:
    """All methods from one draw of rows."""
    started, task = time.process_time(), load(SETTING, options.bench, seed)
    rounds: list[dict[str, Any]] = []
    for name, acquisitions in ASKED.items():
        rounds += active_learning(
            task,
            [name],
            acquisitions,
            options.budgets,
            learning_rate=SETTING.learning_rate,
            num_refinements=1,
            tuning_folds=2,
            choose_each_round=True,
            seed=seed,
            output_dir=options.output_dir,
            search_arguments={"num_threads": 1, "disable_tqdm": True, "max_blocks": 3},
            say=lambda text: print(f"  {text}", flush=True),
        ).rounds
    done = {"seed": seed, "rounds": rounds}
    (options.output_dir / f"seed-{seed}.json").write_text(json.dumps(done) + "\n", encoding="utf-8")
    print(f"seed {seed}: {time.process_time() - started:.0f} s of CPU", flush=True)


# --- report ----------------------------------------------------------------------------------
Curves = dict[tuple[str, str], dict[int, list[dict[str, Any]]]]


def curves_of(studies: Sequence[dict[str, Any]]) -> Curves:
    """Rounds by method and acquisition, then by budget, one for each seed."""
    curves: Curves = {}
    for study in studies:
        for one in study["rounds"]:
            curves.setdefault((one["method"], one["acquisition"]), {}).setdefault(one["budget"], []).append(one)
    return curves


def spread(values: Sequence[float]) -> float:
    """Sample standard deviation, 0 for a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def in_points(values: Sequence[float]) -> str:
    """Mean in percent, and the spread of several."""
    more = f" ± {100 * spread(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.fmean(values):.1f}{more}"


def counted(studies: Sequence[dict[str, Any]]) -> str:
    """How many seeds."""
    return f"{len(studies)} seed{'s' if len(studies) != 1 else ''}"


def report(studies: Sequence[dict[str, Any]]) -> str:
    """The tables as Markdown."""
    curves = curves_of(studies)
    budgets = sorted(next(iter(curves.values())))
    seeds = counted(studies)
    head = "| method | acquisition | " + " | ".join(f"{budget:,} rows" for budget in budgets) + " |"
    lines = [
        "# Active learning",
        "",
        "Written by `python benchmarks/active.py --bench BENCH --output-dir benchmarks/results/active`. "
        f"ResNet-20 of CIFAR-10 on the first 20 classes of CIFAR-100: a pool of {SETTING.rows:,} training rows, "
        f"{SETTING.test_rows} test rows, {SETTING.epochs} epochs in each round from the pretrained weights. "
        f"Test accuracy in percent, mean and standard deviation over {seeds}, each with its own pool, "
        "first rows and new head. The first rows are the same for all. In every round blocks and hyperparameters are "
        "chosen anew on the labelled rows: five trials for each method, scored on two of three folds.",
        "",
        head,
        "|---|---|" + "---|" * len(budgets),
    ]
    for (method, acquisition), by_budget in curves.items():
        cells = [in_points([one["score"] for one in by_budget[budget]]) for budget in budgets]
        lines.append(f"| {method} | {acquisition} | " + " | ".join(cells) + " |")
    lines += ["", "## Against random rows, and against other methods", "", *differences(curves, budgets)]
    lines += ["", "## What was chosen, with random rows", ""]
    lines += ["| seed | method | rows | blocks | hyperparameters |", "|---" * 5 + "|"]
    for study in studies:
        for one in study["rounds"]:
            if one["acquisition"] == "random":
                blocks = "all" if one["blocks"] is None else ", ".join(one["blocks"]) or "none"
                line = [study["seed"], one["method"], one["budget"], blocks, format_settings(one["settings"])]
                lines.append(f"| {' | '.join(map(str, line))} |")
    return "\n".join(lines)


def differences(curves: Curves, budgets: Sequence[int]) -> list[str]:
    """Acquisitions against random rows, and SubTuning against the other methods."""
    lines = ["Points, ± the standard error, which counts test rows and seeds.", ""]
    lines.append("| difference | " + " | ".join(f"{budget:,} rows" for budget in budgets) + " |")
    lines.append("|---|" + "---|" * len(budgets))
    pairs = [((m, a), (m, "random")) for m, a in curves if a != "random"]
    pairs += [(("SubTuning", a), (other, a)) for a in FEW for other in ("LP", "FT")]
    for ours, theirs in pairs:
        cells = []
        for budget in budgets:
            if ours[0] == theirs[0] and budget == budgets[0]:
                cells.append("same")
                continue
            found = difference(curves[ours][budget], curves[theirs][budget])
            cells.append(f"{100 * found.mean:+.1f} ± {100 * (found.error or 0):.1f}")
        lines.append(f"| {', '.join(ours)} less {', '.join(theirs)} | " + " | ".join(cells) + " |")
    return lines


def curve(axes: Any, by_budget: dict[int, list[dict[str, Any]]], acquisition: str, colour: str, label: str) -> None:
    """One line of means with its band."""
    budgets = sorted(by_budget)
    scores = [[100 * one["score"] for one in by_budget[budget]] for budget in budgets]
    means, bands = np.array([statistics.fmean(one) for one in scores]), np.array([spread(one) for one in scores])
    style, mark = STYLES[acquisition], MARKS[acquisition]
    axes.plot(budgets, means, color=colour, linestyle=style, marker=mark, markersize=4.5, label=label)
    axes.fill_between(budgets, means - bands, means + bands, color=colour, alpha=0.10, linewidth=0)


def picture(studies: Sequence[dict[str, Any]]) -> Any:
    """Accuracy against labelled rows: methods side by side, and all acquisitions of SubTuning."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from subtuning_hf.plots.style import WIDTH, theme_of

    theme, curves = theme_of("light"), curves_of(studies)
    figure = Figure(figsize=(WIDTH, 4.2), facecolor=theme.ground, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    shown = {
        left: [(m, a) for m, a in curves if a in ("margin", "random")],
        right: [(m, a) for m, a in curves if m == "SubTuning"],
    }
    for axes, pairs in shown.items():
        for pair in pairs:
            colour = getattr(theme, COLOURS[pair[0]]) if axes is left else ONE_METHOD[pair[1]]
            curve(axes, curves[pair], pair[1], colour, ", ".join(pair) if axes is left else pair[1])
        budgets = sorted(curves[pairs[0]])
        axes.set_xscale("log")
        axes.set_xticks(budgets, [f"{budget:,}" for budget in budgets])
        axes.minorticks_off()
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(axis="y", color=theme.grid, linewidth=0.8)
        axes.tick_params(colors=theme.muted, length=0, labelsize=9)
        axes.set_xlabel("labelled rows", color=theme.muted, fontsize=9)
        axes.legend(frameon=False, fontsize=8, labelcolor=theme.text, handlelength=3.6)
    left.set_ylabel("test accuracy, %", color=theme.muted, fontsize=9)
    left.set_title("Methods", color=theme.text, fontsize=10.5, loc="left")
    right.set_title("Acquisitions of SubTuning", color=theme.text, fontsize=10.5, loc="left")
    words = f"Active learning, 20 classes of CIFAR-100. Band: standard deviation of {counted(studies)}"
    figure.suptitle(words, color=theme.text, fontsize=11, x=0.01, ha="left")
    return figure


def write(folder: Path) -> None:
    """Table and picture from what is there."""
    from subtuning_hf.plots import save_figure

    studies = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("seed-*.json"))]
    text = report(studies)
    (folder / "active.md").write_text(text + "\n\n![Accuracy against labelled rows](active.png)\n", encoding="utf-8")
    save_figure(picture(studies), folder / "active")
    print(text)


def main() -> None:
    """Seeds that are not there yet, then the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, help="folder with models/ and datasets/")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--budgets", type=int, nargs="*", default=[100, 200, 400])
    parser.add_argument("--report", action="store_true", help="write the table from what is there, train nothing")
    options = parser.parse_args()
    if not options.report:
        if options.bench is None:
            parser.error("--bench is needed, but for --report")
        torch.set_num_threads(1)
        transformers.logging.set_verbosity_error()
        for seed in options.seeds:
            run(options, seed)
    write(options.output_dir)


if __name__ == "__main__":
    main()
