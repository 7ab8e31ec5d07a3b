"""Records: through JSON and back unchanged, and refused when they mean nothing."""

import json
import math
from enum import Enum

import pytest

from search.score_tables import make_spec
from subtuning_hf.errors import ArgumentsError, DuplicateBlockError, NonFiniteScoreError
from subtuning_hf.search.records import (
    BlockInfo,
    Candidate,
    Decision,
    Evaluation,
    FinalRun,
    Round,
    SearchSpec,
    StudySpec,
    Unit,
)

CANDIDATE = Candidate(("layer1.0", "layer2.0"))
EVALUATION = Evaluation(
    CANDIDATE,
    fold=2,
    score=-0.1,
    num_examples=7,
    metrics={"eval_loss": 0.1, "f1": math.nan, "worst": -math.inf, "best": math.inf, "n": 3},
    trainable_parameters=120,
    seconds=1.5,
    info={"steps": 3, "loss": [1.0, math.inf], "nested": {"note": "Grüße, \ud800", "none": None, "flag": True}},
)
REDUCED = Evaluation(CANDIDATE, 1, 0.5, 4, repeat=3, budget=1 / 9)
FINAL = FinalRun(CANDIDATE, 43, {"eval_accuracy": 0.5, "f1": math.nan}, 120, 2.5, {"rows": "ab12"})
LIST = SearchSpec(direction="list", candidates=(CANDIDATE, Candidate(("layer3.0",))))
STUDY = make_spec(
    num_folds=3,
    fingerprints={"stem": "12", "settings": "ab"},
    settings={"arguments": {"learning_rate": 1e-3, "betas": (0.9, 0.999)}, "model": "resnet"},
    environment={"torch": "2.5", "threads": 1},
)
DECISION = Decision(1, CANDIDATE, 0.25, 0.125, 0.1, "layer2.0 is added.")
STOP = Decision(2, None, -0.25, None, 0.0, "No further block is worth it.")
RECORDS = [
    BlockInfo("layer1.0", 12),
    Candidate(),
    CANDIDATE,
    EVALUATION,
    Evaluation(CANDIDATE, 0, 1, 1),
    STUDY,
    SearchSpec(),
    SearchSpec(max_blocks=0, min_gain=0.01),
    SearchSpec(direction="best", max_block_parameters=10, pruner="race", confidence=0.9),
    SearchSpec(direction="backward", pruner="halving", reduction=2, smallest_budget=0.25),
    LIST,
    REDUCED,
    FINAL,
    FinalRun(Candidate(), 0, {}),
    DECISION,
    STOP,
    Decision(1, None, -0.25, None, 0.0, "Every block earns its place.", "backward"),
    Round(1, CANDIDATE, (Candidate(), CANDIDATE), (REDUCED,), None, (Candidate(),), "list"),
    Round(1, Candidate(), (CANDIDATE,), (EVALUATION,), DECISION),
    Round(0, Candidate(), (Candidate(),)),
]


def through_json(record):
    return type(record).from_json(json.loads(json.dumps(record.to_json(), allow_nan=False)))


def name_of(value):
    return type(value).__name__


LATER = {
    Evaluation: {"repeat": 0, "budget": 1.0},
    SearchSpec: {
        "max_block_parameters": None,
        "candidates": (),
        "pruner": "none",
        "confidence": 0.95,
        "reduction": 3,
        "smallest_budget": 1 / 9,
        "score_limit": None,
        "budget": None,
    },
    Decision: {"direction": "forward"},
    Round: {"pruned": (), "direction": "forward"},
}


@pytest.mark.parametrize("record", RECORDS, ids=name_of)
def test_through_json_and_back(record):
    again = through_json(record)
    assert again == record and type(again) is type(record)
    assert again.to_json() == record.to_json()
    assert hash(again) == hash(record)


@pytest.mark.parametrize("record", RECORDS, ids=name_of)
def test_json_must_have_exactly_the_fields(record):
    data = record.to_json()
    for name in data.keys() - LATER.get(type(record), {}).keys():
        with pytest.raises(ArgumentsError, match=f"missing {name}"):
            type(record).from_json({key: value for key, value in data.items() if key != name})
    with pytest.raises(ArgumentsError, match="unknown speed"):
        type(record).from_json(data | {"speed": 1})
    with pytest.raises(ArgumentsError, match="must be an object"):
        type(record).from_json([data])


