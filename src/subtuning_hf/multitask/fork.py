"""
A module of the trunk beside those that tasks have in its place, and how a call of the model runs through it.

In a call, rows lie stacked lane by lane between the blocks; each module of a block takes its rows out of the stack, and
out of side inputs such as masks, which the model makes from what it was fed. Knows modules, tensors and steps of a
plan; does not know adapters or outputs of models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from .rows import FED, STATE, Bound, Index, Part, Run, Shape

# On a CPU more rows at once win nothing from some number on, and then cost: the C library fetches the memory of each
# tensor beyond 32 MB anew from the system, page by page, and what one layer wrote has left the cache when the next
# reads it. Layers inside of a block are about four times as wide as what comes into it.
CPU_BYTES, CPU_ROWS = 4 * 2**20, 8


class CannotStack(Exception):
    """Rows of several tasks cannot run together through this model."""


class Call(Protocol):
    """What decides in a call how a fork runs."""

    def run(self, fork: Fork, args: tuple, kwargs: dict[str, Any]) -> Any:
        """In the place of the fork's forward."""


_CALL: ContextVar[Call | None] = ContextVar("subtuning_multitask_call", default=None)


class _InPlace(nn.Module):
    """Stands in the place of a module of the trunk, and passes for it where its attributes are read."""

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer

    def __getattr__(self, name: str) -> Any:
        # Models read attributes of their blocks (`layer.attention_type`, `classifier.weight`).
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer" or "_modules" not in self.__dict__:
                raise
            return getattr(self.base_layer, name)


class Fork(_InPlace):
    """
    A module of the trunk, and those that tasks have in its place. Outside of a call it is the former.

    Args:
        base_layer (`torch.nn.Module`): The frozen module.
        name (`str`): Its name in the model.
    """

    def __init__(self, base_layer: nn.Module, name: str) -> None:
        super().__init__(base_layer)
        self.own = nn.ModuleDict()
        self.place = name

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        call = _CALL.get()
        return self.base_layer(*args, **kwargs) if call is None else call.run(self, args, kwargs)


class during:
    """While the block of code runs, forks of this thread do what a call says."""

    def __init__(self, call: Call) -> None:
        self.call = call

    def __enter__(self) -> None:
        self.token = _CALL.set(self.call)

    def __exit__(self, *_exc: object) -> None:
        _CALL.reset(self.token)


@dataclass
class Stacked:
    """
    A call in which rows of several tasks run stacked.

    Args:
        steps (`Mapping[str, Bound]`): By the name of the fork; others run as they are.
        shapes (`Mapping[str, Shape]`): What is known of each.
    """

    steps: Mapping[str, Bound]
    shapes: Mapping[str, Shape]
    _taken: Taken = field(default_factory=dict)

    def run(self, fork: Fork, args: tuple, kwargs: dict[str, Any]) -> Any:
        """One module."""
        step = self.steps.get(fork.place)
        if step is None:
            return fork.base_layer(*args, **kwargs)
        step = fitting(step, self.shapes[fork.place], args, kwargs)
        if step.plain:
            return fork.base_layer(*args, **kwargs)
        return through(step, self.shapes[fork.place], args, kwargs, self._taken)


