"""Pictures: what is drawn is what the records say, and files are the same each time."""

import random
import xml.etree.ElementTree

import pytest

pytest.importorskip("matplotlib")

from matplotlib.colors import to_rgb

from subtuning_hf.errors import ArgumentsError
from subtuning_hf.plots import Reference, plot_ladder, plot_profile, save_figure, short_names
from subtuning_hf.plots.style import THEMES
from subtuning_hf.search.greedy import replay
from subtuning_hf.search.profile import profile_of
from subtuning_hf.search.records import BlockInfo, Evaluation, SearchSpec, StudySpec
from subtuning_hf.search.result import SearchResult

NAMES = [f"net.stages.{stage}.layers.{layer}" for stage in range(3) for layer in range(2)]


def search_with(worth, loss=False, max_blocks=None):
    """A finished search in which block b is worth `worth[b]`."""
    generator = random.Random(0)
    spec = StudySpec(tuple(BlockInfo(n, 100) for n in NAMES), 3, "eval_loss" if loss else "accuracy", not loss)
    asked, evaluations = SearchSpec(max_blocks=max_blocks), []
    while not (state := replay(spec, asked, evaluations)).finished:
        for candidate, fold in state.pending:
            score = 0.5 + sum(worth.get(block, 0) for block in candidate.blocks) + generator.gauss(0, 0.002)
            evaluations.append(Evaluation(candidate, fold, score - 1 if loss else score, 50))
    return SearchResult.from_state(spec, state, evaluations)


@pytest.fixture(scope="module")
def result():
    found = search_with({NAMES[3]: 0.2, NAMES[0]: 0.1}, max_blocks=2)
    assert found.blocks == (NAMES[3], NAMES[0])
    return found


def texts_of(figure):
    return [text.get_text() for text in (*figure.axes[0].texts, *figure.texts)]


def test_bars_reach_from_the_head_to_the_scores(result):
    bars = list(figure_bars(plot_profile(result.profile)))
    assert len(bars) == len(NAMES)
    for bar, row in zip(bars, result.profile.rows, strict=True):
        assert bar.get_y() == pytest.approx(result.profile.head_only.mean)
        assert bar.get_y() + bar.get_height() == pytest.approx(row.mean)


def figure_bars(figure):
    return [
        patch for container in figure.axes[0].containers if hasattr(container, "patches") for patch in container.patches
    ]


def test_chosen_blocks_are_marked_in_order(result):
    figure = plot_profile(result.profile, selection=result.blocks)
    chosen = to_rgb(THEMES["light"].chosen)
    marked = [bar.get_facecolor()[:3] == pytest.approx(chosen) for bar in figure_bars(figure)]
    assert marked == [name in result.blocks for name in NAMES]
    places = {t.get_text(): t.xy[0] for t in figure.axes[0].texts if t.get_text() in ("1st", "2nd")}
    assert places == {"1st": 3, "2nd": 0}


def test_references_are_drawn_and_written(result):
    figure = plot_profile(result.profile, full_finetuning=Reference(0.75, 0.01))
    assert "full fine-tune\n75.0 %" in texts_of(figure)
    assert f"head only\n{100 * result.profile.head_only.mean:.1f} %" in texts_of(figure)
    low, high = figure.axes[0].get_ylim()
    assert low < result.profile.head_only.mean and high > 0.76


def test_blocks_have_short_names(result):
    figure = plot_profile(result.profile)
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["0.0", "0.1", "1.0", "1.1", "2.0", "2.1"]
    assert "net.stages.*.layers.*" in figure.axes[0].get_xlabel()


def test_a_loss_is_written_as_it_is_and_up_is_better():
    found = search_with({NAMES[2]: 0.2}, loss=True, max_blocks=1)
    figure = plot_profile(found.profile, full_finetuning=Reference(0.25))
    assert "full fine-tune\n0.25" in texts_of(figure)
    assert (
        pytest.approx([line.get_ydata()[0] for line in figure.axes[0].lines if line.get_linestyle() != "-"][-1])
        == -0.25
    )
    assert "up is better" in figure.axes[0].get_ylabel()
    heights = [bar.get_height() for bar in figure_bars(figure)]
    assert max(heights) == heights[2] > 0.15


def test_one_fold_has_no_error_bars():
    spec = StudySpec(tuple(BlockInfo(n, 100) for n in NAMES), 1, "accuracy", True)
    evaluations = [Evaluation(c, 0, 0.5, 50) for c, _ in replay(spec, SearchSpec(), []).pending]
    state = replay(spec, SearchSpec(), evaluations)
    evaluations += [Evaluation(c, 0, 0.6, 50) for c, _ in state.pending]
    figure = plot_profile(profile_of(spec, evaluations))
    assert "s.e." not in " ".join(texts_of(figure))


def test_what_cannot_be_drawn(result):
    with pytest.raises(ArgumentsError, match="must be one of light, dark"):
        plot_profile(result.profile, theme="solarized")
    with pytest.raises(ArgumentsError, match="'net.other', which is not in the profile"):
        plot_profile(result.profile, selection=["net.other"])
    empty = profile_of(StudySpec((BlockInfo("a", 1),), 3, "accuracy", True), [])
    with pytest.raises(ArgumentsError, match="no rows"):
        plot_profile(empty)


def test_ladder_shows_steps_and_the_refused_one():
    found = search_with({NAMES[3]: 0.2})
    refused = not found.ladder[-1].added
    figure = plot_ladder(found)
    labels = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert labels[0] == "head only" and len(labels) == len(found.ladder)
    assert any("not added" in text for text in texts_of(figure)) == refused


@pytest.mark.parametrize("theme", list(THEMES))
def test_files(result, theme, tmp_path):
    def write(folder):
        figure = plot_profile(result.profile, selection=result.blocks, theme=theme)
        return save_figure(figure, tmp_path / folder / "profile")

    (png, svg), (again, _) = write("one"), write("two")
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and png.stat().st_size > 10_000
    assert png.read_bytes() == again.read_bytes()
    assert xml.etree.ElementTree.parse(svg).getroot().tag.endswith("svg")
    assert [file.suffix for file in save_figure(plot_ladder(result, theme=theme), tmp_path / "ladder.png")] == [".png"]


def test_nothing_global(result):
    import sys

    plot_profile(result.profile)
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


@pytest.mark.parametrize(
    ("names", "short", "pattern"),
    [
        (["a.0.b", "a.1.b"], ["0", "1"], "a.*.b"),
        (["a.0.b.0", "a.1.b.2"], ["0.0", "1.2"], "a.*.b.*"),
        (["layer1.0", "layer2.1", "layer10.0"], ["1.0", "2.1", "10.0"], "layer*.*"),
        (["s1.b1", "s1.b12"], ["1", "12"], "s1.b*"),
        (["a.0", "b.1"], ["a.0", "b.1"], None),
        (["a.0", "a.b.1"], ["a.0", "a.b.1"], None),
        (["a.0"], ["a.0"], None),
        ([], [], None),
    ],
)
def test_short_names(names, short, pattern):
    assert short_names(names) == (short, pattern)
