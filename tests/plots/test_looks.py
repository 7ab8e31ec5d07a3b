"""What all pictures have in common: nothing is cut off or lies on something else, and files are the same each time."""

import sys
import xml.etree.ElementTree
from itertools import combinations

import pytest

pytest.importorskip("matplotlib")

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from plots.studies import LONG, MANY, NAMES, result_of, study_of
from subtuning_hf.plots import (
    Reference,
    plot_ladder,
    plot_pairs,
    plot_pareto,
    plot_profile,
    plot_timeline,
    save_figure,
)
from subtuning_hf.plots.style import THEMES, WIDTH, in_short
from subtuning_hf.search.pareto import pareto_front
from subtuning_hf.search.profile import profile_of
from subtuning_hf.search.records import SearchSpec
from subtuning_hf.search.space import HEAD_ONLY, pairs, windows

SIZES = {"few": LONG, "some": NAMES, "many": MANY}
KINDS = ("profile", "windows", "ladder", "backward", "pairs", "pareto", "timeline")


@pytest.fixture(scope="module")
def studies():
    """One study of each size that holds all there is to draw; the largest with part of its pairs."""
    forward, backward = SearchSpec(max_blocks=3), SearchSpec(direction="backward", max_blocks=1)
    made = {}
    for size, names in SIZES.items():
        searches = [forward] if size == "many" else [forward, backward]
        extra = [HEAD_ONLY, *windows(names), *windows(names, 2), *pairs(names)[:90]]
        worth = {names[-1]: 0.2, names[0]: 0.1}
        made[size] = study_of(names, worth, searches, extra, folds=2, processes=3)
    return made


def draw(kind, study, theme="light"):
    names = [block.name for block in study.spec.blocks]
    evaluations = study.evaluations
    if kind in ("profile", "windows"):
        wanted = windows(names, 2) if kind == "windows" else None
        chosen = result_of(study).blocks if kind == "profile" else ()
        profile = profile_of(study.spec, evaluations, wanted)
        return plot_profile(profile, selection=chosen, full_finetuning=Reference(0.8, 0.01), theme=theme)
    if kind in ("ladder", "backward"):
        return plot_ladder(result_of(study, study.searches[-1 if kind == "backward" else 0]), theme=theme)
    if kind == "pairs":
        profile = profile_of(study.spec, evaluations, pairs(names))
        return plot_pairs(profile, profile_of(study.spec, evaluations), theme=theme)
    if kind == "pareto":
        return plot_pareto(pareto_front(study.spec, evaluations), theme=theme)
    return plot_timeline(study, theme=theme)


def boxes_of(figure):
    """Every text that shows, with the room it takes in pixels."""
    figure.draw_without_rendering()
    hidden = [text for axes in figure.findobj(Axes) for text in _ticks_out_of_sight(axes)]
    return [
        (text, text.get_window_extent())
        for text in figure.findobj(Text)
        if text.get_text() and text.get_visible() and not any(text is other for other in hidden)
    ]


def _ticks_out_of_sight(axes):
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        for tick in axis.get_major_ticks():
            if not low <= tick.get_loc() <= high:
                yield from (tick.label1, tick.label2)


CASES = [(kind, size) for kind in KINDS for size in SIZES if (kind, size) != ("backward", "many")]


@pytest.mark.parametrize(("kind", "size"), CASES)
def test_every_word_is_inside_the_picture_and_beside_the_others(studies, kind, size):
    figure = draw(kind, studies[size])
    wide, high = figure.get_size_inches()
    assert wide == WIDTH and 1.5 < high < 9
    width, height = figure.canvas.get_width_height()
    found = boxes_of(figure)
    assert len(found) > 4 and min(text.get_fontsize() for text, _ in found) >= 6.5
    for text, box in found:
        inside = box.x0 >= -1 and box.x1 <= width + 1 and box.y0 >= -1 and box.y1 <= height + 1
        assert inside, f"{text.get_text()!r} is cut off: {box} in {width} x {height}"
    for (one, first), (other, second) in combinations(found, 2):
        shared = (
            min(first.x1, second.x1) - max(first.x0, second.x0),
            min(first.y1, second.y1) - max(first.y0, second.y0),
        )
        assert min(shared) <= 1.5, f"{one.get_text()!r} lies on {other.get_text()!r}"


def contrast(one, other):
    """Contrast of two colours, from 1 to 21, as the guidelines of the web define it."""

    def light(colour):
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", list(THEMES))
def test_words_stand_out_from_the_ground(theme):
    colours = THEMES[theme]
    for purpose in ("text", "muted", "chosen", "probe", "full", "best"):
        assert contrast(getattr(colours, purpose), colours.ground) >= 4.5, purpose
    for share in (0, 0.2, 0.4, 0.6, 0.8, 1):
        assert contrast(colours.on(colours.scale(share)), colours.scale(share)) >= 3.5, share
    lightness = [contrast(colours.scale(i / 10), colours.ground) for i in range(11)]
    assert lightness == sorted(lightness) and lightness[0] > 1.15  # the ramp goes away from the ground


@pytest.mark.parametrize("kind", KINDS)
def test_themes_differ_in_colour_alone(studies, kind):
    light, dark = (draw(kind, studies["some"], theme) for theme in THEMES)
    assert [t.get_text() for t in light.findobj(Text)] == [t.get_text() for t in dark.findobj(Text)]
    assert light.get_facecolor() != dark.get_facecolor()
    assert tuple(light.get_size_inches()) == pytest.approx(tuple(dark.get_size_inches()))


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_the_same_each_time(studies, kind, tmp_path):
    png, svg = save_figure(draw(kind, studies["few"], "dark"), tmp_path / "one" / kind)
    again = save_figure(draw(kind, studies["few"], "dark"), tmp_path / "two" / kind)
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and png.stat().st_size > 10_000
    assert xml.etree.ElementTree.parse(svg).getroot().tag.endswith("svg")
    assert [file.read_bytes() for file in again] == [png.read_bytes(), svg.read_bytes()]


def test_a_suffix_is_a_format(studies, tmp_path):
    figure = draw("timeline", studies["few"])
    assert [file.name for file in save_figure(figure, tmp_path / "a.png")] == ["a.png"]
    assert [file.name for file in save_figure(figure, tmp_path / "b.v2", ("svg",))] == ["b.v2.svg"]


def test_nothing_global(studies):
    draw("timeline", studies["few"])
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0"), (650, "650"), (5320, "5.32 k"), (1.774e6, "1.77 M"), (2e9, "2 G")]
)
def test_in_short(number, words):
    assert in_short(number) == words
