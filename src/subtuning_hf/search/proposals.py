"""
A search that predicts first and trains little: what was predicted, which few selections are trained, and which wins.

The predictions themselves are made elsewhere and kept as one record; from it and the trainings of the few, [`confirm`]
derives where the search stands, as `greedy.replay` does for an exact one. Knows neither models nor how predictions are
made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from .directions import Forward
from .greedy import SearchState, replay
from .proposed import Predicted, ProposalRun
from .records import Candidate, Decision, Evaluation, Round, SearchSpec, StudySpec
from .scores import best_of, paired_gain, score_of, table_of
from .space import in_forward_order

# Most selections that are trained, and the least share of a full training that tells them apart.
MOST_CONFIRMED = 3
LEAST_SHARE = 0.3
# Most blocks that are tuned together because predictions cannot tell them apart.
MOST_TIED = 3


# --- predicting ------------------------------------------------------------------------------
def predict_ladder(
    spec: StudySpec, search: SearchSpec, predict: Callable[[Candidate], Predicted]
) -> tuple[SearchState, tuple[Predicted, ...]]:
    """
    Run the greedy search on predictions.

    Args:
        spec ([`StudySpec`]): Blocks.
        search ([`SearchSpec`]): Direction and bounds. The stop rule is that of predictions: any gain counts.
        predict (`Callable[[Candidate], Predicted]`): Predicts a selection.

    Returns: `tuple[SearchState, tuple[Predicted, ...]]`: the finished search, and all that was predicted, best first;
    of equals those that were asked for first.
    """
    known: dict[Candidate, Predicted] = {}
    # Predictions have a scale of their own, on which the user's least gain means nothing: any gain counts.
    rules = replace(search, strategy="exact", budget=None, min_gain=None, pruner="none", score_limit=None, start=None)
    evaluations: list[Evaluation] = []
    spec = replace(spec, num_folds=1)
    while not (state := replay(spec, rules, evaluations)).finished:
        for unit in state.pending:
            if unit.candidate not in known:
                known[unit.candidate] = predict(unit.candidate)
            evaluations.append(Evaluation(unit.candidate, 0, known[unit.candidate].score, 1))
    started = started_with(spec, search)
    if started is not None and started not in known:
        known[started] = predict(started)
    return state, tuple(sorted(known.values(), key=lambda each: -each.score))


def started_with(spec: StudySpec, search: SearchSpec) -> Candidate | None:
    """
    The selection that a search starts from.

    Args:
        spec ([`StudySpec`]), search ([`SearchSpec`]): Blocks, bounds and start.

    Returns: [`Candidate`] or `None`: `None` without a start, or if it does not keep the bounds.
    """
    if search.start is None:
        return None
    names = [block.name for block in spec.blocks]
    started = in_forward_order(names, search.start.blocks)
    return started if Forward(spec, search).exceeded(started) is None else None


def shortlist_of(
    spec: StudySpec,
    search: SearchSpec,
    state: SearchState,
    predictions: Sequence[Predicted],
    most: int = MOST_CONFIRMED,
) -> list[Candidate]:
    """
    The selections that are worth a training.

    Args:
        spec ([`StudySpec`]), search ([`SearchSpec`]): Blocks and bounds.
        state ([`SearchState`]): The search on predictions.
        predictions (`Sequence[Predicted]`): Best first.
        most (`int`, *optional*): How many.

    Returns: `list[Candidate]`: what that search chose, with the blocks that predictions cannot tell from it, then
        without them, then what it starts from, then the best predicted others of no more blocks that keep the bounds.
        Shortened trainings favour larger selections, which learn faster: they could not tell whether more blocks are
        worth it. Where that search chose the head alone, the best predicted block comes first: a few steps train a
        head as well as many, but not a block, so that predictions cannot tell that no block is worth it. Trainings,
        where there are any, can.
    """
    bounds = Forward(spec, search)
    # A search that removes blocks begins with selections that are over the bounds.
    within = [each.candidate for each in predictions if bounds.exceeded(each.candidate) is None]
    first = state.selection
    if not first.blocks:
        some = [one for one in within if one.blocks]
        first = next(iter([one for one in some if len(one.blocks) == 1] or some), first)
    size = max(len(first.blocks), 1)
    started = started_with(spec, search)
    found = [with_ties(spec, search, first, predictions), first, *([] if started is None else [started])]
    return list(dict.fromkeys([*found, *(one for one in within if len(one.blocks) <= size)]))[:most]


def with_ties(
    spec: StudySpec, search: SearchSpec, first: Candidate, predictions: Sequence[Predicted]
) -> Candidate:
    """
    A block with those that predictions cannot tell from it.

    Which of them is the best one would be a guess, and a wrong guess costs more than a block too many: what is no more
    than two standard errors behind is tuned too. Of four finalists the first is also a little lucky, so that one
    standard error would not be enough.

    Args:
        spec ([`StudySpec`]), search ([`SearchSpec`]): Blocks and bounds.
        first ([`Candidate`]): What is predicted best.
        predictions (`Sequence[Predicted]`): Best first.

    Returns: [`Candidate`]: at most `MOST_TIED` blocks within the bounds; `first` itself if it is no single block, if
        it is not what the others were compared with, or for a list of candidates.
    """
    if len(first.blocks) != 1 or search.direction == "list":
        return first
    singles = [each for each in predictions if len(each.candidate.blocks) == 1 and each.is_tied]
    if not any(each.candidate == first and each.leads for each in singles):
        return first
    bounds, names, joined = Forward(spec, search), [block.name for block in spec.blocks], first
    for each in singles:
        wider = in_forward_order(names, {*joined.blocks, *each.candidate.blocks})
        if len(wider.blocks) <= MOST_TIED and bounds.exceeded(wider) is None:
            joined = wider
    return joined


def with_all(
    predictions: Sequence[Predicted], candidates: Iterable[Candidate], predict: Callable[[Candidate], Predicted]
) -> tuple[Predicted, ...]:
    """Predictions, best first, with those of candidates that the search did not look at."""
    known = {each.candidate for each in predictions}
    more = [predict(one) for one in candidates if one not in known]
    return tuple(sorted([*predictions, *more], key=lambda each: -each.score))


def plan_confirmation(
    trainings: Sequence[float], scorings: Sequence[float], left: float, num_folds: int
) -> tuple[int, float, int]:
    """
    How many selections are trained, how long, and on how many folds.

    Args:
        trainings (`Sequence[float]`): Price of a full training on one fold of each selection, best predicted first.
        scorings (`Sequence[float]`): Price of scoring it there, which a shorter training does not lower.
        left (`float`): What may be spent, in the same unit.
        num_folds (`int`): Folds of the study.

    Returns: `tuple[int, float, int]`: number of selections, share of the full training, number of folds; 1, 1.0 and 0
        if no comparison can be paid.
    """
    for count in range(len(trainings), 1, -1):
        training, scoring = math.fsum(trainings[:count]), math.fsum(scorings[:count])
        whole = training + scoring
        if left >= whole:
            return count, 1.0, min(int(left / whole), num_folds) if whole > 0 else num_folds
        if left >= LEAST_SHARE * training + scoring:
            return count, (left - scoring) / training, 1
    return 1, 1.0, 0


def plan_shortlist(
    shortlist: Sequence[Candidate], prices: Sequence[tuple[float, float]], left: float, num_folds: int
) -> tuple[tuple[Candidate, ...], float, int]:
    """
    Which selections are trained, how long, and on how many folds.

    Args:
        shortlist (`Sequence[Candidate]`): Best predicted first; another may be larger, if the search starts from it.
        prices (`Sequence[tuple[float, float]]`): Of a full training and of the scoring of each, on one fold.
        left (`float`), num_folds (`int`): As for [`plan_confirmation`].

    Returns: `tuple[tuple[Candidate, ...], float, int]`: selections, share of the full training, number of folds. A
        larger selection than the one predicted best is compared by full trainings, or not at all.
    """
    trainings, scorings = [training for training, _ in prices], [scoring for _, scoring in prices]
    count, share, folds = plan_confirmation(trainings, scorings, left, num_folds)
    size = max(len(shortlist[0].blocks), 1)
    fair = [place for place, one in enumerate(shortlist) if len(one.blocks) <= size]
    if len(fair) == len(shortlist) or (count > 1 and share == 1.0):
        return tuple(shortlist[:count]), share, folds
    return plan_shortlist([shortlist[place] for place in fair], [prices[place] for place in fair], left, num_folds)


# --- deciding --------------------------------------------------------------------------------
def confirm(run: ProposalRun, evaluations: Iterable[Evaluation]) -> SearchState:
    """
    Derive where a search with predictions stands.

    The selection with the best mean over the trained folds wins if it is more than one standard error above the one
    predicted best, which is taken otherwise; of equal ones the first of the shortlist.

    Args:
        run ([`ProposalRun`]): What was predicted.
        evaluations (`Iterable[Evaluation]`): What is known so far.

    Returns: [`SearchState`]: with one round, which is decided when all of the trainings are there.
    """
    table = table_of(evaluations)
    used = tuple(table[unit] for unit in run.units if unit in table)
    # Ties go to the last of a round.
    round_ = Round(0, Candidate(), tuple(reversed(run.shortlist)), used, None, (), "list")
    pending = tuple(unit for unit in run.units if unit not in table)
    if pending:
        return SearchState((round_,), run.shortlist[0], pending, False)
    decision = _decide(run, used)
    assert decision.winner is not None
    return SearchState((replace(round_, decision=decision),), decision.winner, (), True, decision.reason)


def _decide(run: ProposalRun, used: Sequence[Evaluation]) -> Decision:
    first = run.shortlist[0]
    predicted = _predicted_words(run)
    none, itself = run.predicted(Candidate()), run.predicted(first)
    none_is_better = none is not None and itself is not None and none.score > itself.score
    if none_is_better and first.blocks:
        predicted = f"{predicted}, although the head alone is predicted better still"
    if not run.units:
        reason = f"{predicted}; the budget left no room to train others."
        if none_is_better and first.blocks:
            reason += " Predictions cannot tell that no block is worth it; strategy='exact' can."
        return Decision(0, first, None, None, None, reason, "list")
    scored = {c: tuple(each for each in used if each.candidate == c) for c in run.shortlist}
    best = best_of({candidate: score_of(scored[candidate]) for candidate in reversed(run.shortlist)})
    others = len(run.shortlist) - 1
    compared = "the other one" if others == 1 else f"the {others} others"
    if best == first:
        reason = f"{predicted}, and was no worse than {compared} when trained."
        return Decision(0, first, None, None, None, reason, "list")
    gain, error = paired_gain(scored[first], scored[best])
    error = _spread_of_one_fold(scored[first], scored[best]) if error is None else error
    if gain <= error:
        reason = (
            f"{predicted}; when trained, {best.label} was {gain:.3g} above it, which does not exceed one standard "
            f"error ({error:.3g})."
        )
        return Decision(0, first, gain, error, error, reason, "list")
    start = run.search.start
    chosen = f"that {run.search.strategy} predicted best"
    if start is not None and set(start.blocks) in ({*one.blocks} for one in run.shortlist):
        chosen = f"that {run.search.strategy} predicted best or that '{start.source}' has"
    reason = (
        f"{best.label} was best of the {others + 1} {chosen} when these were trained: {gain:.3g} above {first.label}, "
        "which was predicted first."
    )
    return Decision(0, best, gain, error, error, reason, "list")


def _predicted_words(run: ProposalRun) -> str:
    """What is predicted best, and what cannot be told from it."""
    first, strategy = run.shortlist[0], run.search.strategy
    alone = [each for each in run.predictions if len(each.candidate.blocks) == 1 and each.is_tied]
    singles = [each for each in alone if {*each.candidate.blocks} < {*first.blocks}]
    if len(singles) < 2 or run.search.direction == "list":  # whose candidates are taken as they are
        return f"{first.label} is predicted best by {strategy}"
    (best, *tied) = sorted(singles, key=lambda each: not each.leads)
    words = [
        f"{each.candidate.label} ({each.behind[0]:.2g} behind, standard error {each.behind[1]:.2g})"
        for each in tied
        if each.behind is not None
    ]
    cannot = f"cannot tell {' or '.join(words)} from it, so that they are tuned together"
    return f"{best.candidate.label} is predicted best by {strategy}, which {cannot}"


def _spread_of_one_fold(one: Sequence[Evaluation], other: Sequence[Evaluation]) -> float:
    """
    Standard error of a difference on a single fold, for scores that can be shares of right rows; 0 for others.

    Rows that both get right or wrong alike make the true one smaller: what is predicted is not given up lightly.
    """
    scores = [each.score for each in (*one, *other)]
    if not all(0 <= score <= 1 for score in scores):
        return 0.0
    share, rows = math.fsum(scores) / len(scores), one[0].num_examples
    return math.sqrt(2 * share * (1 - share) / rows)
