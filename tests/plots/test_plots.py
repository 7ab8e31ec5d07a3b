"""The finetuning profile: what is drawn is what the records say."""

import pytest

pytest.importorskip("matplotlib")

from matplotlib.colors import to_rgb

from plots.studies import LONG, MANY, NAMES, result_of, study_of, texts_of, ticks_of
from subtuning_hf.errors import ArgumentsError
from subtuning_hf.plots import Reference, plot_profile
from subtuning_hf.plots.style import THEMES
from subtuning_hf.search.profile import profile_of
from subtuning_hf.search.records import BlockInfo, Candidate, Evaluation, SearchSpec, StudySpec
from subtuning_hf.search.space import HEAD_ONLY, windows


@pytest.fixture(scope="module")
def result():
    found = result_of(study_of(NAMES, {NAMES[3]: 0.2, NAMES[0]: 0.1}, [SearchSpec(max_blocks=2)]))
    assert found.blocks == (NAMES[3], NAMES[0])
    return found


def bars_of(figure):
    return [
        patch for container in figure.axes[0].containers if hasattr(container, "patches") for patch in container.patches
    ]


def test_bars_reach_from_the_head_to_the_scores(result):
    bars = bars_of(plot_profile(result.profile))
    assert len(bars) == len(NAMES)
    for bar, row in zip(bars, result.profile.rows, strict=True):
        assert bar.get_y() == pytest.approx(result.profile.head_only.mean)
        assert bar.get_y() + bar.get_height() == pytest.approx(row.mean)


def test_chosen_blocks_are_marked_in_order(result):
    figure = plot_profile(result.profile, selection=result.blocks)
    chosen = to_rgb(THEMES["light"].chosen)
    marked = [bar.get_facecolor()[:3] == pytest.approx(chosen) for bar in bars_of(figure)]
    assert marked == [name in result.blocks for name in NAMES]
    places = {t.get_text(): t.xy[0] for t in figure.axes[0].texts if t.get_text() in ("1st", "2nd")}
    assert places == {"1st": 3, "2nd": 0}


def test_blocks_that_were_kept_have_no_order(result):
    figure = plot_profile(result.profile, selection=result.blocks, ordered=False)
    assert not {"1st", "2nd"} & set(texts_of(figure))
    assert any("the blocks that the search kept" in text for text in texts_of(figure))


def test_references_are_drawn_and_written(result):
    figure = plot_profile(result.profile, full_finetuning=Reference(0.75, 0.01))
    assert "full fine-tune\n75.0 %" in texts_of(figure)
    assert f"head only\n{100 * result.profile.head_only.mean:.1f} %" in texts_of(figure)
    low, high = figure.axes[0].get_ylim()
    assert low < result.profile.head_only.mean and high > 0.76


def test_blocks_have_short_names(result):
    figure = plot_profile(result.profile)
    assert ticks_of(figure) == ["0.0", "0.1", "1.0", "1.1", "2.0", "2.1"]
    assert "net.stages.*.layers.*" in figure.axes[0].get_xlabel()


def test_a_loss_is_written_as_it_is_and_up_is_better():
    found = result_of(study_of(NAMES, {NAMES[2]: 0.2}, [SearchSpec(max_blocks=1)], loss=True))
    figure = plot_profile(found.profile, full_finetuning=Reference(0.25))
    assert "full fine-tune\n0.25" in texts_of(figure)
    assert [line.get_ydata()[0] for line in figure.axes[0].lines if line.get_linestyle() != "-"][-1] == -0.25
    assert "up is better" in figure.axes[0].get_ylabel()
    heights = [bar.get_height() for bar in bars_of(figure)]
    assert max(heights) == heights[2] > 0.15


def test_one_fold_has_no_error_bars():
    study = study_of(NAMES, {}, [SearchSpec(max_blocks=1)], folds=1)
    figure = plot_profile(profile_of(study.spec, study.evaluations))
    assert "s.e." not in " ".join(texts_of(figure))
    assert "mean of 1 fold" in figure.axes[0].get_ylabel()


def test_windows_are_named_by_their_ends_and_repeats_are_told():
    runs = windows(NAMES, 2)
    study = study_of(NAMES, {NAMES[1]: 0.2}, [], [HEAD_ONLY, *runs], repeats=3)
    figure = plot_profile(profile_of(study.spec, study.evaluations, runs))
    assert ticks_of(figure) == ["0.0–0.1", "0.1–1.0", "1.0–1.1", "1.1–2.0", "2.0–2.1"]
    assert figure.axes[0].get_ylabel() == "accuracy, mean of 3 folds × 3 seeds"
    assert any(text.startswith("2 consecutive blocks") for text in texts_of(figure))


def test_other_selections_are_named_by_all_their_blocks():
    wanted = [Candidate((NAMES[0], NAMES[1])), Candidate((NAMES[0], NAMES[3])), Candidate(tuple(NAMES[:4]))]
    study = study_of(NAMES, {}, [], [HEAD_ONLY, *wanted])
    figure = plot_profile(profile_of(study.spec, study.evaluations, wanted))
    assert ticks_of(figure) == ["0.0–0.1", "0.0 + 1.1", "all blocks"]
    assert any(text.startswith("a selection of blocks") for text in texts_of(figure))


def test_without_a_head_bars_are_scores():
    spec = StudySpec((BlockInfo("a", 1), BlockInfo("b", 1)), 1, "accuracy", True)
    evaluations = [Evaluation(Candidate((name,)), 0, score, 10) for name, score in (("a", 0.4), ("b", 0.6))]
    figure = plot_profile(profile_of(spec, evaluations))
    assert any("a bar is the score" in text for text in texts_of(figure))
    assert not any(text.startswith("head only") for text in texts_of(figure))


@pytest.mark.parametrize("names", [NAMES[:1], LONG, MANY], ids=["one", "long", "many"])
def test_every_block_has_a_bar_and_names_are_short(names):
    study = study_of(names, {names[-1]: 0.1}, [SearchSpec(max_blocks=1)], folds=2)
    figure = plot_profile(profile_of(study.spec, study.evaluations), selection=[names[-1]])
    assert len(bars_of(figure)) == len(names)
    assert max(map(len, ticks_of(figure))) <= 28


def test_what_cannot_be_drawn(result):
    with pytest.raises(ArgumentsError, match="must be one of light, dark"):
        plot_profile(result.profile, theme="solarized")
    with pytest.raises(ArgumentsError, match="'net.other', which is not in the profile"):
        plot_profile(result.profile, selection=["net.other"])
    empty = profile_of(StudySpec((BlockInfo("a", 1),), 3, "accuracy", True), [])
    with pytest.raises(ArgumentsError, match="no rows"):
        plot_profile(empty)
