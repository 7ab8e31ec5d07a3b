"""
Every search on real data, in one study: forward, backward, best, pairs, windows, and the parts of blocks.

    torchrun --nproc_per_node 2 benchmarks/searches.py contrast --model MODELS/cifar10_resnets_option_a \\
        --data DATA/cifar10_c_sev5/contrast --rows 300 --epochs 6 --output-dir benchmarks/results/searches/contrast

Runs with any number of processes, goes on where it was stopped, and repeats nothing: the searches and profiles of one
granularity share a journal. `results.md` has the ladders and profiles, `pictures/` the pictures.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

from subtuning_hf import GreedySubTuningTrainer
from subtuning_hf.cli.main import main as subtuning
from subtuning_hf.compare import Task
from subtuning_hf.search.journal import read_study
from subtuning_hf.search.pareto import pareto_front

sys.path.insert(0, str(Path(__file__).parent))
from real_data import DEFAULTS, load_task, search_trainer, without_folders

# Part of a study, its granularity, and the arguments of its search; the searches share what they have in common.
SEARCHES = {
    "forward": ("block", {"direction": "forward"}),
    "backward": ("block", {"direction": "backward"}),
    "best": ("block", {"direction": "best"}),
    "parts": ("submodule", {"direction": "forward"}),
}
PRUNERS = {"race": {"pruner": "race", "confidence": 0.9}, "halving": {"pruner": "halving"}}
PROFILES = {"windows of 2": {"window": 2}, "windows of 3": {"window": 3}, "pairs": {"pairs": True}}


def parse() -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("setting", choices=list(DEFAULTS))
    parser.add_argument("--model", required=True, help="folder of the model")
    parser.add_argument("--data", required=True, help="folder or Hub name of the data set")
    parser.add_argument("--rows", type=int, default=300, help="training rows, drawn by --seed")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--learning-rate", type=float, help="default: the middle one of real_data.py")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip", nargs="*", default=[], choices=[*SEARCHES, *PROFILES], help="leave these out")
    parser.add_argument("--max-parts", type=int, default=1, help="parts of blocks to choose; 1 is their profile")
    parser.add_argument("--pruners", action="store_true", help="also run forward, backward and parts with pruners")
    parser.add_argument("--output-dir", type=Path, required=True)
    options = parser.parse_args()
    defaults = DEFAULTS[options.setting]
    options.epochs = options.epochs or defaults["epochs"]
    options.batch_size = options.batch_size or defaults["batch_size"]
    rates = sorted(defaults["learning_rates"])
    options.learning_rate = options.learning_rate or rates[len(rates) // 2]
    return options


def make_trainer(options: argparse.Namespace, task: Task, granularity: str, **asked: Any) -> GreedySubTuningTrainer:
    """A trainer for one search; those of one granularity share a folder."""
    shared = {"num_folds": options.folds, "seed": options.seed, "learning_rate": options.learning_rate}
    folder = options.output_dir / granularity
    return search_trainer(task, folder, granularity=granularity, num_threads=1, **shared, **asked)


def main() -> None:
    """Run all searches and profiles of one setting."""
    options = parse()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    task = load_task(options)
    lines = [
        f"# Searches: {options.setting}, {len(task.train)} rows, {options.folds} folds, {options.epochs:g} epochs, "
        f"learning rate {options.learning_rate:g}, seed {options.seed}",
        f"\n`benchmarks/searches.py {' '.join(map(without_folders, sys.argv[1:]))}`",
    ]
    trainer = None
    for name, (granularity, asked) in SEARCHES.items():
        if name not in options.skip:
            asked = {**asked, "max_blocks": options.max_parts} if name == "parts" else asked
            trainer = make_trainer(options, task, granularity, **asked)
            lines += [f"\n## {name}\n\n```", trainer.search().table(), "```"]
            for pruner, how in PRUNERS.items() if options.pruners and name != "best" else ():
                trainer = make_trainer(options, task, granularity, **asked, **how)
                lines += [f"\n## {name}, {pruner}\n\n```", trainer.search().table(), "```"]
    for name, asked in PROFILES.items():
        if name not in options.skip:
            trainer = make_trainer(options, task, "block")
            lines += [f"\n## {name}\n\n```", trainer.profile(**asked).table(), "```"]
    if trainer is None or not trainer.is_world_process_zero():
        return
    study = read_study(options.output_dir / "block" / "journal")
    lines += ["\n## Pareto front\n\n```", pareto_front(study.spec, study.evaluations).table(), "```"]
    (options.output_dir / "results.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for granularity in ("block", "submodule"):
        folder = options.output_dir / granularity
        if (folder / "journal").exists():
            pictures = str(options.output_dir / "pictures" / granularity)
            subtuning(["plot", str(folder), "--output-dir", pictures, "--format", "png", "--theme", "light"])


if __name__ == "__main__":
    main()
