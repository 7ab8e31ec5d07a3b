"""Searches that predict, without models: records, the ladder on predictions, the shortlist, its price, the decision."""

import itertools
import json
import math
import random
from dataclasses import replace

import pytest

from search.score_tables import make_spec, subsets
from subtuning_hf.errors import ArgumentsError, JournalCorruptError, NonFiniteScoreError
from subtuning_hf.search.greedy import replay
from subtuning_hf.search.journal import Journal, read_study
from subtuning_hf.search.proposals import (
    LEAST_SHARE,
    MOST_CONFIRMED,
    MOST_TIED,
    Predicted,
    ProposalRun,
    confirm,
    plan_confirmation,
    predict_ladder,
    shortlist_of,
    with_all,
)
from subtuning_hf.search.records import Candidate, Evaluation, SearchSpec, Unit
from subtuning_hf.search.result import SearchResult

KERNEL = SearchSpec(strategy="kernel", budget=1.0)
KERNEL_LIST = SearchSpec(strategy="kernel", budget=1.0, direction="list", candidates=(Candidate(("a", "c")),))


def pick(blocks):
    """A candidate by the letters of its blocks."""
    return Candidate(tuple(blocks))


def predicted(blocks, *scores, error=0.0):
    return Predicted(pick(blocks), scores, error)


def make_run(shortlist=("a", "b", "ab"), folds=(1, 2), share=1.0, search=KERNEL, **fields):
    """A run over `shortlist` in this order; the head alone was predicted worst."""
    made = [predicted(blocks, 1.0 - 0.125 * place, error=0.01) for place, blocks in enumerate([*shortlist, ""])]
    given = {"fine_tunes": 0.5, "planned": 0.75, "seconds": 2.0, **fields}
    return ProposalRun(search, tuple(made), tuple(map(pick, shortlist)), folds, share, **given)


def trained(run, scores, size=10, **fields):
    """The trainings of a run; `scores` by the letters of the blocks, one for each fold."""
    return [
        Evaluation(unit.candidate, unit.fold, scores["".join(unit.candidate.blocks)][run.folds.index(unit.fold)], size,
                   budget=unit.budget, **fields)
        for unit in run.units
    ]  # fmt: skip


RUNS = [
    make_run(),
    make_run(share=0.3 + 1e-16, folds=[0], info={"started": 1.5, "rows": [1, 2]}),
    make_run(("a",), ()),
    make_run(("", "a"), (0,), search=SearchSpec(strategy="swap", direction="backward", max_blocks=1, budget=0.25)),
    ProposalRun(
        KERNEL,
        (Predicted(pick("a"), (0.5,), behind=(0.0, 0.0)), Predicted(pick("b"), (0.25,), 0.1, (1 / 3, 0.0))),
        *((pick("a"),), (), 1.0, 0.5, 0.5, 2.0),
    ),
]


