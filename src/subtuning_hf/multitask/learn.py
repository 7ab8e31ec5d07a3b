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
from ..prefix.check import allowance, deviation, tolerance
from .adapters import structure_copy
from .fork import CannotStack, Fork, Stacked, during, given_rows
from .plan import FROZEN, Plan, Step, Take, make_plan
from .rows import FED, STATE, Bound, Index, Part, Shape
from .watch import Watch, learn_parts, output_shapes

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
_ROWS = ("input_ids", "pixel_values", "inputs_embeds", "input_features", "input_values", "x", "input")
_ONE_BY_ONE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def named(model: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> Inputs:
    """Arguments of a call by their names in the model's `forward`."""
    parameters = inspect.signature(model.forward).parameters.values()
    names = [one.name for one in parameters if one.kind in _ONE_BY_ONE][: len(args)]
    if len(names) < len(args) or set(names) & kwargs.keys():
        raise MultiTaskError(
            f"Expected the inputs of {type(model).__name__} by name, found {len(args)} without a name. It takes "
            f"{', '.join(one.name for one in parameters)}."
        )
    return {**dict(zip(names, args, strict=True)), **kwargs}


def count_rows(model: nn.Module, inputs: Mapping[str, Any]) -> int:
    """Number of rows: the first dimension of the model's main input, else the largest of all inputs."""
    sizes = {name: v.shape[0] for name, v in inputs.items() if isinstance(v, Tensor) and v.ndim}
    if not sizes:
        raise MultiTaskError("Expected at least one tensor with a row for each example among the inputs, found none.")
    main = next((name for name in (getattr(model, "main_input_name", None), *_ROWS) if name in sizes), None)
    size = sizes[main] if main is not None else max(sizes.values())
    if not size:
        raise MultiTaskError("Expected at least one row, found an empty batch.")
    return size


def rows_of(inputs: Mapping[str, Any], size: int, take: Take | Sequence[int]) -> Inputs:
    """Some rows of the inputs; tensors without rows stay as they are."""
    take = take if isinstance(take, Take) else Take(tuple(take), size)
    if take.all:
        return dict(inputs)
    return pytree.tree_map(lambda value: _taken(value, size, take), dict(inputs))


def _taken(value: Any, size: int, take: Take) -> Any:
    if not isinstance(value, Tensor) or not value.ndim or value.shape[0] != size:
        return value
    if take.span is not None:
        return value[slice(*take.span)]
    return value.index_select(0, torch.tensor(take.rows, device=value.device))


def kind_of(inputs: Mapping[str, Any]) -> tuple:
    """What two batches must have in common for what is learned of one to hold for the other."""
    leaves, spec = pytree.tree_flatten(dict(sorted(inputs.items())))
    return (str(spec), *(_kind(leaf) for leaf in leaves))


def _kind(leaf: Any) -> tuple:
    if isinstance(leaf, Tensor):
        return leaf.ndim, leaf.dtype
    return (type(leaf), leaf) if isinstance(leaf, (bool, str)) else (type(leaf),)


def probe_of(inputs: Mapping[str, Any], size: int) -> Inputs:
    """Three rows that differ: of a smaller batch, some are turned along their last dimension."""

    def turned(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.ndim or value.shape[0] != size:
            return value
        rows = [value[n % size] for n in range(3)]
        return torch.stack([row.roll(n // size, -1) if row.ndim else row for n, row in enumerate(rows)])

    return pytree.tree_map(turned, dict(inputs))


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
    bare = structure_copy(bare)  # it is watched, and others may be running the one that was given
    probe = without_cache(bare, probe_of(inputs, count_rows(bare, inputs)))
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
    modules = {name: stack.get_submodule(name) for name in anatomy.stem(1)}
    # Those that are forks already were learned with other inputs, unless tasks have their own there.
    names = [name for name, module in modules.items() if not (isinstance(module, Fork) and len(module.own))]
    new = [name for name in names if not isinstance(modules[name], Fork)]
    for name in new:
        put(stack, name, Fork(modules[name], name))
    try:
        return _try(stack, bare, blocks, known, tiled=True, stem=names)
    except BaseException:
        for name in new:
            put(stack, name, modules[name])
        raise


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
        outputs.append(output_shapes(output))
    two, three = seen
    if two.keys() != three.keys():
        raise CannotStack("which modules run depends on the number of rows")
    shapes = {
        name: Shape(learn_parts(two[name][0], three[name][0]), learn_parts(two[name][1], three[name][1]))
        for name in two
    }
    parts = learn_parts(*outputs)
    if all(part.dim is None for part in parts):
        raise CannotStack("the output holds nothing with a row for each example")
    return shapes, parts


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
    kept: dict[Take, Index] = {}

    def index(take: Take) -> Index:  # the same one for all blocks, so that they share the rows of a mask that it took
        if take not in kept:
            kept[take] = Index(take, device)
        return kept[take]

    return {name: _bind(name, step, module_of, index, most) for name, step in steps.items()}


def _bind(
    name: str,
    step: Step,
    module_of: Callable[[str, str | None], nn.Module],
    index: Callable[[Take], Index],
    most: int | None,
) -> Bound:
    return Bound.of(step, {group.owner: module_of(name, group.owner) for group in step.groups}, index, most)


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
        if task != FROZEN:
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
    """What rounding may change in the answers of a model."""
    least, own = tolerance(model, device_of(model)), 0.0
    together = pytree.tree_flatten(reference)[0]
    for row in range(3):
        alone = pytree.tree_flatten(model(**rows_of(probe, 3, [row])))[0]
        for one, whole, part in zip(alone, together, parts, strict=True):
            if isinstance(one, Tensor) and part.dim is not None:
                own = max(own, deviation(whole.narrow(part.dim, row, 1), one))
    return allowance(least, own)


# --- the tree of modules ---------------------------------------------------------------------
def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of another."""
    parent, _, child = name.rpartition(".")
    model.get_submodule(parent)._modules[child] = module


def told(error: BaseException) -> str:
    """An error in one line."""
    first = str(error).splitlines()[0].rstrip(".") if str(error) else ""
    return first if isinstance(error, CannotStack) else f"{type(error).__name__}: {first}"
