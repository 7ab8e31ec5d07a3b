"""Searches that start from blocks that another search chose: what is tried first, and that nothing else changes."""

import json
import random

import pytest

from search.score_tables import drive, evaluation, make_spec, subsets
from subtuning_hf.errors import ArgumentsError, DuplicateBlockError
from subtuning_hf.search.greedy import replay, speculate
from subtuning_hf.search.origin import SearchStart
from subtuning_hf.search.proposals import (
    Predicted,
    ProposalRun,
    confirm,
    plan_shortlist,
    predict_ladder,
    shortlist_of,
    started_with,
)
from subtuning_hf.search.records import Candidate, Evaluation, SearchSpec, Unit

KERNEL = SearchSpec(strategy="kernel", budget=1.0)


def start(blocks, source="user/adapter", revision=None):
    return SearchStart(tuple(blocks), source, revision)


def pick(blocks):
    return Candidate(tuple(blocks))


def first_tried(search, known=(), spec=None):
    """The candidates that are pending, by the letters of their blocks, in their order."""
    state = replay(spec or make_spec("abcd", 2), search, known)
    return list(dict.fromkeys("".join(unit.candidate.blocks) for unit in state.pending))


# --- the record ------------------------------------------------------------------------------
def test_a_start_survives_json_and_a_search_without_one_is_written_as_before():
    search = SearchSpec(max_blocks=2, start=start("ca", revision="0f"))
    assert SearchSpec.from_json(json.loads(json.dumps(search.to_json()))) == search
    written = search.to_json()
    assert written.pop("start") == {"blocks": ["c", "a"], "source": "user/adapter", "revision": "0f"}
    assert written == SearchSpec(max_blocks=2).to_json()


def test_starts_are_the_same_if_their_blocks_are():
    assert start("ca") == start("ca", "folder", "0f") and hash(start("ca")) == hash(start("ca", "folder"))
    assert start("ca") != start("ac") and SearchSpec(start=start("a")) != SearchSpec()


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: start("aa"), DuplicateBlockError),
        (lambda: start("a", ""), ArgumentsError),
        (lambda: start("a", "user/adapter", 3), ArgumentsError),
        (lambda: SearchStart("a", "user/adapter"), ArgumentsError),
        (lambda: SearchSpec(start={"blocks": ["a"]}), ArgumentsError),
        (lambda: SearchStart.from_json({"blocks": "a", "source": "s", "revision": None}), ArgumentsError),
        (lambda: SearchStart.from_json({"blocks": ["a"], "source": "s"}), ArgumentsError),
        (lambda: SearchStart.from_json({"blocks": ["a"], "source": "s", "revision": None, "score": 1}), ArgumentsError),
    ],
)
def test_refused(make, error):
    with pytest.raises(error):
        make()


# --- what is tried first ---------------------------------------------------------------------
def test_forward_tries_the_blocks_in_the_order_in_which_they_were_chosen():
    search = SearchSpec(min_gain=0.0, start=start("ca"))
    head = [evaluation((), fold, 0, 4) for fold in (0, 1)]
    assert first_tried(search) == [""]
    assert first_tried(search, head) == ["c", "a", "b", "d"]
    assert first_tried(SearchSpec(min_gain=0.0), head) == ["a", "b", "c", "d"]
    singles = [evaluation((name,), fold, name == "d", 4) for name in "abcd" for fold in (0, 1)]
    assert first_tried(search, head + singles) == ["cd", "ad", "bd"]  # `d` was best here, whatever was best there


def test_backward_keeps_the_blocks_and_lists_begin_with_the_nearest():
    known = [evaluation(("a", "b", "c", "d"), fold, 1, 4) for fold in (0, 1)]
    search = SearchSpec(direction="backward", start=start("ca"))
    assert first_tried(search, known) == ["abc", "acd", "bcd", "abd"]
    listed = SearchSpec(direction="list", candidates=tuple(map(pick, ("b", "ab", "ac", "acd"))), start=start("ca"))
    head = [evaluation((), fold, 0, 4) for fold in (0, 1)]
    assert first_tried(listed, head) == ["ac", "acd", "ab", "b"]


def test_idle_processes_begin_with_it_too():
    spec, search = make_spec("abcd", 1), SearchSpec(start=start("ca"))
    ahead = speculate(spec, search, (), replay(spec, search, ()))
    assert [unit.candidate for unit in ahead] == list(map(pick, "cabd"))


