"""
Which rows of a stack each module of a step takes, ready to run: takes of a plan as indices on a device.

Knows steps of a plan and tensors; does not know how modules are called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .plan import Step, Take

FED, STATE = "fed", "state"


@dataclass(frozen=True)
class Part:
    """
    One leaf of what a module takes or returns.

    Args:
        dim (`int` or `None`): Dimension that holds the rows.
        size (`int`): Length of the first dimension where none does; 0 for what is no tensor.
        source (`str`): Of an argument with rows: `"fed"` or `"state"`.
    """

    dim: int | None
    size: int = 0
    source: str = FED


@dataclass(frozen=True)
class Shape:
    """
    How a module's arguments and output hold their rows.

    Args:
        args (`tuple[Part, ...]`), output (`tuple[Part, ...]`): Leaf by leaf.
    """

    args: tuple[Part, ...]
    output: tuple[Part, ...]


class Index:
    """
    A [`Take`] on a device.

    Args:
        take ([`Take`]): Which rows.
        device (`torch.device`): Of the tensors.
    """

    def __init__(self, take: Take, device: torch.device) -> None:
        self.all, self.span, self.size, self.count = take.all, take.span, take.size, len(take.rows)
        self.numbers = None if self.span is not None else torch.tensor(take.rows, device=device)
        self._parts: dict[int, list[Index]] = {}

    def of(self, value: Tensor, dim: int) -> Tensor:
        """The rows of a tensor."""
        if self.all:
            return value
        if self.numbers is None:
            start, stop = self.span  # type: ignore[misc]
            return value.narrow(dim, start, stop - start)
        return value.index_select(dim, self.numbers)

    def parts(self, most: int) -> list[Index]:
        """The same rows in parts of at most so many."""
        if self.count <= most:
            return [self]
        if most not in self._parts:
            with torch.inference_mode(False):  # they serve calls with gradients too
                self._parts[most] = self._cut(most)
        return self._parts[most]

    def _cut(self, most: int) -> list[Index]:
        numbers = list(range(*self.span)) if self.span is not None else self.numbers.tolist()  # type: ignore[union-attr]
        device = torch.device("cpu") if self.numbers is None else self.numbers.device
        pieces = [tuple(numbers[i : i + most]) for i in range(0, self.count, most)]
        return [Index(Take(piece, self.size), device) for piece in pieces]


@dataclass(frozen=True)
class Run:
    """Rows that run through a module together: the module, and where its rows are, and frozen features of the same."""

    module: nn.Module
    state: Index
    fed: Index
    beside: Index | None = None

    def parts(self, most: int) -> list[Run]:
        """The same rows in parts of at most so many."""
        cut = (self.state.parts(most), self.fed.parts(most))
        beside = [None] * len(cut[0]) if self.beside is None else self.beside.parts(most)
        return [Run(self.module, *part) for part in zip(*cut, beside, strict=True)]


@dataclass(frozen=True)
class Bound:
    """
    A step with its modules.

    Args:
        runs (`tuple[Run, ...]`): One after the other; their outputs are put one behind the other.
        order ([`Index`]): The rows of that which go on.
        plain (`bool`): Whether the frozen module runs on what comes, as it comes.
        lane (`int`): Rows that a task of this step has.
    """

    runs: tuple[Run, ...]
    order: Index
    plain: bool
    lane: int
    _cut: dict[int, Bound] = field(default_factory=dict, compare=False)

    @classmethod
    def of(
        cls, step: Step, modules: Mapping[str | None, nn.Module], index: Callable[[Take], Index], most: int | None
    ) -> Bound:
        """
        Bind a step.

        Args:
            step ([`Step`]): Of a plan.
            modules (`Mapping[str | None, torch.nn.Module]`): By owner.
            index (`Callable`): A take as an [`Index`], the same one for the same take.
            most (`int` or `None`): Most rows that run through a module at once.
        """
        runs = []
        for group in step.groups:
            beside = None if group.beside is None else index(group.beside)
            run = Run(modules[group.owner], index(group.state), index(group.fed), beside)
            runs += [run] if most is None else run.parts(most)
        lane = max(-(-group.num_rows // group.num_lanes) for group in step.groups)
        return cls(tuple(runs), index(step.order), step.plain and len(runs) == 1, lane)

    def cut(self, most: int) -> Bound:
        """The same with no more rows at once than so many, or than one task has."""
        lane = max(self.lane, 1)
        most = max(most // lane, 1) * lane
        if all(run.state.count <= most for run in self.runs):
            return self
        if most not in self._cut:
            runs = tuple(part for run in self.runs for part in run.parts(most))
            self._cut[most] = Bound(runs, self.order, False, self.lane)
        return self._cut[most]
