"""The finetuning profile: what is drawn is what the records say."""

import dataclasses
import warnings
from itertools import pairwise

import pytest

pytest.importorskip("matplotlib")

from matplotlib.colors import to_rgb

from plots.studies import LONG, MANY, NAMES, result_of, study_of, texts_of, ticks_of
from subtuning_hf.errors import ArgumentsError
from subtuning_hf.plots import Reference, plot_ladder, plot_pairs, plot_pareto, plot_profile, plot_timeline, save_figure
from subtuning_hf.plots.style import THEMES
from subtuning_hf.search.pareto import pareto_front
from subtuning_hf.search.profile import profile_of
from subtuning_hf.search.records import BlockInfo, Candidate, Evaluation, SearchSpec, StudySpec
from subtuning_hf.search.space import HEAD_ONLY, pairs, windows


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


# --- strange names and scores ----------------------------------------------------------------
def drawn_of(names, score, metric="accuracy", loss=False):
    """The pictures of a study in which `score` gives the scores, one after another."""
    study = study_of(names, {}, [], [HEAD_ONLY, *windows(names), *pairs(names)], folds=2)
    spec = dataclasses.replace(study.spec, metric=metric, greater_is_better=not loss)
    scored = tuple(dataclasses.replace(e, score=score(i)) for i, e in enumerate(study.evaluations))
    study = dataclasses.replace(study, spec=spec, evaluations=scored, searches=(SearchSpec(max_blocks=1),))
    profile = profile_of(spec, scored)
    yield "profile", plot_profile(profile, full_finetuning=Reference(-score(0) if loss else score(0), label=names[0]))
    yield "pairs", plot_pairs(profile_of(spec, scored, pairs(names)), profile)
    yield "pareto", plot_pareto(pareto_front(spec, scored))
    yield "ladder", plot_ladder(result_of(study))


def score_ticks(figure):
    """What is written at the scores, of a colour bar where that shows them."""
    figure.draw_without_rendering()
    for axes in (figure.axes[0], *figure.axes[0].child_axes):
        if axes.yaxis.get_major_formatter().__class__.__name__ == "_Scores":
            low, high = sorted(axes.get_ylim())
            yield from (t.label1.get_text() for t in axes.yaxis.get_major_ticks() if low <= t.get_loc() <= high)


@pytest.mark.parametrize(
    ("score", "loss"),
    [
        (lambda i: 0.501, False),
        (lambda i: 0.501 + 1e-16 * (i % 2), False),
        (lambda i: 0.9991 + 1e-5 * (i % 3), False),
        (lambda i: -0.0, True),
        (lambda i: -1e-7 * (i % 7), True),
        (lambda i: -0.002 * (i % 3), True),
        (lambda i: -3e7 - 1e6 * (i % 5), True),
    ],
    ids=["equal", "equal but for rounding", "close", "no loss", "tiny losses", "small losses", "huge losses"],
)
def test_ticks_are_distinct_and_there_is_no_minus_zero(score, loss):
    for kind, figure in drawn_of(NAMES, score, loss=loss):
        ticks = list(score_ticks(figure))
        assert 2 <= len(ticks) == len(set(ticks)), (kind, ticks)
        values = [float(tick.removesuffix(" %")) for tick in ticks]
        steps = [b - a for a, b in pairwise(values)]
        assert max(map(abs, steps)) == pytest.approx(min(map(abs, steps)), rel=1e-3), (kind, ticks)
        written = [*ticks, *(word for text in texts_of(figure) for word in text.split())]
        assert not {"-0", "-0.0", "-0.00"} & set(written), kind


LONG_NAMES = [f"{'a_wrapper_of_the_model.' * 8}layer.{index}" for index in range(3)]


@pytest.mark.parametrize("metric", ["accuracy", "eval_" + 20 * "long_name_", "a metric of many words " * 5])
def test_long_names_leave_room_for_the_axes(metric):
    for kind, figure in drawn_of(LONG_NAMES, lambda i: 0.5 + 0.01 * (i % 4), metric):
        figure.draw_without_rendering()
        box = figure.axes[0].get_window_extent()
        assert box.width / figure.dpi > 3.5, kind
        width, height = figure.canvas.get_width_height()
        for label in (figure.axes[0].xaxis.label, figure.axes[0].yaxis.label):
            room = label.get_window_extent()
            assert room.x0 >= -1 and room.y0 >= -1 and room.x1 <= width + 1 and room.y1 <= height + 1, kind
        assert figure.get_size_inches()[1] < 9


def test_a_long_pattern_keeps_its_ends():
    figures = dict(drawn_of(LONG_NAMES, lambda i: 0.5))
    words = figures["profile"].axes[0].get_xlabel()
    assert words.startswith("block, from input to output\n(a_wrapper") and words.endswith(".layer.*)") and "…" in words


@pytest.mark.parametrize("names", [["模型.层0", "模型.层1"], ["net.😀a", "net.😀b"], ["n.$a$x", "n.$\\b"]])
def test_names_that_the_font_lacks_are_drawn_without_a_word(names, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind, figure in drawn_of(names, lambda i: 0.5 + 0.01 * (i % 4)):
            assert len(save_figure(figure, tmp_path / kind)) == 2


def test_one_is_not_many():
    study = study_of(NAMES[:3], {}, [], [pairs(NAMES[:3])[0], pairs(NAMES[:3])[1]], folds=1)
    words = texts_of(plot_pairs(profile_of(study.spec, study.evaluations, pairs(NAMES[:3]))))
    assert any("1 pair was not trained on all folds and stays empty" in text for text in words)
    alone = study_of(NAMES[:1], {}, [], [HEAD_ONLY], folds=1)
    assert any(text.startswith("1 training by 1 process") for text in texts_of(plot_timeline(alone)))


def test_pictures_of_others_keep_their_formulas(tmp_path):
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.subplots()
    axes.loglog([1, 1e6], [1, 1e6])
    save_figure(figure, tmp_path / "log.png")
    assert all(label.get_parse_math() for label in axes.get_xticklabels())
