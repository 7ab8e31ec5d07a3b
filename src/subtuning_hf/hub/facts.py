"""
What is known of an adapter when its card is written: plain numbers and names, each of them measured or given.

Reads models, adapters and data sets; knows neither the trainer nor how a card looks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from torch import nn

from ..search.journal import Study
from ..search.result import SearchResult

# Tasks of the Hub by the classes that transformers lists for them.
_TASKS = {
    "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES": "image-classification",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES": "text-classification",
    "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES": "token-classification",
    "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES": "audio-classification",
}
AUTO_CLASSES = {
    "image-classification": "AutoModelForImageClassification",
    "text-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "audio-classification": "AutoModelForAudioClassification",
}
# What an adapter owns: the copy of a block, or of a head or another module.
_OWNED = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+?)\.(?P<kind>subtuning_blocks|modules_to_save)\.(?P<name>[^.]+)\."
)
_ORIGINAL = re.compile(r"\.(?:base_layer|original_module)\.")


@dataclass(frozen=True)
class Part:
    """
    A module that the adapter owns.

    Args:
        name (`str`): Full dotted name in the base.
        num_parameters (`int`): Parameters of the adapter's copy.
        is_block (`bool`, *optional*, defaults to `True`): Whether it is a chosen block, else a head or the like.
    """

    name: str
    num_parameters: int
    is_block: bool = True


@dataclass(frozen=True)
class Source:
    """
    Where rows come from, as far as they say so themselves.

    Args:
        name (`str`): Name of the data set on the Hub.
        config (`str`, *optional*), split (`str`, *optional*), revision (`str`, *optional*): As in `load_dataset`.
    """

    name: str
    config: str | None = None
    split: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class Measured:
    """
    What an evaluation of the trained adapter returned.

    Args:
        split (`str`): The prefix of its metrics, such as `"test"`.
        metrics (`dict[str, float]`): Without the prefix, and without what tells of speed.
        num_rows (`int`, *optional*): Rows that were scored.
        steered (`bool`, *optional*, defaults to `False`):
            Whether these rows also chose the checkpoint or the end of the training; they are no test then.
        source ([`Source`], *optional*): Where the rows come from.
    """

    split: str
    metrics: Mapping[str, float]
    num_rows: int | None = None
    steered: bool = False
    source: Source | None = None


@dataclass(frozen=True)
class CardFacts:
    """
    All that a model card can tell. What is `None` or empty is not known and not told.

    Args:
        title (`str`): Heading of the card.
        adapter (`str`): What loads the adapter: its name on the Hub, or its folder.
        architecture (`str`): Class of the base model.
        parts (`tuple[Part, ...]`): What the adapter owns, in forward order.
        base_parameters (`int`): Parameters of the base model.
        num_blocks (`int`, *optional*): Blocks that the base has.
        base (`str`, *optional*), base_revision (`str`, *optional*): The base on the Hub.
        task (`str`, *optional*): Task of the Hub.
        labels (`tuple[str, ...]`, *optional*): Names of the classes, by index.
        has_processor (`bool`, *optional*): Whether an image processor or a tokenizer lies beside the adapter.
        result ([`SearchResult`], *optional*): The search that chose the blocks; `None` if they were given.
        study ([`~search.journal.Study`], *optional*): Its journal.
        measured (`tuple[Measured, ...]`, *optional*): Evaluations of the trained adapter.
        problem (`str`, *optional*): What the labels are, where they are not one class per row.
        results_url (`str`, *optional*): Address of the file that holds them, which is pushed with the card.
        comparison (`list[dict]`, *optional*): Rows of `compare.method_rows`.
        train_rows (`int`, *optional*): Rows of the final training.
        source ([`Source`], *optional*): Where these come from.
        arguments (`dict[str, Any]`, *optional*): Those that differ from their defaults.
        seed (`int`, *optional*), steps (`int`, *optional*), epochs (`float`, *optional*): Of the final training.
        processes (`int`, *optional*), device (`str`, *optional*): That it ran on.
        versions (`dict[str, str]`, *optional*): Of the libraries.
        has_journal (`bool`, *optional*): Whether the journal lies beside the card.
        license (`str`, *optional*), language (`str`, *optional*), tags (`tuple[str, ...]`, *optional*),
        datasets (`tuple[str, ...]`, *optional*), dataset_names (`tuple[str, ...]`, *optional*),
        dataset_args (`tuple[str, ...]`, *optional*): As their author gave them.
    """

    title: str
    adapter: str
    architecture: str
    parts: tuple[Part, ...]
    base_parameters: int
    num_blocks: int | None = None
    base: str | None = None
    base_revision: str | None = None
    task: str | None = None
    labels: tuple[str, ...] = ()
    has_processor: bool = False
    result: SearchResult | None = None
    study: Study | None = None
    measured: tuple[Measured, ...] = ()
    problem: str | None = None
    results_url: str | None = None
    comparison: Sequence[Mapping[str, Any]] = ()
    train_rows: int | None = None
    source: Source | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    steps: int | None = None
    epochs: float | None = None
    processes: int = 1
    device: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    has_journal: bool = False
    license: str | None = None
    language: str | None = None
    tags: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    dataset_names: tuple[str, ...] = ()
    dataset_args: tuple[str, ...] = ()

    @property
    def blocks(self) -> tuple[Part, ...]:
        """The chosen blocks."""
        return tuple(part for part in self.parts if part.is_block)

    @property
    def trained_parameters(self) -> int:
        """`int`: parameters of all that the adapter owns."""
        return sum(part.num_parameters for part in self.parts)


def adapter_parts(model: nn.Module, adapter: str = "default") -> tuple[tuple[Part, ...], int]:
    """
    What an adapter owns, and how large the base is without it.

    Args:
        model (`torch.nn.Module`): The [`~peft.PeftModel`].
        adapter (`str`, *optional*, defaults to `"default"`): Name of the adapter.

    Returns: `tuple[tuple[Part, ...], int]`: the parts in forward order, and the parameters of the base.
    """
    sizes: dict[tuple[str, bool], int] = {}
    base = 0
    for name, parameter in model.named_parameters():
        found = _OWNED.match(name)
        if found is None:
            base += parameter.numel()
        elif found["name"] == adapter:
            key = _ORIGINAL.sub(".", found["module"]), found["kind"] == "subtuning_blocks"
            sizes[key] = sizes.get(key, 0) + parameter.numel()
    return tuple(Part(name, size, is_block) for (name, is_block), size in sizes.items()), base


def pipeline_tag(model: nn.Module) -> str | None:
    """
    The task of the Hub that a model is for.

    Args:
        model (`torch.nn.Module`): The base model.

    Returns: `str` or `None`: `None` for models that transformers does not list for a task of classification.
    """
    from transformers.models.auto import modeling_auto

    names = {kind.__name__ for kind in type(model).__mro__}
    for listed, task in _TASKS.items():
        for value in getattr(modeling_auto, listed).values():
            if names & {value} if isinstance(value, str) else names & set(value):
                return task
    return None


def problem_of(model: Any) -> str | None:
    """
    What the labels of a model are, where they are not one class per row.

    Args:
        model (`torch.nn.Module`): A base model, or a [`~peft.PeftModel`].

    Returns: `str` or `None`: `"regression"`, `"multi_label_classification"` or `None`.
    """
    bare = model.get_base_model() if hasattr(model, "get_base_model") else model
    found = getattr(getattr(bare, "config", None), "problem_type", None)
    return found if found in ("regression", "multi_label_classification") else None


def hub_name(name: Any) -> str | None:
    """
    A name if it can be that of a repository on the Hub.

    Args:
        name: Where a model was loaded from; folders of this machine are nobody else's business.

    Returns: `str` or `None`
    """
    if not isinstance(name, str) or not name or Path(name).expanduser().exists():
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def source_of(rows: Any) -> Source | None:
    """
    Where a data set was downloaded from.

    Args:
        rows: Any data set; those of `datasets` remember their files.

    Returns: [`Source`] or `None`: `None` if it does not say, or comes from several places.
    """
    rows = getattr(rows, "dataset", rows)  # through a view
    info = getattr(rows, "info", None)
    files = getattr(info, "download_checksums", None) or {}
    found = {match.groups() for match in map(_HUB_FILE.match, map(str, files)) if match is not None}
    if len(found) != 1:
        return None
    name, revision = found.pop()
    config, split = getattr(info, "config_name", None), getattr(rows, "split", None)
    return Source(name, config if isinstance(config, str) else None, None if split is None else str(split), revision)


_HUB_FILE = re.compile(r"hf://datasets/([^@]+)@([0-9a-f]{40})/")
