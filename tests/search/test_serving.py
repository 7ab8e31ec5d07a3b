"""What serving costs: the sums, the rule that prefers cheap blocks, the bound, and what journals and results say."""

import json
from dataclasses import replace

import pytest

from search.score_tables import all_evaluations, make_spec, subsets
from subtuning_hf.errors import ArgumentsError, UnknownBlockError
from subtuning_hf.search.directions import left_out
from subtuning_hf.search.greedy import replay
from subtuning_hf.search.journal import Journal, read_study
from subtuning_hf.search.latency import BatchLatency, LatencyProfile, Timing, WholeRun
from subtuning_hf.search.proposals import Predicted, predict_ladder, shortlist_of
from subtuning_hf.search.records import Candidate, SearchSpec
from subtuning_hf.search.result import SearchResult
from subtuning_hf.search.serving import ServingCost

# Alone, a block of the four adds 3 ms for itself and each one behind it: 1.2, 0.9, 0.6 and 0.3 passes of 10 ms.
COST = ServingCost(tuple("abcd"), (2.0,) * 4, (5.0,) * 4, (5.0,) * 4, 2.0, 4, 8)
SIZES = (100, 100, 100)


def table(scores):
    """Counts of right answers on three folds; what is not named scores as the head alone."""
    return {names: scores.get("".join(names), (50, 50, 50)) for names in subsets("abcd")}


def run(scores, **fields):
    search = SearchSpec(**{"serving": COST} | fields)
    known = all_evaluations(table(scores), SIZES)
    state = replay(make_spec("abcd", 3), search, known)
    assert state.finished
    return state, SearchResult.from_state(make_spec("abcd", 3), state, known, search=search)


# a is best by a hair, d is about as good, c is clearly worse than a, and b is no gain at all.
LADDER = {"a": (80, 70, 75), "d": (79, 72, 72), "c": (70, 61, 66), "ad": (80, 70, 75)}


# --- the cost --------------------------------------------------------------------------------
def test_what_selections_add():
    cost = ServingCost(tuple("abc"), (1.0, 2.0, 3.0), (4.0, 5.0, 7.0), (6.0, 9.0, 8.0), 4.0, 4, 8)
    assert cost.one_pass == 10
    assert cost.added(()) == 0
    assert cost.added("c") == 8 - 3
    assert cost.added("b") == (9 - 2) + (7 - 3)
    assert cost.added("ca") == cost.added("ac") == (6 - 1) + (5 - 2) + (8 - 3)
    assert cost.relative("c") == 0.5
    assert cost.words == "4 tasks on a batch of 8 rows"


def test_more_and_earlier_never_costs_less_where_a_tuned_block_is_no_cheaper():
    for tuned in ((5.0,) * 4, (5.0, 6.0, 7.0, 8.0)):
        cost = replace(COST, tuned=tuned)
        for names in subsets("abcd"):
            assert cost.added(names) >= 0
            for name in set("abcd") - set(names):
                assert cost.added((*names, name)) >= cost.added(names)
    alone = [COST.added([name]) for name in "abcd"]
    assert alone == sorted(alone, reverse=True) and len(set(alone)) == 4


def test_a_clock_that_went_backwards_adds_nothing():
    cost = replace(COST, stacked=(1.0, 5.0, 5.0, 1.0), tuned=(1.5, 5.0, 5.0, 0.5))
    assert cost.added("d") == 0
    assert cost.added("a") == 3 + 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"blocks": tuple("abca")}, "every block of a model once"),
        ({"shared": (1.0,)}, "must hold 4 times"),
        ({"tuned": (1.0, 1.0, -1.0, 1.0)}, "0 or more"),
        ({"shared": (0.0,) * 4, "outside": 0.0}, "above 0 ms"),
        ({"num_tasks": 0}, "1 or more"),
    ],
)
def test_costs_that_mean_nothing(change, words):
    with pytest.raises(ArgumentsError, match=words):
        replace(COST, **change)
    with pytest.raises(UnknownBlockError, match="'e'"):
        COST.added("e")


