"""
The default search where the answer is not one label: a label for each token, a number, the next token.

    python benchmarks/text_tasks.py --bench BENCH --output-dir benchmarks/results/text_tasks

- `truecasing`: which words of a question were written with a capital (MiniLM, which reads lower case; TREC questions).
- `sentiment`: how positive a review is, as a number between 0 and 1, squared error (MiniLM; SST-2).
- `language`: a small GPT-2 over bytes, trained from nothing on reviews (SST-2), then tuned to questions (TREC); the
  score is its loss, here in bits for each byte.

Each is tuned with the head alone (for `language`: not at all), with the blocks that the default search chooses, and
with all blocks; each of these tries three learning rates on one third of the training rows, and is then trained on all
of them with three seeds. Everything is journalled: give the same command again after a stop. `--report` only writes
the table.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset, load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from subtuning_hf import GreedySubTuningArguments, GreedySubTuningTrainer, find_blocks
from subtuning_hf.cli.metrics import compute_metrics_with

CONTEXT = 128  # bytes
WAYS = ("untouched", "head alone", "SubTuning", "all blocks")
RATES = (0.25, 1.0, 4.0)  # of a problem's learning rate


@dataclass(frozen=True)
class Problem:
    """A model and its rows, ready for a Trainer; `metric` by name, `None` for the loss."""

    model: Any
    train: Dataset
    test: Dataset
    collator: Any
    metric: str | None
    higher_is_better: bool
    epochs: int
    learning_rate: float
    unit: str
    shown: Callable[[float], float]


def texts(bench: Path, name: str, split: str, count: int | None, seed: int) -> Dataset:
    """Rows of a data set, drawn by a seed."""
    rows = load_dataset(str(bench / "datasets" / name), split=split)
    return rows if count is None else rows.shuffle(seed=seed).select(range(min(count, len(rows))))


# --- problems --------------------------------------------------------------------------------
def truecasing(bench: Path, rows: int, seed: int, _: Path) -> Problem:
    """One label for each word's first token: written with a capital or not."""
    folder = str(bench / "models" / "minilm_l6_h384")
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def tokens(row: dict[str, Any]) -> dict[str, Any]:
        words = row["text"].split()
        out = tokenizer(words, is_split_into_words=True, truncation=True, max_length=64)
        labels, before = [], None
        for word in out.word_ids():
            # The first word of a question says nothing, and what follows a word's first token belongs to it.
            asked = word is not None and word != before and word > 0
            labels.append(int(words[word][0].isupper()) if asked else -100)
            before = word
        return {"input_ids": out["input_ids"], "attention_mask": out["attention_mask"], "labels": labels}

    def read(split: str, count: int, drawn: int) -> Dataset:
        found = texts(bench, "trec6", split, count, drawn)
        return found.map(tokens, remove_columns=found.column_names)

    set_seed(seed)
    model = AutoModelForTokenClassification.from_pretrained(folder, num_labels=2, dtype=torch.float32)
    collator = DataCollatorForTokenClassification(tokenizer)
    train, test = read("train", rows, seed), read("test", 500, 0)
    return Problem(model, train, test, collator, "f1", True, 6, 4e-4, "F1, %", lambda score: 100 * score)


def sentiment(bench: Path, rows: int, seed: int, _: Path) -> Problem:
    """A number for each review."""
    folder = str(bench / "models" / "minilm_l6_h384")
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def tokens(row: dict[str, Any]) -> dict[str, Any]:
        out = tokenizer(row["text"], truncation=True, max_length=64)
        return {"input_ids": out["input_ids"], "attention_mask": out["attention_mask"], "labels": float(row["label"])}

    def read(split: str, count: int, drawn: int) -> Dataset:
        found = texts(bench, "sst2", split, count, drawn)
        return found.map(tokens, remove_columns=found.column_names)

    set_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=1, problem_type="regression", dtype=torch.float32
    )
    train, test = read("train", rows, seed), read("test", 1000, 0)
    collator = DataCollatorWithPadding(tokenizer)
    return Problem(model, train, test, collator, "mse", False, 6, 4e-4, "squared error", lambda score: score)


