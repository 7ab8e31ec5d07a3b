"""
What all pictures look like: two themes with an opaque ground, so that they can be read on any page.

Colours are of Okabe and Ito's palette, which colour-blind people can tell apart; nothing is told by colour alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ..errors import ArgumentsError


@dataclass(frozen=True)
class Theme:
    """Colours by purpose."""

    ground: str
    text: str
    muted: str
    grid: str
    bar: str
    chosen: str
    probe: str
    full: str


THEMES = {
    "light": Theme("#ffffff", "#1f2328", "#59636e", "#e4e7eb", "#a9c9e2", "#0072b2", "#6b7280", "#c2410c"),
    "dark": Theme("#0d1117", "#e6edf3", "#9198a1", "#262c36", "#2f5673", "#56b4e9", "#9ca3af", "#f59e62"),
}
FONT = ["DejaVu Sans"]  # shipped with matplotlib, so that a picture is the same everywhere


def theme_of(name: str) -> Theme:
    """
    A theme by name.

    Raises: [`ArgumentsError`]: If there is none of this name.
    """
    if name not in THEMES:
        raise ArgumentsError(f"`theme` must be one of {', '.join(THEMES)}, found '{name}'.")
    return THEMES[name]


# Room around the axes, inches: the same for any size of picture.
LEFT, RIGHT, TOP, BOTTOM = 0.72, 1.2, 0.92, 0.72


def new_figure(width: float, height: float, theme: Theme) -> tuple[Figure, Axes]:
    """An empty picture of `width` x `height` inches: a light grid behind, no frame."""
    figure = Figure(figsize=(width, height), facecolor=theme.ground)
    FigureCanvasAgg(figure)
    figure.subplots_adjust(LEFT / width, BOTTOM / height, 1 - RIGHT / width, 1 - TOP / height)
    axes = figure.add_subplot(facecolor=theme.ground)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(theme.muted)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=theme.grid, linewidth=0.8)
    axes.tick_params(colors=theme.muted, length=0, labelsize=9)
    return figure, axes


def headings(figure: Figure, theme: Theme, title: str, subtitle: str | None) -> None:
    """A bold title and one or two muted lines below it, left-aligned with the axes."""
    width, height = figure.get_size_inches()
    figure.text(LEFT / width, 1 - 0.2 / height, title, color=theme.text, fontsize=12.5, fontweight="bold", va="top")
    if subtitle:
        figure.text(
            LEFT / width, 1 - 0.46 / height, subtitle, color=theme.muted, fontsize=9, va="top", linespacing=1.35
        )


def format_of(percent: bool, sign: int = 1) -> Callable[[float], str]:
    """How a score is written: as the metric it stands for, in percent or with four digits."""
    return lambda value: f"{100 * sign * value:.1f} %" if percent else f"{sign * value:.4g}"


def format_axis(axes: Axes, percent: bool, sign: int = 1) -> None:
    """Few round ticks on the vertical axis, written as the metric."""
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    text = (lambda value, _: f"{100 * sign * value:.3g} %") if percent else (lambda value, _: f"{sign * value:.4g}")
    axes.yaxis.set_major_formatter(FuncFormatter(text))


def save_figure(figure: Figure, path: str | os.PathLike, formats: tuple[str, ...] = ("png", "svg")) -> list[Path]:
    """
    Write a picture.

    Args:
        figure (`matplotlib.figure.Figure`): The picture.
        path (`str` or `os.PathLike`): File without a suffix; a suffix that is a format gives that format only.
        formats (`tuple[str, ...]`, *optional*, defaults to `("png", "svg")`): Formats to write.

    Returns: `list[Path]`: the files. Their bytes depend on the picture only: no date is written into them.
    """
    target = Path(path)
    if target.suffix.lstrip(".").lower() in ("png", "svg", "pdf"):
        formats, target = (target.suffix.lstrip(".").lower(),), target.with_suffix("")
    target.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for form in formats:
        file = target.with_name(f"{target.name}.{form}")
        metadata: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form, {})
        figure.savefig(file, dpi=200, facecolor=figure.get_facecolor(), metadata=metadata)
        written.append(file)
    return written
