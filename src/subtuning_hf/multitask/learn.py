"""
How a model takes rows of several tasks at once, found out by trying.

Three ways, the first that gives the right answers is taken: the model is fed each row once and the stack of rows grows
inside; the model is fed one row for each answer, of which shared parts run once; or, where neither holds (dense
connections), each task runs alone. Knows the model and its forks; does not know adapters.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import MultiTaskError, PrefixCacheError
from ..prefix.anatomy import Anatomy, examine, tower_ends
from ..prefix.capture import device_of, undisturbed, without_cache
from ..prefix.check import deviation, tolerance
from .fork import FED, STATE, Bound, CannotStack, Fork, Part, Shape, Stacked, Watch, during, given_rows, learn_parts
from .plan import Plan, Step, Take, make_plan

Inputs = dict[str, Any]


@dataclass(frozen=True)
class Learned:
    """
    What is known of a model for one kind of inputs.

    Args:
        tiled (`bool` or `None`): Whether it is fed one row for each answer; `None` if tasks must run alone.
        reason (`str` or `None`): Why they must.
        shapes (`Mapping[str, Shape]`): Of every fork.
        output (`tuple[Part, ...]`): How the model's output holds its rows.
        shares (`tuple[float, ...]`): Share of each block in the arithmetic of a pass.
        early (`frozenset[str]`): Modules outside of blocks that run before the last block.
        stem (`tuple[str, ...]`): Of these, forks that run once for each row where the model is fed one for each answer.
        probe (`Inputs`): Three rows that differ, as the model takes them.
    """

    tiled: bool | None
    reason: str | None
    shapes: Mapping[str, Shape]
    output: tuple[Part, ...]
    shares: tuple[float, ...]
    early: frozenset[str]
    stem: tuple[str, ...]
    probe: Inputs


# --- inputs ----------------------------------------------------------------------------------
def named(model: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> Inputs:
    """Arguments of a call by their names in the model's `forward`."""
    names = list(inspect.signature(model.forward).parameters)[: len(args)]
    if len(names) < len(args) or set(names) & kwargs.keys():
        raise MultiTaskError(f"Expected the inputs of {type(model).__name__}, found {len(args)} without a name.")
    return {**dict(zip(names, args, strict=True)), **kwargs}


def count_rows(inputs: Mapping[str, Any]) -> int:
    """Number of rows: the first dimension of the first tensor."""
    for value in inputs.values():
        if isinstance(value, Tensor) and value.ndim:
            return value.shape[0]
    raise MultiTaskError("Expected at least one tensor with a row for each example among the inputs, found none.")


def rows_of(inputs: Mapping[str, Any], size: int, take: Take | Sequence[int]) -> Inputs:
    """Some rows of the inputs; tensors without rows stay as they are."""
    take = take if isinstance(take, Take) else Take(tuple(take), size)
    if take.all:
        return dict(inputs)
    return {name: _taken(value, size, take) for name, value in inputs.items()}


def _taken(value: Any, size: int, take: Take) -> Any:
    if not isinstance(value, Tensor) or not value.ndim or value.shape[0] != size:
        return value
    if take.span is not None:
        return value[slice(*take.span)]
    return value.index_select(0, torch.tensor(take.rows, device=value.device))


def kind_of(inputs: Mapping[str, Any]) -> tuple:
    """What two batches must have in common for what is learned of one to hold for the other."""
    return tuple(
        (name, value.ndim, value.dtype) if isinstance(value, Tensor) else (name, repr(value))
        for name, value in sorted(inputs.items())
    )


