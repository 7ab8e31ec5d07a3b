"""Checks of single arguments: each says what was expected and what was found."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection
from typing import Any

from ..errors import ArgumentsError


def check_choice(name: str, value: Any, known: Collection[str]) -> None:
    if value not in known:
        near = difflib.get_close_matches(str(value), known, n=1)
        meant = f" Did you mean {near[0]!r}?" if near else ""
        raise ArgumentsError(f"`{name}` must be one of {', '.join(known)}, found {value!r}.{meant}")


def check_number(name: str, value: Any, expected: str, holds: Callable[[float], bool]) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not holds(value):
        raise ArgumentsError(f"`{name}` must be {expected}, found {value!r}.")


def check_int(name: str, value: Any, least: int, hint: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ArgumentsError(f"`{name}` must be a whole number of {least} or more, found {value!r}.{hint}")
