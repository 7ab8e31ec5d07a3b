"""
What cheap choices are judged by: the exact profile of every setting, and the exact greedy search of some.

    python benchmarks/proxies/truth.py --bench BENCH --output-dir benchmarks/results/proxies/truth

Every finished training is in a journal: give the same command again after a stop. Several processes (torchrun) share
the work.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

from subtuning_hf import GreedySubTuningTrainer
from subtuning_hf.compare import Task

sys.path.insert(0, str(Path(__file__).parent))
from settings import NUM_FOLDS, SETTINGS, Setting, load

sys.path.insert(0, str(Path(__file__).parent.parent))
from real_data import search_trainer

MAX_BLOCKS = 3


def folder_of(output_dir: Path, setting: Setting, seed: int) -> Path:
    """Where the truth of a setting is."""
    return output_dir / f"{setting.name}_seed-{seed}"


def make_trainer(setting: Setting, task: Task, folder: Path, seed: int, **asked: Any) -> GreedySubTuningTrainer:
    """A trainer over the folds of a setting."""
    shared: dict[str, Any] = {
        "num_folds": NUM_FOLDS,
        "seed": seed,
        "learning_rate": setting.learning_rate,
        "num_threads": 1,
        "max_blocks": MAX_BLOCKS,
    }
    return search_trainer(task, folder, **{**shared, **asked})


def main() -> None:
    """Profiles first, then greedy searches."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, required=True, help="folder with models/ and datasets/")
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    for seed in options.seeds:
        for name in options.settings:
            setting = SETTINGS[name]
            task = load(setting, options.bench, seed)
            trainer = make_trainer(setting, task, folder_of(options.output_dir, setting, seed), seed)
            print(f"{name}, seed {seed}\n{trainer.profile().table()}", flush=True)
            if setting.greedy:
                print(trainer.search().table(), flush=True)


if __name__ == "__main__":
    main()
