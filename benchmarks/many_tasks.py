"""
Many tasks on one trunk, against answering each task by itself.

    python benchmarks/many_tasks.py --output-dir benchmarks/results/multitask

A ResNet-50, a ViT-S/16 and a BERT-base with random weights (time and memory do not depend on them); every task tunes
one block, early, at two thirds, or the last one, and has a head of its own. Measured in one process, in rotating
order: the tasks on one trunk; as many separate models; one PEFT model that switches its adapter for every task; and
PEFT's mixed batch with LoRA of rank 8 in the same blocks. Next to each ratio stands what the arithmetic of the plan
allows. With one thread the clock is the processor's time of this process, which other programs of the machine disturb
little; with several it is the time that passed. Peak memory is taken in processes of their own. Finished measurements
are kept: give the same command again.
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
import transformers
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from subtuning_hf import MultiTaskModel, SubTuningConfig, find_blocks, lora_config_for_blocks

VARIANTS = ("one trunk", "separate models", "set_adapter", "mixed LoRA")
MODELS = ("resnet-50", "vit-s", "bert-base")
DEPTHS = ("early", "two thirds", "last")


def variants_of(name: str) -> tuple[str, ...]:
    """Those that PEFT allows: its mixed batches refuse a head that is no single layer, as ResNet's is."""
    return VARIANTS[:-1] if name == "resnet-50" else VARIANTS


def build(name: str) -> nn.Module:
    """A model of realistic size with random weights."""
    torch.manual_seed(0)
    if name == "resnet-50":
        return ResNetForImageClassification(ResNetConfig(num_labels=10)).eval()
    if name == "vit-s":
        sizes = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
        return ViTForImageClassification(ViTConfig(num_labels=10, **sizes)).eval()
    return BertForSequenceClassification(BertConfig(num_labels=10)).eval()


def inputs_of(name: str, batch: int) -> dict[str, torch.Tensor]:
    """A batch: images of 224 x 224, or texts of 32 tokens."""
    if name == "bert-base":
        ids = torch.randint(5, 30000, (batch, 32))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {"pixel_values": torch.randn(batch, 3, 224, 224)}


