"""
Kill a search with SIGKILL at a random moment, start it again, and compare with one that was left alone.

    python benchmarks/kill_resume.py --kills 50 --output-dir out/kills

Every run is a process of its own, forked from one that has only imported the libraries. After the kill the same
search is started again in the same folder; its blocks, and the score of every evaluation, must be equal bit for bit to
those of the undisturbed search, and no evaluation that was in the journal at the kill may have been trained again. The
summary is printed and written to `kills.json`; the exit status is 1 if any run differs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch
from torch import nn

from subtuning_hf import GreedySubTuningArguments, GreedySubTuningTrainer
from subtuning_hf.search.journal import read_study

ROWS, FOLDS, CLASSES, WIDTH, DEPTH = 90, 3, 3, 12, 4


class Block(nn.Module):
    """Residual layer `(batch, WIDTH)` to the same."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.BatchNorm1d(WIDTH), nn.Linear(WIDTH, 24), nn.Linear(24, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Net(nn.Module):
    """A classifier of `DEPTH` blocks that returns what Trainer expects."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(8, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        logits = self.head(x)
        loss = {} if labels is None else {"loss": nn.functional.cross_entropy(logits, labels)}
        return {**loss, "logits": logits}


class Rows(torch.utils.data.Dataset):
    """Points whose class is a rule no linear layer can learn."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(ROWS, 8, generator=generator)
        self.labels = ((self.x[:, 0] * self.x[:, 1] > 0).long() + (self.x[:, 2] > 0.5).long()).tolist()

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> dict:
        return {"x": self.x[index], "labels": self.labels[index]}


def search(folder: Path) -> None:
    """One whole search in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    arguments = GreedySubTuningArguments(
        str(folder), num_folds=FOLDS, max_blocks=3, min_gain=0.0, num_train_epochs=4, learning_rate=1e-2, use_cpu=True,
        per_device_train_batch_size=16, per_device_eval_batch_size=64, report_to=[], disable_tqdm=True, seed=1,
    )  # fmt: skip
    GreedySubTuningTrainer(model=Net(), args=arguments, train_dataset=Rows()).search()


def start(folder: Path) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=_quietly, args=(folder,))
    process.start()
    return process


def _quietly(folder: Path) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    search(folder)


def scores(folder: Path) -> dict[str, str]:
    """Every evaluation's score, to the last bit, and every decision."""
    study = read_study(folder / "journal")
    found = {f"{e.candidate.label} / {e.fold}": float(e.score).hex() for e in study.evaluations}
    found |= {f"round {d.round}": d.winner.label if d.winner else "stop" for d in study.decisions}
    return found


def seconds_of(folder: Path) -> dict[str, float]:
    """The measured seconds of each evaluation: trained again, they would differ."""
    if not (folder / "journal").is_dir() or not list((folder / "journal").glob("*.jsonl")):
        return {}
    return {f"{e.candidate.label} / {e.fold}": e.seconds for e in read_study(folder / "journal").evaluations}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--output-dir", type=Path, default=Path("out/kills"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    shutil.rmtree(options.output_dir, ignore_errors=True)
    whole = options.output_dir / "whole"
    began = time.perf_counter()
    process = start(whole)
    process.join()
    assert process.exitcode == 0, "the undisturbed search failed"
    duration = time.perf_counter() - began
    expected = scores(whole)
    evaluations = sum("/" in key for key in expected)
    print(f"undisturbed: {evaluations} evaluations in {duration:.1f} s", flush=True)

    draw = random.Random(options.seed)
    runs = []
    hits, number = 0, 0
    while hits < options.kills:  # a search that ended before its kill does not count
        number += 1
        folder = options.output_dir / f"kill-{number:03d}"
        process = start(folder)
        after = draw.uniform(0.0, duration)
        process.join(after)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        hits += process.exitcode == -signal.SIGKILL
        at_kill = seconds_of(folder)
        again = start(folder)
        again.join()
        after_resume = seconds_of(folder)
        runs.append(
            {
                "killed_after": after,
                "was_running": process.exitcode == -signal.SIGKILL,
                "finished_at_kill": len(at_kill),
                "resumed_ok": again.exitcode == 0,
                "identical": again.exitcode == 0 and scores(folder) == expected,
                "trained_again": sum(after_resume.get(key) != value for key, value in at_kill.items()),
            }
        )
        print(number, runs[-1], flush=True)
        shutil.rmtree(folder)
    summary = {
        "kills": hits,
        "of them resumed to the identical result": sum(r["identical"] for r in runs if r["was_running"]),
        "searches that ended before their kill": len(runs) - hits,
        "finished evaluations trained again": sum(run["trained_again"] for run in runs),
        "evaluations": evaluations,
        "finished when killed, sorted": sorted(r["finished_at_kill"] for r in runs if r["was_running"]),
    }
    print(json.dumps(summary, indent=2))
    (options.output_dir / "kills.json").write_text(json.dumps({"summary": summary, "runs": runs}, indent=2))
    return int(not all(run["identical"] and not run["trained_again"] for run in runs))


if __name__ == "__main__":
    sys.exit(main())
