"""
What is read of an adapter's folder before anything of it is used: its JSON, and the table of contents of its weights.

A folder may come from anybody. So sizes are bounded, files lie in the folder, JSON says each thing once, and no pickle
is opened. Knows files and bytes; knows neither models nor what a configuration means.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft.utils.constants import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open

from ..errors import AdapterFileError, DownloadError

# A hundred thousand labels with their names fit into the first, a million tensors with theirs do not into the second.
CONFIG_BYTES = 16 * 2**20
HEADER_BYTES = 16 * 2**20
NAME_LENGTH = 1000
_PICKLE = "adapter_model.bin"
_AGAIN = "Download or save the adapter again."


@dataclass(frozen=True)
class Found:
    """
    One tensor of a file.

    Args:
        dtype (`str`): As safetensors names it, such as `"F32"`.
        shape (`tuple[int, ...]`): Its shape.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """`int`: how many numbers it holds."""
        return math.prod(self.shape)


# --- where the files are ---------------------------------------------------------------------
def locate(name: str | os.PathLike[str], subfolder: str | None = None, **hub: Any) -> tuple[Path, Path]:
    """
    The two files of an adapter, from the Hub if there is no such folder.

    Args:
        name (`str` or `os.PathLike`): Folder or Hub name.
        subfolder (`str`, *optional*): Folder in it.
        hub: For `hf_hub_download`, such as `revision` or `token`.

    Returns: `tuple[Path, Path]`: `adapter_config.json` and `adapter_model.safetensors`.
    Raises:
        `ValueError`: If there is no such adapter, in PEFT's words.
        [`AdapterFileError`]: If a file is missing, is a link out of the folder, or the weights are a pickle.
        [`DownloadError`]: If the weights do not come whole.
    """
    folder = Path(name) / (subfolder or "")
    config = file_in(folder, CONFIG_NAME)
    if config is not None:
        return config, _weights_in(folder)
    for weights in (SAFETENSORS_WEIGHTS_NAME, _PICKLE):
        if os.path.lexists(folder / weights):  # PEFT would read them with the config of the Hub's adapter of this name
            raise AdapterFileError(f"'{folder}' has {weights} but no {CONFIG_NAME}. {_AGAIN}")
    return _from_hub(os.fspath(name), subfolder, hub)


def check_files(name: str | os.PathLike[str], subfolder: str | None = None, **hub: Any) -> None:
    """
    Refuse the folder of an adapter of any method whose files PEFT should not be asked to read.

    [`SubTuningConfig.from_pretrained`] does more for adapters of its own. Of another method PEFT would load a pickle.

    Args:
        name (`str` or `os.PathLike`), subfolder (`str`, *optional*), hub: As in [`locate`].

    Raises: [`AdapterFileError`]: If there are no safetensors, or a file is damaged, too large or a link to elsewhere.
    """
    config, weights = locate(name, subfolder, **{key: value for key, value in hub.items() if value is not None})
    read_object(config)
    read_header(weights)


def file_in(folder: Path, name: str) -> Path | None:
    """
    A file in a folder, `None` where there is none.

    Raises: [`AdapterFileError`]: If it is no plain file, or a link to what lies elsewhere.
    """
    path = folder / name
    if not os.path.lexists(path):
        return None
    try:
        real, root = path.resolve(strict=True), folder.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # a link to nowhere, or to itself
        raise AdapterFileError(f"'{path}' cannot be read: {error}. {_AGAIN}") from error
    if not real.is_file():
        raise AdapterFileError(f"'{path}' must be a plain file, found something else. {_AGAIN}")
    if not any(real.is_relative_to(place) for place in (root, *_blobs(root))):
        raise AdapterFileError(
            f"'{path}' is a link to '{real}', out of the adapter's folder, and is not followed. If the file is yours, "
            "put a copy of it in the place of the link."
        )
    return path


def _blobs(root: Path) -> list[Path]:
    """Where files of a snapshot in the Hub's cache really lie: all of one repository, in one folder beside."""
    return [parent.parent / "blobs" for parent in root.parents if parent.name == "snapshots"]


