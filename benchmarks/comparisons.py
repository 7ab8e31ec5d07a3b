"""
SubTuning beside other ways to fine-tune, on real data: who wins where.

    python benchmarks/comparisons.py --bench BENCH --output-dir benchmarks/results/comparisons
    python benchmarks/comparisons.py --output-dir benchmarks/results/comparisons --report

Every method gets the same rows and epochs, trials of hyperparameters on one shared fold (four spread alike, two placed
by one rule beside its best or beyond an edge), and five final seeds. One folder for each setting and draw of rows, with
all finished runs: give the same command again after a stop. `--report` writes `comparisons.md` from what is there.
`--bench` is a folder with `models/` and `datasets/`.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from subtuning_hf.compare import CORE, METHODS, compare, comparison_table

sys.path.insert(0, str(Path(__file__).parent / "proxies"))
from settings import Setting, load

VTAB = "vtab-cifar100"
_IMAGE, _TEXT = (32, 4e-3), (32, 4e-4)
# Name, model, data, rows, epochs, batch and rate, test rows. Fewer rows get more epochs, as a user would give them.
SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("contrast-300", "resnet20", "cifar10_c_sev5/contrast", 300, 12, *_IMAGE),
        Setting("trec6-100", "minilm", "trec6", 100, 10, *_TEXT, 500),
        Setting("digits-300", "resnet20", "sign_digits", 300, 12, *_IMAGE, 500),
        Setting("noise-300", "resnet20", "cifar10_c_sev5/gaussian_noise", 300, 12, *_IMAGE),
        Setting("sst2-100", "minilm", "sst2", 100, 10, *_TEXT),
        Setting("contrast-100", "resnet20", "cifar10_c_sev5/contrast", 100, 20, *_IMAGE),
        Setting("digits-100", "resnet20", "sign_digits", 100, 20, *_IMAGE, 500),
        Setting("noise-100", "resnet20", "cifar10_c_sev5/gaussian_noise", 100, 20, *_IMAGE),
        Setting("mobilenet-digits-200", "mobilenet", "sign_digits", 200, 8, 16, 2e-3, 500),
        Setting("cifar100-600", "resnet20", "cifar100", 600, 10, *_IMAGE, classes=20),
        Setting("trec6-300", "minilm", "trec6", 300, 6, *_TEXT, 500),
        Setting("deep-contrast-300", "resnet32", "cifar10_c_sev5/contrast", 300, 12, *_IMAGE),
        Setting("contrast-1000", "resnet20", "cifar10_c_sev5/contrast", 1000, 8, *_IMAGE),
        Setting("digits-1000", "resnet20", "sign_digits", 1000, 8, *_IMAGE, 500),
        Setting("sst2-300", "minilm", "sst2", 300, 6, *_TEXT),
        # With `--folds 5` the protocol of VTAB-1k: trials learn from 800 rows and are scored by 200.
        Setting(VTAB, "resnet20", "cifar100", 1000, 10, *_IMAGE, 2000),
    )
}

# Compared before the default search joined ties, with the first draw of rows; the results made us look for that rule.
SEEN = {("contrast-300", 0), ("trec6-100", 0), ("digits-300", 0), ("noise-300", 0), ("sst2-100", 0),
        ("contrast-100", 0)}  # fmt: skip
SIGNS = (
    "`+` or `-`: above or below SubTuning, by the 95 % interval of the paired difference, which counts seeds and test "
    "rows (Student's t), and counts neither another draw of training rows nor that hyperparameters were chosen on few; "
    "no sign: a tie; `=`: the same blocks. `°`: the best learning rate is still the lowest or the highest that was "
    "tried. `†`: compared before the rule that joins ties was made, and what made us look for it."
)


def run(options: argparse.Namespace, setting: Setting, seed: int) -> None:
    """One setting and draw of rows."""
    folder = options.output_dir / f"{setting.name}_seed-{seed}"
    started = time.perf_counter()
    found = compare(
        load(setting, options.bench, seed),
        options.methods,
        learning_rate=setting.learning_rate,
        num_trials=options.trials,
        num_refinements=options.refinements,
        num_seeds=options.seeds_of_training,
        num_folds=options.folds,
        tuning_folds=options.tuning_folds,
        seed=seed,
        output_dir=folder,
        search_arguments={"num_threads": 1, "disable_tqdm": True, "max_blocks": 3, "prefix_cache_gb": 2.0},
        say=lambda text: print(f"  {text}", flush=True),
    )
    print(f"{setting.name}, seed {seed}, {time.perf_counter() - started:.0f} s\n{found.table()}\n", flush=True)


Found = dict[tuple[str, int], list[dict[str, Any]]]


# --- report ----------------------------------------------------------------------------------
def read(folder: Path) -> Found:
    """Finished comparisons by setting and draw."""
    found = {}
    for file in sorted(folder.glob("*_seed-*/comparison.json")):
        name, seed = file.parent.name.rsplit("_seed-", 1)
        found[name, int(seed)] = json.loads(file.read_text(encoding="utf-8"))["methods"]
    known = list(SETTINGS)
    return dict(sorted(found.items(), key=lambda item: (known.index(item[0][0]), item[0][1])))


def report(folder: Path, other: Path | None = None) -> str:
    """The tables as Markdown; with the same settings in another folder beside."""
    found = read(folder)
    names = [name for name in METHODS if any(row["method"] == name for rows in found.values() for row in rows)]
    lines = [
        "# SubTuning beside other ways to fine-tune",
        "",
        "Written by `python benchmarks/comparisons.py --report` from the runs beside it. Test accuracy in percent, "
        f"mean over five seeds; every method had the same rows and epochs, and six trials on {shared_folds(folder)} of "
        "the training rows: four of learning rate, head's learning rate and, where it has one, a third hyperparameter, "
        "spread alike, then two of the learning rate beside its best one, or beyond it where that was at an edge. The "
        f"number in a setting's name is that of its training rows. {SIGNS}",
        "",
        *overview(found, names),
        "",
        "## Against SubTuning, over settings",
        "",
        *tally(found, names),
        "",
        *(beside(found, folder, read(other), other, names) if other is not None else []),
        "## Setting by setting",
        "",
    ]
    for (name, seed), rows in found.items():
        chosen = next((row["choosing"]["words"] for row in rows if row["method"] == "SubTuning"), "")
        lines += [f"### {name}, draw {seed}", "", "```", comparison_table(rows), "```", "", chosen, ""]
    return "\n".join(lines)


def beside(ours: Found, folder: Path, others: Found, other: Path, names: Sequence[str]) -> list[str]:
    """What the number of folds that score trials changes."""
    lines = [f"| setting | trials on | {' | '.join(names)} |", "|---" * (2 + len(names)) + "|"]
    for key in [key for key in ours if key in others]:
        for place, rows in ((other, others[key]), (folder, ours[key])):
            means = {row["method"]: f"{100 * row['mean']:.1f}" for row in rows}
            cells = " | ".join(means.get(name, "") for name in names)
            lines.append(f"| {titled(*key)} | {shared_folds(place, *key)} | {cells} |")
    return ["## Trials on one fold and on more", "", *lines, ""]


def shared_folds(folder: Path, name: str = "*", seed: int | str = "*") -> str:
    """By how many folds trials are scored, in words."""
    counts = set()
    for file in folder.glob(f"{name}_seed-{seed}/comparison.json"):
        trials = json.loads(file.read_text(encoding="utf-8"))["trials"].values()
        counts |= {len(scores) for one in trials for scores in one["fold_scores"]}
    words = " or ".join("one" if count == 1 else str(count) for count in sorted(counts))
    return f"{words} shared fold{'' if counts == {1} else 's'}"


def overview(found: Found, names: Sequence[str]) -> list[str]:
    lines = ["| setting | " + " | ".join(names) + " | blocks |", "|---|" + "---|" * (len(names) + 1)]
    for (name, seed), rows in found.items():
        by_name = {row["method"]: row for row in rows}
        best = max(row["mean"] for row in rows)
        cells = []
        for method in names:
            row = by_name.get(method)
            if row is None:
                cells.append("")
                continue
            outcome = {"wins": "+", "loses": "-"}.get((row.get("against") or {}).get("outcome", ""), "")
            if method != "SubTuning" and is_same(row, by_name.get("SubTuning")):
                outcome = "="
            text = f"{100 * row['mean']:.1f}{outcome}{'°' if row['learning_rate_at_edge'] else ''}"
            cells.append(f"**{text}**" if row["mean"] == best else text)
        blocks = ", ".join(by_name["SubTuning"]["blocks"] or ["none"]) if "SubTuning" in by_name else ""
        lines.append(f"| {titled(name, seed)} | " + " | ".join(cells) + f" | {blocks} |")
    return lines


def titled(name: str, seed: int) -> str:
    """A setting in a table."""
    return f"{name}, draw {seed}{' †' if (name, seed) in SEEN else ''}"


def is_same(row: dict[str, Any], ours: dict[str, Any] | None) -> bool:
    """Whether a method that chooses blocks has chosen ours."""
    return ours is not None and bool(row["blocks"]) and sorted(row["blocks"]) == sorted(ours["blocks"] or [])


def tally(found: Found, names: Sequence[str]) -> list[str]:
    lines = [
        "| method | SubTuning wins | ties | loses | SubTuning less it, points | at an edge | trains | adapter "
        "| s / run | choosing |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in names:
        pairs = [(row, rows) for rows in found.values() for row in rows if row["method"] == name]
        theirs = [row for row, _ in pairs]
        ours = [next(row for row in rows if row["method"] == "SubTuning") for _, rows in pairs]
        outcomes = [(row.get("against") or {}).get("outcome") for row in theirs]
        gaps = [0.0 - 100 * row["against"]["mean"] for row in theirs if row.get("against")]
        counts = [str(outcomes.count(word)) if gaps else "" for word in ("loses", "ties", "wins")]
        ratios = [
            _middle([row[key] / own[key] for row, own in zip(theirs, ours, strict=True) if row[key] and own[key]])
            for key in ("trainable_parameters", "adapter_bytes", "seconds")
        ]
        edges = str(sum(bool(row["learning_rate_at_edge"]) for row in theirs))
        gap = f"{statistics.fmean(gaps):+.1f} ({min(gaps):+.1f} to {max(gaps):+.1f})" if gaps else ""
        cells = [*counts, gap, edges, *(f"{ratio:.2f}" for ratio in ratios), _price(theirs)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    words = (
        "Points: mean over settings, lowest to highest; settings share data sets, so that they are not as many "
        "independent tests. `at an edge`: settings in which the best learning rate is the lowest or highest tried. "
        "What follows are medians of ratios to SubTuning's, and what choosing blocks takes before the six trials, "
        "most often on two thirds of the rows: whole trainings of a selection, or full fine-tunes by count of "
        "arithmetic."
    )
    return [*lines, "", words]


def _price(rows: Sequence[dict[str, Any]]) -> str:
    """What choosing took, in the middle of settings."""
    trainings = _middle([row["choosing"]["trainings"] for row in rows])
    predicted = [row["choosing"]["fine_tunes"] for row in rows if row["choosing"].get("fine_tunes")]
    if predicted:
        return f"{_middle(predicted):.1f} fine-tunes"
    return f"{trainings:.0f} trainings" if trainings else ""


def _middle(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan


def main() -> None:
    """Settings that are not there yet, or the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, help="folder with models/ and datasets/")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument(
        "--settings", nargs="*", default=[name for name in SETTINGS if name != VTAB], choices=list(SETTINGS)
    )
    parser.add_argument("--methods", nargs="*", default=list(CORE), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0], help="draws of rows, folds and new heads")
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--refinements", type=int, default=2)
    parser.add_argument("--seeds-of-training", type=int, default=5)
    parser.add_argument("--folds", type=int, default=3, help="choices are scored by all of them")
    parser.add_argument("--tuning-folds", type=int, default=1, help="trials are scored by the first so many")
    parser.add_argument("--report", action="store_true", help="write tables from what is there, train nothing")
    parser.add_argument("--beside", type=Path, help="with --report: a folder of the same settings, to be shown beside")
    options = parser.parse_args()
    if options.report:
        text = report(options.output_dir, options.beside)
        (options.output_dir / "comparisons.md").write_text(text + "\n", encoding="utf-8")
        print(text)
        return
    if options.bench is None:
        parser.error("--bench is needed, but for --report")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    for seed in options.seeds:
        for name in options.settings:
            run(options, SETTINGS[name], seed)


if __name__ == "__main__":
    main()
