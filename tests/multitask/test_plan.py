"""Plans of several tasks, on numbers alone: who runs where, on which rows, and what that costs."""

import random

import pytest

from subtuning_hf.errors import MultiTaskError
from subtuning_hf.multitask.plan import Take, make_plan


def all_rows(tasks, size):
    return {task: tuple(range(size)) for task in tasks}


def late(tasks, start, blocks=12):
    return {f"t{n}": dict.fromkeys(range(start, blocks), f"t{n}") for n in range(tasks)}


def one(tasks, block):
    return {f"t{n}": {block: f"t{n}"} for n in range(tasks)}


def counts(plan):
    return [step.num_rows for step in plan.steps]


# --- what runs -------------------------------------------------------------------------------
def test_the_trunk_runs_once_and_lanes_from_their_own_first_block():
    plan = make_plan(4, {"a": {2: "a"}, "b": {3: "b"}, "c": {}}, all_rows("abc", 5), 5)
    assert counts(plan) == [5, 5, 10, 15]
    frozen, tuned = plan.steps[2].groups
    assert (frozen.owner, frozen.num_lanes, tuned.owner) == (None, 1, "a")


def test_frozen_blocks_behind_a_fork_run_once_on_all_lanes():
    plan = make_plan(4, {"a": {1: "a"}, "b": {1: "b"}}, all_rows("ab", 2), 2)
    (group,) = plan.steps[3].groups
    assert group.owner is None and group.num_rows == 4 and group.num_lanes == 2


def test_tasks_with_the_same_modules_share_a_lane():
    plan = make_plan(3, {"a": {1: "shared"}, "b": {1: "shared"}}, all_rows("ab", 2), 2)
    assert counts(plan) == [2, 2, 2] and plan.num_answers == 4
    assert plan.steps[-1].order.rows == (0, 1, 0, 1)


def test_rows_that_a_lane_is_not_asked_for_are_dropped():
    plan = make_plan(3, {"a": {1: "a"}, "b": {1: "b"}}, {"a": (0, 1), "b": (2,)}, 4)
    assert counts(plan) == [3, 3, 3] and plan.fed.rows == (0, 1, 2)


@pytest.mark.parametrize(("start", "most"), [(8, 16 / (2 / 3 + 16 / 3)), (11, 16 / (11 / 12 + 16 / 12)), (0, 1.0)])
def test_what_sharing_can_win(start, most):
    plan = make_plan(12, late(16, start), all_rows(late(16, start), 1), 1)
    assert plan.speedup == pytest.approx(most)


def test_the_cost_counts_shares_and_what_is_outside_of_blocks():
    plan = make_plan(2, one(3, 1), all_rows(one(3, 1), 2), 2, shares=(0.5, 0.25))
    assert plan.cost == pytest.approx(2 * 0.5 + 6 * 0.25 + 2 * 0.25)


def test_a_plan_is_printed_as_a_table():
    text = str(make_plan(2, {"a": {1: "a"}, "b": {}}, all_rows("ab", 2), 2, names=("stem.0", "stem.1")))
    lines = text.splitlines()
    assert lines[0].split() == ["block", "frozen", "rows", "tuned", "rows", "lanes", "passes"]
    assert lines[3].split() == ["stem.1", "2", "2", "2", "2"]
    assert lines[-1] == "2 tasks, 4 answers: 3.00 forward passes of one row, 1.33 times less than each task alone."


# --- that answers are right ------------------------------------------------------------------
def run(plan, size, blocks):
    """A toy model: a row is its own history."""
    fed = [(row, ()) for row in plan.fed.rows]
    state = fed
    for number in range(blocks):
        step, out = plan.steps[number], []
        for group in step.groups:
            taken = [state[i] for i in group.state.rows]
            side = [fed[i] for i in group.fed.rows]
            assert [row for row, _ in taken] == [row for row, _ in side]  # masks belong to their rows
            out += [(row, (*path, (number, group.owner)) if group.owner else path) for row, path in taken]
        state = [out[i] for i in step.order.rows]
    return state


@pytest.mark.parametrize("seed", range(200))
def test_every_answer_took_the_modules_of_its_task(seed):
    draw = random.Random(seed)
    blocks, size, names = draw.randint(1, 6), draw.randint(1, 5), "abcde"[: draw.randint(1, 5)]
    owners = {t: {b: draw.choice([t, t, "ab"]) for b in range(blocks) if draw.random() < 0.4} for t in names}
    requests = {t: tuple(draw.choices(range(size), k=draw.randint(0, size))) for t in names}
    requests[names[0]] = requests[names[0]] or (0,)
    ends = [b for b in range(blocks) if draw.random() < 0.2]
    plan = make_plan(blocks, owners, requests, size, tiled=draw.random() < 0.5, ends=ends)
    wanted = [(row, tuple(sorted(owners[task].items()))) for task, rows in requests.items() for row in rows]
    assert run(plan, size, blocks) == wanted
    assert all(counts(plan)[b] <= max(plan.num_answers, len(plan.entry.rows)) for b in range(blocks))


def test_heads_take_the_answers_of_their_tasks():
    requests = {"a": (0, 1), "b": (0,), "c": (1,)}
    plan = make_plan(1, {t: {} for t in requests}, requests, 2, heads={"fc": {"a": "a", "c": "c"}})
    ((name, step),) = plan.heads
    assert name == "fc" and {g.owner: g.state.rows for g in step.groups} == {"a": (0, 1), None: (2,), "c": (3,)}
    made = [n for g in step.groups for n in g.state.rows]
    assert [made[i] for i in step.order.rows] == [0, 1, 2, 3]


def test_fed_one_row_for_each_answer_shared_parts_still_run_once():
    plan = make_plan(3, one(4, 2), all_rows(one(4, 2), 3), 3, tiled=True)
    assert len(plan.fed.rows) == 12 and counts(plan) == [3, 3, 12]
    assert plan.entry.rows == (0, 1, 2) and plan.spread.rows == (0, 1, 2) * 4


def test_takes_know_where_rows_lie_side_by_side():
    assert Take((0, 1, 2), 3).all and Take((1, 2), 3).span == (1, 3) and Take((2, 0), 3).span is None
    assert Take((), 3).span == (0, 0) and not Take((0, 1), 3).all


# --- what is refused -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("requests", "message"),
    [({"z": (0,)}, "found 'z'"), ({"a": (3,)}, r"0 \.\.\. 1 for 'a', found \[3\]")],
)
def test_bad_requests(requests, message):
    with pytest.raises(MultiTaskError, match=message):
        make_plan(2, {"a": {}}, requests, 2)
