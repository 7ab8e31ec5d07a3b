"""
HTML, whatever the texts of users hold: what is not markup by its type is escaped.

Knows nothing of what is written.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

_VOID = ("img", "input", "meta", "source", "br")
# What no page can hold (control characters, halves of surrogate pairs), and what would turn the text around it.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069\ufffe\uffff]")
LONGEST = 300


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def text(value: Any) -> Html:
    """Anything as text that is shown as it is; markup stays markup."""
    if isinstance(value, Html):
        return value
    return Html(html.escape(_UNPRINTABLE.sub("\ufffd", str(value)), quote=True))


def join(pieces: Iterable[Any], between: str = "") -> Html:
    """Pieces one after another, each escaped if it is no markup."""
    return Html(text(between).join(text(piece) for piece in pieces))


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """
    An element.

    Args:
        name (`str`): Its name.
        children: Its contents; what is no markup is escaped, and `None` left out.
        attributes: An underscore at the end of a name is dropped, others become hyphens; `None` and `False` are left
            out, `True` has no value.

    Returns: [`Html`]
    """
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        words.append(key if value is True else f'{key}="{text(value)}"')
    start = f"<{' '.join(words)}>"
    if name in _VOID:
        return Html(start)
    return Html(f"{start}{join(child for child in children if child is not None)}</{name}>")


def clipped(value: Any, most: int = LONGEST) -> str:
    """A text without its middle where it is very long: names are somebody's, and a page has an end."""
    words = str(value)
    half = (most - 3) // 2
    return words if len(words) <= most else f"{words[:half]} … {words[-half:]}"


def code(value: Any) -> Html:
    """A name in the font of code."""
    return tag("code", clipped(value))


def codes(values: Iterable[Any], between: str = " + ") -> Html:
    """Several names."""
    return join((code(value) for value in values), between)


def table(
    caption: Any,
    headings: Sequence[Any],
    rows: Sequence[Sequence[Any]],
    left: int = 1,
    marked: Iterable[int] = (),
    name: str | None = None,
    heads: bool = True,
) -> Html:
    """
    A table in a box of its own, which scrolls where the page is too narrow.

    Args:
        caption: What it shows.
        headings (`Sequence`): One for each column; a column whose cells are all empty is left out.
        rows (`Sequence[Sequence]`): Cells, escaped if they are no markup.
        left (`int`, *optional*, defaults to 1): How many columns are aligned to the left; numbers go to the right.
        marked (`Iterable[int]`, *optional*): Rows that stand out.
        name (`str`, *optional*): The table's id.
        heads (`bool`, *optional*, defaults to `True`): Whether the first cell of a row names it.

    Returns: [`Html`]: `""` without a row.
    """
    kept = [place for place in range(len(headings)) if any(str(row[place]) for row in rows)]
    if not kept:
        return Html("")
    outstanding = set(marked)
    number = ["n" if place >= left else None for place in range(len(headings))]
    top = tag("tr", *(tag("th", headings[place], scope="col", class_=number[place]) for place in kept))
    body = []
    for index, row in enumerate(rows):
        cells = [tag("td", row[place], class_=number[place]) for place in kept]
        if heads:
            cells[0] = tag("th", row[kept[0]], scope="row", class_=number[kept[0]])
        body.append(tag("tr", *cells, class_="marked" if index in outstanding else None))
    body_ = Html("\n".join(body))
    whole = tag("table", tag("caption", tag("span", caption)), tag("thead", top), tag("tbody", body_), id=name)
    return tag("div", whole, class_="scroll", role="region", tabindex="0", aria_label=_plain(caption))


def _plain(caption: Any) -> str:
    return html.unescape(re.sub("<[^>]*>", "", caption)) if isinstance(caption, Html) else str(caption)


def folded(summary: Any, *children: Any) -> Html:
    """What is there on demand."""
    return tag("details", tag("summary", summary), *children)


# --- numbers --------------------------------------------------------------------------------
def number(value: float | None, sign: bool = False) -> str:
    """A score with four digits behind the point, large ones with six in all; nothing for None."""
    if value is None:
        return ""
    value = value or 0.0  # no minus zero
    return format(value, ("+" if sign else "") + (".4f" if abs(value) < 1000 else ".6g"))


def count(value: int | None) -> str:
    """A number of things with thousands apart; nothing for None."""
    return "" if value is None else f"{value:,}"


def seconds(value: float) -> str:
    """A time in words: 42 s, 3 min 20 s, 5 h 12 min."""
    if value < 60:
        return f"{value:.3g} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if minutes and hours < 10 else f"{hours:,} h"


def share(part: float, whole: float) -> str:
    """A share in percent; empty where there is no whole."""
    return f"{100 * part / whole:.3g} %" if whole else ""


def plural(number: int, word: str, many: str | None = None) -> str:
    """A number of things in words."""
    return f"{number:,} {word if number == 1 else many or word + 's'}"