def _weights_in(folder: Path) -> Path:
    path = file_in(folder, SAFETENSORS_WEIGHTS_NAME)
    if path is None:
        raise AdapterFileError(_no_weights(folder, os.path.lexists(folder / _PICKLE)))
    return path


def _no_weights(where: Any, pickle: bool) -> str:
    if pickle:
        return (
            f"'{where}' holds its weights as a pickle ({_PICKLE}), which can run code when loaded and is never read. "
            f"Ask for a {SAFETENSORS_WEIGHTS_NAME}."
        )
    return f"'{where}' has an {CONFIG_NAME} but no {SAFETENSORS_WEIGHTS_NAME}."


def _from_hub(name: str, subfolder: str | None, hub: dict[str, Any]) -> tuple[Path, Path]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    try:
        config = Path(hf_hub_download(name, CONFIG_NAME, subfolder=subfolder, **hub))
    except Exception as error:
        raise ValueError(f"Can't find '{CONFIG_NAME}' at '{name}': {error}") from error
    try:
        weights = Path(hf_hub_download(name, SAFETENSORS_WEIGHTS_NAME, subfolder=subfolder, **hub))
    except EntryNotFoundError as error:
        # Without it PEFT would take the pickle.
        raise AdapterFileError(
            f"'{name}' has an {CONFIG_NAME} but no {SAFETENSORS_WEIGHTS_NAME}, or it cannot be reached. Weights in a "
            f"pickle ({_PICKLE}) can run code when loaded and are never read."
        ) from error
    except HfHubHTTPError:
        raise  # the Hub's own words on who may have it
    except Exception as error:  # of the client for HTTP, which is not the same one in every version
        raise DownloadError(
            f"The download of {SAFETENSORS_WEIGHTS_NAME} of '{name}' broke off, several times over: {error}. Nothing "
            "of it is used. Try again; what has come is kept, and only the rest is asked for."
        ) from error
    return config, weights


# --- JSON ------------------------------------------------------------------------------------
def read_object(path: Path, most: int = CONFIG_BYTES) -> dict[str, Any]:
    """
    Read a JSON object that says each thing once.

    Args:
        path (`Path`): The file.
        most (`int`, *optional*): Largest size in bytes.

    Raises: [`AdapterFileError`]: If it is larger, no JSON object, nested too deeply, or has a key twice, a number that
        JSON has no word for, or control characters.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise AdapterFileError(f"'{path}' cannot be read: {error}. {_AGAIN}") from error
    if len(data) > most:
        raise AdapterFileError(f"'{path}' has more than {most:,} bytes, which nothing here needs. {_AGAIN}")
    return _parse(data, f"'{path}'")


def _parse(data: bytes, what: str) -> dict[str, Any]:
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
    except RecursionError:
        raise AdapterFileError(f"{what} is nested too deeply to be one of an adapter. {_AGAIN}") from None
    except ValueError as error:
        raise AdapterFileError(f"{what} is not JSON as an adapter's: {error}. {_AGAIN}") from error
    if not isinstance(found, dict):
        raise AdapterFileError(f"{what} must hold a JSON object, found {type(found).__name__}. {_AGAIN}")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = sorted(key for key, _ in pairs)
        twice = next(key for key, after in itertools.pairwise(keys) if key == after)
        raise ValueError(f"it says {twice[:60]!r} twice")
    for text in (*found, *found.values()):
        if isinstance(text, str) and not _plain(text):
            raise ValueError(f"it holds control characters in {text[:60]!r}")
    return found


def _plain(text: str) -> bool:
    """Whether a text can be shown: no escape sequences for terminals, no half characters."""
    return text.isprintable() or not any(
        (char < " " and char not in "\t\n\r") or "\x7f" <= char <= "\x9f" or "\ud800" <= char <= "\udfff"
        for char in text
    )


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


# --- weights ---------------------------------------------------------------------------------
def read_header(path: Path) -> dict[str, Found]:
    """
    The tensors of a safetensors file by name, reading none of them.

    Raises: [`AdapterFileError`]: If the file is damaged, or its table of contents is larger than any adapter's, says
        something twice, or does not describe the file.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if length > HEADER_BYTES:
                raise AdapterFileError(
                    f"'{path}' cannot be read: its table of contents claims {length:,} bytes, where {HEADER_BYTES:,} "
                    f"are allowed. It is truncated or not a safetensors file. {_AGAIN}"
                )
            data = file.read(length)
        with safe_open(path, framework="np") as file:  # checks types, offsets and sizes
            known = set(file.keys())
    except (SafetensorError, OSError) as error:
        raise AdapterFileError(
            f"'{path}' cannot be read: {error}. It is truncated or not a safetensors file: {_AGAIN.lower()}"
        ) from error
    table = _parse(data.rstrip(b" "), f"The table of contents of '{path}'")
    table.pop("__metadata__", None)
    long = next((name for name in table if len(name) > NAME_LENGTH), None)
    if long is not None:
        raise AdapterFileError(f"'{path}' names a tensor with {len(long):,} characters, '{long[:40]}...'. {_AGAIN}")
    words = {"dtype", "shape", "data_offsets"}
    if table.keys() != known or any(each.keys() != words for each in table.values()):
        raise AdapterFileError(
            f"'{path}': its table of contents says more than names, types, shapes and places of tensors, or other "
            f"things to other readers. {_AGAIN}"
        )
    return {name: Found(each["dtype"], tuple(each["shape"])) for name, each in table.items()}


