"""
What the choice of a search that predicts is worth, and what it costs: against the exact search, on test rows.

    python benchmarks/proxies/choose.py --bench BENCH --output-dir benchmarks/results/proxies

For each setting whose exact profile is known: the search with predictions, one full fine-tune beside it in the same
process, and then the selections of both searches trained on all training rows with several seeds, the same for both,
and scored on test rows that chose nothing. The exact search's selection is that of its greedy search where that was
run, else the best single block. One line for each (setting, seed) is appended to `choices.jsonl`; what is there already
is left out. With `--times` only the clock is read: search and full fine-tune in turn, one line for each in
`times.jsonl`, which the report prefers.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers

from subtuning_hf.compare import Task
from subtuning_hf.search.greedy import replay
from subtuning_hf.search.journal import read_study
from subtuning_hf.search.records import SearchSpec

sys.path.insert(0, str(Path(__file__).parent))
from predict import full_fine_tune
from settings import SETTINGS, Setting, load
from truth import MAX_BLOCKS, folder_of, make_trainer


def exact_choice(folder: Path, setting: Setting) -> tuple[str, ...] | None:
    """The selection of the exact search, `None` while trainings are missing."""
    if not (folder / "journal").exists():
        return None
    study = read_study(folder / "journal")
    state = replay(study.spec, SearchSpec(max_blocks=MAX_BLOCKS if setting.greedy else 1), study.evaluations)
    return state.selection.blocks if state.finished else None


def in_turn(options: argparse.Namespace, setting: Setting, seed: int, task: Task, folder: Path) -> tuple[Any, ...]:
    """Full fine-tune and search, one after the other, several times: trainer, result, seconds of both."""
    most = 1 if options.same_bound and not setting.greedy else MAX_BLOCKS
    tuned, searched = [], []
    for repeat in range(options.repeats):  # each in a folder of its own: a journal knows the answer
        trainer = make_trainer(setting, task, folder / str(repeat), seed, strategy=options.strategy, max_blocks=most)
        tuned.append(full_fine_tune(task, setting, seed))
        started = time.perf_counter()
        result = trainer.search()
        searched.append(time.perf_counter() - started)
    assert result.proposal is not None
    return trainer, result, searched, tuned


def clock(options: argparse.Namespace, setting: Setting, seed: int) -> dict[str, Any]:
    """What one setting's search takes beside a full fine-tune."""
    task = load(setting, options.bench, seed)
    with tempfile.TemporaryDirectory(prefix="choose-") as folder:
        full_fine_tune(task, setting, seed)  # the first one pays for what is loaded once
        _, result, searched, tuned = in_turn(options, setting, seed, task, Path(folder))
    return {
        "setting": setting.name,
        "seed": seed,
        "strategy": options.strategy,
        "chosen": sorted(result.blocks),
        "search_seconds": searched,
        "full_fine_tune_seconds": tuned,
    }


def choose(
    options: argparse.Namespace, setting: Setting, seed: int, exact: tuple[str, ...], known: dict[str, list[float]]
) -> dict[str, Any]:
    """One setting; selections whose test scores are known are not trained again."""
    task = load(setting, options.bench, seed)
    with tempfile.TemporaryDirectory(prefix="choose-") as folder:
        trainer, result, searched, tuned = in_turn(options, setting, seed, task, Path(folder))
        tests = dict(known)
        for blocks in dict.fromkeys((tuple(sorted(result.blocks)), tuple(sorted(exact)))):
            if " + ".join(blocks) in tests:
                continue
            runs = trainer.repeat(task.test, num_repeats=options.seeds_of_training, blocks=list(blocks))
            tests[" + ".join(blocks)] = [run.metrics["eval_accuracy"] for run in runs]
    return {
        "setting": setting.name,
        "seed": seed,
        "strategy": options.strategy,
        "chosen": sorted(result.blocks),
        "exact": sorted(exact),
        "test": tests[" + ".join(sorted(result.blocks))],
        "exact_test": tests[" + ".join(sorted(exact))],
        "fine_tunes": result.proposal.planned,
        "search_seconds": searched,
        "full_fine_tune_seconds": tuned,
        "reason": result.reason,
    }


def read_clock(options: argparse.Namespace) -> None:
    """Times that are not there yet."""
    path = options.output_dir / "times.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    done = {(line["setting"], line["seed"], line["strategy"]) for line in map(json.loads, lines)}
    for seed in options.seeds:
        for name in options.settings:
            if (name, seed, options.strategy) in done:
                continue
            found = clock(options, SETTINGS[name], seed)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(found) + "\n")
            ratios = [a / b for a, b in zip(found["search_seconds"], found["full_fine_tune_seconds"], strict=True)]
            print(f"{name} {seed}: search / full fine-tune {[round(one, 2) for one in ratios]}", flush=True)


def main() -> None:
    """Everything that is not there yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, required=True, help="folder with models/ and datasets/")
    parser.add_argument("--output-dir", type=Path, required=True, help="holds truth/ too")
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--strategy", default="short-profile")
    parser.add_argument("--same-bound", action="store_true", help="allow one block where only a profile is the truth")
    parser.add_argument("--repeats", type=int, default=3, help="of the search and the full fine-tune, for their times")
    parser.add_argument("--seeds-of-training", type=int, default=5)
    parser.add_argument("--times", action="store_true", help="only read the clock")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    if options.times:
        return read_clock(options)
    path = options.output_dir / "choices.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    found_before = [json.loads(line) for line in lines]
    done = {(line["setting"], line["seed"], line["strategy"]) for line in found_before}
    for seed in options.seeds:
        for name in options.settings:
            setting = SETTINGS[name]
            exact = exact_choice(folder_of(options.output_dir / "truth", setting, seed), setting)
            if exact is None or (name, seed, options.strategy) in done:
                continue
            known = {
                " + ".join(line[blocks]): line[test]
                for line in found_before
                if (line["setting"], line["seed"]) == (name, seed)
                for blocks, test in (("chosen", "test"), ("exact", "exact_test"))
            }
            found = choose(options, setting, seed, exact, known)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(found) + "\n")
            mean = {key: 100 * sum(found[key]) / len(found[key]) for key in ("test", "exact_test")}
            ours, theirs = ", ".join(found["chosen"]), ", ".join(found["exact"])
            seconds = [[round(one) for one in found[key]] for key in ("search_seconds", "full_fine_tune_seconds")]
            print(f"{name} {seed}: {ours} {mean['test']:.1f} %, exact {theirs} {mean['exact_test']:.1f} %; {seconds} s")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