# --- records ---------------------------------------------------------------------------------
@pytest.mark.parametrize("record", [*RUNS, predicted("ab", 0.1 + 0.2, -1 / 3, error=0.1), KERNEL], ids=repr)
def test_through_json_and_back(record):
    again = type(record).from_json(json.loads(json.dumps(record.to_json(), allow_nan=False)))
    assert again == record and hash(again) == hash(record) and again.to_json() == record.to_json()
    for name in record.to_json().keys() - {"budget"}:
        with pytest.raises(ArgumentsError, match=f"missing {name}"):
            type(record).from_json({key: value for key, value in record.to_json().items() if key != name})
    with pytest.raises(ArgumentsError, match="unknown speed"):
        type(record).from_json(record.to_json() | {"speed": 1})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"candidate": ("a",)}, "Predicted.candidate must be a Candidate"),
        ({"scores": ()}, "Predicted.scores must hold a score"),
        ({"behind": 0.5}, "Predicted.behind must be a difference and its error, found 0.5"),
        ({"behind": (0.5,)}, "Predicted.behind must be a difference and its error"),
        ({"behind": (math.nan, 0.5)}, "Predicted.behind must be a finite number"),
        ({"behind": (0.5, -0.5)}, "The error in Predicted.behind must be a finite number of 0 or more"),
        ({"scores": ("1",)}, "a score in Predicted.scores must be a number"),
        ({"standard_error": -0.1}, "Predicted.standard_error"),
        ({"standard_error": math.nan}, "Predicted.standard_error"),
    ],
    ids=str,
)
def test_bad_predictions(fields, words):
    with pytest.raises(ArgumentsError, match=words):
        Predicted(**{"candidate": pick("a"), "scores": (0.5,), **fields})


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_prediction_that_is_not_finite_says_what_to_do(score):
    with pytest.raises(NonFiniteScoreError, match=r"for a \+ b\. Lower the learning rate.*strategy='exact'"):
        predicted("ab", 0.5, score)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"search": SearchSpec()}, "search must be of a strategy that predicts, found strategy 'exact'"),
        ({"search": None}, "ProposalRun.search"),
        ({"predictions": (pick("a"),)}, "an item of ProposalRun.predictions must be a Predicted"),
        ({"shortlist": ("a",)}, "an item of ProposalRun.shortlist must be a Candidate"),
        ({"shortlist": (), "folds": ()}, "shortlist must hold different selections, one at least, found"),
        ({"shortlist": (pick("a"), pick("a"))}, "shortlist must hold different selections"),
        ({"folds": (0.0,)}, "a fold in ProposalRun.folds must be a whole number"),
        ({"folds": (-1,)}, "a fold in ProposalRun.folds"),
        ({"folds": (1, 1)}, "each once"),
        ({"folds": ()}, r"found \[\] for 3 selections"),
        ({"shortlist": (pick("a"),)}, r"none for a single selection; found \[1, 2\] for 1"),
        ({"share": 0.0}, "ProposalRun.share"),
        ({"share": 1.5}, "ProposalRun.share"),
        ({"fine_tunes": -1}, "ProposalRun.fine_tunes"),
        ({"planned": math.inf}, "ProposalRun.planned"),
        ({"seconds": "2"}, "ProposalRun.seconds"),
        ({"info": {"model": Ellipsis}}, "ProposalRun.info"),
    ],
    ids=str,
)
def test_bad_runs(fields, words):
    with pytest.raises(ArgumentsError, match=words):
        ProposalRun(**vars(make_run()) | fields)


@pytest.mark.parametrize("name", ["predictions", "shortlist", "folds"])
def test_lists_must_be_lists_in_a_file(name):
    with pytest.raises(ArgumentsError, match=f"ProposalRun.{name} must be a list"):
        ProposalRun.from_json(make_run().to_json() | {name: "ab"})


def test_a_run_in_the_journal_cut_at_every_byte(tmp_path):
    spec, run = make_spec("ab", 3), make_run()
    with Journal.open(tmp_path / "whole", spec) as journal:
        journal.append(trained(run, {"a": (0.5, 0.5), "b": (0, 0), "ab": (0, 0)})[0])
        before = journal.path.stat().st_size
        journal.append(run)
    data = journal.path.read_bytes()
    assert read_study(tmp_path / "whole").proposals == (run,)
    path = tmp_path / "cut" / "rank-0000.jsonl"
    path.parent.mkdir()
    for end in {*range(before, len(data), 7), len(data) - 2, len(data) - 1}:
        path.write_bytes(data[:end])
        whole = end >= len(data) - 1  # only the newline is missing
        assert read_study(path.parent).proposals == (run,) * whole
        with Journal.open(path.parent, spec) as journal:
            journal.append(run)
        assert read_study(path.parent).proposals == (run,) * (1 + whole)
    path.write_bytes(data.replace(b'"share":1.0', b'"share":7.0'))
    with pytest.raises(JournalCorruptError, match=r"line 3: ProposalRun.share must be .*Restore the file"):
        read_study(path.parent)


# --- the ladder on predictions ---------------------------------------------------------------
def make_scores(seed, blocks="abcd"):
    """A score for every selection, coarse enough for ties."""
    chance = random.Random(seed)
    return {pick(names): chance.randrange(8) / 8 for names in subsets(blocks)}


