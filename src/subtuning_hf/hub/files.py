"""
Which files of an output folder go to the Hub.

An output folder also holds what is of no use elsewhere or must not leave the machine: locks, stored inputs of blocks,
folders of trainings under way, and `training_args.bin`, a pickle in which the token for the Hub stands in plain text.
A report is a page for whoever made the study: it tells of comparisons and machines, and is only published on purpose.
"""

from __future__ import annotations

import os
import re
from fnmatch import fnmatchcase
from pathlib import Path

JOURNAL = "journal"
# What `subtuning report` writes beside the journal unless told otherwise.
REPORT = "report.html"
# Of Trainer: what begins with an underscore and checkpoints stay here.
_LEFT = ("_*", "checkpoint-*", ".*")
_LEFT_FILES = ("*.lock", "training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state*.pth")

_NOT_OF_CHECKPOINTS = ("training_args.bin", "README.md")


def pushed_files(folder: str | os.PathLike[str], report: bool = False) -> list[str]:
    """
    The files that are pushed, of a folder with an adapter.

    Everything but hidden files, checkpoints, locks and pickled states of trainings; of the journal its records alone.

    Args:
        folder (`str` or `os.PathLike`): The folder.
        report (`bool`, *optional*, defaults to `False`): Whether its `report.html` goes along.

    Returns: `list[str]`: paths in it with slashes, sorted.
    """
    root = Path(folder)
    found = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in found if _goes(path) and (report or path.as_posix() != REPORT))


def _goes(path: Path) -> bool:
    if any(fnmatchcase(part, pattern) for part in path.parts for pattern in _LEFT):
        return False
    if any(fnmatchcase(path.name, pattern) for pattern in _LEFT_FILES):
        return False
    return path.parts[0] != JOURNAL or (len(path.parts) == 2 and path.suffix == ".jsonl")


def checkpoint_files(folder: str | os.PathLike[str]) -> list[str]:
    """
    The files of a checkpoint from which a training can go on, its states among them.

    Without the arguments, for their token, and without PEFT's form of a card: the Hub refuses it where the base has no
    name.

    Args:
        folder (`str` or `os.PathLike`): The checkpoint.

    Returns: `list[str]`: paths in it with slashes, sorted.
    """
    found = (path for path in Path(folder).rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in found if path.name not in _NOT_OF_CHECKPOINTS)


def as_patterns(files: list[str]) -> list[str]:
    """`list[str]`: patterns that fit these paths and no others."""
    return [re.sub(r"([*?\[])", r"[\1]", name) for name in files]
