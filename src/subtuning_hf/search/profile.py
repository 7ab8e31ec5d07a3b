"""
The finetuning profile as a table: what each block alone, or each of any other candidates, is worth.

Derived from records and nothing else. Scores are as the search maximises them; only the text shows a metric as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .greedy import paired_gain, score_of, spread_of, standard_error_of
from .records import Candidate, Evaluation, StudySpec
from .space import HEAD_ONLY, windows
from .tables import count, decimal, seconds, text_table


@dataclass(frozen=True)
class ProfileRow:
    """
    What one candidate is worth.

    Args:
        candidate ([`Candidate`]): What was trained.
        mean (`float`): Its score, maximised: the size-weighted mean over folds.
        spread (`float`, *optional*): Standard deviation of the score between folds; None with a single fold.
        standard_error (`float`, *optional*): Of `mean`; None with a single fold.
        gain (`float`, *optional*): Gain over the head alone on the same folds; None while the head lacks a fold.
        gain_standard_error (`float`, *optional*): Of `gain`; None with a single fold.
        num_parameters (`int`): Parameters of its blocks, without the head.
        trainable_parameters (`int`): All that was trained, head included.
        seconds (`float`): Wall-clock time of all its folds together, in seconds.
    """

    candidate: Candidate
    mean: float
    spread: float | None
    standard_error: float | None
    gain: float | None
    gain_standard_error: float | None
    num_parameters: int
    trainable_parameters: int
    seconds: float

    @property
    def label(self) -> str:
        """The candidate in words; for one block, its name."""
        return self.candidate.label


@dataclass(frozen=True)
class Profile:
    """
    The scores of some candidates, each complete over all folds.

    Args:
        metric (`str`): Name of the metric behind the score.
        greater_is_better (`bool`): Whether the metric itself is better when greater; if not, scores are its negative.
        num_folds (`int`): Number of folds.
        head_only ([`ProfileRow`], *optional*): The head alone; None while it lacks a fold.
        rows (`tuple[ProfileRow, ...]`): The candidates in the order they were asked for, by default in forward order.
        missing (`tuple[Candidate, ...]`): Candidates asked for that lack a fold.
    """

    metric: str
    greater_is_better: bool
    num_folds: int
    head_only: ProfileRow | None
    rows: tuple[ProfileRow, ...]
    missing: tuple[Candidate, ...] = ()

    def to_rows(self) -> list[dict[str, Any]]:
        """`list[dict]`: one flat row a candidate, for `pandas.DataFrame(...)` or JSON."""
        return [
            {
                "block": row.label,
                "mean": row.mean,
                "spread": row.spread,
                "standard_error": row.standard_error,
                "gain": row.gain,
                "gain_standard_error": row.gain_standard_error,
                "num_parameters": row.num_parameters,
                "trainable_parameters": row.trainable_parameters,
                "seconds": row.seconds,
            }
            for row in self.rows
        ]

    def table(self) -> str:
        """`str`: the profile as text, the head alone first, the metric as it is."""
        headings = ("block", self.metric, "spread", "gain", "s.e.", "parameters", "seconds")
        shown = self.rows if self.head_only is None else (self.head_only, *self.rows)
        sign = 1 if self.greater_is_better else -1
        return text_table(
            headings,
            [
                (
                    row.label,
                    decimal(sign * row.mean),
                    decimal(row.spread),
                    decimal(row.gain, sign=True) if row.candidate != HEAD_ONLY else "",
                    decimal(row.gain_standard_error) if row.candidate != HEAD_ONLY else "",
                    count(row.num_parameters),
                    seconds(row.seconds),
                )
                for row in shown
            ],
        )


def profile_of(
    spec: StudySpec, evaluations: Iterable[Evaluation], candidates: Sequence[Candidate] | None = None
) -> Profile:
    """
    Make a profile of what has been evaluated.

    Args:
        spec ([`StudySpec`]): The study.
        evaluations (`Iterable[Evaluation]`): Its evaluations, in any order; others than those asked for are left out.
        candidates (`Sequence[Candidate]`, *optional*): What to show, such as `pairs(...)`; by default each block alone.

    Returns: [`Profile`]: of the candidates that have all folds; the others are in `missing`.
    """
    if candidates is None:
        candidates = windows([block.name for block in spec.blocks])
    found: dict[Candidate, dict[int, Evaluation]] = {}
    for evaluation in evaluations:
        if evaluation.fold < spec.num_folds:
            found.setdefault(evaluation.candidate, {}).setdefault(evaluation.fold, evaluation)
    complete = {
        candidate: tuple(folds[fold] for fold in range(spec.num_folds))
        for candidate, folds in found.items()
        if len(folds) == spec.num_folds
    }
    head = complete.get(HEAD_ONLY, ())
    return Profile(
        spec.metric,
        spec.greater_is_better,
        spec.num_folds,
        head_only=_row(spec, HEAD_ONLY, head, head) if head else None,
        rows=tuple(_row(spec, wanted, complete[wanted], head) for wanted in candidates if wanted in complete),
        missing=tuple(wanted for wanted in candidates if wanted not in complete),
    )


def _row(
    spec: StudySpec, candidate: Candidate, evaluations: tuple[Evaluation, ...], head: tuple[Evaluation, ...]
) -> ProfileRow:
    gain, gain_error = paired_gain(head, evaluations) if head else (None, None)
    scores = [evaluation.score for evaluation in evaluations]
    sizes = [evaluation.num_examples for evaluation in evaluations]
    parameters = {block.name: block.num_parameters for block in spec.blocks}
    return ProfileRow(
        candidate,
        mean=score_of(evaluations),
        spread=spread_of(evaluations),
        standard_error=standard_error_of(scores, sizes),
        gain=gain,
        gain_standard_error=gain_error,
        num_parameters=sum(parameters[name] for name in candidate.blocks),
        trainable_parameters=max(evaluation.trainable_parameters for evaluation in evaluations),
        seconds=sum(evaluation.seconds for evaluation in evaluations),
    )
