"""
Channels taken out of tuned blocks before they are trained: accuracy against arithmetic and bytes of the adapter.

    python benchmarks/pruned.py --bench BENCH --output-dir benchmarks/results/pruned
    python benchmarks/pruned.py --output-dir benchmarks/results/pruned --report

For each setting of `proxies/settings.py` named here, two selections: the one that the exact search of seed 0 chose
(journals in `results/proxies/truth`), and the last stage. Each is trained whole and with a quarter, half and three
quarters of its inner channels taken out, by their L1 norms within each layer and over all layers, and half by L2;
seeds draw rows, head and the order of training. Every finished run is a line in `runs.jsonl`: give the same command
again after a stop. `--report` writes `pruned.md` and the picture from what is there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

import torch
import transformers
from peft import get_peft_model

from subtuning_hf import SubTuningConfig
from subtuning_hf.compare.training import TrainedMethod
from subtuning_hf.tuner.pruning import PruningReport, prune_blocks

sys.path.insert(0, str(Path(__file__).parent / "proxies"))
from choose import exact_choice
from settings import SETTINGS, Setting, load
from truth import folder_of

NAMES = ("contrast-300", "digits-300", "trec6-200")
LAST = {
    "resnet20": ("layer3.0", "layer3.1", "layer3.2"),
    "minilm": ("bert.encoder.layer.4", "bert.encoder.layer.5"),
}
RATIOS = (0.25, 0.5, 0.75)
# Share of the channels, ranked within what, by which norm.
WAYS = [(0.0, "local", "l1"), *((ratio, scope, "l1") for scope in ("local", "global") for ratio in RATIOS),
        (0.5, "local", "l2")]  # fmt: skip
# What says most comes first.
FIRST = [WAYS[0], WAYS[2], WAYS[3], WAYS[5], WAYS[6], WAYS[1], WAYS[4], WAYS[7]]
EXAMPLES = 8
TRUTH = Path(__file__).parent / "results" / "proxies" / "truth"


@dataclass
class Pruned(TrainedMethod):
    """
    Trains blocks that lost channels before.

    Args:
        blocks (`tuple[str, ...]`): Which.
        way (`tuple[float, str, str]`): Share of the channels, scope and norm; a share of 0 takes none.
    """

    blocks: tuple[str, ...]
    way: tuple[float, str, str] = WAYS[0]
    name: str = "pruned SubTuning"
    reports: list[PruningReport] = field(default_factory=list)

    def key(self) -> dict[str, Any]:
        return {"blocks": list(self.blocks), "way": list(self.way)}

    def prepare(self, model: nn.Module, settings: Any, task: Any, rows: Any) -> nn.Module:
        model = get_peft_model(model, SubTuningConfig(blocks=list(self.blocks)))
        ratio, scope, norm = self.way
        if ratio:
            some = task.to_learn(rows)
            batch = task.data_collator([some[i] for i in range(EXAMPLES)])
            inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
            self.reports.append(prune_blocks(model, inputs, ratio, norm, scope))
        return model


def selections(setting: Setting) -> dict[str, tuple[str, ...]]:
    """The blocks that are tuned, by how they were chosen."""
    best = exact_choice(folder_of(TRUTH, setting, 0), setting)
    if best is None:
        raise SystemExit(f"The exact search of {setting.name} is not finished: run proxies/truth.py first.")
    return {"best": tuple(sorted(best)), "last stage": LAST[setting.model]}


def runs_in(folder: Path) -> list[dict[str, Any]]:
    """Finished runs."""
    path = folder / "runs.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def run(options: argparse.Namespace) -> None:
    """Everything that is not there yet; each way for all settings and seeds before the next one."""
    done = {(one["setting"], one["selection"], one["seed"], tuple(one["way"])) for one in runs_in(options.output_dir)}
    options.output_dir.mkdir(parents=True, exist_ok=True)
    tasks: dict[tuple[str, int], Any] = {}
    for way, name, seed in product(sorted(WAYS, key=FIRST.index), options.settings, options.seeds):
        setting = SETTINGS[name]
        for selection, blocks in selections(setting).items():
            if (name, selection, seed, way) in done or repeats(way, blocks):
                continue
            if (name, seed) not in tasks:
                tasks[name, seed] = load(setting, options.bench, seed)
            line = {"setting": name, "selection": selection, "blocks": blocks, "seed": seed, "way": way}
            line |= run_one(tasks[name, seed], Pruned(blocks, way), setting, seed)
            with (options.output_dir / "runs.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(name, selection, seed, way, f"{100 * line['score']:.1f} %, {line['seconds']:.0f} s", flush=True)


def repeats(way: tuple[float, str, str], blocks: Sequence[str]) -> bool:
    """Whether a way takes what another one takes: a single block here has one layer whose channels can be ranked."""
    return way[1] == "global" and len(blocks) == 1


def run_one(task: Any, method: Pruned, setting: Setting, seed: int) -> dict[str, Any]:
    """One training, and what was pruned before it."""
    found = method.run(task, {"learning_rate": setting.learning_rate}, seed, task.train, task.test)
    line = {key: found[key] for key in ("score", "num_examples", "adapter_bytes", "seconds")}
    for report in method.reports:
        line |= {"flops": [flops // EXAMPLES for flops in report.flops]}
        line |= {"parameters": report.parameters, "file_bytes": report.adapter_bytes}
    return line


# --- report ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Row:
    """One way of pruning one selection: scores by seed, and what is left of arithmetic and bytes."""

    setting: str
    selection: str
    way: tuple[float, str, str]
    scores: dict[int, float]
    flops: float
    bytes: int
    share: float


def rows_of(runs: Sequence[dict[str, Any]]) -> Iterator[Row]:
    """Rows in the order of the table, of which at least one run and one pruned one beside it are there."""
    for name in NAMES:
        for selection in ("best", "last stage"):
            here = [one for one in runs if (one["setting"], one["selection"]) == (name, selection)]
            thin = [one for one in here if "flops" in one]
            for way in WAYS if thin else ():
                mine = [one for one in here if tuple(one["way"]) == way and not repeats(way, one["blocks"])]
                if mine:
                    # A way takes away the same by every seed; a new head's size is in both.
                    sizes = mine if way[0] else thin
                    flops = [one["flops"][bool(way[0])] / one["flops"][0] for one in sizes]
                    kept = [one["file_bytes"][bool(way[0])] for one in sizes]
                    share = [one["file_bytes"][bool(way[0])] / one["file_bytes"][0] for one in sizes]
                    scores = {one["seed"]: one["score"] for one in mine}
                    mean = statistics.fmean
                    yield Row(name, selection, way, scores, mean(flops), round(mean(kept)), mean(share))


def spread(values: Sequence[float]) -> float:
    """Sample standard deviation, 0 of a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def spread_of(values: Sequence[float]) -> str:
    """The same in words; nothing of a single value."""
    return f" ± {spread(values):.1f}" if len(values) > 1 else ""


