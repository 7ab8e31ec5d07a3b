"""Badges above bars: the order in which a search chose their blocks, lifted where they would hide each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from .style import Theme

ORDINALS = ("1st", "2nd", "3rd")
ROOMY = 24  # bars up to which a badge may be as wide as a word
ABOVE = 4.0  # points from the bar to its badge
GAP = 1.5  # points between badges
SLACK = 2.5  # points more above a lifted one's neighbour, so that the next one, on a bar a little higher, fits below
# What may stand beside the axes takes width from them, but only when all is drawn.
KEPT = 0.9


@dataclass(frozen=True)
class Badge:
    """The bar at `x` ends at `top`, in data units, and was the `order`th choice, from 0."""

    x: int
    top: float
    order: int


def draw_badges(axes: Axes, badges: Sequence[Badge], bars: int, colours: Theme) -> None:
    """
    Draw badges, and raise the upper limit of the axes until they have room.

    Args:
        axes (`matplotlib.axes.Axes`): Axes whose other limits stand.
        badges (`Sequence[Badge]`): From left to right.
        bars (`int`): How many bars there are.
        colours ([`Theme`]): Colours.
    """
    texts = [badge_text(badge.order, bars) for badge in badges]
    size = 8.5 if bars <= ROOMY else 7.0
    lifts = [0.0] * len(badges)
    for _ in range(4):  # in a taller range bars are closer in height, and other badges may touch
        _make_room(axes, badges, lifts, size)
        lifts = _lifts(axes, badges, texts, size)
    _make_room(axes, badges, lifts, size)
    for badge, text, lift in zip(badges, texts, lifts, strict=True):
        stem = {"arrowstyle": "-", "color": colours.chosen, "lw": 0.9, "shrinkA": 0, "shrinkB": 0}
        axes.annotate(
            text,
            (badge.x, badge.top),
            xytext=(0, ABOVE + lift + _height(size) / 2),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=size,
            fontweight="bold",
            color=colours.ground,
            zorder=5,
            bbox={"boxstyle": "round,pad=0.28", "facecolor": colours.chosen, "edgecolor": colours.ground, "lw": 0.8},
            arrowprops=stem if lift else None,
        )


def badge_text(order: int, bars: int) -> str:
    """What is written: 1st, 2nd ... or, where many bars leave little room, the number alone."""
    if bars > ROOMY:
        return f"{order + 1}"
    return ORDINALS[order] if order < len(ORDINALS) else f"{order + 1}th"


def _height(size: float) -> float:
    return 1.6 * size


def _points(axes: Axes) -> tuple[float, float]:
    """Points of a unit of data, across and up."""
    box, dots = axes.get_window_extent(), axes.figure.dpi / 72
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    return box.width / dots / (right - left), box.height / dots / (high - low)


def _lifts(axes: Axes, badges: Sequence[Badge], texts: Sequence[str], size: float) -> list[float]:
    """How many points each badge is lifted: to the lowest place at which it touches no earlier one."""
    across, up = _points(axes)
    tall = _height(size) + GAP
    placed: list[tuple[float, float, float]] = []  # middle, half of the width, foot
    lifts = []
    for badge, text in zip(badges, texts, strict=True):
        middle, half = KEPT * across * badge.x, (0.7 * len(text) + 0.56) * size / 2 + GAP / 2
        beside = [foot for x, wide, foot in placed if abs(x - middle) < half + wide]
        own = up * badge.top
        feet = sorted([own, *(foot + tall + SLACK for foot in beside if foot + tall + SLACK > own)])
        foot = next(foot for foot in feet if all(abs(foot - other) >= tall for other in beside))
        placed.append((middle, half, foot))
        lifts.append(foot - own)
    return lifts


def _make_room(axes: Axes, badges: Sequence[Badge], lifts: Sequence[float], size: float) -> None:
    low, high = axes.get_ylim()
    whole = axes.get_window_extent().height / axes.figure.dpi * 72
    tops = [high]
    for badge, lift in zip(badges, lifts, strict=True):
        share = min(0.6, (ABOVE + lift + _height(size) + GAP) / whole)  # of the axes, above this bar
        tops.append((badge.top - share * low) / (1 - share))
    axes.set_ylim(low, max(tops))
