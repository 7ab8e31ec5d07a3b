"""
The demo over several seeds: splits, noise, pretraining, search and final trainings all drawn anew.

    python benchmarks/demo_seeds.py --seeds 5 --output-dir out/demo_seeds

Runs `subtuning demo --seed S --seeds 1` for each seed (finished trainings are kept, so the command can be given again),
and prints the test accuracy of each method, mean and standard deviation over seeds, paired differences, and how often
each block was chosen. Writes `summary.json` beside the runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

METHODS = ("LP", "FT", "SubTuning")


def run_demo(folder: Path, seed: int, model: str) -> dict:
    """One demo in a process of its own; its `results.json`."""
    command = [sys.executable, "-m", "subtuning_hf.cli", "demo", "--model", model, "--seed", str(seed), "--seeds", "1"]
    done = subprocess.run([*command, "--output-dir", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return json.loads((folder / "results.json").read_text())


def spread(values: list[float]) -> str:
    """Mean and standard deviation in per cent."""
    error = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.fmean(values):5.1f} ± {100 * error:.1f}"


def main() -> None:
    """Run and sum up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--model", default="resnet", choices=["resnet", "vit"])
    parser.add_argument("--output-dir", type=Path, default=Path("out/demo_seeds"))
    options = parser.parse_args()
    scores: dict[str, list[float]] = {name: [] for name in METHODS}
    chosen: Counter[str] = Counter()
    selections = []
    for seed in range(options.seeds):
        report = run_demo(options.output_dir / f"{options.model}-{seed}", seed, options.model)
        for row in report["methods"]:
            scores[row["method"]].append(row["mean"])
        selections.append(report["search"]["blocks"])
        chosen.update(report["search"]["blocks"])
        line = "  ".join(f"{name} {100 * scores[name][-1]:.1f} %" for name in METHODS)
        print(f"seed {seed}: {line}  chosen: {', '.join(selections[-1]) or 'none'}", flush=True)
    differences = [ours - full for ours, full in zip(scores["SubTuning"], scores["FT"], strict=True)]
    print()
    for name in METHODS:
        print(f"{name:<10} {spread(scores[name])} %")
    print(f"SubTuning - FT, paired: {spread(differences)} points")
    for block, count in sorted(chosen.items()):
        print(f"{block}: chosen {count} times of {options.seeds}")
    summary = {"scores": scores, "selections": selections, "chosen": chosen}
    (options.output_dir / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")


if __name__ == "__main__":
    main()
