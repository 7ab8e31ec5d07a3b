"""Pairs of blocks as a heat map: what two blocks are worth together, and on the diagonal each alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..errors import ArgumentsError
from .names import clipped, ordered_union, short_names
from .style import Theme, colour_bar, finish, format_of, new_figure, own_looks, spread, theme_of
from .ticks import name_ticks

if TYPE_CHECKING:
    from ..search.profile import Profile, ProfileRow

ROOMY = 13  # blocks up to which the cells have room for numbers


@own_looks()
def plot_pairs(
    profile_of_pairs: Profile,
    profile_of_blocks: Profile | None = None,
    *,
    percent: bool | None = None,
    title: str = "Pairs of blocks",
    theme: str = "light",
) -> Figure:
    """
    Draw a profile of pairs as a symmetric heat map.

    Args:
        profile_of_pairs ([`Profile`]): Scores of pairs; those that are missing stay empty.
        profile_of_blocks ([`Profile`], *optional*): Scores of single blocks, for the diagonal.
        percent (`bool`, *optional*): Whether scores are shares; by default when all lie between 0 and 1.
        title (`str`, *optional*): Heading.
        theme (`str`, *optional*, defaults to `"light"`): `"light"` or `"dark"`.

    Returns: `matplotlib.figure.Figure`: for [`save_figure`].
    Raises: [`ArgumentsError`]: For an unknown theme, a profile without a pair or one of other selections.
    """
    colours = theme_of(theme)
    if not profile_of_pairs.rows:
        raise ArgumentsError("The profile has no pairs: run `trainer.profile(pairs=True)` to its end first.")
    blocks = _blocks(profile_of_pairs)
    singles = profile_of_blocks.rows if profile_of_blocks is not None else ()
    table = _table(blocks, [*profile_of_pairs.rows, *singles])
    sign = 1 if profile_of_pairs.greater_is_better else -1
    if percent is None:
        percent = sign > 0 and bool(np.all((np.nan_to_num(table) >= 0) & (np.nan_to_num(table) <= 1)))
    write = format_of(percent, sign)
    figure, axes = new_figure(5.0, colours, grid="")
    axes.spines["bottom"].set_visible(False)
    edges = np.arange(len(blocks) + 1) - 0.5
    gap = 1.0 if len(blocks) <= 24 else 0.3
    low, high = spread(float(np.nanmin(table)), float(np.nanmax(table)))
    mesh = axes.pcolormesh(
        edges, edges, table, cmap=colours.scale, vmin=low, vmax=high, edgecolors=colours.ground, linewidth=gap
    )
    axes.set_ylim(len(blocks) - 0.5, -0.5)
    if len(blocks) <= ROOMY:
        _write_cells(axes, table, percent, sign, colours)
    best = max(profile_of_pairs.rows, key=lambda row: row.mean)
    _mark(axes, [blocks.index(name) for name in best.candidate.blocks], colours)
    names, pattern = short_names(blocks)
    name_ticks(axes, names, colours, "y", most=22)
    name_ticks(axes, names, colours, "x", most=22)
    where = "block, from input to output" + (f"   ({pattern})" if pattern else "")
    axes.set_xlabel(where, color=colours.muted, fontsize=9, labelpad=8)
    folds = profile_of_pairs.num_folds
    words = f"{profile_of_pairs.metric}, mean of {folds} fold{'s' * (folds > 1)}"
    colour_bar(axes, mesh, colours, words, percent, sign)
    shorts = dict(zip(blocks, names, strict=True))
    return finish(figure, axes, colours, title, _subtitle(profile_of_pairs, best, singles, shorts, percent, write))


def _blocks(profile: Profile) -> list[str]:
    """The blocks in forward order: every pair names its earlier block first, so a later one is second more often."""
    pairs = [candidate.blocks for candidate in (*(row.candidate for row in profile.rows), *profile.missing)]
    if strange := [pair for pair in pairs if len(pair) != 2]:
        raise ArgumentsError(f"A heat map shows pairs of blocks, found {' + '.join(strange[0]) or 'the head alone'}.")
    second = Counter(pair[1] for pair in pairs)
    return sorted(ordered_union(pairs), key=lambda name: second[name])


def _table(blocks: Sequence[str], rows: Sequence[ProfileRow]) -> np.ndarray:
    """Scores by the places of two blocks, twice the same for one alone; NaN where there is none."""
    place = {name: index for index, name in enumerate(blocks)}
    table = np.full((len(blocks), len(blocks)), np.nan)
    for row in rows:
        if row.candidate.blocks and set(row.candidate.blocks) <= place.keys():
            first, last = place[row.candidate.blocks[0]], place[row.candidate.blocks[-1]]
            table[first, last] = table[last, first] = row.mean
    return table


def _write_cells(axes: Axes, table: np.ndarray, percent: bool, sign: int, colours: Theme) -> None:
    low, high = spread(float(np.nanmin(table)), float(np.nanmax(table)))
    for (down, right), value in np.ndenumerate(table):
        if np.isnan(value):
            continue
        text = f"{100 * value:.1f}" if percent else f"{sign * value + 0.0:.3g}"
        ink = colours.on(colours.scale((value - low) / (high - low)))
        axes.text(right, down, text, ha="center", va="center", fontsize=8, color=ink)


def _mark(axes: Axes, places: Sequence[int], colours: Theme) -> None:
    for down, right in (places, places[::-1]):
        box = Rectangle((right - 0.5, down - 0.5), 1, 1, fill=False, edgecolor=colours.best, lw=2.4, zorder=4)
        box.set_clip_on(False)
        axes.add_patch(box)


def _subtitle(
    profile: Profile, best: ProfileRow, singles: Sequence[ProfileRow], shorts: dict[str, str], percent: bool, write
) -> str:
    words = "score of two blocks trained together" + ("; on the diagonal, of each alone" if singles else "")
    pair = " + ".join(clipped(shorts[name]) for name in best.candidate.blocks)
    words += f"\nframed: the best pair, {pair}, {write(best.mean)}"
    alone = [row.mean for row in singles if row.candidate.blocks[0] in best.candidate.blocks]
    if alone:
        gain = best.mean - max(alone)
        points = f"{100 * gain:+.1f} points" if percent else f"{gain:+.3g}"
        words += f", {points.replace('-', '−')} over the better of the two alone"
    if profile.missing:
        missing = len(profile.missing)
        pairs = "1 pair was" if missing == 1 else f"{missing} pairs were"
        words += f"\n{pairs} not trained on all folds and stay{'s' * (missing == 1)} empty"
    return words