@pytest.mark.parametrize("record", RECORDS, ids=name_of)
def test_fields_that_came_later_are_written_where_they_say_something(record):
    data, later = record.to_json(), LATER.get(type(record), {})
    for name, default in later.items():
        assert getattr(type(record), name) == default
        assert (name in data) == (getattr(record, name) != default)
    old = {name: value for name, value in data.items() if name not in later}
    if type(record) is not SearchSpec or not record.candidates:
        assert all(getattr(type(record).from_json(old), name) == default for name, default in later.items())


def test_floats_survive_to_the_last_bit():
    for score in (0.1 + 0.2, 1 / 3, 5e-324, -1.7976931348623157e308):
        assert through_json(Evaluation(CANDIDATE, 0, score, 1)).score == score


def test_changing_what_was_given_or_returned_changes_no_record():
    metrics, info = {"accuracy": 0.5}, {"history": [1, 2]}
    record = Evaluation(CANDIDATE, 0, 0.5, 4, metrics=metrics, info=info)
    metrics["accuracy"] = 0.9
    info["history"].append(3)
    record.to_json()["info"]["history"].append(4)
    assert record.metrics == {"accuracy": 0.5} and record.info == {"history": [1, 2]}


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_refused(score):
    with pytest.raises(NonFiniteScoreError, match=r"layer1\.0 \+ layer2\.0 on fold 3.*learning rate"):
        Evaluation(CANDIDATE, 3, score, 10)


@pytest.mark.parametrize(
    "fields",
    [
        {"fold": -1},
        {"fold": 1.0},
        {"fold": True},
        {"score": "0.5"},
        {"score": None},
        {"score": True},
        {"num_examples": 0},
        {"seconds": -1.0},
        {"seconds": math.nan},
        {"trainable_parameters": -1},
        {"trainable_parameters": 1.5},
        {"metrics": {"accuracy": "high"}},
        {"metrics": {1: 0.5}},
        {"metrics": [0.5]},
        {"info": {"model": Ellipsis}},
        {"info": {1: "one"}},
        {"candidate": ("a",)},
        {"repeat": -1},
        {"repeat": 0.0},
        {"budget": 0},
        {"budget": 1.1},
        {"budget": "1"},
        {"budget": math.nan},
    ],
    ids=str,
)
def test_bad_evaluations_name_the_field(fields):
    good = {"candidate": CANDIDATE, "fold": 0, "score": 0.5, "num_examples": 10}
    (name,) = fields
    with pytest.raises(ArgumentsError, match=rf"Evaluation\.{name}.*found"):
        Evaluation(**good | fields)


@pytest.mark.parametrize(
    "fields",
    [{"seed": -1}, {"seed": 1.0}, {"metrics": [1]}, {"metrics": {"f1": "x"}}, {"seconds": -1}, {"info": {1: 2}}],
    ids=str,
)
def test_bad_final_runs_name_the_field(fields):
    (name,) = fields
    with pytest.raises(ArgumentsError, match=rf"FinalRun\.{name}.*found"):
        FinalRun(**{"candidate": CANDIDATE, "seed": 0, "metrics": {}} | fields)


def test_numpy_scalars_become_plain_numbers():
    numpy = pytest.importorskip("numpy")
    record = Evaluation(
        CANDIDATE,
        numpy.int64(1),
        numpy.float32(0.5),
        numpy.int32(3),
        {"f1": numpy.float32(0.25)},
        seconds=numpy.float64(2),
    )
    values = [record.fold, record.score, record.num_examples, record.metrics["f1"], record.seconds]
    assert [type(value) for value in values] == [int, float, int, float, float]
    assert through_json(record) == record


