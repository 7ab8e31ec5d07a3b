"""Folds: every row validated once, labels even, groups whole, the same everywhere and always."""

import math
import os
import random
import subprocess
import sys
import time
import warnings
from collections import Counter

import pytest

from subtuning_hf.errors import FoldError
from subtuning_hf.search.folds import Fold, inner_split, make_folds, single_split

# Five runs of one function on a busy machine: the fastest is what the code costs.
TRIES = 5


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def check(folds, num_rows, num_folds):
    """What holds for any folds."""
    assert [fold.index for fold in folds] == list(range(num_folds))
    assert sorted(row for fold in folds for row in fold.validation) == list(range(num_rows))
    for fold in folds:
        assert fold.validation and fold.train
        assert list(fold.train) == sorted(set(range(num_rows)) - set(fold.validation))
        assert list(fold.validation) == sorted(fold.validation)


def per_fold(folds, values):
    return [Counter(values[row] for row in fold.validation) for fold in folds]


# --- properties ------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(60))
def test_each_row_validates_once_and_sizes_are_even(seed):
    chance = random.Random(seed)
    num_folds = chance.randrange(2, 12)
    num_rows = chance.randrange(num_folds, 80)
    folds = make_folds(num_rows, num_folds, seed)
    check(folds, num_rows, num_folds)
    sizes = [len(fold.validation) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    assert folds == make_folds(num_rows, num_folds, seed)


@pytest.mark.parametrize("seed", range(60))
def test_stratified_folds_differ_by_at_most_one_in_each_class_and_in_all(seed):
    chance = random.Random(seed)
    num_folds = chance.randrange(2, 8)
    labels = [name for name in "abcde" for _ in range(chance.randrange(num_folds, 40))]
    chance.shuffle(labels)
    folds = make_folds(len(labels), num_folds, seed, labels=labels)
    check(folds, len(labels), num_folds)
    counts = per_fold(folds, labels)
    for name in "abcde":
        assert max(count[name] for count in counts) - min(count[name] for count in counts) <= 1
    sizes = [len(fold.validation) for fold in folds]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("seed", range(60))
def test_groups_are_never_split_and_folds_stay_even(seed):
    chance = random.Random(seed)
    num_folds = chance.randrange(2, 6)
    groups = [group for group in range(chance.randrange(num_folds * 4, 60)) for _ in range(chance.randrange(1, 6))]
    labels = [chance.choice("abc") for _ in groups]
    order = list(range(len(groups)))
    chance.shuffle(order)
    groups, labels = [groups[row] for row in order], [labels[row] for row in order]
    largest = max(Counter(groups).values())
    for stratify in (True, False):
        folds = make_folds(len(groups), num_folds, seed, labels=labels, groups=groups, stratify=stratify)
        check(folds, len(groups), num_folds)
        for fold in folds:
            assert not {groups[row] for row in fold.train} & {groups[row] for row in fold.validation}
        sizes = [len(fold.validation) for fold in folds]
        assert max(sizes) - min(sizes) <= largest * (3 if stratify else 1)
        assert folds == make_folds(len(groups), num_folds, seed, labels=labels, groups=groups, stratify=stratify)


def test_groups_are_dealt_by_label():
    # Each group has one label; without a look at labels some fold would get few of a class.
    groups = [group for group in range(60) for _ in range(3)]
    labels = [group % 3 == 0 for group in groups]
    for seed in range(20):
        counts = per_fold(make_folds(180, 5, seed, labels=labels, groups=groups), labels)
        assert all(count == {True: 12, False: 24} for count in counts)


def test_a_class_of_two_groups_never_lands_in_one_fold():
    for seed in range(100):
        chance = random.Random(seed)
        groups = [group for group in range(8) for _ in range(chance.randrange(1, 30))]
        labels = ["rare" if group in (2, 5) and row % 7 == 0 else "common" for row, group in enumerate(groups)]
        if len({group for group, label in zip(groups, labels, strict=True) if label == "rare"}) < 2:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folds = make_folds(len(groups), 3, seed, labels=labels, groups=groups)
        assert all(any(labels[row] == "rare" for row in fold.train) for fold in folds)


def test_no_fold_is_empty_with_as_many_groups_as_folds():
    groups = [0] * 50 + [1] * 2 + [2]
    assert sorted(len(fold.validation) for fold in make_folds(53, 3, 0, groups=groups)) == [1, 2, 50]


def test_another_seed_gives_other_folds():
    assert len({make_folds(50, 5, seed) for seed in range(10)}) == 10
    groups = [row // 2 for row in range(60)]
    assert len({make_folds(60, 3, seed, groups=groups) for seed in range(10)}) == 10


def test_neither_hash_seed_nor_process_changes_the_folds():
    code = (
        "from subtuning_hf.search.folds import *; labels = [str(r % 3) for r in range(60)]; "
        "groups = ['g%d' % (r % 13) for r in range(60)]; "
        "print(make_folds(60, 4, 7, labels=labels), make_folds(60, 4, 7, labels=labels, groups=groups), "
        "make_folds(60, 4, 7, fold_ids=groups), inner_split(range(60), labels, 0.3, 7))"
    )
    found = set()
    for hash_seed in ("0", "1", "77"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        found.add(done.stdout)
    assert len(found) == 1


def test_the_folds_of_a_seed_stay_what_they_are():
    # Journals hold scores of these very folds: a change here makes every study that exists unusable.
    assert [fold.validation for fold in make_folds(9, 3, 0)] == [(1, 2, 3), (6, 7, 8), (0, 4, 5)]
    labels = list("aabbaabba")
    assert [fold.validation for fold in make_folds(9, 3, 1, labels=labels)] == [(4, 6, 8), (0, 1, 2), (3, 5, 7)]
    groups = list("uuvvwxyyz")
    assert [fold.validation for fold in make_folds(9, 3, 1, groups=groups)] == [(0, 1, 5), (6, 7, 8), (2, 3, 4)]


@pytest.mark.parametrize("columns", ["none", "labels", "fold_ids"])
def test_a_hundred_thousand_rows_take_less_than_a_second(columns):
    num_rows = 100_000
    column = {"none": {}, "labels": {"labels": [row % 1000 for row in range(num_rows)]}}.get(
        columns, {"fold_ids": [row % 5 for row in range(num_rows)]}
    )
    best = math.inf
    for _ in range(TRIES):
        start = time.process_time()
        make_folds(num_rows, 5, 0, **column)
        best = min(best, time.process_time() - start)
    assert best < 1


def test_many_groups_are_dealt_in_seconds():
    num_rows = 100_000
    start = time.process_time()
    groups = [row // 3 for row in range(num_rows)]
    folds = make_folds(num_rows, 5, 0, labels=[row % 10 for row in range(num_rows)], groups=groups)
    assert time.process_time() - start < 10
    assert max(len(fold.validation) for fold in folds) - min(len(fold.validation) for fold in folds) <= 6


# --- folds of the user's own -----------------------------------------------------------------
def test_own_folds_are_taken_as_they_are_in_ascending_order():
    folds = make_folds(6, 99, 0, fold_ids=[10, 9, 10, 2, 9, 2])
    check(folds, 6, 3)
    assert [fold.validation for fold in folds] == [(3, 5), (1, 4), (0, 2)]
    names = make_folds(4, 2, 0, fold_ids=["test-b", "test-a", "test-a", "test-b"])
    assert [fold.validation for fold in names] == [(1, 2), (0, 3)]
    mixed = make_folds(4, 2, 0, fold_ids=["x", 1, 0.5, "x"])
    assert [fold.validation for fold in mixed] == [(2,), (1,), (0, 3)]


def test_own_folds_must_not_split_groups():
    assert len(make_folds(4, 2, 0, fold_ids=[0, 0, 1, 1], groups=list("aabb"))) == 2
    with pytest.raises(FoldError, match=r"puts group 'a' into the folds 0 and 1 \(row 2\)"):
        make_folds(4, 2, 0, fold_ids=[0, 0, 1, 1], groups=list("abab"))


def test_own_folds_are_checked_for_classes_too():
    with pytest.raises(FoldError, match="class 'b' has 2 rows, and all validate fold 1"):
        make_folds(5, 2, 0, fold_ids=[0, 0, 1, 1, 1], labels=list("aabba"))


# --- errors and warnings ---------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_rows": 0}, "must have rows, found 0"),
        ({"num_rows": 4}, "5 folds need at least 5 rows, found 4. Use `num_folds=4` or fewer"),
        ({"num_rows": 1, "num_folds": 2}, "found 1. Use more data"),
        ({"num_folds": 1}, "at least 2, found 1.*`validation_dataset`"),
        ({"num_folds": 0}, "at least 2, found 0"),
        ({"seed": -1}, "whole number of 0 or more, found -1"),
        ({"seed": 1.5}, "found 1.5"),
        ({"seed": True}, "found True"),
        ({"labels": [0] * 9}, "`labels` must have one value for each of the 10 rows, found 9"),
        ({"groups": [0] * 11}, "`groups` must have one value for each of the 10 rows, found 11"),
        ({"fold_ids": []}, "`fold_ids` must have one value for each of the 10 rows, found 0"),
        ({"labels": [0] * 9 + [None]}, "`labels` must have a value for each row, found None in row 9"),
        ({"groups": [0] * 9 + [math.nan]}, "`groups` must have a value for each row, found nan in row 9"),
        ({"labels": [[0, 1]] * 10}, r"`labels` must have one value for each row, found list \[0, 1\] in row 0"),
        ({"groups": [0] * 5 + [1] * 5}, "5 folds need at least 5 groups, found 2.*Use `num_folds=2` or fewer"),
        ({"groups": [0] * 10}, "found 1.*Use more data, or leave the groups out"),
        ({"fold_ids": ["a"] * 10}, "at least 2 folds apart, found only 'a'.*`validation_dataset`"),
        ({"labels": list("aaaaabbbbc")}, "class 'c' has 1 row, and all validate fold .*merge it.*`stratify=False`"),
        ({"labels": list("aaaaabbbcc"), "groups": list("0123456788")}, "class 'c' has 2 rows, in 1 group, and all"),
    ],
    ids=str,
)
def test_errors(arguments, words):
    with pytest.raises(FoldError, match=words):
        make_folds(**{"num_rows": 10, "num_folds": 5, "seed": 0} | arguments)


def test_without_stratification_labels_do_not_matter():
    labels = ["a"] * 9 + ["b"]
    assert make_folds(10, 5, 3, labels=labels, stratify=False) == make_folds(10, 5, 3)


def test_a_class_that_some_fold_does_not_validate_is_worth_a_warning():
    with pytest.warns(UserWarning, match=r"Some of the 5 folds validate no row of class 'b' \(3 rows\)\.") as found:
        folds = make_folds(15, 5, 0, labels=["a"] * 12 + ["b"] * 3)
    check(folds, 15, 5)
    assert found[0].filename == __file__
    with pytest.warns(UserWarning, match=r"and 2 more\."):
        make_folds(28, 5, 0, labels=[0] * 14 + [1 + row % 7 for row in range(14)])


# --- a validation set of the user's own ------------------------------------------------------
def test_single_split():
    assert single_split(3, 2) == (Fold(0, (0, 1, 2), (0, 1)),)
    with pytest.raises(FoldError, match="validation set must have at least one row, found 0"):
        single_split(3, 0)
    with pytest.raises(FoldError, match="training set"):
        single_split(0, 3)


# --- inner splits ----------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(60))
def test_inner_splits_divide_the_rows(seed):
    chance = random.Random(seed)
    rows = sorted(chance.sample(range(200), chance.randrange(2, 100)))
    fraction = chance.uniform(0.01, 0.99)
    train, held = inner_split(rows, None, fraction, seed)
    assert sorted(train + held) == rows and train and held
    assert list(train) == sorted(train) and list(held) == sorted(held)
    assert len(held) == min(max(1, round(fraction * len(rows))), len(rows) - 1)
    assert inner_split(rows, None, fraction, seed) == (train, held)


@pytest.mark.parametrize("seed", range(60))
def test_inner_splits_keep_the_shares_of_labels_and_a_row_of_every_class(seed):
    chance = random.Random(seed)
    labels = [chance.choice("aaaaaabbbc") for _ in range(300)]
    rows = sorted(chance.sample(range(300), chance.randrange(40, 300)))
    fraction = chance.uniform(0.1, 0.5)
    train, held = inner_split(rows, labels, fraction, seed)
    assert sorted(train + held) == rows
    counts = Counter(labels[row] for row in rows)
    inside = Counter(labels[row] for row in held)
    assert {labels[row] for row in train} == set(counts)
    assert len(held) == round(fraction * len(rows))
    assert all(abs(inside[name] - fraction * count) <= 2 for name, count in counts.items())


def test_inner_splits_never_take_the_last_row_of_a_class():
    labels = ["a"] * 20 + ["b"]
    for seed in range(50):
        train, _ = inner_split(range(21), labels, 0.5, seed)
        assert 20 in train


@pytest.mark.parametrize("seed", range(30))
def test_inner_splits_keep_groups_whole(seed):
    chance = random.Random(seed)
    groups = [group for group in range(40) for _ in range(chance.randrange(1, 5))]
    rows = sorted(chance.sample(range(len(groups)), 60))
    train, held = inner_split(rows, None, 0.25, seed, groups=groups)
    assert sorted(train + held) == rows and train and held
    assert not {groups[row] for row in train} & {groups[row] for row in held}
    assert 15 - 4 < len(held) <= 15


def test_inner_split_of_two_large_groups_holds_the_smaller():
    groups = [0] * 10 + [1] * 6
    assert inner_split(range(16), None, 0.1, 0, groups=groups) == (tuple(range(10)), tuple(range(10, 16)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"fraction": 0.0}, "between 0 and 1, found 0.0"),
        ({"fraction": 1.0}, "between 0 and 1"),
        ({"seed": -1}, "seed"),
        ({"rows": [3]}, "found 1 rows in a fold's training part"),
        ({"rows": []}, "found 0 rows"),
        ({"rows": [0, 1], "labels": ["a", "b"]}, "found 2 rows in a fold's training part that no class can spare"),
        ({"rows": [0, 1], "groups": ["a", "a"]}, "found 1 groups"),
    ],
    ids=str,
)
def test_inner_split_errors(arguments, words):
    with pytest.raises(FoldError, match=words):
        inner_split(**{"rows": [0, 1, 2, 3]} | arguments)
