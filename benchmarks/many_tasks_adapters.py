"""
Many tasks on one trunk, against the `Parallel` composition of the adapters library, which needs an older transformers.

    python -m venv OTHER && OTHER/bin/pip install adapters torch
    python benchmarks/many_tasks_adapters.py --python OTHER/bin/python --output-dir benchmarks/results/multitask

Two workers, one in each environment, hold a BERT-base with random weights and as many tasks, and answer in turn, one
pass each. With adapters, a task is a bottleneck adapter in one layer, and a head; `Parallel` repeats the batch from it
on. Here, a task is a copy of that whole layer, and a head: more weights for each task, the same layers repeated.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

LAYERS = 12
SPREAD = -1  # as a layer: the tasks tune different ones, from the third to the last


def layers_of(tasks: int, layer: int) -> list[int]:
    """The tuned layer of each task."""
    if layer != SPREAD:
        return [layer] * tasks
    return [2 + round(n * (LAYERS - 3) / max(tasks - 1, 1)) for n in range(tasks)]


def inputs_of(batch: int) -> dict[str, torch.Tensor]:
    """Texts of 32 tokens."""
    ids = torch.randint(5, 30000, (batch, 32))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def trunk(tasks: int, layer: int) -> tuple[Callable[[dict[str, torch.Tensor]], Any], Callable[[int], float]]:
    """This package: a pass, and what sharing can win at a batch size."""
    from peft import get_peft_model
    from transformers import BertConfig, BertForSequenceClassification

    from subtuning_hf import MultiTaskModel, SubTuningConfig

    base: Any = BertForSequenceClassification(BertConfig(num_labels=10))
    with tempfile.TemporaryDirectory() as folder:
        adapters = {}
        for number, tuned in enumerate(layers_of(tasks, layer)):
            adapters[f"task{number}"] = path = f"{folder}/{tuned}"
            if not Path(path).exists():
                peft: Any = get_peft_model(copy.deepcopy(base), SubTuningConfig(blocks=[tuned], num_labels=10))
                peft.save_pretrained(path)
        model = MultiTaskModel.from_adapters(base.eval(), adapters)
    return (lambda inputs: model(**inputs)), lambda batch: model.plan(batch_size=batch).speedup


def parallel(tasks: int, layer: int) -> tuple[Callable[[dict[str, torch.Tensor]], Any], Callable[[int], float]]:
    """The adapters library."""
    from adapters import BertAdapterModel, SeqBnConfig  # type: ignore[import-not-found]
    from adapters.composition import Parallel  # type: ignore[import-not-found]
    from transformers import BertConfig

    model: Any = BertAdapterModel(BertConfig()).eval()
    names = [f"task{n}" for n in range(tasks)]
    tuned = set(layers_of(tasks, layer))  # all tasks have an adapter in each of them: other tasks raise a TypeError
    for name in names:
        model.add_adapter(name, config=SeqBnConfig(leave_out=[n for n in range(LAYERS) if n not in tuned]))
        model.add_classification_head(name, num_labels=10)
    model.active_adapters = Parallel(*names)
    model.active_head = names
    model.eval()
    return (lambda inputs: model(**inputs)), lambda batch: 0.0


def work(options: argparse.Namespace) -> None:
    """Answer requests: a line with a batch size is a pass, and its seconds are the answer."""
    torch.set_num_threads(1)
    answer, speedup = {"trunk": trunk, "parallel": parallel}[options.worker](options.tasks, options.layer)
    batches: dict[int, Any] = {}
    with torch.inference_mode():
        for line in sys.stdin:
            batch = int(line)
            if batch not in batches:
                batches[batch] = inputs_of(batch)
                answer(batches[batch])
            started = time.perf_counter()
            answer(batches[batch])
            print(json.dumps([time.perf_counter() - started, speedup(batch)]), flush=True)


def measure(options: argparse.Namespace, tasks: int, layer: int) -> list[dict[str, Any]]:
    """Both workers in turn."""
    workers = {}
    for name, python in (("trunk", sys.executable), ("parallel", options.python)):
        command = [python, __file__, "--worker", name, "--tasks", str(tasks), "--layer", str(layer)]
        workers[name] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def ask(name: str, batch: int) -> list[float]:
        pipe: Any = workers[name]
        pipe.stdin.write(f"{batch}\n")
        pipe.stdin.flush()
        return json.loads(pipe.stdout.readline())

    found = []
    for batch in options.batches:
        seconds: dict[str, list[float]] = {name: [] for name in workers}
        bound = 0.0
        for repeat in range(options.repeats + 1):
            for name in workers if repeat % 2 else reversed(workers):
                took, most = ask(name, batch)
                bound = max(bound, most)
                if repeat:  # the first of each warms up
                    seconds[name].append(took)
        found.append({"tasks": tasks, "layer": layer, "batch": batch, "bound": bound, "seconds": seconds})
        ratio = statistics.median(seconds["parallel"]) / statistics.median(seconds["trunk"])
        print(f"layer {layer}, {tasks} tasks, batch {batch}: Parallel takes {ratio:.2f} times as long", flush=True)
    for worker in workers.values():
        worker.stdin.close()  # type: ignore[union-attr]
        worker.wait()
    return found


def report(found: list[dict[str, Any]]) -> str:
    """As text."""
    lines = ["# One trunk against `Parallel` of the adapters library, BERT-base, one thread\n"]
    lines += ["| tuned layer | tasks | batch | one trunk, s | Parallel / one trunk |", "|---|---|---|---|---|"]
    for one in found:
        ratios = [b / a for a, b in zip(one["seconds"]["trunk"], one["seconds"]["parallel"], strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        median = statistics.median(one["seconds"]["trunk"])
        layer = "2 to 11, one each" if one["layer"] == SPREAD else one["layer"]
        lines.append(f"| {layer} | {one['tasks']} | {one['batch']} | {median:.3f} | {spread} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, or be a worker."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", help="of the environment with adapters")
    parser.add_argument("--output-dir", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--worker", choices=["trunk", "parallel"], help="used by the program itself")
    parser.add_argument("--tasks", type=int)
    parser.add_argument("--layer", type=int)
    options = parser.parse_args()
    if options.worker:
        work(options)
        return
    found = [one for tasks in (4, 16) for layer in (2, 8, 11, SPREAD) for one in measure(options, tasks, layer)]
    options.output_dir.mkdir(parents=True, exist_ok=True)
    path = options.output_dir / "adapters.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (options.output_dir / "adapters.md").write_text(report(found), encoding="utf-8")
    print(report(found))


if __name__ == "__main__":
    main()
