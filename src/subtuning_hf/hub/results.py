"""
The scores of an adapter on rows that chose nothing, as a JSON file beside it.

The results in the card's metadata name it as their source. Knows numbers; not how they were measured.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from .facts import Measured

FILE_NAME = "test_results.json"


def write_results(folder: Path, blocks: Collection[str], measured: Sequence[Measured]) -> Path | None:
    """
    Write what was measured, beside what stands there of the same blocks already.

    Args:
        folder (`Path`): Where the adapter is.
        blocks (`Collection[str]`): Its blocks.
        measured (`Sequence[Measured]`): Evaluations; of rows that steered the training nothing is written.

    Returns: `Path` or `None`: the file; `None` if there is nothing to write, and then nothing is.
    """
    found = {
        f"{one.split}_{name}": value
        for one in measured
        if not one.steered
        for name, value in one.metrics.items()
        if math.isfinite(value)
    }
    if not found:
        return None
    file = folder / FILE_NAME
    file.write_text(json.dumps({**_known(file, blocks), **found}, indent=2) + "\n", encoding="utf-8")
    return file


def _known(file: Path, blocks: Collection[str]) -> dict[str, Any]:
    """What a file says, if it is about these blocks, such as the scores of several seeds."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    same = isinstance(found, dict) and found.get("blocks") == list(blocks)
    return found if same else {"blocks": list(blocks)}


def results_url(adapter: str, revision: str | None = None) -> str | None:
    """
    Where the file is once it was pushed.

    Args:
        adapter (`str`): Name on the Hub, or a folder.
        revision (`str`, *optional*): Branch that is pushed to.

    Returns: `str` or `None`: `None` for a folder.
    """
    return f"https://huggingface.co/{adapter}/blob/{revision or 'main'}/{FILE_NAME}" if "/" in adapter else None
