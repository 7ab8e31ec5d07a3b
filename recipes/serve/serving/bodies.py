"""
What a request says: JSON, a form, or a bare image or text.

Knows content types; does not know tasks or models.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request

from .errors import ServeError

_KEYS = ("tasks", "text", "image", "top")


@dataclass(frozen=True)
class Asked:
    """
    What a client asks.

    Args:
        content (`str` or `bytes`): A text, or the bytes of an image file.
        tasks (`tuple[str, ...]` or `None`): Names; `None` for all.
        top (`int` or `None`): Most labels in an answer; `None` for all.
    """

    content: str | bytes
    tasks: tuple[str, ...] | None = None
    top: int | None = None


async def read_body(request: Request, most: int) -> bytes:
    """
    The body of a request.

    Args:
        request (`Request`): Not read yet.
        most (`int`): Most bytes.

    Raises: [`ServeError`]: If it is longer; the rest is not read.
    """
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise ServeError(f"Expected at most {most:,} bytes, found more. Shrink the image.", 413)
        parts.append(part)
    return b"".join(parts)


async def read_form(request: Request, body: bytes) -> Mapping[str, Any]:
    """
    The fields of a form, files as bytes.

    Raises: [`ServeError`]: If it cannot be read.
    """

    async def again() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        async with Request(request.scope, again).form(max_files=1, max_fields=64, max_part_size=len(body) + 1) as form:
            fields: dict[str, Any] = {"tasks": [str(value) for value in form.getlist("tasks")] or None}
            for name in form:
                value = form[name]
                if name != "tasks":
                    fields[name] = value if isinstance(value, str) else await value.read()
    except Exception as error:  # of a parser of foreign bytes
        raise ServeError(f"The form cannot be read: {getattr(error, 'detail', error)}") from None
    tasks = fields["tasks"]
    fields["tasks"] = None if tasks is None else [name for value in tasks for name in value.split(",")]
    return fields


def parse_json(body: bytes) -> Mapping[str, Any]:
    """
    A JSON object.

    Raises: [`ServeError`]: If it is none.
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ServeError(f"Expected JSON, found something else: {str(error)[:200]}") from None
    if not isinstance(fields, dict):
        raise ServeError(f"Expected a JSON object, found a {type(fields).__name__}.")
    return fields


def parse_json_question(body: bytes) -> Asked:
    """
    A question as JSON, with its image in base64.

    Raises: [`ServeError`]: If it is not as expected.
    """
    fields = dict(parse_json(body))
    image = fields.get("image")
    if image is not None:
        if not isinstance(image, str):
            raise ServeError(f"Expected an image as base64, found a {type(image).__name__}.")
        encoded = image.partition(",")[2] if image.startswith("data:") else image
        try:
            fields["image"] = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ServeError(f"Expected an image as base64: {error}.") from None
    return asked_of(fields)


def asked_of(fields: Mapping[str, Any]) -> Asked:
    """
    A question from its fields.

    Args:
        fields (`Mapping[str, Any]`): `text` or `image` (bytes), `tasks`, `top`.

    Raises: [`ServeError`]: If one is missing, unknown or of the wrong kind.
    """
    if unknown := [name for name in fields if name not in _KEYS]:
        raise ServeError(f"Expected {', '.join(_KEYS)}, found {', '.join(map(repr, unknown[:5]))}.")
    given = [fields[name] for name in ("text", "image") if fields.get(name) is not None]
    if len(given) != 1:
        raise ServeError(f"Expected either `text` or `image`, found {'both' if given else 'neither'}.")
    if fields.get("text") is not None and not isinstance(fields["text"], str):
        raise ServeError(f"Expected a string for `text`, found a {type(fields['text']).__name__}.")
    if isinstance(given[0], str) and not _is_whole(given[0]):
        raise ServeError("Expected a text of characters, found half of a surrogate pair (\\ud800 to \\udfff) alone.")
    content = given[0].encode() if fields.get("image") is not None and isinstance(given[0], str) else given[0]
    return Asked(content, tasks_of(fields.get("tasks")), top_of(fields.get("top")))


def _is_whole(text: str) -> bool:
    """Whether it is a text: escapes of JSON and some charsets of forms also make what no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def tasks_of(value: Any) -> tuple[str, ...] | None:
    """
    Names of tasks.

    Raises: [`ServeError`]: If they are none.
    """
    if value is None:
        return None
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise ServeError("Expected a list of names for `tasks`, or nothing for all of them.")
    return tuple(value)


def top_of(value: Any) -> int | None:
    """
    The most labels of an answer.

    Raises: [`ServeError`]: If it is no number from 1.
    """
    if value is None:
        return None
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 7 else value
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ServeError("Expected a whole number from 1 for `top`.")
    return number
