"""
What ends a round: the best candidate, and whether it is worth its place.

Pure functions of rounds. Knows no order of rounds; that is `greedy`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

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


def cheapest_to_serve(
    round_: Round, best: Candidate, search: SearchSpec, worth: Callable[[Candidate], bool]
) -> tuple[Candidate, str]:
    """
    The candidate that a search with `serving_aware` takes in the place of the best.

    Looked at are the best candidate and all others whose score is behind it by no more than one standard error of the
    paired differences over folds (with a single fold: by nothing), as far as they pass the same stop rule as the best.
    Of these the one that adds least to the latency of serving is taken; of equally cheap ones the best, and of equally
    good ones the last. Whether the search goes on is decided by the best candidate, as without latency.

    Args:
        round_ ([`Round`]): Round whose evaluations are complete.
        best ([`Candidate`]): Its best candidate.
        search ([`SearchSpec`]): Holds the cost of serving.
        worth (`Callable[[Candidate], bool]`): Whether a candidate passes the stop rule.

    Returns: `tuple[Candidate, str]`: the candidate, and in words what latency did.
    """
    cost = search.serving
    assert cost is not None  # checked when the record was made
    near = [each for each in round_.survivors if each == best or (_is_near(round_, each, best) and worth(each))]
    added = {each: cost.relative(each.blocks) for each in near}
    least = min(added.values())
    cheapest = best_of({each: score_of(round_.of(each)) for each in near if same_score(added[each], least)})
    if len(near) == 1:
        return best, "no other candidate that is worth it is within one standard error of it"
    many = f"of the {len(near)} candidates within one standard error of the best it adds least latency"
    if cheapest == best:
        return best, f"{many} ({added[best]:.2f} passes)"
    change = _change(round_, best)
    behind = score_of(round_.of(best)) - score_of(round_.of(cheapest))
    return cheapest, (
        f"{many}: {added[cheapest]:.2f} passes instead of the {added[best]:.2f} of {change}, "
        + (f"which scores {behind:.6g} more" if behind > 0 else "which scores the same")
    )


def _is_near(round_: Round, candidate: Candidate, best: Candidate) -> bool:
    """Whether a candidate is behind the best by no more than one standard error."""
    gap, error = paired_gain(round_.of(candidate), round_.of(best))
    slack = RELATIVE_TIE * max(abs(score_of(round_.of(candidate))), abs(score_of(round_.of(best))))
    return gap <= (error or 0.0) + slack


def _change(round_: Round, candidate: Candidate) -> str:
    """What a candidate adds to the selection or takes from it."""
    old, new = round_.selection.blocks, candidate.blocks
    return " + ".join([name for name in new if name not in old] or [name for name in old if name not in new])


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
    served = ""
    if search.serving_aware and not stop:
        best, words = cheapest_to_serve(
            round_, best, search, lambda each: not _compare(before, round_.of(each), search)[2]
        )
        gain, error, _ = _compare(before, round_.of(best), search)
        served = f"; {words}"
    added = _change(round_, best)
    compared = _compared(f"gains {gain:.6g}", not stop, error, search) + served
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
    best, reference = pick_winner(round_), _best_scored(path)
    loss, error, stop = _compare(round_.of(best), reference, search)
    served = ""
    if search.serving_aware and (stop or forced is not None):
        best, choice = cheapest_to_serve(
            round_, best, search, lambda each: forced is not None or _compare(round_.of(each), reference, search)[2]
        )
        loss, error, _ = _compare(round_.of(best), reference, search)
        served = f"; {choice}"
    removed = _change(round_, best)
    words = f"loses {loss:.6g}" if loss > 0 else f"gains {-loss:.6g}" if loss < 0 else "loses nothing"
    compared = _compared(words, not stop, error, search) if loss > 0 or not stop else words
    if forced is not None:
        winner, reason = best, f"{removed} is removed since the selection is over {forced}: {words}{served}."
    elif stop:
        winner, reason = best, f"{removed} is removed: {compared}{served}."
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
