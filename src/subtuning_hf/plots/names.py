"""Short names for blocks that share a pattern. Knows strings only."""

from __future__ import annotations

from collections.abc import Sequence


def short_names(blocks: Sequence[str]) -> tuple[list[str], str | None]:
    """
    Leave out of dotted names what all of them share.

    Args:
        blocks (`Sequence[str]`): Full names, such as `"net.layer1.0"` and `"net.layer2.1"`.

    Returns: `tuple[list[str], str | None]`: the short names, such as `"1.0"` and `"2.1"`, and the pattern they fill,
    such as `"net.layer*.*"`. The full names and `None` where they share nothing.
    """
    split = [name.split(".") for name in blocks]
    if len(split) < 2 or len({len(pieces) for pieces in split}) != 1:
        return list(blocks), None
    columns = [_column(pieces) for pieces in zip(*split, strict=True)]
    pattern = ".".join(shared for shared, _ in columns)
    kept = [pieces for _, pieces in columns if pieces is not None]
    if not kept or not pattern.strip("*."):
        return list(blocks), None
    return [".".join(pieces) for pieces in zip(*kept, strict=True)], pattern


def _column(pieces: tuple[str, ...]) -> tuple[str, tuple[str, ...] | None]:
    """What the pieces at one place share, with a star for the rest, and the rest (`None` where they are all equal)."""
    if len(set(pieces)) == 1:
        return pieces[0], None
    first, last = min(pieces), max(pieces)  # what these two share, all share
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    prefix = first[:length].rstrip("0123456789")
    rest = tuple(piece[len(prefix) :] for piece in pieces)
    if all(piece.isdigit() for piece in rest):
        return f"{prefix}*", rest
    return "*", pieces
