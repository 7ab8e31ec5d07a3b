"""
What ends a round: the best candidate, and whether it is worth its place.

Pure functions of rounds. Knows no order of rounds; that is `greedy`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..errors import IncompleteRoundError
from .records import Candidate, Decision, Evaluation, Round, SearchSpec
from .scores import RELATIVE_TIE, best_of, paired_gain, same_score, score_of

Scored = tuple[Evaluation, ...]


def pick_winner(round_: Round) -> Candidate:
    """
    The best candidate of a round, whether or not it is worth its place.

    Ties go to the last candidate (see [`Round`]): where a block is added, the one that adds the block nearest the
    head, which is the cheapest to train. Candidates that were given up and reduced budgets do not count.

    Args:
        round_ ([`Round`]): Round whose evaluations are complete.

    Returns: [`Candidate`]
    Raises: [`IncompleteRoundError`]: If a candidate lacks a fold that another one has, or there is no candidate.
    """
    found = {candidate: round_.of(candidate) for candidate in round_.survivors}
    if not found:
        raise IncompleteRoundError(f"Round {round_.index} cannot be decided: it has no candidate.")
    folds = {evaluation.fold for evaluations in found.values() for evaluation in evaluations}
    for candidate, evaluations in found.items():
        missing = sorted(folds - {evaluation.fold for evaluation in evaluations})
        if missing or not evaluations:
            raise IncompleteRoundError(
                f"Round {round_.index} cannot be decided: {candidate.label} was not evaluated on "
                f"{f'the folds {missing}' if missing else 'any fold'}. Evaluate what `replay(...).pending` names first."
            )
    return best_of({candidate: score_of(evaluations) for candidate, evaluations in found.items()})


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


def start(round_: Round, words: str) -> Decision:
    """End round 0, which has nothing to compare; `words` say what scores."""
    best = pick_winner(round_)
    reason = f"Start: {words} {score_of(round_.of(best)):.6g}."
    return Decision(round_.index, best, None, None, None, reason, round_.direction)


def decide(round_: Round, before: Iterable[Evaluation], search: SearchSpec) -> Decision:
    """
    End a round whose candidates have more blocks than the selection.

    Args:
        round_ ([`Round`]): Round whose evaluations are complete.
        before (`Iterable[Evaluation]`): Evaluations of the selection before; not used in round 0.
        search ([`SearchSpec`]): Holds the stop rule.

    Returns: [`Decision`]: without a winner if the search stops here.
    Raises: [`IncompleteRoundError`]: If evaluations are missing.
    """
    if round_.index == 0:
        return start(round_, "the head alone scores")
    best, before = pick_winner(round_), tuple(before)
    gain, error, stop = _compare(before, round_.of(best), search)
    added = " + ".join(name for name in best.blocks if name not in round_.selection.blocks)
    compared = _compared(f"gains {gain:.6g}", not stop, error, search)
    if not stop:
        reason = f"{added} is {'chosen' if round_.direction == 'list' else 'added'}: {compared}."
    elif round_.direction == "list":
        reason = f"No candidate is worth it: the best, {added}, {compared}."
    else:
        verdict = "No further block is worth it" if round_.selection.blocks else "No block is worth it"
        reason = f"{verdict}: the best, {added}, {compared}."
    winner, threshold = None if stop else best, threshold_of(error, search)
    return Decision(round_.index, winner, gain, error, threshold, reason, round_.direction)


def decide_removal(round_: Round, path: Sequence[Scored], search: SearchSpec, forced: str | None = None) -> Decision:
    """
    End a round whose candidates have one block less than the selection.

    A block stays if it earns its place as one would be added: if the score without it falls short of the best on the
    way here by more than that loss's standard error, or by `min_gain` or more. Compared with the best and not with the
    selection before, so that small losses cannot add up.

    Args:
        round_ ([`Round`]): Round whose evaluations are complete.
        path (`Sequence[tuple[Evaluation, ...]]`): Evaluations of the selections to compare with, the present one last.
        search ([`SearchSpec`]): Holds the stop rule.
        forced (`str`, *optional*): The bound that the selection exceeds, in words: then the best removal is taken.

    Returns: [`Decision`]: without a winner if every block stays.
    Raises: [`IncompleteRoundError`]: If evaluations are missing.
    """
    best = pick_winner(round_)
    removed = " + ".join(name for name in round_.selection.blocks if name not in best.blocks)
    loss, error, stop = _compare(round_.of(best), _best_scored(path), search)
    words = f"loses {loss:.6g}" if loss > 0 else f"gains {-loss:.6g}" if loss < 0 else "loses nothing"
    compared = _compared(words, not stop, error, search) if loss > 0 or not stop else words
    if forced is not None:
        winner, reason = best, f"{removed} is removed since the selection is over {forced}: {words}."
    elif stop:
        winner, reason = best, f"{removed} is removed: {compared}."
    else:
        winner, reason = None, f"Every block earns its place: removing the one missed least, {removed}, {compared}."
    return Decision(round_.index, winner, -loss or 0.0, error, threshold_of(error, search), reason, round_.direction)


def _best_scored(path: Sequence[Scored]) -> Scored:
    """The best of some selections; ties go to the last, which is the smallest."""
    best = max(map(score_of, path))
    return [evaluations for evaluations in path if same_score(score_of(evaluations), best)][-1]


def _compare(before: Scored, after: Scored, search: SearchSpec) -> tuple[float, float | None, bool]:
    """Gain, its standard error, and whether it is too small."""
    gain, error = paired_gain(before, after)
    scale = max(abs(score_of(before)), abs(score_of(after)))
    return gain, error, should_stop(gain, error, search, scale)


def is_better(before: Scored, after: Scored, search: SearchSpec) -> tuple[bool, str]:
    """Whether one selection beats another by the stop rule, and in words by how much."""
    gain, error, stop = _compare(before, after, search)
    return not stop, _compared(f"gains {gain:.6g}", not stop, error, search)


def _compared(words: str, enough: bool, standard_error: float | None, search: SearchSpec) -> str:
    """A gain or a loss in words, and what it was compared with."""
    if search.min_gain is not None:
        return f"{words}, {'at least' if enough else 'less than'} min_gain ({search.min_gain:.6g})"
    verb = "exceeds" if enough else "does not exceed"
    if standard_error is None:
        return f"{words}, which {verb} 0 (a single fold has no standard error)"
    return f"{words}, which {verb} one standard error ({standard_error:.6g})"
