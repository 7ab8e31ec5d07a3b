"""The bar and its estimates: counts that are right at the end, times that come from what was measured."""

import pytest

from subtuning_hf.search.greedy import SearchState
from subtuning_hf.search.records import BlockInfo, Candidate, Evaluation, Round, StudySpec, Unit
from subtuning_hf.training import progress as module
from subtuning_hf.training.progress import (
    CostModel,
    StudyProgress,
    evaluations_at_most,
    format_metric,
    format_seconds,
    short_label,
)
from training.cases import make_trainer

BLOCKS = ("a.0", "a.1", "a.2", "a.3")
SPEC = StudySpec(tuple(BlockInfo(name, 1) for name in BLOCKS), 2, "eval_accuracy", True)
HEAD = Candidate(())


def evaluation(candidate, fold, seconds, score=0.5):
    return Evaluation(candidate, fold, score, 10, seconds=seconds)


def test_cost_grows_with_the_depth_of_backward():
    cost = CostModel(BLOCKS)
    assert cost.seconds(HEAD) is None
    assert [cost.depth(Candidate(b)) for b in ((), ("a.3",), ("a.0",), ("a.1", "a.3"))] == [0, 1, 4, 3]
    cost.add_seconds(HEAD, 1.0)
    assert cost.seconds(Candidate(("a.0",))) == 1.0
    cost.add_seconds(Candidate(("a.0",)), 9.0)
    assert cost.seconds(Candidate(("a.2",))) == pytest.approx(5.0)
    assert cost.seconds(Candidate(("a.0", "a.3"))) == pytest.approx(9.0)
    # What was measured for a candidate itself comes first.
    cost.add_seconds(Candidate(("a.2",)), 2.0)
    assert cost.seconds(Candidate(("a.2",))) == 2.0


def test_deeper_is_never_taken_to_be_cheaper():
    cost = CostModel(BLOCKS)
    cost.add_seconds(HEAD, 5.0)
    cost.add_seconds(Candidate(("a.2",)), 3.0)
    assert cost.seconds(Candidate(("a.0",))) == pytest.approx(4.0)


def test_evaluations_at_most():
    # Rounds 1 to 4 try 4, 3, 2 and 1 candidates.
    assert evaluations_at_most(4, 0, 4, 2) == 2 * (4 + 3 + 2 + 1)
    assert evaluations_at_most(4, 2, 3, 5) == 5 * 2
    assert evaluations_at_most(4, 4, 4, 2) == 0


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (75, "75 s"), (200, "3 min"), (4000, "67 min"), (7300, "2 h 02 min")]
)
def test_seconds_in_words(seconds, text):
    assert format_seconds(seconds) == text


def test_labels_and_metrics_fit_a_line():
    assert short_label(HEAD) == "head only"
    assert short_label(Candidate(("x.y.layer3.1", "x.y.layer4.0"))) == "layer3.1 + layer4.0"
    assert short_label(Candidate(BLOCKS)) == "a.0 + ... + a.3"
    assert format_metric(0.9123, SPEC) == "91.2 %"
    assert format_metric(-1.23456, StudySpec(SPEC.blocks, 2, "eval_loss", False)) == "1.235"


def state_of_round(index, tried, pending, direction="forward"):
    round_ = Round(index, HEAD, tuple(tried), direction=direction)
    return SearchState((round_,), HEAD, tuple(Unit(candidate, fold) for candidate, fold in pending), False)


def test_text_of_a_round():
    bar = StudyProgress(SPEC, last_round=2, disable=True)
    bar.start([])
    one, two = Candidate(("a.0",)), Candidate(("a.1",))
    bar.show(state_of_round(1, (one, two), [(one, 0), (one, 1), (two, 0), (two, 1)]))
    assert bar.best() == "" and bar.remaining() == ""
    bar.done(evaluation(one, 0, 100.0, 0.8))
    assert bar.best() == "" and bar.remaining() == "5 min left in this round, at most 15 min in all"
    bar.done(evaluation(one, 1, 100.0, 0.9))
    assert bar.best() == "best a.0 85.0 %"
    bar.show(state_of_round(2, (two,), [(two, 0)]))
    assert bar.remaining() == "2 min left in this round"
    bar.close()


def test_processes_share_the_time_that_is_left():
    one, two = Candidate(("a.0",)), Candidate(("a.1",))
    texts = []
    for processes in (1, 2, 8):
        bar = StudyProgress(SPEC, last_round=1, disable=True, processes=processes)
        bar.start([evaluation(one, 0, 100.0)])
        bar.show(state_of_round(1, (one, two), [(one, 1), (two, 0), (two, 1), (two, 1)]))
        texts.append(bar.remaining())
        bar.close()
    # No more than one process for an evaluation.
    assert texts == ["7 min left in this round", "3 min left in this round", "2 min left in this round"]


def test_short_trainings_and_repeats_do_not_count_as_the_best():
    one = Candidate(("a.0",))
    bar = StudyProgress(SPEC, last_round=1, disable=True)
    bar.start([])
    bar.show(state_of_round(1, (one,), [(one, 0), (one, 1)]))
    for fold in (0, 1):
        bar.done(Evaluation(one, fold, 0.9, 10, seconds=1.0, budget=0.5))
        bar.done(Evaluation(one, fold, 0.9, 10, seconds=1.0, repeat=1))
    assert bar.best() == "" and len(bar.pending) == 2
    bar.close()


def test_the_bar_of_a_study_counts_every_evaluation_once(tmp_path, monkeypatch):
    bars = []

    class Recorded(module.tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            bars.append(self)
            self.seen = []

        def update(self, n=1):
            super().update(n)
            self.seen.append((self.n, self.total))

    monkeypatch.setattr(module, "tqdm", Recorded)
    args = {"disable_tqdm": False, "max_blocks": 1}
    make_trainer(tmp_path, args=args).search()
    assert len(bars) == 1
    assert bars[0].n == bars[0].total == 8
    assert all(n <= total for n, total in bars[0].seen) and (1, 2) in bars[0].seen
    make_trainer(tmp_path, args=args).search()
    assert len(bars) == 1  # nothing is left to be done
    make_trainer(tmp_path, args={**args, "max_blocks": 2}).search()
    assert len(bars) == 2 and bars[1].n == bars[1].total == 12


def test_a_search_shows_one_bar_and_the_ladder_and_nothing_else(tmp_path, capfd):
    trainer = make_trainer(tmp_path, args={"disable_tqdm": False, "max_blocks": 1})
    capfd.readouterr()
    result = trainer.search()
    shown = capfd.readouterr()
    assert shown.out.strip() == result.table().strip()
    assert "round 1/<=1 |" in shown.err and "8/8" in shown.err
    assert "it/s" not in shown.err and "train_runtime" not in shown.out + shown.err
    quiet = make_trainer(tmp_path, args={"disable_tqdm": True, "max_blocks": 1})
    quiet.search()
    shown = capfd.readouterr()
    assert shown.out == "" and "|" not in shown.err