def as_bytes(rows: Dataset) -> Dataset:
    """Texts, one after the other, in pieces of `CONTEXT` bytes."""
    joined = "\n".join(rows["text"]).encode("utf-8")
    pieces = [list(joined[at : at + CONTEXT]) for at in range(0, len(joined) - CONTEXT + 1, CONTEXT)]
    return Dataset.from_dict({"input_ids": pieces, "labels": pieces})


def language(bench: Path, rows: int, seed: int, work: Path) -> Problem:
    """The next byte."""
    folder = work / "gpt2-reviews"
    if not (folder / "config.json").exists():
        set_seed(0)
        config = GPT2Config(
            vocab_size=256, n_positions=CONTEXT, n_embd=128, n_layer=6, n_head=4, bos_token_id=0, eos_token_id=0
        )
        arguments = TrainingArguments(
            output_dir=str(work / "pretraining"),
            num_train_epochs=4,
            per_device_train_batch_size=32,
            learning_rate=2e-3,
            lr_scheduler_type="cosine",
            warmup_steps=0.05,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            logging_steps=100,
            dataloader_pin_memory=False,
        )
        reviews = as_bytes(texts(bench, "sst2", "train", None, 0))
        trainer = Trainer(
            GPT2LMHeadModel(config), arguments, train_dataset=reviews, data_collator=default_data_collator
        )
        trainer.train()
        trainer.save_model(str(folder))
    model = GPT2LMHeadModel.from_pretrained(folder)
    train, test = as_bytes(texts(bench, "trec6", "train", rows, seed)), as_bytes(texts(bench, "trec6", "test", 500, 0))
    bits = 1 / math.log(2)
    return Problem(
        model, train, test, default_data_collator, None, False, 6, 1e-3, "bits per byte", lambda loss: loss * bits
    )


PROBLEMS = {"truecasing": truecasing, "sentiment": sentiment, "language": language}


# --- trainings -------------------------------------------------------------------------------
def trainer_of(problem: Problem, rows: Dataset, folder: Path, rate: float, seed: int) -> GreedySubTuningTrainer:
    """A trainer of some rows at one learning rate; its journal is in the folder."""
    arguments = GreedySubTuningArguments(
        output_dir=str(folder),
        num_folds=3,
        max_blocks=3,
        num_threads=1,
        num_train_epochs=problem.epochs,
        per_device_train_batch_size=16,
        per_device_eval_batch_size=64,
        learning_rate=rate,
        weight_decay=0.01,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        metric_for_best_model=problem.metric or "loss",
        greater_is_better=problem.higher_is_better,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=seed,
    )
    return GreedySubTuningTrainer(
        model=problem.model,
        args=arguments,
        train_dataset=rows,
        data_collator=problem.collator,
        compute_metrics=compute_metrics_with(problem.metric) if problem.metric else None,
    )


def untouched(problem: Problem, folder: Path) -> float:
    """Test score of the model as it is."""
    arguments = TrainingArguments(
        str(folder), per_device_eval_batch_size=64, report_to=[], disable_tqdm=True, dataloader_pin_memory=False
    )
    trainer = Trainer(problem.model, arguments, eval_dataset=problem.test, data_collator=problem.collator)
    return float(trainer.evaluate()["eval_loss"])


def tuned(problem: Problem, blocks: Sequence[str], folder: Path, seed: int, num_seeds: int) -> dict[str, Any]:
    """The best of three rates on a third of the rows, then test scores of all rows over seeds."""
    name = f"eval_{problem.metric or 'loss'}"
    split = problem.train.train_test_split(test_size=1 / 3, seed=seed)
    trials = {}
    for factor in RATES:
        rate = factor * problem.learning_rate
        trainer = trainer_of(problem, split["train"], folder / f"rate-{rate:g}", rate, seed)
        trials[rate] = trainer.repeat(split["test"], num_repeats=1, blocks=blocks)[0].metrics[name]
    best = (max if problem.higher_is_better else min)(trials, key=lambda rate: trials[rate])
    trainer = trainer_of(problem, problem.train, folder / "final", best, seed)
    runs = trainer.repeat(problem.test, num_repeats=num_seeds, blocks=blocks)
    return {"blocks": list(blocks), "rate": best, "trials": trials, "test": [run.metrics[name] for run in runs]}


