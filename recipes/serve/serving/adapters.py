"""
Which adapters may be loaded, and where they lie.

Knows folders and names on the Hub; does not know models.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from subtuning_hf.tuner.revisions import split_revision

from .errors import ServeError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_HUB = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*/[A-Za-z0-9_][A-Za-z0-9_.-]*(@[A-Za-z0-9_][A-Za-z0-9_./-]*)?")
# No pickle, and no code.
_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]


def check_name(name: str) -> str:
    """
    A task's name as it may stand in an address.

    Raises: [`ServeError`]: If it may not.
    """
    if not _NAME.fullmatch(name):
        raise ServeError(
            f"Expected a task name of at most 64 letters, digits, '_', '-' and '.', not beginning with '-' or '.', "
            f"found {name[:80]!r}."
        )
    return name


def adapters_in(root: Path) -> dict[str, Path]:
    """
    Adapters in a folder, by the names of their own folders.

    Raises: [`ServeError`]: If there is no such folder, or a name cannot be a task's.
    """
    if not root.is_dir():
        raise ServeError(f"Expected a folder of adapters, found none at '{root}'.")
    return {check_name(folder.name): folder for folder in sorted(root.iterdir()) if (folder / CONFIG).is_file()}


def locate(adapter: str, root: Path | None) -> Path:
    """
    The folder of an adapter that a request names.

    Args:
        adapter (`str`): Folder inside of `root`, or name on the Hub, with `@revision` if need be.
        root (`Path`, *optional*): The only folder that requests may name.

    Raises: [`ServeError`]: If it is neither, or cannot be fetched.
    """
    if root is not None and (place := _inside(adapter, root)) is not None:
        return checked(place, root.resolve())
    if _HUB.fullmatch(adapter) and ".." not in adapter:
        return fetched(adapter)
    raise ServeError(
        f"Expected a folder inside of the server's folder of adapters, or a name on the Hub, found {adapter[:200]!r}.",
        422,
    )


def _inside(adapter: str, root: Path) -> Path | None:
    """The folder of this name inside of another, if it is one with an adapter."""
    try:
        adapter.encode()  # half of a surrogate pair could be a name on disk, but not in an answer
        inside, place = root.resolve(), (root / adapter).resolve()
        found = place.is_relative_to(inside) and place != inside and (place / CONFIG).is_file()
    except (OSError, ValueError, RuntimeError):  # too long, with a null byte, a loop of links, not ours to read
        return None
    return place if found else None


def checked(folder: Path, inside: Path | None = None) -> Path:
    """
    A folder that holds an adapter.

    Args:
        folder (`Path`): The folder.
        inside (`Path`, *optional*): Where its files must lie, links followed.

    Raises: [`ServeError`]: If files are missing or lie elsewhere, or the adapter is of a kind that cannot be served.
    """
    for name in (CONFIG, WEIGHTS):
        file = folder / name
        if not file.is_file():
            raise ServeError(
                f"Expected an adapter with {CONFIG} and {WEIGHTS}, found no {name} in '{folder.name}'.", 422
            )
        if inside is not None and not file.resolve().is_relative_to(inside):
            raise ServeError(f"{name} in '{folder.name}' is a link out of the folder of adapters. Copy the file.", 422)
    _check_kind(folder)
    return folder


def _check_kind(folder: Path) -> None:
    """PEFT says of a kind that it does not know nothing but its name."""
    from subtuning_hf.multitask.adapters import KINDS  # here, since it loads torch

    try:
        fields = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ServeError(f"The adapter '{folder.name}' cannot be used: {CONFIG} is no JSON: {error}", 422) from None
    kind = fields.get("peft_type") if isinstance(fields, dict) else None
    if kind not in KINDS:
        raise ServeError(
            f"The adapter '{folder.name}' cannot be used: expected the `peft_type` {' or '.join(KINDS)} in {CONFIG}, "
            f"found {str(kind)[:80]!r}.",
            422,
        )


def fetched(adapter: str) -> Path:
    """
    An adapter from the Hub: its folder in the cache, so that no folder of the working directory is taken for it.

    Raises: [`ServeError`]: If it cannot be had.
    """
    from huggingface_hub import snapshot_download

    try:
        name, revision = split_revision(adapter)
        return checked(Path(snapshot_download(name, revision=revision, allow_patterns=_FILES)))
    except ServeError:
        raise
    except Exception as error:  # of many libraries: connections, names, rights, disks
        reason = (str(error).strip() or repr(error)).splitlines()[0][:300]
        raise ServeError(f"'{adapter[:200]}' cannot be had from the Hub: {reason}", 422) from error
