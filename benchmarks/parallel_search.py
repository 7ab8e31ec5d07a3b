"""
How much faster a search is with several processes than with one, at the same threads for each.

    python benchmarks/parallel_search.py --processes 2 --repeats 5

Every repeat runs the same search once with one process and once with several, one after the other, so that both see
the same machine; the order alternates. Launched as a user would, with torchrun. Two times are compared: that of
`search()` itself, and that of the whole command with its imports. Prints and writes medians, the spread of the ratio,
and whether the studies are equal bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import ResNetConfig, ResNetForImageClassification

from subtuning_hf import GreedySubTuningArguments, GreedySubTuningTrainer
from subtuning_hf.search.journal import read_study

ROWS, SIDE, CLASSES = 256, 32, 4


class Rows(torch.utils.data.Dataset):
    """Noise with a coloured corner: `(3, SIDE, SIDE)` and its class."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.pixels = torch.randn(ROWS, 3, SIDE, SIDE, generator=generator)
        self.labels = [row % CLASSES for row in range(ROWS)]
        for row, label in enumerate(self.labels):
            self.pixels[row, label % 3, : 8 + 2 * label, :8] += 0.7

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixel_values": self.pixels[index], "labels": self.labels[index]}


def search(folder: Path, epochs: float) -> None:
    """One search, and beside its journal the seconds it took."""
    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 64], depths=[2, 2, 2], layer_type="basic", num_labels=CLASSES
    )
    arguments = GreedySubTuningArguments(
        str(folder), strategy="exact", num_folds=4, max_blocks=2, min_gain=0.0, num_train_epochs=epochs,
        learning_rate=1e-2, per_device_train_batch_size=32, per_device_eval_batch_size=64, report_to=[],
        disable_tqdm=True, dataloader_pin_memory=False, num_threads=1, use_cpu=True,
    )  # fmt: skip
    trainer = GreedySubTuningTrainer(model=ResNetForImageClassification(config), args=arguments, train_dataset=Rows())
    began = time.perf_counter()
    trainer.search()
    if trainer.is_world_process_zero():
        (folder / "seconds.json").write_text(json.dumps(time.perf_counter() - began))


def launch(folder: Path, processes: int, epochs: float) -> dict[str, float]:
    """Run the search in new processes."""
    shutil.rmtree(folder, ignore_errors=True)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--standalone"]
    command = [*(launcher if processes > 1 else [sys.executable]), __file__, "--search-in", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    subprocess.run([*command, "--epochs", str(epochs)], check=True, env=environment, stderr=subprocess.DEVNULL)
    return {"command": time.perf_counter() - began, "search": json.loads((folder / "seconds.json").read_text())}


def scores(folder: Path) -> list[tuple]:
    """Every evaluation and decision, to the last bit."""
    study = read_study(folder / "journal")
    found = [(e.candidate.label, e.fold, float(e.score).hex(), e.num_examples) for e in study.evaluations]
    return [*sorted(found), *sorted((d.round, d.winner.label if d.winner else "stop") for d in study.decisions)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=float, default=5.0)
    parser.add_argument("--output-dir", type=Path, default=Path("out/parallel"))
    parser.add_argument("--search-in", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.search_in is not None:
        search(options.search_in, options.epochs)
        return 0
    runs, same = [], True
    for number in range(options.repeats):
        order = (1, options.processes) if number % 2 == 0 else (options.processes, 1)
        folders = {count: options.output_dir / f"{number}-{count}" for count in order}
        taken = {count: launch(folders[count], count, options.epochs) for count in order}
        same &= scores(folders[1]) == scores(folders[options.processes])
        ratio = {what: taken[1][what] / taken[options.processes][what] for what in ("search", "command")}
        runs.append({"one": taken[1], "several": taken[options.processes], "ratio": ratio})
        print(number, json.dumps(runs[-1]), flush=True)
    summary = {
        "processes": options.processes,
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "evaluations": sum(1 for entry in scores(folders[1]) if len(entry) == 4),
        "identical": same,
    }
    for what in ("search", "command"):
        ratios = sorted(run["ratio"][what] for run in runs)
        summary[f"ratio of {what}"] = {"median": statistics.median(ratios), "least": ratios[0], "most": ratios[-1]}
    print(json.dumps(summary, indent=2))
    (options.output_dir / "parallel.json").write_text(json.dumps({"summary": summary, "runs": runs}, indent=2) + "\n")
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
