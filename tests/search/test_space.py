"""The candidates of a round: complete, without repeats, in forward order."""

from itertools import combinations

import pytest

from search.score_tables import subsets
from subtuning_hf.errors import ArgumentsError, DuplicateBlockError, UnknownBlockError
from subtuning_hf.search.records import Candidate
from subtuning_hf.search.space import HEAD_ONLY, add_one, in_forward_order, pairs, remove_one, windows

BLOCKS = ("a", "b", "c", "d")


@pytest.mark.parametrize("chosen", list(subsets("abcd")), ids=str)
def test_add_one_and_remove_one_are_all_neighbours(chosen):
    more = add_one(BLOCKS, Candidate(chosen))
    less = remove_one(BLOCKS, Candidate(chosen))
    assert {frozenset(c.blocks) for c in more} == {frozenset({*chosen, name}) for name in set(BLOCKS) - set(chosen)}
    assert {frozenset(c.blocks) for c in less} == {frozenset(chosen) - {name} for name in chosen}
    for candidate in (*more, *less):
        assert list(candidate.blocks) == sorted(candidate.blocks)
    added = [next(name for name in candidate.blocks if name not in chosen) for candidate in more]
    removed = [next(name for name in chosen if name not in candidate.blocks) for candidate in less]
    assert added == sorted(added) and removed == sorted(removed)


def test_a_selection_in_another_order_gives_the_same_candidates():
    assert add_one(BLOCKS, Candidate(("d", "a"))) == add_one(BLOCKS, Candidate(("a", "d")))
    assert remove_one(BLOCKS, Candidate(("d", "a"))) == remove_one(BLOCKS, Candidate(("a", "d")))


def test_adding_to_all_blocks_and_removing_from_none_gives_nothing():
    assert add_one(BLOCKS, Candidate(BLOCKS)) == ()
    assert remove_one(BLOCKS, HEAD_ONLY) == ()


def test_windows():
    assert windows(BLOCKS) == add_one(BLOCKS)
    assert [candidate.blocks for candidate in windows(BLOCKS, 2)] == [("a", "b"), ("b", "c"), ("c", "d")]
    assert windows(BLOCKS, 4) == (Candidate(BLOCKS),)
    for size in (0, 5, -1, 1.0, True):
        with pytest.raises(ArgumentsError, match="1 to 4 blocks"):
            windows(BLOCKS, size)


def test_pairs():
    assert [candidate.blocks for candidate in pairs(BLOCKS)] == list(combinations("abcd", 2))
    assert pairs(("a",)) == ()


def test_unknown_and_repeated_blocks():
    with pytest.raises(UnknownBlockError, match=r"found 'layer3\.1'.*Did you mean 'layer3\.0'"):
        add_one(("stem", "layer3.0"), Candidate(("layer3.1",)))
    with pytest.raises(DuplicateBlockError):
        in_forward_order(BLOCKS, ["a", "a"])
