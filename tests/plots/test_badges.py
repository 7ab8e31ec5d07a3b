"""Badges above bars: each can be read, wherever the chosen blocks lie."""

from itertools import combinations

import pytest

pytest.importorskip("matplotlib")

from matplotlib.text import Annotation

from plots.studies import study_of, texts_of
from subtuning_hf.plots import Reference, plot_profile
from subtuning_hf.search.profile import profile_of
from subtuning_hf.search.space import HEAD_ONLY, windows


def badges_of(figure):
    """The badges with the room they take, from left to right."""
    figure.draw_without_rendering()
    found = [each for each in figure.axes[0].texts if isinstance(each, Annotation) and each.get_bbox_patch()]
    return [(each, each.get_bbox_patch().get_window_extent()) for each in sorted(found, key=lambda each: each.xy[0])]


def draw(count, places, worth, theme="light"):
    names = [f"vit.encoder.layer.{index}" for index in range(count)]
    study = study_of(
        names, {names[place]: worth(place) for place in places}, [], [HEAD_ONLY, *windows(names)], folds=2
    )
    profile = profile_of(study.spec, study.evaluations)
    full = Reference(0.8, 0.01, "all blocks of the model")
    return plot_profile(profile, selection=[names[p] for p in places], full_finetuning=full, theme=theme)


WORTHS = {"alike": lambda place: 0.2, "rising": lambda place: 0.1 + place / 600, "uneven": lambda place: place % 3 / 9}


@pytest.mark.parametrize("worth", WORTHS.values(), ids=WORTHS)
@pytest.mark.parametrize(("count", "chosen"), [(3, 3), (12, 5), (20, 3), (24, 6), (25, 3), (32, 3), (60, 3), (60, 14)])
def test_no_badge_hides_another(count, chosen, worth):
    figure = draw(count, range(count - chosen, count), worth)
    badges = badges_of(figure)
    assert [each.xy[0] for each, _ in badges] == list(range(count - chosen, count))
    axes = figure.axes[0].get_window_extent()
    for each, box in badges:
        assert box.y1 <= axes.y1 + 1 and each.get_fontsize() >= 7
        assert abs((box.x0 + box.x1) / 2 - figure.axes[0].transData.transform(each.xy)[0]) < 1  # above its bar
    for (one, first), (other, second) in combinations(badges, 2):
        assert not first.overlaps(second), f"{one.get_text()} lies on {other.get_text()}"


def test_many_bars_have_numbers_alone_and_the_heading_says_so():
    few, many = draw(24, (22, 23), WORTHS["alike"]), draw(60, (57, 58, 59), WORTHS["alike"])
    assert [each.get_text() for each, _ in badges_of(few)] == ["1st", "2nd"]
    assert [each.get_text() for each, _ in badges_of(many)] == ["1", "2", "3"]
    assert any("\n1st, 2nd ...: the blocks" in text for text in texts_of(few))
    assert any("\n1, 2 ...: the blocks" in text for text in texts_of(many))


def test_badges_are_lifted_only_where_they_would_touch():
    far = badges_of(draw(60, (5, 30, 55), WORTHS["alike"]))
    near = badges_of(draw(60, (57, 58, 59), WORTHS["alike"]))
    assert not any(each.arrow_patch for each, _ in far)
    assert [bool(each.arrow_patch) for each, _ in near].count(True) == 1