SEARCHES = [
    {},
    {"direction": "backward"},
    {"direction": "best"},
    {"direction": "list", "candidates": (pick("a"), pick("bd"), pick("abc"))},
    {"max_blocks": 1},
    {"max_blocks": 0},
    {"direction": "backward", "max_blocks": 2},
    {"max_block_parameters": 45},
    {"direction": "best", "max_block_parameters": 45},
]


@pytest.mark.parametrize("fields", SEARCHES, ids=str)
def test_the_ladder_is_the_search_on_these_scores(fields):
    for seed in range(12):
        scores, spec = make_scores(seed), make_spec("abcd", 3)
        search = SearchSpec(strategy="kernel", budget=1.0, **fields)
        asked = []

        def predict(candidate, scores=scores, asked=asked):
            asked.append(candidate)
            # The mean over folds is what counts.
            return Predicted(candidate, (scores[candidate] - 1, scores[candidate] + 1))

        state, predictions = predict_ladder(spec, search, predict)
        known = [Evaluation(candidate, 0, score, 1) for candidate, score in scores.items()]
        exact = replay(make_spec("abcd", 1), SearchSpec(**fields), known)
        assert state.selection == exact.selection and state.finished
        decided = [[round_.decision for round_ in each.rounds] for each in (state, exact)]
        assert decided[0] == decided[1]
        assert len(asked) == len(set(asked)) and {each.candidate for each in predictions} == set(asked)
        order = [each.score for each in predictions]
        assert order == sorted(order, reverse=True)
        for one, other in itertools.pairwise(predictions):
            assert one.score > other.score or asked.index(one.candidate) < asked.index(other.candidate)


def test_neither_the_least_gain_nor_a_pruner_has_a_say():
    scores = {pick(names): 0.001 * len(names) for names in subsets("abcd")}
    wanted = SearchSpec(strategy="kernel", budget=1.0, min_gain=0.5, pruner="halving")
    state, _ = predict_ladder(make_spec("abcd", 5), wanted, lambda one: Predicted(one, (scores[one],)))
    assert state.selection == pick("abcd")


# --- the shortlist ---------------------------------------------------------------------------
def shortlist(scores, predicts_subsets=True, most=MOST_CONFIRMED, **fields):
    """The letters of the shortlisted selections, for scores of single letters or of all selections."""

    def score(candidate):
        names = "".join(candidate.blocks)
        if predicts_subsets:
            return scores[names]
        return max((scores[name] for name in names), default=scores[""])

    spec, search = make_spec("abcd", 3), SearchSpec(strategy="kernel", budget=1.0, **fields)
    state, predictions = predict_ladder(spec, search, lambda one: Predicted(one, (score(one),)))
    found = shortlist_of(spec, search, state, predictions, most)
    assert set(found) <= {each.candidate for each in predictions}, "each of them has a prediction to show"
    return ["".join(candidate.blocks) for candidate in found]


def by_length(**scores):
    """Scores of all selections of `abcd`, low where not given."""
    return {"".join(names): scores.get("".join(names), -1.0) for names in subsets("abcd")} | {"": scores.get("head", 0)}


def test_the_choice_comes_first_and_then_the_best_predicted():
    scores = by_length(b=0.5, bd=0.75, bc=0.6, a=0.55, ab=0.1)
    assert shortlist(scores) == ["a", "b", ""]  # of what greedy steps reach, and that is not `bd`; none is larger
    assert shortlist(by_length(b=0.5, bd=0.75, bc=0.6, a=0.25)) == ["bd", "bc", "b"]
    assert shortlist(by_length(b=0.5, bd=0.75, bc=0.6, a=0.25), most=1) == ["bd"]
    assert len(shortlist(by_length(b=0.5), most=99)) == 5


def test_the_head_alone_is_never_chosen_by_predictions_only():
    assert shortlist(by_length(a=-0.5, c=-0.25)) == ["c", "", "a"]
    assert shortlist(by_length(a=-0.5, c=-0.25), most=1) == ["c"]
    assert shortlist(by_length(a=-0.5, c=-0.25), direction="backward")[:2] == ["c", ""]
    assert shortlist(by_length(a=-0.5, c=-0.25), max_block_parameters=15) == ["a", ""]  # of what keeps the bounds
    assert shortlist(by_length(a=-0.5, c=-0.25), max_block_parameters=5) == [""]
    listed = (pick("ab"), pick("bcd"))
    assert shortlist(by_length(ab=-0.5, bcd=-0.25), direction="list", candidates=listed)[:2] == ["bcd", ""]


