"""What processes that share a comparison do at its end."""

import pytest

from subtuning_hf.compare.study import _sharing


class Recorder:
    """A team that writes down what it is asked."""

    def __init__(self):
        self.asked = []

    def __getattr__(self, name):
        return lambda *given: self.asked.append(name)


def test_nobody_leaves_before_all_have_read_the_results():
    team = Recorder()
    with _sharing(team):
        team.work()
    assert team.asked == ["work", "meet", "gather", "end"]


def test_others_are_told_of_a_failure():
    team = Recorder()
    with pytest.raises(ZeroDivisionError), _sharing(team):
        team.work(1 / 0)
    assert team.asked == ["fail", "end"]


def test_one_process_alone_has_nobody_to_tell():
    with pytest.raises(ZeroDivisionError), _sharing(None):
        raise ZeroDivisionError
