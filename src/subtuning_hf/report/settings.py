"""
The sections of a report about how a study came about: cost, settings, identity.

Knows facts.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from ..search.records import SearchSpec
from .facts import ReportFacts, Search, moment
from .markup import Html, clipped, code, count, folded, number, plural, seconds, table, tag, text
from .sections import MOST, at_length, figures, section, selection

_ABSENT = object()


# --- cost -----------------------------------------------------------------------------------
def cost(facts: ReportFacts) -> Html:
    """Trainings, seconds and fine-tunes, of every search and of all."""
    study = facts.study
    rows = [_of_search(facts, search) for search in facts.searches]
    spent = sum(each.seconds for each in study.evaluations)
    full = sum(each.budget for each in study.evaluations)
    if study.evaluations:
        rows.append(["all trainings in the journal", "", "", count(len(study.evaluations)), f"{full:,.2f}",
                     "", f"{spent:,.1f}"])  # fmt: skip
    if study.finals:
        final = sum(run.seconds for run in study.finals)
        rows.append(["final trainings", "", "", count(len(study.finals)), "", "", f"{final:,.1f}"])
    headings = ["what", "state", "chosen", "trainings", "full trainings", "full fine-tunes, in arithmetic", "seconds"]
    words = (
        "Seconds are those of trainings and their scoring, processes added up. Searches of one study share their "
        "trainings, so theirs add up to more than all. A training with a share of the steps counts as that share of a "
        "full one."
    )
    caption = "What it took"
    whole = at_length(caption, rows, table(caption, headings, rows[:MOST], left=3))
    times = _times(facts)
    return section(
        "cost", "Time and cost", figures(facts, "timeline"), tag("p", words), whole, tag("p", times) if times else None
    )


def _of_search(facts: ReportFacts, search: Search) -> list[Any]:
    result, run = search.result, search.run
    bounds = ", ".join(f"{name}={value}" for name, value in _changed(search.spec).items())
    name = f"search: {search.name}" + (f" ({clipped(bounds, 160)})" if bounds else "")
    if result is None:
        lacking = f"not finished, lacks {search.missing:,} or more" if search.state is not None else "predicting"
        return [name, lacking, "", "", "", "", ""]
    took = result.cost.seconds + (0.0 if run is None else run.seconds)
    return [
        name,
        "finished",
        selection(facts, result.blocks),
        count(result.cost.num_evaluations),
        f"{result.cost.full_trainings:,.2f}",
        "" if run is None else f"{run.planned:.2f}",
        f"{took:,.1f}",
    ]


def _changed(search: SearchSpec) -> dict[str, Any]:
    """What a search was asked for beside its kind, where that is not the default."""
    found = {}
    for field in dataclasses.fields(search):
        value = getattr(search, field.name)
        if field.name in ("strategy", "direction", "serving", "candidates") or value == field.default:
            continue
        found[field.name] = f"{value:.4g}" if isinstance(value, float) else value
    return found


def _times(facts: ReportFacts) -> str:
    """When the first training began and the last one ended."""
    spans: list[tuple[Any, float]] = [(each.info.get("started"), each.seconds) for each in facts.study.evaluations]
    known = [(float(start), start + took) for start, took in spans if moment(start)]
    if not known:
        return ""
    first, last = min(start for start, _ in known), max(end for _, end in known)
    began = f"The first training began {moment(first)} UTC"
    return f"{began}, the last one ended {moment(last)} UTC, {seconds(last - first)} later."


# --- settings -------------------------------------------------------------------------------
def settings(facts: ReportFacts) -> Html:
    """The arguments that can change a score, as far as they differ from their defaults, and the functions."""
    arguments = facts.setting("arguments")
    arguments = arguments if isinstance(arguments, Mapping) else {}
    told, rows = [], []
    for name, value in arguments.items():
        default = _ABSENT if facts.defaults is None else facts.defaults.get(name, _ABSENT)
        # An argument without a default is of another version: where it says nothing, neither does this.
        if value == default or (facts.defaults is not None and default is _ABSENT and not value):
            continue
        if name == "fold_seed" and value == arguments.get("seed"):
            continue
        rows.append([code(name), _plain(value), "" if default is _ABSENT else _plain(default)])
    if rows:
        known = facts.defaults is not None
        caption = "Settings that differ from their defaults" if known else "Settings, whose defaults are not known here"
        shown = table(caption, ["setting", "value", "default"], rows, left=3)
        told.append(at_length(caption, rows, shown))
    elif arguments:
        told.append(tag("p", "All arguments that can change a score are at their defaults."))
    functions = facts.setting("code")
    if isinstance(functions, Mapping) and functions:
        lines = [[code(name), code(value)] for name, value in functions.items()]
        told.append(table("Functions and classes that scores depend on", ["argument", "given"], lines, left=2))
    if facts.setting("study_tag"):
        told.append(tag("p", "Study tag: ", code(facts.setting("study_tag"))))
    config = facts.setting("model", "config")
    if isinstance(config, Mapping) and config:
        lines = [[code(name), _plain(value)] for name, value in config.items()]
        caption = "Configuration of the model"
        told.append(folded(caption, table(caption, ["name", "value"], lines, left=2)))
    return section("settings", "Settings", *told)


def _plain(value: Any) -> Html:
    return text(clipped(json.dumps(value, ensure_ascii=False, default=str)))


def identity(facts: ReportFacts) -> Html:
    """Blocks, fingerprints and versions: what tells this study from others."""
    spec = facts.study.spec
    whole = sum(facts.sizes.values())
    blocks = [
        [str(place), code(name), count(size), f"{100 * size / whole:.2f} %" if whole else ""]
        for place, (name, size) in enumerate(facts.sizes.items())
    ]
    caption = "Blocks in forward order"
    listed = table(caption, ["no.", "block", "parameters", "of all blocks"], blocks, left=2, name="blocks")
    prints = [["study", code(spec.fingerprint)], *([clipped(n), code(v)] for n, v in spec.fingerprints.items())]
    versions = [[clipped(name), _value(value)] for name, value in spec.environment.items() if name != "head"]
    if spec.environment.get("head"):
        prints.append(["head at the start", code(spec.environment["head"])])
    words = "Equal fingerprints mean equal weights, rows, folds, settings and code; a search refuses to mix others in."
    return section(
        "identity",
        "Blocks, fingerprints and versions",
        folded(f"{caption} ({plural(len(blocks), 'block')})", listed),
        tag("p", words),
        table("Fingerprints", ["of", "fingerprint"], prints, left=2),
        table("Versions and device", ["what", "value"], versions, left=2),
    )


def _value(value: Any) -> Html:
    return text(clipped(value)) if isinstance(value, str | int | float) else _plain(value)


def limits(facts: ReportFacts) -> Html:
    """What the numbers do not say."""
    points = [
        "Scores of the search are on folds of the training rows, and chose the blocks: the best of many is flattered. "
        "They are no test scores.",
        "A spread is the standard deviation between folds; a standard error (s.e.) is that of a mean or of a paired "
        "difference.",
    ]
    if any(search.run is not None and search.run.share < 1 for search in facts.searches):
        share = min(search.run.share for search in facts.searches if search.run is not None)
        points.append(
            f"Some selections were trained for a part of the steps (down to {number(share)}): their scores are for "
            "comparison with each other."
        )
    return section("limits", "What these numbers do not say", tag("ul", *(tag("li", point) for point in points)))
