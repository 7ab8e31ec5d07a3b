"""
Answers a batch for several tasks: stacked where that gives what each adapter gives alone, else one by one.

Knows forks, plans and what was learned of the model; does not know where adapters come from.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from transformers.utils import logging

from ..errors import MultiTaskError
from ..prefix.anatomy import tower_ends
from ..prefix.capture import device_of, undisturbed, without_cache
from .adapters import TaskModel, structure_copy
from .fork import Bound, CannotStack, FixedFork, Fork, Part, Stacked, during
from .learn import Inputs, Learned, allowed, bind, compare, kind_of, learn, put, rows_of, split
from .plan import Plan, make_plan

logger = logging.get_logger(__name__)
Requests = Mapping[str, tuple[int, ...]]
# Asks for what is inside the model, or brings it: such a call is answered task by task.
_INNER = ("output_hidden_states", "output_attentions", "past_key_values", "use_cache")
PLANS_KEPT = 256


@dataclass(frozen=True)
class Checked:
    """
    How the answers of tasks compare with those of each alone.

    Args:
        off (`Mapping[str, float]`): Greatest difference relative to the greatest value.
        widths (`Mapping[str, tuple]`): Leaves of a task's output that are narrower than the widest task's: number of
            the leaf, dimension, size.
    """

    off: Mapping[str, float]
    widths: Mapping[str, tuple[tuple[int, int, int], ...]]


@dataclass(frozen=True)
class Tasks:
    """The tasks at one time; a change makes another, so that calls that run see what they began with."""

    models: Mapping[str, TaskModel]
    plans: OrderedDict[tuple, tuple[Plan, dict[str, Bound]]] = field(default_factory=OrderedDict)
    checked: dict[tuple, Checked] = field(default_factory=dict)


class Engine:
    """
    Runs batches.

    Args:
        stack (`torch.nn.Module`): With forks in the place of its blocks and of heads.
        bare (`torch.nn.Module`): The same without.
        blocks (`Sequence[str]`): Names of the blocks in forward order.
        max_lanes (`int` or `None`): Most batches' worth of rows that run through a module at once.
    """

    def __init__(self, stack: nn.Module, bare: nn.Module, blocks: Sequence[str], max_lanes: int | None) -> None:
        self.stack, self.bare, self.blocks, self.max_lanes = stack, bare, tuple(blocks), max_lanes
        self.lock = threading.RLock()
        self.learned: dict[tuple, Learned] = {}
        self._said: set[str] = set()

    # --- answering ----------------------------------------------------------------------------
    def answer(self, now: Tasks, inputs: Inputs, size: int, requests: Requests) -> dict[str, Any]:
        """
        The answers of some tasks.

        Args:
            now ([`Tasks`]): Those there are.
            inputs (`dict[str, Any]`), size (`int`): A batch and its number of rows.
            requests (`Mapping[str, tuple[int, ...]]`): Rows that each task is asked for.
        """
        inner = any(inputs.get(name) is not None and inputs[name] is not False for name in _INNER)
        answers: dict[str, Any] = {}
        if len(requests) > 1 and not inner:
            key, learned = self.ready(now, inputs)
            together = {task: rows for task, rows in requests.items() if shares_trunk(now.models[task], learned)}
            if len(together) > 1:
                try:
                    answers = self._stacked(now, key, learned, inputs, size, together)
                except CannotStack as error:
                    self._say(f"Tasks ran one by one: {error}.")
        for task, rows in requests.items():
            if task not in answers:
                chosen, model = rows_of(inputs, size, rows), now.models[task].model
                answers[task] = model(**(chosen if inner else without_cache(model, chosen)))
        return {task: answers[task] for task in requests}

    def _stacked(
        self, now: Tasks, key: tuple, learned: Learned, inputs: Inputs, size: int, requests: Requests
    ) -> dict[str, Any]:
        plan, steps = self.bound(now, key, learned, size, requests)
        fed = without_cache(self.bare, rows_of(inputs, size, plan.fed))
        with during(Stacked(steps, learned.shapes)):
            output = self.stack(**fed)
        answers, widths = split(output, plan, learned.output), now.checked[key].widths
        return {task: _narrowed(answer, widths.get(task, ())) for task, answer in answers.items()}

    # --- plans --------------------------------------------------------------------------------
    def bound(
        self, now: Tasks, kind: tuple, learned: Learned, size: int, requests: Requests
    ) -> tuple[Plan, dict[str, Bound]]:
        """A plan with its modules, kept for the next batch like this."""
        key = (tuple(requests.items()), size, kind)
        with self.lock:
            if key in now.plans:
                now.plans.move_to_end(key)
                return now.plans[key]
        plan = self.plan(now, learned, size, requests)
        most = None if self.max_lanes is None else self.max_lanes * size

        def module_of(name: str, owner: str | None) -> nn.Module:
            return self.fork(name).base_layer if owner is None else now.models[owner].own[name]

        with torch.inference_mode(False):  # its numbers of rows serve calls with gradients too
            found = plan, bind(plan, self.blocks, learned.stem, module_of, device_of(self.bare), most)
        with self.lock:
            now.plans[key] = found
            while len(now.plans) > PLANS_KEPT:
                now.plans.popitem(last=False)
        return found

    def plan(self, now: Tasks, learned: Learned | None, size: int, requests: Requests) -> Plan:
        """The plan of a batch; without what was learned, blocks count alike."""
        place = {name: number for number, name in enumerate(self.blocks)}
        owners = {
            task: {place[name]: task for name in model.own if name in place} for task, model in now.models.items()
        }
        heads: dict[str, dict[str, str]] = {}
        for task in requests:
            for name in now.models[task].own:
                if name not in place:
                    heads.setdefault(name, {})[task] = task
        return make_plan(
            len(self.blocks),
            owners,
            requests,
            size,
            tiled=bool(learned is not None and learned.tiled),
            ends=tower_ends(self.bare, self.blocks),
            heads=heads,
            names=self.blocks,
            shares=learned.shares if learned is not None else (),
        )

    def fixed(self, now: Tasks, inputs: Inputs, size: int, requests: Requests) -> FixedTasks:
        """
        The answers to some requests as a module that decides nothing when it is called.

        Raises: [`MultiTaskError`]: If the tasks cannot run together.
        """
        key, learned = self.ready(now, inputs)
        apart = [task for task in requests if not shares_trunk(now.models[task], learned)]
        if apart:
            reason = learned.reason or f"{', '.join(apart)} shares nothing with the others"
            raise MultiTaskError(f"These tasks cannot run in one pass: {reason}. Export each from `task_model(task)`.")
        plan, steps = self.bound(now, key, learned, size, requests)
        stack = structure_copy(self.stack)
        for name, fork in [(n, m) for n, m in stack.named_modules() if isinstance(m, Fork)]:
            step = steps.get(name)
            plain = step is None or step.plain
            put(stack, name, fork.base_layer if plain else FixedFork(step, learned.shapes[name], fork.base_layer))  # type: ignore[arg-type]
        return FixedTasks(stack, plan, size, learned.output, now.checked[key].widths)

    def fork(self, name: str) -> Fork:
        """The fork at a place."""
        fork = self.stack.get_submodule(name)
        assert isinstance(fork, Fork)
        return fork

    # --- learning -----------------------------------------------------------------------------
    def ready(self, now: Tasks, inputs: Inputs) -> tuple[tuple, Learned]:
        """What is known of the model for inputs of a kind, with all tasks compared, and the key it has."""
        key = (kind_of(inputs), device_of(self.bare), next(self.bare.parameters()).dtype)
        learned = self.learned.get(key)
        if learned is not None and key in now.checked:
            return key, learned
        with self.lock, torch.inference_mode(False), torch.no_grad():
            learned = self.learned.get(key)
            if learned is None:
                learned = learn(self.stack, self.bare, self.blocks, inputs)
            if key not in now.checked:
                learned = self._check(now, key, learned)
            self.learned[key] = learned
            return key, learned

    def _check(self, now: Tasks, key: tuple, learned: Learned) -> Learned:
        """Compare all tasks with each alone."""
        together = [task for task, model in now.models.items() if shares_trunk(model, learned)]
        if learned.tiled is not None and together:
            try:
                now.checked[key] = self._compare(now, key, learned, together)
                return learned
            except (CannotStack, RuntimeError, ValueError, IndexError, TypeError) as error:
                learned = replace(learned, tiled=None, reason=str(error).splitlines()[0].rstrip("."))
        if learned.tiled is None and len(now.models) > 1:
            self._say(f"{type(self.bare).__name__} answers its tasks one by one: {learned.reason}.")
        now.checked[key] = Checked({}, {})
        return learned

    def _compare(self, now: Tasks, key: tuple, learned: Learned, tasks: Sequence[str]) -> Checked:
        probe = learned.probe
        with undisturbed(self.bare):
            alone = {task: now.models[task].model(**probe) for task in tasks}
            now.checked[key] = Checked({}, {})
            try:
                stacked = self._stacked(now, key, learned, probe, 3, dict.fromkeys(tasks, (0, 1, 2)))
            finally:
                del now.checked[key]
            widths = {task: _widths(alone[task], stacked[task], learned.output) for task in tasks}
            off = {}
            for task in tasks:
                model = now.models[task].model
                most = allowed(model, probe, alone[task], learned.output)
                off[task] = compare(_narrowed(stacked[task], widths[task]), alone[task], most)
        return Checked(off, widths)

    def _say(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            logger.warning(message)


class FixedTasks(nn.Module):
    """
    A model that answers the same requests for every batch: to be compiled or exported.

    Args:
        stack (`torch.nn.Module`): With the steps of the plan in the place of forks.
        plan ([`Plan`]), size (`int`): The plan, and the rows of a batch.
        output (`Sequence[Part]`), widths (`Mapping[str, tuple]`): How the output holds rows and classes.
    """

    def __init__(
        self, stack: nn.Module, plan: Plan, size: int, output: Sequence[Part], widths: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.stack, self.plan, self.size = stack, plan, size
        self.output, self.widths = tuple(output), dict(widths)

    def forward(self, **inputs: Any) -> dict[str, Any]:
        """
        Args:
            inputs: As the base model takes them, with as many rows as planned.

        Returns: `dict[str, Any]`: By task, what the adapter returns alone.
        """
        fed = without_cache(self.stack, rows_of(inputs, self.size, self.plan.fed))
        answers = split(self.stack(**fed), self.plan, self.output)
        return {task: _narrowed(answer, self.widths.get(task, ())) for task, answer in answers.items()}


def shares_trunk(model: TaskModel, learned: Learned) -> bool:
    """Whether a task can run with others: nothing of its own runs ahead of the last block but blocks."""
    return learned.tiled is not None and model.apart is None and not any(name in learned.early for name in model.own)


def _widths(alone: Any, stacked: Any, parts: Sequence[Part]) -> tuple[tuple[int, int, int], ...]:
    """Where an answer out of the stack is wider than the task's own: others have more classes."""
    narrower = []
    pairs = zip(pytree.tree_flatten(alone)[0], pytree.tree_flatten(stacked)[0], parts, strict=True)
    for number, (ours, theirs, part) in enumerate(pairs):
        if isinstance(ours, Tensor) and isinstance(theirs, Tensor) and ours.ndim == theirs.ndim:
            for dim, (a, b) in enumerate(zip(ours.shape, theirs.shape, strict=True)):
                if dim != part.dim and a < b:
                    narrower.append((number, dim, a))
    return tuple(narrower)


