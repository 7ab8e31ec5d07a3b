"""Backward, best of both starts, lists and bounds, against brute force in fractions and rule by rule."""

import random
from fractions import Fraction
from itertools import product

import pytest

from search.brute_force import BruteForce, evaluations_of, names_of, random_counts, study_of
from search.score_tables import drive, evaluation
from subtuning_hf.errors import ArgumentsError, UnknownBlockError
from subtuning_hf.search.greedy import replay
from subtuning_hf.search.records import Candidate, SearchSpec
from subtuning_hf.search.space import HEAD_ONLY

PARAMETERS = {"a": 10, "b": 20, "c": 30, "d": 15}
SIZES = [(4,), (5, 4, 4), (7, 3, 3, 2, 2)]


def path_of(state):
    """The selections that a replay went through."""
    return ["".join(r.decision.winner.blocks) for r in state.rounds if r.decision is not None and r.decision.winner]


def search_of(direction, exact, **fields):
    return SearchSpec(
        direction=direction,
        min_gain=None if exact.min_gain is None else float(exact.min_gain),
        max_blocks=exact.max_blocks,
        max_block_parameters=exact.max_parameters,
        **fields,
    )


def exact_of(seed, sizes, **fields):
    chance = random.Random(-seed)
    return BruteForce(
        random_counts(seed, sizes, "abcd"),
        sizes,
        PARAMETERS,
        min_gain=chance.choice([None, None, Fraction(0), Fraction(1, 10), Fraction(1, sum(sizes))]),
        max_blocks=chance.choice([None, None, 0, 1, 2, 3, 4]),
        max_parameters=chance.choice([None, None, 0, 15, 29, 45, 60, 75]),
        **fields,
    )


# --- against brute force ---------------------------------------------------------------------
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_forward_and_backward_with_all_bounds(sizes):
    ends = {"forward": set(), "backward": set()}
    for seed in range(300):
        exact = exact_of(seed, sizes)
        known = evaluations_of(exact.counts, sizes)
        for direction, found in ends.items():
            state = replay(study_of(PARAMETERS, len(sizes)), search_of(direction, exact), known)
            assert state.finished and not state.pending and state.reason
            assert path_of(state) == getattr(exact, direction)(), (seed, direction)
            assert not exact.over("".join(state.selection.blocks))
            found.add(len(state.selection.blocks))
    assert ends == {"forward": {0, 1, 2, 3, 4}, "backward": {0, 1, 2, 3, 4}}


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_best_of_both_starts(sizes):
    winners = set()
    for seed in range(300):
        exact = exact_of(seed, sizes)
        known = evaluations_of(exact.counts, sizes)
        state = replay(study_of(PARAMETERS, len(sizes)), search_of("best", exact), known)
        assert "".join(state.selection.blocks) == exact.both(), seed
        ends = ["".join(part.selection.blocks) for part in state.parts]
        assert ends == [exact.forward()[-1], exact.backward()[-1]]
        winner = next(part for part in state.parts if part.rounds == state.rounds)
        assert winner.selection == state.selection
        winners.add("same" if ends[0] == ends[1] else winner.rounds[0].direction)
    assert winners == {"same", "forward", "backward"}


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_lists(sizes):
    chosen = set()
    for seed in range(300):
        exact = exact_of(seed, sizes)
        pool = random.Random(seed).sample(names_of("abcd"), 6)
        search = search_of("list", exact, candidates=tuple(Candidate(tuple(names)) for names in pool))
        state = replay(study_of(PARAMETERS, len(sizes)), search, evaluations_of(exact.counts, sizes))
        assert state.finished and "".join(state.selection.blocks) == exact.listed(pool), seed
        chosen.add(len(state.selection.blocks))
    assert chosen == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("min_gain", [None, Fraction(1, 2)], ids=str)
