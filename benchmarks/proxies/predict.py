"""
What every cheap method predicts on every setting, and what that costs.

    python benchmarks/proxies/predict.py --bench BENCH --output-dir benchmarks/results/proxies

One line for each (setting, seed, method) is appended to `predictions.jsonl`: the score of the head alone, of every
single block, of every other selection that the exact study has trained, and the cost in full fine-tunes and seconds,
beside the seconds of one full fine-tune in the same process. What is there already is left out: give the same command
again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from subtuning_hf.compare import FullFineTuning, Task
from subtuning_hf.proposal import (
    gradients,
    kernels,
    oneshot,
    short_profile,
    statistics,
    swap,
    transfer,
    weights,
)
from subtuning_hf.proposal.base import Problem, Proposal

sys.path.insert(0, str(Path(__file__).parent))
from problems import problem_of, read_truth
from settings import SETTINGS, Setting, load

# Name: the proposal, and the share of a full fine-tune that it may spend.
METHODS: dict[str, tuple[Callable[[], Proposal], float]] = {
    "short profile, two rounds": (short_profile.ShortProfileProposal, 1.0),
    "short profile 0.25": (lambda: short_profile.ShortProfileProposal(finalists=0), 0.25),
    "short profile 0.5": (lambda: short_profile.ShortProfileProposal(finalists=0), 0.5),
    "plain short profile 0.5": (lambda: short_profile.ShortProfileProposal(False, False, 0), 0.5),
    "one-shot 0.5": (oneshot.OneShotProposal, 0.5),
    "swap 0.5": (swap.SwapProposal, 0.5),
    "kernel": (kernels.KernelProposal, 1.0),
    "statistics": (statistics.StatisticsProposal, 1.0),
    "RGN": (lambda: gradients.GradientScores("rgn"), 1.0),
    "SNR": (lambda: gradients.GradientScores("snr"), 1.0),
    "Fisher": (lambda: gradients.GradientScores("fisher"), 1.0),
    "RGN, given head": (lambda: gradients.GradientScores("rgn", "initial"), 1.0),
    "displacement": (gradients.DisplacementScores, 1.0),
    "LogME": (lambda: transfer.TransferScores("logme"), 1.0),
    "H-score": (lambda: transfer.TransferScores("h-score"), 1.0),
    "parameters": (lambda: weights.WeightScores("parameters"), 1.0),
    "weight SNR": (lambda: weights.WeightScores("spectrum"), 1.0),
    "kappa": (lambda: weights.WeightScores("kappa"), 1.0),
    "first block": (lambda: weights.WeightScores("first"), 1.0),
    "last block": (lambda: weights.WeightScores("last"), 1.0),
}


def full_fine_tune(task: Task, setting: Setting, seed: int) -> float:
    """Seconds of one full fine-tune on all rows, without scoring, as a user would run it."""
    few = task.test.select(range(1))
    started = time.perf_counter()
    FullFineTuning.run(task, {"learning_rate": setting.learning_rate}, seed, task.train, few)
    return time.perf_counter() - started


def predict(problem: Problem, proposal: Proposal, budget: float, selections: list[tuple[str, ...]]) -> dict[str, Any]:
    """One method on one problem."""
    started = time.perf_counter()
    units = problem.meter.units
    prediction = proposal.fit(problem, budget)
    scores = [prediction((block,)).score for block in problem.blocks]
    seconds, spent = time.perf_counter() - started, (problem.meter.units - units) / problem.meter.fine_tune
    return {
        "head": prediction(()).score,
        "blocks": scores,
        "others": [[list(one), prediction(one).score] for one in selections],
        "seconds": seconds,
        "fine_tunes": spent,
    }


def main() -> None:
    """Everything that is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, required=True, help="folder with models/ and datasets/")
    parser.add_argument("--output-dir", type=Path, required=True, help="holds truth/ too")
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    path = options.output_dir / "predictions.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    done = {(line["setting"], line["seed"], line["method"]) for line in map(json.loads, lines)}
    for seed in options.seeds:
        for name in options.settings:
            setting = SETTINGS[name]
            truth = read_truth(options.output_dir / "truth", setting, seed)
            missing = [method for method in options.methods if (name, seed, method) not in done]
            if truth is None or not truth.has_profile or not missing:
                continue
            task = load(setting, options.bench, seed)
            problem = problem_of(task, setting, seed)
            problem.train_batch(range(setting.rows))  # every row is read once, before any clock runs
            others = [key for key in truth.scores if len(key) > 1]
            tuned = full_fine_tune(task, setting, seed)
            for method in missing:
                make, budget = METHODS[method]
                found = {"setting": name, "seed": seed, "method": method, "full_fine_tune_seconds": tuned}
                found |= predict(problem, make(), budget, others)
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(found) + "\n")
                cost = f"{found['fine_tunes']:.2f} fine-tunes, {found['seconds']:.1f} s"
                print(f"{name} {seed} {method}: {cost}, a fine-tune {tuned:.1f} s", flush=True)


if __name__ == "__main__":
    main()
