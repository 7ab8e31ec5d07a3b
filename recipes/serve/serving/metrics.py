"""
Counts and histograms in Prometheus' text format.

Knows names and numbers; does not know requests or models.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Histogram:
    """
    Counts of values up to given bounds.

    Args:
        bounds (`Sequence[float]`): Ascending.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts, self.sum = tuple(bounds), [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str) -> list[str]:
        """Its lines: one for each bound, cumulative, then sum and count."""
        lines, total = [], 0
        for bound, count in zip([*self.bounds, "+Inf"], self.counts, strict=True):
            total += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return [*lines, f"{name}_sum {self.sum:.6f}", f"{name}_count {total}"]


class Metrics:
    """What a server has done since it started; threads may share one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests: Counter[tuple[str, int]] = Counter()
        self.rows = self.answers = 0
        self.batches, self.requested, self.ran = Histogram(BATCHES), Histogram(SECONDS), Histogram(SECONDS)

    def request(self, tasks: Iterable[str], status: int, seconds: float) -> None:
        """
        Count a request.

        Args:
            tasks (`Iterable[str]`): Those it was about; none if it failed before they were known, so that what clients
                make up does not become a series.
            status (`int`): HTTP status.
            seconds (`float`): From its arrival to its answer.
        """
        with self._lock:
            for task in tuple(tasks) or ("",):
                self.requests[task, status] += 1
            self.requested.add(seconds)

    def batch(self, rows: int, answers: int, seconds: float) -> None:
        """
        Count a batch.

        Args:
            rows (`int`): Requests in it.
            answers (`int`): Rows times tasks that were answered.
            seconds (`float`): It took.
        """
        with self._lock:
            self.rows += rows
            self.answers += answers
            self.batches.add(rows)
            self.ran.add(seconds)

    def text(self, gauges: Mapping[str, float]) -> str:
        """
        Everything, as Prometheus reads it.

        Args:
            gauges (`Mapping[str, float]`): What is now, by name.
        """
        with self._lock:
            asked = [
                f'subtuning_requests_total{{task="{_escaped(task)}",status="{status}"}} {count}'
                for (task, status), count in sorted(self.requests.items())
            ]
            parts = [
                _family("requests_total", "counter", "Predictions asked for, by task and HTTP status.", asked),
                _number("rows_total", "counter", "Inputs that were run.", self.rows),
                _number("answers_total", "counter", "Answers given: inputs times tasks.", self.answers),
                _histogram("batch_rows", "Inputs in a batch.", self.batches),
                _histogram("batch_seconds", "Time of a batch.", self.ran),
                _histogram("request_seconds", "Time from a request's arrival to its answer.", self.requested),
            ]
        parts += [_number(name, "gauge", f"Now: {name.replace('_', ' ')}.", value) for name, value in gauges.items()]
        return "\n".join(line for part in parts for line in part) + "\n"


def _family(name: str, kind: str, about: str, lines: Sequence[str]) -> list[str]:
    return [f"# HELP subtuning_{name} {about}", f"# TYPE subtuning_{name} {kind}", *lines]


def _number(name: str, kind: str, about: str, value: float) -> list[str]:
    return _family(name, kind, about, [f"subtuning_{name} {value}"])


def _histogram(name: str, about: str, values: Histogram) -> list[str]:
    return _family(name, "histogram", about, values.lines(f"subtuning_{name}"))


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
