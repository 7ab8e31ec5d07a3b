"""Studies of models without a head: no block means the untouched base there, and no text speaks of a head."""

import pytest

from search.score_tables import drive, evaluation, make_spec
from subtuning_hf.search.profile import profile_of
from subtuning_hf.search.proposals import Predicted, ProposalRun, confirm
from subtuning_hf.search.records import Candidate, SearchSpec
from subtuning_hf.search.result import SearchResult
from subtuning_hf.training.progress import short_label

BARE = {"environment": {"head": ""}}


def searched(spec, right, **fields):
    """A finished search; `right` says how many of four rows a selection gets right."""
    search = SearchSpec(min_gain=0.1, **fields)
    state, done = drive(spec, search, lambda unit: evaluation(unit.candidate.blocks, unit.fold, right(unit), 4))
    return SearchResult.from_state(spec, state, done, search=search)


def test_what_a_study_knows_of_the_head():
    assert make_spec().has_head and make_spec(environment={"head": "0f"}).has_head
    assert not make_spec(**BARE).has_head


@pytest.mark.parametrize("fields", [{}, {"direction": "backward"}, {"direction": "best"}], ids=str)
def test_no_block_is_worth_it(fields):
    texts = [searched(make_spec("ab", 1, **other), lambda unit: 2, **fields).table() for other in ({}, BARE)]
    assert "head" in texts[0] and "Chosen: no block, the head alone" in texts[0]
    assert "head" not in texts[1] and "Chosen: no block, the untouched base" in texts[1]


def test_the_reason_of_the_start():
    reasons = [
        searched(make_spec("ab", 1, **other), lambda unit: len(unit.candidate.blocks)).rounds[0].decision.reason
        for other in ({}, BARE)
    ]
    assert "the head alone scores" in reasons[0] and "the untouched base scores" in reasons[1]


def test_profile_predictions_and_progress():
    known = [evaluation(blocks, 0, 1, 4) for blocks in ((), ("a",), ("b",))]
    first = [profile_of(make_spec("ab", 1, **other), known).table().splitlines()[2] for other in ({}, BARE)]
    assert first[0].startswith("head only") and first[1].startswith("untouched base")
    made = (Predicted(Candidate(("a",)), (1.0,)), Predicted(Candidate(), (0.5,)))
    search = SearchSpec(strategy="kernel", budget=1.0)
    run = ProposalRun(search, made, (Candidate(("a",)),), (), 1.0, 0.5, 0.5, 1.0)
    shown = SearchResult.from_state(make_spec("ab", 1, **BARE), confirm(run, []), [], run).table()
    assert "untouched base" in shown and "head" not in shown
    assert short_label(Candidate(), has_head=False) == "untouched base"
