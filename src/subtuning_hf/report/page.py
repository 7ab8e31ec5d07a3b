"""
The report as one page, and its way to a file.

The page needs nothing but itself: no script, font or picture from elsewhere, and a policy in it forbids any. Knows
facts.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

from .._version import __version__
from ..errors import ArgumentsError, SubTuningError
from . import sections, settings
from .facts import ReportFacts
from .markup import Html, clipped, join, tag
from .records import records
from .script import JAVASCRIPT
from .style import CSS
from .summary import header

# What tells our page from one that somebody wrote.
MARK = '<meta name="generator" content="subtuning-hf report">'
_PARTS = (
    sections.profile,
    sections.ladders,
    sections.predictions,
    sections.pareto,
    sections.finals,
    sections.comparison,
    settings.cost,
    settings.limits,
    settings.settings,
    settings.identity,
    records,
)


def make_page(facts: ReportFacts) -> str:
    """
    Write the report of a study.

    Args:
        facts ([`ReportFacts`]): What is known.

    Returns: `str`: the page, the same for the same facts: no date of today is in it.
    """
    parts = [part for part in (_made(make, facts) for make in _PARTS) if part]
    body = tag(
        "div",
        header(facts),
        tag("nav", tag("ul", *map(_link, parts)), aria_label="On this page"),
        tag("main", join(parts, "\n")),
        tag("footer", f"Written by subtuning-hf {__version__} from the journal of the study and files named above."),
        class_="page",
    )
    head = join(
        [
            Html('<meta charset="utf-8">'),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", http_equiv="Content-Security-Policy", content=_policy()),
            tag("meta", name="color-scheme", content="light dark"),
            tag("meta", name="referrer", content="no-referrer"),
            Html(MARK),
            tag("title", f"{clipped(facts.title, 120)} – SubTuning study"),
            tag("style", Html(CSS)),
        ],
        "\n",
    )
    script = tag("script", Html(JAVASCRIPT))
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n{script}\n</body>\n</html>\n'


def _made(make: Callable[[ReportFacts], Html], facts: ReportFacts) -> Html:
    """A section; of a damaged study even one that cannot be told has a place, so that the others can."""
    try:
        return make(facts)
    except SubTuningError as error:
        name = make.__name__
        return sections.section(name, name.capitalize(), tag("p", "This cannot be told: ", clipped(error, 1000)))


def _link(part: Html) -> Html:
    found = re.search(r'<h2 id="([a-z]+)-heading">([^<]*)</h2>', part)
    assert found is not None
    return tag("li", tag("a", Html(found[2]), href=f"#{found[1]}"))


def _policy() -> str:
    """What a browser may load for this page: pictures in it, its own style and its own script."""
    style, script = (_digest(words) for words in (CSS, JAVASCRIPT))
    rules = (f"style-src {style}", f"script-src {script}", "img-src data:", "base-uri 'none'", "form-action 'none'")
    return "; ".join(["default-src 'none'", *rules])


def _digest(words: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(words.encode()).digest()).decode()}'"


# --- the file -------------------------------------------------------------------------------
def check_target(target: Path, overwrite: bool = False) -> None:
    """
    Refuse to write where something of somebody else is.

    Args:
        target (`Path`): The file.
        overwrite (`bool`, *optional*, defaults to `False`): Whether a file of others may be replaced.

    Raises: [`ArgumentsError`]: If it may not, or the place is a folder.
    """
    if target.is_dir():
        raise ArgumentsError(
            f"--output must be a file, but '{target}' is a folder. Name a file in it: --output {target / 'report.html'}"
        )
    if target.exists() and not overwrite and not _is_own(target):
        raise ArgumentsError(
            f"'{target}' exists and was not written by `subtuning report`, so it is left as it is. Name another file "
            "with --output, or replace it with --overwrite."
        )


def _is_own(target: Path) -> bool:
    try:
        with target.open("rb") as file:
            start = file.read(4096)
    except OSError:
        return False
    return MARK.encode() in start


def write_page(words: str, target: Path, overwrite: bool = False) -> None:
    """
    Put a page into a file: whole or not at all.

    Args:
        words (`str`): The page.
        target (`Path`): The file; folders are made.
        overwrite (`bool`, *optional*, defaults to `False`): Whether a file of others may be replaced.

    Raises: [`ArgumentsError`]: If something of somebody else is there, or it cannot be written.
    """
    check_target(target, overwrite)
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            scratch.write_bytes(words.encode("utf-8"))
            os.replace(scratch, target)
        finally:
            scratch.unlink(missing_ok=True)
    except OSError as error:
        raise ArgumentsError(
            f"'{target}' cannot be written: {error.strerror or error}. Name another file with --output."
        ) from error