def test_blocks_judged_one_by_one_are_compared_one_by_one():
    singles = {"": 0.0, "a": 0.5, "b": 0.1, "c": 0.2, "d": 0.4}
    assert shortlist(singles, False) == ["a", "d", "c"]
    assert shortlist(singles, False, max_block_parameters=35) == ["a", "c", "b"]  # their sizes are 10, 20, 30, 40
    assert shortlist({"": 1.0, **dict.fromkeys("abc", 0.5), "d": 0.75}, False)[:2] == ["d", ""]


@pytest.mark.parametrize("predicts_subsets", [True, False])
@pytest.mark.parametrize("direction", ["forward", "backward", "best"])
@pytest.mark.parametrize("bound", [{"max_blocks": 1}, {"max_blocks": 2}, {"max_block_parameters": 45}], ids=str)
def test_nothing_over_the_bounds_is_shortlisted(direction, bound, predicts_subsets):
    sizes = dict(zip("abcd", (10, 20, 30, 40), strict=True))
    for seed in range(5):
        chance = random.Random(seed)
        scores = {"".join(names): len(names) + chance.random() for names in subsets("abcd")}  # larger is better
        for names in shortlist(scores, predicts_subsets, most=9, direction=direction, **bound):
            assert len(names) <= bound.get("max_blocks", 4)
            assert sum(sizes[name] for name in names) <= bound.get("max_block_parameters", 100)


# --- what predictions cannot tell apart ------------------------------------------------------
def tied(behind, most=MOST_CONFIRMED, scores=None, **fields):
    """The letters of the shortlist where single blocks are so far behind the best: a difference and its error."""
    scores = scores or {name: 0.5 - gap for name, (gap, _) in behind.items()}

    def predict(candidate):
        names = "".join(candidate.blocks)
        score = max((scores[name] for name in names), default=scores.get("", -1.0))
        return Predicted(candidate, (score,), behind=behind.get(names))

    spec, search = make_spec("abcd", 3), SearchSpec(strategy="kernel", budget=1.0, **fields)
    state, predictions = predict_ladder(spec, search, predict)
    found = shortlist_of(spec, search, state, predictions, most)
    every = with_all(predictions, found, predict)
    assert {*found} <= {each.candidate for each in every}
    assert [each.score for each in every] == sorted((each.score for each in every), reverse=True)
    return ["".join(candidate.blocks) for candidate in found]


BEHIND = {"c": (0.0, 0.0), "a": (0.01, 0.01), "d": (0.03, 0.01), "b": (0.02, 0.01)}


def test_blocks_within_two_standard_errors_are_tuned_together():
    assert tied(BEHIND) == ["abc", "c", "a"]  # in forward order; `d` is too far behind
    assert tied(BEHIND, most=1) == ["abc"]
    assert tied({**BEHIND, "b": (0.021, 0.01)})[0] == "ac"
    assert tied({**BEHIND, "a": (0.5, 0.01), "b": (0.5, 0.01)})[0] == "c"
    assert tied(BEHIND, direction="best")[0] == "abc"
    assert tied(BEHIND, direction="backward")[0] == "c"  # which looked at no other block alone


def test_no_more_than_a_few_are_and_the_nearest_come_first():
    behind = {"d": (0.0, 0.0), "c": (0.01, 1.0), "b": (0.02, 1.0), "a": (0.03, 1.0)}
    assert MOST_TIED == 3 and tied(behind)[0] == "bcd"


def test_ties_keep_the_bounds():
    assert tied(BEHIND, max_blocks=1)[0] == "c"
    assert tied(BEHIND, max_blocks=2)[0] == "ac"
    assert tied(BEHIND, max_block_parameters=55)[0] == "ac"  # of sizes 10, 20, 30, 40: `a` is taken first
    assert tied(BEHIND, max_block_parameters=35)[0] == "c"
    assert tied(BEHIND, max_block_parameters=25)[0] == "a"  # what is behind something else says nothing


