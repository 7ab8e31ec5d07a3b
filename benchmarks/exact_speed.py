"""
The exact search against the loop that a competent user would write with Trainer.

    python benchmarks/exact_speed.py contrast-300 --bench BENCH --output-dir benchmarks/results/exact_speed/contrast-300

The loop reads and preprocesses every row once, copies the model for each candidate, and trains and scores it with a
plain Trainer on the same folds, epochs, seeds, padding and threads; it decides by the same rule, so its decisions must
be those of the search. Beside it: the search without its cache, with it, and with certain elimination or a race on top.
All run one after the other in every repeat, in rotating order. Next to the measured ratios stands the bound: the ratio
of the arithmetic that is left when nothing frozen is computed twice.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import get_peft_model
from transformers import PrinterCallback, Trainer, TrainingArguments, set_seed

from subtuning_hf import SubTuningConfig, find_blocks
from subtuning_hf.compare import Task
from subtuning_hf.compare.task import QUIET
from subtuning_hf.search.folds import make_folds
from subtuning_hf.search.greedy import replay
from subtuning_hf.search.records import BlockInfo, Candidate, Evaluation, SearchSpec, StudySpec
from subtuning_hf.training.proposing import forward_shares

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "proxies"))
from settings import NUM_FOLDS, SETTINGS, Setting, load
from truth import make_trainer

VARIANTS: dict[str, dict[str, Any]] = {
    "search, no cache": {"prefix_cache": False},
    "search": {},
    "search, certain": {"pruner": "certain"},
    "search, race 0.9": {"pruner": "race", "confidence": 0.9},
}


# --- the loop --------------------------------------------------------------------------------
def plain_loop(task: Task, setting: Setting, seed: int, max_blocks: int) -> tuple[tuple[str, ...], int]:
    """The greedy search as a loop over plain Trainers: the selection, and the number of trainings."""
    names = task.train["label"]
    folds = make_folds(len(names), NUM_FOLDS, seed, labels=names)
    assert task.train_transform is not None
    columns = task.train_transform(task.train[:])
    rows = [{name: column[i] for name, column in columns.items()} for i in range(len(names))]
    blocks = tuple(BlockInfo(block.name, block.num_parameters) for block in find_blocks(task.model))
    spec = StudySpec(blocks=blocks, num_folds=NUM_FOLDS, metric="eval_accuracy", greater_is_better=True)
    search, evaluations = SearchSpec(max_blocks=max_blocks), list[Evaluation]()
    while not (state := replay(spec, search, evaluations)).finished:
        for unit in state.pending:
            fold = folds[unit.fold]
            score = train_and_score(
                task, setting, seed, unit.candidate, [rows[i] for i in fold.train], [rows[i] for i in fold.validation]
            )
            evaluations.append(Evaluation(unit.candidate, unit.fold, score, len(fold.validation)))
    return state.selection.blocks, len(evaluations)


def train_and_score(
    task: Task, setting: Setting, seed: int, candidate: Candidate, train: Sequence[Any], validation: Sequence[Any]
) -> float:
    """One training of the loop."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, **{**QUIET, **task.arguments, "seed": seed, "learning_rate": setting.learning_rate}
        )
        set_seed(seed)
        model = get_peft_model(copy.deepcopy(task.model), SubTuningConfig(blocks=list(candidate.blocks)))  # type: ignore
        trainer = Trainer(
            model,
            arguments,
            train_dataset=train,  # type: ignore[arg-type]
            data_collator=task.data_collator,
            compute_metrics=task.compute_metrics,
        )
        trainer.remove_callback(PrinterCallback)
        set_seed(seed)
        trainer.train()
        return float(trainer.evaluate(validation)["eval_accuracy"])  # type: ignore[arg-type]


# --- the bound -------------------------------------------------------------------------------
def work_of(shares: Sequence[float], first: int, start: int, rows: int, scored: int, epochs: int) -> float:
    """
    Forward passes of the whole model that one training is worth.

    Args:
        shares (`Sequence[float]`): Each block's share of a forward pass.
        first (`int`): The first tuned block; a backward pass reaches down to it.
        start (`int`): The block at which a forward pass begins.
        rows (`int`), scored (`int`), epochs (`int`): Rows trained on in each epoch, and rows scored once.
    """
    forward = 1.0 - sum(shares[:start])
    head = 1.0 - sum(shares)
    # Gradients of what is passed on, from the head down to the first tuned block, and of one block's weights.
    backward = sum(shares[first + 1 :]) + 2 * sum(shares[first : first + 1]) + head
    return epochs * rows * (forward + backward) + scored * forward


