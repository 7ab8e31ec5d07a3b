"""The heat map of pairs."""

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.collections import QuadMesh
from matplotlib.patches import Rectangle

from plots.studies import MANY, NAMES, study_of, texts_of, ticks_of
from subtuning_hf.errors import ArgumentsError
from subtuning_hf.plots import plot_pairs
from subtuning_hf.search.profile import profile_of
from subtuning_hf.search.records import Candidate
from subtuning_hf.search.space import HEAD_ONLY, pairs, windows

WORTH = {NAMES[1]: 0.1, NAMES[4]: 0.2}


def profiles(names=NAMES, candidates=None, **kwargs):
    wanted = [HEAD_ONLY, *windows(names), *pairs(names)] if candidates is None else candidates
    study = study_of(names, WORTH, [], wanted, **kwargs)
    return profile_of(study.spec, study.evaluations, pairs(names)), profile_of(study.spec, study.evaluations)


def table_of(figure):
    (mesh,) = [found for found in figure.axes[0].collections if isinstance(found, QuadMesh)]
    return np.ma.filled(mesh.get_array(), np.nan)


def framed(figure):
    """Cells with a frame, as (row, column)."""
    boxes = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    return {(round(box.get_y() + 0.5), round(box.get_x() + 0.5)) for box in boxes}


def test_scores_stand_where_their_blocks_are():
    both, alone = profiles()
    table = table_of(plot_pairs(both, alone))
    for row in (*both.rows, *alone.rows):
        first, last = NAMES.index(row.candidate.blocks[0]), NAMES.index(row.candidate.blocks[-1])
        assert table[first, last] == table[last, first] == row.mean
    assert not np.isnan(table).any()


def test_the_best_pair_is_framed_twice_and_told():
    both, alone = profiles()
    figure = plot_pairs(both, alone)
    assert framed(figure) == {(1, 4), (4, 1)}
    best = max(both.rows, key=lambda row: row.mean)
    gain = 100 * (best.mean - max(alone.rows[1].mean, alone.rows[4].mean))
    words = " ".join(texts_of(figure)).replace("\n", " ")
    assert f"the best pair, 0.1 + 2.0, {100 * best.mean:.1f} %, +{gain:.1f} points" in words


def test_without_single_blocks_the_diagonal_is_empty():
    both, _ = profiles()
    figure = plot_pairs(both)
    assert np.isnan(np.diag(table_of(figure))).all()
    assert "diagonal" not in " ".join(texts_of(figure))


def test_missing_pairs_stay_empty_and_are_counted():
    some = pairs(NAMES)[::3]
    both, alone = profiles(candidates=some)
    figure = plot_pairs(both, alone)
    assert int(np.isnan(table_of(figure)).sum()) == len(NAMES) ** 2 - 2 * len(some)
    assert any("10 pairs were not trained" in text for text in texts_of(figure))
    assert ticks_of(figure) == ticks_of(figure, "y") == ["0.0", "0.1", "1.0", "1.1", "2.0", "2.1"]


def test_cells_hold_numbers_where_there_is_room():
    both, alone = profiles()
    cells = [text.get_text() for text in plot_pairs(both, alone).axes[0].texts]
    assert len(cells) == len(NAMES) ** 2 and f"{100 * both.rows[0].mean:.1f}" in cells
    many = MANY[:20]
    study = study_of(many, {}, [], pairs(many), folds=2)
    assert not plot_pairs(profile_of(study.spec, study.evaluations, pairs(many))).axes[0].texts


def test_a_loss_is_written_as_it_is():
    both, alone = profiles(loss=True)
    figure = plot_pairs(both, alone)
    assert f"{-both.rows[0].mean:.3g}" in [text.get_text() for text in figure.axes[0].texts]
    assert framed(figure) == {(1, 4), (4, 1)}


def test_what_cannot_be_drawn():
    both, alone = profiles()
    with pytest.raises(ArgumentsError, match="shows pairs of blocks, found net.stages.0.layers.0"):
        plot_pairs(alone)
    with pytest.raises(ArgumentsError, match="no pairs"):
        plot_pairs(profile_of(study_of(NAMES, {}, [], [HEAD_ONLY]).spec, [], [Candidate(tuple(NAMES[:2]))]))
    with pytest.raises(ArgumentsError, match="light, dark"):
        plot_pairs(both, theme="blue")
