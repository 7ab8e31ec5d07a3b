"""
Greedy forward choice of blocks, as pure functions of records.

[`replay`] turns any collection of evaluations into the state of the search: the rounds so far, what is chosen, what is
to be evaluated next. Whoever runs a search evaluates what is pending, keeps the records, and replays; so a search that
was killed, or that shares its records with others, is no special case. Knows neither journal nor training.

Scores are floats, and the same mean added up in another way differs in its last bits. So that these never decide,
two scores that differ by less than [`RELATIVE_TIE`] of the larger are equal throughout: as a tie between candidates, as
a gain of exactly zero, and as a gain that exactly meets a threshold.

Source: SubTuning, arXiv 2302.06354, Algorithm 1; differs in the stop rule, which by default asks a gain to exceed its
standard error since the best of many gains is biased upward, and in scores that are paired over the same folds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import ArgumentsError, IncompleteRoundError
from .records import Candidate, Decision, Evaluation, Round, SearchSpec, StudySpec
from .space import HEAD_ONLY, add_one

RELATIVE_TIE = 1e-12
Table = Mapping[tuple[Candidate, int], Evaluation]


@dataclass(frozen=True)
class SearchState:
    """
    Where a search stands.

    Args:
        rounds (`tuple[Round, ...]`): All rounds begun; the last one has no decision while evaluations are missing.
        selection ([`Candidate`]): What is chosen so far.
        pending (`tuple[tuple[Candidate, int], ...]`):
            Candidates and folds to evaluate for the next decision, in a fixed order: candidate by candidate.
        finished (`bool`): Whether there is nothing left to decide.
        reason (`str`, *optional*): Why the search is finished, in words.
    """

    rounds: tuple[Round, ...]
    selection: Candidate
    pending: tuple[tuple[Candidate, int], ...]
    finished: bool
    reason: str | None = None


# --- scores ----------------------------------------------------------------------------------
def same_score(one: float, other: float) -> bool:
    """Whether two scores are equal but for the last bits, which depend on the order of summation."""
    return abs(one - other) <= RELATIVE_TIE * max(abs(one), abs(other))


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
    scores = [evaluation.score for evaluation in _by_fold(evaluations).values()]
    if len(scores) < 2:
        return None
    mean = math.fsum(scores) / len(scores)
    return math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / (len(scores) - 1))


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
    if len(found) < len(ordered) or len({evaluation.candidate for evaluation in ordered}) > 1:
        keys = [(evaluation.candidate.label, evaluation.fold) for evaluation in ordered]
        raise ArgumentsError(f"A score is of one candidate and counts each fold once, found {keys}.")
    return found


# --- decisions -------------------------------------------------------------------------------
def pick_winner(round_: Round) -> Candidate:
    """
    The best candidate of a round, whether or not it is worth its place.

    Ties go to the last candidate, which is the one that adds the block nearest the head: it is the cheapest to train.

    Args:
        round_ ([`Round`]): Round whose evaluations are complete.

    Returns: [`Candidate`]
    Raises: [`IncompleteRoundError`]: If a candidate lacks a fold that another one has, or there is no candidate.
    """
    if not round_.candidates:
        raise IncompleteRoundError(f"Round {round_.index} cannot be decided: it has no candidate.")
    found: dict[Candidate, list[Evaluation]] = {candidate: [] for candidate in round_.candidates}
    for evaluation in round_.evaluations:
        found[evaluation.candidate].append(evaluation)
    folds = {evaluation.fold for evaluation in round_.evaluations}
    for candidate, evaluations in found.items():
        missing = sorted(folds - {evaluation.fold for evaluation in evaluations})
        if missing or not evaluations:
            raise IncompleteRoundError(
                f"Round {round_.index} cannot be decided: {candidate.label} was not evaluated on "
                f"{f'the folds {missing}' if missing else 'any fold'}. Evaluate what `replay(...).pending` names first."
            )
    scores = {candidate: score_of(evaluations) for candidate, evaluations in found.items()}
    best = max(scores.values())
    return [candidate for candidate, score in scores.items() if same_score(score, best)][-1]


def should_stop(gain: float, standard_error: float | None, search: SearchSpec, scale: float = 1.0) -> bool:
    """
    Whether the best candidate's gain is too small to go on.

    Args:
        gain (`float`): Gain in score over the selection before.
        standard_error (`float`, *optional*): Of that gain; `None` with a single fold.
        search ([`SearchSpec`]): Its `min_gain` must be reached; without one the gain must exceed its standard error,
            or with a single fold 0.
        scale (`float`, *optional*, defaults to 1.0): Size of the scores the gain is the difference of.

    Returns: `bool`
    """
    slack = RELATIVE_TIE * max(abs(scale), abs(gain))
    margin = gain - threshold_of(standard_error, search)
    return margin < -slack if search.min_gain is not None else margin <= slack


def threshold_of(standard_error: float | None, search: SearchSpec) -> float:
    """What a gain is compared with: `min_gain`, else its standard error, else 0."""
    if search.min_gain is not None:
        return search.min_gain
    return 0.0 if standard_error is None else standard_error


def decide(round_: Round, before: Iterable[Evaluation], search: SearchSpec) -> Decision:
    """
    End a round.

    Args:
        round_ ([`Round`]): Round whose evaluations are complete.
        before (`Iterable[Evaluation]`): Evaluations of the selection before; not used in round 0.
        search ([`SearchSpec`]): Holds the stop rule.

    Returns: [`Decision`]: without a winner if the search stops here.
    Raises: [`IncompleteRoundError`]: If evaluations are missing.
    """
    best = pick_winner(round_)
    score = score_of(round_.of(best))
    if round_.index == 0:
        return Decision(0, best, None, None, None, f"Start: the head alone scores {score:.6g}.")
    before = tuple(before)
    gain, error = paired_gain(before, round_.of(best))
    threshold = threshold_of(error, search)
    stop = should_stop(gain, error, search, scale=max(abs(score), abs(score_of(before))))
    added = [name for name in best.blocks if name not in round_.selection.blocks]
    compared = _compared(gain, error, search, stop)
    if not stop:
        return Decision(round_.index, best, gain, error, threshold, f"{' + '.join(added)} is added: {compared}.")
    verdict = "No further block is worth it" if round_.selection.blocks else "No block is worth it"
    reason = f"{verdict}: the best, {' + '.join(added)}, {compared}."
    return Decision(round_.index, None, gain, error, threshold, reason)


def _compared(gain: float, standard_error: float | None, search: SearchSpec, stop: bool) -> str:
    """A gain and what it was compared with, in words."""
    words = f"gains {gain:.6g}"
    if search.min_gain is not None:
        return f"{words}, {'less than' if stop else 'at least'} min_gain ({search.min_gain:.6g})"
    verb = "does not exceed" if stop else "exceeds"
    if standard_error is None:
        return f"{words}, which {verb} 0 (a single fold has no standard error)"
    return f"{words}, which {verb} one standard error ({standard_error:.6g})"


# --- replay ----------------------------------------------------------------------------------
def replay(spec: StudySpec, search: SearchSpec, evaluations: Iterable[Evaluation]) -> SearchState:
    """
    Derive where a search stands from what has been evaluated.

    The order of evaluations does not matter, and those that the search never asks for (pairs of a profile, another
    search of the study) are left out. Of two evaluations of one candidate on one fold the first counts.

    Args:
        spec ([`StudySpec`]): Blocks and folds.
        search ([`SearchSpec`]): Stop rule and bounds.
        evaluations (`Iterable[Evaluation]`): What is known so far, from any number of searches of the study.

    Returns: [`SearchState`]
    """
    table: dict[tuple[Candidate, int], Evaluation] = {}
    for evaluation in evaluations:
        table.setdefault((evaluation.candidate, evaluation.fold), evaluation)
    blocks = tuple(block.name for block in spec.blocks)
    rounds: list[Round] = []
    selection = HEAD_ONLY
    before: tuple[Evaluation, ...] = ()
    while True:
        reason = _out_of_bounds(blocks, selection, search) if rounds else None
        if reason is not None:
            return SearchState(tuple(rounds), selection, (), True, reason)
        candidates = add_one(blocks, selection) if rounds else (HEAD_ONLY,)
        round_, pending = _begin(len(rounds), selection, candidates, spec.num_folds, table)
        if pending:
            return SearchState((*rounds, round_), selection, pending, False)
        decision = decide(round_, before, search)
        rounds.append(Round(round_.index, selection, candidates, round_.evaluations, decision))
        if decision.winner is None:
            return SearchState(tuple(rounds), selection, (), True, decision.reason)
        selection, before = decision.winner, round_.of(decision.winner)


def _begin(
    index: int, selection: Candidate, candidates: tuple[Candidate, ...], num_folds: int, table: Table
) -> tuple[Round, tuple[tuple[Candidate, int], ...]]:
    """A round with what is known of it, and what is not."""
    work = [(candidate, fold) for candidate in candidates for fold in range(num_folds)]
    known = tuple(table[unit] for unit in work if unit in table)
    return Round(index, selection, candidates, known), tuple(unit for unit in work if unit not in table)


def _out_of_bounds(blocks: Sequence[str], selection: Candidate, search: SearchSpec) -> str | None:
    """Why no round may follow, whatever its scores would be."""
    count = len(selection.blocks)
    if count == len(blocks):
        return f"All {count} blocks are chosen."
    if search.max_blocks is not None and count >= search.max_blocks:
        return f"The bound max_blocks={search.max_blocks} is reached."
    return None
