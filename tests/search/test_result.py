"""Profile, ladder and result: derived from records alone, numbers by hand, text a user can read."""

import random
import sys

import pytest

from search.score_tables import all_evaluations, evaluation, make_spec
from subtuning_hf.errors import ArgumentsError, IncompleteRoundError, MissingDependencyError
from subtuning_hf.search.greedy import replay, score_of
from subtuning_hf.search.profile import profile_of
from subtuning_hf.search.records import Candidate, SearchSpec
from subtuning_hf.search.result import Cost, SearchResult, ladder, ladder_table
from subtuning_hf.search.space import pairs, units_of, windows
from subtuning_hf.search.tables import decimal, text_table

SIZES = (4, 6)
TABLE = {
    (): (1, 1),
    ("a",): (2, 3),
    ("b",): (1, 2),
    ("c",): (3, 5),
    ("a", "b"): (3, 3),
    ("a", "c"): (4, 6),
    ("b", "c"): (3, 5),
    ("a", "b", "c"): (4, 6),
}
SPEC = make_spec("abc", 2)


def known(**fields):
    return [
        evaluation(names, fold, count, SIZES[fold], trainable_parameters=5 + len(names), seconds=0.5 + fold, **fields)
        for names, counts in TABLE.items()
        for fold, count in enumerate(counts)
    ]


def result(search=None, spec=SPEC, evaluations=None):
    evaluations = known() if evaluations is None else evaluations
    return SearchResult.from_state(spec, replay(spec, search or SearchSpec(), evaluations), evaluations)


# --- profile ---------------------------------------------------------------------------------
def test_the_profile_holds_each_block_in_forward_order():
    profile = profile_of(SPEC, known())
    assert [row.label for row in profile.rows] == ["a", "b", "c"] and profile.missing == ()
    assert profile.head_only.mean == pytest.approx(0.2) and profile.head_only.num_parameters == 0
    row = profile.rows[2]
    assert row.mean == pytest.approx(0.8)
    assert row.spread == pytest.approx(abs(3 / 4 - 5 / 6) / 2**0.5)
    assert row.standard_error == pytest.approx((0.4 * (0.75 - 0.8) ** 2 + 0.6 * (5 / 6 - 0.8) ** 2) ** 0.5)
    assert row.gain == pytest.approx(0.6)
    assert row.gain_standard_error == pytest.approx((0.4 * (0.5 - 0.6) ** 2 + 0.6 * (4 / 6 - 0.6) ** 2) ** 0.5)
    assert (row.num_parameters, row.trainable_parameters, row.seconds) == (30, 6, 2.0)


def test_the_profile_does_not_depend_on_the_order_of_evaluations():
    evaluations = known()
    whole = profile_of(SPEC, evaluations)
    for seed in range(10):
        random.Random(seed).shuffle(evaluations)
        assert profile_of(SPEC, evaluations) == whole


def test_the_profile_of_other_candidates():
    profile = profile_of(SPEC, known(), pairs("abc"))
    assert [row.label for row in profile.rows] == ["a + b", "a + c", "b + c"]
    assert [row.num_parameters for row in profile.rows] == [30, 40, 50]


def test_candidates_that_lack_a_fold_are_missing():
    evaluations = [each for each in known() if (each.candidate.blocks, each.fold) not in {(("b",), 1), ((), 0)}]
    profile = profile_of(SPEC, evaluations)
    assert [row.label for row in profile.rows] == ["a", "c"] and profile.missing == (Candidate(("b",)),)
    assert profile.head_only is None and profile.rows[0].gain is None
    assert profile_of(SPEC, []).rows == () and len(profile_of(SPEC, []).missing) == 3


def test_of_two_evaluations_of_one_unit_the_profile_counts_the_same_as_the_search():
    again = [evaluation(("b",), fold, SIZES[fold], SIZES[fold]) for fold in (0, 1)]
    for evaluations in (known() + again, again + known()):
        row = profile_of(SPEC, evaluations).rows[1]
        round_ = replay(SPEC, SearchSpec(), evaluations).rounds[1]
        assert row.mean == score_of(round_.of(Candidate(("b",))))
    assert row.mean == 1.0


