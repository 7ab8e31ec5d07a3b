"""
The rows of a recipe: loaded by `datasets`, split, with class indices as labels.

Knows data sets on the Hub and on disk, in any form that `datasets` reads; does not know models.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.exceptions import DatasetsError

from ..errors import RecipeError
from .images import check_images
from .recipe import DataSection
from .strict import did_you_mean
from .vtab import load_task

if TYPE_CHECKING:
    from datasets import Dataset

BUILDERS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
# Labels are compared and sorted by these; a float is a number to regress on.
_LABELS = (bool, int, str)
_TEXTS = ("string", "large_string")
_WHOLE, _NUMBER = re.compile(r"-?(0|[1-9]\d*)"), re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Rows:
    """
    The splits that a recipe names.

    Args:
        train (`datasets.Dataset`), test (`datasets.Dataset`): Rows to learn from, and rows to score once.
        validation (`datasets.Dataset`, *optional*): Rows to choose by.
        names (`list[str]`): Names of the classes; the label column holds their indices.
    """

    train: Dataset
    test: Dataset
    validation: Dataset | None
    names: list[str]


def load_rows(section: DataSection) -> Rows:
    """
    Load what a section names, and cut it to its largest numbers of rows by the recipe's seed.

    Args:
        section ([`DataSection`]): The section.

    Returns: [`Rows`]
    Raises:
        [`RecipeError`]: If a split or column is missing, the data cannot be found, or labels are no classes.
        [`DataError`]: If pictures cannot be read.
    """
    found = load_task(section.vtab, section.seed) if section.vtab is not None else _load(section)
    train = _split(section, found, "train_split")
    if section.test_fraction is None:
        test = _split(section, found, "test_split")
    elif section.test_split in found:
        raise RecipeError(
            f"data.test_fraction: there is a split '{section.test_split}' already. Leave it out, or name another split "
            "with data.test_split to score a part of the training rows instead."
        )
    else:
        train, test = _cut(train, section)
    parts = {"train": train, "test": test}
    if section.validation_split is not None:
        parts["validation"] = _split(section, found, "validation_split")
    parts, names = encode_labels(parts, section.label_column)
    for key, most in (("train", section.max_train_rows), ("test", section.max_test_rows)):
        if most is not None and most < len(parts[key]):
            parts[key] = parts[key].shuffle(seed=section.seed).select(range(most))
    if section.image_column is not None:
        for key, part in parts.items():
            check_images(part, section.image_column, key)
    return Rows(parts["train"], parts["test"], parts.get("validation"), names)


def _cut(rows: Dataset, section: DataSection) -> tuple[Dataset, Dataset]:
    """
    Training and test rows, of every class its share: a class of which there is a single row is trained on. Where the
    test rows are fewer than the classes, they are drawn from all alike.
    """
    from datasets import Dataset

    encoded = encode_labels({"train": rows.select_columns([section.label_column])}, section.label_column)[0]["train"]
    count = Counter(encoded[section.label_column])
    places = [place for place, label in enumerate(encoded[section.label_column]) if count[label] > 1]
    single = [place for place, label in enumerate(encoded[section.label_column]) if count[label] == 1]
    table = Dataset.from_dict({"place": places}).add_column("label", encoded.select(places)[section.label_column])
    table = table.cast_column("label", encoded.features[section.label_column])
    sizes = {"test_size": section.test_fraction, "seed": section.seed}
    try:
        cut = table.train_test_split(**sizes, stratify_by_column="label")
    except ValueError:
        cut = table.train_test_split(**sizes)
    return rows.select([*cut["train"]["place"], *single]), rows.select(list(cut["test"]["place"]))


def _load(section: DataSection) -> Any:
    """All splits of a data set, by name."""
    from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

    origin = section.name or str(Path(section.path or "").expanduser())
    place = Path(origin)
    try:
        found: Any
        if section.path is not None and place.is_file():
            columns = (section.text_column, section.image_column, section.label_column)
            found = read_table(place, [name for name in columns if name is not None])
        elif section.path is not None and any((place / f).is_file() for f in ("dataset_dict.json", "state.json")):
            found = load_from_disk(origin)
        else:
            # A folder has no revisions; a recipe whose data is replaced by a folder still names one.
            revision = section.revision if section.path is None else None
            found = load_dataset(origin, section.config, revision=revision)
    except RecipeError:
        raise
    except (OSError, ValueError, DatasetsError) as error:
        raise RecipeError(f"data: '{origin}' cannot be loaded: {_reason(error)}") from error
    if isinstance(found, Dataset):
        found = DatasetDict({section.train_split: found})
    return found


def read_table(file: Path, as_written: Sequence[str] = ()) -> Dataset:
    """
    The rows of one file.

    Args:
        file (`Path`): CSV, TSV, JSON, JSON lines, parquet or arrow.
        as_written (`Sequence[str]`, *optional*): Columns of a CSV or TSV file that stay texts: no `007` becomes 7,
            and no `NA` becomes nothing. Names that it lacks do no harm.

    Raises: [`RecipeError`]: If it is of another kind, or is not what its name says.
    """
    from datasets import load_dataset

    kind = BUILDERS.get(file.suffix.lower())
    if kind is None:
        raise RecipeError(f"data.path: '{file}' must be a folder or end in one of {', '.join(BUILDERS)}.")
    options: dict[str, Any] = {"sep": "\t"} if file.suffix.lower() == ".tsv" else {}
    if kind == "csv":
        options |= {"converters": dict.fromkeys(as_written, str), "keep_default_na": False, "na_values": [""]}
    try:
        return load_dataset(kind, data_files=str(file), split="train", **options)  # type: ignore[return-value]
    except (OSError, ValueError, DatasetsError) as error:
        raise RecipeError(f"'{file}' cannot be read: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Why `datasets` could not read something: its own error tells little."""
    found = error.__cause__ if isinstance(error, DatasetsError) and error.__cause__ is not None else error
    if isinstance(found, UnicodeDecodeError):
        return "it is no text in UTF-8."
    said = (str(found).strip() or type(found).__name__).splitlines()[0]
    return "it holds no rows." if "No columns to parse" in said or "corresponds to no data" in said else said


