"""
SubTuning, a linear probe and a full fine-tune on real data, one command per setting.

    python benchmarks/real_data.py contrast --model MODELS/cifar10_resnets_option_a --data DATA/cifar10_c_sev5/contrast
    python benchmarks/real_data.py trec6    --model MODELS/minilm_l6_h384           --data DATA/trec6

All methods get the same rows, folds, epochs, number of learning-rate trials and seeds; the search runs at the middle
one of the learning rates. Whatever is finished is on disk: give the same command again after a stop. Writes
`results.json`, `results.md` and the finetuning profile into `--output-dir`.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, set_seed

from subtuning_hf import GreedySubTuningArguments, GreedySubTuningTrainer
from subtuning_hf.blocks import find_blocks
from subtuning_hf.cli.metrics import compute_metrics_with
from subtuning_hf.compare import (
    FullFineTuning,
    LinearProbe,
    RunLog,
    Selection,
    Task,
    Trials,
    method_rows,
    method_table,
    rates,
    repeat,
    tune,
    verdict,
)
from subtuning_hf.plots import Reference, plot_profile, save_figure
from subtuning_hf.search.folds import make_folds

sys.path.insert(0, str(Path(__file__).parent))
import cifar_resnet

_IMAGES = {"epochs": 20, "batch_size": 64, "learning_rates": [1e-3, 4e-3, 1.6e-2, 6e-2, 2.5e-1]}
DEFAULTS: dict[str, dict[str, Any]] = {
    "contrast": _IMAGES,
    "noise": _IMAGES,
    "trec6": {"epochs": 6, "batch_size": 32, "learning_rates": [5e-5, 2e-4, 7e-4, 3e-3, 1e-2]},
}


class Tokens:
    """Texts to token ids, as `Dataset.set_transform` calls it."""

    def __init__(self, folder: str, max_length: int = 64) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.max_length = max_length

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, Any]:
        out = dict(self.tokenizer(batch["text"], truncation=True, max_length=self.max_length))
        out["labels"] = list(batch["label"])
        return out


def parse() -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", choices=list(DEFAULTS))
    parser.add_argument("--model", required=True, help="folder of the model")
    parser.add_argument("--data", required=True, help="folder or Hub name of the data set")
    parser.add_argument("--rows", type=int, help="training rows, drawn by --seed (default: all, at most 1,000)")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--learning-rates", type=float, nargs="+", help="the trials of every method")
    parser.add_argument("--search-learning-rate", type=float, help="default: the middle one")
    parser.add_argument("--max-blocks", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3, help="final trainings of each method")
    parser.add_argument("--seed", type=int, default=0, help="rows, folds, head and search")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output-dir", help="default: out/<setting>_rows-<rows>_seed-<seed>")
    options = parser.parse_args()
    for name, value in DEFAULTS[options.setting].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def training_arguments(epochs: float, batch_size: int) -> dict[str, Any]:
    """Arguments that the trainings of all settings and methods share."""
    return {
        "num_train_epochs": epochs,
        "per_device_train_batch_size": batch_size,
        "per_device_eval_batch_size": 250,
        "weight_decay": 0.01,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "remove_unused_columns": False,
        "report_to": [],
        "dataloader_pin_memory": False,
    }


def load_task(options: argparse.Namespace) -> Task:
    """Model and rows of a setting."""
    rows = load_dataset(options.data)
    most = min(options.rows or 1000, len(rows["train"]))
    train = rows["train"].shuffle(seed=options.seed).select(range(most))
    names = train.features["label"].names
    set_seed(options.seed)
    if options.setting != "trec6":
        model: Any = cifar_resnet.load(options.model, "resnet20")
        transform: Any = cifar_resnet.ToPixels(model.config)
        collator: Any = cifar_resnet.collate
    else:
        model = AutoModelForSequenceClassification.from_pretrained(
            options.model, num_labels=len(names), dtype=torch.float32
        )
        transform = Tokens(options.model)
        collator = DataCollatorWithPadding(transform.tokenizer)
    return Task(
        model=model,
        train=train,
        test=rows["test"],
        arguments=training_arguments(options.epochs, options.batch_size),
        compute_metrics=compute_metrics_with("accuracy"),
        train_transform=transform,
        eval_transform=transform,
        data_collator=collator,
    )


def search_trainer(task: Task, folder: Path, **asked: Any) -> GreedySubTuningTrainer:
    """A trainer that searches by accuracy, with one bar for the whole study."""
    arguments = GreedySubTuningArguments(
        output_dir=str(folder),
        metric_for_best_model="accuracy",
        greater_is_better=True,
        label_column="label",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=False,
        **{"strategy": "exact", **task.arguments, **asked},
    )
    return GreedySubTuningTrainer(
        model=task.model,
        args=arguments,
        train_dataset=task.train,
        train_transform=task.train_transform,
        eval_transform=task.eval_transform,
        data_collator=task.data_collator,
        compute_metrics=task.compute_metrics,
    )


def search(options: argparse.Namespace, task: Task, folder: Path, learning_rate: float) -> Any:
    """The greedy search over the same folds."""
    trainer = search_trainer(
        task,
        folder / "study",
        num_folds=options.folds,
        max_blocks=options.max_blocks,
        seed=options.seed,
        learning_rate=learning_rate,
        num_threads=options.threads,
    )
    return trainer.search()


def trials_text(trials: Trials) -> str:
    """The learning-rate trials of one method."""
    means = [(one["learning_rate"], 100 * trials.mean(place)) for place, one in enumerate(trials.settings)]
    tried = "  ".join(f"{rate:g}: {mean:.1f} %" for rate, mean in means)
    return f"{trials.method.name:<10} {tried}"


def main() -> None:
    """Run one setting."""
    options = parse()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    task = load_task(options)
    default = f"out/{options.setting}_rows-{len(task.train)}_seed-{options.seed}"
    folder = Path(options.output_dir or default)
    log = RunLog(folder / "runs.jsonl")
    folds = make_folds(len(task.train), options.folds, options.seed, labels=task.train["label"])
    started = time.perf_counter()

    def tuned(method: Any) -> Trials:
        trials = tune(task, method, rates(*options.learning_rates), folds, options.seed, log)
        print(trials_text(trials), flush=True)
        return trials

    probe, full = tuned(LinearProbe), tuned(FullFineTuning)
    rate = options.search_learning_rate or sorted(options.learning_rates)[len(options.learning_rates) // 2]
    result = search(options, task, folder, rate)
    ours = tuned(Selection(result.blocks))
    seeds = range(options.seed, options.seed + options.seeds)
    results = [(trials, repeat(task, trials.method, trials.best, seeds, log)) for trials in (probe, full, ours)]
    write(options, task, folder, results, result, rate, time.perf_counter() - started)


def without_folders(argument: str) -> str:
    """Paths without the folders of the machine that a result was made on."""
    return Path(argument).name if argument.startswith("/") else argument


def write(
    options: argparse.Namespace,
    task: Task,
    folder: Path,
    results: list[tuple[Trials, list[dict[str, Any]]]],
    result: Any,
    rate: float,
    seconds: float,
) -> None:
    """Results as JSON, Markdown and a picture."""
    rows = method_rows(results)
    report = {
        "options": {**vars(options), "model": Path(options.model).name, "data": Path(options.data).name},
        "methods": rows,
        "search": {
            "blocks": list(result.blocks),
            "learning_rate": rate,
            "evaluations": result.cost.num_evaluations,
            "seconds": result.cost.seconds,
            "ladder": result.to_rows(),
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "seconds_of_this_run": seconds,
    }
    (folder / "results.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    lines = [
        f"# {options.setting}: {len(task.train)} rows, {options.folds} folds, {options.epochs} epochs, "
        f"{options.seeds} seeds, {len(find_blocks(task.model))} blocks, {len(task.test)} test rows",
        f"\n`python benchmarks/real_data.py {' '.join(map(without_folders, sys.argv[1:]))}`",
        f"\n{options.threads} thread(s), {platform.machine()}",
        "\n```",
        *(trials_text(trials) for trials, _ in results),
        f"\nsearch at learning rate {rate:g}\n",
        result.table(),
        "",
        method_table(rows),
        "```",
        f"\n{verdict(rows)}\n",
    ]
    (folder / "results.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))
    probe, full = results[0][0], results[1][0]
    figure = plot_profile(
        result.profile,
        selection=result.blocks,
        linear_probe=Reference(probe.best_mean, probe.standard_error, "linear probe"),
        full_finetuning=Reference(full.best_mean, full.standard_error),
        metric=f"accuracy, mean of {options.folds} folds",
        title=f"Finetuning profile: {options.setting}, {len(task.train)} rows",
    )
    print(*save_figure(figure, folder / "profile"))


if __name__ == "__main__":
    main()
