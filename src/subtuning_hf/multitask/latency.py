"""
Measures what tuning each block adds to the latency of serving many tasks.

Blocks are timed inside of real passes, so that they get the inputs, masks and memory that they get in use. Every repeat
runs all variants, in rotating order, so that a machine that slows down slows all of them. Knows models and clocks; what
was measured is a record of `search.latency`.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..blocks import find_head
from ..errors import ArgumentsError, MultiTaskError
from ..prefix.capture import Forward, device_of, on_device, replaced, without_cache
from ..search.latency import BatchLatency, LatencyProfile, Timing, WholeRun
from ..tuner import SubTuningConfig
from .adapters import block_names, structure_copy
from .learn import Inputs, count_rows, rows_of
from .model import MultiTaskModel

LEAST_REPEATS = 3
WARMUP = 1


def measure_latency(
    model: nn.Module,
    inputs: Mapping[str, Any],
    num_tasks: int = 4,
    repeats: int = 10,
    *,
    batches: Sequence[int] | None = None,
    blocks: Sequence[str] | None = None,
    seconds: float = 60.0,
    end_to_end: bool = True,
    name: str | None = None,
) -> LatencyProfile:
    """
    Measure each block once on a batch, frozen on the rows of all tasks, and as one tuned copy for each task.

    Args:
        model (`torch.nn.Module`): The base model, on the device that serves. It is not changed.
        inputs (`Mapping[str, Any]`): A batch of any size; its rows are repeated to the sizes that are measured.
        num_tasks (`int`, *optional*, defaults to 4): Tasks that are answered together.
        repeats (`int`, *optional*, defaults to 10): How often everything is run, after one run that does not count.
        batches (`Sequence[int]`, *optional*): Sizes of the batch; by default that of `inputs`.
        blocks (`Sequence[str]`, *optional*): Names of the blocks in forward order; by default those that are found.
        seconds (`float`, *optional*, defaults to 60):
            For each size: no repeat begins after so long, once three are done.
        end_to_end (`bool`, *optional*, defaults to `True`):
            Also run a [`MultiTaskModel`] whose tasks tune the head alone, the first, the middle and the last block, to
            compare with what the blocks add up to. Writes adapters to a temporary folder of the system's.
        name (`str`, *optional*): Name of the model; by default its class.

    Returns: [`~search.latency.LatencyProfile`]
    Raises:
        [`ArgumentsError`]: If a number means nothing.
        [`MultiTaskError`]: If the model cannot answer several tasks on one trunk; every selection then costs as much.
    """
    sizes = list(batches) if batches is not None else [count_rows(model, inputs)]
    _check(num_tasks, repeats, sizes)
    bare = structure_copy(model).eval()
    given = without_cache(bare, on_device(inputs, device_of(bare)))
    names = tuple(blocks) if blocks is not None else block_names(bare, ())
    with torch.no_grad(), _frozen(bare):
        served = _served(bare, names, num_tasks, given, all_=end_to_end)
        measured = [_measure(bare, names, given, size, num_tasks, repeats, seconds, served) for size in sizes]
    modules = [bare.get_submodule(block) for block in names]
    return LatencyProfile(
        model=name or type(model).__name__,
        num_tasks=num_tasks,
        blocks=names,
        num_parameters=tuple(sum(p.numel() for p in module.parameters()) for module in modules),
        tuned_bytes=tuple(sum(t.nbytes for t in _tensors(module)) for module in modules),
        batches=tuple(measured),
        environment=_environment(bare, given),
    )


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Freeze tensors that belong to the caller as well, and give them back as they were."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _check(num_tasks: int, repeats: int, sizes: Sequence[int]) -> None:
    for what, value, least in (
        ("num_tasks", num_tasks, 2),
        ("repeats", repeats, 1),
        *(("batches", b, 1) for b in sizes),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ArgumentsError(f"`{what}` must be a whole number of {least} or more, found {value!r}.")
    if not sizes or len(set(sizes)) < len(sizes):
        raise ArgumentsError(f"`batches` must be different sizes, one at least, found {list(sizes)}.")


# --- one size of the batch -------------------------------------------------------------------
def _measure(
    bare: nn.Module,
    names: Sequence[str],
    inputs: Inputs,
    size: int,
    num_tasks: int,
    repeats: int,
    seconds: float,
    served: Mapping[tuple[str, ...], nn.Module],
) -> BatchLatency:
    rows = count_rows(bare, inputs)
    one = rows_of(inputs, rows, [n % rows for n in range(size)])
    many = rows_of(one, size, [n % size for n in range(num_tasks * size)])
    clock = partial(_now, device_of(bare))
    variants: dict[Any, Callable[[], Any]] = {
        "whole": partial(_timed, clock, bare, one),
        "shared": partial(_by_block, clock, bare, names, one, 0),
        "stacked": partial(_by_block, clock, bare, names, many, 0),
        "tuned": partial(_by_block, clock, bare, names, one, num_tasks),
        **{blocks: partial(_timed, clock, model, one) for blocks, model in served.items()},
    }
    runs = _in_turn(variants, repeats, seconds)
    times = {name: [_block_timing(runs[name], place) for place in range(len(names))] for name in _VARIANTS}
    return BatchLatency(
        batch=size,
        repeats=len(runs["whole"]),
        whole=Timing.of(runs["whole"]),
        outside=Timing.of([max(found.total - sum(found.blocks), 0.0) for found in runs["shared"]]),
        shared=tuple(times["shared"]),
        stacked=tuple(times["stacked"]),
        tuned=tuple(times["tuned"]),
        measured=tuple(WholeRun(blocks, Timing.of(runs[blocks])) for blocks in served),
    )


_VARIANTS = ("shared", "stacked", "tuned")


def _in_turn(variants: Mapping[Any, Callable[[], Any]], repeats: int, seconds: float) -> dict[Any, list[Any]]:
    """What each variant returns at every repeat; they take turns, and another one begins each time."""
    for _ in range(WARMUP):
        for run in variants.values():
            run()
    found: dict[Any, list[Any]] = {name: [] for name in variants}
    order, end = list(variants), time.perf_counter() + seconds
    for repeat in range(repeats):
        if repeat >= LEAST_REPEATS and time.perf_counter() > end:
            break
        turn = repeat % len(order)
        for name in (*order[turn:], *order[:turn]):
            found[name].append(variants[name]())
    return found


def _block_timing(runs: Sequence[_Pass], place: int) -> Timing:
    return Timing.of([found.blocks[place] for found in runs])


# --- clocks ----------------------------------------------------------------------------------
def _now(device: torch.device) -> float:
    """Milliseconds, when the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return 1e3 * time.perf_counter()


