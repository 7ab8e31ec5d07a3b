"""
Which block wants tuning under which corruption: CIFAR-10 to CIFAR-10-C, a few hundred labelled images each.

    python benchmarks/corruptions.py --bench BENCH --output-dir benchmarks/results/corruptions
    python benchmarks/corruptions.py --output-dir benchmarks/results/corruptions --report

For each corruption at severity 5 (`cifar_corruptions.py`): accuracy of the untouched ResNet-20, the profile that the
default search predicts and what it chooses, and test accuracy of the choice and of a full fine-tune. Training and test
rows are drawn by `--seed` from CIFAR-10's test split, the same images for every corruption. Both methods have the same
rows, epochs and number of learning rates, tried on one shared fold. Finished runs are on disk: give the same command
again after a stop. `--report` writes `corruptions.md` and the picture from what is there. `--bench` is a folder with
`models/` and `datasets/`.
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

from subtuning_hf.blocks import find_blocks
from subtuning_hf.cli.metrics import compute_metrics_with
from subtuning_hf.compare import FullFineTuning, RunLog, Selection, Task, difference, rates, repeat, tune
from subtuning_hf.search.folds import make_folds

sys.path.insert(0, str(Path(__file__).parent))
import cifar_resnet
from real_data import search_trainer, training_arguments

NUM_FOLDS, MAX_BLOCKS = 3, 3
# A full fine-tune likes lower rates than a few blocks do, so the range leans to its side.
RATES = (5e-4, 2e-3, 8e-3)
SEARCH_RATE = 4e-3


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


def search(options: argparse.Namespace, name: str, task: Task) -> dict[str, Any]:
    """The default search: its choice, and what it predicted for the head alone and for each block."""
    trainer = search_trainer(
        task,
        options.output_dir / "searches" / name,
        strategy="short-profile",
        num_folds=NUM_FOLDS,
        max_blocks=MAX_BLOCKS,
        seed=options.seed,
        learning_rate=SEARCH_RATE,
        num_threads=1,
    )
    result = trainer.search()
    assert result.proposal is not None
    predicted = {one.candidate.blocks: one.score for one in result.proposal.predictions}
    names = [block.name for block in find_blocks(task.model)]
    return {
        "names": names,
        "predicted": [predicted[block,] for block in names],
        "head": predicted[()],
        "blocks": list(result.blocks),
        "reason": result.reason,
        "fine_tunes": result.proposal.planned,
        "seconds": result.cost.seconds + result.proposal.seconds,
    }


def run(options: argparse.Namespace, name: str, rows: tuple[Dataset, Dataset], log: RunLog) -> dict[str, Any]:
    """Everything about one corruption; what is in the log is not done again."""
    task = task_of(options, name, rows)
    key = {"task": task.identity, "corruption": name, "seed": options.seed}
    untouched = log.get_or_run(
        key | {"what": "untouched"},
        lambda: {"score": cifar_resnet.accuracy(task.model, task.test, task.eval_transform)},  # type: ignore[arg-type]
    )
    found = log.get_or_run(key | {"what": "search", "rate": SEARCH_RATE}, lambda: search(options, name, task))
    folds = make_folds(len(task.train), NUM_FOLDS, options.seed, labels=list(task.train["label"]))
    scores: dict[str, Any] = {}
    for method in (Selection(found["blocks"]), FullFineTuning):
        trials = tune(task, method, rates(*options.rates), folds[:1], options.seed, log)
        seeds = range(options.seed, options.seed + options.seeds_of_training)
        scores[method.name] = {
            "learning_rate": trials.best["learning_rate"],
            "runs": [
                {name: one[name] for name in ("score", "hits", "num_examples")}
                for one in repeat(task, method, trials.best, seeds, log)
            ],
        }
    return {"corruption": name, "untouched": untouched["score"], "search": found, "methods": scores}


# --- report ----------------------------------------------------------------------------------
def in_points(scores: Sequence[float]) -> str:
    """Mean and sample standard deviation in percent."""
    spread = f" ± {100 * statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
    return f"{100 * statistics.fmean(scores):.1f}{spread}"


def report(study: dict[str, Any]) -> str:
    """The table as Markdown."""
    options, found = study["options"], study["corruptions"]
    lines = [
        "# Which block under which corruption",
        "",
        "Written by `python benchmarks/corruptions.py --bench BENCH --output-dir benchmarks/results/corruptions`. "
        "ResNet-20 of CIFAR-10, "
        f"severity 5, {options['rows']} labelled images to choose and train on and {options['test_rows']} others to "
        f"test, drawn by seed {options['seed']} from CIFAR-10's test split. The network was trained on CIFAR-10's "
        "training split and its checkpoint picked on that test split, so that untouched accuracy flatters it a little; "
        "labels of corrupted images were never seen by it. "
        f"{options['epochs']} epochs, learning rates {', '.join(f'{rate:g}' for rate in options['rates'])} tried by "
        f"each method on one fold, the search at {SEARCH_RATE:g}. Accuracy in percent, mean and standard deviation of "
        f"{options['seeds_of_training']} trainings; the last column is SubTuning less FT, ± the standard error over "
        "trainings and test rows. Frost is missing: it needs the photographs of the published program.",
        "",
        *table_of(found),
    ]
    spent = statistics.fmean(one["search"]["fine_tunes"] for one in found)
    lines += ["", f"A search costs {spent:.1f} full fine-tunes by count. `chosen` is in the order of the search."]
    return "\n".join(lines)


def table_of(found: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each corruption."""
    lines = ["| family | corruption | untouched | best predicted block | chosen | SubTuning | FT | difference |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for one in found:
        search, runs = one["search"], {name: each["runs"] for name, each in one["methods"].items()}
        gap = difference(runs["SubTuning"], runs["FT"])
        best = search["names"][int(np.argmax(search["predicted"]))]
        means = [in_points([each["score"] for each in runs[name]]) for name in ("SubTuning", "FT")]
        lines.append(
            f"| {family_of(one['corruption'])} | {one['corruption'].replace('_', ' ')} | {100 * one['untouched']:.1f} "
            f"| {best} | {', '.join(search['blocks']) or 'none'} | {' | '.join(means)} "
            f"| {100 * gap.mean:+.1f} ± {100 * (gap.error or 0):.1f} |"
        )
    return lines


def family_of(corruption: str) -> str:
    """Noise, blur, weather or digital."""
    return next(name for name, functions in FAMILIES.items() if CORRUPTIONS[corruption] in functions)


def picture(found: Sequence[dict[str, Any]]) -> Any:
    """Predicted profiles as a heat map, each less what is predicted for the head alone; chosen blocks marked."""
    from subtuning_hf.plots.style import colour_bar, finish, new_figure, theme_of

    theme = theme_of("light")
    names = found[0]["search"]["names"]
    table = np.array([np.array(one["search"]["predicted"]) - one["search"]["head"] for one in found])
    figure, axes = new_figure(0.3 * len(found), theme, grid="")
    axes.spines["bottom"].set_visible(False)
    edges = [np.arange(count + 1) - 0.5 for count in (len(names), len(found))]
    mesh = axes.pcolormesh(*edges, table, cmap=theme.scale, edgecolors=theme.ground, linewidth=1.0)
    axes.set_ylim(len(found) - 0.5, -0.5)
    for place, one in enumerate(found):
        for block in one["search"]["blocks"]:
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
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--test-rows", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rates", type=float, nargs="*", default=list(RATES))
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
    log, rows, found = RunLog(options.output_dir / "runs.jsonl"), draw(options), []
    kept = {name: value for name, value in vars(options).items() if name not in ("bench", "output_dir", "report")}
    for name in [name for name in CORRUPTIONS if name in options.corruptions]:
        found.append(run(options, name, rows, log))
        methods = found[-1]["methods"].items()
        means = ", ".join(f"{key} {in_points([one['score'] for one in each['runs']])}" for key, each in methods)
        print(f"{name}: {100 * found[-1]['untouched']:.1f}, {found[-1]['search']['blocks']}, {means}", flush=True)
        text = json.dumps({"options": kept, "corruptions": found}, indent=1)
        (options.output_dir / "corruptions.json").write_text(text + "\n", encoding="utf-8")
    write(options.output_dir)


if __name__ == "__main__":
    main()