# --- the rule --------------------------------------------------------------------------------
def test_the_later_block_is_taken_where_it_is_about_as_good():
    plain, _ = run(LADDER)
    aware, result = run(LADDER, serving_aware=True)
    assert plain.selection.blocks == ("a",)
    assert aware.selection.blocks == ("d",)
    # c is cheaper than a too, but further behind it than one standard error.
    assert (
        "of the 2 candidates within one standard error of the best it adds least latency"
        in aware.rounds[1].decision.reason
    )
    assert "0.30 passes instead of the 1.20 of a" in aware.rounds[1].decision.reason
    row = result.ladder[1]
    assert (row.block, row.added_latency) == ("d", 0.3)
    assert row.mean == pytest.approx((0.79 + 0.72 + 0.72) / 3)
    assert row.gain == pytest.approx(row.mean - 0.5) == aware.rounds[1].decision.gain
    assert "+0.30" in result.table() and "the chosen blocks add 0.30 passes (3 ms)" in result.table()


def test_a_clear_winner_stays():
    state, _ = run(LADDER | {"d": (75, 66, 70)}, serving_aware=True)
    assert state.selection.blocks == ("a",)
    assert "no other candidate that is worth it is within one standard error" in state.rounds[1].decision.reason


def test_a_cheap_block_must_be_worth_it_itself():
    # a gains 5, 5, 5; d 0, 14, 0: its gain is below its standard error, and the gap of a to d within that of the gap.
    scores = {"a": (55, 55, 55), "d": (50, 64, 50)}
    assert run(scores, serving_aware=True)[0].selection.blocks == ("a",)
    assert run(scores | {"d": (53, 58, 53)}, serving_aware=True)[0].selection.blocks == ("d",)


def test_no_block_is_worth_it_whatever_it_costs():
    state, _ = run({"a": (49, 52, 50)}, serving_aware=True)
    assert state.selection == Candidate()


def test_with_a_single_fold_only_equal_scores_are_as_good():
    known = all_evaluations({names: (counts[0],) for names, counts in table(LADDER).items()}, (100,))
    search = SearchSpec(serving=COST, serving_aware=True)
    assert replay(make_spec("abcd", 1), search, known).selection.blocks == ("a",)
    known = all_evaluations({n: (c[0],) for n, c in table(LADDER | {"d": (80, 0, 0)}).items()}, (100,))
    assert replay(make_spec("abcd", 1), search, known).selection.blocks == ("d",)


def test_of_equally_cheap_ones_the_best():
    cost = replace(COST, stacked=(2.0,) * 4, tuned=(5.0,) * 4)
    state, _ = run(LADDER | {"b": (79, 71, 74)}, serving=cost, serving_aware=True)
    assert state.selection.blocks == ("a",)


def test_backward_removes_the_dear_block_where_it_is_missed_as_little():
    whole = {"".join(names): (80, 70, 75) for names in subsets("abcd") if len(names) > 2}
    scores = whole | {"abc": (80, 71, 76), "bcd": (80, 70, 76)}  # removing d is best, and a about as good
    plain, _ = run(scores, direction="backward")
    aware, _ = run(scores, direction="backward", serving_aware=True)
    assert plain.rounds[1].decision.winner.blocks == tuple("abc")
    assert aware.rounds[1].decision.winner.blocks == tuple("bcd")
    assert aware.rounds[1].decision.reason.startswith("a is removed")


# --- the bound -------------------------------------------------------------------------------
@pytest.mark.parametrize(("most", "kept"), [(1.2, "abcd"), (0.9, "bcd"), (0.5, "d"), (0.1, "")])
def test_candidates_beyond_the_bound_are_not_trained(most, kept):
    for direction in ("forward", "backward", "best"):
        state, result = run(LADDER, max_added_latency=most, direction=direction)
        tried = {c for part in state.parts or (state,) for round_ in part.rounds for c in round_.candidates}
        assert {name for candidate in tried for name in candidate.blocks} == set(kept)
        assert COST.relative(state.selection.blocks) <= most + 1e-9
        assert [each.label for each in result.left_out] == [name for name in "abcd" if name not in kept]
        assert ("Not trained, since they add more than" in result.table()) == (kept != "abcd")
    if not kept:
        assert run(LADDER, max_added_latency=most)[0].reason == "No block fits under max_added_latency=0.1."


def test_a_backward_search_is_forced_below_the_bound():
    cost = replace(COST, tuned=(9.0,) * 4)  # one block alone: 0.7 to 1.6 passes; two more than 1.0
    state, _ = run(LADDER, serving=cost, direction="backward", max_added_latency=1.0)
    assert [round_.candidates[0].blocks for round_ in state.rounds[:1]] == [("c", "d")]
    assert "over max_added_latency=1" in state.rounds[1].decision.reason
    assert len(state.selection.blocks) <= 1


