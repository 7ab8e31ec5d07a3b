"""Pruners: what every one of them keeps, each against brute force in fractions, and Student's t against tables."""

import math
import random
from fractions import Fraction
from typing import ClassVar

import pytest

from search.brute_force import (
    STUDENT_T,
    BruteForce,
    evaluations_of,
    halving,
    names_of,
    race,
    random_counts,
    study_of,
)
from search.score_tables import drive
from subtuning_hf.errors import ArgumentsError
from subtuning_hf.search.greedy import pick_winner, replay
from subtuning_hf.search.pruners import (
    Certain,
    Halving,
    NoPruner,
    Pruner,
    Race,
    Step,
    judge,
    leader_of,
    pruner_of,
    student_t_quantile,
)
from subtuning_hf.search.records import PRUNERS, Candidate, Evaluation, SearchSpec, Unit
from subtuning_hf.search.scores import table_of

PARAMETERS = {"a": 10, "b": 20, "c": 30, "d": 15, "e": 5}
SIZES = (9, 8, 8, 8, 7)
FOLDS = len(SIZES)


def counts_of(seed, budgets=(), sizes=SIZES):
    return random_counts(seed, sizes, "abcde", budgets)


# --- what every pruner keeps -----------------------------------------------------------------
class Contract:
    """What a pruner must keep. A subclass makes one."""

    fields: ClassVar[dict]
    budgets: tuple[float, ...] = ()

    def make(self) -> Pruner:
        raise NotImplementedError

    def table(self, seed):
        return table_of(evaluations_of(counts_of(seed, self.budgets), SIZES))

    def candidates(self, seed):
        pool = [Candidate(tuple(names)) for names in names_of("abcde") if names]
        return random.Random(seed).sample(pool, 2 + seed % 9)

    def whole(self, seed):
        return judge(self.make(), self.candidates(seed), FOLDS, self.table(seed))

    def test_the_steps_in_full_come_last_and_have_each_fold_once(self):
        for num_folds in (1, 2, 5):
            steps = [step for step in self.make().steps(num_folds) if not step.leader_only]
            full = [step for step in steps if step.budget == 1.0]
            assert steps[-len(full) :] == full
            assert sorted(fold for step in full for fold in step.folds) == list(range(num_folds))
            assert [step.budget for step in steps] == sorted(step.budget for step in steps)
            assert all(0 < step.budget <= 1 and step.folds for step in steps)

    @pytest.mark.parametrize("seed", range(20))
    def test_survivors_have_all_folds_in_full_and_the_others_what_their_steps_asked_for(self, seed):
        verdict, candidates = self.whole(seed), self.candidates(seed)
        assert verdict.pending == () and len(set(verdict.pruned)) == len(verdict.pruned) < len(candidates)
        assert len({each.unit for each in verdict.used}) == len(verdict.used)
        for candidate in candidates:
            full = [each.fold for each in verdict.used if each.candidate == candidate and each.budget == 1.0]
            assert (full == list(range(FOLDS))) == (candidate not in verdict.pruned)

    @pytest.mark.parametrize("seed", range(20))
    def test_the_leader_is_never_dropped(self, seed):
        table, pruner, survivors = self.table(seed), self.make(), self.candidates(seed)
        asked, seen = [], {}
        for place, step in enumerate(pruner.steps(FOLDS)[:-1]):
            asking = [leader_of(seen)] if step.leader_only else survivors
            asked = [unit for unit in asked if unit.budget == step.budget]
            asked += [Unit(c, fold, 0, step.budget) for c in asking for fold in step.folds]
            asked = list(dict.fromkeys(asked))
            seen = {c: tuple(table[unit] for unit in asked if unit.candidate == c) for c in survivors}
            gone = pruner.dropped(place, seen)
            assert leader_of(seen) not in gone and set(gone) <= set(survivors)
            assert pruner.dropped(place, seen) == gone  # pure
            assert list(gone) == [c for c in survivors if c in gone]
            survivors = [c for c in survivors if c not in gone]

    @pytest.mark.parametrize("seed", range(10))
    def test_the_order_of_completion_changes_nothing(self, seed):
        table, pruner, candidates = self.table(seed), self.make(), self.candidates(seed)
        whole = judge(pruner, candidates, FOLDS, table)
        for way in range(4):
            chance, known = random.Random(f"{seed} {way}"), {}
            while pending := (verdict := judge(pruner, candidates, FOLDS, known)).pending:
                for unit in chance.sample(pending, chance.randint(1, len(pending))):
                    known[unit] = table[unit]
            assert verdict == whole and len(known) == len(whole.used)
        assert judge(pruner, candidates, FOLDS, dict(reversed(table.items()))) == whole

    @pytest.mark.parametrize("seed", range(10))
    def test_what_was_dropped_stays_dropped_as_more_becomes_known(self, seed):
        table, pruner, candidates = self.table(seed), self.make(), self.candidates(seed)
        known, pruned = {}, ()
        while pending := (verdict := judge(pruner, candidates, FOLDS, known)).pending:
            assert verdict.pruned[: len(pruned)] == pruned
            pruned = verdict.pruned
            assert not {unit.candidate for unit in pending} & set(pruned)  # nothing more is asked of them
            known[pending[0]] = table[pending[0]]

    @pytest.mark.parametrize("seed", range(10))
    def test_what_it_did_not_ask_for_changes_nothing(self, seed):
        table, pruner, candidates = self.table(seed), self.make(), self.candidates(seed)
        whole = judge(pruner, candidates, FOLDS, table)
        mine = {each.unit: each for each in whole.used}
        assert judge(pruner, candidates, FOLDS, mine) == whole  # idempotent: judged by its own, the same again
        wrong = {
            unit: Evaluation(unit.candidate, unit.fold, 1 - each.score, each.num_examples, budget=unit.budget)
            for unit, each in table.items()
        }
        assert judge(pruner, candidates, FOLDS, wrong | mine) == whole

    @pytest.mark.parametrize("seed", range(10))
    def test_a_single_candidate_is_trained_in_full_at_once(self, seed):
        (candidate,) = random.Random(seed).sample([Candidate(tuple(names)) for names in names_of("abcde")], 1)
        verdict = judge(self.make(), [candidate], FOLDS, {})
        assert verdict.pending == tuple(Unit(candidate, fold) for fold in range(FOLDS)) and verdict.pruned == ()

    @pytest.mark.parametrize("direction", ["forward", "backward", "best"])
    @pytest.mark.parametrize("seed", range(4))
    def test_a_search_ends_the_same_in_any_order_and_asks_for_the_earliest_blocks_first(self, seed, direction):
        table, spec = self.table(seed), study_of(PARAMETERS, FOLDS)
        search = SearchSpec(direction=direction, min_gain=0.01, **self.fields)
        assert type(pruner_of(search)) is type(self.make())
        whole = replay(spec, search, table.values())
        assert whole.finished
        for pick in (min, max, lambda units, key: random.Random(f"{seed} {len(units)}").choice(units)):
            state, done = drive(spec, search, table.__getitem__, pick)
            assert state == whole
            for length in range(0, len(done), 7):
                state = replay(spec, search, done[:length])
                for part in state.parts or (state,):
                    work = [("".join(unit.candidate.blocks), unit.fold) for unit in part.pending]
                    assert work == sorted(work)


