"""
Recipes: what to train on what, as a strict YAML file.

A key nothing knows, a value of the wrong type, a key given twice or a missing file is an error before anything is
loaded. Knows the sections and their types; does not know how they are carried out.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import RecipeError

AUGMENTATIONS = ("none", "flip", "shift", "shift_flip")


@dataclass(frozen=True)
class ModelSection:
    """
    The pretrained model.

    Args:
        name (`str`): Name on the Hub, or a local folder.
        revision (`str`, *optional*): Branch, tag or commit.
        kwargs (`dict`, *optional*): Further arguments of `from_pretrained`. The number of labels comes from the data.
    """

    name: str
    revision: str | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DataSection:
    """
    A labelled data set, as `datasets.load_dataset` finds it. Give either `name` or `path`.

    Args:
        name (`str`, *optional*): Name on the Hub.
        path (`str`, *optional*): Local folder, which must exist; relative to the current directory.
        config (`str`, *optional*): Configuration of the data set.
        train_split (`str`, *optional*, defaults to `"train"`): Rows the search and the training see.
        test_split (`str`, *optional*, defaults to `"test"`): Rows that are scored once, at the end.
        image_column (`str`, *optional*), text_column (`str`, *optional*): The input: exactly one of them.
        label_column (`str`, *optional*, defaults to `"label"`): The class.
        max_train_rows (`int`, *optional*), max_test_rows (`int`, *optional*): A random part of a split.
        seed (`int`, *optional*, defaults to 0): Seed of that part.
    """

    name: str | None = None
    path: str | None = None
    config: str | None = None
    train_split: str = "train"
    test_split: str = "test"
    image_column: str | None = None
    text_column: str | None = None
    label_column: str = "label"
    max_train_rows: int | None = None
    max_test_rows: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _exactly_one("data", name=self.name, path=self.path)
        _exactly_one("data", image_column=self.image_column, text_column=self.text_column)
        if self.path is not None and not Path(self.path).expanduser().exists():
            raise RecipeError(f"data.path: there is no '{self.path}' (looked in {Path.cwd()}).")
        for key in ("max_train_rows", "max_test_rows"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise RecipeError(f"data.{key} must be at least 1, found {value}.")


@dataclass(frozen=True)
class PreprocessingSection:
    """
    How a row becomes the model's input.

    Args:
        processor (`str`, *optional*): Image processor or tokenizer; by default the model's own.
        image_size (`int`, *optional*): Side in pixels, instead of the processor's.
        max_length (`int`, *optional*): Longest text in tokens; by default the tokenizer's.
        augmentation (`str`, *optional*, defaults to `"none"`):
            For training rows only, never for rows that are scored: `"none"`, `"flip"` (left-right), `"shift"` (by up
            to an eighth of the image) or `"shift_flip"`.
    """

    processor: str | None = None
    image_size: int | None = None
    max_length: int | None = None
    augmentation: str = "none"

    def __post_init__(self) -> None:
        if self.augmentation not in AUGMENTATIONS:
            raise RecipeError(
                f"preprocessing.augmentation must be one of {', '.join(AUGMENTATIONS)}, found '{self.augmentation}'."
                + _did_you_mean(self.augmentation, AUGMENTATIONS)
            )


@dataclass(frozen=True)
class Recipe:
    """
    A whole recipe.

    Args:
        model ([`ModelSection`]), data ([`DataSection`]), preprocessing ([`PreprocessingSection`]): Its sections.
        metric (`str`, *optional*, defaults to `"accuracy"`): A metric this package has, or one of `evaluate`.
        args (`dict`, *optional*): Fields of [`GreedySubTuningArguments`].
    """

    model: ModelSection
    data: DataSection
    preprocessing: PreprocessingSection = field(default_factory=PreprocessingSection)
    metric: str = "accuracy"
    args: dict[str, Any] = field(default_factory=dict)


def load_recipe(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """
    Read a recipe.

    Args:
        path (`str` or `Path`): The YAML file.
        overrides (`Sequence[str]`, *optional*):
            `section.key=value`, read as YAML; a key without a section belongs to `args`.

    Returns: [`Recipe`]
    Raises: [`RecipeError`]: If the file is missing or anything in it is not what it should be.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise RecipeError(f"There is no recipe '{path}' (looked in {Path.cwd()}).")
    content = _parse(file.read_text(encoding="utf-8"), str(path))
    if not isinstance(content, dict):
        raise RecipeError(f"'{path}' must hold the sections {', '.join(_names(Recipe))}, found {content!r:.80}.")
    for override in overrides:
        _override(content, override)
    try:
        return build(Recipe, content, "")
    except RecipeError as error:
        error.add_note(f"(in {path})")
        raise


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key given twice, of which YAML would silently take the last."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise RecipeError(f"line {key_node.start_mark.line + 1}: '{key}' is given twice.")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _parse(text: str, origin: str) -> Any:
    try:
        return yaml.load(text, Loader=_StrictLoader)  # a SafeLoader: builds plain values only
    except yaml.YAMLError as error:
        raise RecipeError(f"'{origin}' is not YAML: {error}") from None