def test_every_table_of_two_blocks_with_two_folds_and_three_outcomes_backward(min_gain):
    parameters = {"a": 1, "b": 1}
    spec = study_of(parameters, 2)
    search = SearchSpec(direction="backward", min_gain=None if min_gain is None else float(min_gain))
    cells = {
        (names, fold, right): evaluation(tuple(names), fold, right, 2)
        for names in names_of("ab")
        for fold, right in product((0, 1), (0, 1, 2))
    }
    ends = set()
    for values in product(product((0, 1, 2), repeat=2), repeat=4):
        counts = {1.0: dict(zip(names_of("ab"), values, strict=True))}
        known = [cells[names, f, n] for names, ns in counts[1.0].items() for f, n in enumerate(ns)]
        path = path_of(replay(spec, search, known))
        assert path == BruteForce(counts, (2, 2), parameters, min_gain).backward(), values
        ends.add(path[-1])
    assert ends == {"", "a", "b", "ab"}


# --- order of work ---------------------------------------------------------------------------
@pytest.mark.parametrize("direction", ["backward", "best", "list"])
@pytest.mark.parametrize("seed", range(12))
def test_the_order_of_evaluations_changes_nothing(direction, seed):
    sizes = SIZES[1]
    exact = exact_of(seed, sizes)
    pool = tuple(Candidate(tuple(names)) for names in ("ab", "c", "bd")) if direction == "list" else ()
    spec, search = study_of(PARAMETERS, 3), search_of(direction, exact, candidates=pool)
    known = evaluations_of(exact.counts, sizes)
    whole = replay(spec, search, known)
    random.Random(seed).shuffle(known)
    assert replay(spec, search, known) == whole
    table = {each.unit: each for each in known}
    parts = whole.parts or (whole,)
    asked = {each.unit for part in parts for round_ in part.rounds for each in round_.evaluations}
    for pick in (min, max, lambda units, key: random.Random(f"{seed} {len(units)}").choice(units)):
        state, done = drive(spec, search, table.__getitem__, pick)
        assert state == whole
        assert {each.unit for each in done} == asked and len(done) == len(asked)  # nothing else, nothing twice


def state_of(direction, table, known=None, folds=1, **fields):
    spec = study_of(PARAMETERS, folds)
    every = [evaluation(tuple(names), fold, right, 100) for names, right in table.items() for fold in range(folds)]
    wanted = every if known is None else [each for each in every if "".join(each.candidate.blocks) in known]
    return replay(spec, SearchSpec(direction=direction, **fields), wanted)


def labels(units):
    return ["".join(unit.candidate.blocks) for unit in units]


FLAT = dict.fromkeys(names_of("abcd"), 50)


def test_backward_begins_with_all_blocks_and_asks_for_the_earliest_first():
    state = state_of("backward", FLAT, known=())
    assert labels(state.pending) == ["abcd"] and state.selection == Candidate(tuple("abcd"))
    state = state_of("backward", FLAT, known=("abcd",))
    assert labels(state.pending) == ["abc", "abd", "acd", "bcd"]
    assert [round_.direction for round_ in state.rounds] == ["backward"] * 2


def test_best_asks_for_both_the_forward_search_first():
    state = state_of("best", FLAT, known=())
    assert labels(state.pending) == ["", "abcd"] and state.rounds == state.parts[0].rounds and not state.finished
    state = state_of("best", FLAT, known=("", "abcd"))
    assert labels(state.pending) == ["a", "b", "c", "d", "abc", "abd", "acd", "bcd"]
    state = state_of("best", FLAT, known=("", "abcd", "a", "b", "c", "d"))
    assert state.parts[0].finished and not state.finished and state.reason is None
    assert state.rounds == state.parts[1].rounds and labels(state.pending) == ["abc", "abd", "acd", "bcd"]


def test_what_both_starts_ask_for_is_pending_once():
    spec, search = study_of({"a": 1, "b": 1}, 1), SearchSpec(direction="best", min_gain=0.0)
    known = [evaluation((), 0, 1, 4), evaluation(("a", "b"), 0, 1, 4)]
    assert labels(replay(spec, search, known).pending) == ["a", "b"]


