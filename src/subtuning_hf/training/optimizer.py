"""
A learning rate of its own for the head.

Works on the parameter groups of whatever optimiser Trainer has made, before the schedule reads them. Knows the
tuner's heads; does not know blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..errors import ArgumentsError
from ..tuner import head_parameters

_MARK = "subtuning_head"


class HeadLearningRateMixin:
    """
    Makes a `Trainer` honour `args.head_learning_rate`.

    Stands in front of a Trainer class, whose own `create_optimizer` (optimiser class, parameter groups) is used.
    """

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(*args, **kwargs)  # type: ignore[misc]
        rate = getattr(self.args, "head_learning_rate", None)  # type: ignore[attr-defined]
        if rate is not None:
            model = args[0] if args else kwargs.get("model")
            split_head(optimizer, head_parameters(self.model if model is None else model), rate)  # type: ignore[attr-defined]
        return optimizer


def split_head(optimizer: torch.optim.Optimizer, head: Sequence[torch.nn.Parameter], rate: float) -> None:
    """
    Move the head's parameters to groups with their own learning rate; all else about a group stays.

    Args:
        optimizer (`torch.optim.Optimizer`): Changed in place; a second call changes nothing.
        head (`Sequence[torch.nn.Parameter]`): The head's parameters.
        rate (`float`): Their peak learning rate.

    Raises: [`ArgumentsError`]: If the optimiser has no groups that hold them.
    """
    wanted = {id(parameter) for parameter in head if parameter.requires_grad}
    found: set[int] = set()
    for group in list(getattr(optimizer, "param_groups", ())):
        inside = [p for p in group["params"] if id(p) in wanted]
        found.update(map(id, inside))
        if not inside or group.get(_MARK):
            continue
        outside = [p for p in group["params"] if id(p) not in wanted]
        if not outside:
            group.update({"lr": rate, _MARK: True})
            continue
        group["params"] = outside
        shared = {name: value for name, value in group.items() if name != "params"}
        optimizer.add_param_group({**shared, "params": inside, "lr": rate, _MARK: True})
    if wanted - found:
        raise ArgumentsError(
            f"`head_learning_rate` cannot be set: {len(wanted - found)} of the head's {len(wanted)} tensors are in no "
            f"parameter group of {type(optimizer).__name__}. Leave `head_learning_rate` out, or use an optimiser that "
            "takes parameter groups."
        )
