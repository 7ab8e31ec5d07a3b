"""
Every finished evaluation as a table that can be sorted and filtered, and read without a script too.

Selections are written by the numbers of their blocks, so that a row is short however many there are. Knows facts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..search.records import Evaluation
from .facts import ReportFacts, moment
from .markup import Html, clipped, code, codes, join, number, plural, table, tag
from .sections import names, section
from .words import ranges

MOST_ROWS = 8000  # 4 MB, and about what a browser sorts at once
LONG = 300  # rows that are too many to print
_MORE_METRICS = 2
_SPEED = ("_runtime", "_per_second", "_preparation_time")


@dataclass(frozen=True)
class _Column:
    heading: Any
    cell: Callable[[int, Evaluation], Any]


def records(facts: ReportFacts) -> Html:
    """The journal."""
    every = facts.study.evaluations
    if not every:
        return Html("")
    shown = every[:MOST_ROWS]
    columns = _columns(facts)
    rows = [[column.cell(place, each) for column in columns] for place, each in enumerate(shown)]
    chosen = None if facts.chosen is None else set(facts.chosen.blocks)
    marked = [place for place, each in enumerate(shown) if set(each.candidate.blocks) == chosen]
    left = len(every) - len(shown)
    more = f" The first {len(shown):,} of {len(every):,} are shown; all of them are in the journal." if left else ""
    words = (
        f"Every finished evaluation: one selection trained on one fold. {plural(len(every), 'evaluation')}.{more} "
        "Selections are given by the numbers of their blocks" + ("; the chosen one is marked." if marked else ".")
    )
    whole = table(
        "Finished evaluations", [column.heading for column in columns], rows, 3, marked, name="journal", heads=False
    )
    not_printed = tag("p", f"{plural(len(rows), 'row')} are not printed.", class_="print-only")
    long = len(rows) > LONG
    return section(
        "records",
        "Journal",
        tag("p", words),
        _controls(facts),
        tag("div", whole, class_="records long" if long else "records"),
        tag("button", "Show more rows", type="button", id="more-rows", hidden=True),
        not_printed if long else None,
    )


def _controls(facts: ReportFacts) -> Html:
    """Shown by the script, without which they would do nothing."""
    numbered = [
        tag("option", f"{place} {clipped(facts.short.get(name, name), 40)}", value=str(place))
        for place, name in enumerate(facts.sizes)
    ]
    blocks = tag("select", tag("option", "any", value=""), *numbered, id="block-filter")
    folds = [tag("option", str(fold), value=str(fold)) for fold in range(min(facts.study.spec.num_folds, 100))]
    return tag(
        "div",
        tag("label", "Rows with ", tag("input", type="search", id="text-filter", placeholder="any text")),
        tag("label", "Block ", blocks),
        tag("label", "Fold ", tag("select", tag("option", "any", value=""), *folds, id="fold-filter")),
        tag("output", "", id="filter-count", aria_live="polite"),
        class_="controls",
        hidden=True,
    )


def _columns(facts: ReportFacts) -> list[_Column]:
    study = facts.study
    writers = study.writers if len(study.writers) == len(study.evaluations) else ("",) * len(study.evaluations)
    main = study.spec.metric

    def written(place: int, each: Evaluation) -> str:
        process = each.info.get("process")
        if isinstance(process, int):
            return str(process)
        name = writers[place].removeprefix("rank-")
        return str(int(name)) if name.isdecimal() and len(name) < 10 else clipped(name, 20)

    has_head = facts.study.spec.has_head
    found = [
        _Column("no.", lambda place, each: str(place + 1)),
        _Column("selection", lambda place, each: ranges(each.candidate.blocks, facts.places, has_head)),
        _Column("names", lambda place, each: _names(facts, each)),
        _Column("fold", lambda place, each: str(each.fold)),
        _Column(code(main), lambda place, each: number(facts.sign * each.score)),
        *(_Column(code(name), _metric(name)) for name in _more(facts)),
        _Column("rows", lambda place, each: f"{each.num_examples:,}"),
        _Column("trained parameters", lambda place, each: f"{each.trainable_parameters:,}"),
        _Column("seconds", lambda place, each: f"{each.seconds:,.2f}"),
        _Column("process", written),
        _Column("began (UTC)", lambda place, each: moment(each.info.get("started"))),
    ]
    if any(each.budget < 1 for each in study.evaluations):
        found.append(_Column("share of the steps", lambda place, each: f"{each.budget:.3g}"))
    if any(each.repeat for each in study.evaluations):
        found.append(_Column("repeat", lambda place, each: str(each.repeat)))
    return found


def _names(facts: ReportFacts, each: Evaluation) -> Html:
    blocks = each.candidate.blocks
    if not 0 < len(blocks) <= 2:
        return join([])
    return codes(clipped(name, 60) for name in names(facts, blocks, 48))


def _more(facts: ReportFacts) -> list[str]:
    """Metrics beside the one that counts; those of speed are told by the seconds."""
    spec = facts.study.spec
    names = dict.fromkeys(name for each in facts.study.evaluations[:100] for name in each.metrics)
    return [name for name in names if name != spec.metric and not name.endswith(_SPEED)][:_MORE_METRICS]


def _metric(name: str) -> Callable[[int, Evaluation], str]:
    return lambda place, each: number(each.metrics.get(name))
