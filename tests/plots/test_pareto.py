"""Score against price."""

import pytest

pytest.importorskip("matplotlib")

import numpy as np
from matplotlib.collections import PathCollection

from plots.studies import NAMES, study_of, texts_of, ticks_of
from subtuning_hf.errors import ArgumentsError
from subtuning_hf.plots import plot_pareto
from subtuning_hf.search.pareto import ParetoFront, ParetoPoint, pareto_front
from subtuning_hf.search.records import Candidate, SearchSpec
from subtuning_hf.search.space import pairs


@pytest.fixture(scope="module")
def front():
    study = study_of(NAMES, {NAMES[1]: 0.1, NAMES[4]: 0.2}, [SearchSpec()], pairs(NAMES))
    return pareto_front(study.spec, study.evaluations)


def dots_of(figure, ringed):
    """Where the dots of the front, or the others, are."""
    groups = [found for found in figure.axes[0].collections if isinstance(found, PathCollection)]
    return [tuple(dot) for group in groups if (group.get_linewidths()[0] > 1) == ringed for dot in group.get_offsets()]


def line_of(figure):
    return max(figure.axes[0].lines, key=lambda line: len(line.get_xdata()))


def test_every_point_is_drawn_and_the_front_is_ringed(front):
    figure = plot_pareto(front)
    shown = [(point.num_parameters, point.mean) for point in front.front if point.num_parameters]
    assert set(shown) <= set(dots_of(figure, True)) and len(dots_of(figure, True)) == len(front.front)
    assert len(dots_of(figure, False)) == len(front.points) - len(front.front) > 0


def test_the_line_is_the_best_score_for_every_price(front):
    line = line_of(plot_pareto(front))
    xs, ys = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    assert (np.diff(xs) >= 0).all() and (np.diff(ys) >= 0).all()
    for price in sorted({point.num_parameters for point in front.points}):
        best = front.best_under(price).mean
        assert max(y for x, y in zip(xs, ys, strict=True) if x <= max(price, min(xs))) == pytest.approx(best)


def test_the_head_stands_left_of_all_at_zero(front):
    figure = plot_pareto(front)
    (head,) = [dot for dot in dots_of(figure, True) if dot[1] == front.points[0].mean]
    axes = figure.axes[0]
    ticks = dict(zip(ticks_of(figure), axes.get_xticks(), strict=True))
    assert ticks["0"] == pytest.approx(head[0]) and head[0] < min(x for x, _ in dots_of(figure, False))
    assert axes.get_xlim()[0] < head[0]


def test_the_front_is_named(front):
    names = [text for text in texts_of(plot_pareto(front)) if text]
    assert {"head only", "0.1 + 2.0", "2.0"} <= set(names)


def test_selections_of_one_price_and_without_the_head():
    points = tuple(ParetoPoint(Candidate((name,)), 0.5 + i / 10, None, 7000, i) for i, name in enumerate("abc"))
    figure = plot_pareto(ParetoFront("accuracy", True, 3, points))
    assert ticks_of(figure) == ["7 k"] and len(dots_of(figure, True)) == 1


def test_only_the_head():
    point = ParetoPoint(Candidate(()), 0.5, 0.01, 0, 3)
    figure = plot_pareto(ParetoFront("eval_loss", False, 3, (point,)))
    assert "0" in ticks_of(figure) and "up is better" in figure.axes[0].get_ylabel()


def test_long_selections_are_counted():
    names = tuple(f"net.{i}" for i in range(6))
    points = (
        ParetoPoint(Candidate(names[1:6]), 0.7, 0.01, 5000, 1),
        ParetoPoint(Candidate(names), 0.8, 0.01, 6000, 0),
        ParetoPoint(Candidate(names[5:]), 0.6, 0.01, 1000, 5),
    )
    assert {"5 blocks from 1", "all blocks", "5"} <= set(
        texts_of(plot_pareto(ParetoFront("accuracy", True, 6, points)))
    )


def test_what_cannot_be_drawn(front):
    with pytest.raises(ArgumentsError, match="no points"):
        plot_pareto(ParetoFront("accuracy", True, 3, ()))
    with pytest.raises(ArgumentsError, match="light, dark"):
        plot_pareto(front, theme="blue")