def _narrowed(answer: Any, widths: Sequence[tuple[int, int, int]]) -> Any:
    if not widths:
        return answer
    leaves, spec = pytree.tree_flatten(answer)
    for number, dim, size in widths:
        leaves[number] = leaves[number].narrow(dim, 0, size)
    return pytree.tree_unflatten(leaves, spec)


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
    if isinstance(tasks, str):
        raise MultiTaskError(f"Expected a list of tasks, found '{tasks}'.")
    named = list(dict.fromkeys(tasks)) if tasks is not None else known
    if rows is None:
        found = {task: tuple(range(size)) for task in named}
    elif isinstance(rows, Mapping):
        found = {task: tuple(int(row) for row in of_task) for task, of_task in rows.items()}
    else:
        found = _by_row(rows, size)
    asked = {
        task: of_task for task, of_task in found.items() if of_task and (rows is None or tasks is None or task in named)
    }
    for task in [*(tasks or ()), *found]:
        if task not in known:
            raise MultiTaskError(f"Expected tasks among {', '.join(known)}, found '{task}'.")
    for task, of_task in asked.items():
        wrong = [row for row in of_task if not 0 <= row < size]
        if wrong:
            raise MultiTaskError(f"Expected rows in 0 ... {size - 1} for '{task}', found {wrong}.")
    if not asked:
        raise MultiTaskError("Expected at least one row for at least one task, found none.")
    return asked


def _by_row(rows: Sequence[str | Iterable[str]], size: int) -> dict[str, tuple[int, ...]]:
    if len(rows) != size:
        raise MultiTaskError(f"Expected the task or tasks of {size} rows, found {len(rows)}.")
    found: dict[str, list[int]] = {}
    for row, tasks in enumerate(rows):
        for task in [tasks] if isinstance(tasks, str) else tasks:
            found.setdefault(task, []).append(row)
    return {task: tuple(numbers) for task, numbers in found.items()}
