"""Names along an axis, and labels at points, so that none lies on another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from .names import clipped
from .style import Theme

Point = tuple[float, float]
CHARACTER = 0.64  # mean width of a character, in font sizes
LINE = 1.25  # height of a line, in font sizes


def name_ticks(axes: Axes, names: Sequence[str], theme: Theme, which: str = "x", most: int = 28) -> None:
    """
    Write names at 0, 1, 2 ... along an axis: turned, smaller or fewer where they would not fit.

    Args:
        axes (`matplotlib.axes.Axes`): The axes.
        names (`Sequence[str]`): One for each place; newlines are kept.
        theme ([`Theme`]): Colours.
        which (`str`, *optional*, defaults to `"x"`): `"x"` or `"y"`.
        most (`int`, *optional*, defaults to 28): Characters of a line; longer ones lose their middle.
    """
    shown = ["\n".join(clipped(line, most) for line in name.split("\n")) for name in names]
    box = axes.get_window_extent()
    slot = (box.width if which == "x" else box.height) / axes.figure.dpi * 72 / max(1, len(names))  # points
    lines = max(name.count("\n") + 1 for name in shown)
    widths = [max(map(len, name.split("\n"))) * CHARACTER * 9 for name in shown]
    neighbours = [(one + other) / 2 for one, other in pairwise(widths)]
    turned = which == "x" and max(neighbours, default=0.0) + 10 > slot
    across = which == "y" or turned  # names stand above each other, not beside
    size = max(6.5, min(9.0, slot / (LINE * lines))) if across else 9.0
    every = max(1, -int(-LINE * lines * size // slot)) if across else 1
    places = range(0, len(names), every)
    labels = [shown[place] for place in places]
    if which == "x":
        lines_at: dict[str, Any] = {"rotation": 90, "multialignment": "right"} if turned else {}  # right is up
        axes.set_xticks(places, labels, color=theme.text, fontsize=size, **lines_at)
    else:
        axes.set_yticks(places, labels, color=theme.text, fontsize=size)


OFFSETS = (  # where a label may stand, best first: shift in points, horizontal and vertical alignment
    (8, 5, "left", "bottom"),
    (8, -5, "left", "top"),
    (-8, 5, "right", "bottom"),
    (-8, -5, "right", "top"),
    (0, 10, "center", "bottom"),
    (0, -10, "center", "top"),
    (16, 16, "left", "bottom"),
    (16, -16, "left", "top"),
    (-16, 16, "right", "bottom"),
    (-16, -16, "right", "top"),
)


def label_points(
    axes: Axes,
    points: Sequence[Point],
    texts: Sequence[str],
    colours: Sequence[str],
    around: Sequence[Point] = (),
    lines: Sequence[Sequence[Point]] = (),
    **style: Any,
) -> list[int]:
    """
    Write a label beside each point where there is room; a point without any gets none.

    Args:
        axes (`matplotlib.axes.Axes`): Axes whose limits stand.
        points (`Sequence[tuple[float, float]]`): In data units, the most important first.
        texts (`Sequence[str]`), colours (`Sequence[str]`): One for each point.
        around (`Sequence[tuple[float, float]]`, *optional*): More points that no label may hide.
        lines (`Sequence[Sequence[tuple[float, float]]]`, *optional*): Corners of lines that labels should not cross.
        style: More for `Axes.annotate`.

    Returns: `list[int]`: the points that got a label.
    """
    pixel = axes.figure.dpi / 72
    frame = axes.get_window_extent().padded(2 * pixel)
    taken = [_around(axes, point, 4 * pixel) for point in (*points, *around)]
    crossed = [_around(axes, point, 1 * pixel) for line in lines for point in _along(axes, line, 4 * pixel)]
    done = []
    for index, (point, text, colour) in enumerate(zip(points, texts, colours, strict=True)):
        for right, up, across, along, strict in [(*o, True) for o in OFFSETS] + [(*o, False) for o in OFFSETS]:
            label = axes.annotate(
                text, point, xytext=(right, up), textcoords="offset points", ha=across, va=along, color=colour, **style
            )
            box = label.get_window_extent()
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not any(box.overlaps(other) for other in (*taken, *(crossed if strict else ()))):
                taken.append(box.padded(1))
                done.append(index)
                break
            label.remove()
    return done


def _around(axes: Axes, point: Point, half: float) -> Bbox:
    x, y = axes.transData.transform(point)
    return Bbox.from_extents(x - half, y - half, x + half, y + half)


def _along(axes: Axes, ends: Sequence[Point], step: float) -> Iterator[Point]:
    """Points along a line, in data units, so close that no label fits between them."""
    for one, other in pairwise(ends):
        length = float(np.hypot(*(axes.transData.transform(other) - axes.transData.transform(one))))
        for share in np.linspace(0, 1, 2 + int(length / step)):
            pixels = (1 - share) * axes.transData.transform(one) + share * axes.transData.transform(other)
            x, y = axes.transData.inverted().transform(pixels)
            yield float(x), float(y)
