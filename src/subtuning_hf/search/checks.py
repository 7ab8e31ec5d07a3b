"""
Checks of single values, and copies of them that are plain JSON.

Every check returns the value as a builtin and names what was expected, what was found and where. Knows no record.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, field, fields
from enum import Enum
from numbers import Integral, Real
from typing import Any, TypeVar

from ..errors import ArgumentsError

Kind = TypeVar("Kind")
_LATER = {"later": True}


def put(record: object, name: str, value: Any) -> None:
    """Put a checked value into a frozen record that is being made."""
    object.__setattr__(record, name, value)


def later(default: Any) -> Any:
    """A field that records of an older format lack; at its default it is not written."""
    return field(default=default, metadata=_LATER)


def exactly(kind: Any, data: Any) -> dict[str, Any]:
    """The fields of a record, none unknown and none missing but those that came later."""
    known = {item.name: item for item in fields(kind)}
    if not isinstance(data, Mapping):
        raise ArgumentsError(f"{kind.__name__} must be an object with {', '.join(known)}, found {short(data)}.")
    missing = [name for name, item in known.items() if name not in data and not item.metadata.get("later")]
    unknown = [str(name) for name in data if name not in known]
    if missing or unknown:
        found = [f"missing {', '.join(missing)}"] * bool(missing) + [f"unknown {', '.join(unknown)}"] * bool(unknown)
        raise ArgumentsError(f"{kind.__name__} must have exactly {', '.join(known)}, found {'; '.join(found)}.")
    return dict(data)


def written(record: Any) -> dict[str, Any]:
    """The fields of a record that are written: all but those that came later and are at their default."""
    values = {item.name: (item, getattr(record, item.name)) for item in fields(record)}
    return {
        name: value
        for name, (item, value) in values.items()
        if not item.metadata.get("later") or item.default is MISSING or value != item.default
    }


def instance(kind: type[Kind], value: Any, where: str) -> Kind:
    if not isinstance(value, kind):
        raise ArgumentsError(f"{where} must be a {kind.__name__}, found {short(value)}.")
    return value


def text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise ArgumentsError(f"{where} must be a text that is not empty, found {short(value)}.")
    return str(value)


def number(value: Any, where: str) -> float:
    # Also numpy's scalars, which register themselves as numbers; tensors do not, and would hold on to a device.
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ArgumentsError(f"{where} must be a number, found {short(value)}.")
    # One object for every NaN, so that a record equals itself after a trip through JSON.
    return math.nan if value != value else float(value)


def finite(value: Any, where: str, least: float | None = None) -> float:
    found = number(value, where)
    if not math.isfinite(found) or (least is not None and found < least):
        bound = "" if least is None else f" of {least} or more"
        raise ArgumentsError(f"{where} must be a finite number{bound}, found {found}.")
    return found


def share(value: Any, where: str) -> float:
    """A number above 0 and up to 1."""
    found = number(value, where)
    if not 0 < found <= 1:
        raise ArgumentsError(f"{where} must be a number above 0 and up to 1, found {found}.")
    return found


def whole(value: Any, where: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ArgumentsError(f"{where} must be a whole number of {least} or more, found {short(value)}.")
    return int(value)


def plain_dict(value: Any, where: str) -> dict[str, Any]:
    """A plain copy of a dict."""
    return dict(plain(instance(dict, value, where), where))


def plain(value: Any, where: str) -> Any:
    """A copy made of nothing but dicts with text keys, lists, texts, finite numbers, bools and None."""
    if isinstance(value, Enum):
        return plain(value.value, where)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        found = number(value, where)
        return found if math.isfinite(found) else str(found)
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise ArgumentsError(f"{where} must have text keys, found {short(list(value))}.")
        return {str(name): plain(inner, f"{where}[{name!r}]") for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner, f"{where}[{place}]") for place, inner in enumerate(value)]
    kind = type(value).__name__
    raise ArgumentsError(
        f"{where} must be plain JSON (text, number, bool, None, list, dict), found {kind} {short(value)}."
    )


def digest(value: Any, size: int) -> str:
    """Hash of plain JSON as hexadecimal digits, two for each byte of `size`; the order of keys does not matter."""
    canonical = json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return hashlib.blake2b(canonical.encode("ascii"), digest_size=size).hexdigest()


def short(value: Any, most: int = 80) -> str:
    words = repr(value)
    return words if len(words) <= most else words[: most - 3] + "..."


def union(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The keys of both, each once, in the order of the first."""
    return [*old, *(name for name in new if name not in old)]


def changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Lines "name: old -> new" for every leaf in which two nested dicts differ."""
    for name in union(old, new):
        if name in old and name in new and old[name] == new[name]:
            continue
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from changes(before, after, f"{prefix}{name}.")
        else:
            words = [short(side[name]) if name in side else "not set" for side in (old, new)]
            yield f"{prefix}{name}: {words[0]} -> {words[1]}"