def study(options: argparse.Namespace, name: str, seed: int) -> dict[str, Any]:
    """One problem."""
    folder = options.output_dir / f"{name}_seed-{seed}"
    problem = PROBLEMS[name](options.bench, options.rows, seed, options.work_dir)
    searcher = trainer_of(problem, problem.train, folder / "search", problem.learning_rate, seed)
    result = searcher.search()
    print(result.reason, flush=True)
    every = [block.name for block in find_blocks(problem.model)]
    found: dict[str, Any] = {
        "unit": problem.unit,
        "higher_is_better": problem.higher_is_better,
        "profile": {
            one.candidate.blocks[0]: one.score for one in result.proposal.predictions if len(one.candidate.blocks) == 1
        },
    }
    if problem.metric is None:
        found["untouched"] = {"test": [untouched(problem, options.work_dir / "evaluation")]}
    else:
        found["head alone"] = tuned(problem, [], folder / "head", seed, options.num_seeds)
    found["SubTuning"] = tuned(problem, list(result.blocks), folder / "chosen", seed, options.num_seeds)
    found["all blocks"] = tuned(problem, every, folder / "all", seed, options.num_seeds)
    for way in WAYS:
        if way in found:
            found[way]["shown"] = [problem.shown(score) for score in found[way]["test"]]
    (folder / "found.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


# --- report ----------------------------------------------------------------------------------
def report(folder: Path) -> str:
    """The table as Markdown."""
    lines = [
        "# The default search on other tasks than one label per text",
        "",
        "Written by `python benchmarks/text_tasks.py --report` from the journals beside it: mean over three seeds ± "
        "standard deviation, on test rows that chose nothing. Each way tried three learning rates.",
        "",
        "| problem | measure | untouched | head alone | SubTuning | all blocks | SubTuning less all blocks | chosen |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for file in sorted(folder.glob("*/found.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        ways = [_spread(found.get(way, {}).get("shown")) for way in WAYS]
        paired = [a - b for a, b in zip(found["SubTuning"]["shown"], found["all blocks"]["shown"], strict=True)]
        error = statistics.stdev(paired) / math.sqrt(len(paired))
        digits = 1 if "%" in found["unit"] else 4
        gap = f"{statistics.fmean(paired):+.{digits}f} ± {error:.{digits}f}"
        better = "more" if found["higher_is_better"] else "less"
        chosen = ", ".join(".".join(name.split(".")[-2:]) for name in found["SubTuning"]["blocks"])
        cells = [file.parent.name.replace("_seed-", ", draw "), f"{found['unit']} ({better} is better)", *ways, gap]
        lines.append(f"| {' | '.join([*cells, chosen])} |")
    return "\n".join(lines) + "\n"


def _spread(values: Sequence[float] | None) -> str:
    if not values:
        return ""
    digits = 1 if values[0] > 10 else 4
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"


def main() -> None:
    """What is not there yet, and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, help="folder with models/ and datasets/")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, default=Path("out/text_tasks"), help="keeps the small GPT-2")
    parser.add_argument("--problems", nargs="*", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0], help="draws of rows")
    parser.add_argument("--num-seeds", type=int, default=3, help="final trainings of each way")
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    if not options.report:
        if options.bench is None:
            parser.error("--bench is needed, but for --report")
        for seed in options.seeds:
            for name in options.problems:
                study(options, name, seed)
    text = report(options.output_dir)
    (options.output_dir / "text_tasks.md").write_text(text, encoding="utf-8")
    print(text)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
