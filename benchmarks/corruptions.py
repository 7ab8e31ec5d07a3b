"""
Which block wants tuning under which corruption: CIFAR-10 to CIFAR-10-C, 1,000 labelled images each.

    python benchmarks/corruptions.py --bench BENCH --output-dir benchmarks/results/corruptions
    python benchmarks/corruptions.py --output-dir benchmarks/results/corruptions --report

For each corruption at severity 5 (`cifar_corruptions.py`): accuracy of the untouched ResNet-20, the profile that the
default search predicts and what it chooses, and `compare` of the choice with other methods. Training and test rows are
drawn by `--seed` from CIFAR-10's test split, the same images for every corruption. Finished runs are on disk: give the
same command again after a stop. `--report` writes `corruptions.md` and the picture from what is there. `--bench` is a
folder with `models/` and `datasets/`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from cifar_corruptions import CORRUPTIONS, FAMILIES, corrupt
from datasets import Dataset, load_dataset
from PIL import Image

from subtuning_hf.cli.metrics import compute_metrics_with
from subtuning_hf.compare import METHODS, RunLog, Task, compare
from subtuning_hf.search.journal import read_study

sys.path.insert(0, str(Path(__file__).parent))
import cifar_resnet
from real_data import training_arguments

NUM_FOLDS, MAX_BLOCKS = 3, 3
LEARNING_RATE = 4e-3  # that of the other comparisons with this model


def draw(options: argparse.Namespace) -> tuple[Dataset, Dataset]:
    """Clean training and test rows: images of CIFAR-10's test split, no image in both."""
    rows = load_dataset(str(options.bench / "datasets" / "cifar10"), split="test").shuffle(seed=options.seed)
    train = rows.select(range(options.rows))
    return train, rows.select(range(len(rows) - options.test_rows, len(rows)))


def corrupted(rows: Dataset, name: str, seed: int) -> Dataset:
    """The same rows, corrupted."""
    clean = np.stack([np.asarray(image.convert("RGB")) for image in rows["image"]])
    images = [Image.fromarray(one) for one in corrupt(name, clean, seed)]
    return Dataset.from_dict({"image": images, "label": rows["label"]}, features=rows.features)


def task_of(options: argparse.Namespace, name: str, rows: tuple[Dataset, Dataset]) -> Task:
    """One corruption; the two splits have chance of their own."""
    model = cifar_resnet.load(options.bench / "models" / "cifar10_resnets_option_a", "resnet20")
    transform: Any = cifar_resnet.ToPixels(model.config)
    train, test = (corrupted(part, name, 2 * options.seed + place) for place, part in enumerate(rows))
    return Task(
        model=model,
        train=train,
        test=test,
        arguments=training_arguments(options.epochs, 32),
        compute_metrics=compute_metrics_with("accuracy"),
        train_transform=transform,
        eval_transform=transform,
        data_collator=cifar_resnet.collate,
    )


def run(options: argparse.Namespace, name: str, rows: tuple[Dataset, Dataset]) -> dict[str, Any]:
    """Everything about one corruption; what is on disk is not done again."""
    task, folder = task_of(options, name, rows), options.output_dir / name
    untouched = RunLog(folder / "untouched.jsonl").get_or_run(
        {"task": task.identity, "what": "untouched"},
        lambda: {"score": cifar_resnet.accuracy(task.model, task.test, task.eval_transform)},  # type: ignore[arg-type]
    )
    found = compare(
        task,
        options.methods,
        learning_rate=LEARNING_RATE,
        num_trials=options.trials,
        num_refinements=options.refinements,
        num_seeds=options.seeds_of_training,
        num_folds=NUM_FOLDS,
        seed=options.seed,
        output_dir=folder,
        search_arguments={"num_threads": 1, "disable_tqdm": True, "max_blocks": MAX_BLOCKS, "prefix_cache_gb": 2.0},
    )
    study = read_study(folder / "search-short-profile" / "journal")
    predicted = {one.candidate.blocks: one.score for one in study.proposals[0].predictions}
    names = [block.name for block in study.spec.blocks]
    methods = {row["method"]: row for row in found.rows}
    return {
        "corruption": name,
        "untouched": untouched["score"],
        "names": names,
        "predicted": [predicted[block,] for block in names],
        "head": predicted[()],
        "methods": methods,
    }


