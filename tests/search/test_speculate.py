"""Work ahead of a decision: what the next round asks for if the present leader wins, and silence before."""

import random

import pytest

from search.brute_force import evaluations_of, names_of, random_counts, study_of
from search.score_tables import evaluation
from subtuning_hf.search.greedy import replay, speculate
from subtuning_hf.search.records import Candidate, SearchSpec, Unit

PARAMETERS = {"a": 10, "b": 20, "c": 30, "d": 15}
SPEC = study_of(PARAMETERS, 2)
RISING = {names: 10 + 10 * len(names) + ("c" in names) for names in names_of("abcd")}


def known_of(*units, table=RISING):
    return [evaluation(tuple(names), fold, table[names], 100) for names, fold in units]


def whole(*candidates):
    return [(names, fold) for names in candidates for fold in (0, 1)]


def ahead(known, spec=SPEC, **fields):
    search = SearchSpec(**fields)
    return speculate(spec, search, known, replay(spec, search, known))


def labels(units):
    return list(dict.fromkeys("".join(unit.candidate.blocks) for unit in units))


def test_the_first_round_has_one_candidate_so_the_second_is_certain():
    assert ahead([]) == tuple(Unit(Candidate((name,)), fold) for name in "abcd" for fold in (0, 1))
    assert labels(ahead([], direction="backward")) == ["abc", "abd", "acd", "bcd"]
    assert labels(ahead([], direction="best")) == ["a", "b", "c", "d", "abc", "abd", "acd", "bcd"]
    pool = (Candidate(("d",)), Candidate(("a", "b")))
    assert labels(ahead([], direction="list", candidates=pool)) == ["ab", "d"]
    assert ahead([], max_blocks=0) == () == ahead([], max_block_parameters=5)


def test_the_leader_of_an_unfinished_round_is_taken_for_its_winner():
    known = known_of(*whole("", "a", "b", "c"))
    assert labels(ahead(known)) == ["ac", "bc", "cd"]
    assert ahead(known) == tuple(Unit(Candidate(tuple(n)), f) for n in ("ac", "bc", "cd") for f in (0, 1))
    assert ahead(known + known_of(("ac", 1)))[0:2] == (Unit(Candidate(("a", "c")), 0), Unit(Candidate(("b", "c")), 0))


def test_nothing_is_said_before_half_of_the_candidates_can_be_compared():
    assert ahead(known_of(*whole("", "a"))) == ()
    assert labels(ahead(known_of(*whole("", "a", "b")))) == ["ab", "bc", "bd"]


def test_candidates_are_compared_on_the_folds_they_share():
    table = RISING | {"c": 80}
    head = known_of(*whole(""))
    lucky = [*head, *known_of(*whole("a", "b")), evaluation(("c",), 1, 5, 100), evaluation(("d",), 1, 1, 100)]
    assert labels(ahead(lucky)) == ["ab", "bc", "bd"]  # c and d are bad on fold 1; their fold 0 is not known
    other = [*head, *known_of(("a", 0), ("b", 0), ("c", 0), table=table)]
    assert labels(ahead(other)) == ["ac", "bc", "cd"]


def test_without_a_shared_fold_those_with_all_folds_are_compared():
    known = known_of(*whole("", "a"), ("b", 0), ("c", 1))
    assert labels(ahead(known)) == ["ab", "ac", "ad"]
    assert ahead(known_of(*whole(""), ("b", 0), ("c", 1))) == ()


def test_nothing_is_said_if_the_search_would_end_with_the_leader():
    flat = dict.fromkeys(RISING, 10)
    assert ahead(known_of(*whole("", "a", "b", "c"), table=flat)) == ()
    assert labels(ahead(known_of(*whole("", "a", "b", "c"), table=flat), min_gain=0.0)) == ["ac", "bc", "cd"]
    assert ahead(known_of(*whole("", "a", "b", "c")), max_blocks=1) == ()
    pool = tuple(Candidate((name,)) for name in "abcd")
    assert ahead(known_of(*whole("", "a", "b", "c")), direction="list", candidates=pool) == ()


def test_backward_compares_with_the_best_on_the_way():
    flat = dict.fromkeys(RISING, 50)
    known = known_of(*whole("abcd", "abc", "abd"), table=flat)
    assert labels(ahead(known, direction="backward")) == ["ab", "ad", "bd"]
    worse = flat | {"abc": 40, "abd": 40}
    assert ahead(known_of(*whole("abcd", "abc", "abd"), table=worse), direction="backward") == ()
    assert labels(ahead(known_of(*whole("abcd", "abc", "abd"), table=worse), direction="backward", max_blocks=2)) == [
        "ab",
        "ad",
        "bd",
    ]


def test_a_finished_search_says_nothing():
    assert ahead(evaluations_of({1.0: {names: (r, r) for names, r in RISING.items()}}, (100, 100))) == ()


@pytest.mark.parametrize("fields", [{"pruner": "race"}, {"pruner": "halving"}], ids=str)
def test_pruned_candidates_do_not_lead(fields):
    spec = study_of(PARAMETERS, 3)
    search = SearchSpec(reduction=2, smallest_budget=0.5, **fields)
    table = {name: (10 if name == "a" else 60, 10 if name == "a" else 70, 65) for name in "abcd"}
    known = [evaluation((), fold, 10, 100) for fold in range(3)]
    known += [
        evaluation((n,), f, r, 100, budget=b)
        for n, rights in table.items()
        for f, r in enumerate(rights)
        for b in (0.5, 1)
    ]
    late = [each for each in known if (each.candidate.blocks, each.fold, each.budget) != (("d",), 2, 1)]
    state = replay(spec, search, late)
    assert Candidate(("a",)) in state.rounds[1].pruned and state.pending
    units = speculate(spec, search, late, state)
    assert units and not set(units) & set(state.pending)
    assert all("a" not in unit.candidate.blocks or len(unit.candidate.blocks) == 2 for unit in units)
    assert {unit.budget for unit in units} == ({0.5} if fields["pruner"] == "halving" else {1.0})


@pytest.mark.parametrize("direction", ["forward", "backward", "best"])
@pytest.mark.parametrize("pruner", ["none", "race", "halving"])
@pytest.mark.parametrize("seed", range(4))
def test_work_ahead_is_new_and_changes_no_decision(direction, pruner, seed):
    sizes = (5, 4, 4)
    spec = study_of(PARAMETERS, 3)
    search = SearchSpec(direction=direction, pruner=pruner, reduction=2, smallest_budget=0.5)
    table = {each.unit: each for each in evaluations_of(random_counts(seed, sizes, "abcd", (0.5,)), sizes)}
    whole = replay(spec, search, table.values())
    chance, known, guesses = random.Random(seed), {}, 0
    while not (state := replay(spec, search, known.values())).finished:
        guess = speculate(spec, search, known.values(), state)
        assert guess == speculate(spec, search, reversed(known.values()), state)
        assert len(set(guess)) == len(guess) and not set(guess) & {*known, *state.pending}
        guesses += len(guess)
        work = [*state.pending, *guess] if chance.random() < 0.5 else state.pending
        unit = chance.choice(work)
        known[unit] = table[unit]
    assert state == whole and guesses
