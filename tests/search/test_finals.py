"""Final trainings: mean and spread over seeds, of one selection on the same rows."""

import math

import pytest

from subtuning_hf.errors import ArgumentsError
from subtuning_hf.search.finals import FinalScore, finals_table, summarise
from subtuning_hf.search.records import Candidate, FinalRun


def run(seed, rows="7e57", blocks=("a",), **metrics):
    return FinalRun(Candidate(blocks), seed, metrics, info={"rows": rows})


def test_mean_and_spread_of_what_all_runs_have():
    runs = [run(1, accuracy=0.5, loss=1.0), run(2, accuracy=0.7, loss=math.nan, f1=0.5), run(3, accuracy=0.9, loss=2.0)]
    accuracy, loss = summarise(runs)
    assert accuracy == FinalScore("accuracy", pytest.approx(0.7), pytest.approx(0.2), 3)
    assert loss.metric == "loss" and math.isnan(loss.mean) and math.isnan(loss.spread)
    assert summarise(runs[:1])[0] == FinalScore("accuracy", 0.5, None, 1)


def test_runs_of_different_things_are_not_mixed():
    for other in (run(2, rows="other", accuracy=0.5), run(2, blocks=(), accuracy=0.5)):
        with pytest.raises(ArgumentsError, match="found 2"):
            summarise([run(1, accuracy=0.5), other])
    with pytest.raises(ArgumentsError, match="found none"):
        summarise([])


def test_the_summary_as_text():
    assert finals_table([run(1, accuracy=0.5), run(2, accuracy=0.7)]) == (
        "metric      mean  spread  runs\n--------  ------  ------  ----\naccuracy  0.6000  0.1414     2"
    )
