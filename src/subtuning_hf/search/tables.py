"""Tables as plain text and as data frames. Knows nothing of what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import MissingDependencyError

if TYPE_CHECKING:
    import pandas


def text_table(headings: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """
    Align cells in columns.

    Args:
        headings (`Sequence[str]`): One for each column.
        rows (`Sequence[Sequence[str]]`): Cells as text.
        left (`int`, *optional*, defaults to 1): How many columns are aligned to the left; numbers go to the right.

    Returns: `str`: headings, a rule and the rows, without a newline at the end.
    """
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = [headings, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def to_frame(rows: Sequence[dict[str, Any]]) -> pandas.DataFrame:
    """
    Flat rows as a data frame.

    Raises: [`MissingDependencyError`]: If pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise MissingDependencyError("`to_pandas()` needs pandas: `pip install pandas`, or use `to_rows()`.") from error
    return pandas.DataFrame(rows)


def decimal(value: float | None, sign: bool = False) -> str:
    """A score or a difference of scores; nothing for None."""
    if value is None:
        return ""
    value = value or 0.0  # no minus zero
    return format(value, ("+" if sign else "") + (".4f" if abs(value) < 1000 else ".6g"))


def count(value: int) -> str:
    """A number of things, with thousands apart."""
    return f"{value:,}"


def seconds(value: float) -> str:
    """A time in seconds."""
    return f"{value:,.1f}"
