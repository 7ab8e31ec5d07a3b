"""
What is predicted, and how predictions are written.

Knows files of images and of texts; does not know models.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from ..errors import RecipeError
from .strict import did_you_mean

TABLES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Inputs:
    """
    Inputs in order.

    Args:
        kind (`str`): `"image"` or `"text"`.
        names (`list[str]`): What stands for each of them in the output: the path of an image, or the text.
        rows (`datasets.Dataset`): With the column `kind`.
    """

    kind: str
    names: list[str]
    rows: Any


def read_inputs(words: Iterable[str], text: bool, column: str | None = None) -> Inputs:
    """
    Read what the words name.

    Args:
        words (`Iterable[str]`): Files, folders, or `-` for the lines of standard input.
        text (`bool`): Whether texts are expected, else images.
        column (`str`, *optional*): Where they are in a table; by default its only column, or `text` or `image`.

    Returns: [`Inputs`]
    Raises: [`RecipeError`]: If a file is missing or is no input of this kind.
    """
    from datasets import Dataset, Features, Image, Value

    names: list[str] = []
    for word in words:
        names += _texts(word, column) if text else _images(word, column)
    if not names:
        raise RecipeError("The inputs are empty: there is nothing to predict.")
    kind = "text" if text else "image"
    rows = Dataset.from_dict({kind: names}, features=Features({kind: Value("string")}))
    return Inputs(kind, names, rows if text else rows.cast_column(kind, Image()))


def _existing(word: str) -> Path:
    place = Path(word).expanduser()
    if not place.exists():
        raise RecipeError(f"There is no file or folder '{word}' (looked in {Path.cwd()}).")
    return place


def _lines() -> list[str]:
    return [line.rstrip("\r\n") for line in sys.stdin if line.strip()]


def _texts(word: str, column: str | None) -> list[str]:
    if word == "-":
        return _lines()
    place = _existing(word)
    if place.is_dir():
        raise RecipeError(f"'{word}' is a folder; this adapter is for texts. Name its files.")
    if place.suffix.lower() in TABLES:
        return [str(value) for value in _column(place, column, "text")]
    try:
        # Lines as an editor counts them: str.splitlines() also cuts at form feeds and the like.
        lines = place.read_text(encoding="utf-8-sig").split("\n")
        return [line.removesuffix("\r") for line in lines if line.strip()]
    except UnicodeDecodeError:
        raise RecipeError(f"'{word}' is no text in UTF-8; this adapter is for texts.") from None


def _images(word: str, column: str | None) -> list[str]:
    if word == "-":
        return [str(_existing(line)) for line in _lines()]
    place = _existing(word)
    if place.is_dir():
        return _images_in(place)
    if place.suffix.lower() in TABLES:
        paths = [place.parent / str(value) for value in _column(place, column, "image")]
        return [str(_existing(str(path))) for path in paths]
    if place.suffix.lower() not in _image_endings():
        raise RecipeError(f"'{word}' is no image that Pillow reads; this adapter is for images.")
    return [str(place)]


def _images_in(folder: Path) -> list[str]:
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _image_endings() and p.is_file())
    if not found:
        raise RecipeError(f"The folder '{folder}' holds no images.")
    return [str(path) for path in found]


def _image_endings() -> set[str]:
    from PIL import Image

    Image.init()
    return {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}


def _column(file: Path, column: str | None, usual: str) -> list[Any]:
    """A column of a table."""
    from .recipe_rows import read_table

    names = read_table(file).column_names
    wanted = column or (names[0] if len(names) == 1 else usual)
    if wanted not in names:
        raise RecipeError(
            f"'{file}' has the columns {', '.join(names)}, not '{wanted}'. Name one with --column."
            + did_you_mean(wanted, names)
        )
    values = list(read_table(file, [wanted])[wanted])
    missing = next((index for index, value in enumerate(values) if value is None), None)
    if missing is not None:
        raise RecipeError(f"'{file}': row {missing} has nothing in column '{wanted}'.")
    return values


# --- output ---------------------------------------------------------------------------------
def predictions(inputs: Inputs, found: Any, labels: list[str], top: int) -> list[dict[str, Any]]:
    """
    The likeliest labels of each input.

    Args:
        inputs ([`Inputs`]): What was predicted.
        found (`numpy.ndarray` of shape `(inputs, labels)`): Probabilities.
        labels (`list[str]`): Their names.
        top (`int`): How many of them.

    Returns: `list[dict]`: with `input`, `label` and `probability`, and from the second on `label_2` ...
    """
    rows = []
    for name, shares in zip(inputs.names, found, strict=True):
        row: dict[str, Any] = {"input": name}
        # A stable sort: of equal shares the lower index comes first.
        for rank, index in enumerate((-shares).argsort(kind="stable")[:top], start=1):
            ending = "" if rank == 1 else f"_{rank}"
            row[f"label{ending}"], row[f"probability{ending}"] = labels[index], round(float(shares[index]), 6)
        rows.append(row)
    return rows


def numbers_of(inputs: Inputs, found: Any, labels: list[str]) -> list[dict[str, Any]]:
    """
    The numbers that a regression gives for each input.

    Args:
        inputs ([`Inputs`]): What was predicted.
        found (`numpy.ndarray` of shape `(inputs, outputs)`): The numbers.
        labels (`list[str]`): Names of the outputs.

    Returns: `list[dict]`: with `input`, and `value`, or `value_NAME` for each of several outputs.
    """
    keys = ["value"] if len(labels) == 1 else [f"value_{label}" for label in labels]
    return [
        {"input": name} | {key: round(float(value), 6) for key, value in zip(keys, row, strict=True)}
        for name, row in zip(inputs.names, found, strict=True)
    ]


def write_csv(rows: list[dict[str, Any]], file: TextIO) -> None:
    """A table with a heading."""
    table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)


def write_jsonl(rows: list[dict[str, Any]], file: TextIO) -> None:
    """A JSON object on each line."""
    file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
