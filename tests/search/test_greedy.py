"""The greedy search against exact brute force on score tables, and its rules one by one."""

import random
from fractions import Fraction
from itertools import product

import pytest

from search.score_tables import (
    all_evaluations,
    chosen_order,
    drive,
    evaluation,
    make_spec,
    reference,
    subsets,
)
from subtuning_hf.errors import ArgumentsError, IncompleteRoundError
from subtuning_hf.search.greedy import (
    decide,
    paired_gain,
    pick_winner,
    replay,
    same_score,
    score_of,
    should_stop,
    spread_of,
)
from subtuning_hf.search.records import Candidate, Round, SearchSpec, Unit

HEAD = Candidate()


def table_of(values, blocks="abcd"):
    return dict(zip(subsets(blocks), values, strict=True))


def random_table(seed, sizes, blocks="abcd"):
    """Counts from few values, so that ties and gains on the threshold are common."""
    chance = random.Random(seed)
    return {names: tuple(chance.randrange(0, size + 1) for size in sizes) for names in subsets(blocks)}


# --- against brute force ---------------------------------------------------------------------
def explore(search, outcomes, size, known):
    """Every table of four blocks and one fold, as far as a search looks at it: (table, final state)."""
    spec = make_spec("abcd", 1)
    state = replay(spec, search, [evaluation(names, 0, count, size) for names, (count,) in known.items()])
    if state.finished:
        yield known, state
        return
    units = [unit.candidate.blocks for unit in state.pending]
    for counts in product(outcomes, repeat=len(units)):
        yield from explore(
            search, outcomes, size, known | {names: (c,) for names, c in zip(units, counts, strict=True)}
        )


@pytest.mark.parametrize(
    ("outcomes", "min_gain", "sizes_found"),
    [((0, 1, 2), None, {0, 1, 2}), ((0, 1), Fraction(0), {0, 1, 2, 3, 4}), ((0, 1), Fraction(1, 2), {0, 1})],
    ids=["above 0", "min_gain 0", "min_gain 1/2"],
)
def test_every_table_of_four_blocks_with_one_fold(outcomes, min_gain, sizes_found):
    search = SearchSpec(min_gain=None if min_gain is None else float(min_gain))
    seen = set()
    for table, state in explore(search, outcomes, 2, {}):
        # A reference that looked at any other cell would not find it.
        assert chosen_order(state) == reference(table, (2,), "abcd", min_gain), table
        seen.add(len(state.selection.blocks))
    assert seen == sizes_found


@pytest.mark.parametrize("min_gain", [None, Fraction(0), Fraction(1, 2)], ids=str)
def test_every_table_of_two_blocks_with_two_folds_and_three_outcomes(min_gain):
    sizes = (2, 2)
    spec, search = make_spec("ab", num_folds=2), SearchSpec(min_gain=None if min_gain is None else float(min_gain))
    cells = {
        (names, fold, count): evaluation(names, fold, count, 2)
        for names in subsets("ab")
        for fold in (0, 1)
        for count in (0, 1, 2)
    }
    found = set()
    for values in product(product((0, 1, 2), repeat=2), repeat=4):
        table = table_of(values, "ab")
        done = [cells[names, fold, count] for names, counts in table.items() for fold, count in enumerate(counts)]
        order = chosen_order(replay(spec, search, done))
        assert order == reference(table, sizes, "ab", min_gain), table
        found.add(tuple(order))
    assert found == {(), ("a",), ("b",), ("a", "b"), ("b", "a")}


@pytest.mark.parametrize("sizes", [(4,), (3, 3), (5, 4, 4), (7, 1, 3, 2, 2)], ids=str)
def test_random_tables_of_four_blocks(sizes):
    lengths = set()
    for seed in range(600):
        table = random_table(seed, sizes)
        for names, counts in table.items():  # scores rise with the number of blocks, or most searches end at once
            table[names] = tuple(min(count + len(names), size) for count, size in zip(counts, sizes, strict=True))
        min_gain = random.Random(seed).choice([None, None, Fraction(0), Fraction(1, 10), Fraction(1, sum(sizes))])
        max_blocks = random.Random(-seed).choice([None, None, 0, 1, 2, 3, 4])
        search = SearchSpec(max_blocks=max_blocks, min_gain=None if min_gain is None else float(min_gain))
        state = replay(make_spec("abcd", len(sizes)), search, all_evaluations(table, sizes))
        assert state.finished
        assert chosen_order(state) == reference(table, sizes, "abcd", min_gain, max_blocks), (seed, table)
        lengths.add(len(state.selection.blocks))
    assert lengths == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("seed", range(40))
