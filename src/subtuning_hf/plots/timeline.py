"""The journal over time: which process trained what and when, and how long it waited."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from ..errors import ArgumentsError
from ..search.space import UNTOUCHED
from .style import Theme, finish, new_figure, own_looks, theme_of
from .ticks import name_ticks

if TYPE_CHECKING:
    from ..search.journal import Study

BREAK = 2.0  # nobody at work for so many times the longest training is a break, and is cut out
HIGH, LOW = 0.74, 0.4  # bars of whole trainings and of shares of one, as shares of a lane
SHOWN_BREAK = 0.012  # width of a cut, as a share of the whole


@dataclass(frozen=True)
class Bar:
    """One training: when it began and ended, in seconds, who made it and what it was."""

    lane: str
    start: float
    end: float
    size: int | None  # blocks that were trained together; `None` for a final training
    budget: float


@own_looks()
def plot_timeline(study: Study, *, title: str = "Timeline of the search", theme: str = "light") -> Figure:
    """
    Draw who trained when: one lane for each process, one bar for each training.

    Args:
        study ([`Study`]): What `read_study` gives. Where start times are missing, as in journals of the first format,
            the trainings of a file are drawn one after another.
        title (`str`, *optional*): Heading.
        theme (`str`, *optional*, defaults to `"light"`): `"light"` or `"dark"`.

    Returns: `matplotlib.figure.Figure`: for [`save_figure`].
    Raises: [`ArgumentsError`]: For an unknown theme, or a study without evaluations.
    """
    colours = theme_of(theme)
    bars, guessed = bars_of(study)
    if not bars:
        raise ArgumentsError("The journal holds no evaluation yet, so there is nothing to draw.")
    breaks = breaks_of(bars)
    lanes = sorted({bar.lane for bar in bars}, key=lambda lane: (len(lane), lane))
    moved, cuts = without_breaks(bars, breaks)
    total = max(bar.end for bar in moved)
    unit, name = next(((size, word) for size, word in UNITS if total >= 3 * size), UNITS[-1])
    figure, axes = new_figure(min(6.0, max(0.9, 0.36 * len(lanes))), colours, grid="x")
    axes.set_ylim(len(lanes) - 0.4, -0.6)
    axes.set_xlim(0, total / unit)
    _draw_bars(axes, moved, lanes, unit, colours)
    for x, gap in cuts:
        _draw_cut(axes, x / unit, gap, colours)
    axes.locator_params(axis="x", nbins=8)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(name + (", without breaks" if cuts else ""), color=colours.muted, fontsize=9, labelpad=6)
    name_ticks(axes, lanes, colours, "y")
    _write_busy(axes, bars, lanes, breaks, colours)
    _legend(axes, bars, "head only" if study.spec.has_head else UNTOUCHED, colours)
    return finish(figure, axes, colours, title, _subtitle(bars, lanes, breaks, guessed))


UNITS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))


def bars_of(study: Study) -> tuple[list[Bar], int]:
    """
    The trainings of a journal.

    Args:
        study ([`Study`]): The journal.

    Returns: `tuple[list[Bar], int]`: and how many of them lack a start time: these stand one after another, before the
        others.
    """
    writers = study.writers if len(study.writers) == len(study.evaluations) else ("",) * len(study.evaluations)
    found = [
        (_lane(e.info, writer), e.info.get("started"), e.seconds, len(e.candidate.blocks), e.budget)
        for e, writer in zip(study.evaluations, writers, strict=True)
    ]
    known = [Bar(lane, float(start), start + s, n, b) for lane, start, s, n, b in found if start is not None]
    for final in study.finals:
        start = final.info.get("started")
        if start is not None:
            known.append(Bar(_lane(final.info, ""), float(start), start + final.seconds, None, 1.0))
    guessed = [(lane, s, n, b) for lane, start, s, n, b in found if start is None]
    sums: dict[str, float] = {}
    for lane, seconds, *_ in guessed:
        sums[lane] = sums.get(lane, 0.0) + seconds
    clock = dict.fromkeys(sums, min((bar.start for bar in known), default=0.0) - max(sums.values(), default=0.0))
    for lane, seconds, size, budget in guessed:
        known.append(Bar(lane, clock[lane], clock[lane] + seconds, size, budget))
        clock[lane] += seconds
    return sorted(known, key=lambda bar: (bar.start, bar.lane)), len(guessed)


def _lane(info: dict, writer: str) -> str:
    process = info.get("process")
    if process is None and writer.removeprefix("rank-").isdigit():
        process = int(writer.removeprefix("rank-"))
    return f"process {process}" if process is not None else writer or "process 0"


def breaks_of(bars: Sequence[Bar]) -> list[tuple[float, float]]:
    """Begin and end of the times in which nobody trained for long: the search was stopped there and went on later."""
    least = BREAK * max(bar.end - bar.start for bar in bars)
    found, busy = [], bars[0].end
    for bar in bars[1:]:
        if bar.start - busy > least:
            found.append((busy, bar.start))
        busy = max(busy, bar.end)
    return found


def without_breaks(
    bars: Sequence[Bar], breaks: Sequence[tuple[float, float]]
) -> tuple[list[Bar], list[tuple[float, float]]]:
    """Bars on a clock that begins at 0 and leaves breaks out, and where they were: place and length in seconds."""
    first = min(bar.start for bar in bars)
    worked = max(bar.end for bar in bars) - first - math.fsum(end - start for start, end in breaks)
    width = SHOWN_BREAK * worked

    def place(time: float) -> float:
        passed = [end - start - width for start, end in breaks if end <= time]
        return time - first - math.fsum(passed)

    moved = [replace(bar, start=place(bar.start), end=place(bar.start) + bar.end - bar.start) for bar in bars]
    return moved, [(place(end) - width / 2, end - start) for start, end in breaks]


def busy_share(bars: Iterable[Bar], breaks: Sequence[tuple[float, float]], span: tuple[float, float]) -> float:
    """
    Share of the time from begin to end of all work, breaks left out, that one lane was training.

    Args:
        bars (`Iterable[Bar]`): Of one lane.
        breaks (`Sequence[tuple[float, float]]`): Times that do not count, in seconds.
        span (`tuple[float, float]`): Begin and end, in seconds.

    Returns: `float`: between 0 and 1.
    """
    whole = span[1] - span[0] - math.fsum(end - start for start, end in breaks)
    busy, until = 0.0, -math.inf
    for bar in sorted(bars, key=lambda bar: bar.start):
        busy += max(0.0, bar.end - max(bar.start, until))
        until = max(until, bar.end)
    return min(1.0, busy / whole) if whole > 0 else 1.0


def _span(bars: Sequence[Bar]) -> tuple[float, float]:
    return min(bar.start for bar in bars), max(bar.end for bar in bars)


# --- drawing ---------------------------------------------------------------------------------
def _tint(size: int | None, most: int, colours: Theme) -> str | tuple:
    return colours.best if size is None else colours.scale(size / max(1, most))


def _draw_bars(axes: Axes, bars: Sequence[Bar], lanes: Sequence[str], unit: float, colours: Theme) -> None:
    place = {lane: index for index, lane in enumerate(lanes)}
    most = max((bar.size or 0) for bar in bars)
    edge = 0.6 if len(bars) / len(lanes) < 150 else 0.15
    for bar in bars:
        tint, whole = _tint(bar.size, most, colours), bar.budget >= 1
        height = HIGH if whole else LOW
        below = place[bar.lane] + HIGH / 2 - height  # all bars of a lane stand on one line
        box = Rectangle((bar.start / unit, below), (bar.end - bar.start) / unit, height, lw=edge)
        box.set(facecolor=tint, edgecolor=colours.ground)
        axes.add_patch(box)


def _draw_cut(axes: Axes, x: float, gap: float, colours: Theme) -> None:
    axes.axvline(x, color=colours.muted, lw=1.2, linestyle=(0, (2, 2)), zorder=4)
    words = f"{in_words(gap)} break"
    axes.annotate(
        words, (x, 1), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
        ha="center", va="bottom", fontsize=8, color=colours.muted, annotation_clip=False,
    )  # fmt: skip


def _write_busy(
    axes: Axes, bars: Sequence[Bar], lanes: Sequence[str], breaks: Sequence[tuple[float, float]], colours: Theme
) -> None:
    for index, lane in enumerate(lanes):
        share = busy_share([bar for bar in bars if bar.lane == lane], breaks, _span(bars))
        if len(lanes) <= 20:
            axes.annotate(
                f"{100 * share:.0f} % busy", (1, index), xycoords=("axes fraction", "data"), xytext=(7, 0),
                textcoords="offset points", color=colours.muted, fontsize=9, va="center", annotation_clip=False,
            )  # fmt: skip


def _legend(axes: Axes, bars: Sequence[Bar], bare: str, colours: Theme) -> None:
    sizes = sorted({bar.size for bar in bars if bar.size is not None})
    most = max(sizes, default=0)
    every = max(1, math.ceil(len(sizes) / 6))
    shown = sorted({*sizes[::every], *sizes[-1:]})
    entries = [Patch(color=_tint(size, most, colours), label=_words(size, bare)) for size in shown]
    if any(bar.size is None for bar in bars):
        entries.append(Patch(color=colours.best, label="final training"))
    axes.legend(
        handles=entries, loc="upper left", bbox_to_anchor=(0, -0.5 / _height(axes)), borderaxespad=0, frameon=False,
        ncols=min(len(entries), 5), fontsize=8.5, handlelength=1.3, handleheight=0.9, columnspacing=1.4,
        labelcolor=colours.text, borderpad=0,
    )  # fmt: skip


def _height(axes: Axes) -> float:
    """Of the axes, in inches."""
    return axes.get_window_extent().height / axes.figure.dpi


def _words(size: int, bare: str) -> str:
    return bare if not size else f"{size} block{'s' * (size > 1)}"


def _subtitle(bars: Sequence[Bar], lanes: Sequence[str], breaks: Sequence[tuple[float, float]], guessed: int) -> str:
    start, end = _span(bars)
    worked = end - start - math.fsum(after - before for before, after in breaks)
    shares = [busy_share([bar for bar in bars if bar.lane == lane], breaks, (start, end)) for lane in lanes]
    idle = 1 - math.fsum(shares) / len(shares)
    people = f"{len(lanes)} process{'es' * (len(lanes) > 1)}"
    words = f"{len(bars)} training{'s' * (len(bars) > 1)} by {people} in {in_words(worked)}"
    if guessed == len(bars):
        words += "; start times were not recorded, so they are drawn one after another and waiting does not show"
    else:
        words += f"; the processes were idle {100 * idle:.1f} % of the time"
        if guessed:
            first = f"{guessed} trainings" if guessed > 1 else "training"
            words += f"\nfor the first {first} no start times were recorded: drawn one after another"
    words += "\ncolour: how many blocks were trained together"
    return words + ("; low bars: a share of the training" if any(bar.budget < 1 for bar in bars) else "")


def in_words(seconds: float) -> str:
    """A time: 42 s, 3 min 20 s, 5 h 12 min."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes and hours < 10 else f"{hours} h"
