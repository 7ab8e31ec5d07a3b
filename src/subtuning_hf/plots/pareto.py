"""What a study has to offer for its price: score against tuned parameters, and where tuning begins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from ..errors import ArgumentsError
from ..search.space import UNTOUCHED
from .names import clipped, ordered_union, short_names
from .style import Theme, colour_bar, finish, format_axis, in_short, new_figure, own_looks, spread, theme_of
from .ticks import label_points

if TYPE_CHECKING:
    from ..search.pareto import ParetoFront, ParetoPoint

MORE = 4  # names beside those on the line: of selections that are ahead in where they begin to tune


@own_looks()
def plot_pareto(
    front: ParetoFront, *, percent: bool | None = None, title: str = "Score and price", theme: str = "light"
) -> Figure:
    """
    Draw all candidates of a study, and those that no other one beats in score, parameters and first tuned block.

    Args:
        front ([`ParetoFront`]): The candidates.
        percent (`bool`, *optional*): Whether scores are shares; by default when all lie between 0 and 1.
        title (`str`, *optional*): Heading.
        theme (`str`, *optional*, defaults to `"light"`): `"light"` or `"dark"`.

    Returns: `matplotlib.figure.Figure`: for [`save_figure`].
    Raises: [`ArgumentsError`]: For an unknown theme, or a front without points.
    """
    colours = theme_of(theme)
    if not front.points:
        raise ArgumentsError("The front has no points: no candidate was trained on all folds yet.")
    sign = 1 if front.greater_is_better else -1
    if percent is None:
        percent = sign > 0 and all(0 <= point.mean <= 1 for point in front.points)
    figure, axes = new_figure(3.5, colours)
    places = _Places(front)
    shown = front.front
    _draw_points(axes, front, shown, places, colours)
    steps = _steps(front, places)
    axes.plot(*zip(*steps, strict=True), color=colours.muted, lw=1.3, zorder=1.5)
    _scale(axes, places, colours)
    format_axis(axes, percent, sign)
    axes.set_ylabel(front.metric + ("" if sign > 0 else " (up is better)"), color=colours.muted, fontsize=9)
    counted = "parameters of the tuned blocks" + (", head not counted" if front.has_head else "")
    axes.set_xlabel(counted, color=colours.muted, fontsize=9, labelpad=8)
    _label(axes, front, shown, places, steps, colours)
    words = (
        "each dot is a selection of blocks; ringed: no other one beats it in score, parameters and first tuned block"
        "\nline: the best score that so many parameters can buy"
    )
    return finish(figure, axes, colours, title, words)


class _Places:
    """Where points stand: parameters on a logarithmic scale, and none at all a little to the left of the least."""

    def __init__(self, front: ParetoFront) -> None:
        self.found = sorted({float(point.num_parameters) for point in front.points if point.num_parameters})
        self.least, self.most = (self.found[0], self.found[-1]) if self.found else (1.0, 10.0)
        self.room = max((self.most / self.least) ** 0.14, 1.25)
        self.none = self.least / self.room**1.6
        self.has_none = any(not point.num_parameters for point in front.points)

    def __call__(self, point: ParetoPoint) -> tuple[float, float]:
        return float(point.num_parameters or self.none), point.mean


def _draw_points(axes: Axes, front: ParetoFront, shown: Sequence[ParetoPoint], places: _Places, colours: Theme) -> None:
    limits: dict[str, Any] = {"vmin": 0, "vmax": max(1, front.num_blocks - 1), "cmap": colours.scale}
    last = None
    for chosen, size, ring in ((False, 22, 0.4), (True, 58, 1.5)):
        some = [point for point in front.points if (point in shown) == chosen]
        for head in (True, False):
            part = [point for point in some if (not point.candidate.blocks) == head]
            if not part:
                continue
            xs, ys = zip(*map(places, part), strict=True)
            fill: dict[str, Any] = (
                {"color": colours.probe} if head else {"c": [point.first_block for point in part], **limits}
            )
            edge: dict[str, Any] = {"edgecolors": colours.text if chosen else colours.muted, "linewidths": ring}
            drawn = axes.scatter(xs, ys, s=size, zorder=3 if chosen else 2, marker="D" if head else "o", **fill, **edge)
            last = last if head else drawn
    for point in shown:
        if point.standard_error:
            axes.errorbar(*places(point), point.standard_error, color=colours.muted, elinewidth=1, capsize=2, zorder=1)
    if last is not None:
        colour_bar(axes, last, colours, "first tuned block (0: at the input)")


def _steps(front: ParetoFront, places: _Places) -> list[tuple[float, float]]:
    """The best score for every number of parameters, as corners of steps."""
    corners: list[tuple[float, float]] = []
    for point in sorted(front.points, key=lambda point: (point.num_parameters, -point.mean)):
        x, y = places(point)
        if not corners:
            corners = [(x, y)]
        elif y > corners[-1][1]:
            corners += [(x, corners[-1][1]), (x, y)]
    return [*corners, (places.most * places.room, corners[-1][1])]


def _scale(axes: Axes, places: _Places, colours: Theme) -> None:
    axes.set_xscale("log")
    left = places.none / places.room**0.8 if places.has_none else places.least / places.room
    axes.set_xlim(left, places.most * places.room**1.4)
    low, high = spread(*axes.get_ylim())
    axes.set_ylim(low - 0.02 * (high - low), high + 0.14 * (high - low))
    ticks = _ticks(places)
    texts = [in_short(tick) for tick in ticks]
    if places.has_none:
        ticks, texts = [places.none, *ticks], ["0", *texts]
        cut = places.least / places.room**0.8
        axes.axvline(cut, color=colours.grid, lw=1, linestyle=(0, (2, 2)), zorder=0.5)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter(texts))
    axes.xaxis.set_minor_locator(NullLocator())


def _ticks(places: _Places) -> list[float]:
    """The numbers themselves where there are few, else round ones."""
    least, most = places.least, places.most
    apart = (most / least) ** 0.13
    if len(places.found) <= 6 and all(b / a > apart for a, b in pairwise(places.found)):
        return places.found
    decades = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
    ticks = [float(digit * 10**decade) for decade in decades for digit in (1, 2, 5)]
    ticks = [tick for tick in ticks if least / 1.02 <= tick <= most * 1.3]
    return ticks if len(ticks) <= 7 else [tick for tick in ticks if math.log10(tick).is_integer()]


def _label(
    axes: Axes,
    front: ParetoFront,
    shown: Sequence[ParetoPoint],
    places: _Places,
    steps: Sequence[tuple[float, float]],
    colours: Theme,
) -> None:
    """Names at the front, those on the line first."""
    blocks = sorted(ordered_union([point.candidate.blocks for point in front.points]))
    short = dict(zip(blocks, short_names(blocks)[0], strict=True))

    def name(point: ParetoPoint) -> str:
        parts = [short[block] for block in point.candidate.blocks]
        if not parts:
            return "head only" if front.has_head else UNTOUCHED
        if len(parts) == front.num_blocks:
            return "all blocks"
        if len(parts) > 3:
            return f"{len(parts)} blocks from {clipped(parts[0], 14)}"
        return clipped(" + ".join(parts), 24)

    on_line = set(steps)
    order = sorted(shown, key=lambda point: (places(point) not in on_line, -point.mean))
    count = sum(places(point) in on_line for point in order)
    order = order[: count + MORE]
    tints = [colours.text if places(point) in on_line else colours.muted for point in order]
    around = [places(point) for point in front.points]
    lines = [steps, *(_error_bar(point, places) for point in shown)]
    label_points(axes, [places(p) for p in order], [name(p) for p in order], tints, around, lines, fontsize=8)


def _error_bar(point: ParetoPoint, places: _Places) -> list[tuple[float, float]]:
    (x, y), error = places(point), point.standard_error or 0.0
    return [(x, y - error), (x, y + error)]
