"""Batches are collected within bounds, and their thread outlives what happens in them."""

import threading
import time

import pytest
from serving.batcher import Batcher
from serving.errors import ServeError


class Held:
    """Answers with the square, once released; takes down the batches."""

    def __init__(self):
        self.begun, self.released, self.batches = threading.Event(), threading.Event(), []

    def __call__(self, questions):
        self.begun.set()
        assert self.released.wait(20)
        self.batches.append(list(questions))
        return [question**2 for question in questions]


@pytest.fixture
def held():
    return Held()


def started(answer, **settings):
    batcher = Batcher(answer, **settings)
    batcher.start()
    return batcher


def test_what_comes_while_a_batch_runs_is_the_next_batch(held):
    batcher = started(held, max_batch=4, max_wait=0.0)
    first = batcher.submit(1)
    assert held.begun.wait(20)
    others = [batcher.submit(number) for number in (2, 3, 4, 5, 6)]
    assert len(batcher) == 5
    held.released.set()
    assert first.result(20) == 1 and [one.result(20) for one in others] == [4, 9, 16, 25, 36]
    assert held.batches == [[1], [2, 3, 4, 5], [6]]
    assert batcher.close(20)


def test_the_first_waits_for_others_but_not_for_long(held):
    held.released.set()
    batcher = started(held, max_batch=2, max_wait=30.0)
    begun = time.monotonic()
    pair = [batcher.submit(1), batcher.submit(2)]  # full: nobody waits on
    assert [one.result(20) for one in pair] == [1, 4] and time.monotonic() - begun < 20
    batcher.close(20)
    batcher = started(held, max_batch=100, max_wait=0.05)
    assert batcher.submit(3).result(20) == 9
    assert held.batches == [[1, 2], [3]]
    batcher.close(20)


def test_a_full_queue_refuses(held):
    batcher = started(held, max_batch=1, max_wait=0.0, max_queue=2)
    running = batcher.submit(1)
    assert held.begun.wait(20)
    waiting = [batcher.submit(2), batcher.submit(3)]
    with pytest.raises(ServeError, match="2 requests are waiting") as caught:
        batcher.submit(4)
    assert caught.value.status == 503
    held.released.set()
    assert [one.result(20) for one in (running, *waiting)] == [1, 4, 9]
    batcher.close(20)


def test_what_is_cancelled_is_not_run(held):
    batcher = started(held, max_batch=8, max_wait=0.0)
    batcher.submit(1)
    assert held.begun.wait(20)
    gone, stays = batcher.submit(2), batcher.submit(3)
    assert gone.cancel()
    held.released.set()
    assert stays.result(20) == 9 and held.batches == [[1], [3]]
    batcher.close(20)


def test_an_error_is_told_and_the_next_batch_runs():
    def answer(questions):
        if questions == ["bad"]:
            raise ValueError("no")
        return [] if questions == ["short"] else questions

    batcher = started(answer, max_wait=0.0)
    with pytest.raises(ValueError, match="no"):
        batcher.submit("bad").result(20)
    with pytest.raises(RuntimeError, match="1 questions got 0 answers"):
        batcher.submit("short").result(20)
    assert batcher.submit("good").result(20) == "good" and batcher.running
    batcher.close(20)


def test_the_end_answers_what_waits(held):
    batcher = started(held, max_batch=2, max_wait=30.0)
    waiting = [batcher.submit(number) for number in range(5)]
    held.released.set()
    assert batcher.close(20) and not batcher.running
    assert [one.result(0) for one in waiting] == [0, 1, 4, 9, 16]
    with pytest.raises(ServeError, match="shutting down") as caught:
        batcher.submit(1)
    assert caught.value.status == 503


@pytest.mark.parametrize("wrong", [{"max_batch": 0}, {"max_queue": 0}, {"max_wait": -1.0}])
def test_bounds_are_checked(held, wrong):
    with pytest.raises(ServeError, match="at least 1"):
        Batcher(held, **wrong)