def test_the_work_of_a_list_is_in_forward_order():
    pool = tuple(Candidate(tuple(names)) for names in ("d", "abc", "cd", "ab"))
    assert labels(state_of("list", FLAT, known=(), candidates=pool).pending) == [""]
    state = state_of("list", FLAT, known=("",), candidates=pool)
    assert labels(state.pending) == ["ab", "abc", "cd", "d"]
    # The last wins a tie: fewest parameters, then nearest the head.
    assert ["".join(candidate.blocks) for candidate in state.rounds[1].candidates] == ["abc", "cd", "ab", "d"]


# --- rules of backward search ----------------------------------------------------------------
def test_a_tie_removes_the_block_nearest_the_input():
    state = state_of("backward", FLAT)
    assert path_of(state) == ["abcd", "bcd", "cd", "d", ""]
    assert state.reason == "No block is left: the head alone."


def test_small_losses_cannot_add_up():
    table = FLAT | {"abcd": 60, "bcd": 58, "cd": 56, "d": 54}
    assert path_of(state_of("backward", table, min_gain=0.03)) == ["abcd", "bcd"]
    state = state_of("backward", table, min_gain=0.05)
    assert path_of(state) == ["abcd", "bcd", "cd"]
    last = state.rounds[-1].decision
    assert last.winner is None and last.gain == pytest.approx(-0.06) and last.threshold == 0.05
    assert state.reason == (
        "Every block earns its place: removing the one missed least, c, loses 0.06, at least min_gain (0.05)."
    )


def test_the_best_on_the_way_is_what_the_next_are_compared_with():
    table = FLAT | {"abcd": 60, "bcd": 64, "cd": 61, "d": 61}
    state = state_of("backward", table, min_gain=0.04)
    assert path_of(state) == ["abcd", "bcd", "cd", "d"]
    assert [round_.decision.gain for round_ in state.rounds[1:]] == pytest.approx([0.04, -0.03, -0.03, -0.14])
    assert state.rounds[1].decision.reason == "a is removed: gains 0.04."
    assert state.rounds[2].decision.reason == "b is removed: loses 0.03, less than min_gain (0.04)."


def test_a_block_stays_exactly_if_it_would_be_added():
    table = FLAT | {"abcd": 60, "bcd": 59, "": 59, "a": 60}
    for min_gain, stays in ((0.01, True), (0.0101, False), (0.0, True)):
        assert (path_of(state_of("backward", table, min_gain=min_gain)) == ["abcd"]) is stays
        assert (len(path_of(state_of("forward", table, min_gain=min_gain))) > 1) is stays


@pytest.mark.parametrize(
    ("fields", "words", "end"),
    [
        ({"max_blocks": 2}, "the selection is over max_blocks=2: loses 0.2.", "cd"),
        ({"max_block_parameters": 45}, "the selection is over max_block_parameters=45: loses 0.2.", "cd"),
    ],
    ids=["max_blocks", "max_block_parameters"],
)
def test_a_bound_forces_removal_and_what_it_forbids_is_no_measure(fields, words, end):
    table = FLAT | {"abcd": 95, "bcd": 75, "cd": 60, "d": 40, "c": 40}
    state = state_of("backward", table, min_gain=0.1, **fields)
    assert path_of(state) == ["abcd", "bcd", end]
    assert state.rounds[1].decision.reason == f"a is removed since {words}"
    assert state.rounds[3].decision.gain == pytest.approx(-0.2)  # against cd, not against abcd
    assert path_of(state_of("backward", table | {"d": 60}, min_gain=0.1, **fields))[-1] == "d"


