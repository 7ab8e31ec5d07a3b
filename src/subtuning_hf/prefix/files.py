"""
The same store in files of a folder, for several processes of one machine or for more than fits into memory.

The first process that gets the lock fills; the others wait for it and find everything there. A block's file is written
under another name, flushed to the disk and only then renamed, with a description beside it that is renamed last: what a
killed process leaves is not believed.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import PrefixCacheError
from .store import Array, PrefixStore, Slot

if sys.platform != "win32":
    import fcntl

FORMAT = 1
_ALIGNED = 64


class FileStore(PrefixStore):
    """
    Outputs of blocks by row, in files.

    Args:
        arrays (`Mapping[Slot, Array]`): All there is to keep.
        folder (`str` or `os.PathLike`):
            Its own folder: one for each base model, data set and way to compute. Made if need be.
    """

    def __init__(self, arrays: Mapping[Slot, Array], folder: str | os.PathLike) -> None:
        if sys.platform == "win32":
            raise PrefixCacheError("Files need the locks of a POSIX system. Keep block inputs in memory.")
        super().__init__(arrays)
        self.folder = Path(folder)
        self._offsets: dict[Slot, int] = {}
        self._sizes: dict[int, int] = dict.fromkeys(self.blocks, 0)
        for slot, array in sorted(self.arrays.items()):
            self._offsets[slot] = self._sizes[slot[0]]
            self._sizes[slot[0]] += -(-array.nbytes // _ALIGNED) * _ALIGNED
        self._open: dict[int, int] = {}  # block to the handle of the file being written

    @property
    def nbytes(self) -> int:
        """`int`: Bytes of all files, descriptions left out."""
        return sum(self._sizes.values())

    @contextmanager
    def filling(self) -> Iterator[list[int]]:
        """As in [`PrefixStore`]; waits while another process fills the same folder."""
        with self._locked():
            missing = [block for block in self.blocks if not self._complete(block)]
            try:
                with self._explained():
                    for block in missing:
                        self._begin(block)
                yield missing
                with self._explained():
                    for block in missing:
                        self._publish(block)
            finally:
                self._abandon()
            for block in self.blocks:
                self._map(block)

    def put(self, slot: Slot, start: int, rows: Tensor) -> None:
        """Keep rows of one array."""
        raw = memoryview(rows.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        each = self.arrays[slot].nbytes // max(self.arrays[slot].shape[0], 1)
        handle, at = self._open[slot[0]], self._offsets[slot] + start * each
        with self._explained():
            os.lseek(handle, at, os.SEEK_SET)
            while raw:
                raw = raw[os.write(handle, raw) :]

    def remove(self) -> None:
        """Delete the files of these blocks."""
        self.close()
        for block in self.blocks:
            for path in (self._path(block, "json"), self._path(block, "bin")):
                path.unlink(missing_ok=True)

    # --- one block ----------------------------------------------------------------------------
    def _path(self, block: int, kind: str) -> Path:
        return self.folder / f"block-{block:04d}.{kind}"

    def _description(self, block: int) -> dict[str, Any]:
        arrays = [
            [*slot[1:], list(array.shape), str(array.dtype)]
            for slot, array in sorted(self.arrays.items())
            if slot[0] == block
        ]
        return {"format": FORMAT, "bytes": self._sizes[block], "arrays": arrays}

    def _complete(self, block: int) -> bool:
        try:
            found = json.loads(self._path(block, "json").read_text(encoding="utf-8"))
            size = self._path(block, "bin").stat().st_size
        except (OSError, ValueError):
            return False
        return found == self._description(block) and size == self._sizes[block]

    def _begin(self, block: int) -> None:
        self._path(block, "json").unlink(missing_ok=True)  # of another layout: from here on nothing is believed
        # One name for all: under the lock there is one writer, and what a killed one left is written over.
        handle = os.open(self._path(block, "part"), os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        self._open[block] = handle
        if self._sizes[block] and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle, 0, self._sizes[block])  # a full disk shows before the work, not behind it
        os.truncate(handle, self._sizes[block])

    def _publish(self, block: int) -> None:
        os.fsync(self._open[block])
        os.close(self._open.pop(block))
        os.replace(self._path(block, "part"), self._path(block, "bin"))
        note = self._path(block, "json.part")
        with open(note, "w", encoding="utf-8") as file:
            json.dump(self._description(block), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(note, self._path(block, "json"))

    def _abandon(self) -> None:
        for block, handle in self._open.items():
            os.close(handle)
            self._path(block, "part").unlink(missing_ok=True)
        self._open.clear()

    def _map(self, block: int) -> None:
        raw = np.memmap(self._path(block, "bin"), np.uint8, "r") if self._sizes[block] else np.empty(0, np.uint8)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not writable.*")  # nobody writes: rows are taken as copies
            whole = torch.from_numpy(raw)
        for slot, array in self.arrays.items():
            if slot[0] == block:
                part = whole[self._offsets[slot] : self._offsets[slot] + array.nbytes]
                self._kept[slot] = part.view(array.dtype).view(array.shape)

    # --- the folder ---------------------------------------------------------------------------
    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._explained():
            self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "a+b") as file:
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX)
            except OSError as error:
                raise PrefixCacheError(
                    f"{self.folder} cannot be locked ({error.strerror}), so that two processes might fill it at once. "
                    "Choose a folder on a local disk."
                ) from error
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    fcntl.flock(file.fileno(), fcntl.LOCK_UN)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if isinstance(error, PrefixCacheError):
                raise
            raise PrefixCacheError(
                f"Block inputs of {self.nbytes / 2**20:.0f} MiB cannot be kept in {self.folder}: "
                f"{error.strerror or error}. Make room, lower the budget, or choose another folder."
            ) from error
