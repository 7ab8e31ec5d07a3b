"""
The head of a report: what was chosen and why, the numbers that count, and what is wrong with the study.

Knows facts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..search.records import Candidate
from ..search.scores import full_folds, score_of, spread_of, table_of
from ..search.space import UNTOUCHED
from .facts import ReportFacts, moment
from .markup import Html, clipped, code, codes, join, number, plural, seconds, share, tag, text
from .sections import metric
from .words import ranges

# More blocks than these are chosen by number, with their names below.
_FEW_NAMES = 6


def header(facts: ReportFacts) -> Html:
    """Title, what was studied, what is wrong with it, what was chosen and why, and the numbers."""
    return tag(
        "header",
        tag("p", "SubTuning study", class_="kicker"),
        tag("h1", clipped(facts.title, 120)),
        tag("p", _studied(facts), class_="studied"),
        *_notices(facts),
        _answer(facts),
        _tiles(facts),
    )


def _studied(facts: ReportFacts) -> Html:
    """Model, data, rows, folds, metric."""
    spec = facts.study.spec
    model = str(facts.setting("model", "class") or "").rpartition(".")[2]
    kind = facts.setting("model", "config", "model_type")
    rows, validation = facts.setting("data", "rows"), facts.setting("data", "validation_rows")
    better = "higher" if spec.greater_is_better else "lower"
    pieces: list[Any] = []
    if model:
        pieces.append(join([code(model), f" ({clipped(kind, 60)})" if kind else ""]))
    pieces.append(plural(len(spec.blocks), "block"))
    if isinstance(rows, int):
        pieces.append(plural(rows, "training row"))
    if isinstance(validation, int):
        pieces.append(plural(validation, "validation row"))
    pieces.append(plural(spec.num_folds, "fold") if spec.num_folds > 1 else "one validation split")
    pieces.append(join([code(spec.metric), f" ({better} is better)"]))
    labels = facts.setting("model", "config", "num_labels")
    if isinstance(labels, int):
        pieces.insert(2, plural(labels, "label"))
    return join(pieces, " · ")


# --- what is wrong --------------------------------------------------------------------------
def _notices(facts: ReportFacts) -> list[Html]:
    found = []
    if facts.damage:
        listed = tag("ul", *(tag("li", clipped(line, 2000)) for line in facts.damage))
        words = "The journal is damaged. What is left is shown, and what was lost is missing from every number here."
        found.append(tag("div", tag("strong", words), listed, class_="notice bad", role="note"))
    lines = [*_unfinished(facts), *facts.notes]
    if lines:
        found.append(tag("div", *(tag("p", clipped(line, 2000)) for line in lines), class_="notice", role="note"))
    return found


def _unfinished(facts: ReportFacts) -> Iterable[str]:
    study = facts.study
    if not study.evaluations and not study.proposals:
        yield "No training is finished yet, so there is little to show."
    for search in facts.unfinished:
        if search.state is None:
            yield f"Not finished: the search ({search.name}) was predicting when this was written, or was stopped then."
        elif search.missing:
            yield (
                f"Not finished: the search ({search.name}) lacks at least {plural(search.missing, 'training')} for its "
                "next decision. Started again with the same settings, it goes on where it is."
            )
    if study.evaluations and not facts.searches:
        yield "No search was begun in this study: it holds trainings of a profile or of listed selections."


# --- the answer -----------------------------------------------------------------------------
def _answer(facts: ReportFacts) -> Html:
    result = facts.chosen
    if result is None:
        return _best_so_far(facts)
    if not result.blocks:
        chosen = text(f"No block: the {'head alone' if result.has_head else UNTOUCHED}.")
    elif len(result.blocks) <= _FEW_NAMES:
        chosen = join([codes(result.blocks), "."])
    else:
        numbers = ranges(result.blocks, facts.places, result.has_head)
        chosen = join([f"{len(result.blocks)} blocks ({numbers}): ", codes(result.blocks, ", "), "."])
    return tag(
        "p", tag("span", "Chosen: ", class_="lead"), chosen, " ", tag("span", clipped(result.reason, 900)),
        class_="answer",
    )  # fmt: skip


def _best_so_far(facts: ReportFacts) -> Html:
    """Of a study without a finished search."""
    words = tag("span", "Nothing is chosen yet. ", class_="lead")
    if facts.profile is None or not facts.profile.rows:
        return tag("p", words, class_="answer")
    best = max(facts.profile.rows, key=lambda row: row.mean)
    score = metric(facts, best.mean)
    told = join(["The best block alone is ", code(best.label), f", with {facts.study.spec.metric} {score}."])
    return tag("p", words, told, class_="answer")


# --- numbers --------------------------------------------------------------------------------
def _tiles(facts: ReportFacts) -> Html:
    name, sizes = facts.study.spec.metric, facts.sizes
    found = []
    if facts.chosen is not None:
        found.append(_score(facts, f"{name}, chosen blocks", facts.chosen.blocks))
        if facts.chosen.blocks:
            found.append(_score(facts, f"{name}, {'head only' if facts.chosen.has_head else UNTOUCHED}", ()))
        if set(facts.chosen.blocks) != set(sizes):
            found.append(_score(facts, f"{name}, all blocks", tuple(sizes)))
        tuned = sum(sizes.get(block, 0) for block in facts.chosen.blocks)
        part = share(tuned, sum(sizes.values()))
        found.append(("parameters in chosen blocks", f"{tuned:,}", f"{part} of all blocks'"))
    study = facts.study
    spent = sum(each.seconds for each in study.evaluations) + sum(run.seconds for run in study.proposals)
    predicted = f", and {plural(len(study.proposals), 'prediction')}" if study.proposals else ""
    words = f"{plural(len(study.evaluations), 'training')}{predicted}"
    found.append(("time spent, processes added up", seconds(spent), words))
    first = min((each for each in map(_started, study.evaluations) if each), default="")
    if first:
        found.append(("begun", first[:10], f"{first[11:16]} UTC"))
    tiles = [
        tag("div", tag("dt", what), tag("dd", value, tag("small", more) if more else None))
        for what, value, more in filter(None, found)
    ]
    return tag("dl", *tiles, class_="tiles")


def _started(evaluation: Any) -> str:
    return moment(evaluation.info.get("started"))


def _score(facts: ReportFacts, what: str, blocks: Iterable[str]) -> tuple[str, str, str] | None:
    """Of a selection that was trained in full on every fold; a search that predicts trains on fewer."""
    spec, wanted = facts.study.spec, set(blocks)
    table = table_of(facts.study.evaluations)
    names = [block.name for block in spec.blocks if block.name in wanted]
    candidate = Candidate(tuple(names))
    folds = full_folds(table, candidate, spec.num_folds)
    if folds:
        spread = spread_of(folds)
        more = f"mean of {plural(spec.num_folds, 'fold')}"
        return what, metric(facts, score_of(folds)), more + ("" if spread is None else f", spread {number(spread)}")
    some = [unit for unit in table if unit.candidate == candidate and unit.repeat == 0]
    if not some:
        return None
    budget = max(unit.budget for unit in some)
    mine = [table[unit] for unit in some if unit.budget == budget]
    length = "" if budget >= 1 else f", {100 * budget:.0f} % of the steps"
    return what, metric(facts, score_of(mine)), f"on {len(mine)} of {plural(spec.num_folds, 'fold')}{length}"
