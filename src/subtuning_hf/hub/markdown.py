"""
Text, code and tables in Markdown, whatever the texts of users hold.

Knows nothing of what is written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# An underscore inside a word is one.
_SPECIAL = re.compile(r"([\\`*{}\[\]<>#|!~$&]|(?<!\w)_|_(?!\w))")


def text(value: object) -> str:
    """A text on one line that is shown as it is: no mark-up, no HTML, no cell of a table ends in it."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(value).split()))


def code(value: object) -> str:
    """A text on one line in the font of code, also inside a table."""
    words = " ".join(str(value).split())
    if "|" in words:  # which ends a cell, inside code as well; a backslash would be shown outside of tables
        return text(words)
    fence = "`" * (_longest_run(words) + 1)
    space = " " if words.startswith("`") or words.endswith("`") else ""
    return f"{fence}{space}{words}{space}{fence}"


def block(source: str, language: str = "python") -> str:
    """Lines of code; nothing in them ends the block."""
    fence = "`" * max(3, _longest_run(source) + 1)
    return f"{fence}{language}\n{source}\n{fence}"


def _longest_run(words: str) -> int:
    return max((len(run) for run in re.findall("`+", words)), default=0)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """
    A table.

    Args:
        headings (`Sequence[str]`): One for each column, in Markdown.
        rows (`Sequence[Sequence[str]]`): Cells in Markdown; a column whose cells are all empty is left out.
        left (`int`, *optional*, defaults to 1): How many columns are aligned to the left; numbers go to the right.

    Returns: `str`: without a newline at the end.
    """
    kept = [place for place in range(len(headings)) if any(row[place] for row in rows)]
    rule = ["---" if place < left else "---:" for place in kept]
    lines = [[headings[place] for place in kept], rule, *([row[place] for place in kept] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float) -> str:
    """A score with four digits behind the point; large ones with six in all."""
    value = value or 0.0  # no minus zero
    return format(value, ".4f" if abs(value) < 1000 else ".6g")


def share(part: float, whole: float) -> str:
    """A share in percent; empty where there is no whole."""
    return f"{100 * part / whole:.3g} %" if whole else ""


def plural(count: int, word: str, many: str | None = None) -> str:
    """A number of things in words; `many` where the plural is not made by an s."""
    return f"{count:,} {word if count == 1 else many or word + 's'}"
