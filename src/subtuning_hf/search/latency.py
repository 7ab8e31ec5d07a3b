"""
A latency profile: what `subtuning latency` has measured, as records, text and JSON.

Knows numbers and files; does not know models. Measuring is `multitask.latency`'s.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ArgumentsError, SubTuningError
from . import checks
from .serving import ServingCost
from .tables import text_table

FORMAT = 1


@dataclass(frozen=True)
class Timing:
    """
    Milliseconds of something that was run several times.

    Args:
        median (`float`): Of all runs.
        spread (`float`): Half the distance of the quartiles; 0 for a single run.
    """

    median: float
    spread: float = 0.0

    def __post_init__(self) -> None:
        for name in ("median", "spread"):
            checks.put(self, name, checks.finite(getattr(self, name), f"Timing.{name}", least=0))

    @classmethod
    def of(cls, runs: Sequence[float]) -> Timing:
        """From the milliseconds of each run."""
        if len(runs) < 2:
            return cls(runs[0])
        low, middle, high = statistics.quantiles(runs, n=4, method="inclusive")
        return cls(middle, (high - low) / 2)

    def to_json(self) -> dict[str, float]:
        return checks.written(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Timing:
        return cls(**checks.exactly(cls, data))


@dataclass(frozen=True)
class WholeRun:
    """
    A batch answered for all tasks from end to end, with their heads.

    Args:
        blocks (`tuple[str, ...]`): What every task tunes; `()` for the head alone.
        time ([`Timing`]): What it took.
    """

    blocks: tuple[str, ...]
    time: Timing


@dataclass(frozen=True)
class BatchLatency:
    """
    Times for one size of the batch.

    Args:
        batch (`int`): Rows.
        repeats (`int`): How often each thing was run.
        whole ([`Timing`]): One pass of the base for the batch.
        outside ([`Timing`]): What of a pass is in no block.
        shared (`tuple[Timing, ...]`), stacked (`tuple[Timing, ...]`), tuned (`tuple[Timing, ...]`):
            Each block, as in [`ServingCost`].
        measured (`tuple[WholeRun, ...]`): Some selections from end to end, to compare with what the blocks add up to.
    """

    batch: int
    repeats: int
    whole: Timing
    outside: Timing
    shared: tuple[Timing, ...]
    stacked: tuple[Timing, ...]
    tuned: tuple[Timing, ...]
    measured: tuple[WholeRun, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            **checks.written(self),
            **{name: getattr(self, name).to_json() for name in ("whole", "outside")},
            **{name: [time.to_json() for time in getattr(self, name)] for name in _VARIANTS},
            "measured": [{"blocks": list(run.blocks), "time": run.time.to_json()} for run in self.measured],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BatchLatency:
        values = checks.exactly(cls, data)
        runs = checks.instance(list, values["measured"], "BatchLatency.measured")
        measured = [checks.exactly(WholeRun, run) for run in runs]
        return cls(
            batch=checks.whole(values["batch"], "BatchLatency.batch", least=1),
            repeats=checks.whole(values["repeats"], "BatchLatency.repeats", least=1),
            whole=Timing.from_json(values["whole"]),
            outside=Timing.from_json(values["outside"]),
            measured=tuple(WholeRun(tuple(run["blocks"]), Timing.from_json(run["time"])) for run in measured),
            **{name: tuple(map(Timing.from_json, values[name])) for name in _VARIANTS},
        )


_VARIANTS = ("shared", "stacked", "tuned")


@dataclass(frozen=True)
class LatencyProfile:
    """
    What tuning each block of a model adds to the latency of several tasks.

    Args:
        model (`str`): Name or class of the model.
        num_tasks (`int`): Tasks that are answered together.
        blocks (`tuple[str, ...]`): All blocks of the model in forward order.
        num_parameters (`tuple[int, ...]`): Of each.
        tuned_bytes (`tuple[int, ...]`): What a tuned copy of each takes in memory, for one task.
        batches (`tuple[BatchLatency, ...]`): Times for each size of the batch.
        environment (`dict`): Device, threads, type and shape of the inputs, versions.
    """

    model: str
    num_tasks: int
    blocks: tuple[str, ...]
    num_parameters: tuple[int, ...]
    tuned_bytes: tuple[int, ...]
    batches: tuple[BatchLatency, ...]
    environment: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for size in self.batch_sizes:  # refuses what does not fit together
            self.cost(size)
        for name in ("num_parameters", "tuned_bytes"):
            if len(getattr(self, name)) != len(self.blocks):
                raise ArgumentsError(f"LatencyProfile.{name} must hold {len(self.blocks)} numbers, one for each block.")
        if not self.batches or len(set(self.batch_sizes)) < len(self.batches):
            raise ArgumentsError(f"LatencyProfile.batches must hold different sizes, found {list(self.batch_sizes)}.")

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """`tuple[int, ...]`: the sizes of batches that were measured."""
        return tuple(each.batch for each in self.batches)

    def of(self, batch: int) -> BatchLatency:
        """
        The times for one size of the batch.

        Raises: [`ArgumentsError`]: If it was not measured.
        """
        for each in self.batches:
            if each.batch == batch:
                return each
        sizes = ", ".join(map(str, self.batch_sizes))
        raise ArgumentsError(
            f"The latency profile was measured for batches of {sizes} rows, found {batch!r} asked for."
        )

    def cost(self, batch: int) -> ServingCost:
        """What selections cost at one size of the batch."""
        each = self.of(batch)
        times = {name: tuple(time.median for time in getattr(each, name)) for name in _VARIANTS}
        return ServingCost(self.blocks, outside=each.outside.median, num_tasks=self.num_tasks, batch=batch, **times)

    def predicted(self, selection: Collection[str], batch: int) -> float:
        """Milliseconds of a batch for all tasks as the blocks add up, without the heads of the tasks."""
        return self.of(batch).whole.median + self.cost(batch).added(selection)

    def measured(self, batch: int) -> tuple[WholeRun, ...]:
        """The selections that were run from end to end at one size of the batch."""
        return self.of(batch).measured

    def table(self) -> str:
        """`str`: block by block: one run for all tasks, what tuning it alone adds, and the memory of a copy."""
        costs = [self.cost(size) for size in self.batch_sizes]
        rows = []
        for place, name in enumerate(self.blocks):
            cells = [name]
            for cost in costs:
                cells += [f"{cost.shared[place]:.3g}", f"{cost.added([name]):.3g}", f"{cost.relative([name]):.2f}"]
            rows.append([*cells, f"{self.tuned_bytes[place] / 1e6:.3g}"])
        headings = [word for size in self.batch_sizes for word in (f"b={size}: once", "adds ms", "passes")]
        lines = [
            text_table(["block tuned alone", *headings, "MB"], rows),
            f"\n{self.num_tasks} tasks that all tune the block; times in ms, medians; MB of one task's copy.",
        ]
        return "\n".join([*lines, *map(self._summary, self.batches)])

    def _summary(self, each: BatchLatency) -> str:
        text = f"Batch of {each.batch}: one pass takes {each.whole.median:.3g} ± {each.whole.spread:.2g} ms"
        runs = [
            f"{' + '.join(run.blocks) or 'heads alone'} {run.time.median:.3g} ± {run.time.spread:.2g} "
            f"(from blocks {self.predicted(run.blocks, each.batch):.3g})"
            for run in each.measured
        ]
        return f"{text}; all tasks from end to end: {', '.join(runs)}." if runs else f"{text}."

    # --- files --------------------------------------------------------------------------------
    def to_json(self) -> dict[str, Any]:
        listed = {name: list(getattr(self, name)) for name in ("blocks", "num_parameters", "tuned_bytes")}
        batches = [each.to_json() for each in self.batches]
        return {"format": FORMAT, **checks.written(self), **listed, "batches": batches}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LatencyProfile:
        version = checks.instance(dict, data, "A latency profile").get("format")
        if version != FORMAT:
            raise ArgumentsError(f"A latency profile must be of format {FORMAT}, found {version!r}. Measure it again.")
        values = checks.exactly(cls, {name: value for name, value in data.items() if name != "format"})
        for name in ("blocks", "num_parameters", "tuned_bytes", "batches"):
            values[name] = tuple(checks.instance(list, values[name], f"LatencyProfile.{name}"))
        return cls(**values | {"batches": tuple(map(BatchLatency.from_json, values["batches"]))})

    def save(self, path: str | os.PathLike) -> Path:
        """Write it as JSON."""
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(self.to_json(), indent=1) + "\n", encoding="utf-8")
        return file

    @classmethod
    def load(cls, path: str | os.PathLike) -> LatencyProfile:
        """
        Read what [`LatencyProfile.save`] has written.

        Raises: [`ArgumentsError`]: If there is no such file, or it holds something else.
        """
        try:
            return cls.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            reason = str(error) if isinstance(error, SubTuningError) else f"{type(error).__name__}: {error}"
            raise ArgumentsError(
                f"'{path}' must be a latency profile (latency.json). {reason} Make one: `subtuning latency MODEL`."
            ) from error