def _split(section: DataSection, found: Any, key: str) -> Dataset:
    """One split, with its columns checked and its images decoded."""
    origin, name = section.name or section.path or section.vtab, getattr(section, key)
    if name not in found:
        cut = ", or cut one with data.test_fraction" if key == "test_split" else ""
        raise RecipeError(
            f"data.{key}: there is no split '{name}' in '{origin}', only {', '.join(found)}.{did_you_mean(name, found)}"
            f" Name one of them{cut}."
        )
    rows = found[name]
    for column_key in ("image_column", "text_column", "label_column"):
        column = getattr(section, column_key)
        if column is not None and column not in rows.column_names:
            raise RecipeError(
                f"data.{column_key}: split '{name}' has no column '{column}', only {', '.join(rows.column_names)}."
                + did_you_mean(column, rows.column_names)
            )
    if len(rows) == 0:
        raise RecipeError(f"data.{key}: split '{name}' of '{origin}' has no rows.")
    if section.text_column is not None:
        _check_texts(rows, section.text_column, name)
    return as_images(rows, section.image_column, _folder(section)) if section.image_column is not None else rows


def _check_texts(rows: Dataset, column: str, split: str) -> None:
    feature = rows.features[column]
    if getattr(feature, "dtype", None) not in _TEXTS:
        raise RecipeError(f"data.text_column: '{column}' of split '{split}' must hold texts, found {feature}.")
    missing = next((row for row, text in enumerate(rows.with_format(None)[column]) if text is None), None)
    if missing is not None:
        raise RecipeError(f"data.text_column: row {missing} of split '{split}' has nothing in column '{column}'.")


def _folder(section: DataSection) -> Path:
    """Where paths of image files begin: where the data is, as far as that is on disk."""
    place = Path(section.path or ".").expanduser()
    return place.parent if place.is_file() else place


