"""
Configuration of a SubTuning adapter: what is saved as `adapter_config.json`.

Knows nothing of any model: names are resolved when the tuner meets one, and the resolved names are what is saved.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from peft.config import PeftConfig
from peft.utils.constants import DUMMY_TARGET_MODULES, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open

from ..errors import AdapterFileError, ArgumentsError


class SubTuningType(StrEnum):
    """
    PEFT type of SubTuning adapters.

    A string enum of our own: PEFT's `PeftType` is closed. It hashes and compares like its string, so look-ups with
    the string found in a saved config hit the same entries.
    """

    SUBTUNING = "SUBTUNING"


@dataclass
class SubTuningConfig(PeftConfig):
    """
    Configuration of a [`SubTuningModel`]: which blocks are trained, and the labels of the task.

    Args:
        blocks (`list[str | int]`):
            The selection: names, indices (negative ones count from the end) or glob patterns, as
            [`find_blocks`] lists them. `[]` means head only (a linear probe). Once a model has been wrapped, these
            are full dotted names in forward order.
        num_labels (`int`, *optional*):
            Number of outputs of the adapter's head. By default the base model's; if it differs, the adapter gets a
            newly drawn last layer of this size, whatever the base has.
        id2label (`dict[int, str]`, *optional*):
            Names of the labels. By default the base model's when the number of labels agrees.
        label2id (`dict[str, int]`, *optional*):
            The inverse; derived from `id2label` when left out.
        head (`list[str]`, *optional*):
            Full names of the modules of the output layer. Found by rules when left out; `[]` leaves the head of the
            base shared and frozen.
        modules_to_save (`list[str]`, *optional*):
            Further modules to train and save in full, such as a pooler, beside blocks and head.
        base_architecture (`str`, *optional*):
            Class of the model the adapter was made for; filled in at wrapping, used in error messages.

    Raises: [`ArgumentsError`]: If a field has a type or value that means nothing.
    Source: SubTuning, arXiv 2302.06354.
    """

    blocks: list[str | int] | None = field(
        default=None,
        metadata={"help": "Blocks to train: names, indices or glob patterns; [] for the head alone."},
    )
    num_labels: int | None = field(
        default=None, metadata={"help": "Outputs of the adapter's head; by default those of the base."}
    )
    id2label: dict[int, str] | None = field(default=None, metadata={"help": "Names of the labels by index."})
    label2id: dict[str, int] | None = field(default=None, metadata={"help": "Indices of the labels by name."})
    head: list[str] | None = field(
        default=None, metadata={"help": "Modules of the output layer; found by rules when None, none when []."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Further modules to train and save in full, such as a pooler."}
    )
    base_architecture: str | None = field(
        default=None, metadata={"help": "Class of the base model; filled in when a model is wrapped."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = SubTuningType.SUBTUNING  # type: ignore[assignment]
        self.blocks = _check_names("blocks", self.blocks, (str, int))
        self.head = _check_names("head", self.head, (str,))
        self.modules_to_save = _check_names("modules_to_save", self.modules_to_save, (str,))
        if self.num_labels is not None and (type(self.num_labels) is not int or self.num_labels < 1):
            raise ArgumentsError(f"`num_labels` must be a positive int or None, found {self.num_labels!r}.")
        if self.base_architecture is not None and not isinstance(self.base_architecture, str):
            raise ArgumentsError(f"`base_architecture` must be a class name, found {self.base_architecture!r}.")
        self._check_labels()

    def _check_labels(self) -> None:
        if self.id2label is None and self.label2id is not None:
            if not isinstance(self.label2id, dict):
                raise ArgumentsError(f"`label2id` must be a dict of str to int, found {self.label2id!r}.")
            self.id2label = {index: name for name, index in self.label2id.items()}
        if self.id2label is None:
            return
        try:
            # JSON turns the keys of a dict into strings.
            self.id2label = {int(index): str(name) for index, name in self.id2label.items()}
        except (AttributeError, TypeError, ValueError):
            raise ArgumentsError(f"`id2label` must map label indices to names, found {self.id2label!r}.") from None
        if self.num_labels is None:
            self.num_labels = len(self.id2label)
        if sorted(self.id2label) != list(range(self.num_labels)):
            raise ArgumentsError(
                f"`id2label` must name each of the {self.num_labels} labels 0 ... {self.num_labels - 1} once, "
                f"found the indices {sorted(self.id2label)[:20]}. Make `num_labels` and `id2label` agree."
            )
        self.label2id = {name: index for index, name in self.id2label.items()}

    @property
    def target_modules(self) -> tuple[str | int, ...] | str:
        """What PEFT's injection reads. A tuple, since PEFT shortens long lists to suffixes, which are not unique."""
        return tuple(self.blocks) if self.blocks else DUMMY_TARGET_MODULES

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str, subfolder: str | None = None, **kwargs: Any):
        """Read `adapter_config.json`, and refuse a local folder whose weights cannot belong to it."""
        folder = Path(pretrained_model_name_or_path) / (subfolder or "")
        try:
            config = super().from_pretrained(pretrained_model_name_or_path, subfolder=subfolder, **kwargs)
        except (json.JSONDecodeError, UnicodeDecodeError, ArgumentsError) as error:
            raise AdapterFileError(
                f"'{folder / 'adapter_config.json'}' is not the config of a SubTuning adapter: {error} "
                "Download or save the adapter again."
            ) from error
        if not isinstance(config, cls):
            raise AdapterFileError(
                f"'{pretrained_model_name_or_path}' holds an adapter of type {config.peft_type!s}, not SUBTUNING. "
                "Load it with PeftConfig.from_pretrained."
            )
        if folder.is_dir():
            check_adapter_file(folder, config)
        return config


