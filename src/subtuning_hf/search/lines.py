"""
The format of a journal file: what a line says, and up to which byte a file is sound.

A file is UTF-8 with one JSON object a line. The first line is the header: what the study is, and the number of the
format. Every other line is one record. A line that was cut while it was written is the last one and has no newline;
anything else that cannot be read is damage and is refused with its line number. Knows neither folders nor locks.

Format 1 had neither final runs nor repeats, budgets, directions other than forward, or pruners. What is at its default
is written as it was then, so a file of format 1 is continued as one and keeps its header. Format 2 had no proposals,
no search that knew what serving costs, and none that started from another.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ..errors import JournalCorruptError, JournalVersionError, SubTuningError, how_to_install
from .proposed import ProposalRun
from .records import Decision, Evaluation, FinalRun, SearchSpec, StudySpec

FORMAT = 3
Entry = Evaluation | SearchSpec | Decision | FinalRun | ProposalRun
_KINDS: dict[str, type[Entry]] = {
    "evaluation": Evaluation,
    "search": SearchSpec,
    "decision": Decision,
    "final": FinalRun,
    "proposal": ProposalRun,
}
_START = b'{"type":"study",'


@dataclass(frozen=True)
class Contents:
    """
    What a journal file holds.

    Args:
        spec ([`StudySpec`], *optional*): The header; None if the file ends before it does.
        entries (`tuple[Entry, ...]`): Its records in the order they were written.
        length (`int`): Bytes that are sound; what follows is a line cut while it was written.
        terminated (`bool`): Whether the sound part ends with a newline.
    """

    spec: StudySpec | None = None
    entries: tuple[Entry, ...] = ()
    length: int = 0
    terminated: bool = True


def header_line(spec: StudySpec) -> bytes:
    return _line({"type": "study", "format": FORMAT} | spec.to_json())


def entry_line(entry: Entry) -> bytes:
    kind = next(name for name, record in _KINDS.items() if isinstance(entry, record))
    return _line({"type": kind} | entry.to_json())


def _line(data: dict[str, Any]) -> bytes:
    # ASCII, so that any text survives, even one that UTF-8 cannot hold; and NaN is not JSON.
    return json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii") + b"\n"


def parse(data: bytes, path: Path) -> Contents:
    """
    Read a journal file.

    Args:
        data (`bytes`): All of the file.
        path (`Path`): Its name, for messages.

    Returns: [`Contents`]
    Raises:
        [`JournalCorruptError`]: If a line is damaged, or this is no journal at all.
        [`JournalVersionError`]: If a newer version wrote it.
    """
    *lines, tail = data.split(b"\n")
    terminated = True
    if tail and _loads(tail) is not None:
        lines, tail, terminated = [*lines, tail], b"", False
    if not lines:
        if tail and not _may_be_cut_header(tail):
            _foreign(path)
        return Contents()
    spec = _header(lines[0], path)
    entries = tuple(_entry(line, path, number) for number, line in enumerate(lines[1:], start=2))
    return Contents(spec, entries, len(data) - len(tail), terminated)


def _loads(line: bytes) -> dict[str, Any] | None:
    """The object in a line, or None if it holds none."""
    try:
        data = json.loads(line.decode("utf-8"), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _may_be_cut_header(tail: bytes) -> bool:
    """Whether a lone unfinished line can be ours; a file of something else must never be repaired away."""
    # A file system may keep the length of a file whose data a power cut has lost: zeros.
    return tail.startswith(_START) or _START.startswith(tail) or not tail.strip(b"\0")


def _header(line: bytes, path: Path) -> StudySpec:
    data = _loads(line)
    if data is None or data.pop("type", None) != "study":
        _foreign(path)
    version = data.pop("format", None)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise JournalCorruptError(f"{path}, line 1: `format` must be a whole number of 1 or more, found {version!r}.")
    if version > FORMAT:
        raise JournalVersionError(
            f"{path} has journal format {version}, and this version of subtuning-hf reads formats up to {FORMAT}. "
            f"Upgrade it ({how_to_install()}), or use another output_dir."
        )
    try:
        return StudySpec.from_json(data)
    except SubTuningError as error:
        raise JournalCorruptError(f"{path}, line 1: the header of the journal is damaged: {error}") from error


def _foreign(path: Path) -> NoReturn:
    raise JournalCorruptError(
        f"{path} is no journal: its first line must be the header of a study. Move the file away, or restore it from a "
        "copy if it was a journal once."
    )


def _entry(line: bytes, path: Path, number: int) -> Entry:
    data = _loads(line)
    way_out = "Restore the file from a copy, or delete this line: what it held is then done again."
    if data is None:
        raise JournalCorruptError(f"{path}, line {number}: must be a JSON object, found {line[:60]!r}. {way_out}")
    kind = data.pop("type", None)
    if not isinstance(kind, str) or kind not in _KINDS:
        known = ", ".join(map(repr, _KINDS))
        raise JournalCorruptError(f"{path}, line {number}: `type` must be one of {known}, found {kind!r}. {way_out}")
    try:
        return _KINDS[kind].from_json(data)
    except SubTuningError as error:
        raise JournalCorruptError(f"{path}, line {number}: {error} {way_out}") from error
