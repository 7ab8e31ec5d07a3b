"""The picture of added latency: its lines are the profile's, what was measured is marked, and nothing overlaps."""

from itertools import combinations

import pytest

pytest.importorskip("matplotlib")

from plots.studies import LONG, MANY, NAMES
from plots.test_looks import boxes_of
from subtuning_hf.errors import ArgumentsError
from subtuning_hf.plots import plot_latency
from subtuning_hf.plots.style import THEMES
from subtuning_hf.search.latency import BatchLatency, LatencyProfile, Timing, WholeRun


def profile_of(names, sizes=(1, 8, 64)):
    """Blocks that take `1 + place` ms, and less than in proportion on more rows at small batches."""
    batches = []
    for size in sizes:
        shared = tuple(Timing(size * (1.0 + place)) for place in range(len(names)))
        grown = tuple(Timing(time.median * min(4, 1.5 + size / 8)) for time in shared)
        whole = Timing(sum(time.median for time in shared) + 2)
        runs = (WholeRun((), whole), WholeRun((names[0],), Timing(3 * whole.median, whole.median / 5)))
        batches.append(BatchLatency(size, 5, whole, Timing(2.0), shared, grown, grown, runs))
    ones = (1,) * len(names)
    return LatencyProfile("a/model", 4, tuple(names), ones, ones, tuple(batches), {"device": "cpu", "threads": 1})


@pytest.mark.parametrize("names", [LONG, NAMES, MANY], ids=["few", "some", "many"])
@pytest.mark.parametrize("theme", THEMES)
def test_lines_are_the_profile(names, theme):
    profile = profile_of(names)
    figure = plot_latency(profile, theme=theme)
    axes = figure.axes[0]
    drawn = {
        line.get_label().split("  ")[0]: list(line.get_ydata())
        for line in axes.get_lines()
        if "batch" in line.get_label()
    }
    assert drawn.keys() == {"batch of 1", "batch of 8", "batch of 64"}
    for size in profile.batch_sizes:
        cost = profile.cost(size)
        assert drawn[f"batch of {size}"] == pytest.approx([cost.relative([name]) for name in names])
    marks = [line for line in axes.get_lines() if line.get_markerfacecolor() == "none"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in marks] == [(0, pytest.approx(2.0))] * 3
    low, high = axes.get_ylim()
    assert low == 0 and high > 3  # every task alone
    for (one, left), (other, right) in combinations(boxes_of(figure), 2):
        assert not left.overlaps(right), f"'{one.get_text()}' lies on '{other.get_text()}'"


def test_words_of_the_picture():
    figure = plot_latency(profile_of(NAMES, [8]))
    words = " ".join(text.get_text().replace("\n", " ") for text, _ in boxes_of(figure))
    for expected in ("4 tasks on one trunk", "cpu, 1 thread", "every task alone +3", "measured from end to end"):
        assert expected in words
    with pytest.raises(ArgumentsError, match="theme"):
        plot_latency(profile_of(NAMES), theme="pink")
