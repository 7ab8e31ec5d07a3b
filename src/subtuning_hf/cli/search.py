"""`subtuning search --config recipe.yaml`: choose blocks, train them, score the test split, save the adapter."""

from __future__ import annotations

import argparse
import json

from .session import RESUMES, add_recipe_arguments, open_session, train_and_report

__all__ = ["DESCRIPTION", "RESUMES", "add_arguments", "run"]

DESCRIPTION = """\
Run a recipe: choose the blocks on the training split, train the chosen ones on all of it, score
the test split once, save the adapter in args.output_dir.

A stopped search goes on where it was: give the same command again. Any value of the recipe can be
replaced; a key without a section belongs to `args`:

  subtuning search --config recipes/resnet-18_image-folder/search.yaml data.path=./photos num_folds=3
  subtuning search --config recipe.yaml --dry-run
  subtuning search --config recipe.yaml --start-from user/adapter
  accelerate launch -m subtuning_hf.cli search --config recipe.yaml

--start-from names an adapter of the same base, as a folder or on the Hub, with the journal of its
search: its blocks are tried first. What they scored there is not used.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `subtuning search`."""
    add_recipe_arguments(parser, "print the plan and a time estimate, train nothing")
    parser.add_argument(
        "--start-from", metavar="ADAPTER", help="folder or Hub name of an adapter whose blocks are tried first"
    )


def run(options: argparse.Namespace) -> int:
    """Search, train, evaluate, save."""
    if options.start_from is not None:
        options.overrides = [*options.overrides, f"args.start_from={json.dumps(options.start_from)}"]
    session = open_session(options)
    trainer = session.trainer()
    trainer.search()  # prints its progress, and the ladder or the plan
    if not options.dry_run:
        train_and_report(session, trainer, None)
    return 0
