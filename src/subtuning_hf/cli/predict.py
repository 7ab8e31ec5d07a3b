"""`subtuning predict ADAPTER INPUT ...`: labels and probabilities for images or texts, as CSV or JSON lines."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RecipeError
from .predict_origin import Origin

if TYPE_CHECKING:
    from .predict_inputs import Inputs

DESCRIPTION = """\
Predict with a saved adapter: an adapter folder or Hub name, then image files or folders of images;
or text files (a text on each line), CSV or JSON files (--column names the texts); or - for standard
input, a text or the path of an image on each line.

  subtuning predict out/photos ./new-photos --output labels.csv
  subtuning predict user/adapter-on-the-hub questions.txt --top 3 --format jsonl
  subtuning predict user/adapter-on-the-hub@v2 questions.txt     # or --revision v2: branch, tag or commit
  subtuning predict --config recipe.yaml new.csv          # the adapter in the recipe's args.output_dir

Base model, labels and input size come from the adapter; no code of it is run, and no folder of this
machine that an adapter of the Hub names is read. With --config, words of the form KEY=VALUE
replace values of the recipe, and everything else is an input.
"""
FORMATS = ("csv", "jsonl")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `subtuning predict`."""
    parser.add_argument("words", nargs="+", metavar="ADAPTER INPUT", help="the adapter (not with --config), inputs")
    parser.add_argument("--config", metavar="RECIPE", help="take adapter, base and columns from a recipe")
    parser.add_argument("--base", metavar="MODEL", help="base model; by default the one the adapter names")
    parser.add_argument("--revision", help="branch, tag or commit of the adapter on the Hub")
    parser.add_argument("--column", help="column of the texts, or of the paths of images, in CSV and JSON files")
    parser.add_argument("--top", type=int, default=1, metavar="N", help="the N likeliest labels (default: 1)")
    parser.add_argument("--output", metavar="FILE", help="write here instead of printing; must not exist")
    parser.add_argument("--format", choices=FORMATS, help="default: by the name of --output, else csv")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="inputs at a time (default: 32)")
    parser.add_argument("--use-cpu", action="store_true", help="leave accelerators alone")
    parser.add_argument("--dry-run", action="store_true", help="find adapter and inputs, predict nothing")


def run(options: argparse.Namespace) -> int:
    """Find adapter and inputs, predict, write."""
    words = check_options(options)
    request = request_of(options, words)
    from transformers import TrainingArguments

    from .predict_inputs import read_inputs
    from .predict_model import answers, load_predictor

    arguments = TrainingArguments(
        output_dir=request.folder or ".",
        use_cpu=options.use_cpu,
        per_device_eval_batch_size=options.batch_size,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=not sys.stderr.isatty(),
        label_names=["labels"],
    )
    with arguments.main_process_first(desc="loading the adapter"):
        predictor = load_predictor(request.adapter, options.base or request.base, request.base_revision)
    inputs = read_inputs(request.inputs, predictor.settings.text, options.column or request.column)
    first = arguments.process_index == 0
    if options.dry_run:
        if first:
            print(f"adapter: {request.adapter}\nbase: {predictor.base}\ninputs: {len(inputs.names):,}", flush=True)
            print(f"labels: {len(predictor.labels):,}\nNothing was predicted.", flush=True)
        return 0
    found = answers(predictor, inputs, arguments)  # (inputs, labels)
    if first:
        write(options, inputs, found, predictor.labels, predictor.is_regression)
    return 0


class Request:
    """
    What is predicted with what.

    Args:
        adapter ([`Origin`]): Folder or Hub name, with its revision.
        inputs (`list[str]`): Files, folders, or `-`.
        base (`str`, *optional*), base_revision (`str`, *optional*), column (`str`, *optional*),
        folder (`str`, *optional*): What a recipe adds.
    """

    def __init__(
        self,
        adapter: Origin,
        inputs: list[str],
        base: str | None = None,
        base_revision: str | None = None,
        column: str | None = None,
        folder: str | None = None,
    ) -> None:
        self.adapter, self.inputs, self.base = adapter, inputs, base
        self.base_revision, self.column, self.folder = base_revision, column, folder


def check_options(options: argparse.Namespace) -> list[str]:
    """
    Refuse what cannot be, before anything is loaded.

    Returns: `list[str]`: the words.
    Raises: [`RecipeError`]
    """
    for name in ("top", "batch_size"):
        if getattr(options, name) < 1:
            raise RecipeError(f"--{name.replace('_', '-')} must be at least 1, found {getattr(options, name)}.")
    if options.output:
        check_output(Path(options.output))
    return list(options.words)


def check_output(file: Path) -> None:
    """
    Refuse a file that could not be written in the end.

    Raises: [`RecipeError`]
    """
    if file.exists():
        raise RecipeError(f"--output: '{file}' exists already. Name another file, or remove it first.")
    if not file.parent.is_dir():
        raise RecipeError(f"--output: there is no folder '{file.parent}'. Make it, or name another.")
    if not os.access(file.parent, os.W_OK):
        raise RecipeError(f"--output: '{file.parent}' may not be written to. Name another folder.")


def request_of(options: argparse.Namespace, words: list[str]) -> Request:
    """
    What the words mean, with a recipe or without.

    Raises: [`RecipeError`]: If an adapter or inputs are missing.
    """
    if options.config is None:
        if len(words) < 2:
            raise RecipeError(f"Give an adapter and at least one input, found '{words[0]}' only.")
        return Request(Origin.of(words[0], options.revision), words[1:])
    if options.revision is not None:
        raise RecipeError("--revision is of an adapter on the Hub; with --config it is the one in args.output_dir.")
    from .evaluate import check_adapter
    from .recipe import load_recipe
    from .session import build_arguments

    overrides = [word for word in words if "=" in word and not Path(word).exists()]
    recipe = load_recipe(options.config, overrides)
    folder = Path(build_arguments(recipe).output_dir)
    check_adapter(folder, options.config)
    inputs = [word for word in words if word not in overrides]
    if not inputs:
        raise RecipeError("Give at least one input: a file, a folder, or - for standard input.")
    column = recipe.data.text_column or recipe.data.image_column
    return Request(Origin(str(folder)), inputs, recipe.model.name, recipe.model.revision, column, str(folder))


def write(options: argparse.Namespace, inputs: Inputs, found: Any, labels: list[str], numbers: bool = False) -> None:
    """
    Print or write a line for each input.

    Args:
        options (`argparse.Namespace`): The command's.
        inputs ([`Inputs`]): What was predicted.
        found (`numpy.ndarray` of shape `(inputs, labels)`): Probabilities, or numbers.
        labels (`list[str]`): Their names.
        numbers (`bool`, *optional*): Whether they are numbers.
    """
    from .predict_inputs import numbers_of, predictions, write_csv, write_jsonl

    if numbers:
        rows = numbers_of(inputs, found, labels)
    else:
        rows = predictions(inputs, found, labels, min(options.top, len(labels)))
    name = options.format or ("jsonl" if str(options.output or "").endswith((".jsonl", ".json")) else "csv")
    put = write_jsonl if name == "jsonl" else write_csv
    if options.output is None:
        put(rows, sys.stdout)
        return
    with open(options.output, "x", encoding="utf-8", newline="") as file:
        put(rows, file)
    print(f"{len(rows):,} predictions: {options.output}", flush=True)