class TestNone(Contract):
    fields: ClassVar = {"pruner": "none"}

    def make(self):
        return NoPruner()

    def test_it_drops_nobody(self):
        assert all(not self.whole(seed).pruned for seed in range(10))


class TestRace(Contract):
    fields: ClassVar = {"pruner": "race", "confidence": 0.9}

    def make(self):
        return Race(0.9)

    def test_it_drops_some(self):
        assert any(self.whole(seed).pruned for seed in range(10))


class TestHalving(Contract):
    fields: ClassVar = {"pruner": "halving", "reduction": 2, "smallest_budget": 0.25}
    budgets = (0.25, 0.5)

    def make(self):
        return Halving(2, 0.25)

    def test_it_drops_all_but_the_share_that_goes_on(self):
        for seed in range(10):
            count = len(self.candidates(seed))
            left = math.ceil(math.ceil(count / 2) / 2)
            assert count - len(self.whole(seed).pruned) == left


class TestCertain(Contract):
    fields: ClassVar = {"pruner": "certain", "score_limit": 1.0}

    def make(self):
        return Certain(1.0)

    def test_it_drops_some(self):
        assert any(self.whole(seed).pruned for seed in range(10))


def test_there_is_a_contract_for_every_pruner():
    assert {cls.fields["pruner"] for cls in Contract.__subclasses__()} == set(PRUNERS)
    made = {type(pruner_of(SearchSpec(**cls.fields))) for cls in Contract.__subclasses__()}
    assert made == set(Pruner.__subclasses__())


