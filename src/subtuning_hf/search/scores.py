"""
Scores and gains: means over folds, their errors, and when two of them are equal.

Scores are floats, and the same mean added up in another way differs in its last bits. So that these never decide,
two scores that differ by less than [`RELATIVE_TIE`] of the larger are equal throughout: as a tie between candidates, as
a gain of exactly zero, and as a gain that exactly meets a threshold.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ..errors import ArgumentsError, IncompleteRoundError
from .records import Candidate, Evaluation, Unit

RELATIVE_TIE = 1e-12
Table = Mapping[Unit, Evaluation]


def table_of(evaluations: Iterable[Evaluation]) -> dict[Unit, Evaluation]:
    """Evaluations by their units; of two evaluations of one unit the first counts."""
    table: dict[Unit, Evaluation] = {}
    for evaluation in evaluations:
        table.setdefault(evaluation.unit, evaluation)
    return table


def full_folds(table: Table, candidate: Candidate, num_folds: int) -> tuple[Evaluation, ...]:
    """All folds of a candidate in full, those of a search; `()` if one is missing."""
    units = [Unit(candidate, fold) for fold in range(num_folds)]
    return tuple(table[unit] for unit in units) if all(unit in table for unit in units) else ()


def same_score(one: float, other: float) -> bool:
    """Whether two scores are equal but for the last bits, which depend on the order of summation."""
    return abs(one - other) <= RELATIVE_TIE * max(abs(one), abs(other))


def best_of(scores: Mapping[Candidate, float]) -> Candidate:
    """The candidate with the best score; ties go to the last."""
    best = max(scores.values())
    return [candidate for candidate, score in scores.items() if same_score(score, best)][-1]


def score_of(evaluations: Iterable[Evaluation]) -> float:
    """
    Score of one candidate: the mean over folds, weighted by their sizes.

    Args:
        evaluations (`Iterable[Evaluation]`): One for each fold, in any order.

    Returns: `float`: `sum(score * num_examples) / sum(num_examples)`, each sum rounded once.
    Raises:
        [`IncompleteRoundError`]: Without an evaluation.
        [`ArgumentsError`]: If two evaluations are of one fold, or of two candidates.
    """
    folds = _by_fold(evaluations)
    if not folds:
        raise IncompleteRoundError("The score of a candidate needs at least one evaluation, found none.")
    rows = sum(evaluation.num_examples for evaluation in folds.values())
    return math.fsum(evaluation.score * evaluation.num_examples for evaluation in folds.values()) / rows


def spread_of(evaluations: Iterable[Evaluation]) -> float | None:
    """
    Standard deviation of a candidate's score between folds, each counted once.

    Args:
        evaluations (`Iterable[Evaluation]`): One for each fold, in any order.

    Returns: `float` or `None`: `None` for fewer than 2 folds.
    """
    return deviation([evaluation.score for evaluation in _by_fold(evaluations).values()])


def deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation; `None` for fewer than 2 values."""
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def standard_error_of(values: Sequence[float], weights: Sequence[float]) -> float | None:
    """
    Standard error of a weighted mean of values whose variance is inverse to their weight, as of folds of these sizes.

    Args:
        values (`Sequence[float]`): One value for each fold.
        weights (`Sequence[float]`): Sizes of the folds.

    Returns: `float` or `None`:
        `sqrt(sum(w * (v - mean)**2) / (k - 1))` with weights that add up to 1, which for equal sizes is the standard
        deviation over `sqrt(k)`; `None` for fewer than 2 values.
    """
    if len(values) < 2:
        return None
    total = math.fsum(weights)
    mean = math.fsum(value * weight for value, weight in zip(values, weights, strict=True)) / total
    squares = (weight * (value - mean) ** 2 for value, weight in zip(values, weights, strict=True))
    return math.sqrt(math.fsum(squares) / total / (len(values) - 1))


def paired_gain(before: Iterable[Evaluation], after: Iterable[Evaluation]) -> tuple[float, float | None]:
    """
    Gain of one candidate over another on the same folds.

    Args:
        before (`Iterable[Evaluation]`): Evaluations of the selection as it is.
        after (`Iterable[Evaluation]`): Evaluations of the candidate.

    Returns: `tuple[float, float | None]`: size-weighted mean of the differences, and its standard error (`None` with a
        single fold).
    Raises:
        [`IncompleteRoundError`]: If the two were not evaluated on the same folds.
        [`ArgumentsError`]: If a fold has another size in one than in the other.
    """
    old, new = _by_fold(before), _by_fold(after)
    if not old or old.keys() != new.keys():
        raise IncompleteRoundError(f"A gain needs the same folds on both sides, found {list(old)} and {list(new)}.")
    differences, sizes = [], []
    for fold, evaluation in new.items():
        if evaluation.num_examples != old[fold].num_examples:
            raise ArgumentsError(
                f"A fold must have the same rows for every candidate, but fold {fold} has {old[fold].num_examples} for "
                f"{old[fold].candidate.label} and {evaluation.num_examples} for {evaluation.candidate.label}."
            )
        differences.append(evaluation.score - old[fold].score)
        sizes.append(evaluation.num_examples)
    scores = score_of(old.values()), score_of(new.values())
    if same_score(*scores):
        mean = 0.0
    else:
        mean = math.fsum(value * size for value, size in zip(differences, sizes, strict=True)) / sum(sizes)
    error = standard_error_of(differences, sizes)
    if error is not None and error <= RELATIVE_TIE * max(map(abs, scores)):
        error = 0.0  # every fold gains the same but for the last bits
    return mean, error


def _by_fold(evaluations: Iterable[Evaluation]) -> dict[int, Evaluation]:
    """Evaluations of one candidate in fold order."""
    ordered = sorted(evaluations, key=lambda evaluation: evaluation.fold)
    found = {evaluation.fold: evaluation for evaluation in ordered}
    if len(found) < len(ordered) or len({(evaluation.candidate, evaluation.budget) for evaluation in ordered}) > 1:
        keys = [(evaluation.candidate.label, *evaluation.unit[1:]) for evaluation in ordered]
        raise ArgumentsError(f"A score is of one candidate and counts each fold once, found {keys}.")
    return found


def averaged(evaluations: Iterable[Evaluation]) -> Evaluation:
    """
    One evaluation for several repeats of one fold: the mean of their scores.

    Args:
        evaluations (`Iterable[Evaluation]`): Repeats of one candidate on one fold, in any order.

    Returns: [`Evaluation`]: the first repeat with the mean score, and the seconds of all.
    Raises:
        [`IncompleteRoundError`]: Without an evaluation.
        [`ArgumentsError`]: If they are of two candidates or folds, or of different rows.
    """
    ordered = sorted(evaluations, key=lambda evaluation: evaluation.repeat)
    if not ordered:
        raise IncompleteRoundError("The mean of repeats needs at least one evaluation, found none.")
    first = ordered[0]
    if {(each.candidate, each.fold, each.num_examples) for each in ordered} != {
        (first.candidate, first.fold, first.num_examples)
    }:
        found = [(each.candidate.label, each.fold, each.num_examples) for each in ordered]
        raise ArgumentsError(f"Repeats must be of one candidate on one fold and the same rows, found {found}.")
    return replace(
        first,
        score=math.fsum(each.score for each in ordered) / len(ordered),
        seconds=math.fsum(each.seconds for each in ordered),
    )
