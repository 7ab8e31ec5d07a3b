"""
Finished runs on disk, so that a comparison that was stopped goes on where it was.

Append-only JSONL, one line per run, keyed by everything that can change its result. Knows no model and no data.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


class RunLog:
    """
    Runs by key.

    Args:
        path (`str` or `os.PathLike`, *optional*): The file; `None` keeps the runs in memory only.
    """

    def __init__(self, path: str | os.PathLike | None = None) -> None:
        self.path = Path(path) if path is not None else None
        self.reused = 0
        self._runs: dict[str, dict[str, Any]] = {}
        if self.path is not None and self.path.exists():
            self._read(self.path)

    def _read(self, path: Path) -> None:
        good = 0
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    break  # the process was killed while it wrote this line
                record = json.loads(line)
                self._runs[self._key(record["key"])] = record["run"]
                good += len(line)
        if good < path.stat().st_size:
            os.truncate(path, good)

    @staticmethod
    def _key(key: dict[str, Any]) -> str:
        return json.dumps(key, sort_keys=True)

    def get_or_run(self, key: dict[str, Any], run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """
        The run of a key: the stored one, else a new one, which is on disk before it is returned.

        Args:
            key (`dict`): JSON that names everything the result depends on.
            run (`Callable`): Does the work; its result is JSON.

        Returns: `dict`: the result.
        """
        text = self._key(key)
        if text in self._runs:
            self.reused += 1
            return self._runs[text]
        result = run()
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "run": result}) + "\n")
                file.flush()
                os.fsync(file.fileno())
        self._runs[text] = result
        return result
