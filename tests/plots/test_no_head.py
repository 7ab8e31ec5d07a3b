"""Pictures of studies of models without a head: no text of theirs speaks of one."""

import re

import pytest

pytest.importorskip("matplotlib")

from matplotlib.text import Text

from plots.studies import NAMES, result_of, study_of
from subtuning_hf.plots import plot_ladder, plot_pareto, plot_predictions, plot_profile, plot_timeline
from subtuning_hf.report import words
from subtuning_hf.search.pareto import pareto_front
from subtuning_hf.search.profile import profile_of
from subtuning_hf.search.space import UNTOUCHED

WORTH = {NAMES[1]: 0.1, NAMES[4]: 0.2}
HEAD = re.compile(r"\bheads?\b")


def pictures(study):
    """All pictures of a study by name."""
    profile, result = profile_of(study.spec, study.evaluations), result_of(study)
    return {
        "profile": plot_profile(profile),
        "predictions": plot_predictions(profile, strategy="swap"),
        "ladder": plot_ladder(result),
        "pareto": plot_pareto(pareto_front(study.spec, study.evaluations)),
        "timeline": plot_timeline(study),
    }


def words_in(figure):
    """Every text of a picture, tick labels and legends included."""
    figure.canvas.draw()
    return " | ".join(text.get_text() for text in figure.findobj(Text))


@pytest.mark.parametrize("name", ["profile", "predictions", "ladder", "pareto", "timeline"])
def test_no_picture_speaks_of_a_head_where_there_is_none(name):
    with_head, without = (words_in(pictures(study_of(NAMES, WORTH, has_head=has))[name]) for has in (True, False))
    assert HEAD.search(with_head) and UNTOUCHED not in with_head
    assert not HEAD.search(without) and UNTOUCHED in without


def test_nor_does_what_is_read_in_the_place_of_pictures():
    study = study_of(NAMES, {}, has_head=False)
    profile, result = profile_of(study.spec, study.evaluations), result_of(study)
    front = pareto_front(study.spec, study.evaluations)
    found = [
        words.profile_alt(profile, result),
        words.ladder_alt(result),
        words.pareto_alt(front),
        words.timeline_alt(study),
        words.ranges((), {}, study.spec.has_head),
        front.table(),
        str(front.to_rows()),
    ]
    assert not any(map(HEAD.search, found)) and sum(UNTOUCHED in each for each in found) >= 5
