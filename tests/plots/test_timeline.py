"""The journal over time."""

from dataclasses import replace

import pytest

pytest.importorskip("matplotlib")

from matplotlib.colors import to_rgb

from plots.studies import NAMES, study_of, texts_of, ticks_of
from subtuning_hf.errors import ArgumentsError
from subtuning_hf.plots import plot_timeline
from subtuning_hf.plots.style import THEMES
from subtuning_hf.plots.timeline import Bar, bars_of, breaks_of, busy_share, in_words, without_breaks
from subtuning_hf.search.journal import Study
from subtuning_hf.search.records import BlockInfo, Candidate, Evaluation, FinalRun, SearchSpec, StudySpec

SPEC = StudySpec((BlockInfo("a", 1), BlockInfo("b", 1)), 3, "accuracy", True)


def study(*trainings, writers=(), **fields):
    """(fold, start or None, seconds, process or None) of the head alone."""
    evaluations = []
    for fold, start, seconds, process in trainings:
        info = {"started": start} if start is not None else {}
        info |= {"process": process} if process is not None else {}
        evaluations.append(Evaluation(Candidate(()), fold, 0.5, 10, {}, 1, seconds, info))
    return Study(SPEC, tuple(evaluations), writers=tuple(writers), **fields)


def drawn(figure):
    """(lane, start, end) of every bar, in the units of the picture."""
    return sorted(
        (round(bar.get_y() + bar.get_height() / 2), bar.get_x(), bar.get_x() + bar.get_width())
        for bar in figure.axes[0].patches
    )


def words_of(figure):
    return " ".join(texts_of(figure)).replace("\n", " ")


def test_bars_stand_where_and_when_they_were_made():
    figure = plot_timeline(study((0, 1000.0, 30.0, 0), (1, 1030.0, 10.0, 0), (2, 1005.0, 20.0, 1)))
    assert drawn(figure) == [(0, 0, 30), (0, 30, 40), (1, 5, 25)]
    assert ticks_of(figure, "y") == ["process 0", "process 1"] and figure.axes[0].get_xlabel() == "seconds"


def test_idle_time_is_told_for_each_and_for_all():
    figure = plot_timeline(study((0, 0.0, 40.0, 0), (1, 0.0, 10.0, 1), (2, 20.0, 10.0, 1)))
    assert {"100 % busy", "50 % busy"} <= set(texts_of(figure))
    assert "3 trainings by 2 processes in 40 s; the processes were idle 25.0 % of the time" in words_of(figure)


def test_a_break_is_cut_out_and_told():
    made = study((0, 0.0, 60.0, 0), (1, 36_000.0, 60.0, 0), (2, 36_060.0, 60.0, 1))
    figure = plot_timeline(made)
    ends = [end for *_, end in drawn(figure)]
    assert max(ends) < 200 / 60 * 1.1  # three minutes of work, not ten hours
    assert "9 h 59 min break" in texts_of(figure) and "without breaks" in figure.axes[0].get_xlabel()
    assert "in 3 min;" in words_of(figure) and "idle 50.0 %" in words_of(figure)


def test_breaks_are_times_without_anybody():
    bars = [Bar("a", 0, 10, 0, 1.0), Bar("b", 5, 15, 0, 1.0), Bar("a", 40, 50, 0, 1.0), Bar("b", 65, 70, 0, 1.0)]
    assert breaks_of(bars) == [(15, 40)]  # 15 s is less than twice the longest training
    moved, cuts = without_breaks(bars, breaks_of(bars))
    assert [bar.end - bar.start for bar in moved] == pytest.approx([bar.end - bar.start for bar in bars])
    assert moved[0].start == 0 and moved[2].start == pytest.approx(15 + 0.012 * 45) and cuts[0][1] == 25


@pytest.mark.parametrize("overlap", [0, 4])
def test_a_lane_is_never_more_than_busy(overlap):
    bars = [Bar("a", 0, 10, 0, 1.0), Bar("a", 10 - overlap, 20, 0, 1.0)]
    assert busy_share(bars, [], (0, 20)) == 1.0
    assert busy_share(bars, [], (0, 40)) == 0.5


def test_an_old_journal_is_drawn_one_after_another_by_files():
    made = study((0, None, 10.0, None), (1, None, 20.0, None), (2, None, 5.0, None))
    figure = plot_timeline(replace(made, writers=("rank-0000", "rank-0000", "rank-0001")))
    assert drawn(figure) == [(0, 0, 10), (0, 10, 30), (1, 0, 5)]
    assert ticks_of(figure, "y") == ["process 0", "process 1"]
    assert "start times were not recorded" in words_of(figure) and "idle" not in words_of(figure)


def test_an_old_journal_that_was_continued():
    bars, guessed = bars_of(study((0, None, 10.0, 0), (1, 500.0, 20.0, 0), (2, 505.0, 20.0, 1)))
    assert guessed == 1 and [(bar.start, bar.end) for bar in bars] == [(490, 500), (500, 520), (505, 525)]
    figure = plot_timeline(study((0, None, 10.0, 0), (1, 500.0, 20.0, 0), (2, 505.0, 20.0, 1)))
    assert "for the first training no start times" in words_of(figure)


def test_lanes_are_in_the_order_of_processes():
    made = study(*[(fold, 0.0, 5.0, process) for fold, process in enumerate((10, 2, 0))])
    assert ticks_of(plot_timeline(made), "y") == ["process 0", "process 2", "process 10"]


def test_shares_of_a_training_are_low_bars():
    made = study_of(NAMES, {NAMES[2]: 0.2}, [SearchSpec(max_blocks=1, pruner="halving")], processes=3)
    figure = plot_timeline(made)
    heights = sorted({round(bar.get_height(), 3) for bar in figure.axes[0].patches})
    assert len(heights) == 2 and len(figure.axes[0].patches) == len(made.evaluations)
    low = [bar for bar in figure.axes[0].patches if bar.get_height() < 0.5]
    assert len(low) == sum(evaluation.budget < 1 for evaluation in made.evaluations)
    assert "low bars: a share of the training" in words_of(figure)


def test_final_trainings_have_a_colour_of_their_own():
    final = FinalRun(Candidate(("a",)), 1, {"eval_accuracy": 0.8}, 10, 50.0, {"started": 40.0, "process": 0})
    figure = plot_timeline(study((0, 0.0, 40.0, 0), finals=(final,)))
    assert [to_rgb(bar.get_facecolor()) for bar in figure.axes[0].patches].count(to_rgb(THEMES["light"].best)) == 1
    assert "final training" in [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_the_legend_is_short():
    made = study_of(NAMES, {}, [SearchSpec(direction="backward", max_blocks=0)], processes=2)
    entries = [text.get_text() for text in plot_timeline(made).axes[0].get_legend().get_texts()]
    assert entries[0] == "head only" and entries[-1] == "6 blocks" and len(entries) <= 7


def test_what_cannot_be_drawn():
    with pytest.raises(ArgumentsError, match="no evaluation yet"):
        plot_timeline(Study(SPEC))
    with pytest.raises(ArgumentsError, match="light, dark"):
        plot_timeline(study((0, 0.0, 1.0, 0)), theme="blue")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.5, "0.5 s"),
        (59, "59 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (1230, "20 min"),
        (7500, "2 h 5 min"),
        (90_000, "25 h"),
    ],
)
def test_in_words(seconds, words):
    assert in_words(seconds) == words