def _timed(clock: Callable[[], float], model: nn.Module, inputs: Inputs) -> float:
    """Milliseconds of a call."""
    start = clock()
    model(**inputs)
    return clock() - start


@dataclass
class _Pass:
    """Milliseconds of a pass: of each block, and of all but what was made ready for the clock."""

    blocks: list[float] = field(default_factory=list)
    total: float = 0.0
    aside: float = 0.0


def _by_block(clock: Callable[[], float], bare: nn.Module, names: Sequence[str], inputs: Inputs, copies: int) -> _Pass:
    """A pass with each block timed: as it is, or as so many copies whose outputs are put one behind the other."""
    found = _Pass()

    def watch(module: nn.Module, original: Forward) -> Forward:
        def forward(*args: Any, **kwargs: Any) -> Any:
            arrived = clock()
            calls: list[Forward] = [_copy(module) for _ in range(copies)] or [original]
            start = clock()
            outputs = [call(*args, **kwargs) for call in calls]
            if copies:
                _put_together(outputs)
            end = clock()
            found.blocks.append(end - start)
            found.aside += start - arrived
            return outputs[0]

        return forward

    with replaced({bare.get_submodule(name): partial(watch, bare.get_submodule(name)) for name in names}):
        found.total = _timed(clock, bare, inputs)
    found.total -= found.aside
    return found


def _copy(module: nn.Module) -> nn.Module:
    """A copy with weights of its own, and without the clock."""
    copied = copy.deepcopy(module)
    copied.__dict__.pop("forward", None)
    return copied


def _put_together(outputs: Sequence[Any]) -> None:
    """What the trunk does with the outputs of copies before the next block."""
    for leaves in zip(*(pytree.tree_flatten(output)[0] for output in outputs), strict=True):
        if isinstance(leaves[0], Tensor) and leaves[0].ndim:
            torch.cat(leaves)


# --- from end to end -------------------------------------------------------------------------
def _served(
    bare: nn.Module, names: Sequence[str], num_tasks: int, inputs: Inputs, all_: bool
) -> dict[tuple[str, ...], nn.Module]:
    """
    Models of several tasks that all tune the same: the head alone, the first, the middle, the last block.

    The last one is made in any case: it tells whether the model can answer several tasks on one trunk.
    """
    places = sorted({0, len(names) // 2, len(names) - 1}, reverse=True)
    selections: list[tuple[str, ...]] = [(names[place],) for place in places]
    selections += [()] * bool(find_head(bare))
    models: dict[tuple[str, ...], nn.Module] = {}
    for selection in selections if all_ else selections[:1]:
        with _adapter(bare, selection) as folder:
            tasks = {f"task {number}": folder for number in range(num_tasks)}
            made = MultiTaskModel.from_adapters(bare, tasks, blocks=names)
        made(**inputs)
        if made.way == "alone":
            raise MultiTaskError(
                f"Expected a model that answers several tasks on one trunk, but {type(bare).__name__} answers them one "
                "by one, for the reason that was logged. Every selection then adds a whole pass for each further task."
            )
        models[selection] = made
    return dict(reversed(models.items())) if all_ else {}


@contextmanager
def _adapter(bare: nn.Module, selection: Sequence[str]) -> Iterator[str]:
    """A folder with an adapter that holds the base's own weights."""
    with tempfile.TemporaryDirectory() as folder:
        peft = get_peft_model(copy.deepcopy(bare), SubTuningConfig(blocks=list(selection)))  # type: ignore[arg-type]
        peft.save_pretrained(folder)
        yield folder


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _environment(bare: nn.Module, inputs: Inputs) -> dict[str, Any]:
    device = device_of(bare)
    shapes = {name: list(value.shape[1:]) for name, value in inputs.items() if isinstance(value, Tensor)}
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "dtype": str(next(bare.parameters()).dtype).removeprefix("torch."),
        "inputs": shapes,
        "torch": torch.__version__,
    }
