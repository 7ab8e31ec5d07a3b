"""
The finetuning profile: what each block alone is worth to a task, in forward order.

Each bar starts at the head-only score and ends at the score of that block, so its length is the gain the block brings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import ArgumentsError
from ..search.space import UNTOUCHED
from .badges import Badge, badge_text, draw_badges
from .names import clipped, names_of, ordered_union
from .style import Theme, finish, format_axis, format_of, new_figure, own_looks, spread, theme_of
from .ticks import name_ticks

if TYPE_CHECKING:
    from ..search.profile import Profile


@dataclass(frozen=True)
class Reference:
    """
    A score to compare with, as a line with a band.

    Args:
        mean (`float`): The metric as it is, a loss too.
        error (`float`, *optional*): Half the height of the band, such as one standard error.
        label (`str`, *optional*): Words at the line.
    """

    mean: float
    error: float | None = None
    label: str | None = None


@own_looks()
def plot_profile(
    profile: Profile,
    *,
    selection: Sequence[str] = (),
    full_finetuning: Reference | None = None,
    linear_probe: Reference | None = None,
    metric: str | None = None,
    percent: bool | None = None,
    title: str = "Finetuning profile",
    subtitle: str | None = None,
    theme: str = "light",
    ordered: bool = True,
) -> Figure:
    """
    Draw a profile, of single blocks or of any other candidates.

    Args:
        profile ([`Profile`]): Scores of the one-block candidates, or of runs of consecutive blocks.
        selection (`Sequence[str]`, *optional*): Blocks the search chose, in the order it chose them.
        full_finetuning ([`Reference`], *optional*): Score of training everything.
        linear_probe ([`Reference`], *optional*): Score of the head alone; by default the profile's own.
        metric (`str`, *optional*): What the score is, in words; by default the study's metric.
        percent (`bool`, *optional*): Whether scores are shares; by default when all lie between 0 and 1.
        title (`str`, *optional*), subtitle (`str`, *optional*): Headings.
        theme (`str`, *optional*, defaults to `"light"`): `"light"` or `"dark"`.
        ordered (`bool`, *optional*, defaults to `True`):
            Whether the order of `selection` is that of choice. If not (a backward search), blocks are marked alike.

    Returns: `matplotlib.figure.Figure`: for [`save_figure`].
    Raises: [`ArgumentsError`]: For an unknown theme, an empty profile or a chosen block that is not in it.
    """
    colours = theme_of(theme)
    bars = _bars(profile, selection)
    sign = 1 if profile.greater_is_better else -1
    probe = _score(linear_probe, sign) or _own_probe(profile)
    full = _score(full_finetuning, sign)
    references = [reference for reference in (probe, full) if reference is not None]
    values = [sign * mean for mean in (*(bar.mean for bar in bars), *(line.mean for line in references))]
    percent = sign > 0 and all(0 <= value <= 1 for value in values) if percent is None else percent
    figure, axes = new_figure(2.7, colours)
    _set_limits(axes, bars, references)
    _draw_bars(axes, bars, probe.mean if probe else axes.get_ylim()[0], colours, ordered)
    _draw_references(axes, probe, full, format_of(percent, sign), colours)
    format_axis(axes, percent, sign)
    kind = _label_candidates(axes, profile, colours)
    words = (metric or f"{profile.metric}, mean of {_trainings(profile)}") + ("" if sign > 0 else " (up is better)")
    axes.set_ylabel(words, color=colours.muted, fontsize=9)
    return finish(figure, axes, colours, title, subtitle or _subtitle(bars, kind, probe is not None, ordered, profile))


def plot_predictions(
    profile: Profile,
    *,
    selection: Sequence[str] = (),
    strategy: str | None = None,
    title: str = "Predicted profile",
    theme: str = "light",
) -> Figure:
    """
    Draw what a search predicted of each block alone.

    Args:
        profile ([`Profile`]): From [`predicted_profile`].
        selection (`Sequence[str]`, *optional*): Blocks the search chose.
        strategy (`str`, *optional*): How they were predicted.
        title (`str`, *optional*): Heading.
        theme (`str`, *optional*, defaults to `"light"`): `"light"` or `"dark"`.

    Returns: `matplotlib.figure.Figure`: for [`save_figure`].
    Raises: as [`plot_profile`].
    """
    by = f" by {strategy}" if strategy else ""
    with_head, alone = _words_of_head(profile)
    lines = [f"one block{with_head} at a time, predicted{by}; a bar starts at {alone}"]
    if selection:
        lines.append("strong colour: the blocks that the search chose")
    if any(row.standard_error for row in profile.rows):
        # Blocks that were compared row by row have the error of that comparison, and the best one has none.
        compared = max(profile.rows, key=lambda row: row.mean).standard_error is None
        lines[-1] += "; whiskers: one standard error" + " of the distance to the best" * compared
    return plot_profile(
        profile,
        selection=selection,
        metric="predicted score, on a scale of its own",
        percent=False,
        title=title,
        subtitle="\n".join(lines),
        theme=theme,
        ordered=False,
    )


def _bars(profile: Profile, selection: Sequence[str]) -> list[_Bar]:
    if not profile.rows:
        raise ArgumentsError("The profile has no rows: run `trainer.search()` or `trainer.profile()` to its end first.")
    known = {row.label for row in profile.rows}
    strangers = [name for name in selection if name not in known]
    if strangers:
        raise ArgumentsError(f"`selection` names '{strangers[0]}', which is not in the profile of {sorted(known)}.")
    order = {name: place for place, name in enumerate(selection)}
    return [_Bar(row.label, row.mean, row.standard_error, order.get(row.label)) for row in profile.rows]


def _own_probe(profile: Profile) -> Reference | None:
    head = profile.head_only
    label = None if profile.has_head else UNTOUCHED
    return None if head is None else Reference(head.mean, head.standard_error, label)


def _words_of_head(profile: Profile) -> tuple[str, str]:
    """What is trained beside a block, and what is trained without one."""
    return (" and the head", "the head alone") if profile.has_head else ("", f"the {UNTOUCHED}")


def _score(reference: Reference | None, sign: int) -> Reference | None:
    """A reference is given as the metric is; bars are drawn as the search scores, where up is better."""
    return None if reference is None else replace(reference, mean=sign * reference.mean)


@dataclass(frozen=True)
class _Bar:
    name: str
    mean: float
    error: float | None
    order: int | None  # place in the search's choice, from 0


def _set_limits(axes: Axes, bars: Sequence[_Bar], references: Sequence[Reference]) -> None:
    """Scores with their errors. Bars start at a reference, not at zero."""
    spans = [(bar.mean, bar.error or 0.0) for bar in bars] + [(r.mean, r.error or 0.0) for r in references]
    low, high = spread(min(mean - error for mean, error in spans), max(mean + error for mean, error in spans))
    axes.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
    beside = 0.7 + 0.3 * max(0, 5 - len(bars))  # a few bars need not be as wide as the picture
    axes.set_xlim(-beside, len(bars) - 1 + beside)


def _draw_bars(axes: Axes, bars: Sequence[_Bar], base: float, colours: Theme, ordered: bool) -> None:
    cap = min(3.0, 60 / len(bars))
    for x, bar in enumerate(bars):
        colour = colours.bar if bar.order is None else colours.chosen
        axes.bar(x, bar.mean - base, bottom=base, width=0.66, color=colour, linewidth=0)
        if bar.error:
            axes.errorbar(x, bar.mean, bar.error, color=colours.text, elinewidth=1.1, capsize=cap, capthick=1.1)
    if ordered:
        badges = [
            Badge(x, max(bar.mean + (bar.error or 0.0), base), bar.order)
            for x, bar in enumerate(bars)
            if bar.order is not None
        ]
        draw_badges(axes, badges, len(bars), colours)


def _draw_references(
    axes: Axes, probe: Reference | None, full: Reference | None, write: Callable[[float], str], colours: Theme
) -> None:
    lines = [
        (probe, "head only", colours.probe, (0, (1, 1.6))),
        (full, "full fine-tune", colours.full, (0, (5, 2))),
    ]
    drawn = [(reference, words, colour, dash) for reference, words, colour, dash in lines if reference is not None]
    low, high = axes.get_ylim()
    heights = _apart([reference.mean for reference, *_ in drawn], 0.12 * (high - low))
    for (reference, words, colour, dash), height in zip(drawn, heights, strict=True):
        axes.axhline(reference.mean, color=colour, linewidth=1.6, linestyle=dash, zorder=3)
        if reference.error:
            axes.axhspan(
                reference.mean - reference.error,
                reference.mean + reference.error,
                color=colour,
                alpha=0.13,
                lw=0,
                zorder=0.5,
            )
        axes.annotate(
            f"{clipped(reference.label or words)}\n{write(reference.mean)}",
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(7, 0),
            textcoords="offset points",
            color=colour,
            fontsize=9,
            va="center",
            annotation_clip=False,
        )


def _apart(heights: Sequence[float], least: float) -> list[float]:
    """The same heights, moved so that two labels do not overlap."""
    if len(heights) < 2 or abs(heights[0] - heights[1]) >= least:
        return list(heights)
    middle = math.fsum(heights) / 2
    up = least / 2 if heights[0] >= heights[1] else -least / 2
    return [middle + up, middle - up]


def _label_candidates(axes: Axes, profile: Profile, colours: Theme) -> str:
    """Write what was trained below the axis; returns it in words."""
    selections = [row.candidate.blocks for row in profile.rows]
    sizes = {len(selection) for selection in selections}
    shown, pattern = names_of(selections, ordered_union(selections))
    name_ticks(axes, shown, colours)
    if sizes == {1}:
        kind, what = "one block", "block"
    elif len(sizes) == 1 and not any("+" in name for name in shown):
        kind, what = f"{min(sizes)} consecutive blocks", f"{min(sizes)} blocks"
    else:
        kind, what = "a selection of blocks", "blocks"
    where = f"{what}, from input to output" + (f"   ({pattern})" if pattern else "")
    axes.set_xlabel(where, color=colours.muted, fontsize=9, labelpad=8)
    return kind


def _trainings(profile: Profile) -> str:
    """What a mean is the mean of, in words."""
    repeats = sorted({row.repeats for row in profile.rows})
    folds = f"{profile.num_folds} fold{'s' * (profile.num_folds > 1)}"
    if repeats[-1] == 1:
        return folds
    return f"{folds} × {'–'.join(map(str, dict.fromkeys((repeats[0], repeats[-1]))))} seeds"


def _subtitle(bars: Sequence[_Bar], kind: str, gain: bool, ordered: bool, profile: Profile) -> str:
    with_head, alone = _words_of_head(profile)
    words = f"{kind}{with_head} trained at a time; a bar is the {f'gain over {alone}' if gain else 'score'}"
    if any(bar.error for bar in bars):
        words += " ± 1 s.e."
    if any(bar.order is not None for bar in bars):
        first, second = (badge_text(order, len(bars)) for order in (0, 1))
        mark = f"{first}, {second} ...: the blocks that the greedy search chose, in its order"
        words += f"\n{mark}" if ordered else "\nstrong colour: the blocks that the search kept"
    return words
