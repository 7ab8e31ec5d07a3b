"""
Greedy choice of blocks, as pure functions of records.

[`replay`] turns any collection of evaluations into the state of the search: the rounds so far, what is chosen, what is
to be evaluated next. Whoever runs a search evaluates what is pending, keeps the records, and replays; so a search that
was killed, or that shares its records with others, is no special case. Knows neither journal nor training.

Source: SubTuning, arXiv 2302.06354, Algorithm 1, and the two starts of its original code; differs in the stop rule,
which by default asks a gain to exceed its standard error since the best of many gains is biased upward, and in scores
that are paired over the same folds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from .decisions import Scored, decide, decide_removal, is_better, pick_winner, should_stop, threshold_of
from .directions import DIRECTIONS, Direction
from .pruners import Pruner, judge, leader_of, pruner_of
from .records import Candidate, Evaluation, Round, SearchSpec, StudySpec, Unit
from .scores import (
    RELATIVE_TIE,
    Table,
    full_folds,
    paired_gain,
    same_score,
    score_of,
    spread_of,
    standard_error_of,
    table_of,
)
from .space import UNTOUCHED

__all__ = [
    "RELATIVE_TIE",
    "SearchState",
    "decide",
    "decide_removal",
    "paired_gain",
    "pick_winner",
    "replay",
    "same_score",
    "score_of",
    "should_stop",
    "speculate",
    "spread_of",
    "standard_error_of",
    "threshold_of",
]


@dataclass(frozen=True)
class SearchState:
    """
    Where a search stands.

    Args:
        rounds (`tuple[Round, ...]`): All rounds begun; the last one has no decision while evaluations are missing.
        selection ([`Candidate`]): What is chosen so far.
        pending (`tuple[Unit, ...]`):
            What to evaluate for the next decision, in a fixed order: candidates as they are tried, then folds.
        finished (`bool`): Whether there is nothing left to decide.
        reason (`str`, *optional*): Why the search is finished, in words.
        parts (`tuple[SearchState, ...]`, *optional*):
            With direction `"best"` the forward and the backward search; `rounds` and `selection` are then those of the
            better one, and before the end those of the first that is not finished.
    """

    rounds: tuple[Round, ...]
    selection: Candidate
    pending: tuple[Unit, ...]
    finished: bool
    reason: str | None = None
    parts: tuple[SearchState, ...] = ()


def replay(spec: StudySpec, search: SearchSpec, evaluations: Iterable[Evaluation]) -> SearchState:
    """
    Derive where a search stands from what has been evaluated.

    The order of evaluations does not matter, and those that the search never asks for (pairs of a profile, repeats,
    another search of the study) are left out. Of two evaluations of one unit the first counts.

    Args:
        spec ([`StudySpec`]): Blocks and folds.
        search ([`SearchSpec`]): Direction, stop rule, bounds and pruner.
        evaluations (`Iterable[Evaluation]`): What is known so far, from any number of searches of the study.

    Returns: [`SearchState`]
    Raises:
        [`UnknownBlockError`]: If a listed candidate names a block that the study does not have.
        [`ArgumentsError`]: If a listed candidate is not in forward order.
    """
    table, pruner = table_of(evaluations), pruner_of(search)
    if search.direction == "best":
        parts = [_walk(DIRECTIONS[name](spec, search), pruner, spec.num_folds, table) for name in _BEST]
        return _better_of(parts[0], parts[1], search, spec, table)
    return _walk(DIRECTIONS[search.direction](spec, search), pruner, spec.num_folds, table)


_BEST = ("forward", "backward")


def _walk(rules: Direction, pruner: Pruner, num_folds: int, table: Table) -> SearchState:
    """Go through the rounds of one direction as far as evaluations go."""
    rounds: list[Round] = []
    path: list[Scored] = []
    selection = rules.start
    candidates: tuple[Candidate, ...] = (selection,)
    while True:
        verdict = judge(pruner, candidates, num_folds, table)
        round_ = Round(len(rounds), selection, candidates, verdict.used, None, verdict.pruned, rules.name)
        if verdict.pending:
            return SearchState((*rounds, round_), selection, _in_turn(rules, verdict.pending), False)
        decision = rules.decide(round_, path)
        rounds.append(replace(round_, decision=decision))
        if decision.winner is None:
            return SearchState(tuple(rounds), selection, (), True, decision.reason)
        selection = decision.winner
        path.append(round_.of(selection))
        following = rules.following(selection, decision)
        if isinstance(following, str):
            return SearchState(tuple(rounds), selection, (), True, following)
        candidates = following


def _in_turn(rules: Direction, units: Sequence[Unit]) -> tuple[Unit, ...]:
    """Units with the candidates as they are tried: those that train the earliest blocks, the dearest, first."""
    return tuple(sorted(units, key=lambda unit: (*rules.turn(unit.candidate), unit.fold)))


def _better_of(
    forward: SearchState, backward: SearchState, search: SearchSpec, spec: StudySpec, table: Table
) -> SearchState:
    """Put the two starts together; the backward one must beat the forward one, which ends with fewer blocks."""
    parts = (forward, backward)
    if not (forward.finished and backward.finished):
        current = backward if forward.finished else forward
        pending = tuple(dict.fromkeys((*forward.pending, *backward.pending)))
        return SearchState(current.rounds, current.selection, pending, False, None, parts)
    names = [part.selection.label if part.selection.blocks or spec.has_head else UNTOUCHED for part in parts]
    if forward.selection == backward.selection:
        return replace(forward, reason=f"Both starts end at {names[0]}.", parts=parts)
    before, after = (full_folds(table, part.selection, spec.num_folds) for part in parts)
    better, compared = is_better(before, after, search)
    reason = (
        f"{'Backward' if better else 'Forward'} is taken: the backward start, which ends at {names[1]},"
        f" over the forward start, which ends at {names[0]}, {compared}."
    )
    return replace(backward if better else forward, reason=reason, parts=parts)


# --- ahead of the decision -------------------------------------------------------------------
def speculate(
    spec: StudySpec, search: SearchSpec, evaluations: Iterable[Evaluation], state: SearchState
) -> tuple[Unit, ...]:
    """
    What the next round would ask for if the present leader of the unfinished round won: work for idle processes.

    The leader has the best mean over the folds that all comparable candidates share: those with an evaluation in full,
    which must be half of the candidates at least; where these share no fold, those that have all folds. Nothing is said
    before, nor if the search would end with the leader. A decision never depends on what was evaluated ahead.

    Args:
        spec ([`StudySpec`]): Blocks and folds.
        search ([`SearchSpec`]): What is searched.
        evaluations (`Iterable[Evaluation]`): What is known so far.
        state ([`SearchState`]): Where the search stands with these.

    Returns: `tuple[Unit, ...]`: neither known nor pending; `()` when nothing can be said.
    """
    table, pruner = table_of(evaluations), pruner_of(search)
    waiting = set(state.pending)
    found: dict[Unit, None] = {}
    for part in state.parts or (state,):
        if not part.finished:
            rules = DIRECTIONS[part.rounds[-1].direction](spec, search)
            found.update(dict.fromkeys(_ahead(rules, pruner, spec.num_folds, table, part)))
    return tuple(unit for unit in found if unit not in waiting)


def _ahead(rules: Direction, pruner: Pruner, num_folds: int, table: Table, part: SearchState) -> Iterator[Unit]:
    """The first units of the round after the one under way, if its leader wins."""
    round_ = part.rounds[-1]
    if not round_.index:  # its only candidate wins, whatever it scores
        following = rules.following(rules.start)
    else:
        leading = _leading(round_, num_folds)
        if not leading:
            return
        folds = {evaluation.fold for evaluation in leading}
        path = [
            tuple(evaluation for evaluation in past.of(past.decision.winner) if evaluation.fold in folds)
            for past in part.rounds[:-1]
            if past.decision is not None and past.decision.winner is not None
        ]
        decision = rules.decide(replace(round_, candidates=(leading[0].candidate,), evaluations=leading), path)
        if decision.winner is None:
            return
        following = rules.following(decision.winner, decision)
    if not isinstance(following, str):
        yield from _in_turn(rules, judge(pruner, following, num_folds, table).pending)


def _leading(round_: Round, num_folds: int) -> Scored:
    """The leader's evaluations on the folds it was compared on; `()` if there is none."""
    known = {candidate: evaluations for candidate in round_.survivors if (evaluations := round_.of(candidate))}
    if not known or 2 * len(known) < len(round_.survivors):
        return ()
    shared = set[int].intersection(*({each.fold for each in evaluations} for evaluations in known.values()))
    if not shared:
        shared = set(range(num_folds))
        known = {candidate: evaluations for candidate, evaluations in known.items() if len(evaluations) == num_folds}
        if not known:
            return ()
    compared = {
        candidate: tuple(evaluation for evaluation in evaluations if evaluation.fold in shared)
        for candidate, evaluations in known.items()
    }
    return compared[leader_of(compared)]
