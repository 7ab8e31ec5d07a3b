"""
Whether code draws random numbers, from the global generators or from generators of its own.

Knows generators and where functions and objects keep them; not what is drawn for.
"""

from __future__ import annotations

import functools
import inspect
import random
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from .data import same_value

_DEPTH, _MOST = 8, 5_000
_PLAIN = (str, bytes, bool, int, float, complex, type, types.ModuleType, np.ndarray, torch.Tensor)


@contextmanager
def drawing(*things: Any) -> Iterator[list[bool]]:
    """
    Whether the block of code draws random numbers; what is in the list when it ends.

    Args:
        things: Functions or objects, generators inside which are watched beside those of torch, numpy and `random`.
    """
    found: list[bool] = []
    own = generators_in(things)
    before = _states(own)
    try:
        yield found
    finally:
        found.append(not same_value(before, _states(own)))


def _states(generators: list[Any]) -> list[Any]:
    return [torch.get_rng_state(), np.random.get_state(), random.getstate(), *map(_state, generators)]


def _state(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.get_state()


def generators_in(thing: Any) -> list[Any]:
    """
    Random generators that a function or an object keeps: in closures, defaults, globals that its code names,
    attributes, containers and partials.

    Args:
        thing: Looked at and not called.

    Returns: `list`: of `numpy.random.Generator` and `RandomState`, `torch.Generator` and `random.Random`.
    """
    found: list[Any] = []
    seen: set[int] = set()
    waiting = [(thing, _DEPTH)]
    while waiting and len(seen) < _MOST:
        one, depth = waiting.pop(0)
        if one is None or isinstance(one, _PLAIN) or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, np.random.Generator | np.random.RandomState | torch.Generator | random.Random):
            found.append(one)
        elif depth:
            waiting += [(part, depth - 1) for part in _parts(one)]
    return found


def _parts(thing: Any) -> list[Any]:
    if isinstance(thing, functools.partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if inspect.ismethod(thing):
        return [thing.__self__, thing.__func__]
    if isinstance(thing, types.FunctionType):
        named = [thing.__globals__.get(name) for name in thing.__code__.co_names]
        kept = [cell.cell_contents for cell in thing.__closure__ or () if not _is_empty(cell)]
        return [*named, *kept, *(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()]
    if isinstance(thing, Mapping):
        return _few(thing.values())
    if isinstance(thing, list | tuple | set | frozenset):
        return _few(thing)
    methods = [getattr(type(thing), name, None) for name in ("__call__", "__getitem__")]
    attributes: Mapping[str, Any] = getattr(thing, "__dict__", {})
    return [*_few(attributes.values()), *(one for one in methods if isinstance(one, types.FunctionType))]


def _few(values: Any) -> list[Any]:
    """The first of many: a list of rows holds no generator, or holds one in its first."""
    return [value for _, value in zip(range(64), values, strict=False)]


def _is_empty(cell: Any) -> bool:
    try:
        return cell.cell_contents is None
    except ValueError:
        return True
