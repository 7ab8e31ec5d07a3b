"""`subtuning compare --config recipe.yaml`: SubTuning beside other ways to fine-tune, each with the same tuning."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from ..errors import RecipeError
from .session import Session, add_recipe_arguments, open_session

RESUMES = "Finished trainings are in args.output_dir: the same command goes on where this one stopped."
__all__ = ["DESCRIPTION", "RESUMES", "add_arguments", "run"]

DESCRIPTION = """\
Compare ways to fine-tune on a recipe's data: the same rows, epochs, number of trials of
hyperparameters on the same fold, and final seeds for each. Test rows are scored by final trainings
alone. Paired differences to SubTuning count seeds and test rows.

  subtuning compare --config recipe.yaml --methods LP FT LoRA SubTuning
  subtuning compare --config recipe.yaml compare.trials=8 compare.seeds=3
  accelerate launch -m subtuning_hf.cli compare --config recipe.yaml

Methods: LP, "LP, fitted", FT, LP-FT, LLRD, "gradual unfreezing", Auto-RGN, LoRA, "LoRA and norms",
DoRA, BitFit, norms, Head2Toe, surgical, SubTuning, "SubTuning, exact", "random blocks", "LoRA in
chosen blocks".
By default LP, FT, LP-FT, LoRA, surgical and SubTuning. A stopped comparison goes on where it was.
"""

# What has no meaning in the short trainings of a comparison, or is set by it.
_NOT_OURS = ("output_dir", "seed", "learning_rate", "metric_for_best_model", "greater_is_better",
             "load_best_model_at_end", "remove_unused_columns", "report_to", "run_name", "disable_tqdm", "push_to_hub",
             "resume_from_checkpoint", "do_train", "do_eval", "do_predict")  # fmt: skip
_NOT_OURS_EITHER = ("hub_", "save_", "eval_strategy", "eval_steps", "logging_")
# Of searches; what is not here and not in TrainingArguments is handed to them.
_OF_FOLDS = ("fold_column", "group_column", "fold_seed")
_OF_SEARCHES_SET_HERE = ("strategy", "num_folds", "head_learning_rate", "dry_run", "label_column")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `subtuning compare`."""
    add_recipe_arguments(parser, "print what would be trained, train nothing")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="which methods, instead of the recipe's")


def run(options: argparse.Namespace) -> int:
    """Compare, print the table."""
    session = open_session(options)
    from tqdm import tqdm

    from ..compare import CORE, check_methods, compare

    section, args = session.recipe.compare, session.arguments
    methods = check_methods(options.methods or section.methods or CORE)
    task = task_of(session)
    count = len(methods) * ((section.trials + section.refinements) * section.tuning_folds + section.seeds)
    if options.dry_run:
        session.say(plan(session, methods, count))
        return 0
    with tqdm(total=count, desc="trainings", disable=not session.prints) as bar:
        found = compare(
            task,
            methods,
            learning_rate=args.learning_rate,
            num_trials=section.trials,
            num_refinements=section.refinements,
            num_seeds=section.seeds,
            num_folds=args.num_folds,
            tuning_folds=section.tuning_folds,
            seed=args.seed,
            label_column=session.recipe.data.label_column,
            output_dir=session.folder / "comparison",
            search_arguments=of_searches(session),
            on_run=bar.update,
            say=(lambda text: bar.write(text)) if session.prints else None,
            args=args if args.world_size > 1 else None,
        )
        bar.total = bar.n
    session.say(f"\n{found.table()}\n\n{session.folder / 'comparison' / 'comparison.json'}")
    return 0


def task_of(session: Session) -> Any:
    """
    A recipe's model, rows and arguments, as every method gets them.

    Raises: [`RecipeError`]: For what a comparison cannot do.
    """
    from transformers import TrainingArguments

    from ..compare import Task
    from .metrics import compute_metrics_with

    prepared, given = session.prepared, session.recipe.args
    if prepared.validation is not None:
        raise RecipeError("data.validation_split: a comparison cuts its folds from the training rows. Leave it out.")
    for name in _OF_FOLDS:
        if given.get(name) is not None:
            raise RecipeError(f"args.{name}: a comparison cuts folds of its own, by args.seed. Leave it out.")
    metric = given.get("metric_for_best_model", session.recipe.metric)
    if not session.arguments.score_greater_is_better:
        raise RecipeError(f"args.metric_for_best_model: of '{metric}' less is better. Name one of which more is.")
    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    arguments = {
        name: value
        for name, value in given.items()
        if name in known and name not in _NOT_OURS and not name.startswith(_NOT_OURS_EITHER)
    }
    return Task(
        model=prepared.model,
        train=prepared.train,
        test=prepared.test,
        arguments=arguments | {"average_tokens_across_devices": False},
        compute_metrics=compute_metrics_with(session.recipe.metric),
        metric=metric.removeprefix("eval_"),
        train_transform=prepared.train_transform,
        eval_transform=prepared.eval_transform,
        data_collator=prepared.data_collator,
    )


def of_searches(session: Session) -> dict[str, Any]:
    """Arguments of a recipe that only a search knows."""
    from transformers import TrainingArguments

    known = {field.name for field in dataclasses.fields(TrainingArguments)}
    given = {
        name: value
        for name, value in session.recipe.args.items()
        if name not in known and name not in _OF_SEARCHES_SET_HERE
    }
    return given | {"label_column": session.recipe.data.label_column}


def plan(session: Session, methods: list[str], count: int) -> str:
    """`str`: what would be trained."""
    section, prepared = session.recipe.compare, session.prepared
    return "\n".join(
        [
            f"methods: {', '.join(methods)}",
            f"rows: {len(prepared.train):,} to learn from and choose by, {len(prepared.test):,} to score",
            f"each: {section.trials} + {section.refinements} trials on {section.tuning_folds} of "
            f"{session.arguments.num_folds} folds, around learning rate {session.arguments.learning_rate:g}; then "
            f"{section.seeds} seeds on all rows",
            f"trainings: {count}, and what choosing blocks takes",
            f"results: {session.folder / 'comparison'}",
            "Nothing was trained or written.",
        ]
    )
