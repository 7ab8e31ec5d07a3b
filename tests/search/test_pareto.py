"""The Pareto front: every complete candidate of a study, and those that nothing else beats."""

import random

import pytest

from search.brute_force import evaluations_of, names_of, random_counts, study_of
from search.score_tables import evaluation
from subtuning_hf.search.pareto import pareto_front

PARAMETERS = {"a": 10, "b": 20, "c": 30, "d": 15}
SPEC = study_of(PARAMETERS, 2)
SIZES = (6, 4)


def front_of(table):
    return pareto_front(SPEC, evaluations_of({1.0: table}, SIZES))


def labels(points):
    return ["".join(point.candidate.blocks) for point in points]


def test_points_and_their_prices():
    front = front_of({"": (1, 1), "bd": (4, 4), "c": (3, 3), "a": (3, 2)})
    assert labels(front.points) == ["", "a", "c", "bd"]
    assert [point.num_parameters for point in front.points] == [0, 10, 30, 35]
    assert [point.first_block for point in front.points] == [4, 0, 2, 1]
    assert [point.mean for point in front.points] == pytest.approx([0.2, 0.5, 0.6, 0.8])
    # by hand: sqrt(0.6 * (4 / 6 - 0.8) ** 2 + 0.4 * (4 / 4 - 0.8) ** 2)
    assert front.points[3].standard_error == pytest.approx((0.6 * (4 / 6 - 0.8) ** 2 + 0.4 * 0.2**2) ** 0.5)
    assert labels(front.front) == ["", "a", "c", "bd"]  # each has something


def test_what_is_beaten_in_every_respect_is_not_on_the_front():
    front = front_of({"": (1, 1), "d": (4, 3), "a": (3, 2), "bd": (4, 3), "c": (4, 4), "ac": (4, 4)})
    assert labels(front.front) == ["", "a", "d", "c"]
    front = front_of({"": (4, 4), "d": (4, 3), "c": (4, 4), "a": (5, 4)})
    assert labels(front.front) == ["", "a"]


def test_two_that_are_equal_in_everything_are_both_on_the_front():
    spec = study_of({"a": 10, "b": 5, "c": 5}, 1)
    known = [evaluation(tuple(names), 0, 3, 4) for names in ("ab", "ac")]
    assert labels(pareto_front(spec, known).front) == ["ab", "ac"]


@pytest.mark.parametrize("seed", range(30))
def test_the_front_against_its_definition(seed):
    table = random_counts(seed, SIZES, "abcd")[1.0]
    chosen = random.Random(seed).sample(names_of("abcd"), 9)
    front = front_of({names: table[names] for names in chosen})

    def values(names):
        first = "abcd".index(names[0]) if names else 4
        return sum(table[names]), -sum(PARAMETERS[name] for name in names), first

    best = {
        names
        for names in chosen
        if not any(
            values(other) != values(names) and all(x >= y for x, y in zip(values(other), values(names), strict=True))
            for other in chosen
        )
    }
    assert set(labels(front.front)) == best and set(labels(front.points)) == set(chosen)
    for most in (0, 10, 15, 29, 45, 75):
        allowed = [names for names in chosen if -values(names)[1] <= most]
        found = front.best_under(most)
        if allowed:
            assert "".join(found.candidate.blocks) == max(allowed, key=values)
        else:
            assert found is None


def test_only_complete_candidates_in_full_count_and_repeats_are_averaged():
    known = evaluations_of({1.0: {"": (1, 1), "a": (3, 2), "b": (3, 2)}, 0.5: {"c": (6, 4)}}, SIZES)
    known = [each for each in known if (each.candidate.blocks, each.fold) != (("b",), 1)]
    known += [evaluation(("a",), fold, right, SIZES[fold], repeat=1) for fold, right in enumerate((5, 4))]
    known += [evaluation(("a",), 0, 0, 6, repeat=2), evaluation(("x",), 0, 6, 6), evaluation(("x",), 1, 4, 4)]
    random.Random(0).shuffle(known)
    front = pareto_front(SPEC, known)
    assert labels(front.points) == ["", "a"]
    assert front.points[1].mean == pytest.approx((4 + 3) / 10)
    assert pareto_front(SPEC, []).points == () and pareto_front(SPEC, []).best_under(100) is None


def test_rows_and_text():
    front = front_of({"": (1, 1), "d": (4, 3), "bd": (4, 3)})
    assert [(row["blocks"], row["on_front"]) for row in front.to_rows()] == [
        ("head only", True),
        ("d", True),
        ("b + d", False),
    ]
    assert front.table() == (
        "blocks     accuracy    s.e.  parameters  first tuned block\n"
        "---------  --------  ------  ----------  -----------------\n"
        "head only    0.2000  0.0408           0               none\n"
        "d            0.7000  0.0408          15                  3"
    )


def test_to_pandas():
    pytest.importorskip("pandas")
    frame = front_of({"": (1, 1), "d": (4, 3)}).to_pandas()
    assert list(frame["num_parameters"]) == [0, 15]
