"""The ladder of a search: the score after each block it added, and the best step that it did not take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from ..errors import ArgumentsError
from .names import short_names
from .style import format_axis, format_of, headings, new_figure, theme_of

if TYPE_CHECKING:
    from ..search.result import LadderRow, SearchResult


def plot_ladder(
    result: SearchResult, *, percent: bool | None = None, title: str = "Greedy search", theme: str = "light"
) -> Figure:
    """
    Draw a ladder.

    Args:
        result ([`SearchResult`]): A finished search.
        percent (`bool`, *optional*): Whether scores are shares; by default when all lie between 0 and 1.
        title (`str`, *optional*, defaults to `"Greedy search"`): Heading.
        theme (`str`, *optional*, defaults to `"light"`): `"light"` or `"dark"`.

    Returns: `matplotlib.figure.Figure`: for [`save_figure`].
    Raises: [`ArgumentsError`]: For an unknown theme or a search without a round.
    """
    colours, steps = theme_of(theme), result.ladder
    if not steps:
        raise ArgumentsError("The result has no rounds: run `trainer.search()` to its end first.")
    sign = 1 if result.greater_is_better else -1
    if percent is None:
        percent = sign > 0 and all(0 <= step.mean <= 1 for step in steps)
    write = format_of(percent, sign)
    figure, axes = new_figure(max(7.2, 2.4 + 1.1 * len(steps)), 4.0, colours)
    taken = [x for x, step in enumerate(steps) if step.added or step.round == 0]
    axes.plot(taken, [steps[x].mean for x in taken], color=colours.chosen, linewidth=2.2, marker="o", markersize=7)
    for x, step in enumerate(steps):
        refused = x not in taken
        colour = colours.muted if refused else colours.chosen
        if refused:
            previous = steps[x - 1]
            axes.plot([x - 1, x], [previous.mean, step.mean], color=colour, linewidth=1.4, linestyle=(0, (2, 2)))
            axes.plot(x, step.mean, marker="o", markersize=7, markerfacecolor=colours.ground, color=colour)
        if step.standard_error:
            axes.errorbar(x, step.mean, step.standard_error, color=colour, elinewidth=1.1, capsize=3, zorder=1)
        text = write(step.mean) + ("\nnot added" if refused else "")
        axes.annotate(
            text, (x, step.mean), xytext=(11, -4), textcoords="offset points", color=colour, fontsize=9, va="top"
        )
    axes.margins(x=0.08, y=0.2)
    axes.set_xlim(-0.4, len(steps) - 0.35)
    axes.set_xticks(range(len(steps)), _names(steps), color=colours.text)
    format_axis(axes, percent, sign)
    axes.set_ylabel(result.metric + ("" if sign > 0 else " (up is better)"), color=colours.muted, fontsize=9)
    headings(
        figure,
        colours,
        title,
        "score after each added block, ± 1 standard error of the gain\n" + _wrapped(result.reason),
    )
    return figure


def _names(steps: Sequence[LadderRow]) -> list[str]:
    blocks = [step.block for step in steps if step.block is not None]
    short = iter(short_names(blocks)[0]) if len(blocks) > 1 else iter(name.split(".", 1)[-1] for name in blocks)
    return ["head only" if step.block is None else f"+ {next(short)}" for step in steps]


def _wrapped(text: str) -> str:
    return text if len(text) <= 95 else text[:92].rsplit(" ", 1)[0] + " ..."
