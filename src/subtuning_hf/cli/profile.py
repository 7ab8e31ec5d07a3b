"""`subtuning profile --config recipe.yaml`: what each block alone, or each window or pair, is worth."""

from __future__ import annotations

import argparse
import json

from .session import RESUMES, add_recipe_arguments, open_session

__all__ = ["DESCRIPTION", "RESUMES", "add_arguments", "run"]

DESCRIPTION = """\
The finetuning profile: train each block alone on the folds of the training split, and print what
each is worth beside the head alone. The recipe's section `profile` asks for windows of consecutive
blocks, for all pairs, or for repeats with several seeds. The test split is not touched.

A search of the same recipe reuses what this has trained, and the other way round:

  subtuning profile --config recipes/resnet50_vtab-cifar100/profile.yaml
  subtuning profile --config recipe.yaml profile.window=2
  subtuning profile --config recipe.yaml profile.pairs=true --dry-run
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `subtuning profile`."""
    add_recipe_arguments(parser, "print the plan and a time estimate, train nothing")


def run(options: argparse.Namespace) -> int:
    """Score the candidates, print the table, keep it as JSON beside the journal."""
    session = open_session(options)
    asked = session.recipe.profile
    profile = session.trainer().profile(window=asked.window, pairs=asked.pairs, repeats=asked.repeats)
    if options.dry_run:
        return 0
    kind = "pairs" if asked.pairs else "blocks" if asked.window == 1 else f"windows-{asked.window}"
    file = session.folder / f"profile_{kind}.json"
    if session.prints:
        rows = [] if profile.head_only is None else [profile.head_only]
        content = {"metric": profile.metric, "num_folds": profile.num_folds, "rows": profile.to_rows()}
        content["head_only"] = rows[0].mean if rows else None
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    session.say(f"{profile.table()}\nprofile: {file}\npictures: subtuning plot {session.folder}")
    return 0