def test_no_block_may_be_all_that_a_bound_allows():
    for fields in ({"max_blocks": 0}, {"max_block_parameters": 9}):
        assert state_of("backward", FLAT, **fields).selection == HEAD_ONLY
        assert state_of("forward", FLAT, **fields).selection == HEAD_ONLY
        state = state_of("best", FLAT, **fields)
        assert state.selection == HEAD_ONLY and state.reason == "Both starts end at head only."


# --- bounds and reasons of the others --------------------------------------------------------
def test_forward_leaves_out_what_is_over_the_parameters():
    table = {names: 10 * len(names) for names in FLAT}
    state = state_of("forward", table, max_block_parameters=35)
    assert ["".join(candidate.blocks) for candidate in state.rounds[1].candidates] == ["a", "b", "c", "d"]
    assert ["".join(candidate.blocks) for candidate in state.rounds[2].candidates] == ["ad", "bd"]
    assert path_of(state) == ["", "d", "bd"]
    assert state.reason == "No further block fits under max_block_parameters=35."
    assert state_of("forward", table, max_block_parameters=9).reason == "No block fits under max_block_parameters=9."


def test_reasons_of_a_list():
    pool = tuple(Candidate(tuple(names)) for names in ("ab", "c", ""))
    state = state_of("list", FLAT | {"ab": 70}, candidates=pool, min_gain=0.1)
    assert state.reason == "a + b is chosen: gains 0.2, at least min_gain (0.1)." and len(state.rounds) == 2
    state = state_of("list", FLAT | {"ab": 55}, candidates=pool, min_gain=0.1)
    assert state.reason == "No candidate is worth it: the best, a + b, gains 0.05, less than min_gain (0.1)."
    state = state_of("list", FLAT, candidates=pool, max_block_parameters=5)
    assert state.finished and state.selection == HEAD_ONLY and len(state.rounds) == 1
    assert state.reason == "No candidate of the list has blocks and keeps the bounds."


def test_reasons_of_two_starts():
    table = FLAT | {"abcd": 80, "bcd": 80, "cd": 80, "d": 55, "c": 55}
    state = state_of("best", table, min_gain=0.06)
    assert state.selection == Candidate(("c", "d"))
    assert state.reason == (
        "Backward is taken: the backward start, which ends at c + d, over the forward start, which ends at head only, "
        "gains 0.3, at least min_gain (0.06)."
    )
    state = state_of("best", table | {"c": 79}, min_gain=0.01, max_blocks=2)
    assert state.selection == Candidate(("c", "d")) and state.reason == "Both starts end at c + d."
    state = state_of("best", table | {"a": 79, "c": 50, "d": 50}, min_gain=0.02)
    assert state.selection == Candidate(("a",)) and state.reason.startswith("Forward is taken: the backward start")


def test_lists_name_blocks_of_the_study_in_forward_order():
    with pytest.raises(ArgumentsError, match=r"in forward order, found 'b \+ a', which is 'a \+ b'"):
        state_of("list", FLAT, candidates=(Candidate(("b", "a")),))
    with pytest.raises(UnknownBlockError, match="'x'"):
        state_of("list", FLAT, candidates=(Candidate(("x",)),))


def test_searches_of_all_directions_share_what_coincides():
    forward = state_of("forward", FLAT, min_gain=0.0)
    used = {each.unit for round_ in forward.rounds for each in round_.evaluations}
    assert len(used) == 11
    backward = state_of("backward", FLAT, min_gain=0.01)
    assert len(used & {each.unit for round_ in backward.rounds for each in round_.evaluations}) > 4


def test_repeats_and_reduced_budgets_decide_nothing():
    spec, search = study_of(PARAMETERS, 1), SearchSpec(direction="backward")
    known = [evaluation(tuple(names), 0, right, 100) for names, right in FLAT.items()]
    others = [evaluation(("d",), 0, 100, 100, repeat=1), evaluation(("d",), 0, 100, 100, budget=0.5)]
    assert replay(spec, search, [*others, *known]) == replay(spec, search, known)
