"""`subtuning evaluate --config recipe.yaml`: score a saved adapter on the recipe's test split."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import AdapterMismatchError, RecipeError
from .predict_origin import Origin
from .session import Session, adapter_blocks, add_recipe_arguments, open_session, report

DESCRIPTION = """\
Score the adapter in args.output_dir, or another one, on the recipe's test split.

  subtuning evaluate --config recipe.yaml
  subtuning evaluate --config recipe.yaml --adapter user/adapter-on-the-hub data.max_test_rows=500
  subtuning evaluate --config recipe.yaml --adapter user/adapter-on-the-hub@v2     # or --revision v2
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `subtuning evaluate`."""
    add_recipe_arguments(parser, "load everything, print what would be scored, score nothing")
    parser.add_argument("--adapter", metavar="ADAPTER", help="folder or Hub name; by default args.output_dir")
    parser.add_argument("--revision", help="branch, tag or commit of the adapter on the Hub")


def run(options: argparse.Namespace) -> int:
    """Load, score, report."""
    origin = origin_of(options)  # before anything is loaded
    session = open_session(options)
    from .predict_model import with_adapter

    model = with_adapter(session.prepared.model, origin)
    check_labels(model, session, origin)
    session.say(f"adapter: {origin}\nrows: {len(session.prepared.test):,}")
    if options.dry_run:
        session.say(f"blocks: {', '.join(adapter_blocks(model)) or 'none, the head alone'}\nNothing was scored.")
        return 0
    metrics = score(session, model)
    if session.prints:
        session.folder.mkdir(parents=True, exist_ok=True)
        report(session.folder, adapter_blocks(model), metrics)
    return 0


def origin_of(options: argparse.Namespace) -> Origin:
    """
    Which adapter is scored.

    Raises: [`RecipeError`]: If there is none where the recipe says, or a revision has no adapter of the Hub.
    """
    if options.adapter is not None:
        return Origin.of(options.adapter, options.revision)
    if options.revision is not None:
        raise RecipeError("--revision is of an adapter on the Hub. Name it with --adapter.")
    from .recipe import load_recipe
    from .session import build_arguments

    folder = Path(build_arguments(load_recipe(options.config, options.overrides)).output_dir)
    check_adapter(folder, options.config)
    return Origin(str(folder))


def check_adapter(folder: Path, recipe: str) -> None:
    """
    Refuse a folder without an adapter.

    Raises: [`RecipeError`]
    """
    if not (folder / "adapter_config.json").is_file():
        raise RecipeError(
            f"There is no adapter in '{folder}'. Train one with `subtuning search --config {recipe}`, or name another "
            "with --adapter."
        )


def check_labels(model: Any, session: Session, origin: Origin) -> None:
    """
    Refuse an adapter whose classes are not those of the data: their indices would mean other things.

    Raises: [`AdapterMismatchError`]
    """
    own = model.peft_config[model.active_adapter].id2label or {}
    data = session.prepared.test.features[session.recipe.data.label_column].names
    adapter = [own[index] for index in sorted(own)]
    if adapter and adapter != list(data):
        raise AdapterMismatchError(
            f"The adapter '{origin}' tells {len(adapter)} classes apart ({', '.join(adapter[:3])} ...), the data has "
            f"{len(data)} ({', '.join(data[:3])} ...). Name the data it was trained for, or another adapter."
        )


def score(session: Session, model: Any) -> dict[str, float]:
    """Metrics of the test rows, with the prefix `test_`."""
    from transformers import Trainer

    from ..training.data import view
    from .metrics import compute_metrics_with

    session.arguments.label_names = ["labels"]  # which Trainer cannot read off a PeftModel
    trainer = Trainer(
        model=model,
        args=session.arguments,
        data_collator=session.prepared.data_collator,
        processing_class=session.prepared.processor,
        compute_metrics=compute_metrics_with(session.recipe.metric),
    )
    rows = view(session.prepared.test, None, session.prepared.eval_transform)
    return trainer.evaluate(rows, metric_key_prefix="test")