def test_the_order_of_evaluations_changes_nothing(seed):
    sizes = (5, 4, 4)
    table, spec = random_table(seed, sizes), make_spec("abcd", 3)
    search = SearchSpec(min_gain=0.0 if seed % 2 else None)
    known = all_evaluations(table, sizes)
    whole = replay(spec, search, known)
    random.Random(seed).shuffle(known)
    assert replay(spec, search, known) == whole

    def score(unit):
        names = unit.candidate.blocks
        return evaluation(names, unit.fold, table[names][unit.fold], sizes[unit.fold])

    ways = [min, max, lambda units, key: random.Random(f"{seed} {len(units)}").choice(units)]
    runs = [drive(spec, search, score, pick) for pick in ways]
    for state, done in runs:
        assert state == whole
        assert len(done) == sum(len(round_.evaluations) for round_ in whole.rounds)  # nothing else, nothing twice


@pytest.mark.parametrize("seed", range(10))
def test_any_part_of_the_evaluations_leaves_exactly_the_rest_pending(seed):
    sizes = (3, 3)
    table, spec, search = random_table(seed, sizes), make_spec("abcd", 2), SearchSpec(min_gain=0.0)
    known = all_evaluations(table, sizes)
    random.Random(seed).shuffle(known)
    for most in range(len(known) + 1):
        state = replay(spec, search, known[:most])
        last = state.rounds[-1]
        asked = {Unit(candidate, fold) for candidate in last.candidates for fold in range(2)}
        have = {each.unit for each in last.evaluations}
        if not state.finished:
            assert last.decision is None and have | set(state.pending) == asked and not have & set(state.pending)
            assert list(state.pending) == [
                unit for c in last.candidates for f in (0, 1) if (unit := Unit(c, f)) not in have
            ]
        assert all(round_.decision is not None for round_ in state.rounds[: -1 if not state.finished else None])


# --- replay ----------------------------------------------------------------------------------
def test_a_new_study_asks_for_the_head_alone():
    state = replay(make_spec("abcd", 3), SearchSpec(), [])
    assert state.pending == ((HEAD, 0, 0, 1.0), (HEAD, 1, 0, 1.0), (HEAD, 2, 0, 1.0))
    assert state.selection == HEAD and not state.finished and state.reason is None
    assert [round_.index for round_ in state.rounds] == [0]


def test_evaluations_of_other_things_are_left_out():
    spec, search = make_spec("abc", 1), SearchSpec()
    table = {names: (len(names),) for names in subsets("abc")}
    known = all_evaluations(table, (4,))
    foreign = [evaluation(("x",), 0, 4, 4), evaluation(("c", "a"), 0, 4, 4), evaluation(("a",), 7, 4, 4)]
    assert replay(spec, search, foreign + known) == replay(spec, search, known)


def test_of_two_evaluations_of_one_unit_the_first_counts():
    spec, search = make_spec("ab", 1), SearchSpec(max_blocks=1)
    table = {(): (1,), ("a",): (2,), ("b",): (1,), ("a", "b"): (1,)}
    again = [evaluation(("b",), 0, 4, 4)]
    assert replay(spec, search, all_evaluations(table, (4,)) + again).selection == Candidate(("a",))
    assert replay(spec, search, again + all_evaluations(table, (4,))).selection == Candidate(("b",))


def test_replay_does_not_need_a_list():
    spec = make_spec("ab", 1)
    state = replay(spec, SearchSpec(), (each for each in [evaluation((), 0, 1, 4)]))
    assert [unit.candidate for unit in state.pending] == [Candidate(("a",)), Candidate(("b",))]


@pytest.mark.parametrize("max_blocks", [0, 1, 2, 3, 4, 5, None], ids=str)
def test_max_blocks(max_blocks):
    table = {names: (len(names),) for names in subsets("abc")}
    state = replay(make_spec("abc", 1), SearchSpec(max_blocks=max_blocks), all_evaluations(table, (10,)))
    most = 3 if max_blocks is None else min(3, max_blocks)
    assert state.finished and len(state.selection.blocks) == most
    assert len(state.rounds) == most + 1  # no round beyond the bound
    assert "All 3 blocks" in state.reason if most == 3 else f"max_blocks={max_blocks}" in state.reason


def test_no_block_is_worth_it():
    table = {names: (5 - len(names),) for names in subsets("abc")}
    state = replay(make_spec("abc", 1), SearchSpec(), all_evaluations(table, (10,)))
    assert state.finished and state.selection == HEAD and len(state.rounds) == 2
    decision = state.rounds[1].decision
    assert decision.winner is None and decision.gain == pytest.approx(-0.1)
    assert state.reason == decision.reason
    assert decision.reason.startswith("No block is worth it: the best, c, gains -0.1, which does not exceed 0")


