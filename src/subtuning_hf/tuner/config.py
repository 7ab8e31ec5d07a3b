"""
Configuration of a SubTuning adapter: what is saved as `adapter_config.json`.

Knows nothing of any model: names are resolved when the tuner meets one, and the resolved names are what is saved.
"""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from peft.config import PeftConfig
from peft.utils.constants import DUMMY_TARGET_MODULES

from ..errors import AdapterFileError, ArgumentsError
from . import intake
from .initialise import INITS


class SubTuningType(StrEnum):
    """
    PEFT type of SubTuning adapters.

    A string enum of our own: PEFT's `PeftType` is closed. It hashes and compares like its string, so look-ups with
    the string found in a saved config hit the same entries.
    """

    SUBTUNING = "SUBTUNING"


# One class per row is what None says, and what transformers infers.
PROBLEMS = ("regression", "multi_label_classification")


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
        init_blocks (`str`, *optional*, defaults to `"pretrained"`):
            What the tuned copies start from: the `"pretrained"` blocks, or `"random"` weights, drawn from torch's seed
            by the model's own initialiser, with the statistics of batch norms reset.
        siamese (`bool`, *optional*, defaults to `False`):
            Give the output layer the frozen network's features beside the tuned ones, `[frozen, tuned]`. The head must
            be one linear layer; it starts as a plain adapter's on the tuned half, and with zeros on the frozen one.
            Such an adapter cannot be merged. Alone it runs the base twice; of many tasks on one trunk, the frozen half
            runs once for all.
        base_architecture (`str`, *optional*):
            Class of the model the adapter was made for; filled in at wrapping, used in error messages.
        problem_type (`str`, *optional*):
            `"regression"` or `"multi_label_classification"`, as in configurations of transformers; what the model says
            by itself is filled in when an adapter is saved. `None` for one class per row.
        pruned_channels (`dict[str, dict[str, list[int]]]`, *optional*):
            For each block that was pruned, by the name of a layer in it, the number of input and output channels that
            the adapter's copy has; filled in by [`prune_blocks`].

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
    init_blocks: str = field(
        default="pretrained", metadata={"help": "What tuned copies start from.", "choices": list(INITS)}
    )
    siamese: bool = field(
        default=False, metadata={"help": "Give the head the frozen network's features beside the tuned ones."}
    )
    base_architecture: str | None = field(
        default=None, metadata={"help": "Class of the base model; filled in when a model is wrapped."}
    )
    problem_type: str | None = field(
        default=None,
        metadata={"help": "What the labels are, where not one class per row.", "choices": list(PROBLEMS)},
    )
    pruned_channels: dict[str, dict[str, list[int]]] | None = field(
        default=None, metadata={"help": "Widths of layers of pruned blocks; filled in when blocks are pruned."}
    )

    def __post_init__(self) -> None:
        # First of all, since PEFT's classes that load a base take these from the file before anything else is asked.
        _check_origin(self)
        super().__post_init__()
        self.peft_type = SubTuningType.SUBTUNING  # type: ignore[assignment]
        self.blocks = _check_names("blocks", self.blocks, (str, int))
        self.head = _check_names("head", self.head, (str,))
        self.modules_to_save = _check_names("modules_to_save", self.modules_to_save, (str,))
        if self.num_labels is not None and (type(self.num_labels) is not int or self.num_labels < 1):
            raise ArgumentsError(f"`num_labels` must be a positive int or None, found {self.num_labels!r}.")
        if self.init_blocks not in INITS:
            raise ArgumentsError(
                f"`init_blocks` must be {' or '.join(map(repr, INITS))}, found {self.init_blocks!r:.80}."
            )
        if self.problem_type is not None and self.problem_type not in PROBLEMS:
            kinds = " or ".join(map(repr, PROBLEMS))
            raise ArgumentsError(f"`problem_type` must be {kinds} or None, found {self.problem_type!r:.80}.")
        if not isinstance(self.siamese, bool):
            raise ArgumentsError(f"`siamese` must be True or False, found {self.siamese!r:.80}.")
        if self.base_architecture is not None and not isinstance(self.base_architecture, str):
            raise ArgumentsError(f"`base_architecture` must be a class name, found {self.base_architecture!r}.")
        _check_widths(self.pruned_channels)
        self._check_labels()

    def _check_labels(self) -> None:
        if self.id2label is None and self.label2id is not None:
            given = self.label2id
            if not isinstance(given, dict) or not all(type(index) is int for index in given.values()):
                raise ArgumentsError(f"`label2id` must be a dict of str to int, found {repr(given)[:200]}.")
            self.id2label = {index: name for name, index in given.items()}
        if self.id2label is None:
            return
        try:
            # JSON turns the keys of a dict into strings.
            names = {int(index): str(name) for index, name in self.id2label.items()}
        except (AttributeError, TypeError, ValueError):
            found = repr(self.id2label)[:200]
            raise ArgumentsError(f"`id2label` must map label indices to names, found {found}.") from None
        if len(names) < len(self.id2label):
            raise ArgumentsError("`id2label` must name each label once, found an index that is written in two ways.")
        self.id2label = names
        if self.num_labels is None:
            self.num_labels = len(self.id2label)
        if len(names) != self.num_labels or sorted(names) != list(range(self.num_labels)):
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
        """
        Read `adapter_config.json`, and refuse what does not fit together with the weights beside it.

        The weights of an adapter on the Hub are downloaded for that; of their file, only the table of contents is read.

        Args:
            pretrained_model_name_or_path (`str`): Folder or Hub name.
            subfolder (`str`, *optional*): Folder in it.
            kwargs: For `hf_hub_download`, such as `revision` or `token`.

        Raises: [`AdapterFileError`]: If a file is missing, damaged, larger than any adapter's, a link out of the folder
            or a pickle, has fields that are not known, or does not belong to the other. What is refused here is
            listed in `tests/tuner/test_hostile.py`.
        """
        # PEFT hands on what it was not given as None.
        hub = {key: value for key, value in cls._split_kwargs(kwargs)[0].items() if value is not None}
        file, weights = intake.locate(pretrained_model_name_or_path, subfolder, **hub)
        found = intake.read_object(file)
        _check_fields(cls, file, found)
        try:
            config = super().from_pretrained(pretrained_model_name_or_path, subfolder=subfolder, **kwargs)
        except (ArgumentsError, ValueError, TypeError) as error:
            raise AdapterFileError(
                f"'{file}' is not the config of a SubTuning adapter: {error} Download or save the adapter again."
            ) from error
        _check_labels_agree(file, found, config)
        header = intake.read_header(weights)
        if config.blocks is None or config.head is None:
            raise AdapterFileError(
                f"'{file}' must list `blocks` and `head`, as every adapter that was saved does. Save the adapter again."
            )
        intake.check_belongs(weights, header, config.blocks, config.head)
        intake.check_widths(weights, header, config.blocks, config.pruned_channels or {})
        config.__dict__["_header"] = header  # what the file holds is compared with the model before room is made for it
        return config