# --- against brute force ---------------------------------------------------------------------
KEEPERS = {
    "race 0.95": ({"pruner": "race"}, race(0.95), ()),
    "race 0.9": ({"pruner": "race", "confidence": 0.9}, race(0.9), ()),
    "halving 3": ({"pruner": "halving"}, halving(3, (1 / 9, 1 / 3)), (1 / 9, 1 / 3)),
    "halving 2": (
        {"pruner": "halving", "reduction": 2, "smallest_budget": 0.5},
        halving(2, (0.5,)),
        (0.5,),
    ),
}


@pytest.mark.parametrize("name", KEEPERS)
def test_searches_with_pruners(name):
    fields, keep, budgets = KEEPERS[name]
    pruned, different = 0, 0
    for seed in range(50):
        min_gain = random.Random(seed).choice([None, Fraction(0), Fraction(1, 10)])
        exact = BruteForce(counts_of(seed, budgets), SIZES, PARAMETERS, min_gain=min_gain, keep=keep)
        plain = BruteForce(exact.counts, SIZES, PARAMETERS, min_gain=min_gain)
        known = evaluations_of(exact.counts, SIZES)
        pool = random.Random(seed).sample(names_of("abcde"), 7)
        for direction in ("forward", "backward", "list"):
            listed = tuple(Candidate(tuple(names)) for names in pool) if direction == "list" else ()
            search = SearchSpec(
                direction=direction, min_gain=None if min_gain is None else float(min_gain), candidates=listed, **fields
            )
            state = replay(study_of(PARAMETERS, FOLDS), search, known)
            if direction == "list":
                end, other = exact.listed(pool), plain.listed(pool)
            else:
                end, other = getattr(exact, direction)()[-1], getattr(plain, direction)()[-1]
            assert "".join(state.selection.blocks) == end, (seed, direction)
            pruned += sum(len(round_.pruned) for round_ in state.rounds)
            different += end != other
    assert pruned > 60 and different > 0  # and yet it may end elsewhere: that is the price


@pytest.mark.parametrize("direction", ["forward", "backward", "best", "list"])
def test_certain_elimination_decides_what_a_search_without_it_decides(direction):
    saved, whole = 0, 0
    for seed in range(60):
        min_gain = random.Random(seed).choice([None, 0.0, 0.1])
        listed = tuple(Candidate(tuple(n)) for n in random.Random(seed).sample(names_of("abcde")[1:], 7))
        asked = {"direction": direction, "min_gain": min_gain, "candidates": listed if direction == "list" else ()}
        known = evaluations_of(counts_of(seed), SIZES)
        plain = replay(study_of(PARAMETERS, FOLDS), SearchSpec(**asked), known)
        certain = replay(study_of(PARAMETERS, FOLDS), SearchSpec(**asked, pruner="certain", score_limit=1.0), known)
        assert certain.selection == plain.selection and certain.reason == plain.reason
        assert [r.decision for r in certain.rounds] == [r.decision for r in plain.rounds]
        saved += sum(len(a.evaluations) - len(b.evaluations) for a, b in zip(plain.rounds, certain.rounds, strict=True))
        whole += sum(len(round_.evaluations) for round_ in plain.rounds)
    assert saved > 0.03 * whole


