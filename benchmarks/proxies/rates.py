"""
Does the learning rate change which block is best, and how well that is predicted?

    python benchmarks/proxies/rates.py --bench BENCH --output-dir benchmarks/results/proxies

The exact profile of two settings at a quarter of their learning rate, at it, and at four times it, and what the short
profile predicts at the same rate. Every finished training is in a journal: give the same command again after a stop.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers

from subtuning_hf.proposal.short_profile import ShortProfileProposal
from subtuning_hf.search.tables import text_table

sys.path.insert(0, str(Path(__file__).parent))
from problems import agreement, problem_of, read_truth, spearman
from settings import SETTINGS, load
from truth import folder_of, make_trainer

FACTORS = (0.25, 1.0, 4.0)


def study(options: argparse.Namespace, name: str, seed: int) -> list[list[str]]:
    """The rows of one setting."""
    rows: list[list[str]] = []
    first: dict[Any, float] = {}
    for factor in sorted(FACTORS, key=lambda one: one != 1.0):
        setting = replace(SETTINGS[name], learning_rate=SETTINGS[name].learning_rate * factor)
        truths = options.output_dir / ("truth" if factor == 1.0 else f"rates/{factor:g}")
        task = load(setting, options.bench, seed)
        make_trainer(setting, task, folder_of(truths, setting, seed), seed).profile()
        truth = read_truth(truths, setting, seed)
        assert truth is not None
        exact = {(block,): truth.mean((block,)) for block in truth.blocks}
        first = first or exact
        prediction = ShortProfileProposal().fit(problem_of(task, setting, seed), 0.5)
        found = agreement(truth, {key: prediction(key).score for key in exact})
        best = max(exact, key=lambda key: exact[key])
        rows.append(
            [
                f"{name}, seed {seed}",
                f"{setting.learning_rate:g}",
                best[0],
                f"{100 * exact[best]:.1f}",
                f"{spearman(list(exact.values()), [first[key] for key in exact]):.2f}",
                f"{found.spearman:.2f}",
                f"{100 * found.regret:.1f}",
            ]
        )
        print(rows[-1], flush=True)
    return sorted(rows, key=lambda row: float(row[1]))


def main() -> None:
    """All settings, one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, required=True, help="folder with models/ and datasets/")
    parser.add_argument("--output-dir", type=Path, required=True, help="holds truth/ too")
    parser.add_argument("--settings", nargs="*", default=["contrast-300", "trec6-200"], choices=list(SETTINGS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    rows = [row for name in options.settings for row in study(options, name, options.seed)]
    heads = ["setting", "rate", "best block", "score", "Spearman with the middle rate", "predicted: Spearman", "regret"]
    text = "```\n" + text_table(heads, rows, left=3) + "\n```\n"
    (options.output_dir / "rates.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
