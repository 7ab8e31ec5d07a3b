"""What tuning adds to the latency of many tasks, against the block at which it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from .names import short_names
from .style import Theme, finish, new_figure, own_looks, theme_of
from .ticks import name_ticks

if TYPE_CHECKING:
    from ..search.latency import LatencyProfile

MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES: tuple[str | tuple[int, tuple[float, ...]], ...] = ("-", (0, (5, 2)), (0, (1.2, 1.4)), (0, (6, 2, 1.2, 2)))


@own_looks()
def plot_latency(profile: LatencyProfile, *, title: str = "Added latency", theme: str = "light") -> Figure:
    """
    Draw what tuning one block adds to one pass of the base, a line for each size of the batch.

    Args:
        profile ([`LatencyProfile`]): What was measured.
        title (`str`, *optional*): Heading.
        theme (`str`, *optional*, defaults to `"light"`): `"light"` or `"dark"`.

    Returns: `matplotlib.figure.Figure`: for [`save_figure`].
    Raises: [`ArgumentsError`]: For an unknown theme.
    """
    colours = theme_of(theme)
    figure, axes = new_figure(3.1, colours)
    alone = profile.num_tasks - 1
    tops = _draw(axes, profile, colours)
    axes.axhline(alone, color=colours.full, linewidth=1.5, linestyle=(0, (5, 2)), zorder=1.5)
    axes.annotate(
        f"every task alone\n+{alone}", (1, alone), xycoords=("axes fraction", "data"), xytext=(7, 0),
        textcoords="offset points", color=colours.full, fontsize=9, va="center", annotation_clip=False,
    )  # fmt: skip
    axes.set_ylim(0, 1.08 * max(alone, *tops))
    axes.set_xlim(-0.5, len(profile.blocks) - 0.5)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"+{value:g}" if value else "0"))
    axes.set_ylabel("added time, in passes of the base", color=colours.muted, fontsize=9)
    names, pattern = short_names(profile.blocks)
    name_ticks(axes, names, colours)
    where = "block that is tuned, from input to output" + (f"   ({pattern})" if pattern else "")
    axes.set_xlabel(where, color=colours.muted, fontsize=9, labelpad=8)
    legend = axes.legend(loc="upper right", bbox_to_anchor=(1, 0.9), frameon=False, fontsize=9, handlelength=2.6)
    for text in legend.get_texts():
        text.set_color(colours.text)
    return finish(figure, axes, colours, title, _subtitle(profile))


def _draw(axes: Axes, profile: LatencyProfile, colours: Theme) -> list[float]:
    """The lines, and as open marks what was measured from end to end; returns the greatest values."""
    tops = []
    for number, size in enumerate(profile.batch_sizes):
        cost, each = profile.cost(size), profile.of(size)
        added = [cost.relative([name]) for name in profile.blocks]
        share = number / max(1, len(profile.batch_sizes) - 1)
        colour = colours.scale(0.45 + 0.5 * share) if len(profile.batch_sizes) > 1 else colours.chosen
        marker, dash = MARKERS[number % len(MARKERS)], DASHES[number % len(DASHES)]
        words = f"batch of {size}  ({each.whole.median:.3g} ms a pass)"
        axes.plot(added, color=colour, linestyle=dash, linewidth=1.8, marker=marker, markersize=3.5, label=words)
        tops.append(max(added))
        for run in each.measured:
            if len(run.blocks) == 1:
                height = max(run.time.median / each.whole.median - 1, 0.0)
                place = profile.blocks.index(run.blocks[0])
                axes.errorbar(
                    place, height, run.time.spread / each.whole.median, color=colour, marker=marker, markersize=8,
                    markerfacecolor="none", elinewidth=1, capsize=2.5, linestyle="none",
                )  # fmt: skip
                tops.append(height + run.time.spread / each.whole.median)
    return tops


def _subtitle(profile: LatencyProfile) -> str:
    device = profile.environment.get("device", "")
    threads = profile.environment.get("threads")
    on = f"; {device}" if device else ""
    if device == "cpu" and threads:
        on += f", {threads} thread{'s' * (threads != 1)}"
    words = f"{profile.model}: {profile.num_tasks} tasks on one trunk, each of which tunes that one block{on}"
    if any(run.blocks for each in profile.batches for run in each.measured):
        words += "\nlines: added up from the times of blocks; open marks: all tasks measured from end to end"
    return words
