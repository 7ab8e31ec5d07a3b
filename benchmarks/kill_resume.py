"""
Kill a search with SIGKILL at a random moment, start it again, and compare with one that was left alone.

    python benchmarks/kill_resume.py --kills 50 --output-dir out/kills
    python benchmarks/kill_resume.py --kills 100 --processes 1 2 3

Every run is one or several processes of its own, forked from one that has only imported the libraries. With several,
a random one of them is killed and the others end as a launcher ends them. After the kill the same search is started
again in the same folder; its blocks, and the score of every evaluation, must be equal bit for bit to those of the
undisturbed search in one process, and no evaluation that was in the journal at the kill may have been trained again.
The summary is printed and written to `kills.json`; the exit status is 1 if any run differs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
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
        str(folder), strategy="exact", num_folds=FOLDS, max_blocks=3, min_gain=0.0, num_train_epochs=4,
        learning_rate=1e-2, per_device_train_batch_size=16, per_device_eval_batch_size=64, report_to=[],
        disable_tqdm=True, seed=1, use_cpu=True,
    )  # fmt: skip
    GreedySubTuningTrainer(model=Net(), args=arguments, train_dataset=Rows()).search()


def start(folder: Path, processes: int = 1) -> list[multiprocessing.Process]:
    """All processes of one search."""
    port = free_port()
    fork = multiprocessing.get_context("fork")
    started = [fork.Process(target=_quietly, args=(folder, rank, processes, port)) for rank in range(processes)]
    for process in started:
        process.start()
    return started


def _quietly(folder: Path, rank: int, processes: int, port: int) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if processes > 1:
        os.dup2(os.open(folder.with_suffix(f".{rank}.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        os.environ.update({name: str(value) for name, value in launched.items()})
        os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    search(folder)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def end(processes: list[multiprocessing.Process], draw: random.Random, after: float) -> bool:
    """Kill one at a moment, and end the others as torchrun does: whether one was running to be killed."""
    moment = time.monotonic() + after
    victim = draw.choice(processes)
    while time.monotonic() < moment and all(process.is_alive() for process in processes):
        time.sleep(0.005)
    hit = victim.is_alive()
    if hit:
        os.kill(victim.pid, signal.SIGKILL)
    for process in processes:
        if hit and process is not victim and process.is_alive():
            time.sleep(draw.uniform(0.0, 0.2))
            process.terminate()
    for process in processes:
        process.join()
    return hit and victim.exitcode == -signal.SIGKILL


def wait(processes: list[multiprocessing.Process]) -> bool:
    """Whether all of them end well."""
    for process in processes:
        process.join()
    return all(process.exitcode == 0 for process in processes)


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


def duplicates(folder: Path) -> int:
    """Evaluations that are in the journal more than once."""
    units = [evaluation.unit for evaluation in read_study(folder / "journal").evaluations]
    return len(units) - len(set(units))


def one_run(folder: Path, processes: int, after: float, draw: random.Random, expected: dict[str, str]) -> dict:
    """Start, kill, start again, compare."""
    hit = end(start(folder, processes), draw, after)
    at_kill = seconds_of(folder)
    ended_well = wait(start(folder, processes))
    after_resume = seconds_of(folder)
    return {
        "processes": processes,
        "killed_after": after,
        "was_running": hit,
        "finished_at_kill": len(at_kill),
        "resumed_ok": ended_well,
        "identical": ended_well and scores(folder) == expected,
        "trained_again": sum(after_resume.get(key) != value for key, value in at_kill.items()) + duplicates(folder),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--processes", type=int, nargs="+", default=[1], help="numbers of processes, in turn")
    parser.add_argument("--output-dir", type=Path, default=Path("out/kills"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    shutil.rmtree(options.output_dir, ignore_errors=True)
    options.output_dir.mkdir(parents=True)
    duration = {}
    for count in sorted({1, *options.processes}):
        began = time.perf_counter()
        folder = options.output_dir / f"whole-{count}"
        assert wait(start(folder, count)), f"the undisturbed search with {count} processes failed"
        duration[count] = time.perf_counter() - began
        assert scores(folder) == scores(options.output_dir / "whole-1"), f"{count} processes differ from one"
    expected = scores(options.output_dir / "whole-1")
    evaluations = sum(key.count("/") for key in expected)
    print(f"undisturbed: {evaluations} evaluations, seconds by processes {duration}", flush=True)

    draw = random.Random(options.seed)
    runs: list[dict] = []
    while sum(run["was_running"] for run in runs) < options.kills:  # a search that ended before its kill is no kill
        count = options.processes[len(runs) % len(options.processes)]
        folder = options.output_dir / f"kill-{len(runs):03d}"
        runs.append(one_run(folder, count, draw.uniform(0.0, duration[count]), draw, expected))
        print(len(runs), runs[-1], flush=True)
        if runs[-1]["identical"]:
            shutil.rmtree(folder)
    hits = [run for run in runs if run["was_running"]]
    summary = {
        "kills": {count: sum(run["processes"] == count for run in hits) for count in options.processes},
        "of them resumed to the identical result": sum(run["identical"] for run in hits),
        "searches that ended before their kill": len(runs) - len(hits),
        "finished evaluations trained again": sum(run["trained_again"] for run in runs),
        "evaluations": evaluations,
        "finished when killed, sorted": sorted(run["finished_at_kill"] for run in hits),
    }
    print(json.dumps(summary, indent=2))
    (options.output_dir / "kills.json").write_text(json.dumps({"summary": summary, "runs": runs}, indent=2) + "\n")
    return int(not all(run["identical"] and not run["trained_again"] for run in runs))


if __name__ == "__main__":
    sys.exit(main())
