"""
The story of a search in Markdown: what was asked, every step with its spread, what was predicted, and the cost.

Derived from records of the search and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..search.journal import Study
from ..search.predictions import adds_nothing, behind
from ..search.records import Round
from ..search.result import LadderRow, SearchResult, ladder
from ..search.space import UNTOUCHED
from .markdown import code, number, plural, table, text

# Of the predictions that were not followed by a training, so many are shown.
_MOST_SHOWN = 8
_KINDS = {
    "forward": "A greedy search: in each round the block that helps most is added to those chosen before, until none "
    "is worth adding.",
    "backward": "A greedy search backward: from all blocks, in each round the one that is missed least is removed.",
    "list": "Listed selections of blocks were compared, and the best was taken.",
}
_CHANGES = {"forward": "block added", "backward": "block removed", "list": "chosen"}


def story(result: SearchResult, study: Study | None, pictures: str = "") -> list[str]:
    """
    Paragraphs that tell how the blocks were found.

    Args:
        result ([`SearchResult`]): The search.
        study ([`~search.journal.Study`], *optional*): Its journal.
        pictures (`str`, *optional*): In Markdown, put before the tables.

    Returns: `list[str]`
    """
    found = [f"{_kind(result)} {_scores(result, study)}", *filter(None, [pictures])]
    if result.proposal is not None:
        found += [_predictions(result), _predicted_words(result)]
    else:
        for part in result.parts or (result.rounds,):
            found += [f"### {part[0].direction.capitalize()}"] * bool(result.parts)
            found.append(_steps(result, part))
    found.append(f"How it ended: {text(result.reason)}")
    if result.serving_words:
        found.append(text(result.serving_words))
    return [*found, _cost(result)]


def _kind(result: SearchResult) -> str:
    if result.proposal is not None:
        strategy = code(result.proposal.search.strategy)
        then = ", then the best predicted few were trained and compared" if result.proposal.units else ""
        return f"A search that predicts (strategy {strategy}): the score of selections was predicted cheaply{then}."
    if result.parts:
        return "Two greedy searches, one adding blocks and one removing them; the better result was taken."
    return _KINDS[result.rounds[0].direction]


def _scores(result: SearchResult, study: Study | None) -> str:
    name = code(result.metric)
    better = "higher" if result.greater_is_better else "lower"
    folds = 0 if study is None else study.spec.num_folds
    if folds == 1:
        return f"Scores are {name} ({better} is better) on one set of validation rows, kept out of the training."
    of = f"{folds} folds" if folds else "folds"
    return f"Scores are {name} ({better} is better) on rows left out in turn: {of} of the training rows."


# --- exact ----------------------------------------------------------------------------------
def _steps(result: SearchResult, rounds: Sequence[Round]) -> str:
    sign = 1 if result.greater_is_better else -1
    rows = ladder(rounds, result.serving)
    pruned = any(row.num_pruned for row in rows)
    change = _CHANGES[rounds[0].direction]
    headings = ["round", change, code(result.metric), "spread over folds", "gain ± s.e.", "trained parameters"]
    headings += ["candidates", "given up", "trainings", "seconds", "latency"]
    cells = [
        [
            str(row.round),
            _label(row, result.has_head),
            number(sign * row.mean),
            "" if row.spread is None else number(row.spread),
            _gain(row),
            f"{row.trainable_parameters:,}" if row.trainable_parameters else "",
            f"{row.num_candidates:,}",
            f"{row.num_pruned:,}" if pruned else "",
            f"{row.num_evaluations:,}",
            f"{row.seconds:,.1f}" if row.seconds else "",
            "" if row.added_latency is None else f"+{row.added_latency:.2f}",
        ]
        for row in rows
    ]
    notes = ["Each row is the best candidate of its round."]
    if not all(row.added for row in rows):
        notes.append("*In italics*: the step that was not worth taking.")
    if any(row.gain is not None for row in rows):
        notes.append("A gain is over the row before on the same folds, positive where it is better.")
    return f"{table(headings, cells, left=2)}\n\n{' '.join(notes)}"


def _label(row: LadderRow, has_head: bool) -> str:
    if row.block is None:
        return text(row.named(has_head))
    names = " + ".join(code(name) for name in row.block.split(" + "))
    return names if row.added else f"*{names}*"


def _gain(row: LadderRow) -> str:
    if row.gain is None:
        return ""
    error = "" if row.standard_error is None else f" ± {number(row.standard_error)}"
    return f"{'+' if row.gain > 0 else ''}{number(row.gain)}{error}"


# --- predicted ------------------------------------------------------------------------------
def _predictions(result: SearchResult) -> str:
    sign = 1 if result.greater_is_better else -1
    rows = result.to_rows()
    # A selection that is predicted like a part of it says nothing more.
    telling = [row for row in rows if row["num_evaluations"] or not adds_nothing(row, rows)]
    shown = [row for place, row in enumerate(telling) if row["num_evaluations"] or place < _MOST_SHOWN]
    compared = any(row["behind"] is not None for row in shown)
    cells = [
        [
            " + ".join(map(code, row["blocks"])) or ("head only" if result.has_head else UNTOUCHED),
            number(row["predicted"]),
            *[behind(row)] * compared,
            "" if row["measured"] is None else number(sign * row["measured"]),
            "" if row["trainable_parameters"] is None else f"{row['trainable_parameters']:,}",
            f"{row['num_evaluations']:,}" if row["num_evaluations"] else "",
            f"{row['seconds']:,.1f}" if row["num_evaluations"] else "",
        ]
        for row in shown
    ]
    headings = ["selection", "predicted", *["behind ± s.e."] * compared, f"{code(result.metric)}, trained"]
    left = len(rows) - len(shown)
    more = f"\n\n... and {left:,} more, predicted to be no better and not trained." if left else ""
    return table([*headings, "trained parameters", "trainings", "seconds"], cells) + more


def _predicted_words(result: SearchResult) -> str:
    run = result.proposal
    assert run is not None
    folds = f"fold{'s' * (len(run.folds) > 1)} {', '.join(str(fold) for fold in sorted(run.folds))}"
    length = f" with {100 * run.share:.0f} % of the steps" if run.share < 1 else ""
    trained = (
        f" The shortlist of {len(run.shortlist)} was trained{length} on {folds} (counted from 0)."
        if run.folds
        else " One selection was left, so nothing had to be trained to decide."
    )
    return f"Predictions have a scale of their own: they order selections, and are no estimate of a score.{trained}"


# --- cost and cautions ----------------------------------------------------------------------
def _cost(result: SearchResult) -> str:
    cost, run = result.cost, result.proposal
    made = f"{plural(cost.num_evaluations, 'training')} of {cost.seconds:,.1f} s in all"
    if cost.full_trainings != cost.num_evaluations:
        made += f", as long as {cost.full_trainings:.2f} full ones"
    if run is None:
        return f"Cost of the search: {made}, processes added up."
    then = f", then {made}" if run.units else ""
    return (
        f"Cost of the search: predictions in {run.seconds:,.1f} s{then}. In arithmetic it was planned at "
        f"{run.planned:.2f} full fine-tunes, {run.fine_tunes:.2f} of them to predict."
    )


def cautions(result: SearchResult, study: Study | None) -> list[str]:
    """
    What the scores of this search do not say.

    Args:
        result ([`SearchResult`]): The search.
        study ([`~search.journal.Study`], *optional*): Its journal.

    Returns: `list[str]`: sentences.
    """
    folds = 0 if study is None else study.spec.num_folds
    on = "validation rows" if folds == 1 else "folds of the training rows"
    found = [
        f"The scores of the search are on {on} and chose the blocks, so the best of them is optimistic; they are no "
        "test scores."
    ]
    if result.proposal is not None and result.cost.full_trainings < result.cost.num_evaluations:
        found.append("Candidates of the search were trained for a part of the steps: their scores are for comparison.")
    if not result.blocks:
        found.append("The search found no block that is worth training on these rows.")
    return found