def _check_fields(cls: type[SubTuningConfig], file: Path, found: dict[str, Any]) -> None:
    kind = found.get("peft_type")
    if kind != SubTuningType.SUBTUNING.value:
        raise AdapterFileError(
            f"'{file}' is of an adapter of type {str(kind)[:40]}, not SUBTUNING. Load it with "
            "PeftConfig.from_pretrained."
        )
    known = {one.name for one in dataclasses.fields(cls)}
    # A later version of PEFT may write fields of its own; while they hold nothing they change nothing.
    strange = sorted(name for name, value in found.items() if name not in known and value not in (None, {}, [], False))
    if strange:
        raise AdapterFileError(
            f"'{file}' has fields that SubTuningConfig does not know: {', '.join(strange[:5])[:200]}. What they ask "
            "for would be ignored. Load it with the version that saved it "
            f"(peft {str(found.get('peft_version'))[:40]}), or take them out if they are of no use."
        )


def _check_labels_agree(file: Path, found: dict[str, Any], config: SubTuningConfig) -> None:
    names, indices = found.get("id2label"), found.get("label2id")
    if names is not None and not all(isinstance(name, str) for name in names.values()):
        raise AdapterFileError(f"'{file}': `id2label` must map label indices to names. Save the adapter again.")
    if names is not None and indices is not None and indices != config.label2id:
        raise AdapterFileError(
            f"'{file}': `label2id` is not the inverse of `id2label`, and one of them would be ignored. Correct it, or "
            "take `label2id` out."
        )


_LIBRARY = re.compile(r"[A-Za-z_][\w-]*(\.[\w-]+)*")
_OF_TRANSFORMERS = re.compile(r"transformers(\.models(\.\w+)*\.mod(eling|ular)_\w+)?")


def _check_origin(config: SubTuningConfig) -> None:
    """Refuse words on the base that are none: PEFT imports a module and asks for a class by them."""
    for name in ("base_model_name_or_path", "revision"):
        value = getattr(config, name)
        if not (value is None or isinstance(value, (str, os.PathLike))) or "\0" in str(value):
            raise ArgumentsError(f"`{name}` must be a name or None, found {str(value)[:80]!r}.")
    mapping = config.auto_mapping
    if not mapping:
        return
    fields = ("base_model_class", "parent_library")
    if not isinstance(mapping, dict) or set(mapping) != set(fields) or not all(type(mapping[f]) is str for f in fields):
        raise ArgumentsError(f"`auto_mapping` must name {' and '.join(fields)}, found {str(mapping)[:200]}.")
    kind, library = mapping["base_model_class"], mapping["parent_library"]
    if not kind.isidentifier() or kind.startswith("__"):
        raise ArgumentsError(f"`auto_mapping` must name a class, found {kind[:80]!r}.")
    pattern = _OF_TRANSFORMERS if library.split(".")[0] == "transformers" else _LIBRARY
    if not pattern.fullmatch(library):
        raise ArgumentsError(f"`auto_mapping` must name a module with models in it, found {library[:80]!r}.")


def _check_widths(value: Any) -> None:
    if value is None:
        return
    named = isinstance(value, dict) and all(isinstance(layers, dict) for layers in value.values())
    pairs = [pair for layers in value.values() for pair in layers.values()] if named else []
    if not named or not all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 and all(type(one) is int and one > 0 for one in pair)
        for pair in pairs
    ):
        raise ArgumentsError(
            "`pruned_channels` must give two positive numbers of channels for each layer of each block, found "
            f"{repr(value)[:200]}. Leave it out: `prune_blocks` fills it in."
        )


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
