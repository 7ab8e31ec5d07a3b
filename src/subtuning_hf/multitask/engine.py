"""
Answers a batch for several tasks: stacked where that gives what each adapter gives alone, else one by one.

Knows forks, plans and what was learned of the model; does not know where adapters come from.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn
from transformers.utils import logging

from ..errors import MultiTaskError
from ..prefix.anatomy import tower_ends
from ..prefix.capture import device_of, undisturbed, without_cache
from .adapters import TaskModel, structure_copy
from .fixed import FixedTasks, narrowed
from .fork import CannotStack, FixedFork, Fork, Stacked, during
from .learn import Inputs, Learned, allowed, bind, compare, kind_of, learn, put, rows_of, split, told
from .plan import Plan, make_plan
from .rows import Bound, Part
from .watch import output_shapes

logger = logging.get_logger(__name__)
Requests = Mapping[str, tuple[int, ...]]
Shapes = tuple[torch.Size | None, ...]
# Asks for what is inside the model, or brings it: such a call is answered task by task.
# Since transformers 5.24 models call the first `cache`.
_PAST = ("past_key_values", "cache")
_INNER = ("output_hidden_states", "output_attentions", *_PAST, "use_cache")
PLANS_KEPT, KINDS_KEPT = 256, 64
_BASE = "\0base"  # no name of a task


@dataclass(frozen=True)
class Ready:
    """
    What is known of a model and its tasks for one kind of inputs.

    Args:
        learned ([`Learned`]): How the model takes rows of several tasks.
        together (`Mapping[str, tuple]`):
            Tasks whose answers out of a shared pass were found to be right, and the shapes that the output of each has
            alone, of the same rows.
        reason (`str` or `None`): Why other tasks run by themselves.
    """

    learned: Learned
    together: Mapping[str, Shapes] = field(default_factory=dict)
    reason: str | None = None

    @cached_property
    def widths(self) -> dict[str, tuple[tuple[int, int, int], ...]]:
        """
        `dict[str, tuple]`: Leaves of a task's output that are narrower than those of the task with most classes: number
        of the leaf, dimension, size.
        """
        return widths_of(self.together, self.learned.output)


@dataclass(frozen=True)
class Tasks:
    """
    The tasks at one time; a change makes another, so that calls that run see what they began with.

    Args:
        models (`Mapping[str, TaskModel]`): By name.
        stack (`torch.nn.Module`): The model with forks in the place of its blocks and of heads.
        learned (`dict`): By kind of inputs, how this stack takes rows of several tasks; shared while the stack is.
        known (`Mapping`): By kind of inputs, what was found of these tasks before others came or went.
    """

    models: Mapping[str, TaskModel]
    stack: nn.Module
    learned: OrderedDict[tuple, Learned] = field(default_factory=OrderedDict)
    known: Mapping[tuple, Mapping[str, Shapes]] = field(default_factory=dict)
    ready: OrderedDict[tuple, Ready] = field(default_factory=OrderedDict)
    plans: OrderedDict[tuple, tuple[Plan, dict[str, Bound]]] = field(default_factory=OrderedDict)

    def changed(self, models: Mapping[str, TaskModel]) -> Tasks:
        """
        Other tasks on the same stack. Of what was found, it keeps what still holds, and nothing of tasks that go.

        Args:
            models (`Mapping[str, TaskModel]`): By name; those that stay are the same objects.
        """
        found = {**self.known, **{kind: ready.together for kind, ready in self.ready.items()}}
        stay = {task for task, model in models.items() if self.models.get(task) is model}
        known = {kind: {t: one for t, one in of_kind.items() if t in stay} for kind, of_kind in found.items()}
        return Tasks(models, self.stack, self.learned, known=known)


class Engine:
    """
    Runs batches.

    Args:
        bare (`torch.nn.Module`): The model without forks.
        blocks (`Sequence[str]`): Names of the blocks in forward order.
        max_lanes (`int` or `None`): Most batches' worth of rows that run through a module at once.
    """

    def __init__(self, bare: nn.Module, blocks: Sequence[str], max_lanes: int | None) -> None:
        self.bare, self.blocks, self.max_lanes = bare, tuple(blocks), max_lanes
        self.lock = threading.RLock()
        self._said: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.lock = threading.RLock()

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
        failure: Exception | None = None
        if _shares(now, requests) and not inner:
            kind, ready = self.ready(now, inputs)
            together = {task: rows for task, rows in requests.items() if task in ready.together}
            if _shares(now, together):
                try:
                    answers = self._stacked(now, kind, ready, inputs, size, together)
                except Exception as error:  # the model's own code may meet shapes that it did not in the check
                    failure = error
        for task, rows in requests.items():
            if task not in answers:  # an error in the inputs themselves shows here, as it does without this package
                own = with_own_past(inputs, size, rows, alone=len(requests) == 1)
                chosen, model = rows_of(own, size, rows), now.models[task].model
                answers[task] = model(**(chosen if inner else without_cache(model, chosen)))
        if failure is not None:
            self._gave_up(now, kind, failure)
        return {task: answers[task] for task in requests}

    def _gave_up(self, now: Tasks, kind: tuple, failure: Exception) -> None:
        """Tasks had to run one by one, and each of them could."""
        self._say(f"{type(self.bare).__name__} answered its tasks one by one: {told(failure)}.")
        if not isinstance(failure, (CannotStack, torch.OutOfMemoryError)) and kind in now.ready:
            now.ready[kind] = Ready(now.ready[kind].learned, reason=told(failure))

    def _stacked(
        self, now: Tasks, kind: tuple, ready: Ready, inputs: Inputs, size: int, requests: Requests
    ) -> dict[str, Any]:
        plan, steps = self.bound(now, kind, ready.learned, size, requests)
        fed = without_cache(self.bare, rows_of(inputs, size, plan.fed))
        with during(Stacked(steps, ready.learned.shapes)):
            output = now.stack(**fed)
        answers = split(output, plan, ready.learned.output)
        return {task: narrowed(answer, ready.widths.get(task, ())) for task, answer in answers.items()}

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
            return fork_of(now.stack, name).base_layer if owner is None else now.models[owner].own[name]

        with torch.inference_mode(False):  # its numbers of rows serve calls with gradients too
            found = plan, bind(plan, self.blocks, learned.stem, module_of, device_of(self.bare), most)
        with self.lock:
            keep(now.plans, key, found, PLANS_KEPT)
        return found

    def plan(self, now: Tasks, learned: Learned | None, size: int, requests: Requests) -> Plan:
        """The plan of a pass that some tasks share; without what was learned, blocks count alike."""
        place = {name: number for number, name in enumerate(self.blocks)}
        owners = {task: {place[name]: task for name in now.models[task].own if name in place} for task in requests}
        heads: dict[str, dict[str, str]] = {}
        siamese: dict[str, list[str]] = {}
        for task in requests:
            if (head := now.models[task].siamese) is not None:
                siamese.setdefault(head, []).append(task)
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
            siamese=siamese,
            names=self.blocks,
            shares=learned.shares if learned is not None else (),
        )

    def fixed(self, now: Tasks, inputs: Inputs, size: int, requests: Requests) -> FixedTasks:
        """
        The answers to some requests as a module that decides nothing when it is called.

        Raises: [`MultiTaskError`]: If the tasks cannot run together.
        """
        kind, ready = self.ready(now, inputs)
        apart = [task for task in requests if task not in ready.together]
        if apart:
            raise MultiTaskError(
                f"Tasks {', '.join(apart)} cannot run in one pass with the others: {ready.reason}. Export each from "
                "`task_model(task)`."
            )
        plan, steps = self.bound(now, kind, ready.learned, size, requests)
        stack = structure_copy(now.stack)
        for name, fork in [(n, m) for n, m in stack.named_modules() if isinstance(m, Fork)]:
            step = steps.get(name)
            if step is None or step.plain:
                put(stack, name, fork.base_layer)
            else:
                put(stack, name, FixedFork(step, ready.learned.shapes[name], fork.base_layer))
        return FixedTasks(stack, plan, size, ready.learned.output, ready.widths)

    # --- learning -----------------------------------------------------------------------------
    def ready(self, now: Tasks, inputs: Inputs) -> tuple[tuple, Ready]:
        """What is known for inputs of a kind, with all tasks compared, and the key of the kind."""
        kind = (kind_of(inputs), device_of(self.bare), next(self.bare.parameters()).dtype)
        found = now.ready.get(kind)
        if found is not None:
            return kind, found
        with self.lock, torch.inference_mode(False), torch.no_grad():
            if kind not in now.ready:
                learned = now.learned.get(kind)
                if learned is None:
                    learned = learn(now.stack, self.bare, self.blocks, inputs)
                    keep(now.learned, kind, learned, KINDS_KEPT)
                ready = self.check(now, kind, learned)
                if ready.reason is not None and len(now.models) > 1:
                    apart = [task for task in now.models if task not in ready.together]
                    who = ", ".join(apart) if ready.together else "its tasks"
                    self._say(f"{type(self.bare).__name__} answers {who} one by one: {ready.reason}.")
                keep(now.ready, kind, ready, KINDS_KEPT)
            return kind, now.ready[kind]

    def check(self, now: Tasks, kind: tuple, learned: Learned) -> Ready:
        """
        Compare tasks with each alone; those that are wrong in a shared pass are left out of it.

        What was found of tasks before others came or went still holds.
        """
        if learned.tiled is None:
            return Ready(learned, reason=learned.reason)
        reasons: dict[str, str] = {}
        for task, model in now.models.items():
            early = next((name for name in model.own if name in learned.early), model.apart)
            if early is not None:
                reasons[task] = f"'{early}' of {task} is not the trunk's"
        known = now.known.get(kind, {})
        new = [task for task in now.models if task not in reasons and task not in known]
        with undisturbed(self.bare):
            found = self._right(now, kind, learned, new, list(known)[:1], reasons) if new else {}
        return Ready(learned, {**known, **found}, next(iter(reasons.values()), None))

    def _right(
        self, now: Tasks, kind: tuple, learned: Learned, tasks: Sequence[str], known: list[str], reasons: dict[str, str]
    ) -> dict[str, Shapes]:
        """Of some tasks, those that are right together and with known ones; why others are not goes into `reasons`."""
        try:
            return self._compare(now, kind, learned, [*known, *tasks])
        except Exception as error:
            failure = told(error)
        for task in tasks:  # who is it? Each with the base for company
            pair = Tasks({task: now.models[task], _BASE: TaskModel(self.bare, {})}, now.stack)
            try:
                self._compare(pair, kind, learned, list(pair.models))
            except Exception as error:
                reasons[task] = told(error)
        rest = [task for task in tasks if task not in reasons]
        try:
            return self._compare(now, kind, learned, [*known, *rest]) if rest else {}
        except Exception:
            reasons.update(dict.fromkeys(rest, failure))
            return {}

    def _compare(self, now: Tasks, kind: tuple, learned: Learned, tasks: Sequence[str]) -> dict[str, Shapes]:
        """
        Shapes of the outputs of some tasks alone.

        Raises: [`CannotStack`]: If an answer of a shared pass is wrong; any error of the model's code too.
        """
        probe = learned.probe
        alone = {task: now.models[task].model(**probe) for task in tasks}
        shapes = {task: tuple(output_shapes(output)) for task, output in alone.items()}
        stacked = self._stacked(now, kind, Ready(learned, shapes), probe, 3, dict.fromkeys(tasks, (0, 1, 2)))
        for task in tasks:
            compare(stacked[task], alone[task], allowed(now.models[task].model, probe, alone[task], learned.output))
        return shapes

    def _say(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            logger.warning(message)


def with_own_past(inputs: Inputs, size: int, rows: Sequence[int], alone: bool) -> Inputs:
    """
    Inputs with keys and values that the model may add to: each of several tasks goes on from the same past.

    Raises: [`MultiTaskError`]: Where some rows are asked for of a cache that cannot be cut.
    """
    name = next((name for name in _PAST if inputs.get(name) is not None), _PAST[0])
    past: Any = inputs.get(name)
    whole = tuple(rows) == tuple(range(size))
    if past is None or isinstance(past, tuple) or (alone and whole):
        return inputs
    past = copy.deepcopy(past)
    if not whole:
        if not hasattr(past, "batch_select_indices"):
            raise MultiTaskError(
                f"Some rows of `{name}` were asked for, but a {type(past).__name__} cannot be cut to them. "
                "Ask for all rows, or for these without a cache."
            )
        past.batch_select_indices(torch.tensor(list(rows)))
    return {**inputs, name: past}


def _shares(now: Tasks, requests: Requests) -> bool:
    """Whether a pass has something to share: a Siamese task alone shares the trunk with itself."""
    return len(requests) > 1 or any(now.models[task].siamese is not None for task in requests)


def keep(kept: OrderedDict, key: Any, value: Any, most: int) -> None:
    """Keep a value, and not more than so many."""
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > most:
        kept.popitem(last=False)


def fork_of(stack: nn.Module, name: str) -> Fork:
    """The fork at a place."""
    fork = stack.get_submodule(name)
    assert isinstance(fork, Fork)
    return fork


def widths_of(shapes: Mapping[str, Shapes], parts: Sequence[Part]) -> dict[str, tuple[tuple[int, int, int], ...]]:
    """
    Where answers out of a shared pass are wider than the task's own, since others have more classes.

    Args:
        shapes (`Mapping[str, tuple]`): Shapes of each task's output alone, for the same rows.
        parts (`Sequence[Part]`): How the output holds its rows.

    Returns: `dict[str, tuple]`: By task, number of a leaf, dimension and size.
    """
    found: dict[str, list[tuple[int, int, int]]] = {task: [] for task in shapes}
    for number, part in enumerate(parts):
        sizes = {task: of_task[number] for task, of_task in shapes.items()}
        for dim in range(min((len(size) for size in sizes.values() if size is not None), default=0)):
            most = max(size[dim] for size in sizes.values() if size is not None)
            for task, size in sizes.items():
                if dim != part.dim and size is not None and size[dim] < most:
                    found[task].append((number, dim, size[dim]))
    return {task: tuple(of_task) for task, of_task in found.items()}