def test_nothing_is_joined_where_blocks_were_not_compared_row_by_row():
    scores = {"": 0.0, "a": 0.5, "b": 0.5, "c": 0.5, "d": 0.5}
    assert len(tied({}, scores=scores)[0]) == 1
    assert tied({"": (-0.5, 1.0), **BEHIND}, scores={"": 1.0, "a": 0.5, "b": 0.4, "c": 0.6, "d": 0.1})[0] == "abc"
    listed = tuple(map(pick, ("c", "a", "bd")))
    assert tied(BEHIND, direction="list", candidates=listed)[0] == "c"


def test_the_reason_names_what_is_tied():
    made = [Predicted(pick(name), (-gap,), behind=(gap, error)) for name, (gap, error) in BEHIND.items()]
    run = ProposalRun(KERNEL, tuple(made), (pick("abc"),), (), 1.0, 0.5, 0.5, 2.0)
    assert confirm(run, []).reason == (
        "c is predicted best by kernel, which cannot tell a (0.01 behind, standard error 0.01) or b (0.02 behind, "
        "standard error 0.01) from it, so that they are tuned together; the budget left no room to train others."
    )
    run = replace(run, shortlist=(pick("abc"), pick("c")), folds=(0,))
    assert confirm(run, trained(run, {"abc": (0.5,), "c": (0.9,)})).selection == pick("c")
    assert confirm(run, trained(run, {"abc": (0.5,), "c": (0.5,)})).selection == pick("abc")
    run = replace(run, shortlist=(pick("c"), pick("a")))
    listed = KERNEL_LIST, tuple(made), (pick("ac"),), (), 1.0, 0.5, 0.5, 2.0
    assert confirm(ProposalRun(*listed), []).reason.startswith("a + c is predicted best by kernel; ")
    alone = confirm(run, trained(run, {"c": (0.5,), "a": (0.5,)}))
    assert alone.reason.startswith("c is predicted best by kernel, and was no worse")


# --- what can be paid ------------------------------------------------------------------------
def cost_of(trainings, scorings, plan):
    count, share, folds = plan
    return folds * (share * sum(trainings[:count]) + sum(scorings[:count]))


@pytest.mark.parametrize("folds", [1, 2, 5])
@pytest.mark.parametrize("trainings", [(1, 1, 1), (0.1, 1, 0.5), (1, 0.1, 5), (0.2, 0), (0.3,)], ids=str)
@pytest.mark.parametrize("scoring", [0.0, 0.25])
def test_a_plan_is_never_dearer_than_what_is_left_and_grows_with_it(trainings, folds, scoring):
    scorings = [scoring] * len(trainings)
    before, spent = 0, -1.0
    for left in [-1.0, 0.0, *(0.01 * step for step in range(1, 4000))]:
        plan = plan_confirmation(trainings, scorings, left, folds)
        count, share, used = plan
        assert cost_of(trainings, scorings, plan) <= max(left, 0) * (1 + 1e-12)
        assert LEAST_SHARE - 1e-9 <= share <= 1 and 1 <= count <= len(trainings) and used <= folds
        assert (count == 1) == (used == 0) and (share == 1 or used == 1)
        assert count >= before
        assert cost_of(trainings, scorings, plan) >= spent - 1e-9
        before, spent = count, cost_of(trainings, scorings, plan)
    assert plan == ((len(trainings), 1.0, folds) if len(trainings) > 1 else (1, 1.0, 0))


def test_plans_by_hand():
    def plan(left, trainings=(1.0, 1.0, 1.0), scorings=(0.1, 0.1, 0.1)):
        return plan_confirmation(trainings, scorings, left, 5)

    assert plan(0.79) == (1, 1.0, 0)
    assert plan(0.81) == (2, pytest.approx(0.305), 1)
    assert plan(1.3) == (3, pytest.approx(1.0 / 3), 1)
    assert plan(3.31) == (3, 1.0, 1)
    assert plan(6.7) == (3, 1.0, 2)
    assert plan(100.0) == (3, 1.0, 5)
    assert plan(0.0, (0.0, 0.0), (0.0, 0.0)) == (2, 1.0, 5)  # what costs nothing is done
    assert plan(1.0, (), ()) == (1, 1.0, 0)


