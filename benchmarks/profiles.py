"""
Finetuning profiles over models, tasks and pretrainings, and what two and three blocks bring.

    python benchmarks/profiles.py --bench BENCH --output-dir benchmarks/results/profiles
    python benchmarks/profiles.py --output-dir benchmarks/results/profiles --report

Read from exact studies that are there already (`results/proxies/truth`: each block alone, two draws of rows;
`results/searches`: runs of two and three blocks and all pairs too). Only the profile of MobileNetV2 is trained here:
its journal is in `--output-dir`, give the same command again after a stop. `--report` trains nothing. Writes
`profiles.md` and two pictures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from subtuning_hf.search.journal import Study, read_study
from subtuning_hf.search.profile import Profile, ProfileRow, complete_repeats, profile_of
from subtuning_hf.search.scores import paired_gain
from subtuning_hf.search.space import pairs, windows

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "proxies"))
import comparisons
from settings import SETTINGS, Setting, load
from truth import folder_of, make_trainer

RESULTS = Path(__file__).parent / "results"
HERE = comparisons.SETTINGS["mobilenet-digits-200"]
PRETRAINED = {
    "resnet20": "ResNet-20, CIFAR-10",
    "resnet32": "ResNet-32, CIFAR-10",
    "mobilenet": "MobileNetV2, ImageNet",
    "minilm": "MiniLM, text",
}
WIDTHS = ("contrast", "noise", "trec6")
NUM_COLUMNS = 3


# --- what is there ---------------------------------------------------------------------------
def single_blocks(folder: Path) -> dict[str, tuple[Setting, list[Profile]]]:
    """By setting, a profile for each draw of rows."""
    found: dict[str, tuple[Setting, list[Profile]]] = {}
    for setting, place in [*((one, RESULTS / "proxies" / "truth") for one in SETTINGS.values()), (HERE, folder)]:
        folders = [folder_of(place, setting, seed) / "journal" for seed in (0, 1)]
        studies = [read_study(one) for one in folders if one.exists()]
        profiles = [profile_of(study.spec, study.evaluations) for study in studies]
        if whole := [one for one in profiles if not one.missing and one.head_only is not None]:
            found[setting.name] = (setting, whole)
    order = list(PRETRAINED)
    return dict(sorted(found.items(), key=lambda item: order.index(item[1][0].model)))


def best_of(profile: Profile) -> ProfileRow:
    """The row of the highest score; of equal ones the earliest."""
    return max(profile.rows, key=lambda row: row.mean)


def short(name: str) -> str:
    """A block without what all of a model begin with."""
    return name.removeprefix("bert.encoder.").removeprefix("timm_model.")


def in_points(value: float, error: float | None, sign: bool = False) -> str:
    """Percent, with the standard error."""
    return f"{100 * value:{'+' if sign else ''}.1f}" + ("" if error is None else f" ± {100 * error:.1f}")


# --- report ----------------------------------------------------------------------------------
def report(singles: dict[str, tuple[Setting, list[Profile]]], studies: dict[str, Study]) -> str:
    """The tables as Markdown."""
    return "\n".join(
        [
            "# Finetuning profiles",
            "",
            "Written by `python benchmarks/profiles.py --bench BENCH --output-dir benchmarks/results/profiles` from "
            "the journals of exact studies.",
            "",
            "## Each block alone",
            "",
            "Accuracy in percent by three folds of the training rows, ± the standard error over folds; a line for each "
            "draw of rows. `gain` is that over the head alone on the same folds. The best of many blocks is flattered "
            "by having been picked by the same folds.",
            "",
            *single_table(singles),
            "",
            "![Finetuning profiles](profiles.png)",
            "",
            "## Two and three blocks",
            "",
            "The best selection of each kind, by the same folds; `over the best block` is the paired difference. Pairs "
            "are all pairs; the more selections a kind has, the more its best one is flattered. One learning rate and "
            "few epochs for all kinds: a higher rate than several blocks want (`contrast`, `noise`), or fewer steps "
            "than one block needs (`trec6`), so that these are less the worth of blocks than how fast they learn.",
            "",
            *width_table(studies),
            "",
            "![Runs of one, two and three blocks](widths.png)",
            "",
        ]
    )


def single_table(singles: dict[str, tuple[Setting, list[Profile]]]) -> list[str]:
    lines = ["| setting | pretrained | draw | head alone | best block | its place | accuracy | gain | worst block |"]
    lines.append("|---" * 9 + "|")
    for name, (setting, profiles) in singles.items():
        for draw, profile in enumerate(profiles):
            assert profile.head_only is not None
            best = best_of(profile)
            place = f"{profile.rows.index(best) + 1} of {len(profile.rows)}"
            worst = min(profile.rows, key=lambda row: row.mean)
            lines.append(
                f"| {name} | {PRETRAINED[setting.model]} | {draw} | {in_points(profile.head_only.mean, None)} "
                f"| {short(best.label)} | {place} | {in_points(best.mean, best.standard_error)} "
                f"| {in_points(best.gain or 0.0, best.gain_standard_error, sign=True)} "
                f"| {short(worst.label)} {in_points(worst.mean, None)} |"
            )
    return lines


def kinds_of(study: Study) -> dict[str, Profile]:
    """Profiles of the kinds of selections that were trained in full."""
    names = [block.name for block in study.spec.blocks]
    asked = {"one block": windows(names), "two in a row": windows(names, 2), "three in a row": windows(names, 3)}
    asked["pairs"] = pairs(names)
    found = {kind: profile_of(study.spec, study.evaluations, candidates) for kind, candidates in asked.items()}
    return {kind: profile for kind, profile in found.items() if not profile.missing}


def width_table(studies: dict[str, Study]) -> list[str]:
    lines = ["| study | selections | number | best | accuracy | over the best block |", "|---" * 6 + "|"]
    for name, study in studies.items():
        kinds, whole = kinds_of(study), complete_repeats(study.spec, study.evaluations)
        first = best_of(kinds["one block"])
        for kind, profile in kinds.items():
            best = best_of(profile)
            gap = ""
            if kind != "one block":
                gap = in_points(*paired_gain(whole[first.candidate][0], whole[best.candidate][0]), sign=True)
            blocks = ", ".join(short(block) for block in best.candidate.blocks)
            score = in_points(best.mean, best.standard_error)
            lines.append(f"| {name} | {kind} | {len(profile.rows)} | {blocks} | {score} | {gap} |")
    return lines


# --- pictures --------------------------------------------------------------------------------
def panels(count: int, height: float, theme: Any) -> tuple[Any, list[Any]]:
    """A page-wide picture with so many axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from subtuning_hf.plots.style import WIDTH

    rows = -(-count // NUM_COLUMNS)
    figure = Figure(figsize=(WIDTH, height * rows + 0.5), facecolor=theme.ground, layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = list(figure.subplots(rows, NUM_COLUMNS, squeeze=False).flat)
    for axes in all_axes:
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(axis="y", color=theme.grid, linewidth=0.8)
        axes.tick_params(colors=theme.muted, length=0, labelsize=8)
    for axes in all_axes[count:]:
        axes.set_visible(False)
    return figure, all_axes[:count]


def curve(axes: Any, places: Sequence[float], profile: Profile, **looks: Any) -> None:
    """Scores with a band of one standard error."""
    means = np.array([100 * row.mean for row in profile.rows])
    errors = np.array([100 * (row.standard_error or 0.0) for row in profile.rows])
    axes.plot(places, means, linewidth=1.6, markersize=3.5, **looks)
    axes.fill_between(places, means - errors, means + errors, color=looks["color"], alpha=0.15, linewidth=0)


def profiles_picture(singles: dict[str, tuple[Setting, list[Profile]]]) -> Any:
    """A panel for each setting, a line for each draw of rows."""
    from subtuning_hf.plots.style import theme_of

    theme = theme_of("light")
    figure, all_axes = panels(len(singles), 1.95, theme)
    for axes, (name, (setting, profiles)) in zip(all_axes, singles.items(), strict=True):
        for draw, profile in enumerate(profiles):
            color, style = ((theme.chosen, "o-"), (theme.best, "s--"))[draw]
            places = range(1, len(profile.rows) + 1)
            curve(axes, places, profile, color=color, linestyle=style[1:], marker=style[0])
            assert profile.head_only is not None
            axes.axhline(100 * profile.head_only.mean, color=color, linewidth=0.9, linestyle=":")
        count = len(profiles[0].rows)
        step = -(-count // 10)
        axes.set_xticks(range(1, count + 1, step))
        axes.set_title(f"{name}\n{PRETRAINED[setting.model]}", color=theme.text, fontsize=8.5, loc="left")
    figure.supylabel("accuracy by cross-validation, %", color=theme.muted, fontsize=9)
    figure.supxlabel("the block that is tuned, from input to output", color=theme.muted, fontsize=9)
    words = "Finetuning profiles. A line for each draw of rows, band: standard error; dotted: the head alone"
    figure.suptitle(words, color=theme.text, fontsize=10.5, x=0.01, ha="left")
    return figure


def widths_picture(studies: dict[str, Study]) -> Any:
    """A panel for each study, a line for each number of blocks in a row."""
    from subtuning_hf.plots.style import theme_of

    theme = theme_of("light")
    figure, all_axes = panels(len(studies), 2.6, theme)
    looks = {
        "one block": {"color": theme.chosen, "marker": "o", "linestyle": "-"},
        "two in a row": {"color": "#009e73", "marker": "s", "linestyle": "--"},
        "three in a row": {"color": "#a0508a", "marker": "^", "linestyle": "-."},
    }
    for axes, (name, study) in zip(all_axes, studies.items(), strict=True):
        kinds = kinds_of(study)
        for width, (kind, look) in enumerate(looks.items()):
            if kind in kinds:
                places = [1 + place + width / 2 for place in range(len(kinds[kind].rows))]
                curve(axes, places, kinds[kind], label=kind, **look)
        head, best = kinds["one block"].head_only, best_of(kinds["pairs"])
        assert head is not None
        axes.axhline(100 * head.mean, color=theme.muted, linewidth=0.9, linestyle=":", label="head alone")
        axes.axhline(100 * best.mean, color=theme.best, linewidth=0.9, linestyle="-", label="best pair")
        axes.set_xticks(range(1, len(study.spec.blocks) + 1))
        axes.set_title(name, color=theme.text, fontsize=9, loc="left")
    all_axes[0].set_ylabel("accuracy by cross-validation, %", color=theme.muted, fontsize=9)
    all_axes[len(all_axes) // 2].set_xlabel("middle of the blocks that are tuned", color=theme.muted, fontsize=9)
    handles, labels = all_axes[0].get_legend_handles_labels()
    place = {"loc": "outside lower center", "ncols": len(labels)}
    figure.legend(handles, labels, frameon=False, fontsize=8, labelcolor=theme.text, **place)
    words = "One, two and three blocks in a row. Band: standard error over folds"
    figure.suptitle(words, color=theme.text, fontsize=10.5, x=0.01, ha="left")
    return figure


def write(folder: Path) -> None:
    """Tables and pictures from what is there."""
    from subtuning_hf.plots import save_figure

    singles = single_blocks(folder)
    studies = {name: read_study(RESULTS / "searches" / name / "block" / "journal") for name in WIDTHS}
    text = report(singles, studies)
    (folder / "profiles.md").write_text(text, encoding="utf-8")
    save_figure(profiles_picture(singles), folder / "profiles")
    save_figure(widths_picture(studies), folder / "widths")
    print(text)


def main() -> None:
    """The profile that is not there yet, then the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, help="folder with models/ and datasets/")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0], help="draws of MobileNetV2's rows")
    parser.add_argument("--report", action="store_true", help="write the tables from what is there, train nothing")
    options = parser.parse_args()
    if not options.report:
        if options.bench is None:
            parser.error("--bench is needed, but for --report")
        torch.set_num_threads(1)
        transformers.logging.set_verbosity_error()
        for seed in options.seeds:
            task = load(HERE, options.bench, seed)
            make_trainer(HERE, task, folder_of(options.output_dir, HERE, seed), seed).profile()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    write(options.output_dir)


if __name__ == "__main__":
    main()
