"""
What all pictures look like: two themes with an opaque ground, so that they can be read on any page.

Colours are of Okabe and Ito's palette, which colour-blind people can tell apart; nothing is told by colour alone.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import Formatter, MaxNLocator

from ..errors import ArgumentsError
from .names import clipped


@dataclass(frozen=True)
class Theme:
    """Colours by purpose. `ramp` goes from little to much, and stands off the ground at both ends."""

    ground: str
    text: str
    muted: str
    grid: str
    bar: str
    chosen: str
    probe: str
    full: str
    best: str
    ramp: tuple[str, ...]

    @property
    def scale(self) -> LinearSegmentedColormap:
        """The ramp as a colour map."""
        return LinearSegmentedColormap.from_list("subtuning", self.ramp)

    def on(self, colour: Any) -> str:
        """The colour of text on a colour: black or white, by its relative luminance (WCAG)."""
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
        return "#10151b" if luminance > 0.24 else "#ffffff"


THEMES = {
    "light": Theme(
        ground="#ffffff", text="#1f2328", muted="#59636e", grid="#e4e7eb", bar="#a9c9e2", chosen="#0072b2",
        probe="#6b7280", full="#c2410c", best="#c2410c", ramp=("#dcebf5", "#7fb8dc", "#1f7fb8", "#063f66"),
    ),
    "dark": Theme(
        ground="#0d1117", text="#e6edf3", muted="#9198a1", grid="#262c36", bar="#2f5673", chosen="#56b4e9",
        probe="#9ca3af", full="#f59e62", best="#f59e62", ramp=("#1b3347", "#23628f", "#4aa3dd", "#d3ecfb"),
    ),
}  # fmt: skip
FONT = ["DejaVu Sans"]  # shipped with matplotlib, so that a picture is the same everywhere


@contextmanager
def own_looks() -> Iterator[None]:
    """
    Around all that draws: this font and no formulas, whatever is set outside, since `$` may be part of a name.
    """
    with without_glyph_warnings(), rc_context({"font.family": FONT, "text.parse_math": False}):
        yield


@contextmanager
def without_glyph_warnings() -> Iterator[None]:
    """
    What a font lacks is drawn as a box; matplotlib would say so anew for every character each time a text is measured.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def theme_of(name: str) -> Theme:
    """
    A theme by name.

    Raises: [`ArgumentsError`]: If there is none of this name.
    """
    if name not in THEMES:
        raise ArgumentsError(f"`theme` must be one of {', '.join(THEMES)}, found '{name}'.")
    return THEMES[name]


# Pages show pictures as wide as themselves, so every picture is as wide as a page: a wider one would have small print.
WIDTH = 7.6  # inches
EDGE = 0.16  # free at every edge, inches
LEAST = 2.4  # width of axes, inches: what stands beside them is rather cut off


def new_figure(height: float, theme: Theme, grid: str = "y") -> tuple[Figure, Axes]:
    """An empty picture with axes of `height` inches: a light grid behind, no frame. To be ended by [`finish`]."""
    figure = Figure(figsize=(WIDTH, height + 1.6), facecolor=theme.ground)
    FigureCanvasAgg(figure)
    _place(figure, 0.8, 1.2, 0.8, height)
    axes = figure.add_subplot(facecolor=theme.ground)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(theme.muted)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(axis=grid, color=theme.grid, linewidth=0.8)  # type: ignore[arg-type]
    axes.tick_params(colors=theme.muted, length=0, labelsize=9)
    return figure, axes