# --- deciding --------------------------------------------------------------------------------
def test_what_is_pending_is_what_is_missing_fold_by_fold():
    run = make_run(("a", "b"), (2, 0), share=0.5)
    units = tuple(Unit(pick(name), fold, 0, 0.5) for fold in (2, 0) for name in "ab")
    assert run.units == units and confirm(run, ()).pending == units
    done = trained(run, {"a": (0.5, 0.5), "b": (0.25, 0.25)})
    other = [Evaluation(pick("a"), 2, 1.0, 10), Evaluation(pick("a"), 2, 1.0, 10, repeat=1, budget=0.5)]
    for count in range(4):
        state = confirm(run, [*other, *done[:count]])
        assert state.pending == units[count:] and not state.finished and state.rounds[0].decision is None
        assert state.selection == pick("a") and len(state.rounds[0].evaluations) == count
    assert confirm(run, done).finished


def test_any_order_of_evaluations_gives_the_same_end():
    run = make_run(("a", "b", "ab"), (0, 1))
    done = trained(run, {"a": (0.5, 0.25), "b": (0.75, 0.5), "ab": (0.25, 0.5)})
    again = [Evaluation(each.candidate, each.fold, 0.0, 10) for each in done]  # of two of one unit the first counts
    ends = {
        (state.selection, state.reason, state.rounds)
        for order in itertools.permutations(done)
        for state in [confirm(run, [*order, *again])]
    }
    assert [end[0] for end in ends] == [pick("b")]


def test_the_winner_has_the_best_mean_over_folds():
    run = make_run(("a", "b", "ab"), (0, 1))
    scores = {"a": (0.5, 0.5), "b": (0.625, 0.75), "ab": (0.5, 0.875)}
    state = confirm(run, trained(run, scores))
    assert state.selection == pick("b")
    decision = state.rounds[0].decision
    assert decision.gain == pytest.approx(0.1875) and decision.standard_error == pytest.approx(0.0625)
    assert state.reason == (
        "b was best of the 3 that kernel predicted best when these were trained: 0.188 above a, which was predicted "
        "first."
    )
    # Folds of other sizes weigh as many rows as they have.
    weighed = [
        Evaluation(each.candidate, each.fold, each.score, 90 if each.fold else 10) for each in trained(run, scores)
    ]
    assert confirm(run, weighed).selection == pick("ab")


def test_what_is_predicted_first_is_not_given_up_within_one_standard_error():
    run = make_run(("a", "b"), (0, 1))
    state = confirm(run, trained(run, {"a": (1.0, 0.0), "b": (0.5, 0.625)}))  # 0.0625 more, give or take 0.5625
    decision = state.rounds[0].decision
    assert state.selection == pick("a") and (decision.gain, decision.threshold) == pytest.approx((0.0625, 0.5625))
    assert "was 0.0625 above it, which does not exceed one standard error (0.562)" in state.reason
    # A single fold of ten rows, of which half are right: sqrt(2 x 0.5 x 0.5 / 10) = 0.22.
    run = make_run(("a", "b"), (0,))
    assert confirm(run, trained(run, {"a": (0.4,), "b": (0.6,)})).selection == pick("a")
    assert confirm(run, trained(run, {"a": (0.38,), "b": (0.62,)})).selection == pick("b")
    # Scores that are no shares: minus a loss, for instance.
    assert confirm(run, trained(run, {"a": (-0.5,), "b": (-0.49,)})).selection == pick("b")


def test_ties_go_to_the_first_of_the_shortlist_also_in_the_last_bits():
    for first, second in itertools.permutations(["a", "b", "ab"], 2):
        run = make_run((first, second), (0, 1, 2))
        scores = {first: (0.1, 0.2, 0.3), second: (0.3, 0.2, 0.1 + 3e-17)}
        assert confirm(run, trained(run, scores)).selection == pick(first)
    run = make_run(("a", "b"), (0,))
    close = {"a": (0.3,), "b": (0.1 + 0.2,)}  # 0.30000000000000004
    state = confirm(run, trained(run, close))
    assert state.selection == pick("a") and "was no worse than the other one when trained" in state.reason