def named(way: tuple[float, str, str]) -> str:
    """A way in words."""
    ratio, scope, norm = way
    return f"{ratio:.0%} {scope}, {norm.upper()}" if ratio else "none"


def report(runs: Sequence[dict[str, Any]]) -> str:
    """The table as Markdown."""
    rows = list(rows_of(runs))
    chosen = {(one["setting"], one["selection"]): ", ".join(one["blocks"]) for one in runs}
    seeds = sorted({one["seed"] for one in runs})
    lines = [
        "# Pruned blocks",
        "",
        "Written by `python benchmarks/pruned.py --report` from `runs.jsonl`. Inner channels of the tuned blocks are "
        "taken out in one shot before training, then blocks and head are trained as without (rows, epochs and rates of "
        "`proxies/settings.py`). `best`: chosen by the exact search of seed 0. Test accuracy in percent, mean and "
        f"standard deviation over seeds {', '.join(map(str, seeds))}, which draw rows, head and order; `less`: the "
        "difference to the same selection whole, paired by seed, with its standard deviation. FLOPs are those of the "
        "whole model for one example, relative to it with whole blocks; bytes those of the adapter's tensors.",
        "",
    ]
    for name in dict.fromkeys(row.setting for row in rows):
        lines += [f"## {name}", "", "| blocks | taken out | accuracy | less | FLOPs | adapter kB | of whole |",
                  "|---|---|---|---|---|---|---|"]  # fmt: skip
        for row in (row for row in rows if row.setting == name):
            whole = next(one for one in rows if (one.setting, one.selection) == (name, row.selection))
            both = sorted(row.scores.keys() & whole.scores.keys())
            less = [100 * (row.scores[seed] - whole.scores[seed]) for seed in both]
            scores = [100 * score for score in row.scores.values()]
            missing = "" if len(scores) == len(seeds) else f" ({len(scores)} of {len(seeds)} seeds)"
            first = f"{row.selection} ({chosen[name, row.selection]})" if row is whole else ""
            cells = [
                first,
                named(row.way),
                f"{statistics.fmean(scores):.1f}{spread_of(scores)}{missing}",
                "" if row is whole or not less else f"{statistics.fmean(less):+.1f}{spread_of(less)}",
                f"{row.flops:.3f}",
                f"{row.bytes / 1000:,.0f}",
                f"{row.share:.2f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def picture(runs: Sequence[dict[str, Any]]) -> Any:
    """Accuracy against bytes of the adapter and against FLOPs, by setting; of ways that all seeds have."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from subtuning_hf.plots.style import WIDTH, theme_of

    count = len({one["seed"] for one in runs})
    theme = theme_of("light")
    rows = [row for row in rows_of(runs) if row.way[2] == "l1" and len(row.scores) == count]
    shown = list(dict.fromkeys(row.setting for row in rows))
    figure = Figure(figsize=(WIDTH, 2.3 * len(shown) + 1.2), facecolor=theme.ground, layout="constrained")
    FigureCanvasAgg(figure)
    table = figure.subplots(len(shown), 2, sharey="row", squeeze=False)
    for line, name in zip(table, shown, strict=True):
        here = [row for row in rows if row.setting == name]
        for axes, measure in zip(line, ("bytes", "flops"), strict=True):
            draw(axes, here, measure, theme)
        line[0].set_ylabel("test accuracy, %", color=theme.muted, fontsize=9)
        line[0].set_title(name, color=theme.text, fontsize=10.5, loc="left")
    handles, labels = table[0][1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    words = f"Channels taken out before training. Bars: standard deviation of {count} seeds"
    figure.suptitle(words, color=theme.text, fontsize=11, x=0.01, ha="left")
    return figure


def draw(axes: Any, rows: Sequence[Row], measure: str, theme: Any) -> None:
    """One setting: a line from whole blocks, an open mark, to those that lost most."""
    for selection, colour in (("best", theme.chosen), ("last stage", theme.full)):
        mine = [row for row in rows if row.selection == selection]
        for scope, style, mark in (("local", "-", "o"), ("global", (0, (4, 2)), "s")):
            kept = [row for row in mine if row.way[1] == scope or not row.way[0]]
            kept.sort(key=lambda row: row.way[0])
            if len(kept) < 2:
                continue
            xs = [row.bytes / 1000 if measure == "bytes" else 100 * row.flops for row in kept]
            scores = [[100 * score for score in row.scores.values()] for row in kept]
            means = [statistics.fmean(one) for one in scores]
            axes.plot(xs, means, color=colour, linestyle=style, linewidth=1.3)
            bars = [spread(one) for one in scores]
            look: dict[str, Any] = {"color": colour, "linestyle": "none", "markersize": 5, "elinewidth": 0.8}
            whole = f"{selection}, whole" if scope == "local" else None
            axes.errorbar(xs[:1], means[:1], bars[:1], marker="o", markerfacecolor=theme.ground, label=whole, **look)
            axes.errorbar(xs[1:], means[1:], bars[1:], marker=mark, label=f"{selection}, {scope}", **look)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="y", color=theme.grid, linewidth=0.8)
    axes.tick_params(colors=theme.muted, length=0, labelsize=9)
    if measure == "bytes":
        axes.set_xscale("log")
        axes.minorticks_off()
        sizes = sorted({row.bytes / 1000 for row in rows})
        ticks = [
            one
            for one in (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000)
            if sizes[0] / 1.5 < one < 1.5 * sizes[-1]
        ]
        axes.set_xticks(ticks, [f"{one:,}" for one in ticks])
    words = "adapter, kB" if measure == "bytes" else "FLOPs of the whole model, % of those with whole blocks"
    axes.set_xlabel(words, color=theme.muted, fontsize=9)


def write(folder: Path) -> None:
    """Table and picture from what is there."""
    from subtuning_hf.plots import save_figure

    runs = runs_in(folder)
    (folder / "pruned.md").write_text(report(runs) + "\n![Accuracy by size and FLOPs](pruned.png)\n", encoding="utf-8")
    save_figure(picture(runs), folder / "pruned.png")


def main() -> None:
    """Run what is missing, or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, help="folder with models/ and datasets/")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--settings", nargs="*", default=list(NAMES), choices=list(NAMES))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--report", action="store_true", help="write table and picture from what is there")
    options = parser.parse_args()
    if not options.report:
        if options.bench is None:
            parser.error("--bench is needed to run")
        torch.set_num_threads(1)
        transformers.logging.set_verbosity_error()
        run(options)
    write(options.output_dir)


if __name__ == "__main__":
    main()