def finish(figure: Figure, axes: Axes, theme: Theme, title: str, subtitle: str) -> Figure:
    """
    Head a picture and give all that stands around its axes the room it needs.

    Args:
        figure (`matplotlib.figure.Figure`), axes (`matplotlib.axes.Axes`): As [`new_figure`] made them.
        theme ([`Theme`]): Colours.
        title (`str`): A bold line.
        subtitle (`str`): Muted lines below it. Long lines are broken, as are those of the axes' labels.

    Returns: `matplotlib.figure.Figure`: higher by what was needed; the axes keep their height and lose width.
    """
    heading = figure.text(0, 1, title, color=theme.text, fontsize=12.5, fontweight="bold", va="top")
    body = figure.text(0, 1, subtitle, color=theme.muted, fontsize=9, va="top")
    for text in (heading, body):
        _break_lines(figure, text, text.get_text(), WIDTH - 2 * EDGE)
    labels = [(each, each.get_text()) for each in _labels(axes)]
    tops = [_inches(figure, text.get_window_extent()).height for text in (heading, body)]
    height = _inches(figure, axes.get_window_extent()).height
    for _ in range(3):  # in narrower axes other ticks may show, and names may have to be turned
        inner = _inches(figure, axes.get_window_extent())
        for label, words in labels:
            _break_lines(figure, label, words, inner.width if label is axes.xaxis.label else inner.height)
        outer = _inches(figure, axes.get_tightbbox())
        left = min(EDGE + inner.x0 - outer.x0, WIDTH - LEAST - EDGE)
        right = min(EDGE + outer.x1 - inner.x1, WIDTH - LEAST - left)
        below, above = EDGE + inner.y0 - outer.y0, max(0.0, outer.y1 - inner.y1) + EDGE
        total = below + height + above + sum(tops) + 0.1 + EDGE
        figure.set_size_inches(WIDTH, total)
        _place(figure, left, right, below, height)
        _turn_names(axes)
    heading.set_position((EDGE / WIDTH, 1 - EDGE / total))
    body.set_position((EDGE / WIDTH, 1 - (EDGE + tops[0] + 0.1) / total))
    return figure


def _place(figure: Figure, left: float, right: float, below: float, height: float) -> None:
    wide, high = figure.get_size_inches()
    figure.subplots_adjust(left / wide, below / high, 1 - right / wide, (below + height) / high)


def _turn_names(axes: Axes) -> None:
    """Turn the names below the axes if neighbours touch."""
    labels = [label for label in axes.get_xticklabels() if label.get_text()]
    boxes = [label.get_window_extent() for label in labels]
    apart = 3 * axes.figure.dpi / 72
    if any(left.x1 + apart > right.x0 for left, right in pairwise(boxes)) and not labels[0].get_rotation():
        for label in labels:
            label.set(rotation=90, multialignment="right")  # right is up


def _inches(figure: Figure, box: Any) -> Any:
    return box.transformed(figure.dpi_scale_trans.inverted())


def _labels(axes: Axes) -> list[Text]:
    """What the axes are called, those of a colour bar too."""
    return [axes.xaxis.label, axes.yaxis.label, *(child.yaxis.label for child in axes.child_axes)]


def _break_lines(figure: Figure, text: Text, words: str, most: float) -> None:
    """Write words in lines that are not longer than `most` inches."""
    text.set_linespacing(1.4)
    text.set_text("\n".join(piece for line in words.split("\n") for piece in _broken(figure, text, line, most)))


def _broken(figure: Figure, text: Text, line: str, most: float) -> list[str]:
    """A line in pieces that are not too long; a word that is too long by itself loses its middle."""

    def length(words: str) -> float:
        text.set_text(words)
        box = _inches(figure, text.get_window_extent())
        return max(box.width, box.height)  # it may be turned

    pieces: list[str] = []
    for word in line.split(" "):
        if (long := length(word)) > most:
            word = clipped(word, max(8, int(len(word) * most / long) - 1))
        if pieces and length(f"{pieces[-1]} {word}") <= most:
            pieces[-1] += f" {word}"
        else:
            pieces.append(word)
    return [piece.rstrip() for piece in pieces]


def format_of(percent: bool, sign: int = 1) -> Callable[[float], str]:
    """How a score is written: as the metric it stands for, in percent or with four digits."""
    return lambda value: f"{100 * sign * value:.1f} %" if percent else f"{sign * value + 0.0:.4g}"  # never -0


