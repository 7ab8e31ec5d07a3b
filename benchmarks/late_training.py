"""
Training a late selection from its first block, against full fine-tuning, LoRA on all blocks, and itself uncached.

    python benchmarks/late_training.py trec6-600 --bench BENCH --output-dir benchmarks/results/late_training/trec6-600

Every variant runs in a process of its own, so that its peak memory is its own; the variants take turns, in rotating
order. Measured are the seconds of each epoch, of the whole training, and of what is done once before the first epoch
(reading the rows, running the frozen blocks), with rows preprocessed once for all variants.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import get_peft_model
from transformers import Trainer, TrainerCallback, TrainingArguments

from subtuning_hf import GreedySubTuningArguments, GreedySubTuningTrainer, find_blocks, lora_config_for_blocks
from subtuning_hf.compare.task import QUIET

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "proxies"))
from settings import SETTINGS, load

VARIANTS = ("full fine-tuning", "LoRA on all blocks", "late blocks, no cache", "late blocks")


class Epochs(TrainerCallback):
    """Seconds of each epoch."""

    def __init__(self) -> None:
        self.started, self.seconds = 0.0, list[float]()

    def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
        self.started = time.perf_counter()

    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds.append(time.perf_counter() - self.started)


class Preprocessed(torch.utils.data.Dataset):
    """Rows that went through their transform already."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


def run(options: argparse.Namespace) -> dict[str, Any]:
    """One variant, here and now."""
    setting, variant = SETTINGS[options.setting], options.one
    task = load(setting, options.bench, 0)
    assert task.train_transform is not None
    columns = task.train_transform(task.train[:])
    rows = Preprocessed([{name: column[i] for name, column in columns.items()} for i in range(len(task.train))])
    settings = {**QUIET, **task.arguments, "num_train_epochs": options.epochs, "learning_rate": 1e-4}
    blocks = [block.name for block in find_blocks(task.model)]
    late = blocks[-(len(blocks) // 3) :]
    epochs = Epochs()
    with tempfile.TemporaryDirectory() as folder:
        if variant.startswith("late"):
            arguments = GreedySubTuningArguments(folder, prefix_cache=variant == "late blocks", **settings)
            trainer: Any = GreedySubTuningTrainer(
                task.model, arguments, train_dataset=rows, data_collator=task.data_collator, callbacks=[lambda: epochs]
            )
            train = lambda: trainer.train(blocks=late)  # noqa: E731
        else:
            model: Any = task.model
            if variant.startswith("LoRA"):
                model = get_peft_model(model, lora_config_for_blocks(model, blocks, r=8))
            else:
                model.requires_grad_(True)
            trainer = Trainer(
                model, TrainingArguments(folder, **settings), train_dataset=rows, data_collator=task.data_collator,
                callbacks=[epochs],
            )  # fmt: skip
            train = trainer.train
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        train()
        whole = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"epochs": epochs.seconds, "whole": whole, "peak_mb": peak / 1024, "added_mb": (peak - before) / 1024}


def measure(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Every variant in every repeat."""
    found: dict[str, list[dict[str, Any]]] = {variant: [] for variant in VARIANTS}
    for repeat in range(options.repeats):
        for place in range(len(VARIANTS)):
            variant = VARIANTS[(place + repeat) % len(VARIANTS)]
            command = [sys.executable, __file__, options.setting, "--bench", str(options.bench), "--one", variant]
            command += ["--epochs", str(options.epochs), "--output-dir", str(options.output_dir)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(done.stderr[-2000:])
            found[variant].append(json.loads(done.stdout.splitlines()[-1]))
            print(variant, found[variant][-1], flush=True)
    return found


def report(found: dict[str, list[dict[str, Any]]], title: str) -> str:
    """Medians, and ratios within each repeat."""
    heads = f"{'epoch s':>8} {'of full':>8} {'lowest':>7} {'highest':>8} {'whole s':>8} {'of full':>8} {'added MB':>9}"
    lines = [f"# {title}\n", "```", f"{'':24} {heads}"]
    full = found[VARIANTS[0]]
    for variant, runs in found.items():
        epoch = [statistics.median(run["epochs"]) for run in runs]
        ratio = [one / statistics.median(other["epochs"]) for one, other in zip(epoch, full, strict=True)]
        whole = [run["whole"] / other["whole"] for run, other in zip(runs, full, strict=True)]
        lines.append(
            f"{variant:24} {statistics.median(epoch):8.2f} {statistics.median(ratio):8.2f} {min(ratio):7.2f} "
            f"{max(ratio):8.2f} {statistics.median(run['whole'] for run in runs):8.2f} {statistics.median(whole):8.2f} "
            f"{statistics.median(run['added_mb'] for run in runs):9.0f}"
        )
    return "\n".join([*lines, "```"]) + "\n"


def main() -> None:
    """Measure one setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", choices=list(SETTINGS))
    parser.add_argument("--bench", type=Path, required=True, help="folder with models/ and datasets/")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--one", choices=VARIANTS, help="run this variant here, and print what was measured")
    parser.add_argument("--output-dir", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    if options.one:
        print(json.dumps(run(options)))
        return
    setting = SETTINGS[options.setting]
    found = measure(options)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    (options.output_dir / "late_training.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    shown = f"{setting.name}: {setting.rows} rows, {options.epochs} epochs, 1 thread, {options.repeats} repeats"
    text = report(found, f"The last third of the blocks, {shown}")
    (options.output_dir / "late_training.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
