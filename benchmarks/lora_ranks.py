"""
How much rank does LoRA need, beside SubTuning's chosen blocks?

    python benchmarks/lora_ranks.py --bench BENCH --output-dir benchmarks/results/lora_ranks

True LoRA (PEFT, in every linear layer and convolution) of all blocks, and of the chosen blocks only, for each rank; two
learning rates on one shared fold, then three seeds on all rows. The blocks are those that the default search chose in
`benchmarks/comparisons.py` with the same rows (`--comparisons`), and SubTuning's, FT's accuracies are taken from there.
Every finished training is a line in `runs.jsonl`: give the same command again after a stop.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
import transformers

from subtuning_hf.compare import Run, RunLog, run_all
from subtuning_hf.compare.lora import LoRA
from subtuning_hf.search.folds import make_folds

sys.path.insert(0, str(Path(__file__).parent / "proxies"))
from comparisons import SETTINGS, read
from settings import NUM_FOLDS, load

from subtuning_hf.plots import save_figure

RANKS = (1, 4, 16, 64)
FACTORS = (1.0, 4.0)  # of the setting's learning rate
NAMES = ("contrast-300", "trec6-100")


def study(options: argparse.Namespace, name: str) -> dict[str, Any]:
    """One setting: test accuracies by place and rank."""
    setting, folder = SETTINGS[name], options.output_dir / name
    chosen = tuple(compared(options.comparisons, name)["SubTuning"]["blocks"])
    task = load(setting, options.bench, 0)
    fold = make_folds(len(task.train), NUM_FOLDS, 0, labels=list(task.train["label"]))[0]
    log, found = RunLog(folder / "runs.jsonl"), {}
    for where, blocks in (("all blocks", None), ("chosen blocks", chosen)):
        for rank in RANKS:
            method = LoRA(blocks=blocks)
            tried = [{"learning_rate": factor * setting.learning_rate, "rank": rank} for factor in FACTORS]
            trials = [out["score"] or 0.0 for out in run_all(task, [Run(method, one, 0, fold) for one in tried], log)]
            best = tried[max(range(len(tried)), key=trials.__getitem__)]
            final = run_all(task, [Run(method, best, seed) for seed in range(options.num_seeds)], log)
            test = [out["score"] for out in final]
            found[f"{where}, rank {rank}"] = {
                "settings": best,
                "test": test,
                "trains": final[0]["trainable_parameters"],
            }
            print(f"{name} {where} rank {rank}: {100 * statistics.fmean(test):.1f} %", flush=True)
    (folder / "found.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def compared(comparisons: Path, name: str) -> dict[str, dict[str, Any]]:
    """What the comparison of a setting says now, by method."""
    return {
        row["method"]: row | {"test": row["scores"], "trains": row["trainable_parameters"]}
        for row in read(comparisons)[name, 0]
    }


def known(folder: Path, comparisons: Path) -> dict[str, dict[str, Any]]:
    """All ways by setting: those of this study, and beside them those of the comparison."""
    found = {}
    for file in sorted(folder.glob("*/found.json")):
        beside = compared(comparisons, file.parent.name)
        ours = json.loads(file.read_text(encoding="utf-8"))
        found[file.parent.name] = ours | {name: beside[name] for name in ("SubTuning", "FT", "LoRA")}
    return found


def report(settings: dict[str, dict[str, Any]]) -> str:
    """The tables as Markdown."""
    lines = [
        "# Rank of LoRA",
        "",
        "Written by `benchmarks/lora_ranks.py`: test accuracy in percent, mean ± standard deviation over three seeds "
        "(`SubTuning`, `FT` and `LoRA` of the comparison, with the rank tried like a rate: five seeds, six trials).",
    ]
    for name, found in settings.items():
        lines += ["", f"## {name}", "", "| way | test | trains |", "|---|---|---|"]
        for way, one in found.items():
            spread = f"{100 * statistics.fmean(one['test']):.1f} ± {100 * statistics.stdev(one['test']):.1f}"
            lines.append(f"| {way} | {spread} | {one['trains']:,} |")
    return "\n".join(lines) + "\n"


def draw(settings: dict[str, dict[str, Any]], folder: Path) -> None:
    """Accuracy against trainable parameters."""
    count = len(settings)
    figure, panels = plt.subplots(1, count, figsize=(5 * count, 3.8), layout="constrained", squeeze=False)
    for axes, (name, found) in zip(panels[0], settings.items(), strict=True):
        for where, color in (("all blocks", "tab:orange"), ("chosen blocks", "tab:green")):
            ones = [one for way, one in found.items() if way.startswith(where)]
            means = [100 * statistics.fmean(one["test"]) for one in ones]
            spread = [100 * statistics.stdev(one["test"]) for one in ones]
            axes.errorbar(
                [one["trains"] for one in ones], means, spread, marker="o", color=color, label=f"LoRA, {where}"
            )
        for way, color, marker in (("SubTuning", "tab:blue", "*"), ("FT", "0.35", "s")):
            one = found[way]
            mean, spread = 100 * statistics.fmean(one["test"]), 100 * statistics.stdev(one["test"])
            axes.errorbar([one["trains"]], [mean], [spread], marker=marker, markersize=10, color=color, label=way)
        axes.set_xscale("log")
        axes.set_xlabel("trainable parameters")
        axes.set_ylabel("test accuracy, %")
        axes.set_title(name, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    panels[0][0].legend(fontsize=8, frameon=False)
    save_figure(figure, folder / "lora_ranks")
    plt.close(figure)


def main() -> None:
    """What is not there yet, the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, help="folder with models/ and datasets/")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--comparisons", type=Path, default=Path("benchmarks/results/comparisons"))
    parser.add_argument("--settings", nargs="*", default=list(NAMES), choices=list(SETTINGS))
    parser.add_argument("--num-seeds", type=int, default=3)
    parser.add_argument("--report", action="store_true", help="train nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    if not options.report:
        if options.bench is None:
            parser.error("--bench is needed, but for --report")
        for name in options.settings:
            study(options, name)
    settings = known(options.output_dir, options.comparisons)
    text = report(settings)
    (options.output_dir / "lora_ranks.md").write_text(text, encoding="utf-8")
    draw(settings, options.output_dir)
    print(text)


if __name__ == "__main__":
    main()