def check_belongs(path: Path, header: dict[str, Found], blocks: list[str], head: list[str]) -> None:
    """
    Refuse weights that lack a block or a head module of the configuration beside them.

    Args:
        path (`Path`): The file of weights.
        header (`dict[str, Found]`): Its tensors.
        blocks (`list[str]`), head (`list[str]`): Names that the configuration gives.

    Raises: [`AdapterFileError`]
    """
    owners: set[str] = set()
    for key in header:
        parts = key.split(".")
        owners.update(".".join(parts[:count]) + "." for count in range(1, len(parts)))
    wanted = [f"base_model.model.{name}.subtuning_blocks." for name in blocks]
    for owner in [*wanted, *(f"base_model.model.{name}." for name in head)]:
        if owner not in owners:
            raise AdapterFileError(
                f"'{path}' does not belong to the {CONFIG_NAME} beside it: the config names '{owner[:200]}*', the "
                f"file holds {len(header)} tensors such as {list(header)[:3]}. Save the adapter again."
            )
    for name in [*blocks, *head]:
        if not isinstance(name, str) or any(char in "*?[]/\\" for char in name) or "" in name.split("."):
            raise AdapterFileError(
                f"The {CONFIG_NAME} beside '{path}' names '{name}', which is no module's full name. {_AGAIN}"
            )


def check_widths(
    path: Path, header: dict[str, Found], blocks: list[str], pruned: dict[str, dict[str, list[int]]]
) -> None:
    """
    Refuse widths of pruned blocks that are not those of the weights.

    Args:
        path (`Path`): The file of weights.
        header (`dict[str, Found]`): Its tensors.
        blocks (`list[str]`): Names of the adapter's blocks.
        pruned (`dict[str, dict[str, list[int]]]`): As in the configuration: by block and layer, input and output
            channels.

    Raises: [`AdapterFileError`]
    """
    for block, layers in pruned.items():
        if block not in blocks:
            raise AdapterFileError(
                f"The {CONFIG_NAME} beside '{path}' has `pruned_channels` of '{block[:200]}', which is none of its "
                f"blocks. {_AGAIN}"
            )
        for layer, (inputs, outputs) in layers.items():
            found = header.get(f"base_model.model.{block}.subtuning_blocks.{layer}.weight")
            shape = None if found is None else found.shape
            if shape and (shape[0] != outputs or (len(shape) > 1 and (not shape[1] or inputs % shape[1]))):
                raise AdapterFileError(
                    f"The {CONFIG_NAME} beside '{path}' gives '{layer[:200]}' of '{block}' {inputs} input and "
                    f"{outputs} output channels, its weight has shape {shape}. {_AGAIN}"
                )