def format_axis(axes: Axes, percent: bool, sign: int = 1) -> None:
    """Few round ticks on the vertical axis, written as the metric."""
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(_Scores(percent, sign))


class _Scores(Formatter):
    """Writes scores with as many digits as it takes to tell a tick from the next one."""

    def __init__(self, percent: bool, sign: int) -> None:
        self.scale, self.unit = (100 * sign, " %") if percent else (sign, "")

    def __call__(self, value: float, pos: int | None = None) -> str:
        return self.format_ticks([value])[0]

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        alone = max(map(abs, values), default=0.0) or 1.0
        step = abs(self.scale) * min((b - a for a, b in pairwise(sorted(values)) if b > a), default=alone)
        return [in_steps(self.scale * value, step) + self.unit for value in values]


def in_steps(value: float, step: float) -> str:
    """A multiple of a step, with no more digits than the step has: 0.25 and 0.50, 1.2e-07."""
    if abs(value) < step / 2:
        return "0"  # what is left of a sum, or -0
    decade = math.floor(math.log10(step) + 1e-6)
    if decade >= -6 and abs(value) < 1e6:
        return f"{value:.{max(0, -decade)}f}"
    return f"{value:.{max(1, math.floor(math.log10(abs(value)) + 1e-6) - decade + 1)}g}"


def spread(low: float, high: float) -> tuple[float, float]:
    """The least and the greatest score; where all are equal but for rounding, a little less and a little more."""
    size = max(abs(low), abs(high))
    if high - low > 1e-9 * size:
        return low, high
    return low - (0.01 * size or 0.01), high + (0.01 * size or 0.01)


def in_short(number: float) -> str:
    """A large number with three digits: 1.77 M."""
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= unit:
            return f"{number / unit:.3g}{name}"
    return f"{number:g}"


def colour_bar(axes: Axes, drawn: Any, theme: Theme, words: str, percent: bool | None = None, sign: int = 1) -> None:
    """What the colours of `drawn` stand for, at the right of the axes; `percent` is `None` for whole numbers."""
    bar_axes = axes.inset_axes((1.03, 0, 0.028, 1))
    bar = axes.figure.colorbar(drawn, cax=bar_axes)
    bar.outline.set_visible(False)  # type: ignore[operator]
    bar_axes.tick_params(colors=theme.muted, length=0, labelsize=8.5)
    if percent is None:
        bar_axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    else:
        format_axis(bar_axes, percent, sign)
    bar_axes.set_ylabel(words, color=theme.muted, fontsize=9, labelpad=6)


def save_figure(figure: Figure, path: str | os.PathLike, formats: tuple[str, ...] = ("png", "svg")) -> list[Path]:
    """
    Write a picture.

    Args:
        figure (`matplotlib.figure.Figure`): The picture.
        path (`str` or `os.PathLike`): File without a suffix; a suffix that is a format gives that format only.
        formats (`tuple[str, ...]`, *optional*, defaults to `("png", "svg")`): Formats to write.

    Returns: `list[Path]`: the files. Their bytes depend on the picture only: no date is written into them.
    Raises: `OSError`: If they cannot be written.
    """
    target = Path(path)
    if target.suffix.lstrip(".").lower() in ("png", "svg", "pdf"):
        formats, target = (target.suffix.lstrip(".").lower(),), target.with_suffix("")
    target.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for form in formats:
        file = target.with_name(f"{target.name}.{form}")
        metadata: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form, {})
        # Pictures of others are saved too, formulas and all. Names inside an SVG would be drawn by chance.
        with without_glyph_warnings(), rc_context({"svg.hashsalt": "subtuning"}):
            figure.savefig(file, dpi=200, facecolor=figure.get_facecolor(), metadata=metadata)
        written.append(file)
    return written
