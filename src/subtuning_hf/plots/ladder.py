"""The ladder of a search: the score after each step it took, all it tried, and the best step that it did not take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import ArgumentsError
from ..search.greedy import score_of
from ..search.space import UNTOUCHED
from .names import ordered_union, short_names
from .style import Theme, finish, format_axis, format_of, in_short, new_figure, own_looks, spread, theme_of
from .ticks import label_points, name_ticks

if TYPE_CHECKING:
    from ..search.result import LadderRow, SearchResult

FEW = 9  # steps that all have room for their numbers
TITLES = {"forward": "Greedy search", "backward": "Greedy search, backward", "list": "Search among listed selections"}
CHANGES = {"add": ("+ ", "added"), "remove": ("− ", "removed"), "choose": ("", "chosen")}


@own_looks()
def plot_ladder(
    result: SearchResult, *, percent: bool | None = None, title: str | None = None, theme: str = "light"
) -> Figure:
    """
    Draw a ladder.

    Args:
        result ([`SearchResult`]): A finished search in any direction.
        percent (`bool`, *optional*): Whether scores are shares; by default when all lie between 0 and 1.
        title (`str`, *optional*): Heading; by default the kind of search.
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
    figure, axes = new_figure(2.9, colours)
    axes.set_xlim(-0.5, max(1.5, len(steps) - 0.35))
    _draw_tried(axes, result, colours)
    _draw_steps(axes, steps, colours)
    name_ticks(axes, _names(result, steps), colours, most=22)
    if _sized(steps):
        axes.set_xlabel("step, and the parameters trained after it", color=colours.muted, fontsize=9, labelpad=8)
    low, high = spread(*axes.get_ylim())
    axes.set_ylim(low - 0.1 * (high - low), high + 0.22 * (high - low))
    format_axis(axes, percent, sign)
    axes.set_ylabel(result.metric + ("" if sign > 0 else " (up is better)"), color=colours.muted, fontsize=9)
    _write_scores(axes, steps, percent, format_of(percent, sign), colours)
    direction = result.rounds[0].direction
    return finish(figure, axes, colours, title or TITLES[direction], f"{_legend(steps)}\n{result.reason}")


def _draw_tried(axes: Axes, result: SearchResult, colours: Theme) -> None:
    """Every candidate of a round that was trained on all folds, small, above the step it was tried for."""
    for x, round_ in enumerate(result.rounds[: len(result.ladder)]):
        found = [round_.of(candidate) for candidate in round_.candidates]
        most = max(map(len, found))
        means = [score_of(evaluations) for evaluations in found if evaluations and len(evaluations) == most]
        if len(means) > 1:
            axes.scatter([x] * len(means), means, s=9, color=colours.muted, alpha=0.55, linewidths=0, zorder=1.5)


def _draw_steps(axes: Axes, steps: Sequence[LadderRow], colours: Theme) -> None:
    taken = [x for x, step in enumerate(steps) if step.added]
    size = 7 if len(steps) <= 20 else 4.5
    axes.plot(taken, [steps[x].mean for x in taken], color=colours.chosen, lw=2.2, marker="o", markersize=size)
    for x, step in enumerate(steps):
        colour = colours.chosen if x in taken else colours.muted
        if x not in taken:
            xs, ys = [x - 1, x], [steps[x - 1].mean, step.mean]
            axes.plot(xs, ys, color=colour, lw=1.4, linestyle=(0, (2, 2)), zorder=1)
            axes.plot(x, step.mean, marker="o", markersize=size, markerfacecolor=colours.ground, color=colour)
        if step.standard_error:
            axes.errorbar(x, step.mean, step.standard_error, color=colour, elinewidth=1.1, capsize=3, zorder=1)


def _write_scores(
    axes: Axes, steps: Sequence[LadderRow], percent: bool, write: Callable[[float], str], colours: Theme
) -> None:
    """The numbers at the steps: of all where these are few, else of the first, the best and the last."""
    best = max(range(len(steps)), key=lambda x: (steps[x].added, steps[x].mean))
    last = [x for x, step in enumerate(steps) if step.added][-1]
    shown = list(dict.fromkeys([last, best, 0, len(steps) - 1, *range(len(steps))]))
    shown = shown if len(steps) <= FEW else sorted(shown[:4])
    texts, tints = [], []
    for x in shown:
        step = steps[x]
        words = write(step.mean)
        if step.gain is not None:
            words += f"\n{_gain(step.gain, step.standard_error, percent)}"
        if not step.added:
            words += f"\nnot {CHANGES[step.change][1]}"
        texts.append(words)
        tints.append(colours.chosen if step.added else colours.muted)
    line = [(float(x), step.mean) for x, step in enumerate(steps)]
    label_points(axes, [line[x] for x in shown], texts, tints, line, [line], fontsize=8.5, linespacing=1.25)


def _gain(gain: float, error: float | None, percent: bool) -> str:
    """A gain with its standard error; of shares, in points of a hundred."""
    scale, form = (100, ".1f") if percent else (1, ".3g")
    words = f"{scale * gain:+{form}}".replace("-", "−")
    return words if error is None else f"{words} ± {scale * error:{form}}"


def _names(result: SearchResult, steps: Sequence[LadderRow]) -> list[str]:
    """A step and the parameters trained after it."""
    known = [candidate.blocks for round_ in result.rounds for candidate in round_.candidates]
    blocks = sorted(ordered_union([*known, *([row.label] for row in result.profile.rows)]))
    short = dict(zip(blocks, short_names(blocks)[0], strict=True))

    bare = "head only" if result.has_head else UNTOUCHED

    def name(step: LadderRow) -> str:
        if step.block is None:
            return f"all {step.num_blocks}" if step.num_blocks else bare
        return CHANGES[step.change][0] + " + ".join(short[block] for block in step.block.split(" + "))

    plain = not _sized(steps)
    return [name(step) + ("" if plain else f"\n{in_short(step.trainable_parameters)}") for step in steps]


def _sized(steps: Sequence[LadderRow]) -> bool:
    """Whether numbers of parameters stand below the steps."""
    return len(steps) <= FEW and any(step.trainable_parameters for step in steps)


def _legend(steps: Sequence[LadderRow]) -> str:
    change = next((step.change for step in steps if step.change != "start"), "add")
    what = {"add": "each added block", "remove": "each removed block", "choose": "the choice"}[change]
    error = ", ± 1 standard error of the gain" if any(step.standard_error for step in steps) else ""
    return f"score after {what}{error}; small dots: all that was tried"
