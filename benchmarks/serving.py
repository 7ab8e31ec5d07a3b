"""
A search that takes into account what blocks cost to serve, against one that does not: accuracy and latency.

    python benchmarks/serving.py --bench BENCH --truth TRUTH --output-dir benchmarks/results/serving

`TRUTH` holds the journals of `proxies/truth.py`, such as `benchmarks/results/proxies/truth`. For settings in which a
later block is within one standard error of the best: what every block adds to the latency of serving 8 tasks,
measured; the selections of the exact search with and without `serving_aware`, from the same exact profile; both trained
on all training rows with five seeds and scored on test rows that chose nothing; and 8 tasks of either selection
answered on one trunk, in turn.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import get_peft_model

from subtuning_hf import MultiTaskModel, SubTuningConfig
from subtuning_hf.compare import Task
from subtuning_hf.multitask.latency import measure_latency
from subtuning_hf.plots.latency import plot_latency
from subtuning_hf.plots.style import save_figure
from subtuning_hf.search.tables import text_table

sys.path.insert(0, str(Path(__file__).parent / "proxies"))
from settings import SETTINGS, Setting, load
from truth import folder_of, make_trainer

CASES = (("sst2-200", 1), ("noise-300", 1), ("digits-300", 0), ("digits-300", 1))
TASKS = 8


def batch_of(task: Task, rows: int) -> dict[str, Any]:
    """Inputs of the model, without labels."""
    assert task.train_transform is not None and task.data_collator is not None
    columns = task.train_transform(task.train[:rows])
    batch = task.data_collator([{name: column[i] for name, column in columns.items()} for i in range(rows)])
    return {name: value for name, value in batch.items() if name != "labels"}


def served(task: Task, selections: Sequence[Sequence[str]], inputs: dict[str, Any], repeats: int) -> list[list[float]]:
    """Milliseconds of answering the tasks, for each selection, in turn."""
    models = []
    for blocks in selections:
        with tempfile.TemporaryDirectory() as folder:
            peft: Any = get_peft_model(copy.deepcopy(task.model), SubTuningConfig(blocks=list(blocks)))  # type: ignore[arg-type]
            peft.save_pretrained(folder)
            models.append(MultiTaskModel.from_adapters(task.model, {f"task{n}": folder for n in range(TASKS)}))
    found: list[list[float]] = [[] for _ in models]
    for repeat in range(repeats + 1):
        for model, seconds in zip(models, found, strict=True):
            started = time.perf_counter()
            model(**inputs)
            if repeat:
                seconds.append(1000 * (time.perf_counter() - started))
    return found


def case(options: argparse.Namespace, setting: Setting, seed: int) -> dict[str, Any]:
    """One setting."""
    task = load(setting, options.bench, seed)
    inputs = batch_of(task, options.batch)
    profile = measure_latency(task.model, inputs, TASKS, 15, name=setting.name)
    folder = options.output_dir / f"{setting.name}_seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    profile.save(folder / "latency.json")
    save_figure(plot_latency(profile), folder / "latency")
    with tempfile.TemporaryDirectory() as copied:
        shutil.copytree(folder_of(options.truth, setting, seed), copied, dirs_exist_ok=True)

        def trainer(**asked: Any) -> Any:
            return make_trainer(setting, task, Path(copied), seed, max_blocks=1, **asked)

        aware = {"latency_profile": str(folder / "latency.json"), "serving_aware": True}
        plain_found, aware_found = trainer().search(), trainer(**aware).search()
        selections = [list(plain_found.blocks), list(aware_found.blocks)]
        scores = [trainer().repeat(task.test, num_repeats=options.seeds, blocks=blocks) for blocks in selections]
    return {
        "setting": setting.name,
        "seed": seed,
        "plain": selections[0],
        "aware": selections[1],
        "reason": aware_found.reason,
        "test": [[run.metrics["eval_accuracy"] for run in runs] for runs in scores],
        "ms": served(task, selections, inputs, options.repeats),
        "added": [profile.cost(options.batch).relative(blocks) for blocks in selections],
    }


def report(found: Sequence[dict[str, Any]]) -> str:
    """As text."""
    rows = []
    for one in found:
        paired = [100 * (b - a) for a, b in zip(*one["test"], strict=True)]
        error = statistics.stdev(paired) / math.sqrt(len(paired))
        ratio = [b / a for a, b in zip(*one["ms"], strict=True)]
        rows.append(
            [
                f"{one['setting']}, seed {one['seed']}",
                ", ".join(one["plain"]),
                ", ".join(one["aware"]),
                f"{100 * statistics.fmean(one['test'][0]):.1f}",
                f"{100 * statistics.fmean(one['test'][1]):.1f}",
                f"{statistics.fmean(paired):+.1f} ± {error:.1f}",
                f"{one['added'][0]:.2f}",
                f"{one['added'][1]:.2f}",
                f"{statistics.median(ratio):.2f} ({min(ratio):.2f} to {max(ratio):.2f})",
            ]
        )
    heads = ["setting", "plain", "aware", "test", "test", "difference", "added", "added", "time aware / plain"]
    return (
        f"# A search that weighs what blocks cost to serve, {TASKS} tasks\n\n"
        "Test accuracy of either selection (five seeds, the same for both), the latency that it adds in passes of the\n"
        "base, and the time of answering all tasks with the one over that with the other, in turn.\n\n"
        "```\n" + text_table(heads, rows, left=3) + "\n```\n"
    )


def main() -> None:
    """All settings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, required=True, help="folder with models/ and datasets/")
    parser.add_argument("--truth", type=Path, required=True, help="exact profiles of `proxies/truth.py`")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    found = []
    for name, seed in CASES:
        found.append(case(options, SETTINGS[name], seed))
        (options.output_dir / "serving.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        (options.output_dir / "serving.md").write_text(report(found), encoding="utf-8")
    print(report(found))


if __name__ == "__main__":
    main()
