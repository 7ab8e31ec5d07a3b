"""
A comparison with other ways to fine-tune, as it was written beside an adapter.

Knows the rows of a comparison as JSON; not how they came about.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

# Of `subtuning compare`, in the folder of its recipe or its own, and of the demo.
FILE_NAMES = ("comparison/comparison.json", "comparison.json", "results.json")
_NUMBERS = ("mean", "num_examples", "trainable_parameters", "seconds")


def read_comparison(folders: Sequence[Path], blocks: Collection[str]) -> list[dict[str, Any]]:
    """
    The methods that were compared, if a comparison lies in one of some folders and is about these blocks.

    Args:
        folders (`Sequence[Path]`): Where the files of `FILE_NAMES` are looked for, in this order.
        blocks (`Collection[str]`): Blocks of the adapter: a comparison of another selection says nothing of it.

    Returns: `list[dict]`: rows of `compare.method_rows`; `[]` where there is none.
    """
    for file in (folder / name for folder in folders for name in FILE_NAMES):
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        rows = found.get("methods") if isinstance(found, dict) else None
        if rows is not None and is_comparison(rows, blocks):
            return list(rows)
    return []


def is_comparison(rows: Any, blocks: Collection[str]) -> bool:
    """`bool`: whether these are rows of a comparison, one of them of these blocks."""
    if not isinstance(rows, Sequence) or isinstance(rows, str) or len(rows) < 2 or not all(map(_is_row, rows)):
        return False
    return any(row["blocks"] is not None and set(row["blocks"]) == set(blocks) for row in rows)


def _is_row(row: Any) -> bool:
    if not isinstance(row, dict) or not isinstance(row.get("method"), str):
        return False
    listed = row.get("blocks", 0)
    if listed is not None and not (isinstance(listed, list) and all(isinstance(name, str) for name in listed)):
        return False
    rate = row.get("learning_rate")  # what is fitted in closed form has none
    numbers = (*(row.get(name) for name in _NUMBERS), *(() if rate is None else (rate,)))
    return all(map(_is_number, numbers)) and isinstance(row.get("scores"), list)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
