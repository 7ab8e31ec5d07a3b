"""
The journal: every finished evaluation on disk, from which a study is read back.

A study is a folder of append-only files, one for each process that writes; what they hold together is the study. A
record is on disk when `append` returns. A process may be killed anywhere: a line it had begun is removed when the file
is next opened for writing, and not seen by readers. Reading needs no lock. Knows nothing of how records come about.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from ..errors import ArgumentsError, JournalError, StudyMismatchError
from .lines import Contents, Entry, entry_line, header_line, parse
from .lock import FileLock
from .proposed import ProposalRun
from .records import Decision, Evaluation, FinalRun, SearchSpec, StudySpec

SUFFIX = ".jsonl"


@dataclass(frozen=True)
class Study:
    """
    Everything in a journal.

    Records are in the order of the files' names and of the lines in each, which does not depend on who reads.

    Args:
        spec ([`StudySpec`]): What the study is.
        evaluations (`tuple[Evaluation, ...]`): Every finished evaluation.
        searches (`tuple[SearchSpec, ...]`): The searches that were begun.
        decisions (`tuple[Decision, ...]`): The rounds that were decided.
        finals (`tuple[FinalRun, ...]`): Trainings of chosen blocks on the whole training set; no decision reads them.
        proposals (`tuple[ProposalRun, ...]`): What was predicted, for searches that predict.
        writers (`tuple[str, ...]`): For each evaluation the writer whose file it is in; not compared.
    """

    spec: StudySpec
    evaluations: tuple[Evaluation, ...] = ()
    searches: tuple[SearchSpec, ...] = ()
    decisions: tuple[Decision, ...] = ()
    finals: tuple[FinalRun, ...] = ()
    proposals: tuple[ProposalRun, ...] = ()
    writers: tuple[str, ...] = field(default=(), compare=False)


def read_study(folder: str | os.PathLike[str]) -> Study:
    """
    Read the journal in a folder.

    Args:
        folder (`str` or `os.PathLike`): Folder of the journal; files in it that do not end in `.jsonl` are left alone.

    Returns: [`Study`]: Lines that are being written at the moment are left out.
    Raises:
        [`JournalError`]: If there is none, or it cannot be read.
        [`JournalCorruptError`]: If a line is damaged, or a `.jsonl` file is no journal.
        [`JournalVersionError`]: If a newer version wrote it.
        [`StudyMismatchError`]: If its files are of different studies.
    """
    study = find_study(folder)
    if study is None:
        raise JournalError(
            f"There is no journal in '{folder}'. A search makes it when it begins, in the folder `journal` of its "
            "output_dir."
        )
    return study


def find_study(folder: str | os.PathLike[str]) -> Study | None:
    """
    As [`read_study`], but `None` where nothing was journalled yet.

    Args:
        folder (`str` or `os.PathLike`): The journal, which need not exist.

    Returns: [`Study`] or `None`
    """
    found: list[tuple[Path, StudySpec, Contents]] = []
    for path in _files(Path(folder)):
        contents = _read(path)
        if contents.spec is not None:
            found.append((path, contents.spec, contents))
    if not found:
        return None
    first, spec, _ = found[0]
    for path, other, _ in found[1:]:
        if other.fingerprint != spec.fingerprint:
            raise StudyMismatchError(
                f"All files of a journal must be of one study, but {first} and {path} are not. "
                f"{_listed(spec, other)}\nMove one of them away."
            )
    entries = [entry for *_, contents in found for entry in contents.entries]
    return Study(
        spec,
        tuple(entry for entry in entries if isinstance(entry, Evaluation)),
        tuple(entry for entry in entries if isinstance(entry, SearchSpec)),
        tuple(entry for entry in entries if isinstance(entry, Decision)),
        tuple(entry for entry in entries if isinstance(entry, FinalRun)),
        tuple(entry for entry in entries if isinstance(entry, ProposalRun)),
        tuple(path.stem for path, _, contents in found for entry in contents.entries if isinstance(entry, Evaluation)),
    )


class Journal:
    """
    One process' file of a journal, open for writing. Made by [`Journal.open`]; for one thread.

    Nothing is made on disk before the first `append`, so that a search that is refused leaves no trace.

    Args:
        folder (`str` or `os.PathLike`), spec ([`StudySpec`]), writer (`str`, *optional*): As in [`Journal.open`].

    Example:
        ```python
        with Journal.open("out/journal", spec) as journal:
            state = replay(spec, search, journal.read().evaluations)
            journal.append(search)
            journal.append(evaluation)
        ```
    """

    def __init__(self, folder: str | os.PathLike[str], spec: StudySpec, writer: str = "rank-0000") -> None:
        if not isinstance(writer, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", writer):
            raise ArgumentsError(f"`writer` must be made of letters, digits, '.', '_' and '-', found {writer!r}.")
        self.folder = Path(folder)
        self.spec = spec
        self.path = self.folder / f"{writer}{SUFFIX}"
        self._lock: FileLock | None = None
        self._file: _AppendOnly | None = None
        self._closed = False

    @classmethod
    def open(cls, folder: str | os.PathLike[str], spec: StudySpec, writer: str = "rank-0000") -> Journal:
        """
        Open a journal for writing, new or to be continued.

        Args:
            folder (`str` or `os.PathLike`): Folder of the journal; it need not exist.
            spec ([`StudySpec`]): The study.
            writer (`str`, *optional*, defaults to `"rank-0000"`): Name of this process' file.

        Returns: [`Journal`]
        Raises:
            [`StudyMismatchError`]: If the folder holds another study; nothing is changed then.
            [`JournalBusyError`]: If another process writes to this file.
            [`JournalError`]: If the journal cannot be read or written, is damaged, or is of a newer version.
        """
        journal = cls(folder, spec, writer)
        study = find_study(folder)
        if study is not None:
            journal._check(study.spec)
        if journal.path.exists():
            try:
                journal._start()
            except BaseException:
                journal.close()
                raise
        return journal

    def read(self) -> Study:
        """All of the study as it is now, from every writer."""
        return find_study(self.folder) or Study(self.spec)

    def append(self, entry: Entry) -> None:
        """
        Put a record on disk.

        Args:
            entry ([`Evaluation`], [`SearchSpec`], [`Decision`], [`FinalRun`] or [`ProposalRun`]): The record.

        Raises:
            [`JournalBusyError`]: If another process began to write to this file meanwhile.
            [`JournalError`]: If it cannot be written; the file is then as it was before.
        """
        if not isinstance(entry, Entry):
            found = type(entry).__name__
            kinds = "evaluations, searches, decisions, final runs and proposals"
            raise ArgumentsError(f"A journal holds {kinds}, found {found}.")
        if self._closed:
            raise JournalError(f"{self.path} was closed, so nothing can be appended. Open it again.")
        if self._lock is not None and not self._lock.held:
            raise JournalError(f"{self.path} was opened by the parent of this process, which alone may append to it.")
        line = entry_line(entry)
        try:
            file = self._file or self._start()
            file.append(line if file.size else header_line(self.spec) + line)
        except BaseException:
            if self._file is None or not self._file.size:
                self._stop()  # nothing of ours is on disk, and nothing is held
            raise

    def take(self) -> None:
        """
        Take this file for oneself now, and not with the first record: for what is to be written beside it.

        Raises:
            [`JournalBusyError`]: If another process writes to it.
            [`JournalError`]: If it cannot be written.
        """
        if self._file is None and not self._closed:
            try:
                self._start()
            except BaseException:
                self._stop()
                raise

    def close(self) -> None:
        """Let others write. What was appended stays."""
        self._closed = True
        self._stop()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> _AppendOnly:
        """Take the lock, see what is in the file, and repair its end."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = self._lock or FileLock(self.path.with_name(f"{self.path.name}.lock"))
        except JournalError:
            raise
        except OSError as error:
            _cannot("be written", self.path, error)
        contents = _read(self.path) if self.path.exists() else Contents()
        if contents.spec is not None:
            self._check(contents.spec)
        self._file = _AppendOnly(self.path, contents.length)
        if not contents.terminated:
            self._file.append(b"\n")
        return self._file

    def _stop(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._lock is not None:
            self._lock.close()
        self._file = self._lock = None

    def _check(self, found: StudySpec) -> None:
        if found.fingerprint != self.spec.fingerprint:
            raise StudyMismatchError(
                f"'{self.folder}' holds the journal of another study, whose scores do not hold for this one. "
                f"{_listed(found, self.spec)}\nUse another output_dir, go back to what the journal has, or delete the "
                "folder to start anew."
            )


class _AppendOnly:
    """
    A file that only grows, and by whole pieces: a piece that cannot be written is taken back.

    Args:
        path (`Path`): The file; made if need be.
        size (`int`): Bytes of it that are sound; the rest is cut off.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        try:
            is_new = not path.exists()
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115
            if self._file.seek(0, os.SEEK_END) != size:
                self._file.truncate(size)
                os.fsync(self._file.fileno())
            if is_new:
                _sync_folder(path.parent)
        except OSError as error:
            _cannot("be written", path, error)

    def append(self, data: bytes) -> None:
        self._check_untouched()
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(self._file.fileno(), left) :]
            os.fsync(self._file.fileno())
            self.size += len(data)
        except BaseException as error:
            self._take_back()
            if isinstance(error, OSError):
                _cannot("be written", self.path, error)
            raise

    def close(self) -> None:
        self._file.close()

    def _check_untouched(self) -> None:
        """A file that was replaced, deleted or written by others is not the one whose end is known."""
        try:
            there, here = os.stat(self.path), os.fstat(self._file.fileno())
        except OSError as error:
            _cannot("be written any more", self.path, error)
        if not os.path.samestat(there, here) or here.st_size != self.size:
            raise JournalError(
                f"{self.path} was changed by something else while it was open, so nothing more is written to it. Start "
                "again: the search continues with what the file holds."
            )

    def _take_back(self) -> None:
        # If even this fails, the size is no longer what it should be and every later append is refused.
        with contextlib.suppress(OSError):
            self._file.truncate(self.size)
            if not self.size:
                self.path.unlink()
            else:
                os.fsync(self._file.fileno())


def _files(folder: Path) -> list[Path]:
    try:
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
        return [path for path in paths if path.suffix == SUFFIX and path.name[0] != "." and path.is_file()]
    except OSError as error:
        _cannot("be read", folder, error)


def _read(path: Path) -> Contents:
    try:
        data = path.read_bytes()
    except OSError as error:
        _cannot("be read", path, error)
    return parse(data, path)


def _cannot(what: str, path: Path, error: OSError) -> NoReturn:
    failure = JournalError(
        f"{path} cannot {what}: {error.strerror or error}. Whatever was journalled before is safe. Free some space or "
        "correct the rights, or use another output_dir; then start again, and the search continues where it was."
    )
    failure.errno, failure.filename = error.errno, str(path)
    raise failure from error


def _sync_folder(folder: Path) -> None:
    """Make a new file's name as durable as its contents, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _listed(old: StudySpec, new: StudySpec) -> str:
    return "What differs:" + "".join(f"\n  {line}" for line in old.differences(new))
