"""
`subtuning demo`: the main job from end to end, on real images and without a network.

Three methods compete on a scarce and shifted task: a linear probe (LP), a full fine-tune (FT) and SubTuning. All have
the same pretrained model, rows, epochs, folds, number of learning-rate trials and seeds. The search's own learning
rate is the middle one of those that are tried. Whoever is ahead on the test split is named.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..compare import RunLog, Task, Trials
    from ..search.folds import Fold
    from .demo_data import DemoData
    from .demo_model import DemoModel

DESCRIPTION = """\
Greedy SubTuning on real images: scikit-learn's 1,797 scanned digits. No network is needed.

A small model is pretrained on clean digits; the target task is a few hundred corrupted ones. The
search chooses blocks by cross-validation; then SubTuning, a linear probe (LP) and a full fine-tune
(FT) are compared on a test split that nothing else saw. Two to three minutes on two cores with
`--model resnet`, longer with `--model vit`.
"""

RESUMES = "Finished trainings are kept: the same command goes on where this one stopped."
NUM_FOLDS = 3
MAX_BLOCKS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `subtuning demo`."""
    parser.add_argument("--model", choices=["resnet", "vit"], default="resnet", help="default: resnet")
    parser.add_argument("--rows", type=int, default=300, help="labelled images of the target task (default: 300)")
    parser.add_argument("--seeds", type=int, default=3, help="final trainings of each method (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="seed of split, corruption, pretraining and search")
    parser.add_argument("--output-dir", help="default: demo_output/<model>_rows-<rows>_seed-<seed>")
    parser.add_argument("--check-adapter", metavar="DIR", help=argparse.SUPPRESS)


@dataclass
class Demo:
    """What the steps of the demo hand on to each other."""

    options: argparse.Namespace
    folder: Path
    data: DemoData
    settings: DemoModel
    task: Task
    folds: tuple[Fold, ...]
    log: RunLog

    @property
    def seeds(self) -> range:
        return range(self.options.seed, self.options.seed + self.options.seeds)


def run(options: argparse.Namespace) -> int:
    """Run the demo, or (in the process it starts at its end) load its adapter."""
    quiet()
    if options.check_adapter:
        from .demo_adapter import accuracy_of_saved

        print(json.dumps(accuracy_of_saved(Path(options.check_adapter))))
        return 0
    from ..errors import ArgumentsError
    from . import demo_adapter, demo_steps

    if options.seeds < 1:
        raise ArgumentsError(f"--seeds must be at least 1, found {options.seeds}.")
    start = time.perf_counter()
    demo = demo_steps.prepare(options, folder_of(options))
    baselines = demo_steps.tune_baselines(demo)
    trainer, result, trials = demo_steps.search(demo)
    rows = demo_steps.compare(demo, [*baselines, trials], result)
    demo_steps.picture(demo, result, *baselines)
    demo_adapter.save_and_check(demo, trainer, trials, rows)
    say(f"\nDone in {time.perf_counter() - start:.0f} s. Everything is in {demo.folder}/")
    return 0


def folder_of(options: argparse.Namespace) -> Path:
    """A folder per setting, so that another setting is another study."""
    default = f"demo_output/{options.model}_rows-{options.rows}_seed-{options.seed}"
    return Path(options.output_dir or default)


def quiet() -> None:
    """Leave the screen to the demo (no advice of the libraries about their own use), and compute on one thread."""
    import warnings

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["HF_HUB_OFFLINE"] = "1"  # it promises to need no network
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    import datasets
    import torch
    import transformers

    # Models this small gain nothing from more threads, and lose a lot to their waiting for each other on a busy
    # machine. It also makes the numbers the same for any number of cores.
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()


def say(text: str = "") -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)


def headline(number: int, text: str) -> None:
    """Begin a step."""
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    say(f"\n{bold}{number}  {text}{plain}")


def percent(value: float) -> str:
    """`0.947` as `94.7 %`."""
    return f"{100 * value:.1f} %"


def shown_trials(trials: Trials, name: str) -> str:
    """The trials of one method on a line."""
    rates = [settings["learning_rate"] for settings in trials.settings]
    tried = [f"{rate:g}: {100 * trials.mean(place):.1f}" for place, rate in enumerate(rates)]
    best = trials.best["learning_rate"]
    return f"   {name:<10} {'   '.join(tried)}   ->  lr {best:g}, {percent(trials.best_mean)}"