def _override(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"An override has the form section.key=value, found '{override}'.")
    pieces = key.split(".")
    if pieces == ["metric"]:
        content["metric"] = _parse(text, override)
        return
    if len(pieces) == 1:
        pieces = ["args", key]
    place: Any = content
    for piece in pieces[:-1]:
        place = place.setdefault(piece, {})
        if not isinstance(place, dict):
            raise RecipeError(f"Override '{override}': '{piece}' is no section.")
    place[pieces[-1]] = _parse(text, override)


def build(cls: type, content: Any, where: str) -> Any:
    """
    Make a dataclass of a mapping, refusing unknown keys and wrong types.

    Args:
        cls (`type`): The dataclass.
        content (`dict`): Its values.
        where (`str`): Dotted place in the recipe, for messages.

    Raises: [`RecipeError`]
    """
    if not isinstance(content, dict):
        raise RecipeError(f"{where or 'The recipe'} must be a section with keys, found {content!r:.80}.")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in content.items():
        place = f"{where}.{key}" if where else str(key)
        if key not in fields:
            raise RecipeError(f"{place}: unknown key.{_did_you_mean(str(key), fields)} Known are {', '.join(fields)}.")
        hint = hints[key]
        section = isinstance(hint, type) and dataclasses.is_dataclass(hint)
        values[key] = build(hint, value, place) if section else check(value, hint, place)
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise RecipeError(f"{where + '.' if where else ''}{name} is missing.")
    return cls(**values)


def check(value: Any, hint: Any, place: str) -> Any:
    """
    A value of the type that is asked for.

    Numbers such as `1e-3`, which YAML 1.1 takes for text because they have no point, are read as numbers where a
    number is expected.

    Raises: [`RecipeError`]: If the value is of another type.
    """
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) or _is_union(hint) else (hint,)
    for option in options:
        origin = typing.get_origin(option) or option
        if origin is type(None) and value is None:
            return None
        if origin is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
            try:
                return float(value)
            except ValueError:
                continue
        if origin is bool and isinstance(value, bool):
            return value
        if origin in (int, str, dict, list) and isinstance(value, origin) and not isinstance(value, bool):
            return value
        if origin is typing.Any:
            return value
    wanted = " or ".join("null" if o is type(None) else getattr(o, "__name__", str(o)) for o in options)
    raise RecipeError(f"{place} must be {wanted}, found {value!r} ({type(value).__name__}).")


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) is typing.Union


def check_arguments(values: dict[str, Any], cls: type) -> dict[str, Any]:
    """
    Check the `args` section against the fields of a `TrainingArguments` class.

    Args:
        values (`dict`): The section.
        cls (`type`): [`GreedySubTuningArguments`].

    Returns: `dict`: the values, numbers in scientific notation read as numbers.
    Raises: [`RecipeError`]: For an unknown field or a value of the wrong plain type.
    """
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    hints = typing.get_type_hints(cls)
    out = {}
    for key, value in values.items():
        if key not in fields:
            raise RecipeError(f"args.{key}: {cls.__name__} has no such field.{_did_you_mean(str(key), fields)}")
        plain = _plain(hints.get(key))
        out[key] = check(value, plain, f"args.{key}") if plain is not None else value
    return out


def _plain(hint: Any) -> Any:
    """A union of plain types, or `None` where the field takes something richer, which checks itself."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) or _is_union(hint) else (hint,)
    kinds = {typing.get_origin(option) or option for option in options}
    return hint if kinds <= {int, float, bool, str, type(None)} else None


def _names(cls: type) -> list[str]:
    return [f.name for f in dataclasses.fields(cls)]


def _did_you_mean(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def _exactly_one(section: str, **values: Any) -> None:
    given = [name for name, value in values.items() if value is not None]
    if len(given) != 1:
        found = "both" if given else "neither"
        raise RecipeError(f"{section}: give exactly one of {' and '.join(values)}, found {found}.")
