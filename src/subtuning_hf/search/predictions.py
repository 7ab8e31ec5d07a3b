"""
What a search that predicts found, as rows and as text: what was predicted, what was measured, and what it cost.

Derived from records and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .proposed import ProposalRun
from .records import Evaluation
from .scores import score_of
from .space import UNTOUCHED
from .tables import count, decimal, seconds, text_table

if TYPE_CHECKING:
    from .result import SearchResult

# Of the predictions that were not followed by a training, so many are shown.
_MOST_SHOWN = 12
_HEADINGS = ("selection", "predicted", "trainable", "trainings", "seconds")


def prediction_rows(run: ProposalRun, trained: Iterable[Evaluation]) -> list[dict[str, Any]]:
    """
    One row for each selection that was predicted.

    Args:
        run ([`ProposalRun`]): What was predicted.
        trained (`Iterable[Evaluation]`): The trainings that followed.

    Returns: `list[dict]`: best predicted first. `blocks`; `predicted` and `standard_error`, on the proposal's own
        scale; `behind` and `behind_error`, how far it is behind what is predicted best, row by row, and the standard
        error of that, `None` where the two were not compared so; `measured`, a score, and `trainable_parameters`,
        `num_evaluations` and `seconds` of the trainings, `None` or 0 for selections that were not trained.
    """
    trained = tuple(trained)
    rows = []
    for each in run.predictions:
        mine = [evaluation for evaluation in trained if evaluation.candidate == each.candidate]
        rows.append(
            {
                "blocks": list(each.candidate.blocks),
                "predicted": each.score,
                "standard_error": each.standard_error,
                "behind": None if each.behind is None else each.behind[0],
                "behind_error": None if each.behind is None else each.behind[1],
                "measured": score_of(mine) if mine else None,
                "trainable_parameters": max((one.trainable_parameters for one in mine), default=None),
                "num_evaluations": len(mine),
                "seconds": sum(one.seconds for one in mine),
            }
        )
    return rows


def prediction_table(result: SearchResult) -> str:
    """`str`: the same as text, with what came out."""
    run = result.proposal
    assert run is not None
    serving = result.serving
    sign = 1 if result.greater_is_better else -1
    rows = prediction_rows(run, result.confirmations)
    # A larger selection of which a part is predicted to be as good says nothing.
    telling = [row for row in rows if row["num_evaluations"] or not adds_nothing(row, rows)]
    shown = [row for place, row in enumerate(telling) if row["num_evaluations"] or place < _MOST_SHOWN]
    measured = bool(run.units)  # else nothing was to be trained, and those columns would be empty
    compared = any(row["behind"] is not None for row in shown)
    headings = [*_HEADINGS[:2], *["behind"] * compared, *[result.metric, *_HEADINGS[2:]] * measured]
    lines = [
        text_table(
            [*headings, *["latency"] * (serving is not None)],
            [
                [
                    " + ".join(row["blocks"]) or ("head only" if result.has_head else UNTOUCHED),
                    decimal(row["predicted"]),
                    *[behind(row)] * compared,
                    *_measured(row, sign) * measured,
                    *([] if serving is None else [f"+{serving.relative(row['blocks']):.2f}"]),
                ]
                for row in shown
            ],
            left=1,
        )
    ]
    if len(shown) < len(rows):
        lines.append(f"... and {len(rows) - len(shown)} more, predicted to be no better and not trained.")
    lines += [
        f"\n{result.reason}",
        *filter(None, [result.serving_words]),
        f"Predicted in {seconds(run.seconds)} s, then {_trainings(result, run)}; in arithmetic {run.planned:.2f} full "
        f"fine-tunes, {run.fine_tunes:.2f} of them to predict. Predictions have a scale of their own.",
        f"Chosen: {result.chosen_words}.",
    ]
    return "\n".join(lines)


def behind(row: dict[str, Any]) -> str:
    """
    How far a selection is behind what is predicted best, with the standard error; empty where that is not known.

    Args:
        row (`dict`): Of [`prediction_rows`].
    """
    if row["behind"] is None or (row["behind"], row["behind_error"]) == (0.0, 0.0):
        return ""
    return f"{row['behind']:.2g} ± {row['behind_error']:.2g}"


def _measured(row: dict[str, Any], sign: int) -> list[str]:
    """Cells of what was trained."""
    if not row["num_evaluations"]:
        return [""] * 4
    score, parameters = row["measured"], row["trainable_parameters"]
    return [
        decimal(None if score is None else sign * score),
        "" if parameters is None else count(parameters),
        count(row["num_evaluations"]),
        seconds(row["seconds"]),
    ]


def adds_nothing(row: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
    """
    Whether a part of a selection of several blocks is predicted to be as good.

    Args:
        row (`dict`), rows (`list[dict]`): Of [`prediction_rows`].
    """
    blocks = set(row["blocks"])
    parts = [other for other in rows if set(other["blocks"]) < blocks]
    return len(blocks) > 1 and any(part["predicted"] >= row["predicted"] for part in parts)


def _trainings(result: SearchResult, run: ProposalRun) -> str:
    if not result.cost.num_evaluations:
        return "no training"
    length = f" with {100 * run.share:.0f} % of the steps" if run.share < 1 else ""
    return f"{result.cost.num_evaluations} trainings{length} in {seconds(result.cost.seconds)} s"