def test_of_a_list_too():
    listed = (Candidate(("a",)), Candidate(("c", "d")), Candidate(("d",)))
    state, result = run(LADDER, direction="list", candidates=listed, max_added_latency=0.7)
    assert state.selection.blocks == ("d",)
    assert result.left_out == (Candidate(("a",)),)


def test_searches_that_predict_keep_the_bound():
    search = SearchSpec("short-profile", budget=1.0, serving=COST, max_added_latency=0.7)
    spec = make_spec("abcd", 3)
    worth = {"a": 0.4, "b": 0.3, "c": 0.2, "d": 0.1}
    asked = []

    def predict(candidate):
        asked.append(candidate)
        return Predicted(candidate, (sum(worth[name] for name in candidate.blocks),))

    state, predictions = predict_ladder(spec, search, predict)
    assert state.selection.blocks == ("c", "d")
    assert not any(set(candidate.blocks) & set("ab") for candidate in asked)
    assert shortlist_of(spec, search, state, predictions)[0].blocks == ("c", "d")
    assert [each.label for each in left_out(spec, search)] == ["a", "b"]


@pytest.mark.parametrize(
    "fields",
    [
        {"serving": None, "serving_aware": True},
        {"serving": None, "max_added_latency": 0.5},
        {"serving_aware": True, "pruner": "certain", "score_limit": 1.0},
        {"serving_aware": True, "strategy": "kernel", "budget": 1.0},
        {"max_added_latency": -0.1},
        {"serving_aware": 1},
    ],
)
def test_settings_that_do_not_fit(fields):
    with pytest.raises(ArgumentsError):
        SearchSpec(**{"serving": COST} | fields)


# --- records and files -----------------------------------------------------------------------
def test_the_journal_keeps_it_and_older_searches_are_written_as_before(tmp_path):
    search = SearchSpec(serving=COST, max_added_latency=0.7, serving_aware=True)
    with Journal.open(tmp_path, make_spec("abcd", 3), "rank-0000") as journal:
        journal.append(SearchSpec())
        journal.append(search)
    assert read_study(tmp_path).searches == (SearchSpec(), search)
    assert not {"serving", "max_added_latency", "serving_aware"} & SearchSpec().to_json().keys()
    assert SearchSpec.from_json(json.loads(json.dumps(search.to_json()))) == search


def profile():
    times = tuple(Timing(float(n)) for n in (2, 2, 2, 2))
    stacked = tuple(Timing(float(n), 0.5) for n in (5, 5, 5, 5))
    runs = (WholeRun((), Timing(11.0)), WholeRun(("a",), Timing(23.0)))
    whole, outside = Timing(10.0, 0.1), Timing(2.0)
    batches = tuple(BatchLatency(size, 5, whole, outside, times, stacked, stacked, runs) for size in (1, 8))
    return LatencyProfile("net", 4, tuple("abcd"), (10, 20, 30, 40), (40, 80, 120, 160), batches, {"device": "x"})


def test_a_profile_goes_to_disk_and_back(tmp_path):
    file = profile().save(tmp_path / "sub" / "latency.json")
    assert LatencyProfile.load(file) == profile()
    assert profile().cost(8) == COST
    assert profile().predicted("a", 8) == 22
    assert profile().measured(8)[1].time.median == 23
    lines = profile().table().splitlines()
    assert lines[2].split() == ["a", "2", "12", "1.20", "2", "12", "1.20", "4e-05"]
    with pytest.raises(ArgumentsError, match="for batches of 1, 8 rows, found 4"):
        profile().cost(4)


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"format": 2}', '{"format": 1, "model": "x"}'])
def test_files_that_are_no_profile(tmp_path, content):
    file = tmp_path / "latency.json"
    file.write_text(content)
    with pytest.raises(ArgumentsError, match="must be a latency profile"):
        LatencyProfile.load(file)
    with pytest.raises(ArgumentsError, match="must be a latency profile"):
        LatencyProfile.load(tmp_path / "none.json")


def test_medians_and_quartiles():
    assert Timing.of([3.0]) == Timing(3.0, 0.0)
    assert Timing.of([1.0, 2.0, 3.0, 4.0, 100.0]) == Timing(3.0, 1.0)
