"""
Reading a journal that may be damaged: what can be read, and what was left out.

A search refuses a damaged journal, since it would decide by it. A report decides nothing: it shows what there is and
says what is missing. Writes nothing.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import JournalCorruptError, JournalError, JournalVersionError, StudyMismatchError
from ..search.journal import SUFFIX, Study, read_study
from ..search.lines import Entry, parse
from ..search.proposed import ProposalRun
from ..search.records import Decision, Evaluation, FinalRun, SearchSpec, StudySpec

# So many damaged lines of a file are named.
_FEW = 5


@dataclass(frozen=True)
class Salvaged:
    """
    What a journal holds.

    Args:
        study ([`~search.journal.Study`]): All that can be read.
        damage (`tuple[str, ...]`): What could not be read, in sentences; none for a sound journal.
        cut (`tuple[str, ...]`): Files whose last line is not whole: it is being written, or its writer was killed.
    """

    study: Study
    damage: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()


@dataclass
class _File:
    name: str
    spec: StudySpec
    entries: list[Entry] = field(default_factory=list)
    bad: list[tuple[int, str]] = field(default_factory=list)

    @property
    def num_evaluations(self) -> int:
        return sum(isinstance(entry, Evaluation) for entry in self.entries)


def salvage(folder: str | os.PathLike[str]) -> Salvaged:
    """
    Read a journal as far as it can be read.

    Args:
        folder (`str` or `os.PathLike`): Folder of the journal.

    Returns: [`Salvaged`]
    Raises:
        [`JournalError`]: If there is none, or nothing in it can be read.
        [`JournalVersionError`]: If a newer version wrote it.
    """
    try:
        return Salvaged(read_study(folder), (), _cut(Path(folder)))
    except JournalVersionError:
        raise
    except (JournalCorruptError, StudyMismatchError) as error:
        return _salvage(Path(folder), error)


def _paths(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if path.name[0] != "." and path.is_file())


def _cut(folder: Path) -> tuple[str, ...]:
    return tuple(path.name for path in _paths(folder) if _ends_in(path) not in (b"\n", b""))


def _ends_in(path: Path) -> bytes:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read()


def _salvage(folder: Path, error: Exception) -> Salvaged:
    files: list[_File] = []
    damage = []
    for path in _paths(folder):
        try:
            found = _read(path)
        except (JournalError, OSError) as refused:
            if isinstance(refused, JournalVersionError):
                raise
            damage.append(f"{path.name} was left out: {_reason(refused, path)}")
            continue
        if found is not None:
            files.append(found)
    if not files:
        raise JournalError(
            f"'{folder}' holds no journal that can be read: every file in it is damaged or something else. {error}"
        ) from error
    prints = {each.spec.fingerprint: each.spec for each in files}
    weights = {print_: sum(f.num_evaluations for f in files if f.spec.fingerprint == print_) for print_ in prints}
    taken = max(prints, key=lambda print_: weights[print_])
    for each in files:
        if each.spec.fingerprint != taken:
            damage.append(
                f"{each.name} was left out: it belongs to another study than the other files, with "
                f"{each.num_evaluations:,} evaluations."
            )
    files = [each for each in files if each.spec.fingerprint == taken]
    damage += [_told(each) for each in files if each.bad]
    return Salvaged(_joined(files), tuple(damage), _cut(folder))


def _read(path: Path) -> _File | None:
    """A file without its damaged lines; `None` for one that ends before its first record."""
    data = path.read_bytes()
    header, *lines = data.split(b"\n")
    if not lines:
        parse(data, path)  # damage, or a header that was cut
        return None
    spec = parse(header + b"\n", path).spec
    assert spec is not None
    tail = lines.pop()
    found = _File(path.name, spec)
    _take(found, path, header, lines, 0, len(lines))
    if tail:  # parse tells a line that was cut from a whole one
        found.entries += parse(header + b"\n" + tail, path).entries if _sound(header, tail, path) else ()
    return found


def _sound(header: bytes, tail: bytes, path: Path) -> bool:
    try:
        parse(header + b"\n" + tail, path)
    except JournalCorruptError:
        return False
    return True


def _take(found: _File, path: Path, header: bytes, lines: list[bytes], first: int, last: int) -> None:
    """Lines in halves, until what is damaged stands alone: few lines are, so few are read twice."""
    if first == last:
        return
    try:
        found.entries += parse(b"\n".join([header, *lines[first:last], b""]), path).entries
    except JournalCorruptError as error:
        if last - first == 1:
            found.bad.append((first + 2, _reason(error, path)))
            return
        middle = (first + last) // 2
        _take(found, path, header, lines, first, middle)
        _take(found, path, header, lines, middle, last)


def _reason(error: Exception, path: Path) -> str:
    """What is wrong, without the path on this machine and without what a search would ask for."""
    words = str(error).replace(str(path), path.name).partition(" Restore the file")[0].partition(" Move the file")[0]
    return re.sub(rf"^{re.escape(path.name)}, line \d+: ", "", words)[:300]


def _told(file: _File) -> str:
    listed = "; ".join(f"line {number}: {reason}" for number, reason in file.bad[:_FEW])
    more = f"; and {len(file.bad) - _FEW:,} more" if len(file.bad) > _FEW else ""
    lines = "1 line is" if len(file.bad) == 1 else f"{len(file.bad):,} lines are"
    return f"{file.name}: {lines} damaged and left out ({listed}{more})."


def _joined(files: list[_File]) -> Study:
    entries = [entry for file in files for entry in file.entries]

    def of(kind: type) -> tuple:
        return tuple(entry for entry in entries if isinstance(entry, kind))

    writers = [Path(f.name).stem for f in files for entry in f.entries if isinstance(entry, Evaluation)]
    return Study(
        files[0].spec, of(Evaluation), of(SearchSpec), of(Decision), of(FinalRun), of(ProposalRun), tuple(writers)
    )