# --- report ----------------------------------------------------------------------------------
def report(study: dict[str, Any]) -> str:
    """The table as Markdown."""
    options, found = study["options"], study["corruptions"]
    trials = f"{options['trials']} trials and {options['refinements']} more beside the best one"
    lines = [
        "# Which block under which corruption",
        "",
        "Written by `python benchmarks/corruptions.py --bench BENCH --output-dir benchmarks/results/corruptions`. "
        "ResNet-20 of CIFAR-10, "
        f"severity 5, {options['rows']:,} labelled images to choose and train on and {options['test_rows']:,} others "
        f"to test, drawn by seed {options['seed']} from CIFAR-10's test split. The network was trained on CIFAR-10's "
        "training split and its checkpoint picked on that test split, so that untouched accuracy flatters it a little; "
        f"labels of corrupted images were never seen by it. {options['epochs']} epochs; {trials}, as in "
        "`subtuning compare`, on one fold. Accuracy in percent, mean and standard deviation of "
        f"{options['seeds_of_training']} trainings; `+` or `-`: above or below SubTuning by the 95 % interval of the "
        "paired difference, no sign: a tie; `=`: the same blocks. Frost is missing: it needs the photographs of the "
        "published program.",
        "",
        *table_of(found),
        "",
        *tally(found),
    ]
    costs = [one["methods"]["SubTuning"]["choosing"]["fine_tunes"] for one in found]
    words = f"A search costs {statistics.fmean(costs):.1f} full fine-tunes by count of arithmetic"
    lines += ["", f"{words}. `chosen` begins with the block that is predicted best."]
    return "\n".join(lines)


