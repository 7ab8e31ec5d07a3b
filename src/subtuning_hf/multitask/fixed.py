"""
The same tasks for every batch of one size, as a module that decides nothing when it is called.

Knows plans and outputs; does not know how they came about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import MultiTaskError
from ..prefix.capture import without_cache
from .learn import rows_of, split
from .plan import Plan
from .rows import Part


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
        Raises: [`MultiTaskError`]: For another number of rows.
        """
        found = () if torch.compiler.is_compiling() else sizes_of(inputs)
        if found and self.size not in found:
            raise MultiTaskError(
                f"These tasks were fixed for batches of {self.size} rows, found {' or '.join(map(str, found))}. Make "
                "others with fixed(), or fill the batch up."
            )
        fed = without_cache(self.stack, rows_of(inputs, self.size, self.plan.fed))
        answers = split(self.stack(**fed), self.plan, self.output)
        return {task: narrowed(answer, self.widths.get(task, ())) for task, answer in answers.items()}


def sizes_of(inputs: Mapping[str, Any]) -> tuple[int, ...]:
    """The first dimensions of the tensors in a batch."""
    tensors = [leaf for leaf in pytree.tree_leaves(dict(inputs)) if isinstance(leaf, Tensor) and leaf.ndim]
    return tuple(dict.fromkeys(tensor.shape[0] for tensor in tensors))


def narrowed(answer: Any, widths: Sequence[tuple[int, int, int]]) -> Any:
    """
    An answer out of a shared pass in the task's own widths.

    Args:
        answer: An output of the model.
        widths (`Sequence[tuple[int, int, int]]`): Number of a leaf, dimension, size.
    """
    if not widths:
        return answer
    leaves, spec = pytree.tree_flatten(answer)
    for number, dim, size in widths:
        leaves[number] = leaves[number].narrow(dim, 0, size)
    return pytree.tree_unflatten(leaves, spec)
