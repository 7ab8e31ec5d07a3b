"""
What Siamese and re-initialised blocks do to accuracy, against plain SubTuning of the same block.

    python benchmarks/siamese.py --bench BENCH --output-dir benchmarks/results/siamese

The block is the best single one of the exact profile in `benchmarks/results/proxies/truth`. It is trained on all
training rows with the arguments of the setting: as it is; with the frozen network's features beside the tuned ones
(Siamese); and from a fresh initialisation. Several seeds each, the same for all three, scored on test rows that chose
nothing. Every finished training is a line of `runs.jsonl`: give the same command again after a stop.

Source: SubTuning, arXiv 2302.06354, first version.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import get_peft_model
from torch import nn

from subtuning_hf import SubTuningConfig
from subtuning_hf.compare import BlockMethod, Difference, RunLog, Task, difference, repeat
from subtuning_hf.plots.style import finish, new_figure, save_figure, theme_of
from subtuning_hf.search.journal import read_study
from subtuning_hf.search.profile import profile_of

sys.path.insert(0, str(Path(__file__).parent / "proxies"))
from settings import SETTINGS, Setting, load
from truth import folder_of

CHOSEN = ("contrast-300", "cifar100-600", "trec6-200")
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "Siamese": {"siamese": True},
    "re-initialised": {"init_blocks": "random"},
}
WIDEST = 8.0  # points that the picture shows on either side
Found = dict[str, tuple[str, dict[str, list[dict[str, Any]]]]]  # setting to block and runs by variant


@dataclass(frozen=True)
class Variant(BlockMethod):
    """
    Trains blocks with further fields of [`SubTuningConfig`].

    Args:
        config (`dict`): The fields.
    """

    config: dict[str, Any] = field(default_factory=dict)

    def key(self) -> dict[str, Any]:
        return {**super().key(), **self.config}

    def prepare(self, model: nn.Module, settings: dict[str, Any], task: Task, rows: Any) -> nn.Module:
        return get_peft_model(model, SubTuningConfig(blocks=list(self.blocks or ()), **self.config))  # type: ignore[arg-type]


def best_block(truth: Path, setting: Setting, seed: int) -> str:
    """The best single block of an exact profile."""
    study = read_study(folder_of(truth, setting, seed) / "journal")
    profile = profile_of(study.spec, study.evaluations)
    assert not profile.missing
    (block,) = max(profile.rows, key=lambda row: row.mean).candidate.blocks
    return block


def measure(setting: Setting, task: Task, block: str, seeds: int, log: RunLog) -> dict[str, list[dict[str, Any]]]:
    """The runs of each variant of one setting."""
    settings, runs = {"learning_rate": setting.learning_rate}, {}
    for variant, config in VARIANTS.items():
        runs[variant] = repeat(task, Variant(variant, (block,), config=config), settings, range(seeds), log)
        print(f"{setting.name:14} {block:24} {variant:16} {100 * runs[variant][-1]['score']:.2f} %", flush=True)
    return runs


def row(name: str, variant: str, runs: dict[str, list[dict[str, Any]]]) -> str:
    """A line of the table."""
    mine = runs[variant]
    scores = [100 * run["score"] for run in mine]
    spread = f"{statistics.fmean(scores):6.2f} ± {statistics.stdev(scores):4.2f}"
    gap = "" if variant == "plain" else told(difference(mine, runs["plain"]))
    return f"{name:14} {variant:16} {spread}  {gap:26} {mine[0]['trainable_parameters']:>9,}"


def told(gap: Difference) -> str:
    """A difference in points, with its standard errors: in all, over seeds and over test rows."""
    errors = [f"{100 * (one or 0):.2f}" for one in (gap.error, gap.over_seeds, gap.over_rows)]
    return f"{100 * gap.mean:+6.2f} ± {errors[0]} ({errors[1]}, {errors[2]})"


def table(found: Found, options: argparse.Namespace) -> str:
    """The report."""
    count = len(next(iter(found.values()))[1]["plain"])
    head = f"{'':14} {'':16} {'test %':>13}  {'points over plain':26} {'trained':>9}"
    blocks = ", ".join(f"{name}: `{block}`" for name, (block, _) in found.items())
    lines = [
        "# Siamese and re-initialised blocks\n",
        f"    python benchmarks/siamese.py --bench BENCH --output-dir {options.output_dir} --seeds {count}\n",
        "Best single block of the exact profile of seed 0:",
        f"{blocks}. Test accuracy, mean ± standard deviation of",
        f"{count} seeds (0 ... {count - 1}; rows of seed 0). Differences are paired by seed and test",
        "row: ± standard error in all (over seeds, over test rows). All have the arguments of the setting, tuned for",
        "none of them: a re-initialised block may want more epochs.\n",
        "```",
        head,
    ]
    lines += [row(name, variant, runs) for name, (_, runs) in found.items() for variant in VARIANTS]
    return "\n".join([*lines, "```"]) + "\n"


def picture(found: Found, path: Path) -> None:
    """Paired differences of every seed, and their mean with two standard errors."""
    theme = theme_of("light")
    variants = [variant for variant in VARIANTS if variant != "plain"]
    figure, axes = new_figure(0.42 * len(found) * len(variants) + 0.3, theme, "x")
    names, place = [], 0.0
    for name, (_, runs) in found.items():
        for variant in variants:
            gap = difference(runs[variant], runs["plain"])
            seeds = [100 * (a["score"] - b["score"]) for a, b in zip(runs[variant], runs["plain"], strict=True)]
            if 100 * gap.mean < -WIDEST:
                far = f"◄ {100 * gap.mean:.1f} ± {200 * (gap.error or 0):.1f}, off this scale"
                axes.text(-WIDEST, place, far, color=theme.chosen, fontsize=9, va="center")
            else:
                axes.scatter(seeds, [place + 0.22] * len(seeds), s=16, color=theme.bar, zorder=2)
                axes.errorbar(
                    100 * gap.mean, place, xerr=200 * (gap.error or 0), fmt="D", markersize=5, color=theme.chosen,
                    capsize=3, linewidth=1.4, zorder=3,
                )  # fmt: skip
            names.append((place, f"{name}: {variant}"))
            place += 1
        place += 0.5
    axes.axvline(0, color=theme.muted, linewidth=1)
    axes.set_yticks([where for where, _ in names], [words for _, words in names])
    axes.set_xlim(-WIDEST, WIDEST)
    axes.invert_yaxis()
    axes.set_xlabel("points of test accuracy over plain SubTuning of the same block", color=theme.muted, fontsize=9)
    count = len(next(iter(found.values()))[1]["plain"])
    title, below = "Siamese and re-initialised blocks", f"dots: {count} seeds; diamonds: mean and two standard errors"
    save_figure(finish(figure, axes, theme, title, below), path)


def main() -> None:
    """Everything that is not there yet, then table and picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, required=True, help="folder with models/ and datasets/")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--truth", type=Path, default=Path("benchmarks/results/proxies/truth"))
    parser.add_argument("--settings", nargs="*", default=list(CHOSEN), choices=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=5, help="at least 2")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    log = RunLog(options.output_dir / "runs.jsonl")
    settings = [SETTINGS[name] for name in options.settings]
    tasks = {one.name: (load(one, options.bench, 0), best_block(options.truth, one, 0)) for one in settings}
    found: Found = {}
    for seeds in range(1, options.seeds + 1):  # seed by seed, so that what is there is of all settings
        for one in settings:
            task, block = tasks[one.name]
            found[one.name] = block, measure(one, task, block, seeds, log)
        if seeds > 1:
            (options.output_dir / "siamese.md").write_text(table(found, options), encoding="utf-8")
            picture(found, options.output_dir / "siamese.png")
    print(table(found, options))


if __name__ == "__main__":
    main()