def test_the_profile_of_one_fold_has_no_spread():
    row = profile_of(make_spec("abc", 1), known()).rows[0]
    assert (row.spread, row.standard_error, row.gain_standard_error) == (None, None, None)
    assert row.gain == pytest.approx(0.25)


def test_profile_rows_are_flat():
    rows = profile_of(SPEC, known()).to_rows()
    assert [row["block"] for row in rows] == ["a", "b", "c"]
    assert rows[0]["mean"] == 0.5 and rows[0]["num_parameters"] == 10


def test_the_profile_as_text():
    assert profile_of(SPEC, known()).table() == (
        "block      accuracy  spread     gain    s.e.  parameters  seconds\n"
        "---------  --------  ------  -------  ------  ----------  -------\n"
        "head only    0.2000  0.0589                            0      2.0\n"
        "a            0.5000  0.0000  +0.3000  0.0408          10      2.0\n"
        "b            0.3000  0.0589  +0.1000  0.0816          20      2.0\n"
        "c            0.8000  0.0589  +0.6000  0.0816          30      2.0"
    )


def test_repeats_are_averaged_fold_by_fold_before_anything_else():
    again = [evaluation(("a",), fold, 4, SIZES[fold], repeat=2, seconds=1.0) for fold in (0, 1)]
    lone = [evaluation(("b",), 0, 4, SIZES[0], repeat=1)]  # lacks a fold
    reduced = [evaluation(("c",), fold, 0, SIZES[fold], budget=0.5) for fold in (0, 1)]
    evaluations = known() + again + lone + reduced
    random.Random(1).shuffle(evaluations)
    profile = profile_of(SPEC, evaluations)
    a, b, c = profile.rows
    assert (a.repeats, b.repeats, c.repeats, profile.head_only.repeats) == (2, 1, 1, 1)
    means = ((2 / 4 + 4 / 4) / 2, (3 / 6 + 4 / 6) / 2)
    assert a.mean == pytest.approx((4 * means[0] + 6 * means[1]) / 10)
    assert a.spread == pytest.approx(abs(means[0] - means[1]) / 2**0.5)
    assert a.gain == pytest.approx(a.mean - 0.2) and a.seconds == 4.0
    gains = (means[0] - 1 / 4, means[1] - 1 / 6)
    assert a.gain_standard_error == pytest.approx(
        (0.4 * (gains[0] - a.gain) ** 2 + 0.6 * (gains[1] - a.gain) ** 2) ** 0.5
    )
    assert a.seed_spread == pytest.approx(abs(5 / 10 - 8 / 10) / 2**0.5) and b.seed_spread is None
    plain = profile_of(SPEC, known())
    assert (b, c) == plain.rows[1:] and profile.head_only == plain.head_only
    assert [line.split()[-1] for line in profile.table().splitlines()] == ["repeats", "-------", "1", "2", "1", "1"]
    assert [row["repeats"] for row in profile.to_rows()] == [2, 1, 1]


def test_repeats_must_be_of_the_same_rows():
    with pytest.raises(ArgumentsError, match="the same rows"):
        profile_of(SPEC, [*known(), *(evaluation(("a",), fold, 1, 3, repeat=1) for fold in (0, 1))])


def test_what_a_profile_needs():
    candidates = [Candidate(), Candidate(("a",))]
    units = units_of(candidates, 2, repeats=2)
    assert [(unit.candidate.label, unit.fold, unit.repeat, unit.budget) for unit in units] == [
        (name, fold, repeat, 1.0) for repeat in (0, 1) for name in ("head only", "a") for fold in (0, 1)
    ]
    table = {unit: evaluation(unit.candidate.blocks, unit.fold, 1, 4, repeat=unit.repeat) for unit in units}
    profile = profile_of(SPEC, table.values(), candidates[1:])
    assert profile.missing == () and profile.rows[0].repeats == 2


def test_a_profile_of_windows_to_pandas():
    pytest.importorskip("pandas")
    frame = profile_of(SPEC, known(), windows("abc", 2)).to_pandas()
    assert list(frame["block"]) == ["a + b", "b + c"] and list(frame["repeats"]) == [1, 1]


