"""
A lock of the operating system on a file, so that a journal has one writer.

The system releases it when its process ends, however that ends. A forked child, such as a worker of a data loader that
outlives a killed parent for seconds, gives up its share at once. Knows nothing of what is protected.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import sys
import warnings
import weakref
from pathlib import Path

from ..errors import JournalBusyError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

# Windows locks bytes and lets nobody read them; the owner's name stands before this one.
_LOCKED_BYTE = 1 << 20
_BUSY = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}
_held: weakref.WeakSet[FileLock] = weakref.WeakSet()
_watching = False


class FileLock:
    """
    An exclusive lock, held from construction to `close()`.

    Args:
        path (`Path`): The lock file. It is made if need be and never removed, since removing it could let in two.

    Raises:
        [`JournalBusyError`]: If another holder exists; named where it could be read.
        `OSError`: If the file cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115
        try:
            _lock(self._file.fileno())
        except OSError as error:
            if error.errno in _BUSY:
                owner = _owner(path)
                self._file.close()
                raise JournalBusyError(
                    f"{path.with_suffix('')} is being written by {owner}. Wait for it to end or stop it; a search "
                    "goes on where it was. Two searches at once need two output_dirs."
                ) from None
            # Some network file systems have no locks. Better no protection than no search.
            warnings.warn(
                f"{path} cannot be locked ({error.strerror}): take care that no second process writes to this journal.",
                UserWarning,
                stacklevel=2,
            )
        _watch_forks()
        _held.add(self)
        with contextlib.suppress(OSError):  # the name of the owner is for a message only
            self._file.truncate(0)
            os.write(self._file.fileno(), f"process {os.getpid()} on {platform.node() or 'this machine'}".encode())

    @property
    def held(self) -> bool:
        """Whether the lock is this process' own: a forked child inherits the object, not the lock."""
        return not self._file.closed

    def close(self) -> None:
        """Release the lock."""
        self._file.close()


def _owner(path: Path) -> str:
    try:
        name = path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        name = ""
    return name or "another process"


def _lock(handle: int) -> None:
    if sys.platform == "win32":
        os.lseek(handle, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _watch_forks() -> None:
    global _watching
    if not _watching and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_give_up)
        _watching = True


def _give_up() -> None:
    """In a forked child: close the shared handles, which leaves the lock with the parent alone."""
    for lock in list(_held):
        lock.close()
