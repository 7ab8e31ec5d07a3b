"""Short names for blocks that share a pattern, and for selections of them. Knows strings only."""

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
    if len(split) < 2:
        return list(blocks), None
    if len({len(pieces) for pieces in split}) != 1:
        return _without_common_start(split)
    columns = [_column(pieces) for pieces in zip(*split, strict=True)]
    pattern = ".".join(shared for shared, _ in columns)
    kept = [pieces for _, pieces in columns if pieces is not None]
    if not kept or not pattern.strip("*."):
        return list(blocks), None
    return [".".join(pieces) for pieces in zip(*kept, strict=True)], pattern


def _without_common_start(split: Sequence[Sequence[str]]) -> tuple[list[str], str | None]:
    """Names of different depth, such as the parts of blocks: what stands before the first difference is shared."""
    least = min(map(len, split)) - 1  # at least one piece is left of each
    shared = next((i for i in range(least) if len({pieces[i] for pieces in split}) > 1), least)
    pattern = ".".join([*split[0][:shared], "*"]) if shared else None
    return [".".join(pieces[shared:]) for pieces in split], pattern


def names_of(
    selections: Sequence[Sequence[str]], blocks: Sequence[str], bare: str = "head only"
) -> tuple[list[str], str | None]:
    """
    Short names of selections: a run of consecutive blocks is named by its ends.

    Args:
        selections (`Sequence[Sequence[str]]`): Names of blocks in forward order, such as `[("net.1", "net.2")]`.
        blocks (`Sequence[str]`): All blocks in forward order.
        bare (`str`, *optional*, defaults to `"head only"`): What no block is called.

    Returns: `tuple[list[str], str | None]`: such as `["1–2"]`, and the pattern that short names of blocks fill.
    """
    place = {name: index for index, name in enumerate(blocks)}
    shorts, pattern = short_names(blocks)

    def name(selection: Sequence[str]) -> str:
        parts = [shorts[place[block]] for block in selection]
        if not parts:
            return bare
        if len(parts) == len(blocks) > 1:
            return "all blocks"
        run = len(parts) > 1 and place[selection[-1]] - place[selection[0]] == len(parts) - 1
        return f"{parts[0]}–{parts[-1]}" if run else " + ".join(parts)

    return [name(selection) for selection in selections], pattern


def clipped(name: str, most: int = 28) -> str:
    """A name without its middle where it is long: ends tell blocks apart, and so do beginnings."""
    if len(name) <= most:
        return name
    left = (most - 1) // 3
    return f"{name[:left].rstrip('.')}…{name[len(name) - (most - 1 - left) :].lstrip('.')}"


def ordered_union(selections: Sequence[Sequence[str]]) -> list[str]:
    """All names that occur, each once, as they first come."""
    return list(dict.fromkeys(name for selection in selections for name in selection))


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
