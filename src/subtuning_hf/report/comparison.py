"""
Rows of a comparison with other methods, from what it wrote: its result, or else the log of its runs.

Reads only: a log that another process is writing to is left as it is. Knows results and lines of `compare` as JSON.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

RESULTS = ("comparison.json", "results.json")
LOG = "runs.jsonl"
MOST_BYTES = 100_000_000  # what is larger is none of ours
_NUMBERS = ("score", "num_examples", "trainable_parameters", "seconds")
_OF_ROW = ("mean", "num_examples", "trainable_parameters", "seconds")


def read_rows(folder: Path, blocks: Collection[str]) -> tuple[list[dict[str, Any]], str] | None:
    """
    The methods of a comparison of these blocks that lies in a folder.

    Args:
        folder (`Path`): Where its files are.
        blocks (`Collection[str]`): The chosen blocks: a comparison of another selection says nothing of them.

    Returns: `tuple[list[dict], str]` or `None`: rows as `compare.method_rows` gives them, and the name of the file.
    """
    for name in RESULTS:
        rows = _rows_of_result(folder / name, blocks)
        if rows:
            return rows, name
    rows = rows_of_log(folder / LOG, blocks)
    return (rows, LOG) if rows else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.stat().st_size <= MOST_BYTES else ""
    except OSError:
        return ""


def _rows_of_result(path: Path, blocks: Collection[str]) -> list[dict[str, Any]]:
    try:
        found = json.loads(_read(path))
    except (ValueError, RecursionError):
        return []
    listed = found.get("methods") if isinstance(found, dict) else None
    rows = [row for row in listed if _is_row(row)] if isinstance(listed, list) else []
    ours = any(isinstance(row.get("blocks"), list) and set(row["blocks"]) == set(blocks) for row in rows)
    return rows if ours and len(rows) > 1 else []


def _is_row(row: Any) -> bool:
    if not isinstance(row, dict) or not isinstance(row.get("method"), str) or not isinstance(row.get("scores"), list):
        return False
    names, rate = row.get("blocks") or [], row.get("learning_rate")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return False
    optional = (rate, row.get("spread"), row.get("cv_mean"), row.get("tuning_seconds"))
    return all(_is_number(row.get(name)) for name in _OF_ROW) and all(x is None or _is_number(x) for x in optional)


def rows_of_log(path: Path, blocks: Collection[str]) -> list[dict[str, Any]]:
    """
    The methods of a comparison of these blocks.

    Args:
        path (`Path`): The log of its runs; lines that are none are left out.
        blocks (`Collection[str]`): The chosen blocks: a comparison of another selection says nothing of them.

    Returns: `list[dict]`: as `compare.method_rows`: LP, FT and the selections that were scored on test rows; `[]` where
        these blocks are not among them, or nothing else is.
    """
    runs = [run for run in map(_run, _lines(path)) if run is not None]
    wanted = tuple(sorted(blocks))
    tasks = Counter(run["task"] for run in runs if run["blocks"] == wanted and run["scored"] == "test")
    if not tasks:
        return []
    task = tasks.most_common(1)[0][0]
    mine = [run for run in runs if run["task"] == task]
    methods = dict.fromkeys(run["blocks"] for run in mine if run["scored"] == "test")
    rows = [_row(selection, [run for run in mine if run["blocks"] == selection], wanted) for selection in methods]
    return rows if len(rows) > 1 else []


def _lines(path: Path) -> list[Any]:
    found = []
    for line in _read(path).splitlines():
        try:
            found.append(json.loads(line))
        except (ValueError, RecursionError):
            continue  # being written, or damaged
    return found


def _run(line: Any) -> dict[str, Any] | None:
    """A run with what tells it from others; `None` for anything else."""
    if not isinstance(line, dict) or not isinstance(line.get("key"), dict) or not isinstance(line.get("run"), dict):
        return None
    key, run = line["key"], line["run"]
    blocks, rate = key.get("blocks"), key.get("learning_rate")
    if isinstance(blocks, list) and all(isinstance(name, str) for name in blocks):
        selection: tuple[str, ...] | str = tuple(sorted(blocks))
    elif blocks == "all":
        selection = "all"
    else:
        return None
    if not _is_number(rate) or not all(_is_number(run.get(name)) for name in _NUMBERS):
        return None
    told = {"task": str(key.get("task")), "blocks": selection, "rate": rate, "scored": str(key.get("scored"))}
    return {**{name: run[name] for name in _NUMBERS}, **told}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _row(selection: tuple[str, ...] | str, runs: list[dict[str, Any]], chosen: tuple[str, ...]) -> dict[str, Any]:
    tested = [run for run in runs if run["scored"] == "test"]
    rate = Counter(run["rate"] for run in tested).most_common(1)[0][0]
    tested = [run for run in tested if run["rate"] == rate]
    trials = [run for run in runs if run["scored"] != "test"]
    tried = sorted({run["rate"] for run in trials})
    scores = [run["score"] for run in tested]
    return {
        "method": _name(selection, chosen),
        "blocks": None if selection == "all" else list(selection),
        "mean": statistics.fmean(scores),
        "spread": statistics.stdev(scores) if len(scores) > 1 else None,
        "scores": scores,
        "num_examples": tested[0]["num_examples"],
        "cv_mean": _mean([run for run in trials if run["rate"] == rate]),
        "learning_rate": rate,
        "learning_rate_at_edge": len(tried) > 1 and rate in (tried[0], tried[-1]),
        "trainable_parameters": tested[0]["trainable_parameters"],
        "seconds": statistics.fmean(run["seconds"] for run in tested),
    }


def _name(selection: tuple[str, ...] | str, chosen: tuple[str, ...]) -> str:
    if selection == "all":
        return "FT"
    if selection == chosen:
        return "SubTuning" if chosen else "LP"
    return " + ".join(selection) or "LP"


def _mean(trials: list[dict[str, Any]]) -> float | None:
    rows = sum(run["num_examples"] for run in trials)
    return math.fsum(run["score"] * run["num_examples"] for run in trials) / rows if rows else None
