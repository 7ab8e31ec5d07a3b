"""
The finetuning profile as a table: what each block alone, or each of any other candidates, is worth.

Derived from records and nothing else. Scores are as the search maximises them; only the text shows a metric as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .records import Candidate, Evaluation, StudySpec, Unit
from .scores import averaged, deviation, paired_gain, score_of, spread_of, standard_error_of, table_of
from .space import HEAD_ONLY, UNTOUCHED, windows
from .tables import count, decimal, seconds, text_table, to_frame

if TYPE_CHECKING:
    import pandas

    from .proposed import ProposalRun

Repeats = tuple[tuple[Evaluation, ...], ...]


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
        seconds (`float`): Wall-clock time of all its folds and repeats together, in seconds.
        repeats (`int`): Trainings on each fold, with a seed each; scores are averaged fold by fold first of all.
        seed_spread (`float`, *optional*): Standard deviation of the score between repeats; None with a single one.
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
    repeats: int = 1
    seed_spread: float | None = None

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
        has_head (`bool`, *optional*, defaults to `True`):
            Whether the model has a head; `head_only` is the untouched base otherwise.
    """

    metric: str
    greater_is_better: bool
    num_folds: int
    head_only: ProfileRow | None
    rows: tuple[ProfileRow, ...]
    missing: tuple[Candidate, ...] = ()
    has_head: bool = True

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
                "repeats": row.repeats,
                "seed_spread": row.seed_spread,
            }
            for row in self.rows
        ]

    def to_pandas(self) -> pandas.DataFrame:
        """
        The profile as a data frame.

        Returns: `pandas.DataFrame`: one row a candidate.
        Raises: [`MissingDependencyError`]: If pandas is not installed.
        """
        return to_frame(self.to_rows())

    def table(self) -> str:
        """`str`: the profile as text, the head alone first, the metric as it is."""
        shown = self.rows if self.head_only is None else (self.head_only, *self.rows)
        repeated = any(row.repeats > 1 for row in shown)
        headings = ("block", self.metric, "spread", "gain", "s.e.", "parameters", "seconds", *["repeats"] * repeated)
        sign = 1 if self.greater_is_better else -1
        return text_table(
            headings,
            [
                (
                    row.label if row.candidate.blocks or self.has_head else UNTOUCHED,
                    decimal(sign * row.mean),
                    decimal(row.spread),
                    decimal(row.gain, sign=True) if row.candidate != HEAD_ONLY else "",
                    decimal(row.gain_standard_error) if row.candidate != HEAD_ONLY else "",
                    count(row.num_parameters),
                    seconds(row.seconds),
                    *[str(row.repeats)] * repeated,
                )
                for row in shown
            ],
        )


def predicted_profile(spec: StudySpec, run: ProposalRun) -> Profile:
    """
    What a search predicted of each block alone, in the form of a profile.

    Args:
        spec ([`StudySpec`]): The study.
        run ([`ProposalRun`]): What was predicted.

    Returns: [`Profile`]: scores are predicted ones, which have a scale of their own; the standard error of a block that
        was compared with the best one row by row is that of their difference. `missing` holds blocks that the search
        did not ask for alone.
    """
    head = run.predicted(HEAD_ONLY)
    sizes = {block.name: block.num_parameters for block in spec.blocks}
    rows, missing = [], []
    for candidate in (HEAD_ONLY, *windows(list(sizes))):
        found = run.predicted(candidate)
        if found is None:
            missing.append(candidate)
            continue
        rows.append(
            ProfileRow(
                candidate=candidate,
                mean=found.score,
                spread=None,
                standard_error=found.standard_error or (found.behind[1] if found.behind else None) or None,
                gain=None if head is None else found.score - head.score,
                gain_standard_error=None,
                num_parameters=sum(sizes[name] for name in candidate.blocks),
                trainable_parameters=0,
                seconds=0.0,
            )
        )
    alone = tuple(row for row in rows if row.candidate != HEAD_ONLY)
    first = next((row for row in rows if row.candidate == HEAD_ONLY), None)
    lacking = tuple(one for one in missing if one != HEAD_ONLY)
    return Profile("predicted score", True, 1, first, alone, lacking, spec.has_head)


def profile_of(
    spec: StudySpec, evaluations: Iterable[Evaluation], candidates: Sequence[Candidate] | None = None
) -> Profile:
    """
    Make a profile of what has been evaluated.

    Args:
        spec ([`StudySpec`]): The study.
        evaluations (`Iterable[Evaluation]`): Its evaluations, in any order; others than those asked for are left out.
        candidates (`Sequence[Candidate]`, *optional*): What to show, such as `pairs(...)`; by default each block alone.

    Returns: [`Profile`]: of the candidates that have all folds in full; the others are in `missing`. Of several repeats
        those count that have all folds.
    """
    if candidates is None:
        candidates = windows([block.name for block in spec.blocks])
    found = complete_repeats(spec, evaluations)
    complete = {wanted: found.get(wanted, ()) for wanted in (HEAD_ONLY, *candidates)}
    head = complete[HEAD_ONLY]
    return Profile(
        spec.metric,
        spec.greater_is_better,
        spec.num_folds,
        head_only=_row(spec, HEAD_ONLY, head, head) if head else None,
        rows=tuple(_row(spec, wanted, complete[wanted], head) for wanted in candidates if complete[wanted]),
        missing=tuple(wanted for wanted in candidates if not complete[wanted]),
        has_head=spec.has_head,
    )


def complete_repeats(spec: StudySpec, evaluations: Iterable[Evaluation]) -> dict[Candidate, Repeats]:
    """
    What is complete of a study.

    Args:
        spec ([`StudySpec`]): The study.
        evaluations (`Iterable[Evaluation]`): Its evaluations, in any order.

    Returns: `dict[Candidate, tuple[tuple[Evaluation, ...], ...]]`: the repeats that have all folds in full, each with
        its folds in order, of each candidate that has any.
    """
    table = table_of(evaluations)
    found: dict[Candidate, list[tuple[Evaluation, ...]]] = {}
    for candidate, repeat in sorted(dict.fromkeys((u.candidate, u.repeat) for u in table), key=lambda each: each[1]):
        units = [Unit(candidate, fold, repeat) for fold in range(spec.num_folds)]
        if all(unit in table for unit in units):
            found.setdefault(candidate, []).append(tuple(table[unit] for unit in units))
    return {candidate: tuple(repeats) for candidate, repeats in found.items()}


def fold_means(repeats: Repeats) -> tuple[Evaluation, ...]:
    """One evaluation for each fold, the mean of its repeats."""
    return tuple(averaged(fold) for fold in zip(*repeats, strict=True))


def _row(spec: StudySpec, candidate: Candidate, repeats: Repeats, head: Repeats) -> ProfileRow:
    evaluations = fold_means(repeats)
    gain, gain_error = paired_gain(fold_means(head), evaluations) if head else (None, None)
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
        repeats=len(repeats),
        seed_spread=deviation([score_of(each) for each in repeats]),
    )
