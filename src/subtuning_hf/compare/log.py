"""
Finished runs on disk, so that a comparison that was stopped goes on where it was.

Append-only JSONL, one line per run, keyed by everything that can change its result; each process writes a file of its
own and reads those of all. Knows no model and no data.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..search.lock import FileLock
from ..training.preflight import check_writable


class RunLog:
    """
    Runs by key.

    Args:
        path (`str` or `os.PathLike`, *optional*): The file of the first process; `None` keeps the runs in memory only.
        process (`int`, *optional*, defaults to 0): Number of this process; others than the first write `NAME-PROCESS`.
    """

    def __init__(self, path: str | os.PathLike | None = None, process: int = 0) -> None:
        self.path = None if path is None else _file_of(Path(path), process)
        self.reused = 0
        self._runs: dict[str, dict[str, Any]] = {}
        if path is not None:
            first = Path(path)
            for file in sorted({first, *first.parent.glob(f"{first.stem}-[0-9]*{first.suffix}")}):
                if file.exists():
                    self._read(file, mend=file == self.path)

    def _read(self, path: Path, mend: bool) -> None:
        good = 0
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break  # the process was killed while it wrote this line
                self.learn(line.decode())
                good += len(line)
        if mend and good < path.stat().st_size:
            os.truncate(path, good)

    @staticmethod
    def name(key: dict[str, Any]) -> str:
        """A key as text."""
        return json.dumps(key, sort_keys=True)

    def has(self, name: str) -> bool:
        """Whether the run of a key is known."""
        return name in self._runs

    def found(self, name: str) -> dict[str, Any]:
        """The run of a key that is known."""
        return self._runs[name]

    def learn(self, line: str) -> str:
        """Know a run from its line. Returns: `str`: its key as text."""
        record = json.loads(line)
        name = self.name(record["key"])
        self._runs[name] = record["run"]
        return name

    @staticmethod
    def line(name: str, run: dict[str, Any]) -> str:
        """A run as its line."""
        return json.dumps({"key": json.loads(name), "run": run}) + "\n"

    def get_or_run(self, key: dict[str, Any], run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """
        The run of a key: the stored one, else a new one, which is on disk before it is returned.

        Args:
            key (`dict`): JSON that names everything the result depends on.
            run (`Callable`): Does the work; its result is JSON.

        Returns: `dict`: the result.
        """
        name = self.name(key)
        if name in self._runs:
            self.reused += 1
            return self._runs[name]
        result = run()
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(self.line(name, result))
                file.flush()
                os.fsync(file.fileno())
        self._runs[name] = result
        return result


@contextmanager
def only_writer(log: Path | None, process: int = 0) -> Iterator[None]:
    """
    Hold a log alone, from before anything is trained.

    Args:
        log (`Path`, *optional*): Its file; nothing is held without one.
        process (`int`, *optional*): Only the first one of a launch holds it, for all.

    Raises: [`JournalError`]: If its folder cannot be written to. [`JournalBusyError`]: If another launch holds it.
    """
    if log is None or process:
        yield
        return
    check_writable(log.parent)
    log.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(log.with_name(f"{log.name}.lock"))
    try:
        yield
    finally:
        lock.close()


def _file_of(path: Path, process: int) -> Path:
    return path if process == 0 else path.with_name(f"{path.stem}-{process:04d}{path.suffix}")
