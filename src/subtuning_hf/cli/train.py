"""`subtuning train --config recipe.yaml`: train chosen blocks on the whole training split, save the adapter."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from .session import RESUMES, Session, add_recipe_arguments, open_session, train_and_report

__all__ = ["DESCRIPTION", "RESUMES", "add_arguments", "run"]

DESCRIPTION = """\
Train blocks on the whole training split, score the test split, save the adapter in args.output_dir.

Which blocks: those of --blocks, else those of `train.blocks` in the recipe, else those that the
search in args.output_dir chose. Where no search has been finished, one is run first.

  subtuning train --config recipe.yaml --blocks 3 '*.stages.3.*'
  subtuning train --config recipe.yaml train.repeats=5
  accelerate launch --config_file accelerate_configs/multi_gpu.yaml -m subtuning_hf.cli train --config recipe.yaml

Options that take several values end at the next option, so overrides go before --blocks.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `subtuning train`."""
    add_recipe_arguments(parser, "print what would be trained, train nothing")
    parser.add_argument(
        "--blocks", nargs="*", metavar="BLOCK", help="names, indices or patterns; none at all for the head alone"
    )


def run(options: argparse.Namespace) -> int:
    """Train what is asked for, else what was found, else what a search finds."""
    session = open_session(options)
    blocks = chosen_blocks(options.blocks, session.recipe.train.blocks)
    trainer = session.trainer()
    if not options.dry_run:
        train_and_report(session, trainer, blocks)
    elif blocks is None:
        trainer.search()  # prints the plan, and how much of it the journal holds
        session.say(f"Then the chosen blocks are trained on all {len(session.prepared.train):,} rows.")
    else:
        session.say(plan(session, blocks))
    return 0


def chosen_blocks(words: Sequence[str] | None, listed: Sequence[str | int] | None) -> list[str | int] | None:
    """
    Blocks that are asked for, those of the command line first.

    Args:
        words (`Sequence[str]`, *optional*): From the command line, where an index is text.
        listed (`Sequence[str | int]`, *optional*): From the recipe.

    Returns: `list[str | int]` or `None`: None to take what the search chose.
    """
    if words is None:
        return None if listed is None else list(listed)
    return [int(word) if word.lstrip("-").isdigit() else word for word in words]


def plan(session: Session, blocks: Sequence[str | int]) -> str:
    """`str`: what the training of these blocks would be."""
    from ..blocks import find_head, resolve_blocks

    model: Any = session.prepared.model
    args = session.arguments
    names, head = resolve_blocks(model, blocks, granularity=args.granularity), find_head(model)
    count = sum(p.numel() for name in [*names, *head] for p in model.get_submodule(name).parameters())
    rows, seeds = len(session.prepared.train), session.recipe.train.repeats
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    length = f"{args.max_steps} steps" if args.max_steps > 0 else f"{args.num_train_epochs:g} epochs"
    return "\n".join(
        [
            f"blocks: {', '.join(names) or ('none: the head alone' if head else 'none, and the model has no head')}",
            f"trained: {count:,} parameters{', head included' if head else ', the model has no head'}",
            f"rows: {rows:,} to train on, {len(session.prepared.test):,} to score",
            f"length: {length}, {batch} rows a step, {seeds} seed{'s' * (seeds > 1)}, {args.world_size} "
            f"process{'es' * (args.world_size > 1)}",
            f"adapter: {session.folder}",
            "Nothing was trained or written.",
        ]
    )