def _check_names(name: str, value: Any, kinds: tuple[type, ...]) -> list | None:
    if value is None:
        return None
    if isinstance(value, (str, bytes, dict)) or not hasattr(value, "__iter__"):
        raise ArgumentsError(f"`{name}` must be a list, found {value!r}. Did you mean [{value!r}]?")
    items = list(value)
    for item in items:
        if type(item) not in kinds:
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise ArgumentsError(f"`{name}` must hold {expected}, found {item!r} ({type(item).__name__}).")
    return items


def check_adapter_file(folder: Path, config: SubTuningConfig) -> None:
    """
    Compare the header of a local adapter's weights with its config, reading no tensor.

    Raises: [`AdapterFileError`]: If the file is missing, damaged, a pickle, or lacks a block or head of the config.
    """
    path = folder / SAFETENSORS_WEIGHTS_NAME
    if not path.is_file():
        if (folder / "adapter_model.bin").exists():
            raise AdapterFileError(
                f"'{folder}' holds its weights as a pickle (adapter_model.bin), which can run code when loaded and "
                f"is never read. Ask for a {SAFETENSORS_WEIGHTS_NAME}."
            )
        raise AdapterFileError(f"'{folder}' has an adapter_config.json but no {SAFETENSORS_WEIGHTS_NAME}.")
    try:
        with safe_open(path, framework="pt") as file:
            keys = list(file.keys())
    except (SafetensorError, OSError) as error:
        raise AdapterFileError(
            f"'{path}' cannot be read: {error}. It is truncated or not a safetensors file: download or save the "
            "adapter again."
        ) from error
    owners = [f"base_model.model.{name}.subtuning_blocks." for name in config.blocks or []]
    owners += [f"base_model.model.{name}." for name in config.head or []]
    for owner in owners:
        if not any(key.startswith(owner) for key in keys):
            raise AdapterFileError(
                f"'{path}' does not belong to the adapter_config.json beside it: the config names '{owner}*', the "
                f"file holds {len(keys)} tensors such as {keys[:3]}. Save the adapter again."
            )