def test_reasons_name_what_the_gain_was_compared_with():
    table = {(): (1, 1), ("a",): (3, 2), ("b",): (2, 2), ("a", "b"): (3, 2)}
    known = all_evaluations(table, (4, 4))
    first, second, third = replay(make_spec("ab", 2), SearchSpec(), known).rounds
    assert first.decision.reason == "Start: the head alone scores 0.25."
    assert second.decision.reason == "a is added: gains 0.375, which exceeds one standard error (0.125)."
    assert third.decision.reason == (
        "No further block is worth it: the best, b, gains 0, which does not exceed one standard error (0)."
    )
    eager = replay(make_spec("ab", 2), SearchSpec(min_gain=0.0), known).rounds
    assert eager[2].decision.reason == "b is added: gains 0, at least min_gain (0)."
    strict = replay(make_spec("ab", 2), SearchSpec(min_gain=0.5), known).rounds
    assert strict[1].decision.reason == "No block is worth it: the best, a, gains 0.375, less than min_gain (0.5)."


# --- scores ----------------------------------------------------------------------------------
def test_the_score_is_the_mean_over_rows_not_over_folds():
    evaluations = [evaluation(("a",), 0, 9, 10), evaluation(("a",), 1, 0, 2)]
    assert score_of(evaluations) == 9 / 12
    assert score_of(reversed(evaluations)) == score_of(evaluations)


def test_a_score_is_of_one_candidate_and_of_different_folds():
    with pytest.raises(IncompleteRoundError):
        score_of([])
    with pytest.raises(ArgumentsError, match="counts each fold once"):
        score_of([evaluation(("a",), 0, 1, 2), evaluation(("a",), 0, 2, 2)])
    with pytest.raises(ArgumentsError, match="of one candidate"):
        score_of([evaluation(("a",), 0, 1, 2), evaluation(("b",), 1, 2, 2)])


def test_spread_is_the_sample_standard_deviation():
    assert spread_of([evaluation((), 0, 1, 4)]) is None
    assert spread_of([evaluation((), 0, 1, 4), evaluation((), 1, 3, 4)]) == pytest.approx(0.5 / 2**0.5)


def test_paired_gain_of_equal_folds_is_the_textbook_one():
    statistics = pytest.importorskip("statistics")
    before, after = (3, 5, 4, 6), (6, 5, 8, 7)
    gain, error = paired_gain(
        [evaluation((), fold, count, 10) for fold, count in enumerate(before)],
        [evaluation(("a",), fold, count, 10) for fold, count in enumerate(after)],
    )
    differences = [(new - old) / 10 for old, new in zip(before, after, strict=True)]
    assert gain == pytest.approx(statistics.fmean(differences))
    assert error == pytest.approx(statistics.stdev(differences) / 2)


def test_paired_gain_weighs_folds_by_their_rows():
    before = [evaluation((), 0, 4, 8), evaluation((), 1, 1, 2)]
    after = [evaluation(("a",), 0, 6, 8), evaluation(("a",), 1, 2, 2)]
    gain, error = paired_gain(before, after)
    assert gain == pytest.approx(3 / 10)
    # by hand: sqrt((0.8 * (0.25 - 0.3)**2 + 0.2 * (0.5 - 0.3)**2) / 1) = sqrt(0.002 + 0.008)
    assert error == pytest.approx(0.1)


def test_paired_gain_needs_the_same_folds_and_rows():
    head = [evaluation((), 0, 1, 4), evaluation((), 1, 1, 4)]
    with pytest.raises(IncompleteRoundError, match=r"\[0, 1\] and \[0\]"):
        paired_gain(head, [evaluation(("a",), 0, 1, 4)])
    with pytest.raises(IncompleteRoundError):
        paired_gain([], [])
    with pytest.raises(ArgumentsError, match="fold 1 has 4 for head only and 5 for a"):
        paired_gain(head, [evaluation(("a",), 0, 1, 4), evaluation(("a",), 1, 1, 5)])


# --- ties and thresholds: the last bits never decide -----------------------------------------
def test_scores_that_differ_in_the_last_bits_are_equal():
    assert same_score(0.1 + 0.2, 0.3) and same_score(-0.3, -(0.1 + 0.2)) and same_score(0.0, 0.0)
    assert not same_score(0.3, 0.3 + 1e-9) and not same_score(0.0, 1e-15) and not same_score(0.5, -0.5)