def bound_of(
    evaluations: Sequence[Evaluation], order: Sequence[str], shares: Sequence[float], setting: Setting
) -> float:
    """The arithmetic of the loop over that of a search that computes nothing frozen twice; `order` names the blocks."""
    plain = cached = 0.0
    for evaluation in evaluations:
        first = min((order.index(name) for name in evaluation.candidate.blocks), default=len(order))
        scored = evaluation.num_examples
        rows = setting.rows - scored
        plain += work_of(shares, first, 0, rows, scored, setting.epochs)
        cached += work_of(shares, first, first, rows, scored, setting.epochs)
    return plain / (cached + setting.rows)


# --- measuring -------------------------------------------------------------------------------
def measure(options: argparse.Namespace, setting: Setting) -> dict[str, Any]:
    """Every variant in every repeat, one after the other."""
    task = load(setting, options.bench, options.seed)
    runs: dict[str, Callable[[Path], Any]] = {
        "loop": lambda folder: plain_loop(task, setting, options.seed, options.max_blocks)
    }

    def search(asked: dict[str, Any]) -> Callable[[Path], Any]:
        def run(folder: Path) -> Any:
            trainer = make_trainer(setting, task, folder, options.seed, max_blocks=options.max_blocks, **asked)
            return trainer.search()

        return run

    runs.update({name: search(asked) for name, asked in VARIANTS.items()})
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    chosen: dict[str, list[list[str]]] = {name: [] for name in runs}
    trainings: dict[str, int] = {}
    used: list[Evaluation] = []
    for repeat in range(options.repeats):
        order = list(runs)
        order = order[repeat % len(order) :] + order[: repeat % len(order)]
        for name in order:
            folder = Path(tempfile.mkdtemp(prefix="exact-speed-"))
            started = time.perf_counter()
            out = runs[name](folder)
            seconds[name].append(time.perf_counter() - started)
            shutil.rmtree(folder, ignore_errors=True)
            blocks = out[0] if name == "loop" else out.blocks
            chosen[name].append(sorted(blocks))
            trainings[name] = out[1] if name == "loop" else out.cost.num_evaluations
            if name == "search":
                used = [each for round_ in out.rounds for each in round_.evaluations]
            print(f"{name:18} {seconds[name][-1]:7.1f} s  {trainings[name]} trainings  {', '.join(blocks)}", flush=True)
    assert task.train_transform is not None and task.data_collator is not None
    rows = task.train_transform(task.train[:8])
    batch = task.data_collator([{key: column[i] for key, column in rows.items()} for i in range(8)])
    names = [block.name for block in find_blocks(task.model)]
    bound = bound_of(used, names, forward_shares(task.model, names, batch), setting)
    return {"seconds": seconds, "chosen": chosen, "trainings": trainings, "bound": bound}


def report(found: dict[str, Any], title: str) -> str:
    """Ratios as text."""
    loop = found["seconds"]["loop"]
    lines = [f"# {title}\n", "```", f"{'':18} {'median s':>9} {'loop / it':>10} {'lowest':>7} {'highest':>8} trainings"]
    for name, seconds in found["seconds"].items():
        ratios = [one / other for one, other in zip(loop, seconds, strict=True)]
        lines.append(
            f"{name:18} {statistics.median(seconds):9.1f} {statistics.median(ratios):10.2f} {min(ratios):7.2f} "
            f"{max(ratios):8.2f} {found['trainings'][name]:9}"
        )
    same = all(
        picked == found["chosen"]["loop"][0]
        for name in ("loop", *list(VARIANTS)[:3])
        for picked in found["chosen"][name]
    )
    lines += [
        "```",
        f"\nBound from arithmetic alone, the same trainings: {found['bound']:.2f}.",
        f"Decisions of loop, search and certain elimination equal: {same}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure one setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", choices=list(SETTINGS))
    parser.add_argument("--bench", type=Path, required=True, help="folder with models/ and datasets/")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max-blocks", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output-dir", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    setting = SETTINGS[options.setting]
    found = measure(options, setting)
    options.output_dir.mkdir(parents=True, exist_ok=True)
    (options.output_dir / "exact_speed.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    shown = f"{setting.name}: {setting.rows} rows, {setting.epochs} epochs, {NUM_FOLDS} folds, 1 thread"
    text = report(found, f"Exact search against a loop over Trainers, {shown}")
    (options.output_dir / "exact_speed.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
