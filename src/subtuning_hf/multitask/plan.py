"""
Which block runs how often on how many rows when several tasks are answered at once.

Tasks that have met the same modules so far share a lane; a task leaves the trunk at its own first tuned block, and
frozen blocks after that run once on the rows of all lanes. A plan is a value: it knows numbers of blocks, names of
tasks and numbers of rows, and neither modules nor tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..errors import MultiTaskError

Rows = tuple[int, ...]
# Asks for the frozen network's features, where modules behind the blocks take them: no name of a task.
FROZEN = "\0frozen"


@dataclass(frozen=True)
class Take:
    """
    Which rows of an array something takes, in order.

    Args:
        rows (`tuple[int, ...]`): Their numbers.
        size (`int`): Length of the array.
    """

    rows: Rows
    size: int

    @property
    def all(self) -> bool:
        """Whether it is the array as it stands."""
        return self.span == (0, self.size)

    @property
    def span(self) -> tuple[int, int] | None:
        """`(start, stop)` where the rows lie one behind the other, else `None`."""
        if not self.rows:
            return 0, 0
        if all(b == a + 1 for a, b in pairwise(self.rows)):
            return self.rows[0], self.rows[-1] + 1
        return None


@dataclass(frozen=True)
class Lane:
    """
    One path through the blocks so far.

    Args:
        path (`tuple[str, ...]`): The tuned blocks met, `"number:owner"` each; empty for the trunk.
        tasks (`tuple[str, ...]`): Who takes it.
        rows (`tuple[int, ...]`): Rows of the batch that at least one of them asks for.
    """

    path: tuple[str, ...]
    tasks: tuple[str, ...]
    rows: Rows


@dataclass(frozen=True)
class Group:
    """
    Rows that run through one module together.

    Args:
        owner (`str` or `None`): Whose module; `None` for the frozen block.
        num_lanes (`int`): How many lanes they belong to.
        state ([`Take`]): The rows in what the block before left.
        fed ([`Take`]): The same rows in what the model was fed; if that is tiled, those of a task of the same lane.
        beside ([`Take`], *optional*):
            For a module that takes the frozen network's features too: where these are of the same rows.
    """

    owner: str | None
    num_lanes: int
    state: Take
    fed: Take
    beside: Take | None = None

    @property
    def num_rows(self) -> int:
        return len(self.state.rows)


@dataclass(frozen=True)
class Step:
    """
    What one block does.

    Args:
        groups (`tuple[Group, ...]`): In order; their outputs are put one behind the other.
        order ([`Take`]): The rows of that which go on, in order.
    """

    groups: tuple[Group, ...]
    order: Take

    @property
    def num_rows(self) -> int:
        """Rows that run in all."""
        return sum(group.num_rows for group in self.groups)

    @property
    def plain(self) -> bool:
        """Whether the frozen block runs on what comes, as it comes."""
        (first, *more) = self.groups
        return not more and first.owner is None and first.state.all and first.fed.all and self.order.all


@dataclass(frozen=True)
class Plan:
    """
    How a batch is answered.

    Args:
        requests (`tuple[tuple[str, tuple[int, ...]], ...]`):
            Each task with the rows of the batch it answers; last the rows of [`FROZEN`], if a task needs them.
        tiled (`bool`): Whether the model is fed one row for each row of each task, instead of each row once.
        fed ([`Take`]): Rows of the batch that the model is fed.
        entry ([`Take`]): Of the fed rows, those that run where nothing is tuned yet.
        steps (`tuple[Step, ...]`): One for each block.
        heads (`tuple[tuple[str, Step], ...]`): Modules behind the blocks of which tasks have their own, by name.
        spread ([`Take`]): How rows that ran once where nothing is tuned are given to all that asked.
        names (`tuple[str, ...]`): Of the blocks.
        shares (`tuple[float, ...]`): Share of each block in the arithmetic of a pass, equal ones where it is not known.
        apart (`tuple[tuple[str, tuple[int, ...]], ...]`): Tasks with their rows that run by themselves.
    """

    requests: tuple[tuple[str, Rows], ...]
    tiled: bool
    fed: Take
    entry: Take
    steps: tuple[Step, ...]
    heads: tuple[tuple[str, Step], ...]
    spread: Take
    names: tuple[str, ...]
    shares: tuple[float, ...]
    apart: tuple[tuple[str, Rows], ...] = ()

    @property
    def num_answers(self) -> int:
        """Rows in the output of the shared pass: those of the first task, of the second, and so on."""
        return sum(len(rows) for _, rows in self.requests)

    @property
    def asked(self) -> tuple[tuple[str, Rows], ...]:
        """Tasks with their rows, those that run by themselves last."""
        return (*(one for one in self.requests if one[0] != FROZEN), *self.apart)

    @property
    def stem(self) -> Step:
        """What a module ahead of the blocks does where the model is fed one row for each answer: each row runs once."""
        return Step((Group(None, 1, self.entry, self.entry),), self.spread)

    @property
    def cost(self) -> float:
        """Arithmetic in forward passes of one row through the whole model."""
        inside = sum(share * step.num_rows for share, step in zip(self.shares, self.steps, strict=True))
        return inside + (1 - sum(self.shares)) * len(self.entry.rows) + sum(len(rows) for _, rows in self.apart)

    @property
    def speedup(self) -> float:
        """Arithmetic of a pass for every task alone, over that of this plan: what sharing can win at most."""
        return sum(len(rows) for _, rows in self.asked) / self.cost if self.cost else 1.0

    def __str__(self) -> str:
        lines = [("block", "frozen rows", "tuned rows", "lanes", "passes")]
        for name, step in zip(self.names, self.steps, strict=True):
            frozen = sum(group.num_rows for group in step.groups if group.owner is None)
            lanes = sum(group.num_lanes for group in step.groups)
            lines.append((name, str(frozen), str(step.num_rows - frozen), str(lanes), str(len(step.groups))))
        widths = [max(len(line[i]) for line in lines) for i in range(5)]
        rows = [_row(line, widths) for line in [lines[0], tuple("-" * width for width in widths), *lines[1:]]]
        everyone = self.asked
        answers, alone = sum(len(of_task) for _, of_task in everyone), ", ".join(task for task, _ in self.apart)
        if alone:
            rows.append(f"By themselves, in full: {alone}.")
        rows.append(
            f"{len(everyone)} task{'s' * (len(everyone) != 1)}, {answers} answers: {self.cost:.2f} forward passes of "
            f"one row, {self.speedup:.2f} times less than each task alone."
        )
        return "\n".join(rows)


def make_plan(
    num_blocks: int,
    owners: Mapping[str, Mapping[int, str]],
    requests: Mapping[str, Sequence[int]],
    num_rows: int,
    *,
    tiled: bool = False,
    ends: Sequence[int] = (),
    heads: Mapping[str, Mapping[str, str]] | None = None,
    siamese: Mapping[str, Sequence[str]] | None = None,
    names: Sequence[str] = (),
    shares: Sequence[float] = (),
) -> Plan:
    """
    Plan a batch.

    Args:
        num_blocks (`int`): Of the model.
        owners (`Mapping[str, Mapping[int, str]]`):
            For each task, the number of each block that it does not take from the trunk, to a name of the module it
            takes there; tasks with the same name share it.
        requests (`Mapping[str, Sequence[int]]`): Rows of the batch that each task is asked for; some of `owners`.
        num_rows (`int`): Rows of the batch.
        tiled (`bool`, *optional*, defaults to `False`): See [`Plan`].
        ends (`Sequence[int]`, *optional*):
            Blocks after which all tasks have rows of their own, as the model's own code reads them next: the end of an
            encoder. The last block is one.
        heads (`Mapping[str, Mapping[str, str]]`, *optional*):
            For each module behind the blocks of which tasks have their own, these tasks and a name of their module.
        siamese (`Mapping[str, Sequence[str]]`, *optional*):
            Of these modules, the tasks whose own takes the frozen network's features beside theirs.
        names (`Sequence[str]`, *optional*), shares (`Sequence[float]`, *optional*): See [`Plan`].

    Returns: [`Plan`]
    Raises: [`MultiTaskError`]: If no task is asked for, an unknown one is, or a row that is not there.
    """
    asked = tuple((task, tuple(rows)) for task, rows in requests.items())
    _check(owners, asked, num_rows)
    paired = {task for tasks in (siamese or {}).values() for task in tasks}
    if beside := sorted({row for task, rows in asked if task in paired for row in rows}):
        owners, asked = {**owners, FROZEN: {}}, (*asked, (FROZEN, tuple(beside)))
    answers = [(task, row) for task, rows in asked for row in rows]
    present = sorted({row for _, row in answers})
    fed = [row for _, row in answers] if tiled else present
    first = _first_places([((), row) for row in fed])
    paths = _Paths(owners, {task: frozenset(rows) for task, rows in asked if rows}, answers if tiled else None, first)

    lanes: tuple[Lane, ...] = (Lane((), tuple(paths.rows_of), tuple(present)),)
    state: list[_Entry] = [((), row) for row in fed]
    steps = []
    for block in range(num_blocks):
        parts = paths.split(block, lanes)
        lanes = tuple(lane for _, part in parts for lane in part)
        made = [(lane.path, row) for lane in lanes for row in lane.rows]
        if block in ends or block == num_blocks - 1:
            path_of = {task: lane.path for lane in lanes for task in lane.tasks}
            wanted = [(path_of[task], row) for task, row in answers]
        else:
            wanted = [(lane.path, row) for lane in paths.arranged(block + 1, lanes) for row in lane.rows]
        place = _first_places(state)
        groups = tuple(paths.group(owner, part, place, len(state)) for owner, part in parts)
        steps.append(Step(groups, _places(made, wanted)))
        state = wanted
    once: list[_Entry] = [((), row) for row in present]
    spread = _places(once, [((), row) for row in fed])
    entry = Take(tuple(first[(), row] for row in present), len(fed))
    last = tuple((name, _head(answers, of, (siamese or {}).get(name, ()))) for name, of in (heads or {}).items())
    names = tuple(names) or tuple(str(block) for block in range(num_blocks))
    shares = tuple(shares) or (1 / num_blocks,) * num_blocks
    return Plan(asked, tiled, Take(tuple(fed), num_rows), entry, tuple(steps), last, spread, names, shares)


_Entry = tuple[tuple[str, ...], int]  # a row on a path
_Parts = list[tuple[str | None, list[Lane]]]


@dataclass(frozen=True)
class _Paths:
    """Who takes which module, and who asks for which rows."""

    owners: Mapping[str, Mapping[int, str]]
    rows_of: Mapping[str, frozenset[int]]
    tiles: Sequence[tuple[str, int]] | None  # task and row of what is fed, if that is tiled
    first: Mapping[_Entry, int]  # where a row is fed first

    def fed(self, lanes: Sequence[Lane]) -> Take:
        """Where the rows of some lanes are fed."""
        if self.tiles is None:
            return Take(tuple(self.first[(), row] for lane in lanes for row in lane.rows), len(self.first))
        lane_of = {task: number for number, lane in enumerate(lanes) for task in lane.tasks}
        place: dict[tuple[int, int], int] = {}
        for number, (task, row) in enumerate(self.tiles):
            if task in lane_of:
                place.setdefault((lane_of[task], row), number)
        return Take(tuple(place[n, row] for n, lane in enumerate(lanes) for row in lane.rows), len(self.tiles))

    def split(self, block: int, lanes: Sequence[Lane]) -> _Parts:
        """The lanes after a block, by the module that they take there, the frozen one first."""
        parts: dict[str | None, list[Lane]] = {}
        for lane in lanes:
            takers: dict[str | None, list[str]] = {}
            for task in lane.tasks:
                takers.setdefault(self.owners[task].get(block), []).append(task)
            for owner, tasks in takers.items():
                path = lane.path if owner is None else (*lane.path, _mark(block, owner))
                wanted = frozenset[int]().union(*(self.rows_of[task] for task in tasks))
                rows = tuple(row for row in lane.rows if row in wanted)
                parts.setdefault(owner, []).append(Lane(path, tuple(tasks), rows))
        return sorted(parts.items(), key=lambda part: part[0] is not None)

    def arranged(self, block: int, lanes: Sequence[Lane]) -> list[Lane]:
        """Lanes in an order in which those that take the same module in a block lie side by side."""

        def key(lane: Lane) -> tuple[bool, str]:
            owners = [self.owners[task].get(block) for task in lane.tasks]
            return min((owner is not None, owner or "") for owner in owners)

        return sorted(lanes, key=key)

    def group(self, owner: str | None, lanes: Sequence[Lane], place: Mapping[_Entry, int], size: int) -> Group:
        """What one module of a block takes, given where rows are in what the block before left."""
        before = [lane.path if owner is None else lane.path[:-1] for lane in lanes]
        taken = tuple(place[path, row] for path, lane in zip(before, lanes, strict=True) for row in lane.rows)
        return Group(owner, len(lanes), Take(taken, size), self.fed(lanes))


def _head(answers: Sequence[tuple[str, int]], owner_of: Mapping[str, str], siamese: Sequence[str]) -> Step:
    """What a module behind the blocks does: every answer goes through that of its task."""
    parts: dict[str | None, list[int]] = {}
    frozen = {row: number for number, (task, row) in enumerate(answers) if task == FROZEN}
    pairs = {owner_of[task] for task, _ in answers if task in siamese}
    for number, (task, _) in enumerate(answers):
        # Frozen features have been read where they are paired, and nobody asks what becomes of them: they go on in the
        # width of a task, since the base's own classes may be more than any task's.
        owner = min(pairs) if task == FROZEN and pairs else owner_of.get(task)
        parts.setdefault(owner, []).append(number)
    takes = [(owner, Take(tuple(numbers), len(answers))) for owner, numbers in parts.items()]
    place = {number: i for i, number in enumerate(n for _, take in takes for n in take.rows)}
    order = Take(tuple(place[number] for number in range(len(answers))), len(answers))

    def beside(owner: str | None, take: Take) -> Take | None:
        rows = tuple(frozen[answers[number][1]] for number in take.rows) if owner in pairs else None
        return None if rows is None else Take(rows, take.size)

    return Step(tuple(Group(owner, 1, take, take, beside(owner, take)) for owner, take in takes), order)


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)])


def _mark(block: int, owner: str) -> str:
    return f"{block}:{owner}"


def _first_places(entries: Sequence[_Entry]) -> dict[_Entry, int]:
    places: dict[_Entry, int] = {}
    for number, entry in enumerate(entries):
        places.setdefault(entry, number)
    return places


def _places(made: Sequence[_Entry], wanted: Sequence[_Entry]) -> Take:
    place = _first_places(made)
    return Take(tuple(place[entry] for entry in wanted), len(made))


def _check(owners: Mapping[str, Mapping[int, str]], asked: Sequence[tuple[str, Rows]], num_rows: int) -> None:
    for task, rows in asked:
        if task not in owners:
            raise MultiTaskError(f"Expected tasks among {', '.join(owners)}, found '{task}'.")
        wrong = [row for row in rows if not 0 <= row < num_rows]
        if wrong:
            raise MultiTaskError(f"Expected rows in 0 ... {num_rows - 1} for '{task}', found {wrong}.")