def test_enums_and_tuples_in_settings_become_plain():
    class Kind(Enum):
        LINEAR = "linear"

    class Scheduler(str, Enum):  # noqa: UP042
        COSINE = "cosine"

    spec = make_spec(settings={"kind": Kind.LINEAR, "scheduler": Scheduler.COSINE, "sizes": (1, (2, 3))})
    assert spec.settings == {"kind": "linear", "scheduler": "cosine", "sizes": [1, [2, 3]]}
    assert type(spec.settings["scheduler"]) is str


# --- candidates ------------------------------------------------------------------------------
def test_candidate_keys_are_short_different_and_stay_what_they_are():
    candidates = [
        Candidate(),
        Candidate(("a",)),
        Candidate(("b",)),
        Candidate(("a", "b")),
        Candidate(("a.b",)),
        CANDIDATE,
    ]
    assert len({candidate.key for candidate in candidates}) == len(candidates)
    assert Candidate().key == "head" and Candidate().label == "head only"
    assert CANDIDATE.key == "9067a6636a569a5e" and CANDIDATE.label == "layer1.0 + layer2.0"
    assert EVALUATION.key == (CANDIDATE.key, 2, 0, 1.0)
    assert EVALUATION.unit == Unit(CANDIDATE, 2) == (CANDIDATE, 2, 0, 1.0)
    assert REDUCED.unit == Unit(CANDIDATE, 1, 3, 1 / 9) and REDUCED.key == (CANDIDATE.key, 1, 3, 1 / 9)


def test_candidates_name_each_block_once():
    with pytest.raises(DuplicateBlockError, match="'a' twice"):
        Candidate(("a", "b", "a"))
    for blocks in ("ab", ("a", ""), ("a", 1), {"a"}, None):
        with pytest.raises(ArgumentsError):
            Candidate(blocks)


# --- searches --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"strategy": "cheap"},
            "must be one of 'exact', 'short-profile', 'one-shot', 'swap', 'kernel', 'statistics', found 'cheap'",
        ),
        ({"strategy": "kernel"}, "budget is for strategies that predict, and needed there; found None .* 'kernel'"),
        ({"budget": 1.0}, "budget is for strategies that predict.*found 1.0 with strategy 'exact'"),
        ({"strategy": "swap", "budget": -0.5}, "SearchSpec.budget must be a finite number of 0 or more"),
        ({"strategy": "swap", "budget": "1"}, "SearchSpec.budget must be a number"),
        ({"direction": "sideways"}, "direction must be one of 'forward', 'backward', 'best', 'list', found 'sideways'"),
        ({"pruner": "asha"}, "pruner must be one of 'none', 'race', 'halving', 'certain', found 'asha'"),
        ({"direction": "list"}, "found 0 candidates with direction 'list'"),
        ({"candidates": (CANDIDATE,)}, "found 1 candidates with direction 'forward'"),
        ({"direction": "list", "candidates": (CANDIDATE, CANDIDATE)}, "must differ, found .* twice"),
        ({"direction": "list", "candidates": ("a",)}, "an item of SearchSpec.candidates must be a Candidate"),
        ({"direction": "list", "candidates": CANDIDATE}, "candidates must be a tuple"),
        ({"max_block_parameters": -1}, "max_block_parameters must be a whole number of 0 or more"),
        ({"confidence": 0.4}, "confidence must be a number from 0.5 and below 1"),
        ({"confidence": 1.0}, "confidence"),
        ({"confidence": math.nan}, "confidence"),
        ({"reduction": 1}, "reduction must be a whole number of 2 or more"),
        ({"smallest_budget": 0.0}, "smallest_budget must be a number above 0 and up to 1"),
        ({"smallest_budget": 1.5}, "smallest_budget"),
        ({"max_blocks": -1}, "max_blocks must be a whole number of 0 or more"),
        ({"max_blocks": 2.0}, "max_blocks"),
        ({"min_gain": -0.1}, "min_gain must be a finite number of 0 or more"),
        ({"min_gain": math.inf}, "min_gain"),
        ({"min_gain": math.nan}, "min_gain"),
        ({"min_gain": "1%"}, "min_gain"),
    ],
    ids=str,
)
def test_bad_searches(fields, words):
    with pytest.raises(ArgumentsError, match=words):
        SearchSpec(**fields)