def test_certain_elimination_keeps_what_can_still_tie_and_refuses_a_limit_that_is_none():
    limited = Certain(1.0)
    rounds = {"a": [9, 9, 9], "b": [8], "c": [6], "d": [7]}  # of 10 each: b can reach 28, d 27, which ties, c 26
    assert dropped(limited, 1, rounds) == ["c"]
    assert dropped(limited, 0, {"a": [9], "c": [0]}) == []
    with pytest.raises(ArgumentsError, match="score_limit"):
        dropped(Certain(0.85), 1, rounds)
    with pytest.raises(ArgumentsError, match="score_limit"):
        SearchSpec(pruner="certain")
    with pytest.raises(ArgumentsError, match="score_limit"):
        SearchSpec(pruner="race", score_limit=1.0)


# --- the steps one by one --------------------------------------------------------------------
def scored(names, rights, size=10, budget=1.0):
    return tuple(Evaluation(Candidate(tuple(names)), f, r / size, size, budget=budget) for f, r in enumerate(rights))


def seen_of(table, **fields):
    return {Candidate(tuple(names)): scored(names, rights, **fields) for names, rights in table.items()}


def dropped(pruner, step, table, **fields):
    return ["".join(candidate.blocks) for candidate in pruner.dropped(step, seen_of(table, **fields))]


def test_a_race_judges_from_the_second_fold_on():
    table = {"a": (1,), "b": (9,)}
    assert dropped(Race(0.5), 0, table) == []
    # Differences 8 and 7: t = 15 with 1 degree of freedom, where 6.31 is asked for.
    assert dropped(Race(0.95), 1, {"a": (1, 2), "b": (9, 9)}) == ["a"]
    # Differences 8 and 5: t = 4.33.
    assert dropped(Race(0.95), 1, {"a": (1, 4), "b": (9, 9)}) == []
    assert dropped(Race(0.9), 1, {"a": (1, 4), "b": (9, 9)}) == ["a"]
    # Differences 8, 5 and 6: t = 7.18 with 2 degrees of freedom, where 2.92 is asked for.
    assert dropped(Race(0.95), 2, {"a": (1, 4, 3), "b": (9, 9, 9)}) == ["a"]


def test_a_race_keeps_equals_and_is_sure_of_equal_differences():
    assert dropped(Race(0.95), 1, {"a": (5, 7), "b": (5, 7), "c": (4, 6)}) == ["c"]
    assert dropped(Race(0.95), 1, {"a": (6, 6), "b": (5, 7)}) == []


def test_a_race_saves_the_folds_after_the_one_in_which_a_candidate_fell_behind():
    rights = {"a": (1, 2, 2, 2), "b": (9, 9, 9, 9), "c": (8, 9, 9, 8)}
    table = {each.unit: each for names, row in rights.items() for each in scored(names, row)}
    verdict = judge(Race(0.95), [Candidate((name,)) for name in "abc"], 4, table)
    assert verdict.pruned == (Candidate(("a",)),) and len(verdict.used) == 2 + 4 + 4
    first = judge(Race(0.95), [Candidate((name,)) for name in "abc"], 4, {})
    assert first.pending == tuple(Unit(Candidate((name,)), 0) for name in "abc")


def test_a_race_of_two_folds_saves_nothing():
    rights = {"a": (1, 2), "b": (9, 9)}
    table = {each.unit: each for names, row in rights.items() for each in scored(names, row)}
    assert judge(Race(0.95), [Candidate((name,)) for name in "ab"], 2, table).pruned == ()


