"""`subtuning search --config recipe.yaml`: choose blocks, train them, score the test split, save the adapter."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

DESCRIPTION = """\
Run a recipe: choose the blocks on the training split, train the chosen ones on all of it, score
the test split once, save the adapter in args.output_dir.

A stopped search goes on where it was: give the same command again. Any value of the recipe can be
replaced; a key without a section belongs to `args`:

  subtuning search --config recipes/resnet-18_image-folder/search.yaml data.path=./photos num_folds=3
  subtuning search --config recipe.yaml --dry-run
"""

RESUMES = "Finished evaluations are in the journal: the same command goes on where this one stopped."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `subtuning search`."""
    parser.add_argument("--config", required=True, metavar="RECIPE", help="the recipe, a YAML file")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and a time estimate, train nothing")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="replace a value of the recipe")


def run(options: argparse.Namespace) -> int:
    """Search, train, evaluate, save."""
    from .recipe import load_recipe

    recipe = load_recipe(options.config, options.overrides)  # before torch is loaded: a typo should cost no seconds
    from .recipe import check_arguments
    from .recipe_data import prepare

    arguments = build_arguments(recipe.args, recipe.metric, options.dry_run, recipe.data.label_column, check_arguments)
    trainer, test = build_trainer(prepare(recipe), arguments, recipe.metric)
    trainer.search()  # prints its progress, and the ladder or the plan
    if options.dry_run:
        return 0
    trainer.train()
    metrics = trainer.evaluate(test, metric_key_prefix="test")
    trainer.save_model()
    if trainer.is_world_process_zero():
        report(trainer, metrics, Path(arguments.output_dir))
    return 0


def build_arguments(values: dict[str, Any], metric: str, dry_run: bool, label_column: str, check: Any) -> Any:
    """
    [`GreedySubTuningArguments`] of a recipe: the score is its metric unless it says otherwise.

    Raises: [`RecipeError`]: If `output_dir` is missing or a field is unknown.
    """
    from ..errors import RecipeError
    from ..training import GreedySubTuningArguments

    values = check(values, GreedySubTuningArguments)
    if not values.get("output_dir"):
        raise RecipeError("args.output_dir is missing: the folder of the journal and of the adapter.")
    defaults = {
        "metric_for_best_model": metric,
        "greater_is_better": True,
        "remove_unused_columns": False,  # the transforms need the raw columns
        "label_column": label_column,
        "disable_tqdm": False,  # whatever the libraries' log level is
        "dry_run": dry_run,
    }
    if "metric_for_best_model" in values:
        defaults.pop("greater_is_better")  # another score may be a loss
    return GreedySubTuningArguments(**{**defaults, **values, **({"dry_run": True} if dry_run else {})})


def build_trainer(prepared: Any, arguments: Any, metric: str) -> tuple[Any, Any]:
    """The trainer, which never gets the test rows, and the test rows ready for its `evaluate`."""
    from ..training import GreedySubTuningTrainer
    from .metrics import compute_metrics_with

    trainer = GreedySubTuningTrainer(
        model=prepared.model,
        args=arguments,
        train_dataset=prepared.train,
        train_transform=prepared.train_transform,
        eval_transform=prepared.eval_transform,
        data_collator=prepared.data_collator,
        processing_class=prepared.processor,
        compute_metrics=compute_metrics_with(metric),
    )
    return trainer, prepared.test


def report(trainer: Any, metrics: dict[str, float], folder: Path) -> None:
    """Print what came out, and keep it as JSON beside the adapter."""
    blocks = list(trainer.result.blocks)
    found = {"blocks": blocks, **{key: value for key, value in metrics.items() if key.startswith("test_")}}
    (folder / "test_results.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"blocks: {', '.join(blocks) or 'none is worth it: the adapter is a head alone'}")
    for key, value in found.items():
        if key.startswith("test_") and not key.endswith(("_runtime", "_per_second")):
            print(f"{key}: {value:.4f}")
    print(f"adapter: {folder}")