@pytest.mark.parametrize("kind", [Round, Decision])
def test_a_round_is_of_one_direction(kind):
    data = {Round: RECORDS[-1], Decision: DECISION}[kind].to_json()
    with pytest.raises(ArgumentsError, match=rf"{kind.__name__}.direction must be one of .*found 'best'"):
        kind.from_json(data | {"direction": "best"})


def test_a_round_tells_full_trainings_from_reduced_ones():
    full = Evaluation(CANDIDATE, 1, 0.25, 4)
    round_ = Round(1, Candidate(), (Candidate(), CANDIDATE), (REDUCED, full), None, (Candidate(),))
    assert round_.of(CANDIDATE) == (full,) and round_.of(CANDIDATE, 1 / 9) == (REDUCED,)
    assert round_.survivors == (CANDIDATE,)


# --- studies ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "change",
    [
        {"blocks": "abc"},
        {"blocks": "abdc"},
        {"num_folds": 4},
        {"metric": "loss"},
        {"greater_is_better": False},
        {"fingerprints": {"stem": "13", "settings": "ab"}},
        {"fingerprints": {"stem": "12"}},
        {"fingerprints": {"stem": "12", "settings": "ab", "study_tag": "x"}},
    ],
    ids=str,
)
def test_whatever_a_score_depends_on_changes_the_fingerprint(change):
    other = make_spec(**{"num_folds": 3, "fingerprints": {"stem": "12", "settings": "ab"}} | change)
    assert other.fingerprint != STUDY.fingerprint
    assert STUDY.differences(other) and other.differences(STUDY)


def test_neither_settings_nor_environment_nor_the_order_of_fingerprints_changes_it():
    other = make_spec(num_folds=3, fingerprints={"settings": "ab", "stem": "12"}, environment={"torch": "3.0"})
    assert other.fingerprint == STUDY.fingerprint
    assert STUDY.differences(other) == []


def test_the_fingerprint_stays_what_it_is():
    assert STUDY.fingerprint == "bf982a6e193946e366c60327910434b4"


def test_differences_are_readable_old_first():
    other = make_spec(
        "abxd",
        num_folds=5,
        fingerprints={"stem": "13", "settings": "cd", "data": "7"},
        settings={"arguments": {"learning_rate": 1e-4, "betas": [0.9, 0.999], "seed": 1}},
    )
    assert STUDY.differences(other) == [
        "blocks: 4 -> 4, without ['c'], with ['x']",
        "num_folds: 3 -> 5",
        "stem: '12' -> '13'",
        "data: 'none' -> '7'",
        "arguments.learning_rate: 0.001 -> 0.0001",
        "arguments.seed: not set -> 1",
        "model: 'resnet' -> not set",
    ]


def test_a_changed_hash_is_told_even_if_no_readable_setting_differs():
    before, after = (make_spec(fingerprints={"settings": value}) for value in ("ab", "cd"))
    assert before.differences(after) == ["settings: 'ab' -> 'cd'"]


def test_block_differences_tell_order_and_size():
    assert make_spec("ab").differences(make_spec("ba")) == ["blocks: 2 -> 2, in another order"]
    wider = StudySpec((BlockInfo("a", 10), BlockInfo("b", 1000)), 1, "accuracy", True)
    assert make_spec("ab").differences(wider) == ["blocks: 'b' has another size: 20 -> 1,000 parameters"]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"blocks": ()}, ArgumentsError),
        ({"blocks": (BlockInfo("a", 1), BlockInfo("a", 1))}, DuplicateBlockError),
        ({"blocks": ("a",)}, ArgumentsError),
        ({"num_folds": 0}, ArgumentsError),
        ({"metric": ""}, ArgumentsError),
        ({"greater_is_better": 1}, ArgumentsError),
        ({"fingerprints": {"stem": 12}}, ArgumentsError),
        ({"settings": {"f": len}}, ArgumentsError),
        ({"environment": None}, ArgumentsError),
    ],
    ids=str,
)
def test_bad_studies(fields, error):
    good = {"blocks": (BlockInfo("a", 1),), "num_folds": 2, "metric": "accuracy", "greater_is_better": True}
    with pytest.raises(error):
        StudySpec(**good | fields)
