"""
The sections of a report about what was found; `""` where there is nothing to tell.

Knows facts; not how pictures come about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import SubTuningError
from ..search.finals import summarise
from ..search.predictions import adds_nothing, behind, prediction_rows
from ..search.profile import ProfileRow
from ..search.records import Round
from ..search.result import LadderRow, SearchResult, ladder
from ..search.space import UNTOUCHED
from .facts import ReportFacts
from .markup import Html, clipped, code, codes, count, folded, join, number, plural, seconds, share, table, tag, text
from .words import ranges

# Longer tables are folded, and of the longest the first rows are shown.
FEW, MOST = 16, 200
_CHANGES = {"forward": "block added", "backward": "block removed", "list": "chosen"}


def section(name: str, heading: str, *children: Any) -> Html:
    """A part of the page with a heading that can be linked; nothing without contents."""
    kept = [child for child in children if child is not None and str(child)]
    if not kept:
        return Html("")
    return tag("section", tag("h2", heading, id=f"{name}-heading"), *kept, id=name, aria_labelledby=f"{name}-heading")


def figures(facts: ReportFacts, name: str) -> Html:
    """The pictures of a section."""
    found = []
    for picture in facts.pictures.get(name, ()):
        dark = tag("source", media="screen and (prefers-color-scheme: dark)", srcset=picture.dark)
        image = tag("img", src=picture.light, alt=picture.alt)
        found.append(tag("figure", tag("picture", dark, image), tabindex="0", role="group", aria_label="picture"))
    return join(found)


def at_length(caption: str, rows: Sequence[Any], shown: Html) -> Html:
    """A table, folded where it is long."""
    return shown if len(rows) <= FEW else folded(f"{caption} ({plural(len(rows), 'row')})", shown)


def metric(facts: ReportFacts, value: float | None) -> str:
    """A score as the metric it stands for."""
    return "" if value is None else number(facts.sign * value)


# --- profile --------------------------------------------------------------------------------
def profile(facts: ReportFacts) -> Html:
    """What each block alone is worth."""
    found, name = facts.profile, facts.study.spec.metric
    if found is None or not found.rows:
        return Html("")
    chosen = set(facts.chosen.blocks) if facts.chosen is not None else set()
    shown: list[ProfileRow] = [*filter(None, [found.head_only]), *found.rows]
    bare = "head only" if found.has_head else UNTOUCHED
    rows = [
        [
            str(facts.places[row.label]) if row.label in facts.places else "–",
            code(row.label) if row.candidate.blocks else bare.replace(" ", "\u00a0"),
            metric(facts, row.mean),
            number(row.spread),
            number(row.gain, sign=True) if row.candidate.blocks else "",
            number(row.gain_standard_error) if row.candidate.blocks else "",
            count(row.num_parameters),
            f"{row.seconds:,.1f}",
        ]
        for row in shown
    ]
    marked = [place for place, row in enumerate(shown) if row.label in chosen]
    over, alone, with_head = ("head", "head alone", " with the head") if found.has_head else (UNTOUCHED, UNTOUCHED, "")
    headings = ["no.", "block", name, "spread over folds", f"gain over the {over}", "s.e.", "parameters", "seconds"]
    caption = f"{name} of each block alone" + ("; chosen blocks are marked" if marked else "")
    words = (
        f"Each block is trained alone{with_head}, on {plural(found.num_folds, 'fold')} of the training rows. A gain "
        f"is over the {alone} on the same folds, positive where it is better."
    )
    missing = (
        f"{plural(len(found.missing), 'block')} of {len(facts.sizes):,} lack a fold and are not shown."
        if found.missing
        else ""
    )
    shown_table = table(caption, headings, rows, left=2, marked=marked)
    return section(
        "profile",
        "Finetuning profile",
        tag("p", words),
        figures(facts, "profile"),
        tag("p", missing) if missing else None,
        at_length("The numbers", rows, shown_table),
    )


# --- exact searches -------------------------------------------------------------------------
def ladders(facts: ReportFacts) -> Html:
    """Every step of the exact searches that are told, with its spread."""
    exact = {name: result for name, result in facts.shown.items() if result.proposal is None}
    under_way = [search for search in facts.unfinished if search.state is not None and search.run is None]
    if not exact and not any(ladder(search.state.rounds) for search in under_way if search.state is not None):
        return Html("")
    pieces: list[Any] = [figures(facts, "ladder")]
    # A search from both ends holds the steps of either, which need not be told again.
    held = [part for result in exact.values() for part in result.parts]
    exact = {name: result for name, result in exact.items() if result.parts or result.rounds not in held}
    for name, result in exact.items():
        for part in result.parts or (result.rounds,):
            title = part[0].direction if len(exact) == 1 else f"{name}, {part[0].direction}" if result.parts else name
            pieces += [tag("h3", title.capitalize()), _steps(facts, part, result, title)]
        pieces.append(tag("p", tag("strong", "How it ended: "), clipped(result.reason, 1500)))
        if result.serving_words:
            pieces.append(tag("p", clipped(result.serving_words, 1500)))
    for search in under_way:
        assert search.state is not None
        if ladder(search.state.rounds):
            title = f"{search.name}, not finished"
            pieces += [tag("h3", title.capitalize()), _steps(facts, search.state.rounds, None, title)]
    words = "Each row is the best candidate of its round; a gain is over the row before on the same folds."
    return section("ladder", "Ladder", tag("p", words), *pieces)


def _steps(facts: ReportFacts, rounds: Sequence[Round], result: SearchResult | None, title: str) -> Html:
    rows = ladder(rounds, None if result is None else result.serving)
    headings = ["round", _CHANGES[rounds[0].direction], facts.study.spec.metric, "spread over folds", "gain", "s.e."]
    headings += ["trained parameters", "candidates", "given up", "trainings", "seconds", "latency"]
    cells = [
        [
            str(row.round),
            _label(row, facts.study.spec.has_head),
            metric(facts, row.mean),
            number(row.spread),
            number(row.gain, sign=True),
            number(row.standard_error),
            count(row.trainable_parameters) if row.trainable_parameters else "",
            count(row.num_candidates),
            count(row.num_pruned) if row.num_pruned else "",
            count(row.num_evaluations),
            f"{row.seconds:,.1f}",
            "" if row.added_latency is None else f"+{row.added_latency:.2f}",
        ]
        for row in rows
    ]
    marked = [place for place, row in enumerate(rows) if row.added]
    caption = f"Steps of the search ({title}); those that were taken are marked"
    return at_length(caption, cells, table(caption, headings, cells, left=2, marked=marked))


def _label(row: LadderRow, has_head: bool) -> Html:
    if row.block is None:
        return text(row.named(has_head))
    names = codes(row.block.split(" + "))
    return names if row.added else join([names, " (not taken)"])


# --- searches that predict ------------------------------------------------------------------
def predictions(facts: ReportFacts) -> Html:
    """What was predicted, what was measured of it, and which of them won."""
    pieces: list[Any] = []
    runs = [(search.run, search.result) for search in facts.searches if search.run is not None]
    for run, result in runs:
        assert run is not None
        trained = [each for each in facts.study.evaluations if each.unit in set(run.units)]
        rows = prediction_rows(run, trained)
        # A selection that is predicted like a part of it says nothing more.
        rows = [row for row in rows if row["num_evaluations"] or not adds_nothing(row, rows)]
        shown = [row for place, row in enumerate(rows) if row["num_evaluations"] or place < MOST]
        cells = [_predicted(facts, row) for row in shown]
        chosen = set(result.blocks) if result is not None else None
        # Blocks that are tuned together because they are tied are rows of their own.
        marked = [place for place, row in enumerate(shown) if chosen is not None and _is_of(row["blocks"], chosen)]
        name = facts.study.spec.metric
        headings = ["selection", "predicted", "behind ± s.e.", f"{name}, measured"]
        headings += ["trained parameters", "trainings", "seconds"]
        how = f"{run.search.strategy}, {run.search.direction}, budget {run.search.budget:g}"
        caption = f"Predicted and measured ({how})" + ("; the chosen one is marked" if marked else "")
        first = [place for place, row in enumerate(shown) if row["num_evaluations"] or place < FEW]
        top = table(caption, headings, [cells[p] for p in first], marked=[first.index(p) for p in marked if p in first])
        rest = [cells[place] for place in range(len(cells)) if place not in set(first)]
        others = f"Predicted to be no better, and not trained ({how})"
        pieces += [
            tag("h3", f"Strategy {run.search.strategy}, {run.search.direction}"),
            tag("p", _words(run, len(trained))),
            top,
            folded(f"{others} ({plural(len(rest), 'row')})", table(others, headings, rest)) if rest else None,
            _left(len(rows) - len(shown)),
        ]
        if result is not None:
            pieces.append(tag("p", tag("strong", "How it ended: "), clipped(result.reason, 1500)))
    return section("predictions", "Predicted and measured", figures(facts, "predictions") if pieces else None, *pieces)


def _is_of(blocks: Sequence[str], chosen: set[str]) -> bool:
    return set(blocks) == chosen or (len(blocks) == 1 and set(blocks) < chosen)


def _left(number_left: int) -> Html | None:
    return tag("p", f"{number_left:,} more predictions are in the journal.") if number_left else None


def _predicted(facts: ReportFacts, row: dict[str, Any]) -> list[Any]:
    trained = row["num_evaluations"]
    return [
        selection(facts, row["blocks"]),
        number(row["predicted"]),
        behind(row),
        metric(facts, row["measured"]),
        count(row["trainable_parameters"]),
        count(trained) if trained else "",
        f"{row['seconds']:,.1f}" if trained else "",
    ]


def selection(facts: ReportFacts, blocks: Sequence[str]) -> Html:
    """Blocks by name where they are few, else by number."""
    if not 0 < len(blocks) <= 3:
        words = ranges(blocks, facts.places, facts.study.spec.has_head)
        return text(words if not blocks or words == "all" else f"blocks {words}")
    return codes(names(facts, blocks))


def names(facts: ReportFacts, blocks: Sequence[str], most: int = 72) -> list[str]:
    """Names of some blocks as they are, or short ones where these are long together."""
    fits = sum(map(len, blocks)) <= most
    return [name if fits else facts.short.get(name, name) for name in blocks]


def _words(run: Any, trained: int) -> str:
    words = (
        "Predictions have a scale of their own: they order selections, and are no estimate of the metric. They took "
        f"{seconds(run.seconds)}, in arithmetic {run.fine_tunes:.2f} full fine-tunes. "
    )
    if not run.folds:
        return words + "One selection was left, so nothing had to be trained to decide."
    folds = ", ".join(str(fold) for fold in sorted(run.folds))
    length = f" with {100 * run.share:.0f} % of the steps" if run.share < 1 else ""
    done = "" if trained >= len(run.units) else f" So far {trained} of {len(run.units)} trainings are finished."
    return (
        f"{words}The best predicted {len(run.shortlist)} are trained{length} on fold{'s' * (len(run.folds) > 1)} "
        f"{folds} (counted from 0).{done}"
    )


# --- price ----------------------------------------------------------------------------------
def pareto(facts: ReportFacts) -> Html:
    """The best score for every number of parameters."""
    found = facts.front
    if found is None or len(found.points) < 2:
        return Html("")
    front = found.front
    shown = front[:MOST]
    rows = [
        [
            selection(facts, point.candidate.blocks),
            metric(facts, point.mean),
            number(point.standard_error),
            count(point.num_parameters),
            share(point.num_parameters, sum(facts.sizes.values())),
            str(point.first_block) if point.candidate.blocks else "none",
        ]
        for point in shown
    ]
    headings = ["selection", found.metric, "s.e.", "parameters of blocks", "of all blocks", "first tuned block"]
    caption = "Selections that no other one beats in score, parameters and first tuned block"
    words = (
        f"{plural(len(found.points), 'selection')} were trained on all folds. What lies before the first tuned block "
        "is shared between tasks, so a later one is cheaper."
    )
    left = _more(len(front) - len(shown))
    whole = at_length("The front", rows, table(caption, headings, rows))
    return section("pareto", "Score and price", tag("p", words), figures(facts, "pareto"), whole, left)


def _more(left: int) -> Html | None:
    return tag("p", f"{left:,} more are left out here.") if left else None


# --- after the search -----------------------------------------------------------------------
def finals(facts: ReportFacts) -> Html:
    """Final trainings: mean and spread over seeds."""
    groups: dict[tuple[str, str], list[Any]] = {}
    for run in facts.study.finals:
        groups.setdefault((run.candidate.label, str(run.info.get("rows", ""))), []).append(run)
    rows = []
    for runs in groups.values():
        try:
            scores = summarise(runs)
        except SubTuningError:
            continue
        for each in scores:
            if each.metric.endswith(("_runtime", "_per_second", "_preparation_time")):
                continue
            seeds = clipped(", ".join(str(run.seed) for run in runs), 80)
            name = selection(facts, runs[0].candidate.blocks)
            rows.append([name, clipped(each.metric, 80), seeds, number(each.mean), number(each.spread)])
    words = "The blocks trained on all training rows, and scored on rows that chose nothing. No decision reads these."
    headings = ["selection", "metric", "seeds", "mean", "spread over seeds"]
    shown = table("Final trainings", headings, rows[:MOST], left=3)
    return section("finals", "Final trainings", tag("p", words) if rows else None, shown)


def comparison(facts: ReportFacts) -> Html:
    """Beside a linear probe and a full fine-tune."""
    found = facts.comparison
    if found is None or not found.rows:
        return Html("")
    rows = [_compared(row, max(each["trainable_parameters"] for each in found.rows)) for row in found.rows]
    headings = ["method", "test score", "difference", "seeds", "score on folds", "trained parameters"]
    headings += ["of the largest", "learning rate", "seconds a run", "seconds of tuning"]
    marked = [place for place, row in enumerate(found.rows) if row["method"] == "SubTuning"]
    counts = " or ".join(f"{number_:,}" for number_ in sorted({int(row["num_examples"]) for row in found.rows}))
    words = (
        "Each method with its own settings, chosen on the training rows, then trained on all of them and scored on "
        f"{counts} test rows; ± is the standard deviation between seeds. LP trains the head alone, FT everything. "
    )
    against = {_against(row).get("method") for row in found.rows} - {None}
    if len(against) == 1:
        words += f"A difference is to {clipped(against.pop(), 100)}, with its standard error. "
    edge = "* the lowest or highest that was tried; a wider range might do better."
    return section(
        "comparison",
        "Comparison",
        tag("p", words, "From ", code(found.file), "."),
        table("Methods on the same test rows", headings, rows[:MOST], marked=marked),
        tag("p", edge, class_="small") if any(row.get("learning_rate_at_edge") for row in found.rows) else None,
        tag("p", tag("strong", found.verdict)) if found.verdict else None,
    )


def _against(row: Mapping[str, Any]) -> Mapping[str, Any]:
    found = row.get("against")
    if not isinstance(found, Mapping):
        return {}
    numbers = (found.get("mean"), found.get("error"))
    return found if all(isinstance(value, int | float | None) for value in numbers) else {}


def _compared(row: Mapping[str, Any], most: int) -> list[str]:
    spread, rate, against = row.get("spread"), row.get("learning_rate"), _against(row)
    error = "" if against.get("error") is None else f" ± {number(against['error'])}"
    return [
        clipped(row["method"], 200),
        number(row["mean"]) + ("" if spread is None else f" ± {number(spread)}"),
        "" if against.get("mean") is None else number(against["mean"], sign=True) + error,
        str(len(row["scores"])),
        number(row.get("cv_mean")),
        count(row["trainable_parameters"]),
        share(row["trainable_parameters"], most),
        "" if rate is None else f"{rate:g}" + ("*" if row.get("learning_rate_at_edge") else ""),
        f"{row['seconds']:,.1f}",
        "" if row.get("tuning_seconds") is None else f"{row['tuning_seconds']:,.1f}",
    ]