def first_tuned(count: int, depth: str) -> int:
    """The block that is tuned."""
    return {"early": count // 6, "two thirds": 2 * count // 3, "last": count - 1}[depth]


def save_adapters(base: nn.Module, block: str, tasks: int, folder: Path, lora: bool) -> dict[str, Path]:
    """One adapter in as many folders: what is in them takes no part in time or memory."""
    config: Any = lora_config_for_blocks(base, [block], r=8) if lora else SubTuningConfig(blocks=[block], num_labels=10)  # type: ignore[arg-type]
    get_peft_model(copy.deepcopy(base), config).save_pretrained(folder)  # type: ignore[arg-type]
    return {f"task{n}": folder for n in range(tasks)}


def prepare(name: str, depth: str, tasks: int, variant: str) -> tuple[Callable[[dict[str, torch.Tensor]], Any], Any]:
    """A function that answers all tasks for a batch, and what holds the weights."""
    base = build(name)
    blocks = [block.name for block in find_blocks(base)]
    block = blocks[first_tuned(len(blocks), depth)]
    with tempfile.TemporaryDirectory() as folder:
        adapters = save_adapters(base, block, tasks, Path(folder), variant == "mixed LoRA")
        if variant == "one trunk":
            model = MultiTaskModel.from_adapters(base, adapters)
            return (lambda inputs: model(**inputs)), model
        if variant == "separate models":
            models = [copy.deepcopy(base) for _ in adapters]  # a tuned block costs what the block costs
            return (lambda inputs: [one(**inputs) for one in models]), models
        peft: Any = None
        for task, path in adapters.items():
            if peft is None:
                peft = PeftModel.from_pretrained(base, str(path), adapter_name=task)  # type: ignore[arg-type]
            else:
                peft.load_adapter(str(path), adapter_name=task)
    peft.eval()
    if variant == "set_adapter":
        return (lambda inputs: [_switched(peft, task, inputs) for task in adapters]), peft

    def mixed(inputs: dict[str, torch.Tensor]) -> Any:
        rows = len(next(iter(inputs.values())))
        tiled = {key: value.repeat(tasks, *[1] * (value.ndim - 1)) for key, value in inputs.items()}
        return peft(**tiled, adapter_names=[task for task in adapters for _ in range(rows)])

    return mixed, peft


def _switched(peft: Any, task: str, inputs: dict[str, torch.Tensor]) -> Any:
    peft.set_adapter(task)
    return peft(**inputs)


def measure(name: str, depth: str, tasks: int, batches: list[int], repeats: int) -> list[dict[str, Any]]:
    """Every variant at every batch size, in rotating order."""
    variants = variants_of(name)
    runs = {variant: prepare(name, depth, tasks, variant) for variant in variants}
    model: MultiTaskModel = runs["one trunk"][1]
    found = []
    for batch in batches:
        inputs = inputs_of(name, batch)
        seconds: dict[str, list[float]] = {variant: [] for variant in variants}
        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        with torch.inference_mode():
            for answer, _ in runs.values():
                answer(inputs)
            for repeat in range(repeats):
                for place in range(len(variants)):
                    variant = variants[(place + repeat) % len(variants)]
                    started = clock()
                    runs[variant][0](inputs)
                    seconds[variant].append(clock() - started)
        bound = model.plan(batch_size=batch).speedup
        found.append(
            {"model": name, "depth": depth, "tasks": tasks, "batch": batch, "bound": bound, "seconds": seconds}
            | {"clock": clock.__name__}
        )
        ratio = statistics.median(seconds["separate models"]) / statistics.median(seconds["one trunk"])
        print(f"{name}, {depth}, {tasks} tasks, batch {batch}: {ratio:.2f} times, bound {bound:.2f}", flush=True)
    return found


def peak_mb() -> float:
    """Most memory of this process since it was reset; what the system counts otherwise begins with the parent's."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def memory(name: str, depth: str, tasks: int, batch: int, variant: str) -> dict[str, Any]:
    """Of this process: bytes that the weights take, and the peak after a pass beyond what was there before."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before = peak_mb()
    answer, holder = prepare(name, depth, tasks, variant)
    parts = holder if isinstance(holder, list) else [holder]
    tensors = {t.data_ptr(): t.nbytes for part in parts for t in [*part.parameters(), *part.buffers()]}
    with torch.inference_mode():
        answer(inputs_of(name, batch))
    peak = peak_mb() - before
    own = 0
    if isinstance(holder, MultiTaskModel):
        own = sum(
            t.nbytes
            for task in holder.tasks
            for m in holder.own_modules(task).values()
            for t in m.state_dict().values()
        )
    base = sum(t.nbytes for t in build(name).state_dict().values())
    return {
        "model": name, "depth": depth, "tasks": tasks, "batch": batch, "variant": variant,
        "weights_mb": sum(tensors.values()) / 1e6, "peak_mb": peak, "own_mb": own / 1e6, "base_mb": base / 1e6,
    }  # fmt: skip


def report(found: list[dict[str, Any]], memories: list[dict[str, Any]]) -> str:
    """Ratios within each repeat, as text."""
    lines = ["# Many tasks on one trunk, one thread of a CPU\n"]
    lines.append(
        "Times of each way over that of one trunk: median over repeats, lowest to highest. `bound` is the ratio"
    )
    lines.append("of the arithmetic, `reached` the part of it that the median over separate models is. `cpu`: time of")
    lines.append("the processor; `wall`: time that passed, on a machine that had other work too.\n")
    lines.append(
        "| model | tuned block | tasks | batch | clock | one trunk, s | separate models | bound | reached "
        "| set_adapter | mixed LoRA |"
    )
    lines.append("|---|---|---|---|---|---|---|---|---|---|---|")
    places = [list(MODELS), list(DEPTHS)]
    for one in sorted(
        found, key=lambda a: (places[0].index(a["model"]), places[1].index(a["depth"]), a["tasks"], a["batch"])
    ):
        seconds = one["seconds"]
        own = seconds["one trunk"]
        cells = []
        for variant in VARIANTS[1:]:
            if variant not in seconds:
                cells.append("refused")
                continue
            ratios = [other / ours for other, ours in zip(seconds[variant], own, strict=True)]
            cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        reached = statistics.median(b / a for a, b in zip(own, seconds["separate models"], strict=True)) / one["bound"]
        lines.append(
            f"| {one['model']} | {one['depth']} | {one['tasks']} | {one['batch']} | "
            f"{'cpu' if one.get('clock') == 'process_time' else 'wall'} | {statistics.median(own):.3f} | "
            f"{cells[0]} | {one['bound']:.2f} | {reached:.0%} | {cells[1]} | {cells[2]} |"
        )
    if memories:
        lines += ["\nMemory, each way in a process of its own:\n"]
        lines += [
            "| model | tuned block | tasks | batch | way | weights, MB | trunk + tuned, MB | peak, MB |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for one in memories:
            needed = f"{one['base_mb'] + one['own_mb']:.1f}" if one["own_mb"] else ""
            lines.append(
                f"| {one['model']} | {one['depth']} | {one['tasks']} | {one['batch']} | {one['variant']} | "
                f"{one['weights_mb']:.1f} | {needed} | {one['peak_mb']:.0f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Everything that is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=MODELS)
    parser.add_argument("--depths", nargs="*", default=list(DEPTHS), choices=DEPTHS)
    parser.add_argument("--tasks", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", help="JSON: measure this variant here, and print what was measured")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.logging.set_verbosity_error()
    if options.memory:
        print(json.dumps(memory(**json.loads(options.memory))))
        return
    options.output_dir.mkdir(parents=True, exist_ok=True)
    path = options.output_dir / "multitask.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"times": [], "memory": []}

    def keep() -> None:
        path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        (options.output_dir / "multitask.md").write_text(report(kept["times"], kept["memory"]), encoding="utf-8")

    for name in options.models:
        for asked in [
            {"model": name, "depth": "last", "tasks": 16, "batch": 8, "variant": v} for v in variants_of(name)
        ]:
            if not any(asked.items() <= one.items() for one in kept["memory"]):
                arguments = {**asked, "name": asked["model"]}
                del arguments["model"]
                command = [sys.executable, __file__, "--output-dir", str(options.output_dir), "--memory"]
                done = subprocess.run([*command, json.dumps(arguments)], capture_output=True, text=True, check=True)
                kept["memory"].append(json.loads(done.stdout.splitlines()[-1]))
                keep()
        for depth in options.depths:
            for tasks in options.tasks:
                asked = {"model": name, "depth": depth, "tasks": tasks}
                known = [one["batch"] for one in kept["times"] if asked.items() <= one.items()]
                if missing := [batch for batch in options.batches if batch not in known]:
                    kept["times"] += measure(name, depth, tasks, missing, options.repeats)
                    keep()


if __name__ == "__main__":
    main()
