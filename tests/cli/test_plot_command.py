"""`subtuning plot`: what a journal holds is drawn, what it lacks is named with the command that makes it."""

import argparse
import os
import subprocess
import sys

import pytest

pytest.importorskip("matplotlib")

from plots.studies import NAMES, study_of
from subtuning_hf.cli import plot
from subtuning_hf.errors import ArgumentsError, JournalError, MissingDependencyError
from subtuning_hf.search.journal import Journal, read_study
from subtuning_hf.search.proposals import Predicted, ProposalRun
from subtuning_hf.search.records import Candidate, Evaluation, SearchSpec
from subtuning_hf.search.space import HEAD_ONLY, pairs, windows

FORWARD = SearchSpec(max_blocks=2)
BACKWARD = SearchSpec(direction="backward", max_blocks=1)
WORTH = {NAMES[3]: 0.2, NAMES[0]: 0.1}


def options(*words):
    parser = argparse.ArgumentParser(prog="subtuning plot")
    plot.add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def write(folder, study):
    """Put a study on disk as its processes would."""
    writers = sorted(set(study.writers))
    for writer in writers:
        with Journal.open(folder, study.spec, writer) as journal:
            for search in study.searches if writer == writers[0] else ():
                journal.append(search)
            for evaluation, by in zip(study.evaluations, study.writers, strict=True):
                if by == writer:
                    journal.append(evaluation)
    return folder.parent


def draw(folder, *words):
    return plot.run(options(folder, "--format", "png", "--theme", "light", *words))


