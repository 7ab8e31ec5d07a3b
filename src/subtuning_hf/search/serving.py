"""
What tuning blocks adds to the latency of serving many tasks on one trunk, from times that were measured.

Blocks ahead of the first tuned one run once for all tasks. From there on every task has rows of its own: a frozen block
runs on the rows of all tasks together, a tuned one as one copy for each task. Knows numbers; does not know models.

Source: SubTuning, arXiv 2302.06354, its figure of inference times.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..errors import ArgumentsError, UnknownBlockError
from . import checks


@dataclass(frozen=True)
class ServingCost:
    """
    Milliseconds of each block of a model when a batch is answered for several tasks.

    Args:
        blocks (`tuple[str, ...]`): All blocks of the model in forward order.
        shared (`tuple[float, ...]`): Each block once on the rows of the batch.
        stacked (`tuple[float, ...]`): The frozen block on the rows of all tasks.
        tuned (`tuple[float, ...]`): One tuned copy for each task, each on the rows of the batch.
        outside (`float`): All that is in no block, for one task.
        num_tasks (`int`), batch (`int`): Tasks, and rows of the batch that each of them answers.

    Raises: [`ArgumentsError`]: If a value is of another type or out of range, or a block has no time or two.
    """

    blocks: tuple[str, ...]
    shared: tuple[float, ...]
    stacked: tuple[float, ...]
    tuned: tuple[float, ...]
    outside: float
    num_tasks: int
    batch: int

    def __post_init__(self) -> None:
        names = tuple(checks.text(name, "an item of ServingCost.blocks") for name in self.blocks)
        if not names or len(set(names)) < len(names):
            found = checks.short(names)
            raise ArgumentsError(f"ServingCost.blocks must name every block of a model once, found {found}.")
        checks.put(self, "blocks", names)
        for field in ("shared", "stacked", "tuned"):
            where = f"ServingCost.{field}"
            times = tuple(checks.finite(value, f"an item of {where}", least=0) for value in getattr(self, field))
            if len(times) != len(names):
                raise ArgumentsError(f"{where} must hold {len(names)} times, one for each block, found {len(times)}.")
            checks.put(self, field, times)
        checks.put(self, "outside", checks.finite(self.outside, "ServingCost.outside", least=0))
        if self.one_pass <= 0:
            raise ArgumentsError(f"ServingCost must hold times of a pass above 0 ms in all, found {self.one_pass}.")
        checks.put(self, "num_tasks", checks.whole(self.num_tasks, "ServingCost.num_tasks", least=1))
        checks.put(self, "batch", checks.whole(self.batch, "ServingCost.batch", least=1))

    @property
    def one_pass(self) -> float:
        """`float`: milliseconds of one pass of the base for the batch."""
        return math.fsum((*self.shared, self.outside))

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.blocks)}

    def added(self, selection: Collection[str]) -> float:
        """
        What a selection adds to one pass of the base, in milliseconds, if every task tunes these blocks.

        The sum, from the first tuned block on, of what a block takes beyond its one run for all tasks. Clocks are not
        exact; where they say that more rows took less time, nothing is added. What all selections add alike, such as
        the heads of the tasks, is not counted.

        Args:
            selection (`Collection[str]`): Names of the tuned blocks, in any order.

        Returns: `float`: 0 for the head alone.
        Raises: [`UnknownBlockError`]: If a name is none of the blocks.
        """
        for name in selection:
            if name not in self._places:
                raise UnknownBlockError(
                    f"A selection must name blocks whose times were measured, found {name!r}; these are "
                    f"{checks.short(self.blocks)}. Measure this model: `subtuning latency MODEL`."
                )
        places = {self._places[name] for name in selection}
        first = min(places, default=len(self.blocks))
        return math.fsum(
            max((self.tuned if place in places else self.stacked)[place] - self.shared[place], 0.0)
            for place in range(first, len(self.blocks))
        )

    def relative(self, selection: Collection[str]) -> float:
        """The same in passes of the base: 1.0 is as long as one more pass."""
        return self.added(selection) / self.one_pass

    @property
    def words(self) -> str:
        """`str`: for which load the times are."""
        rows = "a batch of 1 row" if self.batch == 1 else f"a batch of {self.batch} rows"
        return f"{self.num_tasks} task{'s' * (self.num_tasks > 1)} on {rows}"

    def to_json(self) -> dict[str, Any]:
        return {name: list(v) if isinstance(v, tuple) else v for name, v in checks.written(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ServingCost:
        values = checks.exactly(cls, data)
        for name in ("blocks", "shared", "stacked", "tuned"):
            values[name] = tuple(checks.instance(list, values[name], f"ServingCost.{name}"))
        return cls(**values)
