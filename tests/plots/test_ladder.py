"""The ladder of searches in every direction."""

import pytest

pytest.importorskip("matplotlib")

from plots.studies import MANY, NAMES, result_of, study_of, texts_of, ticks_of
from subtuning_hf.errors import ArgumentsError
from subtuning_hf.plots import plot_ladder
from subtuning_hf.search.records import SearchSpec
from subtuning_hf.search.result import SearchResult
from subtuning_hf.search.scores import score_of
from subtuning_hf.search.space import pairs

WORTH = {NAMES[3]: 0.2, NAMES[0]: 0.1}


def steps_of(figure):
    """Where the line of the steps taken goes."""
    return next(line for line in figure.axes[0].lines if line.get_marker() == "o" and line.get_linestyle() == "-")


def test_forward_shows_steps_gains_and_the_refused_one():
    result = result_of(study_of(NAMES, WORTH, [SearchSpec(min_gain=0.05)]))
    assert [row.added for row in result.ladder] == [True, True, True, False]
    figure = plot_ladder(result)
    assert list(steps_of(figure).get_ydata()) == [row.mean for row in result.ladder[:-1]]
    names = [tick.split("\n")[0] for tick in ticks_of(figure)]
    assert names[:3] == ["head only", "+ 1.1", "+ 0.0"] and len(names) == 4
    assert ticks_of(figure)[1].split("\n")[1] == "4.05 k"
    step, refused = result.ladder[2], result.ladder[3]
    gain = f"+{100 * step.gain:.1f} ± {100 * step.standard_error:.1f}"
    assert f"{100 * step.mean:.1f} %\n{gain}" in texts_of(figure)
    (text,) = [text for text in texts_of(figure) if text.endswith("not added")]
    assert text.startswith(f"{100 * refused.mean:.1f} %")
    assert any(result.reason in text.replace("\n", " ") for text in texts_of(figure))


def test_all_that_was_tried_is_shown():
    result = result_of(study_of(NAMES, WORTH, [SearchSpec(max_blocks=1)]))
    (cloud,) = [dots for dots in plot_ladder(result).axes[0].collections if len(dots.get_offsets()) == len(NAMES)]
    round_ = result.rounds[1]
    expected = sorted(score_of(round_.of(candidate)) for candidate in round_.candidates)
    assert sorted(y for _, y in cloud.get_offsets()) == pytest.approx(expected)


def test_a_pruned_candidate_has_no_dot():
    search = SearchSpec(max_blocks=1, pruner="halving")
    result = result_of(study_of(NAMES, WORTH, [search]))
    survivors = len(NAMES) - len(result.rounds[1].pruned)
    assert survivors < len(NAMES)
    dots = [len(dots.get_offsets()) for dots in plot_ladder(result).axes[0].collections if hasattr(dots, "get_offsets")]
    assert max([0, *(n for n in dots if n > 1)]) == (survivors if survivors > 1 else 0)


def test_backward_goes_down_in_blocks():
    result = result_of(study_of(NAMES, WORTH, [SearchSpec(direction="backward")]))
    assert {row.change for row in result.ladder} == {"start", "remove"} and set(result.blocks) >= {NAMES[0], NAMES[3]}
    figure = plot_ladder(result)
    names = [tick.split("\n")[0] for tick in ticks_of(figure)]
    assert names[0] == "all 6" and all(name.startswith("− ") for name in names[1:])
    assert "Greedy search, backward" in texts_of(figure)
    if not result.ladder[-1].added:
        assert any(text.endswith("not removed") for text in texts_of(figure))


def test_a_list_shows_the_choice():
    search = SearchSpec(direction="list", candidates=pairs(NAMES[:3]))
    figure = plot_ladder(result_of(study_of(NAMES, {NAMES[1]: 0.2}, [search])))
    names = [tick.split("\n")[0] for tick in ticks_of(figure)]
    assert names[0] == "head only" and " + " in names[1] and not names[1].startswith("+")


def test_a_loss_falls_upward():
    result = result_of(study_of(NAMES, WORTH, [SearchSpec(max_blocks=2)], loss=True))
    figure = plot_ladder(result)
    assert "up is better" in figure.axes[0].get_ylabel()
    assert f"{-result.ladder[0].mean:.4g}" in texts_of(figure)


def test_a_long_ladder_writes_few_numbers():
    worth = dict.fromkeys(MANY[:12], 0.01)
    result = result_of(study_of(MANY[:16], worth, [SearchSpec(min_gain=0.0, max_blocks=12)], folds=2))
    assert len(result.ladder) == 13
    figure = plot_ladder(result)
    assert len(figure.axes[0].texts) <= 4 and len(ticks_of(figure)) == 13


def test_a_search_of_one_round():
    result = result_of(study_of(NAMES, {}, [SearchSpec(max_blocks=0)]))
    assert len(plot_ladder(result).axes[0].texts) == 1


def test_what_cannot_be_drawn():
    result = result_of(study_of(NAMES, {}, [SearchSpec(max_blocks=0)]))
    with pytest.raises(ArgumentsError, match="must be one of light, dark"):
        plot_ladder(result, theme="grey")
    fields = {**vars(result), "rounds": ()}
    with pytest.raises(ArgumentsError, match="no rounds"):
        plot_ladder(SearchResult(**fields))
