"""
What a call asks for, as the rows of each task.

Knows names and numbers; does not know models.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy
from torch import Tensor

from ..errors import MultiTaskError


def requests_of(
    known: Iterable[str],
    tasks: Sequence[str] | None,
    rows: Mapping[str, Sequence[int]] | Sequence[str | Iterable[str]] | None,
    size: int,
) -> dict[str, tuple[int, ...]]:
    """
    The rows that each task is asked for.

    Args:
        known (`Iterable[str]`): All tasks.
        tasks (`Sequence[str]`, *optional*), rows (*optional*): As a call has them.
        size (`int`): Rows of the batch.

    Raises: [`MultiTaskError`]: If they cannot be answered.
    """
    known = list(known)
    if not known:
        raise MultiTaskError("There is no task to answer. Add one with `add_task`.")
    if isinstance(tasks, str) or (tasks is not None and not tasks):
        raise MultiTaskError(f"Expected a list of tasks, found {tasks!r}.")
    if tasks is not None and rows is not None:
        raise MultiTaskError("Expected `tasks` or `rows`, found both: `rows` names the tasks of each row.")
    if rows is None:
        found = {task: tuple(range(size)) for task in (tasks if tasks is not None else known)}
    elif isinstance(rows, Mapping):
        found = {task: _numbers(task, of_task, size) for task, of_task in rows.items()}
    else:
        found = _by_row(rows, size)
    for task in found:
        if task not in known:
            raise MultiTaskError(f"Expected tasks among {', '.join(known)}, found {task!r}.")
    asked = {task: of_task for task, of_task in found.items() if of_task}
    if not asked:
        raise MultiTaskError("Expected at least one row for at least one task, found none.")
    return asked


def _numbers(task: str, rows: Any, size: int) -> tuple[int, ...]:
    try:
        numbers: list[Any] = [row.item() if isinstance(row, (Tensor, numpy.generic)) else row for row in rows]
        if any(isinstance(number, bool) for number in numbers):
            raise TypeError("bool")
        found = tuple(operator.index(number) for number in numbers)
    except (TypeError, ValueError, RuntimeError) as error:
        raise MultiTaskError(f"Expected numbers of rows for {task!r}, found {rows!r}.") from error
    wrong = [row for row in found if not 0 <= row < size]
    if wrong:
        raise MultiTaskError(f"Expected rows in 0 ... {size - 1} for {task!r}, found {wrong}.")
    return found


def _by_row(rows: Any, size: int) -> dict[str, tuple[int, ...]]:
    if isinstance(rows, (str, Tensor)) or not isinstance(rows, Iterable):
        raise MultiTaskError(f"Expected the task or tasks of each row, found {rows!r}.")
    listed = [[tasks] if isinstance(tasks, str) else tasks for tasks in rows]
    if len(listed) != size or not all(isinstance(tasks, Iterable) for tasks in listed):
        raise MultiTaskError(f"Expected the task or tasks of each of {size} rows, found {rows!r}.")
    found: dict[str, list[int]] = {}
    for row, tasks in enumerate(listed):
        for task in dict.fromkeys(tasks):
            found.setdefault(task, []).append(row)
    return {task: tuple(numbers) for task, numbers in found.items()}