@pytest.mark.parametrize("direction", ["forward", "backward", "best"])
@pytest.mark.parametrize(
    "rules", [{}, {"pruner": "race"}, {"pruner": "halving"}, {"pruner": "certain", "score_limit": 1.0}], ids=str
)
def test_no_decision_changes(direction, rules):
    spec, sizes = make_spec("abcd", 3), (5, 4, 4)
    for seed in range(12):
        chance = random.Random(seed)
        table = {names: tuple(chance.randrange(size + 1) for size in sizes) for names in subsets("abcd")}

        def score(unit, table=table):
            blocks, fold = unit.candidate.blocks, unit.fold
            return evaluation(blocks, fold, table[blocks][fold], sizes[fold], budget=unit.budget)

        ends = []
        for known in (None, start("db")):
            search = SearchSpec(direction=direction, start=known, **rules)
            state, done = drive(spec, search, score, pick=lambda units, key: units[0])
            ends.append((state.rounds, state.selection, state.reason, {each.unit for each in done}))
        assert ends[0] == ends[1]


# --- searches that predict -------------------------------------------------------------------
SCORES = {"": 0.0, "a": 0.5, "b": 0.2, "c": 0.1, "d": 0.4}


def shortlist(blocks, **fields):
    search = SearchSpec(strategy="kernel", budget=1.0, start=None if blocks is None else start(blocks), **fields)
    spec = make_spec("abcd", 2)

    def predict(candidate):
        return Predicted(candidate, (max(map(SCORES.__getitem__, candidate.blocks), default=0.0),))

    state, predictions = predict_ladder(spec, search, predict)
    return ["".join(each.blocks) for each in shortlist_of(spec, search, state, predictions)], predictions


def test_the_selection_follows_the_one_that_is_predicted_best():
    assert shortlist(None)[0] == ["a", "d", "b"]
    assert shortlist("c")[0] == ["a", "c", "d"] and shortlist("a")[0] == ["a", "d", "b"]
    found, predictions = shortlist("cb")
    assert found == ["a", "bc", "d"]
    assert [each.score for each in predictions if each.candidate == pick("bc")] == [0.2]  # never asked for otherwise
    assert [each.score for each in predictions] == sorted((each.score for each in predictions), reverse=True)


def test_a_selection_over_the_bounds_is_left_out():
    assert shortlist("cb", max_blocks=1)[0] == ["a", "d", "b"]
    assert shortlist("c", max_block_parameters=25)[0] == ["a", "b", ""]  # their sizes are 10, 20, 30, 40
    assert started_with(make_spec("abcd"), KERNEL) is None


def test_a_larger_selection_is_compared_by_full_trainings_or_not_at_all():
    names = [pick("a"), pick("bc"), pick("d")]
    prices = [(1.0, 0.1), (2.0, 0.1), (1.0, 0.1)]
    assert plan_shortlist(names, prices, 4.3, 5) == (tuple(names), 1.0, 1)
    assert plan_shortlist(names, prices, 3.2, 5) == ((pick("a"), pick("d")), 1.0, 1)  # all three for 72 %
    assert plan_shortlist(names, prices, 1.2, 5) == ((pick("a"), pick("d")), 0.5, 1)
    assert plan_shortlist(names, prices, 0.1, 5) == ((pick("a"),), 1.0, 0)
    same = [pick("a"), pick("c"), pick("d")]
    assert plan_shortlist(same, prices, 3.2, 5)[:2] == (tuple(same), pytest.approx(2.9 / 4))


@pytest.mark.parametrize(
    ("blocks", "words"), [("b", "kernel predicted best or that 'user/adapter' has"), ("d", "best")]
)
def test_the_reason_says_where_a_selection_is_from(blocks, words):
    search = SearchSpec(strategy="kernel", budget=1.0, start=start(blocks))
    made = tuple(Predicted(pick(name), (score,)) for name, score in (("a", 0.5), ("b", 0.25)))
    run = ProposalRun(search, made, (pick("a"), pick("b")), (0, 1), 1.0, 0.5, 1.0, 1.0)
    assert run.units == tuple(Unit(pick(name), fold) for fold in (0, 1) for name in "ab")
    state = confirm(
        run, [Evaluation(u.candidate, u.fold, 0.5 + 0.25 * (u.candidate == pick("b")), 8) for u in run.units]
    )
    assert state.selection == pick("b")
    assert state.reason.startswith("b was best of the 2 that kernel predicted best") and f"{words} when" in state.reason