@pytest.mark.parametrize(
    ("shortlist", "scores", "reason"),
    [
        (("a",), None, "a is predicted best by kernel; the budget left no room to train others."),
        (("",), None, "head only is predicted best by kernel; the budget left no room to train others."),
        (("a", "b"), (2, 1), "a is predicted best by kernel, and was no worse than the other one when trained."),
        (("", "b", "a"), (2, 1, 1),
         "head only is predicted best by kernel, and was no worse than the 2 others when trained."),
        (("a", ""), (1, 2), "head only was best of the 2 that kernel predicted best when these were trained: 1 above "
         "a, which was predicted first."),
    ],
)  # fmt: skip
def test_reasons(shortlist, scores, reason):
    run = make_run(shortlist, (0,) if scores else ())
    known = trained(run, {name: (score,) for name, score in zip(shortlist, scores, strict=True)}) if scores else []
    state = confirm(run, known)
    assert state.reason == reason == state.rounds[0].decision.reason and state.finished and state.pending == ()


def test_the_reason_says_that_the_head_was_predicted_better():
    made = (predicted("", 1.0), predicted("a", 0.5), predicted("b", 0.25))
    run = ProposalRun(KERNEL, made, (pick("a"),), (), 1.0, fine_tunes=0.5, planned=0.5, seconds=2.0)
    assert confirm(run, []).reason == (
        "a is predicted best by kernel, although the head alone is predicted better still; the budget left no room to "
        "train others. Predictions cannot tell that no block is worth it; strategy='exact' can."
    )
    run = replace(run, shortlist=(pick("a"), pick("")), folds=(0,))
    state = confirm(run, trained(run, {"a": (0.1,), "": (0.9,)}))
    assert state.selection == pick("") and "head only was best of the 2" in state.reason
    state = confirm(run, trained(run, {"a": (0.9,), "": (0.1,)}))
    assert state.selection == pick("a") and state.reason == (
        "a is predicted best by kernel, although the head alone is predicted better still, and was no worse than the "
        "other one when trained."
    )


# --- the result ------------------------------------------------------------------------------
def result_of(run, scores=None, spec=None, **fields):
    known = trained(run, scores, **fields) if scores else []
    more = [Evaluation(pick("d"), fold, 0.5, 10) for fold in range(3)]
    return SearchResult.from_state(spec or make_spec("abcd", 3), confirm(run, [*more, *known]), [*more, *known], run)


SCORES = {"a": (0.5, 0.5), "b": (0.25, 0.25), "ab": (0.625, 0.625)}


def test_the_result_tells_predictions_from_measurements():
    run = make_run(share=0.5, folds=(1, 2))
    result = result_of(run, SCORES, trainable_parameters=1200, seconds=1.5)
    assert result.blocks == ("a", "b") and result.proposal == run and result.rounds == () and result.ladder == ()
    assert (result.cost.num_evaluations, result.cost.seconds, result.cost.full_trainings) == (6, 9.0, 3.0)
    assert [row.candidate for row in result.profile.rows] == [pick("d")]  # a share of a training is no profile
    rows = result.to_rows()
    assert {(row.pop("behind"), row.pop("behind_error")) for row in rows} == {(None, None)}
    assert rows == [
        {"blocks": ["a"], "predicted": 1.0, "standard_error": 0.01, "measured": 0.5, "trainable_parameters": 1200,
         "num_evaluations": 2, "seconds": 3.0},
        {"blocks": ["b"], "predicted": 0.875, "standard_error": 0.01, "measured": 0.25, "trainable_parameters": 1200,
         "num_evaluations": 2, "seconds": 3.0},
        {"blocks": ["a", "b"], "predicted": 0.75, "standard_error": 0.01, "measured": 0.625,
         "trainable_parameters": 1200, "num_evaluations": 2, "seconds": 3.0},
        {"blocks": [], "predicted": 0.625, "standard_error": 0.01, "measured": None, "trainable_parameters": None,
         "num_evaluations": 0, "seconds": 0},
    ]  # fmt: skip
    frame = pytest.importorskip("pandas") and result.to_pandas()
    assert list(frame["predicted"]) == [1.0, 0.875, 0.75, 0.625] and frame["measured"].isna().tolist()[-1]