def as_images(rows: Dataset, column: str, folder: Path) -> Dataset:
    """
    A column as images: as it is, or decoded from paths of files.

    Args:
        rows (`datasets.Dataset`): The rows.
        column (`str`): The column.
        folder (`Path`): Where relative paths begin.

    Raises: [`RecipeError`]: If the column holds neither, or a file is missing.
    """
    from datasets import Image

    feature = rows.features[column]
    if isinstance(feature, Image):
        return rows
    if getattr(feature, "dtype", None) not in _TEXTS:
        raise RecipeError(f"data.image_column: '{column}' must hold images or paths of image files, found {feature}.")
    paths = [str(folder / path) for path in rows[column]]
    missing = next((path for path in paths if not Path(path).is_file()), None)
    if missing is not None:
        raise RecipeError(f"data.image_column: there is no file '{missing}', which column '{column}' names.")
    return with_column(rows, column, paths, Image())


def encode_labels(parts: dict[str, Dataset], column: str) -> tuple[dict[str, Dataset], list[str]]:
    """
    Labels as class indices, the same in all parts.

    Classes that the data set names keep their order. Names are sorted; whole numbers from 0 without a gap are indices
    already, and others, such as years or ratings from 1, are names of classes, in their order.

    Args:
        parts (`dict[str, datasets.Dataset]`): The splits; `train` decides which classes there are.
        column (`str`): The label's column.

    Returns: `tuple`: the parts, their column a `ClassLabel`, and the names of the classes.
    Raises: [`RecipeError`]: If labels are no classes, or a part has one that the training rows lack.
    """
    from datasets import ClassLabel

    features = {key: rows.features[column] for key, rows in parts.items()}
    labels = _as_meant({key: list(rows.with_format(None)[column]) for key, rows in parts.items()})
    for key, values in labels.items():
        _check_labels(values, column, key)
    named = isinstance(features["train"], ClassLabel)
    if named and all(feature == features["train"] for feature in features.values()):
        return parts, list(features["train"].names)
    for key, feature in features.items():
        if isinstance(feature, ClassLabel):  # other names, or another order of them: an index means nothing
            labels[key] = [feature.int2str(label) for label in labels[key]]
    every = {label for values in labels.values() for label in values}
    if all(type(label) is int for label in every):
        known: list[Any] = sorted(set(labels["train"]))
        if every == set(range(known[-1] + 1)):  # a class may be in the test rows alone
            known = list(range(known[-1] + 1))
    else:
        known = sorted(set(labels["train"]), key=str)
    names = [str(label) for label in known]
    index = {label: position for position, label in enumerate(known)}
    for key, values in labels.items():
        new = sorted({str(label) for label in values if label not in index})
        if new:
            raise RecipeError(
                f"data.label_column: the {key} rows have the labels {', '.join(new[:5])}, which no training row has. "
                "Check that the splits belong together and that this is the label."
            )
        encoded = [index[label] for label in values]
        parts[key] = with_column(parts[key], column, encoded, ClassLabel(names=names))
    return parts, names


def _as_meant(labels: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Labels that are written as numbers throughout, as a table has them, as numbers; `01` stays a name."""
    every = {label for values in labels.values() for label in values}
    if not every or not all(isinstance(label, str) for label in every):
        return labels
    if all(_WHOLE.fullmatch(label) for label in every):
        return {key: [int(label) for label in values] for key, values in labels.items()}
    if all(_NUMBER.fullmatch(label) or _WHOLE.fullmatch(label) for label in every):
        return {key: [float(label) for label in values] for key, values in labels.items()}
    return labels


def with_column(rows: Dataset, column: str, values: list[Any], feature: Any) -> Dataset:
    """The rows with other values in a column, which goes to the end."""
    # Added before the old one is removed: rows without any column would be none.
    scratch = f"{column} (new)"
    changed: Any = rows.add_column(scratch, values)  # type: ignore[call-arg]
    return changed.remove_columns(column).rename_column(scratch, column).cast_column(column, feature)


def _check_labels(values: list[Any], column: str, key: str) -> None:
    for value in values:
        if isinstance(value, _LABELS) and not (type(value) is int and value < 0):
            continue
        hint = "numbers to regress on are not supported here"
        if value == -1:
            hint = "-1 marks rows without a label, as in test splits that are kept secret: name another split"
        elif value is None:
            hint = "a label is missing"
        raise RecipeError(
            f"data.label_column: '{column}' must hold class indices from 0, or names of classes; the {key} rows hold "
            f"{value!r} ({hint})."
        )