class FixedFork(_InPlace):
    """
    A step of one plan, for good: nothing is decided when it is called, so that it can be compiled and exported.

    Args:
        step ([`Bound`]): The step.
        shape ([`Shape`]): What is known of the place.
        base_layer (`torch.nn.Module`): The frozen module.
    """

    def __init__(self, step: Bound, shape: Shape, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.runs = nn.ModuleList([run.module for run in step.runs])
        self.step, self.shape = step, shape

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return through(self.step, self.shape, args, kwargs)


Taken = dict[tuple[int, int, int], tuple[Tensor, Tensor]]


def fitting(step: Bound, shape: Shape, args: tuple, kwargs: dict[str, Any]) -> Bound:
    """A step with as many rows at once as suit the device, given what the module is called with."""
    if all(run.state.count <= max(step.lane, CPU_ROWS) for run in step.runs):
        return step
    leaves = zip(pytree.tree_leaves((args, kwargs)), shape.args, strict=False)  # `through` says if they are others
    rows = [leaf for leaf, part in leaves if isinstance(leaf, Tensor) and part.dim is not None and part.source == STATE]
    if not rows or rows[0].device.type != "cpu":
        return step
    total = max(sum(leaf.nbytes for leaf in rows), 1)
    return step.cut(max(CPU_BYTES * step.runs[0].state.size // total, CPU_ROWS))


def through(step: Bound, shape: Shape, args: tuple, kwargs: dict[str, Any], taken: Taken | None = None) -> Any:
    """
    Rows through the modules of a step.

    Args:
        step ([`Bound`]): The step.
        shape ([`Shape`]): How arguments and output of the place hold their rows.
        args, kwargs: Of the call.
        taken (`dict`, *optional*): Rows of side inputs that were taken already in this call of the model.

    Raises: [`CannotStack`]: If arguments or outputs are not as they were learned.
    """
    leaves, spec = pytree.tree_flatten((args, kwargs))
    if len(leaves) != len(shape.args):
        raise CannotStack("a block is called with other arguments than before")
    first, outputs = step.runs[0], []
    parts = [
        _source(leaf, part, first.state.size, first.fed.size) for leaf, part in zip(leaves, shape.args, strict=True)
    ]
    for run in step.runs:
        chosen = [_take(leaf, part, run, taken) for leaf, part in zip(leaves, parts, strict=True)]
        own_args, own_kwargs = pytree.tree_unflatten(chosen, spec)
        outputs.append(run.module(*own_args, **own_kwargs))
    same = all(run.module is first.module for run in step.runs)
    return join(outputs, [run.state.count for run in step.runs], shape.output, step.order, same)


def _take(leaf: Any, part: Part | None, run: Run, taken: Taken | None) -> Any:
    if part is None or part.dim is None:
        return leaf
    if part.source == STATE:
        rows = run.state.of(leaf, part.dim)
        return rows if run.beside is None else torch.cat([run.beside.of(leaf, part.dim), rows], -1)
    if taken is None:
        return run.fed.of(leaf, part.dim)
    key = (id(leaf), id(run.fed), part.dim)  # a mask comes to every block, and its rows are taken once
    if key not in taken:
        taken[key] = leaf, run.fed.of(leaf, part.dim)
    return taken[key][1]


def _source(leaf: Any, part: Part, state: int, fed: int) -> Part | None:
    """Where the rows of an argument come from; `None` if it has none."""
    if not isinstance(leaf, Tensor) or not leaf.ndim:
        return None
    if part.dim is None:  # without rows when it was learned, or not there: it may have been given some since
        part = given_rows(leaf, part, state, fed)
        return None if part.dim is None else part
    size = leaf.shape[part.dim]
    if size == (state if part.source == STATE else fed):
        return part
    if size == 1:
        return None
    raise CannotStack(f"an argument of a block has {size} rows where {state} or {fed} were expected")


def given_rows(leaf: Tensor, part: Part, state: int, fed: int) -> Part:
    """
    What a leaf is that had no rows when it was learned: of rows if it has as many now.

    One that was not there, such as a mask of rows that are not padded, is made from what the model was fed; one with a
    first dimension of 1 comes out of a block that gave different tasks different ones. Others, such as a mask for all
    rows, have no rows whatever their size.
    """
    first = leaf.shape[0]
    if first == 1:
        return part
    if part.size == 1:
        return Part(0, source=STATE) if first == state else part
    if not part.size and first in (state, fed):
        return Part(0, source=FED if first == fed else STATE)
    return part


def join(outputs: Sequence[Any], counts: Sequence[int], parts: Sequence[Part], order: Index, same: bool) -> Any:
    """
    Outputs of several modules as one.

    Args:
        outputs (`Sequence[Any]`): Of the same structure.
        counts (`Sequence[int]`): Rows in each.
        parts (`Sequence[Part]`): How they hold their rows.
        order ([`Index`]): The rows of all that are wanted.
        same (`bool`): Whether one module returned them all.
    """
    flat = [pytree.tree_flatten(output) for output in outputs]
    leaves, spec = [one[0] for one in flat], flat[0][1]
    if any(len(one) != len(parts) for one in leaves):
        raise CannotStack("modules of one block return different structures")
    joined = [_join([one[i] for one in leaves], counts, part, order, same) for i, part in enumerate(parts)]
    return pytree.tree_unflatten(joined, spec)


def _join(values: list[Any], counts: Sequence[int], part: Part, order: Index, same: bool) -> Any:
    if not isinstance(values[0], Tensor) or not values[0].ndim:
        return values[0]
    dim = part.dim
    if dim is None:
        # Where every part is of one row, 1 may be the number of rows.
        told = part.size > 1 or len(values) == 1 or max(counts) > 1
        if same and told and all(value.shape[0] in (part.size, 1) for value in values):
            return values[0]
        # The same for all rows of one module, but perhaps not of another, such as T5's position biases.
        dim = 0
    grown = []
    for value, count in zip(values, counts, strict=True):
        if value.shape[dim] == 1 and count > 1:
            value = value.expand(*value.shape[:dim], count, *value.shape[dim + 1 :])
        if value.shape[dim] != count:
            raise CannotStack(f"a module returned {tuple(value.shape)} for {count} rows")
        grown.append(value)
    whole = grown[0] if len(grown) == 1 else torch.cat(same_width(grown, dim), dim)
    return order.of(whole, dim)


def same_width(values: Sequence[Tensor], rows: int) -> list[Tensor]:
    """Outputs of heads with different class counts: -inf is what softmax and argmax take for "no such class"."""
    shapes = [value.shape for value in values]
    if len({len(shape) for shape in shapes}) > 1:
        raise CannotStack("modules of one place return tensors of different kinds")
    most = [max(shape[d] for shape in shapes) for d in range(len(shapes[0]))]
    padded = []
    for value in values:
        pads = [0 if d == rows else most[d] - value.shape[d] for d in range(value.ndim)]
        if any(pads):
            pairs = [n for pad in reversed(pads) for n in (0, pad)]
            value = nn.functional.pad(value, pairs, value=float("-inf"))
        padded.append(value)
    return padded
