"""
What the commands that run a recipe share: reading it, building its trainer, training, scoring, reporting.

Every process of a launch runs the same; the first one alone prints and writes. Knows recipes and the trainer; the
commands say what is done with them.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RecipeError, SubTuningError
from .recipe import Recipe, load_recipe

RESUMES = "Finished evaluations are in the journal: the same command goes on where this one stopped."
_TIMING = ("_runtime", "_per_second", "_preparation_time")


def add_recipe_arguments(parser: argparse.ArgumentParser, dry_run: str) -> None:
    """
    The options of every command that runs a recipe.

    Args:
        parser (`argparse.ArgumentParser`): The command's parser.
        dry_run (`str`): What `--dry-run` prints.
    """
    parser.add_argument("--config", required=True, metavar="RECIPE", help="the recipe, a YAML file")
    parser.add_argument("--dry-run", action="store_true", help=dry_run)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="replace a value of the recipe")


@dataclass
class Session:
    """
    A recipe that is ready to run.

    Args:
        recipe ([`Recipe`]): The recipe.
        arguments ([`GreedySubTuningArguments`]): Its arguments.
        prepared ([`Prepared`]): Its model and data.
    """

    recipe: Recipe
    arguments: Any
    prepared: Any

    @property
    def folder(self) -> Path:
        """`Path`: where journal, adapter and reports are."""
        return Path(self.arguments.output_dir)

    @property
    def prints(self) -> bool:
        """`bool`: whether this is the process that prints and writes."""
        return self.arguments.process_index == 0

    def say(self, text: str) -> None:
        """Print, in the first process only."""
        if self.prints:
            print(text, flush=True)

    def trainer(self) -> Any:
        """The trainer, which never gets the test rows."""
        from ..training import GreedySubTuningTrainer
        from .metrics import compute_metrics_with

        prepared = self.prepared
        return GreedySubTuningTrainer(
            model=prepared.model,
            args=self.arguments,
            train_dataset=prepared.train,
            validation_dataset=prepared.validation,
            train_transform=prepared.train_transform,
            eval_transform=prepared.eval_transform,
            data_collator=prepared.data_collator,
            processing_class=prepared.processor,
            compute_metrics=compute_metrics_with(self.recipe.metric),
        )


def open_session(options: argparse.Namespace) -> Session:
    """
    Read and load the recipe that the options name.

    Args:
        options (`argparse.Namespace`): With `config`, `overrides` and `dry_run`.

    Returns: [`Session`]
    Raises: [`RecipeError`]: If anything in it is not what it should be; before anything is trained or written.
    """
    recipe = load_recipe(options.config, options.overrides)  # before torch is loaded: a typo should cost no seconds
    arguments = build_arguments(recipe, options.dry_run)
    from transformers import set_seed

    from .metrics import compute_metrics_with
    from .recipe_data import prepare

    compute_metrics_with(recipe.metric)
    set_seed(arguments.seed)  # draws the head of a model that has none for this task
    # Downloads and caches are made by one process, and read by the others.
    with arguments.main_process_first(desc="loading model and data"):
        prepared = prepare(recipe)
    return Session(recipe, arguments, prepared)


def build_arguments(recipe: Recipe, dry_run: bool = False) -> Any:
    """
    [`GreedySubTuningArguments`] of a recipe: the score is its metric unless it says otherwise.

    Args:
        recipe ([`Recipe`]): The recipe.
        dry_run (`bool`, *optional*, defaults to `False`): Whether nothing is to be trained.

    Raises: [`RecipeError`]: If `output_dir` is missing, or a field is unknown or out of range.
    """
    import torch

    from ..training import GreedySubTuningArguments
    from .strict import check_arguments

    values = check_arguments(recipe.args, GreedySubTuningArguments)
    if not values.get("output_dir"):
        raise RecipeError("args.output_dir is missing: the folder of the journal and of the adapter.")
    defaults = {
        "metric_for_best_model": recipe.metric,
        "greater_is_better": True,
        "remove_unused_columns": False,  # the transforms need the raw columns
        "label_column": recipe.data.label_column,
        # With several processes Trainer otherwise multiplies loss and gradients of models that take keywords but
        # average their loss themselves, BERT among them, by the number of processes.
        "average_tokens_across_devices": False,
        "disable_tqdm": False,  # whatever the libraries' log level is
        "dataloader_pin_memory": torch.accelerator.is_available(),  # without one, torch warns at every data loader
        "dry_run": dry_run,
    }
    if "metric_for_best_model" in values:
        defaults.pop("greater_is_better")  # another score may be a loss
    try:
        return GreedySubTuningArguments(**{**defaults, **values, **({"dry_run": True} if dry_run else {})})
    except SubTuningError:
        raise
    except (ValueError, TypeError, ImportError) as error:  # transformers' own checks
        raise RecipeError(f"args: {str(error).strip()}") from error


# --- training and its report ----------------------------------------------------------------
def train_and_report(session: Session, trainer: Any, blocks: Sequence[str | int] | None) -> None:
    """
    Train the chosen blocks on the whole training set, score the test rows, save the adapter, report.

    Args:
        session ([`Session`]): The recipe.
        trainer ([`GreedySubTuningTrainer`]): Its trainer.
        blocks (`Sequence[str | int]`, *optional*): What to train; by default what the search chose.
    """
    repeats, test, runs = session.recipe.train.repeats, session.prepared.test, []
    if repeats > 1:  # before the adapter is in the model
        runs = trainer.repeat(test, num_repeats=repeats, blocks=blocks)
    trainer.train(blocks=blocks)
    metrics = trainer.evaluate(test, metric_key_prefix="test")
    if session.prints:
        session.prepared.settings.save(session.folder)  # saving may push, and what inputs are made of goes along
    trainer.save_model()
    if session.prints:
        report(session.folder, adapter_blocks(trainer.model), metrics, runs)


def adapter_blocks(model: Any) -> list[str]:
    """The blocks that a [`~peft.PeftModel`] has tuned."""
    return list(model.peft_config[model.active_adapter].blocks)


def report(folder: Path, blocks: list[str], metrics: dict[str, float], runs: Sequence[Any] = ()) -> None:
    """
    Print what came out, and keep it as JSON beside the adapter.

    Args:
        folder (`Path`): Where the adapter is.
        blocks (`list[str]`): Its blocks.
        metrics (`dict[str, float]`): Of the test rows, with the prefix `test_`.
        runs (`Sequence[FinalRun]`, *optional*): Trainings of the same blocks with several seeds.
    """
    from ..hub.results import FILE_NAME

    found: dict[str, Any] = {"blocks": blocks, **{k: v for k, v in metrics.items() if k.startswith("test_")}}
    lines = [f"blocks: {', '.join(blocks) or 'none, the adapter is a head alone'}"]
    lines += [
        f"{key}: {value:.4f}"
        for key, value in found.items()
        if key.startswith("test_") and not key.endswith(_TIMING)
    ]
    if runs:
        found["repeats"] = [{"seed": run.seed, "metrics": run.metrics} for run in runs]
        lines += repeats_lines(runs)
    (folder / FILE_NAME).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print("\n".join([*lines, f"adapter: {folder}"]), flush=True)


def repeats_lines(runs: Sequence[Any]) -> list[str]:
    """Mean and spread of final trainings, a line for each metric."""
    from ..search.finals import summarise

    return [
        f"{score.metric} over {score.num_runs} seeds: {score.mean:.4f} ± "
        f"{math.nan if score.spread is None else score.spread:.4f}"
        for score in summarise(runs)
        if not score.metric.endswith(_TIMING)
    ]
