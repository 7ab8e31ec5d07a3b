"""
One batch, several adapters: run each row through the module of its adapter.

Knows modules and the structures they take and return; does not know adapters beyond their names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import nn

_COLLECTOR: Any
try:  # where hooks of transformers put inner tensors; a private name, without which nothing is collected by hooks
    from transformers.utils.output_capturing import _active_collector as _COLLECTOR
except ImportError:
    _COLLECTOR = None


def mixed_forward(
    module_for: Callable[[str], nn.Module], adapter_names: list[str], not_batched: set[str], args: tuple, kwargs: dict
) -> Any:
    """
    Run each group of rows with the same adapter through its module and put the rows back in order.

    The first tensor argument has the batch as its first dimension. Other tensors are taken to carry it when their
    first dimension has the same size, unless an earlier call with another batch size showed that they do not
    (`not_batched`, kept by the caller): relative position tables can have any size.

    Args:
        module_for (`Callable[[str], torch.nn.Module]`): The module of an adapter.
        adapter_names (`list[str]`): One name per row.
        not_batched (`set[str]`): Arguments known not to carry the batch; updated here.
        args, kwargs: Arguments of the call; tensors of shape `(batch, ...)`.

    Returns: What the module returns, rows in the order of the input.
    Raises: `ValueError`: If the number of names is not the batch size, or a key-value cache is passed.
    """
    size = _batch_size(args, kwargs)
    if size != len(adapter_names):
        raise ValueError(
            f"Length of `adapter_names` should be the same as the number of inputs, but got {len(adapter_names)} "
            f"and {size} respectively." + _parts_of_rows(len(adapter_names), size)
        )
    _learn(not_batched, size, args, kwargs)
    groups: dict[int, tuple[nn.Module, list[int]]] = {}
    for row, name in enumerate(adapter_names):
        module = module_for(name)
        groups.setdefault(id(module), (module, []))[1].append(row)
    if len(groups) == 1:
        return next(iter(groups.values()))[0](*args, **kwargs)

    if any(hasattr(value, "get_seq_length") for value in [*args, *kwargs.values()]):
        raise ValueError("A key-value cache cannot be split by `adapter_names`. Pass use_cache=False.")
    rows, outputs, collected = [], [], []
    for module, group in groups.values():
        index = torch.tensor(group)
        take = _Taker(size, index, not_batched)
        with _collecting_apart() as found:
            outputs.append(module(*take.all(args), **take.all(kwargs)))
        rows.append(index)
        collected.append(found)
    order, sizes = torch.argsort(torch.cat(rows)), [len(index) for index in rows]
    _collect(collected, sizes, order)
    return _join(outputs, sizes, order)


@contextmanager
def _collecting_apart() -> Iterator[dict[str, list[Any]]]:
    """
    What hooks of transformers collect meanwhile of inner tensors, such as hidden states, by kind: it is of a part of
    the rows, and kept from the tensors of the whole batch.
    """
    found: dict[str, list[Any]] = {}
    whole = None if _COLLECTOR is None else _COLLECTOR.get()
    if not whole:
        yield found
        return
    # With what is there already, since hooks look at how much that is.
    part = {name: list(value) if isinstance(value, list) and name[0] != "_" else value for name, value in whole.items()}
    token = _COLLECTOR.set(part)
    try:
        yield found
    finally:
        _COLLECTOR.reset(token)
        if token is None:  # being compiled, it has forgotten
            _COLLECTOR.set(whole)
    found |= {name: value[len(whole[name]) :] for name, value in part.items() if name[0] != "_"}


def _collect(apart: list[dict[str, list[Any]]], sizes: list[int], order: torch.Tensor) -> None:
    """Hand what was collected of parts of the rows on as that of the batch."""
    whole: Any = None if _COLLECTOR is None else _COLLECTOR.get()
    for name in apart[0]:
        if len({len(one[name]) for one in apart}) > 1:
            raise ValueError(
                f"Of the {name.replace('_', ' ')} of this batch some adapters' blocks give more than others, so that "
                "they cannot be put together. Run each adapter on its own instead of passing `adapter_names`."
            )
        for parts in zip(*(one[name] for one in apart), strict=True):
            whole[name].append(None if parts[0] is None else _join(list(parts), sizes, order))


def named_tensors(structure: Any, prefix: str = "") -> list[tuple[str, torch.Tensor]]:
    """Tensors of nested tuples, lists and dicts with the path to each."""
    if isinstance(structure, torch.Tensor):
        return [(prefix, structure)]
    if isinstance(structure, Mapping):
        return [x for key, value in structure.items() for x in named_tensors(value, f"{prefix}.{key}")]
    if isinstance(structure, (tuple, list)):
        return [x for key, value in enumerate(structure) for x in named_tensors(value, f"{prefix}.{key}")]
    return []


def _batch_size(args: tuple, kwargs: dict) -> int:
    for _, tensor in named_tensors(args) + named_tensors(kwargs):
        if tensor.ndim:
            return tensor.shape[0]
    raise ValueError("No tensor among the arguments of a tuned block: its rows cannot be told apart.")


def _parts_of_rows(names: int, size: int) -> str:
    if not names or size % names or size <= names:
        return ""
    return (
        f" If there is one name per sample, a tuned module gets {size // names} rows of each, such as windows of an "
        "image, and cannot tell whose they are: tune the whole block instead, or run each adapter on its own."
    )


def _learn(not_batched: set[str], size: int, args: tuple, kwargs: dict) -> None:
    for path, tensor in named_tensors(args) + named_tensors(kwargs):
        if tensor.ndim and tensor.shape[0] not in (1, size):
            not_batched.add(path)


class _Taker:
    """Takes the rows of one group out of the arguments."""

    def __init__(self, size: int, index: torch.Tensor, not_batched: set[str]) -> None:
        self.size, self.index, self.not_batched = size, index, not_batched

    def all(self, structure: Any, prefix: str = "") -> Any:
        if isinstance(structure, torch.Tensor):
            if structure.ndim and structure.shape[0] == self.size and prefix not in self.not_batched:
                return structure.index_select(0, self.index.to(structure.device))
            return structure
        if isinstance(structure, (Mapping, tuple, list)):
            pairs = structure.items() if isinstance(structure, Mapping) else enumerate(structure)
            return _rebuilt(structure, {key: self.all(value, f"{prefix}.{key}") for key, value in pairs})
        return structure


def _rebuilt(like: Any, values: dict) -> Any:
    """A structure of the same type: a dict, a transformers output, a tuple (with names or without), a list."""
    kind: Any = type(like)
    if isinstance(like, Mapping):
        return kind(**values) if is_dataclass(like) else kind(values)
    return kind(*values.values()) if hasattr(like, "_fields") else kind(values.values())


def _join(outputs: list[Any], sizes: list[int], order: torch.Tensor) -> Any:
    first = outputs[0]
    if isinstance(first, torch.Tensor):
        return _join_tensors(outputs, sizes, order)
    if isinstance(first, Mapping):
        return _rebuilt(first, {key: _join([o[key] for o in outputs], sizes, order) for key in first})
    if isinstance(first, (tuple, list)):
        return _rebuilt(first, {i: _join([o[i] for o in outputs], sizes, order) for i in range(len(first))})
    return first


def _join_tensors(parts: list[torch.Tensor], sizes: list[int], order: torch.Tensor) -> torch.Tensor:
    if not parts[0].ndim:
        return parts[0]
    for part, size in zip(parts, sizes, strict=True):
        if part.shape[0] not in (1, size):
            raise ValueError(
                f"A tuned block or head returned a tensor of shape {tuple(part.shape)} for {size} rows, which cannot "
                "be put back in the order of the batch. Run each adapter on its own instead of passing `adapter_names`."
            )
    # A part of one row stands for its whole group (T5's position bias).
    parts = [p.expand(n, *p.shape[1:]) if p.shape[0] == 1 and n > 1 else p for p, n in zip(parts, sizes, strict=True)]
    return torch.cat(_same_width(parts)).index_select(0, order.to(parts[0].device))


def _same_width(parts: list[torch.Tensor]) -> list[torch.Tensor]:
    """Heads of different class counts: -inf is what softmax and argmax take for "no such class"."""
    for dim in range(1, parts[0].ndim):  # the last dimension of a linear head, the second of a convolution
        width = max(p.shape[dim] for p in parts)
        if any(p.shape[dim] != width for p in parts):
            after = parts[0].ndim - 1 - dim
            pads = [(*(0, 0) * after, 0, width - p.shape[dim]) for p in parts]
            return [nn.functional.pad(p, pad, value=float("-inf")) for p, pad in zip(parts, pads, strict=True)]
    return parts