def drawn(folder):
    return sorted(path.name for path in (folder / "plots").iterdir()) if (folder / "plots").exists() else []


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study that holds all there is to draw, of two processes."""
    extra = [HEAD_ONLY, *windows(NAMES), *windows(NAMES, 2), *pairs(NAMES), Candidate(tuple(NAMES))]
    study = study_of(NAMES, WORTH, [FORWARD, BACKWARD], extra, folds=2, processes=2)
    return write(tmp_path_factory.mktemp("whole") / "journal", study)


@pytest.fixture
def search(tmp_path):
    """A finished forward search and nothing else."""
    return write(tmp_path / "out" / "journal", study_of(NAMES, WORTH, [FORWARD], folds=2))


def test_all_that_a_journal_holds_is_drawn(whole, capsys):
    assert plot.run(options(whole, "--format", "png")) == 0
    names = ["profile", "profile_windows-2", "ladder_forward", "ladder_backward", "pairs", "pareto", "timeline"]
    expected = {f"{name}{end}.png" for name in names for end in ("", "_dark")}
    assert set(drawn(whole)) == expected
    said = capsys.readouterr().out
    assert "not drawn" not in said and all(file in said for file in expected) and str(whole / "plots") in said


def test_the_journal_folder_will_do_and_the_output_goes_where_it_is_told(search, tmp_path):
    assert draw(search / "journal", "--what", "profile", "--output-dir", tmp_path / "pictures") == 0
    assert [file.name for file in (tmp_path / "pictures").iterdir()] == ["profile.png"] and not drawn(search)


def test_what_is_missing_is_named_with_its_command(search, capsys):
    assert draw(search) == 0
    assert drawn(search) == ["ladder.png", "pareto.png", "profile.png", "timeline.png"]
    said = capsys.readouterr().out
    assert "pairs: 5 of 15 pairs of blocks were trained on all folds" in said
    assert "subtuning profile --config RECIPE profile.pairs=true" in said


def test_a_few_pairs_are_drawn_on_demand(search):
    assert draw(search, "--what", "pairs") == 0
    assert drawn(search) == ["pairs.png"]


def test_an_unfinished_search_says_how_to_go_on(search, tmp_path, capsys):
    study = read_study(search / "journal")
    folder = tmp_path / "killed" / "journal"
    with Journal.open(folder, study.spec) as journal:
        journal.append(FORWARD)
        for evaluation in study.evaluations[:8]:
            journal.append(evaluation)
    with pytest.raises(ArgumentsError, match="holds nothing of what was to be drawn"):
        draw(folder.parent, "--what", "ladder")
    said = capsys.readouterr().out
    assert "no search is finished: at least 6 trainings are missing" in said
    assert "subtuning search --config RECIPE" in said and not drawn(folder.parent)


def test_a_journal_that_has_only_begun(tmp_path, capsys):
    folder = tmp_path / "journal"
    with Journal.open(folder, study_of(NAMES, {}, [SearchSpec(max_blocks=0)]).spec) as journal:
        journal.append(FORWARD)
    with pytest.raises(ArgumentsError):
        draw(tmp_path)
    said = capsys.readouterr().out
    assert all(f"{what}: " in said for what in plot.WHAT) and said.count("--config RECIPE") == len(plot.WHAT)


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_no_journal(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(JournalError, match=f"STUDY must be the output_dir of a search .*{name}'") as caught:
        draw(tmp_path / name)
    assert "subtuning search" in str(caught.value) and not drawn(tmp_path / name)


def test_the_profile_marks_what_the_search_chose_beside_all_blocks(whole, monkeypatch):
    seen = called(monkeypatch, "plot_profile")
    assert draw(whole, "--what", "profile") == 0
    profile, windows_of_two = seen
    study = read_study(whole / "journal")
    assert profile["selection"] == plot.Material(study).results["forward"].blocks and profile["ordered"]
    full = [e.score for e in study.evaluations if len(e.candidate.blocks) == len(NAMES)]
    assert profile["full_finetuning"].mean == pytest.approx(sum(full) / len(full))
    assert profile["full_finetuning"].label == "all blocks"
    assert windows_of_two["title"] == "Finetuning profile of 2 blocks"


def test_a_backward_search_marks_without_an_order(tmp_path, monkeypatch):
    study = study_of(NAMES, WORTH, [BACKWARD], windows(NAMES), folds=2)
    write(tmp_path / "journal", study)
    (seen,) = called(monkeypatch, "plot_profile", tmp_path)
    assert len(seen["selection"]) == 1 and not seen["ordered"]


def test_the_best_of_both_starts_is_two_ladders(tmp_path, monkeypatch):
    best = SearchSpec(direction="best", max_blocks=2)
    write(tmp_path / "journal", study_of(NAMES, WORTH, [best], folds=2))
    material = plot.Material(read_study(tmp_path / "journal"))
    assert draw(tmp_path, "--what", "ladder") == 0
    assert drawn(tmp_path) == ["ladder_backward.png", "ladder_forward.png"]
    reasons = {name: made.args[0].reason for name, made in plot._ladder(material, True)}
    assert material.results["best"].reason in reasons.values() and len(set(reasons.values())) == 2


def test_of_several_searches_the_one_that_went_furthest(tmp_path):
    first = SearchSpec(max_blocks=1)
    write(tmp_path / "journal", study_of(NAMES, WORTH, [FORWARD, first], folds=2))
    results = plot.Material(read_study(tmp_path / "journal")).results
    assert list(results) == ["forward"] and len(results["forward"].blocks) == 2


# --- searches that predict -------------------------------------------------------------------
def predicting(folder, trained, count=2, folds=(0, 1), share=1.0):
    """A study whose only search predicts; of its trainings so many are done."""
    study = study_of(NAMES, WORTH, [], folds=2)
    shortlist = tuple(Candidate((name,)) for name in (NAMES[3], NAMES[0])[:count])
    spec = SearchSpec(strategy="kernel", budget=1.0)
    predictions = tuple(Predicted(candidate, (0.5,)) for candidate in shortlist)
    run = ProposalRun(spec, predictions, shortlist, folds, share, 0.5, 0.75, 2.0)
    with Journal.open(folder / "journal", study.spec) as journal:
        journal.append(run)
        journal.append(spec)
        for place, unit in enumerate(run.units[:trained]):
            info = {"started": 1.0 + place}
            journal.append(
                Evaluation(unit.candidate, unit.fold, 0.5, 10, seconds=0.1, budget=share, info=info)
            )
    return folder


def test_a_search_that_predicts_is_drawn_without_a_ladder(tmp_path, capsys, monkeypatch):
    (seen,) = called(monkeypatch, "plot_profile", predicting(tmp_path, trained=4))
    assert seen["selection"] == (NAMES[3],) and not seen["ordered"]
    assert draw(tmp_path) == 0
    assert drawn(tmp_path) == ["pareto.png", "profile.png", "profile_predicted.png", "timeline.png"]
    assert "ladder: a search by kernel predicts, and climbs no ladder" in capsys.readouterr().out


def test_an_unfinished_search_that_predicts_says_how_to_go_on(tmp_path, capsys):
    assert draw(predicting(tmp_path, trained=1, share=0.5)) == 0
    assert drawn(tmp_path) == ["timeline.png"]
    said = capsys.readouterr().out
    assert "ladder: no search is finished: at least 3 trainings are missing" in said


def test_a_search_that_trained_nothing_says_so(tmp_path, capsys):
    with pytest.raises(ArgumentsError, match="holds nothing of what was to be drawn"):
        draw(predicting(tmp_path, trained=0, count=1, folds=()))
    said = capsys.readouterr().out
    assert "timeline: the search predicted and trained nothing" in said and "args.search_budget" in said
    assert all(f"{what}: " in said for what in plot.WHAT) and not drawn(tmp_path)


def test_what_was_predicted_is_drawn_where_nothing_was_trained(tmp_path, monkeypatch):
    study = study_of(NAMES, WORTH, [], folds=2)
    spec = SearchSpec(strategy="short-profile", budget=1.0)
    scores = {Candidate(()): -2.0, **{Candidate((name,)): -1.0 - place for place, name in enumerate(NAMES)}}
    predictions = tuple(Predicted(candidate, (score,)) for candidate, score in scores.items())
    chosen = Candidate((NAMES[0],))
    with Journal.open(tmp_path / "journal", study.spec) as journal:
        journal.append(ProposalRun(spec, predictions, (chosen,), (), 1.0, 1.0, 1.0, 2.0))
        journal.append(spec)
    seen = called(monkeypatch, "plot_predictions")
    assert draw(tmp_path) == 0
    assert seen[0]["selection"] == (NAMES[0],) and seen[0]["strategy"] == "short-profile"
    assert drawn(tmp_path) == ["profile_predicted.png"]


def test_an_exact_search_beside_it_comes_first(tmp_path):
    write(tmp_path / "journal", study_of(NAMES, WORTH, [FORWARD], folds=2))
    predicting(tmp_path, trained=4)
    material = plot.Material(read_study(tmp_path / "journal"))
    assert list(material.results) == ["forward", "kernel"] and material.chosen is material.results["forward"]
    assert draw(tmp_path, "--what", "ladder") == 0 and drawn(tmp_path) == ["ladder.png"]


def called(monkeypatch, name, folder=None):
    """What a plot function is called with; drawn at once if a folder is given."""
    from subtuning_hf import plots

    seen, original = [], getattr(plots, name)

    def spy(*args, **kwargs):
        seen.append(kwargs)
        return original(*args, **kwargs)

    monkeypatch.setattr(plots, name, spy)
    if folder is not None:
        assert draw(folder, "--what", name.removeprefix("plot_")) == 0
    return seen


# --- what goes wrong -------------------------------------------------------------------------
def test_long_paths_of_modules_are_drawn(tmp_path):
    names = [f"{'a_wrapper_of_the_model.' * 6}layer.{index}" for index in range(3)]
    study = study_of(names, {names[2]: 0.2}, [FORWARD], pairs(names), folds=2)
    assert draw(write(tmp_path / "journal", study)) == 0
    assert drawn(tmp_path) == ["ladder.png", "pairs.png", "pareto.png", "profile.png", "timeline.png"]


def test_one_picture_that_fails_does_not_keep_others_from_being_drawn(search, monkeypatch, capsys):
    from subtuning_hf import plots

    def fails(*args, **kwargs):
        raise ValueError("left cannot be >= right")

    monkeypatch.setattr(plots, "plot_profile", fails)
    monkeypatch.setitem(plot.PICTURES, "pareto", fails)
    assert draw(search) == 2
    assert drawn(search) == ["ladder.png", "timeline.png"]
    said = capsys.readouterr()
    assert "profile: ValueError: left cannot be >= right" in said.err and "\n  pareto: ValueError" in said.err
    assert "pairs: 5 of 15" in said.out
    assert draw(search, "--what", "profile") == 2


@pytest.mark.parametrize("below", [".", "new/folder"])
def test_a_file_is_no_folder_and_is_refused_before_anything_is_drawn(search, tmp_path, monkeypatch, below):
    seen = called(monkeypatch, "plot_profile")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ArgumentsError, match=r"file' is no folder\. Name another folder with --output-dir"):
        draw(search, "--output-dir", tmp_path / "file" / below)
    assert not seen and (tmp_path / "file").read_text() == "mine"


def test_a_closed_folder_is_refused(search, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda place, mode: place != tmp_path)  # root may write everywhere
    with pytest.raises(ArgumentsError, match="no permission to write in"):
        draw(search, "--output-dir", tmp_path / "pictures")
    assert not (tmp_path / "pictures").exists()


def test_a_disk_that_is_full_ends_it(search, monkeypatch):
    from matplotlib.figure import Figure

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(ArgumentsError, match="plots': No space left on device"):
        draw(search)


# --- the command line ------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--what", "profil"], "found 'profil', expected some of profile, ladder.* Did you mean 'profile'"),
        (["--format", "jpeg"], "found 'jpeg', expected some of png, svg, pdf"),
        (["--theme", ","], "expected some of light, dark, found nothing"),
    ],
    ids=["what", "format", "theme"],
)
def test_unknown_words_are_refused(words, message, capsys):
    import re

    with pytest.raises(SystemExit) as stop:
        options("out", *words)
    assert stop.value.code == 2 and re.search(message, capsys.readouterr().err)


def test_by_default_both_formats_in_both_themes(search):
    assert plot.run(options(search, "--what", "timeline")) == 0
    assert drawn(search) == ["timeline.png", "timeline.svg", "timeline_dark.png", "timeline_dark.svg"]


def test_words_are_taken_once_and_in_order():
    assert options("out", "--what", "pairs, profile,pairs").what == ["pairs", "profile"]


def test_without_matplotlib(search, monkeypatch):
    monkeypatch.setitem(sys.modules, "subtuning_hf.plots", None)
    with pytest.raises(MissingDependencyError, match=r"pip install '\.\[plots\]'` in a checkout"):
        draw(search)


def test_neither_torch_nor_transformers_is_loaded(search):
    code = (
        "import sys, argparse; from subtuning_hf.cli import plot; parser = argparse.ArgumentParser(); "
        "plot.add_arguments(parser); plot.run(parser.parse_args(sys.argv[1:])); "
        "print('LOADED', [name for name in ('torch', 'transformers', 'peft') if name in sys.modules])"
    )
    words = [str(search), "--what", "pareto", "--format", "svg", "--theme", "dark"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "LOADED []" in done.stdout and drawn(search) == ["pareto_dark.svg"]
