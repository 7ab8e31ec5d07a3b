"""
How modules hold their rows, seen in calls that differ in the number of rows only.

Knows forks and tensors; does not know tasks or plans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .fork import CannotStack, Fork
from .rows import STATE, Part

_PLAIN = (Tensor, type(None), bool, int, float, str)


@dataclass
class Watch:
    """
    A call that takes down what each fork takes and returns.

    Args:
        seen (`dict`): Shapes of arguments and of the output by fork, filled by the call; `None` for what is no tensor.
    """

    seen: dict[str, tuple[list[torch.Size | None], list[torch.Size | None]]] = field(default_factory=dict)

    def run(self, fork: Fork, args: tuple, kwargs: dict[str, Any]) -> Any:
        """One module."""
        if fork.place in self.seen:
            raise CannotStack(f"'{fork.place}' is called more than once in a pass")
        arguments = _shapes((args, kwargs))
        output = fork.base_layer(*args, **kwargs)
        self.seen[fork.place] = arguments, output_shapes(output)
        return output


def _shapes(structure: Any) -> list[torch.Size | None]:
    return [leaf.shape if isinstance(leaf, Tensor) else None for leaf in pytree.tree_flatten(structure)[0]]


def output_shapes(output: Any) -> list[torch.Size | None]:
    """
    Shapes of the tensors in an output, `None` for what is no tensor.

    Raises: [`CannotStack`]: If it holds objects that may have rows inside.
    """
    leaves = pytree.tree_flatten(output)[0]
    closed = next((leaf for leaf in leaves if not isinstance(leaf, _PLAIN)), None)
    if closed is not None:
        raise CannotStack(f"an output of type {type(closed).__name__} cannot be taken apart")
    return _shapes(output)


def learn_parts(two: Sequence[torch.Size | None], three: Sequence[torch.Size | None]) -> tuple[Part, ...]:
    """
    How leaves hold their rows, from a call with 2 and one with 3.

    Raises: [`CannotStack`]: If they depend on the number of rows in another way.
    """
    if len(two) != len(three):
        raise CannotStack("the number of values depends on the number of rows")
    parts = []
    for left, right in zip(two, three, strict=True):
        if left is None or right is None or not len(left):
            parts.append(Part(None))
            continue
        grown = [d for d, (a, b) in enumerate(zip(left, right, strict=True)) if a != b]
        if not grown:
            parts.append(Part(None, left[0]))
        elif len(grown) == 1 and (left[grown[0]], right[grown[0]]) == (2, 3):
            parts.append(Part(grown[0], source=STATE))
        else:
            raise CannotStack(f"a value of shape {tuple(left)} does not hold one entry for each row")
    return tuple(parts)