# --- ladder and result -----------------------------------------------------------------------
def test_the_ladder_has_a_row_for_each_round():
    rows = ladder(result().rounds)
    assert [(row.round, row.block, row.added) for row in rows] == [
        (0, None, True),
        (1, "c", True),
        (2, "a", True),
        (3, "b", False),
    ]
    assert [row.num_evaluations for row in rows] == [2, 6, 4, 2]
    assert [row.seconds for row in rows] == [2.0, 6.0, 4.0, 2.0]
    assert [row.trainable_parameters for row in rows] == [5, 6, 7, 8]
    assert [row.mean for row in rows] == pytest.approx([0.2, 0.8, 1.0, 1.0])
    assert [row.gain for row in rows] == [None, *map(pytest.approx, (0.6, 0.2, 0.0))]
    assert rows[0].threshold is None and rows[1].threshold == rows[1].standard_error


def test_the_ladder_leaves_out_a_round_under_way():
    state = replay(SPEC, SearchSpec(), [each for each in known() if len(each.candidate.blocks) < 2])
    assert not state.finished and [row.block for row in ladder(state.rounds)] == [None, "c"]


def test_a_result():
    found = result()
    assert found.blocks == ("c", "a")  # in the order they were chosen
    assert found.rounds == replay(SPEC, SearchSpec(), known()).rounds
    assert found.cost == Cost(14, 14.0, 14.0)
    assert found.profile == profile_of(SPEC, known())
    assert found.reason.startswith("No further block is worth it: the best, b, gains 0")
    assert found.ladder == ladder(found.rounds)


def test_a_result_needs_no_other_evaluations_than_its_own():
    state = replay(SPEC, SearchSpec(), known())
    assert SearchResult.from_state(SPEC, state) == result()


def test_no_block_is_worth_it_is_a_result():
    found = result(SearchSpec(min_gain=0.9))
    assert found.blocks == () and len(found.rounds) == 2 and found.cost.num_evaluations == 8
    assert found.table().endswith("Chosen: no block, the head alone (8 trainings, 8.0 s).")
    assert "No block is worth it: the best, c, gains 0.6, less than min_gain (0.9)." in found.table()
    assert result(SearchSpec(max_blocks=0)).blocks == ()


def test_an_unfinished_search_has_no_result():
    with pytest.raises(IncompleteRoundError, match="found round 0 with 2 evaluations missing"):
        result(evaluations=[])


def test_the_result_as_text():
    assert result().table() == (
        "round  block added  accuracy  spread     gain    s.e.  trainable  trainings  seconds\n"
        "-----  -----------  --------  ------  -------  ------  ---------  ---------  -------\n"
        "0      head only      0.2000  0.0589                           5          2      2.0\n"
        "1      c              0.8000  0.0589  +0.6000  0.0816          6          6      6.0\n"
        "2      a              1.0000  0.0000  +0.2000  0.0408          7          4      4.0\n"
        "3      (b)            1.0000  0.0000  +0.0000  0.0000          8          2      2.0\n"
        "\n"
        "No further block is worth it: the best, b, gains 0, which does not exceed one standard error (0).\n"
        "Chosen: c, a (14 trainings, 14.0 s)."
    )


def test_the_ladder_of_a_backward_search():
    found = result(SearchSpec(direction="backward"))
    assert found.blocks == ("a", "c")  # in forward order
    rows = found.ladder
    assert [(row.change, row.block, row.added, row.num_blocks) for row in rows] == [
        ("start", None, True, 3),
        ("remove", "b", True, 2),
        ("remove", "a", False, 1),
    ]
    assert [row.gain for row in rows] == [None, 0.0, pytest.approx(-0.2)]
    assert [row.label for row in rows] == ["all 3 blocks", "- b", "- a"]
    assert [row.num_candidates for row in rows] == [1, 3, 2] and found.cost == Cost(12, 12.0, 12.0)
    alone = SearchResult.from_state(SPEC, replay(SPEC, SearchSpec(direction="backward"), known()))
    assert alone.profile.head_only is None and [row.label for row in alone.profile.rows] == ["a", "c"]
    assert alone.profile.rows[0].gain is None and alone.profile.missing == (Candidate(("b",)),)
    lines = found.table().splitlines()
    assert lines[0].startswith("round  block removed  accuracy")
    assert [line.split("  ")[0] + line[7:22].rstrip() for line in lines[2:5]] == ["0all 3 blocks", "1b", "2(a)"]
    assert lines[-1] == "Chosen: a, c (12 trainings, 12.0 s)."


