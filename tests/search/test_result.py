"""Profile, ladder and result: derived from records alone, numbers by hand, text a user can read."""

import random
import sys

import pytest

from search.score_tables import all_evaluations, evaluation, make_spec
from subtuning_hf.errors import IncompleteRoundError, MissingDependencyError
from subtuning_hf.search.greedy import replay, score_of
from subtuning_hf.search.profile import profile_of
from subtuning_hf.search.records import Candidate, SearchSpec
from subtuning_hf.search.result import Cost, SearchResult, ladder, ladder_table
from subtuning_hf.search.space import pairs
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
    assert found.cost == Cost(14, 14.0)
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
