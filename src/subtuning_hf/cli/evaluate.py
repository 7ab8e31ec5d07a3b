"""`subtuning evaluate --config recipe.yaml`: score a saved adapter on the recipe's test split."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import AdapterMismatchError, RecipeError
from .session import Session, adapter_blocks, add_recipe_arguments, open_session, report

DESCRIPTION = """\
Score the adapter in args.output_dir, or another one, on the recipe's test split.

  subtuning evaluate --config recipe.yaml
  subtuning evaluate --config recipe.yaml --adapter user/adapter-on-the-hub data.max_test_rows=500
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `subtuning evaluate`."""
    add_recipe_arguments(parser, "load everything, print what would be scored, score nothing")
    parser.add_argument("--adapter", metavar="ADAPTER", help="folder or Hub name; by default args.output_dir")


def run(options: argparse.Namespace) -> int:
    """Load, score, report."""
    from .recipe import load_recipe
    from .session import build_arguments

    if options.adapter is None:  # before anything is loaded
        folder = Path(build_arguments(load_recipe(options.config, options.overrides)).output_dir)
        check_adapter(folder, options.config)
    session = open_session(options)
    name = options.adapter or session.arguments.output_dir
    model = load_adapter(session.prepared.model, name)
    check_labels(model, session, name)
    session.say(f"adapter: {name}\nrows: {len(session.prepared.test):,}")
    if options.dry_run:
        session.say(f"blocks: {', '.join(adapter_blocks(model)) or 'none, the head alone'}\nNothing was scored.")
        return 0
    metrics = score(session, model)
    if session.prints:
        session.folder.mkdir(parents=True, exist_ok=True)
        report(session.folder, adapter_blocks(model), metrics)
    return 0


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


def load_adapter(base: Any, name: str) -> Any:
    """
    An adapter on its base.

    Args:
        base (`transformers.PreTrainedModel`): The base model.
        name (`str`): Folder or Hub name.

    Raises: [`RecipeError`]: If there is none. Errors of adapters that do not fit are their own.
    """
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(base, name).eval()
    except (OSError, ValueError) as error:
        from ..errors import SubTuningError

        if isinstance(error, SubTuningError):
            raise
        raise RecipeError(f"No adapter '{name}': {str(error).strip().splitlines()[0]}") from error


def check_labels(model: Any, session: Session, name: str) -> None:
    """
    Refuse an adapter whose classes are not those of the data: their indices would mean other things.

    Raises: [`AdapterMismatchError`]
    """
    own = model.peft_config[model.active_adapter].id2label or {}
    data = session.prepared.test.features[session.recipe.data.label_column].names
    adapter = [own[index] for index in sorted(own)]
    if adapter and adapter != list(data):
        raise AdapterMismatchError(
            f"The adapter '{name}' tells {len(adapter)} classes apart ({', '.join(adapter[:3])} ...), the data has "
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