def test_the_ladder_of_a_list():
    pool = (Candidate(("b",)), Candidate(("a", "c")))
    found = result(SearchSpec(direction="list", candidates=pool))
    assert found.blocks == ("a", "c")
    assert [(row.change, row.block, row.num_blocks) for row in found.ladder] == [
        ("start", None, 0),
        ("choose", "a + c", 2),
    ]
    assert found.table().startswith("round  chosen     accuracy")


def test_a_result_of_two_starts_shows_both_and_counts_what_they_share_once():
    found = result(SearchSpec(direction="best", max_blocks=2))
    forward = result(SearchSpec(max_blocks=2))
    backward = result(SearchSpec(direction="backward", max_blocks=2))
    assert found.rounds == forward.rounds and found.parts == (forward.rounds, backward.rounds)
    assert found.blocks == ("c", "a")
    units = {each.unit for part in found.parts for round_ in part for each in round_.evaluations}
    assert found.cost.num_evaluations == len(units) == 16
    assert found.cost.num_evaluations < forward.cost.num_evaluations + backward.cost.num_evaluations
    text = found.table()
    assert text.startswith("Forward:\nround  block added") and "\n\nBackward:\nround  block removed" in text
    assert text.endswith("Both starts end at a + c.\nChosen: c, a (16 trainings, 16.0 s).")


def test_reduced_budgets_count_in_the_cost_and_pruned_candidates_in_the_ladder():
    budgets = (1 / 9, 1 / 3, 1.0)
    evaluations = [
        evaluation(names, fold, count, SIZES[fold], budget=budget, seconds=budget)
        for names, counts in TABLE.items()
        for fold, count in enumerate(counts)
        for budget in budgets
    ]
    found = result(SearchSpec(pruner="halving"), evaluations=evaluations)
    # Round 1: 3 candidates with a ninth, the one left in full; round 2: 2 and 1; round 3: a single candidate.
    assert [row.num_evaluations for row in found.ladder] == [2, 6 + 2, 4 + 2, 2]
    assert [(row.num_pruned, row.num_candidates) for row in found.ladder] == [(0, 1), (2, 3), (1, 2), (0, 1)]
    worth = 2 + (6 / 9 + 2) + (4 / 9 + 2) + 2
    assert found.cost == Cost(18, pytest.approx(worth), pytest.approx(worth))
    assert found.table().splitlines()[3].endswith("2 of 3")
    assert found.table().endswith("Chosen: c, a (18 trainings, worth 9.1 full ones, 9.1 s).")
    assert result().table().splitlines()[0].endswith("seconds")  # nothing about pruning where there is none


def test_a_metric_that_is_better_when_smaller_is_shown_as_it_is():
    table = {names: tuple(-count for count in counts) for names, counts in TABLE.items()}
    spec = make_spec("abc", 2, metric="eval_loss", greater_is_better=False)
    found = result(spec=spec, evaluations=all_evaluations(table, SIZES), search=SearchSpec(min_gain=0.0))
    assert found.ladder[0].mean == pytest.approx(-0.2)
    assert ladder_table(found.rounds, "eval_loss", False).split("\n")[2].split()[:4] == ["0", "head", "only", "0.2000"]
    assert found.table().split("\n")[2] == ladder_table(found.rounds, "eval_loss", False).split("\n")[2]
    assert found.profile.table().split("\n")[3].split()[:2] == ["a", "0.5000"]


def test_to_pandas():
    pytest.importorskip("pandas")
    frame = result().to_pandas()
    assert list(frame["block"][1:]) == ["c", "a", "b"] and list(frame["num_evaluations"]) == [2, 6, 4, 2]


def test_without_pandas_there_is_a_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingDependencyError, match="to_rows"):
        result().to_pandas()
    assert result().to_rows()[1]["block"] == "c"


# --- text ------------------------------------------------------------------------------------
def test_decimals():
    assert [decimal(value) for value in (None, 0.5, -0.0, 12345.678)] == ["", "0.5000", "0.0000", "12345.7"]
    assert [decimal(value, sign=True) for value in (0.5, -0.5, 0.0)] == ["+0.5000", "-0.5000", "+0.0000"]


def test_a_table_without_rows_is_its_headings():
    assert text_table(("a", "bb"), []) == "a  bb\n-  --"
