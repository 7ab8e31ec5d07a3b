"""What pictures show, in words, and selections of blocks as short text. Knows records and no markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..search.journal import Study
from ..search.pareto import ParetoFront
from ..search.profile import Profile
from ..search.result import SearchResult
from ..search.space import UNTOUCHED
from .markup import clipped, number, plural, seconds


def ranges(blocks: Sequence[str], places: Mapping[str, int], has_head: bool = True) -> str:
    """
    A selection by the numbers of its blocks, such as `"0, 3–5"`, however many there are.

    Args:
        blocks (`Sequence[str]`): Names.
        places (`Mapping[str, int]`): The number of each block of the study.
        has_head (`bool`, *optional*, defaults to `True`): Whether the model has a head, which is trained with no block.

    Returns: `str`: `"head only"` (or `"untouched base"`), `"all"`, or numbers; blocks of no number are named.
    """
    if not blocks:
        return "head only" if has_head else UNTOUCHED
    numbers = sorted({places[name] for name in blocks if name in places})
    strangers = [clipped(name, 80) for name in blocks if name not in places]
    if len(numbers) == len(places) and not strangers:
        return "all"
    runs: list[list[int]] = []
    for each in numbers:
        if runs and each == runs[-1][1] + 1:
            runs[-1][1] = each
        else:
            runs.append([each, each])
    found = [str(first) if first == last else f"{first}–{last}" for first, last in runs]
    return ", ".join([*found, *strangers])


def profile_alt(profile: Profile, chosen: SearchResult | None) -> str:
    """The profile in words."""
    sign = 1 if profile.greater_is_better else -1
    rows = sorted(profile.rows, key=lambda row: row.mean)
    worst, best = rows[0], rows[-1]
    with_head, alone = (" with the head", "head alone") if profile.has_head else ("", UNTOUCHED)
    found = [
        f"Bars, one for each of {plural(len(rows), 'block')} in forward order: {profile.metric} where it alone is "
        f"trained{with_head}. Best {best.label} with {number(sign * best.mean)}, worst {worst.label} with "
        f"{number(sign * worst.mean)}."
    ]
    if profile.head_only is not None:
        found.append(f"The {alone} has {number(sign * profile.head_only.mean)}.")
    if chosen is not None and chosen.blocks:
        found.append(f"Marked as chosen: {clipped(', '.join(chosen.blocks))}.")
    return " ".join(found)


def ladder_alt(result: SearchResult) -> str:
    """The ladder in words."""
    sign = 1 if result.greater_is_better else -1
    steps = [
        f"{row.named(result.has_head)} {number(sign * row.mean)}{'' if row.added else ' (not taken)'}"
        for row in result.ladder
    ]
    return clipped(f"Steps of the search with {result.metric} after each: {', '.join(steps)}.", 1000)


def pareto_alt(front: ParetoFront) -> str:
    """The Pareto front in words."""
    sign = 1 if front.greater_is_better else -1
    best = max(front.points, key=lambda point: point.mean)
    return clipped(
        f"Points, one for each of {plural(len(front.points), 'selection')}: {front.metric} against trained parameters "
        f"of blocks. The best is {front.label(best)}, {number(sign * best.mean)} with {best.num_parameters:,} "
        "parameters.",
        1000,
    )


def timeline_alt(study: Study) -> str:
    """The timeline in words."""
    whole = seconds(sum(each.seconds for each in study.evaluations))
    lanes = len({each.info.get("process") if _is_plain(each.info.get("process")) else 0 for each in study.evaluations})
    return (
        f"Bars along the time, one for each of {plural(len(study.evaluations), 'training')} by "
        f"{plural(lanes, 'process', 'processes')}, {whole} of training in all."
    )


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, int | str)
