"""
Strict reading: YAML into dataclasses, where a key nothing knows, a wrong type or a key given twice is an error.

Knows types and near misses; does not know what a recipe holds.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any

import yaml

from ..errors import RecipeError


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


def parse(text: str, origin: str) -> Any:
    """
    Read YAML as plain values.

    Args:
        text (`str`): The YAML.
        origin (`str`): Where it comes from, for messages.

    Raises: [`RecipeError`]: If it is no YAML, or gives a key twice.
    """
    try:
        return yaml.load(text, Loader=_StrictLoader)  # a SafeLoader: builds plain values only
    except yaml.YAMLError as error:
        raise RecipeError(f"'{origin}' is not YAML: {error}") from None


def override(content: dict[str, Any], text: str, sections: Iterable[str]) -> None:
    """
    Replace one value of a recipe's content in place.

    Args:
        content (`dict`): The parsed recipe.
        text (`str`): `section.key=value`, the value as YAML; a key without a section belongs to `args`.
        sections (`Iterable[str]`): Keys at the top that are no sections, and are replaced themselves.

    Raises: [`RecipeError`]
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise RecipeError(f"An override has the form section.key=value, found '{text}'.")
    pieces = key.split(".")
    if len(pieces) == 1 and key not in sections:
        pieces = ["args", key]
    place: Any = content
    for piece in pieces[:-1]:
        if place.get(piece) is None:
            place[piece] = {}
        place = place[piece]
        if not isinstance(place, dict):
            raise RecipeError(f"Override '{text}': '{piece}' is no section.")
    place[pieces[-1]] = parse(value, text)


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
            raise RecipeError(f"{place}: unknown key.{did_you_mean(str(key), fields)} Known are {', '.join(fields)}.")
        section = section_of(hints[key])
        values[key] = check(value, hints[key], place) if section is None else build(section, value, place)
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise RecipeError(f"{where + '.' if where else ''}{name} is missing.")
    return cls(**values)


def section_of(hint: Any) -> type | None:
    """The dataclass that a field takes, alone or beside `None`; `None` for a plain field."""
    for option in options_of(hint):
        if isinstance(option, type) and dataclasses.is_dataclass(option):
            return option
    return None


def options_of(hint: Any) -> tuple[Any, ...]:
    """The types a union allows; for any other hint itself."""
    union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    return typing.get_args(hint) if union else (hint,)


def check(value: Any, hint: Any, place: str) -> Any:
    """
    A value of the type that is asked for.

    Numbers such as `1e-3`, which YAML 1.1 takes for text because they have no point, are read as numbers where a
    number is expected.

    Raises: [`RecipeError`]: If the value is of another type.
    """
    options = options_of(hint)
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
        if origin is list and isinstance(value, list):
            kinds = typing.get_args(option)
            return [check(item, kinds[0], f"{place}[{i}]") for i, item in enumerate(value)] if kinds else value
        if origin in (int, str, dict) and isinstance(value, origin) and not isinstance(value, bool):
            return value
        if origin is typing.Any:
            return value
    wanted = " or ".join("null" if o is type(None) else _type_name(o) for o in options)
    raise RecipeError(f"{place} must be {wanted}, found {value!r} ({type(value).__name__}).")


def _type_name(option: Any) -> str:
    """`list of str or int` for `list[str | int]`."""
    kinds = typing.get_args(option)
    name = getattr(typing.get_origin(option) or option, "__name__", str(option))
    return f"{name} of {' or '.join(_type_name(o) for o in options_of(kinds[0]))}" if name == "list" and kinds else name


def check_choice(value: Any, choices: Iterable[str], place: str) -> str:
    """
    A value that is one of some words.

    `no`, which YAML 1.1 takes for false, is read as the word where it is one of them.

    Raises: [`RecipeError`]: With the nearest word.
    """
    words = list(choices)
    if value is False and "no" in words:
        return "no"
    if value not in words:
        raise RecipeError(f"{place} must be one of {', '.join(words)}, found {value!r}.{did_you_mean(value, words)}")
    return value


# What Trainer would train with, or divide by, without a word. A range is the text for people and the test.
RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "learning_rate": ("above 0", lambda v: v > 0),
    "weight_decay": ("0 or more", lambda v: v >= 0),
    "max_grad_norm": ("0 or more", lambda v: v >= 0),
    "warmup_steps": ("0 or more", lambda v: v >= 0),
    "label_smoothing_factor": ("from 0 to below 1", lambda v: 0 <= v < 1),
    "per_device_train_batch_size": ("1 or more", lambda v: v >= 1),
    "per_device_eval_batch_size": ("1 or more", lambda v: v >= 1),
    "gradient_accumulation_steps": ("1 or more", lambda v: v >= 1),
    "dataloader_num_workers": ("0 or more", lambda v: v >= 0),
    "seed": ("from 0 to 4294967295", lambda v: 0 <= v < 2**32),
}


def check_arguments(values: dict[str, Any], cls: type) -> dict[str, Any]:
    """
    Check the `args` section against the fields of a `TrainingArguments` class.

    Args:
        values (`dict`): The section.
        cls (`type`): [`GreedySubTuningArguments`].

    Returns: `dict`: the values, numbers in scientific notation read as numbers.
    Raises: [`RecipeError`]: For an unknown field, a value of the wrong plain type, a word that is no choice, or a
        number out of range.
    """
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    hints = typing.get_type_hints(cls)
    out = {}
    for key, value in values.items():
        place = f"args.{key}"
        if key not in fields:
            raise RecipeError(f"{place}: {cls.__name__} has no such field.{did_you_mean(str(key), fields)}")
        words = _words(hints.get(key), fields[key])
        if words and value is not None:
            value = check_choice(value, words, place)
        elif _is_plain(hints.get(key)):
            value = check(value, hints[key], place)
        if key in RANGES and isinstance(value, (int, float)) and not RANGES[key][1](value):
            raise RecipeError(f"{place} must be {RANGES[key][0]}, found {value!r}.")
        out[key] = value
    return out


def _words(hint: Any, field: Any) -> list[str]:
    """The words a field allows: its `choices`, or the values of its enum; none where others are allowed too."""
    choices = field.metadata.get("choices")
    if choices and all(isinstance(word, str) for word in choices):
        return list(choices)
    enums = [o for o in options_of(hint) if isinstance(o, type) and issubclass(o, enum.Enum)]
    plain = all(o in (str, type(None), *enums) for o in options_of(hint))
    return [str(member.value) for member in enums[0]] if len(enums) == 1 and plain else []


def _is_plain(hint: Any) -> bool:
    """Whether only plain types are allowed; richer fields check themselves."""
    kinds = {typing.get_origin(option) or option for option in options_of(hint)}
    return kinds <= {int, float, bool, str, type(None)}


def did_you_mean(name: Any, known: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or nothing."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""
