"""
`MultiTaskModel`: many tasks on one trunk, each answered as its adapter would alone.

Knows adapters, plans and forks; does not know data, servers or how adapters were trained.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ..blocks import resolve_blocks
from ..errors import MultiTaskError
from ..prefix.capture import device_of, without_cache
from .adapters import TaskModel, block_names, config_at, lifted, load_base, load_task, structure_copy
from .engine import Engine, Ready, Tasks
from .fixed import FixedTasks
from .fork import Fork
from .learn import Inputs, compare, count_rows, named, put
from .plan import Plan
from .requests import requests_of

_LABELS = ("labels", "label", "start_positions", "end_positions")


class MultiTaskModel(nn.Module):
    """
    A base model with the adapters of several tasks, which are answered together.

    Tasks share the frozen blocks ahead of their first tuned one, and each frozen block behind it runs once on the rows
    of all of them. The frozen features that Siamese adapters take are computed once for all. The first call with inputs
    of a new kind finds out how the model can be run so and compares the answers with those of each adapter alone; where
    they differ, tasks run one by one, and a warning says why.

    Args:
        base (`torch.nn.Module`): The base model, without adapters. It is not changed, but its weights are shared, and
            frozen.
        blocks (`Sequence[str]`, *optional*): Names of its blocks in forward order; by default those that are found.
        base_task (`str`, *optional*): Name under which the base's own task is answered.
        max_lanes (`int`, *optional*): Most batches' worth of rows that run through a block at once, to bound memory.

    Example:

    ```python
    tasks = MultiTaskModel.from_adapters(base, {"flowers": "user/a", "pets": "user/b"})
    logits = tasks(pixel_values=x)["flowers"].logits
    ```
    """

    bare: nn.Module
    engine: Engine
    _tasks: Tasks
    _held: list[dict[str, nn.Parameter | None]]
    stack: nn.Module
    apart: nn.ModuleDict

    def __init__(
        self,
        base: nn.Module,
        blocks: Sequence[str] | None = None,
        base_task: str | None = None,
        max_lanes: int | None = None,
    ) -> None:
        super().__init__()
        if hasattr(base, "peft_config"):
            raise MultiTaskError("Expected a base model without adapters. Take them out first (`unload()`).")
        if max_lanes is not None and max_lanes < 1:
            raise MultiTaskError(f"Expected at least 1 for `max_lanes`, found {max_lanes}.")
        self.blocks = tuple(resolve_blocks(base, list(blocks))) if blocks is not None else block_names(base, ())
        if not self.blocks:
            raise MultiTaskError("Expected at least one block, found none in `blocks`.")
        bare = structure_copy(base).requires_grad_(False).eval()
        # Not submodules: they hold the same tensors.
        self.__dict__["bare"] = bare
        self.__dict__["engine"] = Engine(bare, self.blocks, max_lanes)
        self.apart = nn.ModuleDict()
        self._set({base_task: TaskModel(bare, {})} if base_task is not None else {})

    @classmethod
    def from_adapters(
        cls,
        base: nn.Module | str | os.PathLike,
        adapters: Mapping[str, str | os.PathLike],
        *,
        blocks: Sequence[str] | None = None,
        base_task: str | None = None,
        max_lanes: int | None = None,
        **kwargs: Any,
    ) -> MultiTaskModel:
        """
        Load adapters onto one base.

        Args:
            base (`torch.nn.Module`, `str` or `os.PathLike`):
                The base model, or its folder or Hub name; it is then loaded as the class that the first adapter names.
            adapters (`Mapping[str, str | os.PathLike]`): Name of each task to its adapter, SubTuning or LoRA: a
                folder, a Hub name, or `user/adapter@revision` for a branch, tag or commit.
            blocks (`Sequence[str]`, *optional*), base_task (`str`, *optional*), max_lanes (`int`, *optional*):
                See [`MultiTaskModel`].
            kwargs: For the base's `from_pretrained`, such as `dtype` or `revision`.

        Raises: [`MultiTaskError`]: If an adapter is of another kind. One for another base has an error of its own.
        """
        if not isinstance(base, nn.Module):
            if not adapters:
                raise MultiTaskError("Expected at least one adapter, which says what class of model the base is.")
            base = load_base(str(base), config_at(next(iter(adapters.values()))), **kwargs)
        elif kwargs:
            raise MultiTaskError(f"{', '.join(kwargs)} mean something only where `base` is a name to load from.")
        model = cls(base, blocks if blocks is not None else block_names(base, adapters.values()), base_task, max_lanes)
        for task, adapter in adapters.items():
            model.add_task(task, adapter)
        return model

    # --- tasks --------------------------------------------------------------------------------
    @property
    def tasks(self) -> tuple[str, ...]:
        """`tuple[str, ...]`: Names of the tasks."""
        return tuple(self._tasks.models)

    def add_task(self, task: str, adapter: str | os.PathLike, **kwargs: Any) -> None:
        """
        Add a task; calls that are running are not disturbed, and the trunk is not copied.

        Args:
            task (`str`): Its name.
            adapter (`str` or `os.PathLike`): Folder or Hub name of its adapter, with `@revision` if need be.
            kwargs: For `PeftModel.from_pretrained`, such as `revision`.

        Raises: [`MultiTaskError`]: If there is a task of this name.
        """
        if not isinstance(task, str) or not task:
            raise MultiTaskError(f"Expected a name for the task, found {task!r}.")
        self._refuse_taken(task)
        found = load_task(self.bare, self.blocks, adapter, **kwargs)
        device = device_of(self.bare)
        for module in found.own.values():
            module.to(device)
        with self.engine.lock:
            self._refuse_taken(task)
            self._set({**self._tasks.models, task: found})

    def remove_task(self, task: str) -> None:
        """
        Remove a task; calls that are running still answer it.

        Args:
            task (`str`): Its name.
        """
        with self.engine.lock:
            self._model_of(task)
            self._set({name: one for name, one in self._tasks.models.items() if name != task})

    def _refuse_taken(self, task: str) -> None:
        if task in self._tasks.models:
            raise MultiTaskError(f"There is a task '{task}' already. Remove it first, or choose another name.")

    def _set(self, models: Mapping[str, TaskModel]) -> None:
        """Make these the tasks, with a fork at every place of which one has a module of its own."""
        models = lifted(models, self.blocks)
        places = {*self.blocks, *(name for model in models.values() for name in model.own)}
        now: Tasks | None = self.__dict__.get("_tasks")
        if now is not None and places <= {fork.place for fork in _forks(now.stack)}:
            now = now.changed(models)
        else:
            now = Tasks(models, structure_copy(self.bare))
            for name in places:
                put(now.stack, name, Fork(now.stack.get_submodule(name), name))
        for fork in _forks(now.stack):
            fork.own = nn.ModuleDict(
                {_key(task): one.own[fork.place] for task, one in models.items() if fork.place in one.own}
            )
        self.stack = now.stack
        self.apart = nn.ModuleDict({_key(task): one.model for task, one in models.items() if one.apart is not None})
        # Walking through all modules takes longer than a small model does.
        self.__dict__["_held"] = [module._parameters for module in self.modules() if module._parameters]
        self.__dict__["_tasks"] = now

    def task_model(self, task: str) -> nn.Module:
        """
        The model that answers one task alone; it shares all that is not the task's own.

        Args:
            task (`str`): Its name.
        """
        return self._model_of(task).model

    def config_of(self, task: str) -> Any:
        """The configuration of a task, with its `num_labels` and `id2label`; `None` where models have none."""
        return getattr(self._model_of(task).model, "config", None)

    def own_modules(self, task: str) -> dict[str, nn.Module]:
        """Modules that a task has in the place of the base's, by name: its tuned blocks and its head."""
        return dict(self._model_of(task).own)

    def _model_of(self, task: str) -> TaskModel:
        if task not in self._tasks.models:
            raise MultiTaskError(f"Expected a task among {', '.join(self.tasks) or 'none'}, found '{task}'.")
        return self._tasks.models[task]

    # --- answering ----------------------------------------------------------------------------
    def forward(
        self,
        *args: Any,
        tasks: Sequence[str] | None = None,
        rows: Mapping[str, Sequence[int]] | Sequence[str | Iterable[str]] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """
        Answer tasks.

        Args:
            args, kwargs: Inputs of the base model, tensors of shape `(batch, ...)`.
            tasks (`Sequence[str]`, *optional*): Which; by default all, for every row.
            rows (`Mapping[str, Sequence[int]]` or `Sequence[str | Iterable[str]]`, *optional*):
                Rows of the batch that each task answers, or for each row its task or tasks.

        Returns: `dict[str, Any]`:
            By task, what the adapter returns alone, for its rows in the order asked for.
        Raises: [`MultiTaskError`]: If tasks, rows or inputs cannot be answered.
        """
        inputs = named(self.bare, args, kwargs)
        if given := [name for name in _LABELS if inputs.get(name) is not None]:
            raise MultiTaskError(
                f"Tasks have labels of their own: take '{given[0]}' out, and the loss from the logits."
            )
        now, size = self._tasks, count_rows(self.bare, inputs)
        requests = requests_of(now.models, tasks, rows, size)
        with nullcontext() if torch.is_grad_enabled() and self._wants_grads(inputs) else torch.inference_mode():
            return self.engine.answer(now, inputs, size, requests)

    def _wants_grads(self, inputs: Inputs) -> bool:
        given = (one for one in pytree.tree_leaves(inputs) if isinstance(one, torch.Tensor))
        held = (one for parameters in self._held for one in parameters.values() if one is not None)
        return any(one.requires_grad for group in (given, held) for one in group)

    def fixed(self, *args: Any, tasks: Sequence[str] | None = None, **kwargs: Any) -> FixedTasks:
        """
        A module that answers the same tasks for every batch of one size, for `torch.compile` and `torch.export`.

        Args:
            args, kwargs: A batch as it will come: its number of rows is fixed.
            tasks (`Sequence[str]`, *optional*): Which; by default all there are now.

        Returns: [`FixedTasks`]: It takes inputs by name and shares all weights.
        Raises: [`MultiTaskError`]: If the tasks cannot run together.
        """
        inputs, now = named(self.bare, args, kwargs), self._tasks
        size = count_rows(self.bare, inputs)
        return self.engine.fixed(now, inputs, size, requests_of(now.models, tasks, None, size))

    def train(self, mode: bool = True) -> MultiTaskModel:
        """Everything stays in eval mode: what is shared must not depend on who else is answered."""
        return super().train(False)

    # --- looking ------------------------------------------------------------------------------
    def plan(
        self,
        tasks: Sequence[str] | None = None,
        rows: Mapping[str, Sequence[int]] | Sequence[str | Iterable[str]] | None = None,
        batch_size: int = 1,
    ) -> Plan:
        """
        How a batch is answered: which block runs on how many rows. Print it.

        Args:
            tasks (`Sequence[str]`, *optional*), rows (*optional*): As for a call.
            batch_size (`int`, *optional*, defaults to 1): Rows of the batch.

        Returns: [`Plan`]: Its shares of arithmetic are known after the first call; before, blocks count alike.
        """
        ready, now = self._last(), self._tasks
        requests = requests_of(now.models, tasks, rows, batch_size)
        if ready is None:
            return self.engine.plan(now, None, batch_size, requests)
        together = {task: of_task for task, of_task in requests.items() if task in ready.together}
        apart = tuple((task, of_task) for task, of_task in requests.items() if task not in ready.together)
        return replace(self.engine.plan(now, ready.learned, batch_size, together), apart=apart)

    def check(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """
        Compare the answers for a batch with those of each adapter alone, and learn how to answer batches of its kind.

        Args:
            args, kwargs: Inputs of the base model.

        Returns: `dict[str, float]`:
            By task, the greatest difference relative to the greatest value; 0 for a task that runs by itself.
        """
        inputs, now = named(self.bare, args, kwargs), self._tasks
        requests = requests_of(now.models, None, None, count_rows(self.bare, inputs))
        with torch.inference_mode():
            answers = self.engine.answer(now, inputs, count_rows(self.bare, inputs), requests)
            return {
                task: compare(answer, now.models[task].model(**without_cache(self.bare, inputs)), math.inf)
                for task, answer in answers.items()
            }

    @property
    def way(self) -> str:
        """
        `str`: How the last new kind of inputs is answered: `"once"` if the model is fed each row once, `"tiled"` if one
        row for each answer, `"alone"` if all tasks run one by one; `"unknown"` before the first call.
        """
        ready = self._last()
        if ready is None:
            return "unknown"
        return "alone" if not ready.together else "tiled" if ready.learned.tiled else "once"

    def _last(self) -> Ready | None:
        return next(reversed(self._tasks.ready.values()), None)


def _forks(stack: nn.Module) -> list[Fork]:
    return [module for module in stack.modules() if isinstance(module, Fork)]


def _key(task: str) -> str:
    """A name as a `ModuleDict` takes it."""
    return "task_" + task.replace("%", "%25").replace(".", "%2E")
