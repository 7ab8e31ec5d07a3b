"""Journals of every released format stay readable and can be continued."""

import importlib.util
import math
import shutil
from pathlib import Path

import pytest

from subtuning_hf.search.greedy import replay
from subtuning_hf.search.journal import Journal, read_study
from subtuning_hf.search.lines import FORMAT
from subtuning_hf.search.profile import profile_of
from subtuning_hf.search.proposals import confirm
from subtuning_hf.search.records import Candidate, SearchSpec
from subtuning_hf.search.result import SearchResult

ASSETS = Path(__file__).parent / "assets"
FOLDERS = sorted(ASSETS.glob("journal_format*"))


def test_there_is_a_journal_of_every_format():
    assert [folder.name for folder in FOLDERS] == [f"journal_format{number}" for number in range(1, FORMAT + 1)]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_it_is_read_and_means_what_it_meant(folder):
    study = read_study(folder)
    assert [block.name for block in study.spec.blocks] == [f"encoder.layer.{index}" for index in range(3)]
    assert [block.num_parameters for block in study.spec.blocks] == [1000, 1001, 1002]
    assert (study.spec.num_folds, study.spec.metric, study.spec.greater_is_better) == (2, "eval_accuracy", True)
    assert study.spec.settings["arguments"]["learning_rate"] == 0.001
    assert study.spec.environment["torch"] == "2.5.1"
    assert study.searches[0] == SearchSpec(max_blocks=3)
    assert [each.candidate.blocks for each in study.evaluations].count(()) == 3
    assert len(study.writers) == len(study.evaluations)
    assert set(zip(study.writers, (each.fold for each in study.evaluations), strict=True)) == {
        ("rank-0000", 0),
        ("rank-0001", 1),
    }
    first = study.evaluations[0]
    assert (first.candidate, first.fold, first.score, first.num_examples) == (Candidate(), 0, 0.4, 50)
    assert math.isnan(first.metrics["eval_f1"]) and first.info == {"steps": 12, "note": "Schlüssel"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_its_search_is_replayed_to_the_same_end(folder):
    study = read_study(folder)
    state = replay(study.spec, study.searches[0], study.evaluations)
    result = SearchResult.from_state(study.spec, state, study.evaluations)
    assert result.blocks == ("encoder.layer.0", "encoder.layer.2")
    assert result.cost.num_evaluations == 14 and result.cost.seconds == 8.5
    gains = [row.gain for row in result.ladder]
    assert gains == [None, *map(pytest.approx, (25 / 99, 11 / 99, 0.0))]
    made = [(decision.round, decision.winner, decision.gain) for decision in study.decisions[:4]]
    assert made == [(round_.index, round_.decision.winner, round_.decision.gain) for round_ in state.rounds]
    assert [row.mean for row in profile_of(study.spec, study.evaluations).rows] == [63 / 99, 49 / 99, 55 / 99]


def test_format_1_holds_one_forward_search():
    study = read_study(ASSETS / "journal_format1")
    assert len(study.searches) == 1 and len(study.evaluations) == 15 and len(study.decisions) == 4
    assert study.finals == ()
    assert {(each.repeat, each.budget) for each in study.evaluations} == {(0, 1.0)}


def test_format_2_holds_every_kind_of_search_and_final_runs():
    study = read_study(ASSETS / "journal_format2")
    assert [search.direction for search in study.searches] == ["forward", "best", "list"]
    assert [search.pruner for search in study.searches] == ["none", "halving", "race"]
    assert study.searches[1].max_block_parameters == 2500 and len(study.searches[2].candidates) == 2
    assert {(each.repeat, each.budget) for each in study.evaluations} == {(0, 1.0), (0, 0.5), (1, 1.0)}
    assert [decision.direction for decision in study.decisions] == ["forward"] * 7 + ["backward"] * 3 + ["list"] * 2
    assert [(run.seed, run.metrics["eval_accuracy"]) for run in study.finals] == [(42, 42 / 64), (43, 43 / 64)]
    assert study.finals[0].info["rows"] == "7e57" and study.finals[0].candidate == study.searches[2].candidates[0]
    assert study.proposals == ()
    for search in study.searches:
        state = replay(study.spec, search, study.evaluations)
        assert state.finished and state.selection.blocks == ("encoder.layer.0", "encoder.layer.2")
    made = [
        decision for part in replay(study.spec, study.searches[1], study.evaluations).parts for decision in part.rounds
    ]
    assert [(each.decision.round, each.decision.winner, each.decision.gain) for each in made] == [
        (decision.round, decision.winner, decision.gain) for decision in study.decisions[4:10]
    ]


def test_format_3_holds_searches_that_predict():
    older, study = read_study(ASSETS / "journal_format2"), read_study(ASSETS / "journal_format3")
    assert study.searches[:3] == older.searches and study.finals == older.finals
    assert study.searches[3:] == tuple(run.search for run in study.proposals)
    short, one = study.proposals
    assert (short.search.strategy, short.search.budget) == ("kernel", 1.0)
    assert (short.folds, short.share, short.fine_tunes, short.planned, short.seconds) == ((1,), 0.375, 0.5, 0.9375, 2.5)
    assert short.info == {"started": 1700000000.5} and one.info == {}
    assert [each.scores for each in short.predictions] == [(0.75, 0.5), (0.5, 0.625), (0.25, 0.375), (-0.125, 0.0)]
    assert {each.standard_error for each in short.predictions} == {0.0625}
    assert (one.search.strategy, one.search.direction, one.folds, one.share) == ("one-shot", "backward", (), 1.0)
    # The newer search read none of the older trainings: it trained for a share of the steps.
    new = [each for each in study.evaluations if each.budget == 0.375]
    assert [each.unit for each in new] == list(short.units) and len(study.evaluations) == len(older.evaluations) + 2
    for run, made in zip(study.proposals, study.decisions[-2:], strict=True):
        state = confirm(run, study.evaluations)
        assert state.finished and state.selection.blocks == ("encoder.layer.0", "encoder.layer.2")
        assert state.rounds[0].decision.winner == made.winner
        result = SearchResult.from_state(study.spec, state, study.evaluations, run)
        assert result.cost.num_evaluations == len(run.units) and "encoder.layer.2" in result.table()


def test_a_file_of_format_1_takes_what_came_later_and_keeps_its_header(tmp_path):
    copy = tmp_path / "journal"
    shutil.copytree(ASSETS / "journal_format1", copy)
    newer = read_study(ASSETS / "journal_format3")
    entries = [*newer.searches, *newer.finals, *newer.proposals, *newer.evaluations[-2:]]
    with Journal.open(copy, newer.spec) as journal:
        for entry in entries:
            journal.append(entry)
    study = read_study(copy)
    assert study.finals == newer.finals and study.searches[1:] == newer.searches
    assert study.proposals == newer.proposals
    assert b'"format":1,' in (copy / "rank-0000.jsonl").read_bytes().split(b"\n")[0]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_it_can_be_continued(folder, tmp_path):
    copy = tmp_path / "journal"
    shutil.copytree(folder, copy)
    study = read_study(copy)
    for writer in ("rank-0000", "rank-0001", "rank-0002"):
        with Journal.open(copy, study.spec, writer) as journal:
            journal.append(study.evaluations[0])
    assert len(read_study(copy).evaluations) == len(study.evaluations) + 3


def test_what_is_written_now_is_the_newest_of_these_formats(tmp_path):
    """Whoever changes what a line says meets this test, and then raises the number of the format."""
    folder = ASSETS / f"journal_format{FORMAT}"
    spec = importlib.util.spec_from_file_location("make_journal", folder / "make_journal.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rank-0000.jsonl", "rank-0001.jsonl"]
    for path in tmp_path.iterdir():
        # The words of a decision may get better; everything else is the format.
        now, then = (each.read_bytes().split(b'"reason":') for each in (path, folder / path.name))
        assert [part.split(b"\n", 1)[-1] for part in now[1:]] == [part.split(b"\n", 1)[-1] for part in then[1:]]
        assert now[0] == then[0]