def table_of(found: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each corruption."""
    names = methods_of(found)
    lines = [f"| family | corruption | untouched | chosen | {' | '.join(names)} |", "|---" * (4 + len(names)) + "|"]
    for one in found:
        ours = one["methods"]["SubTuning"]
        cells = [cell(one["methods"][name], ours) for name in names]
        lines.append(
            f"| {family_of(one['corruption'])} | {one['corruption'].replace('_', ' ')} | {100 * one['untouched']:.1f} "
            f"| {', '.join(in_order(one)) or 'none'} | {' | '.join(cells)} |"
        )
    return lines


def methods_of(found: Sequence[dict[str, Any]]) -> list[str]:
    """What every corruption has, SubTuning first."""
    names = [name for name in METHODS if all(name in one["methods"] for one in found)]
    return sorted(names, key=lambda name: name != "SubTuning")


def cell(row: dict[str, Any], ours: dict[str, Any]) -> str:
    """Mean, spread and outcome."""
    sign = {"wins": "+", "loses": "-"}.get((row.get("against") or {}).get("outcome", ""), "")
    if row is not ours and row["blocks"] is not None and set(row["blocks"]) == set(ours["blocks"]):
        sign = "="
    spread = "" if row["spread"] is None else f" ± {100 * row['spread']:.1f}"
    return f"{100 * row['mean']:.1f}{spread}{sign}"


def in_order(one: dict[str, Any]) -> list[str]:
    """Chosen blocks, that first which is predicted best."""
    predicted = dict(zip(one["names"], one["predicted"], strict=True))
    return sorted(one["methods"]["SubTuning"]["blocks"], key=lambda block: -predicted[block])


def tally(found: Sequence[dict[str, Any]]) -> list[str]:
    """Against each method, over corruptions."""
    lines = ["| SubTuning against | wins | ties | loses | points, mean | lowest to highest |", "|---" * 6 + "|"]
    for name in methods_of(found)[1:]:
        rows = [one["methods"][name] for one in found]
        outcomes = [row["against"]["outcome"] for row in rows]
        gaps = [-100 * row["against"]["mean"] for row in rows]
        counts = [outcomes.count("loses"), outcomes.count("ties"), outcomes.count("wins")]
        lines.append(
            f"| {name} | {' | '.join(map(str, counts))} | {statistics.fmean(gaps):+.1f} "
            f"| {min(gaps):+.1f} to {max(gaps):+.1f} |"
        )
    return lines


def family_of(corruption: str) -> str:
    """Noise, blur, weather or digital."""
    return next(name for name, functions in FAMILIES.items() if CORRUPTIONS[corruption] in functions)


def picture(found: Sequence[dict[str, Any]]) -> Any:
    """Predicted profiles as a heat map, each less what is predicted for the head alone; chosen blocks marked."""
    from subtuning_hf.plots.style import colour_bar, finish, new_figure, theme_of

    theme = theme_of("light")
    names = found[0]["names"]
    table = np.array([np.array(one["predicted"]) - one["head"] for one in found])
    figure, axes = new_figure(0.3 * len(found), theme, grid="")
    axes.spines["bottom"].set_visible(False)
    edges = [np.arange(count + 1) - 0.5 for count in (len(names), len(found))]
    mesh = axes.pcolormesh(*edges, table, cmap=theme.scale, edgecolors=theme.ground, linewidth=1.0)
    axes.set_ylim(len(found) - 0.5, -0.5)
    for place, one in enumerate(found):
        for block in one["methods"]["SubTuning"]["blocks"]:
            axes.plot(names.index(block), place, "o", color=theme.best, markersize=7, markeredgecolor=theme.ground)
        if place and family_of(one["corruption"]) != family_of(found[place - 1]["corruption"]):
            axes.axhline(place - 0.5, color=theme.text, linewidth=1.2)
    axes.set_xticks(range(len(names)), names)
    rows = [f"{one['corruption'].replace('_', ' ')}  ({family_of(one['corruption'])})" for one in found]
    axes.set_yticks(range(len(found)), rows)
    axes.set_xlabel("block, from input to output", color=theme.muted, fontsize=9, labelpad=8)
    colour_bar(axes, mesh, theme, "predicted loss spared, head alone = 0", percent=False)
    words = "What the default search predicts for each block alone, ResNet-20. Dots: the blocks it chose."
    return finish(figure, axes, theme, "Which block under which corruption", words)


def write(folder: Path) -> None:
    """Table and picture from what is there."""
    from subtuning_hf.plots import save_figure

    study = json.loads((folder / "corruptions.json").read_text(encoding="utf-8"))
    text = report(study)
    (folder / "corruptions.md").write_text(text + "\n\n![Predicted profiles](corruptions.png)\n", encoding="utf-8")
    save_figure(picture(study["corruptions"]), folder / "corruptions")
    print(text)


def main() -> None:
    """Corruptions that are not there yet, then the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, help="folder with models/ and datasets/")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--corruptions", nargs="*", default=list(CORRUPTIONS), choices=list(CORRUPTIONS))
    parser.add_argument("--methods", nargs="*", default=["SubTuning", "FT"], choices=list(METHODS))
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--test-rows", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--refinements", type=int, default=1)
    parser.add_argument("--seeds-of-training", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="draws rows, folds and the search")
    parser.add_argument("--report", action="store_true", help="write the table from what is there, train nothing")
    options = parser.parse_args()
    if options.report:
        return write(options.output_dir)
    if options.bench is None:
        parser.error("--bench is needed, but for --report")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    rows, found = draw(options), list[dict[str, Any]]()
    kept = {name: value for name, value in vars(options).items() if name not in ("bench", "output_dir", "report")}
    for name in [name for name in CORRUPTIONS if name in options.corruptions]:
        found.append(run(options, name, rows))
        means = ", ".join(f"{key} {100 * row['mean']:.1f}" for key, row in found[-1]["methods"].items())
        print(f"{name}: {100 * found[-1]['untouched']:.1f}, {in_order(found[-1])}, {means}", flush=True)
        text = json.dumps({"options": kept, "corruptions": found}, indent=1)
        (options.output_dir / "corruptions.json").write_text(text + "\n", encoding="utf-8")
    write(options.output_dir)


if __name__ == "__main__":
    main()