def test_halving_lets_one_in_so_many_go_on_rounded_up():
    table = {name: (right,) for name, right in zip("abcde", (3, 9, 5, 5, 1), strict=True)}
    assert dropped(Halving(2, 0.5), 0, table, budget=0.5) == ["a", "e"]
    assert dropped(Halving(3, 0.5), 0, table, budget=0.5) == ["a", "c", "e"]  # a tie goes to the last
    assert dropped(Halving(9, 0.5), 0, table, budget=0.5) == ["a", "c", "d", "e"]


@pytest.mark.parametrize(
    ("reduction", "smallest", "budgets"),
    [
        (3, 1 / 9, (1 / 9, 3 / 9)),
        (3, 1 / 27, (1 / 27, 3 / 27, 9 / 27)),
        (7, 1 / 49, (1 / 49, 7 / 49)),  # 49 * (1 / 49) < 1 in floats
        (2, 0.3, (0.3, 0.6)),
        (4, 0.5, (0.5,)),
        (3, 1.0, ()),
    ],
    ids=str,
)
def test_budgets_of_halving_grow_up_to_the_full_training(reduction, smallest, budgets):
    assert Halving(reduction, smallest).budgets == pytest.approx(budgets)
    steps = Halving(reduction, smallest).steps(2)
    assert steps[-1] == Step((0, 1), 1.0) and len(steps) == len(budgets) + 1


def test_reduced_budgets_are_no_part_of_a_gain():
    counts = counts_of(3, (0.5,))
    counts[0.5] = dict.fromkeys(counts[0.5], (0,) * FOLDS) | {"c": SIZES}
    search = SearchSpec(pruner="halving", reduction=5, smallest_budget=0.5)
    state = replay(study_of(PARAMETERS, FOLDS), search, evaluations_of(counts, SIZES))
    first = state.rounds[1]
    assert pick_winner(first) == Candidate(("c",)) and len(first.pruned) == 4
    exact = BruteForce(counts, SIZES, PARAMETERS)
    assert first.decision.gain == pytest.approx(float(exact.gain("", "c")[0]))
    assert len(first.of(Candidate(("a",)))) == 0 and len(first.of(Candidate(("a",)), 0.5)) == FOLDS


def test_a_pruned_candidate_without_folds_is_not_missed():
    for fields in ({"pruner": "race"}, {"pruner": "halving", "reduction": 2, "smallest_budget": 0.5}):
        state = replay(study_of(PARAMETERS, FOLDS), SearchSpec(**fields), evaluations_of(counts_of(5, (0.5,)), SIZES))
        assert any(round_.pruned for round_ in state.rounds)
        for round_ in state.rounds:
            assert pick_winner(round_) in round_.survivors


# --- Student's t -----------------------------------------------------------------------------
@pytest.mark.parametrize("confidence", STUDENT_T, ids=str)
def test_quantiles_are_those_of_printed_tables(confidence):
    for freedom, value in enumerate(STUDENT_T[confidence]):
        if value is not None:
            assert student_t_quantile(confidence, freedom) == pytest.approx(float(value), abs=1e-6)


def test_quantiles_against_scipy():
    stats = pytest.importorskip("scipy.stats")
    for freedom in (1, 2, 3, 4, 7, 9, 30, 99, 1000):
        for confidence in (0.5, 0.6, 0.75, 0.9, 0.95, 0.99, 0.999, 0.99999):
            assert student_t_quantile(confidence, freedom) == pytest.approx(
                stats.t.ppf(confidence, freedom), rel=1e-9, abs=1e-12
            )


def test_quantiles_that_are_known_by_hand():
    assert student_t_quantile(0.75, 1) == pytest.approx(1.0)  # Cauchy: tan(pi / 4)
    assert student_t_quantile(0.75, 2) == pytest.approx(0.5 / math.sqrt(2 * 0.75 * 0.25))
    assert student_t_quantile(0.5, 3) == pytest.approx(0.0, abs=1e-12)