def probe_of(inputs: Mapping[str, Any], size: int) -> Inputs:
    """Three rows that differ: of a smaller batch, some are turned along their last dimension."""
    chosen = rows_of(inputs, size, [n % size for n in range(3)])
    for name, value in chosen.items():
        if isinstance(value, Tensor) and value.ndim > 1 and value.shape[0] == 3 and inputs[name].shape[0] == size:
            turned = [value[n].roll(n // size, -1) for n in range(3)]
            chosen[name] = torch.stack(turned)
    return chosen


# --- learning --------------------------------------------------------------------------------
def learn(stack: nn.Module, bare: nn.Module, blocks: Sequence[str], inputs: Mapping[str, Any]) -> Learned:
    """
    Find out how a model can answer several tasks at once.

    Args:
        stack (`torch.nn.Module`): With forks in the place of its blocks.
        bare (`torch.nn.Module`): The same without.
        blocks (`Sequence[str]`): Names of the blocks in forward order.
        inputs (`Mapping[str, Any]`): A batch.

    Returns: [`Learned`]
    """
    probe = without_cache(bare, probe_of(inputs, count_rows(inputs)))
    with undisturbed(bare):
        try:
            anatomy = examine(bare, blocks, lambda: bare(**probe))
        except PrefixCacheError as error:
            return Learned(None, str(error).rstrip("."), {}, (), (), frozenset(), (), probe)
        before = (name for name in anatomy.positions if anatomy.positions[name] < len(blocks))
        early = frozenset(name for name in before if not any(f"{name}.".startswith(f"{b}.") for b in blocks))
        known = Learned(None, None, {}, (), anatomy.shares, early, (), probe)
        return _first_way(stack, bare, blocks, anatomy, known)


def _first_way(stack: nn.Module, bare: nn.Module, blocks: Sequence[str], anatomy: Anatomy, known: Learned) -> Learned:
    ways: list[Callable[[], Learned]] = [
        partial(_try, stack, bare, blocks, known, tiled=False),
        partial(_try_with_stem, stack, bare, blocks, anatomy, known),
        partial(_try, stack, bare, blocks, known, tiled=True),
    ]
    reason = ""
    for way in ways:
        try:
            return way()
        except CannotStack as error:
            reason = str(error)
        except (
            RuntimeError,
            ValueError,
            IndexError,
            TypeError,
        ) as error:  # the model's own code meets shapes it cannot take
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return replace(known, reason=reason)


def _try_with_stem(
    stack: nn.Module, bare: nn.Module, blocks: Sequence[str], anatomy: Anatomy, known: Learned
) -> Learned:
    """Fed one row for each answer, with what runs before the first block run once for each row."""
    names = [name for name in anatomy.stem(1) if not _is_fork(stack, name)]
    for name in names:
        put(stack, name, Fork(stack.get_submodule(name), name))
    try:
        learned = _try(stack, bare, blocks, known, tiled=True, stem=names)
    except BaseException:
        for name in names:
            _take_out(stack, name)
        raise
    return learned


def _try(
    stack: nn.Module, bare: nn.Module, blocks: Sequence[str], known: Learned, *, tiled: bool, stem: Sequence[str] = ()
) -> Learned:
    """
    Answer three tasks that are all the base, of which one leaves the trunk at the first block.

    Raises: [`CannotStack`]: If an answer is wrong.
    """
    shapes, output = _watch(stack, known.probe)
    owners: dict[str, dict[int, str]] = {"a": {}, "b": {}, "c": {0: "c"}}
    requests = dict.fromkeys(owners, (0, 1, 2))
    plan = make_plan(len(blocks), owners, requests, 3, tiled=tiled, ends=tower_ends(bare, blocks))
    modules: Any = {name: stack.get_submodule(name) for name in (*blocks, *stem)}
    steps = bind(plan, blocks, stem, lambda name, owner: modules[name].base_layer, device_of(bare), None)
    call = _Sources(steps, shapes)
    with during(call):
        stacked = stack(**rows_of(known.probe, 3, plan.fed))
    reference = bare(**known.probe)
    for answer in split(stacked, plan, output).values():
        compare(answer, reference, allowed(bare, known.probe, reference, output))
    found = {**shapes, **{name: replace(shapes[name], args=tuple(parts)) for name, parts in call.found.items()}}
    return replace(known, tiled=tiled, shapes=found, output=output, stem=tuple(stem))


def _watch(stack: nn.Module, probe: Inputs) -> tuple[dict[str, Shape], tuple[Part, ...]]:
    seen, outputs = [], []
    for count in (2, 3):
        watch = Watch()
        with during(watch):
            output = stack(**rows_of(probe, 3, [0] * count))
        seen.append(watch.seen)
        leaves = pytree.tree_flatten(output)[0]
        outputs.append([leaf.shape if isinstance(leaf, Tensor) else None for leaf in leaves])
    two, three = seen
    if two.keys() != three.keys():
        raise CannotStack("which modules run depends on the number of rows")
    shapes = {
        name: Shape(learn_parts(two[name][0], three[name][0]), learn_parts(two[name][1], three[name][1]))
        for name in two
    }
    return shapes, learn_parts(*outputs)


class _Sources(Stacked):
    """A call that finds out which arguments are rows of the stack, by their number."""

    def __init__(self, steps: Mapping[str, Bound], shapes: Mapping[str, Shape]) -> None:
        super().__init__(steps, shapes)
        self.found: dict[str, list[Part]] = {}

    def run(self, fork: Fork, args: tuple, kwargs: dict[str, Any]) -> Any:
        step, known = self.steps.get(fork.place), self.shapes[fork.place]
        if step is not None:
            leaves = pytree.tree_flatten((args, kwargs))[0]
            state, fed = step.runs[0].state.size, step.runs[0].fed.size
            parts = [_with_source(leaf, part, state, fed) for leaf, part in zip(leaves, known.args, strict=True)]
            self.found[fork.place] = parts
            self.shapes = {**self.shapes, fork.place: replace(known, args=tuple(parts))}
        return super().run(fork, args, kwargs)


def _with_source(leaf: Any, part: Part, state: int, fed: int) -> Part:
    if not isinstance(leaf, Tensor) or not leaf.ndim:
        return part
    if part.dim is None:
        return given_rows(leaf, part, state, fed)
    return replace(part, source=STATE if leaf.shape[part.dim] == state else FED)


# --- shared with real calls ------------------------------------------------------------------
def bind(
    plan: Plan,
    blocks: Sequence[str],
    stem: Sequence[str],
    module_of: Callable[[str, str | None], nn.Module],
    device: torch.device,
    most: int | None,
) -> dict[str, Bound]:
    """
    The steps of a plan by the name of the fork that takes them.

    Args:
        plan ([`Plan`]): For a batch.
        blocks (`Sequence[str]`): Names of the blocks.
        stem (`Sequence[str]`): Modules ahead of them that run once for each row of the batch.
        module_of (`Callable`): Name of a fork and an owner to the module.
        device (`torch.device`): Of the rows.
        most (`int` or `None`): Most rows that run through a module at once.
    """
    steps = dict(zip(blocks, plan.steps, strict=True)) | dict(plan.heads)
    steps |= dict.fromkeys(stem, plan.stem)
    return {name: _bind(name, step, module_of, device, most) for name, step in steps.items()}


def _bind(
    name: str, step: Step, module_of: Callable[[str, str | None], nn.Module], device: torch.device, most: int | None
) -> Bound:
    return Bound.of(step, {group.owner: module_of(name, group.owner) for group in step.groups}, device, most)


def split(output: Any, plan: Plan, parts: Sequence[Part]) -> dict[str, Any]:
    """
    The output of a stacked call by task.

    Raises: [`CannotStack`]: If it does not hold one row for each answer.
    """
    leaves, spec = pytree.tree_flatten(output)
    if len(leaves) != len(parts):
        raise CannotStack("the output has other values than that of one task")
    answers, start = {}, 0
    for task, rows in plan.requests:
        taken = []
        for leaf, part in zip(leaves, parts, strict=True):
            if isinstance(leaf, Tensor) and part.dim is not None:
                if leaf.ndim <= part.dim or leaf.shape[part.dim] != plan.num_answers:
                    raise CannotStack(
                        f"the output has a value of shape {tuple(leaf.shape)} for {plan.num_answers} answers"
                    )
                leaf = leaf.narrow(part.dim, start, len(rows))
            taken.append(leaf)
        answers[task] = pytree.tree_unflatten(taken, spec)
        start += len(rows)
    return answers


def compare(found: Any, wanted: Any, most: float) -> float:
    """
    The greatest relative difference of two outputs.

    Raises: [`CannotStack`]: If they differ in structure, or by more than allowed.
    """
    left, right = pytree.tree_flatten(found)[0], pytree.tree_flatten(wanted)[0]
    if len(left) != len(right):
        raise CannotStack("the output has other values than that of one task")
    worst = 0.0
    for ours, theirs in zip(left, right, strict=True):
        if isinstance(theirs, Tensor):
            worst = max(worst, deviation(theirs, ours))
            if not worst <= most:
                raise CannotStack(f"answers are off by {worst:.1e} of their greatest value")
    return worst


def allowed(model: nn.Module, probe: Inputs, reference: Any, parts: Sequence[Part]) -> float:
    """What rounding may change: a constant, or more where rows alone differ more from those in a batch."""
    least, own = tolerance(model, device_of(model)), 0.0
    together = pytree.tree_flatten(reference)[0]
    for row in range(3):
        alone = pytree.tree_flatten(model(**rows_of(probe, 3, [row])))[0]
        for one, whole, part in zip(alone, together, parts, strict=True):
            if isinstance(one, Tensor) and part.dim is not None:
                own = max(own, deviation(whole.narrow(part.dim, row, 1), one))
    return max(least, min(4 * own, 100 * least))


# --- the tree of modules ---------------------------------------------------------------------
def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of another."""
    parent, _, child = name.rpartition(".")
    model.get_submodule(parent)._modules[child] = module


def _take_out(model: nn.Module, name: str) -> None:
    fork = model.get_submodule(name)
    assert isinstance(fork, Fork)
    put(model, name, fork.base_layer)


def _is_fork(model: nn.Module, name: str) -> bool:
    return isinstance(model.get_submodule(name), Fork)