def test_the_table_is_aligned_and_says_what_came_out():
    run = make_run(share=0.5, folds=(1, 2))
    assert result_of(run, SCORES, trainable_parameters=1200, seconds=1.5).table().splitlines() == [
        "selection  predicted  accuracy  trainable  trainings  seconds",
        "---------  ---------  --------  ---------  ---------  -------",
        "a             1.0000    0.5000      1,200          2      3.0",
        "b             0.8750    0.2500      1,200          2      3.0",
        "a + b         0.7500    0.6250      1,200          2      3.0",
        "head only     0.6250",
        "",
        "a + b was best of the 3 that kernel predicted best when these were trained: 0.125 above a, which was "
        "predicted first.",
        "Predicted in 2.0 s, then 6 trainings with 50 % of the steps in 9.0 s; in arithmetic 0.75 full fine-tunes, "
        "0.50 of them to predict. Predictions have a scale of their own.",
        "Chosen: a, b.",
    ]


def test_the_table_without_trainings():
    text = result_of(make_run(("",), ())).table()
    assert "the budget left no room to train others." in text and "Chosen: no block, the head alone." in text
    assert "Predicted in 2.0 s, then no training; in arithmetic" in text


def test_the_table_says_how_far_blocks_are_behind_the_best():
    made = [Predicted(pick(name), (-gap,), behind=(gap, error)) for name, (gap, error) in BEHIND.items()]
    run = ProposalRun(KERNEL, (*made, predicted("", -1.0)), (pick("abc"),), (), 1.0, 0.5, 0.5, 2.0)
    result = result_of(run)
    assert [(row["behind"], row["behind_error"]) for row in result.to_rows()] == [*BEHIND.values(), (None, None)]
    lines = result.table().splitlines()
    assert lines[:7] == [
        "selection  predicted       behind",
        "---------  ---------  -----------",
        "c             0.0000",
        "a            -0.0100  0.01 ± 0.01",
        "d            -0.0300  0.03 ± 0.01",
        "b            -0.0200  0.02 ± 0.01",
        "head only    -1.0000",
    ]
    assert lines[-1] == "Chosen: a, b, c."


def test_the_table_shows_a_loss_as_it_is():
    spec = make_spec("abcd", 3, metric="eval_loss", greater_is_better=False)
    result = result_of(make_run(), {"a": (-0.5, -0.25), "b": (-1, -1), "ab": (-2, -2)}, spec=spec)
    assert result.to_rows()[0]["measured"] == -0.375 and "0.3750" in result.table() and "-0.3750" not in result.table()


def test_a_long_list_is_cut_but_not_what_was_trained():
    many = tuple(predicted(names, place / 100) for place, names in enumerate(subsets("abcde")))[::-1]
    last = many[-1].candidate
    run = ProposalRun(KERNEL, many, (many[0].candidate, last), (0,), 1.0, 0.5, 0.75, 2.0)
    known = [Evaluation(unit.candidate, 0, 0.5, 10) for unit in run.units]
    spec = make_spec("abcde", 3)
    text = SearchResult.from_state(spec, confirm(run, known), (), run).table()
    lines = text.splitlines()
    assert len(many) == 32 and lines[2].startswith("a + b + c + d + e ") and lines[14].startswith(last.label)
    assert "... and 19 more, predicted to be no better and not trained." in lines[15]


def test_a_larger_selection_of_which_a_part_is_predicted_as_good_is_not_shown():
    scored = {"a": 1.0, "ab": 1.0, "bc": 0.75, "b": 0.5, "c": 0.25}
    known = tuple(predicted(names, score) for names, score in scored.items())
    run = ProposalRun(KERNEL, known, (known[0].candidate, known[3].candidate), (0,), 1.0, 0.5, 0.75, 2.0)
    scores = [Evaluation(unit.candidate, 0, 0.5, 10) for unit in run.units]
    lines = SearchResult.from_state(make_spec("abc", 3), confirm(run, scores), (), run).table().splitlines()
    assert [line.split("  ")[0] for line in lines[2:6]] == ["a", "b + c", "b", "c"]
    assert "... and 1 more, predicted to be no better and not trained." in lines[6]