def test_a_tie_goes_to_the_block_nearest_the_head_even_if_the_last_bits_differ():
    table = dict.fromkeys(subsets("abc"), (0.0,)) | {("a",): (0.1 + 0.2,), ("b",): (0.3,), ("c",): (0.2,)}
    spec = make_spec("abc", 1)
    known = [evaluation(names, 0, values[0], 1) for names, values in table.items()]
    assert 0.1 + 0.2 > 0.3
    assert replay(spec, SearchSpec(max_blocks=1), known).selection == Candidate(("b",))


def test_a_gain_that_meets_min_gain_but_for_the_last_bits_reaches_it():
    assert 0.57 - 0.56 < 0.01  # in floats
    round_ = Round(1, HEAD, (Candidate(("a",)),), (evaluation(("a",), 0, 57, 100),))
    assert decide(round_, [evaluation((), 0, 56, 100)], SearchSpec(min_gain=0.01)).winner == Candidate(("a",))
    assert decide(round_, [evaluation((), 0, 56, 100)], SearchSpec(min_gain=0.0101)).winner is None


def test_a_gain_that_exceeds_nothing_but_in_the_last_bits_is_none():
    before = [evaluation((), 0, 0.3, 1)]
    round_ = Round(1, HEAD, (Candidate(("a",)),), (evaluation(("a",), 0, 0.1 + 0.2, 1),))
    decision = decide(round_, before, SearchSpec())
    assert decision.gain == 0.0 and decision.winner is None
    assert decide(round_, before, SearchSpec(min_gain=0.0)).winner is not None


@pytest.mark.parametrize(
    ("gain", "error", "min_gain", "stop"),
    [
        (0.1, 0.0, None, False),  # every fold gains the same
        (0.0, 0.0, None, True),
        (-0.1, 0.0, None, True),
        (0.1, 0.1, None, True),  # must exceed
        (0.1 + 2e-16, 0.1, None, True),
        (0.1 + 1e-9, 0.1, None, False),
        (0.1, None, None, False),  # one fold
        (0.0, None, None, True),
        (1e-14, None, None, True),  # noise of scores near 1
        (0.0, 0.1, 0.0, False),  # any gain, none included
        (-1e-9, 0.0, 0.0, True),
        (0.01, 0.5, 0.01, False),  # the standard error does not matter with min_gain
        (0.00999, 0.0, 0.01, True),
    ],
)
def test_stop_rule(gain, error, min_gain, stop):
    assert should_stop(gain, error, SearchSpec(min_gain=min_gain)) is stop


def test_folds_that_all_gain_the_same_have_a_standard_error_of_zero():
    before = [evaluation((), fold, score, 1) for fold, score in enumerate((0.1, 0.2, 0.7))]
    after = [evaluation(("a",), fold, score, 1) for fold, score in enumerate((0.2, 0.3, 0.8))]
    assert len({new.score - old.score for old, new in zip(before, after, strict=True)}) > 1  # in floats
    gain, error = paired_gain(before, after)
    assert gain == pytest.approx(0.1) and error == 0.0


def test_scores_may_be_negative_losses():
    table = {(): -0.9, ("a",): -0.5, ("b",): -0.7, ("a", "b"): -0.6}
    known = [evaluation(names, fold, value, 1) for names, value in table.items() for fold in (0, 1)]
    spec = make_spec("ab", 2, metric="eval_loss", greater_is_better=False)
    assert replay(spec, SearchSpec(), known).selection == Candidate(("a",))


# --- incomplete rounds -----------------------------------------------------------------------
def test_a_round_that_lacks_evaluations_has_no_winner():
    a, b = Candidate(("a",)), Candidate(("b",))
    with pytest.raises(IncompleteRoundError, match="no candidate"):
        pick_winner(Round(1, HEAD, (), ()))
    with pytest.raises(IncompleteRoundError, match="a was not evaluated on any fold"):
        pick_winner(Round(1, HEAD, (a, b), ()))
    with pytest.raises(IncompleteRoundError, match=r"b was not evaluated on the folds \[0\]"):
        pick_winner(Round(1, HEAD, (a, b), (evaluation(("a",), 0, 1, 2),)))
    partly = (evaluation(("a",), 0, 1, 2), evaluation(("a",), 1, 1, 2), evaluation(("b",), 1, 2, 2))
    with pytest.raises(IncompleteRoundError, match=r"b was not evaluated on the folds \[0\]"):
        pick_winner(Round(1, HEAD, (a, b), partly))
