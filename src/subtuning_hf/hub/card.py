"""
The model card of an adapter: its metadata, and the body put together from its sections.

A section without facts is left out, and nothing is told that was not measured or given. Knows facts and finished
pictures; not the trainer.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from . import sections
from .facts import CardFacts, Measured, Source
from .markdown import text
from .results import FILE_NAME as RESULTS

FILE_NAME = "README.md"
# Its first words are what tells our card from one that somebody wrote.
MARK = (
    "<!-- This card was written by subtuning-hf, which writes it anew whenever the adapter is saved. "
    "Remove this comment to keep your own changes. -->"
)
_MARK = re.compile(r"^<!-- This card was written by subtuning-hf\b", re.MULTILINE)


@dataclass(frozen=True)
class Picture:
    """
    A finished picture.

    Args:
        file (`str`): Its place, as seen from the card.
        alt (`str`): What it shows, for those who do not see it.
    """

    file: str
    alt: str


def model_card(facts: CardFacts, pictures: Sequence[Picture] = ()) -> ModelCard:
    """
    Write the card of an adapter.

    Args:
        facts ([`CardFacts`]): What is known.
        pictures (`Sequence[Picture]`, *optional*): To be shown with the search.

    Returns: [`~huggingface_hub.ModelCard`]
    """
    shown = "\n\n".join(f"![{text(picture.alt)}]({picture.file})" for picture in pictures)
    found = [
        sections.summary(facts),
        sections.results(facts),
        sections.trained(facts),
        sections.usage(facts),
        sections.search(facts, shown),
        sections.comparison(facts),
        sections.data(facts),
        sections.reproduction(facts),
        sections.limits(facts),
    ]
    body = "\n\n".join([MARK, f"# {text(facts.title)}", *filter(None, found)])
    return ModelCard(f"---\n{metadata(facts).to_yaml()}\n---\n\n{body}\n")


def metadata(facts: CardFacts) -> ModelCardData:
    """
    What the Hub reads.

    Args:
        facts ([`CardFacts`]): What is known.

    Returns: [`~huggingface_hub.ModelCardData`]
    """
    tags = ["subtuning", "peft", *([f"base_model:adapter:{facts.base}"] if facts.base else []), *facts.tags]
    sources = [source.name for source in (facts.source, *(one.source for one in facts.measured)) if source is not None]
    results = list(_results(facts))
    names = [name for one in facts.measured if not one.steered for name in one.metrics if name != "loss"]
    return ModelCardData(
        base_model=facts.base,
        base_model_relation="adapter" if facts.base else None,
        library_name="peft",
        pipeline_tag=facts.task,
        license=facts.license,
        language=facts.language,
        tags=list(dict.fromkeys(tags)),
        datasets=list(dict.fromkeys([*facts.datasets, *sources])) or None,
        metrics=list(dict.fromkeys(names)) or None,
        model_name=facts.title if results else None,
        eval_results=results or None,
    )


def _results(facts: CardFacts) -> Iterator[EvalResult]:
    """What was measured on rows that chose nothing; scores of folds did choose, and are no results."""
    for one in facts.measured:
        for name, value in {} if one.steered or facts.task is None else one.metrics.items():
            if math.isfinite(value):
                yield EvalResult(
                    task_type=str(facts.task),
                    metric_type=name,
                    metric_name=f"{one.split} {name}",
                    metric_value=value,
                    source_name=RESULTS if facts.results_url else None,
                    source_url=facts.results_url,
                    **_data_set(facts, one),
                )


def _data_set(facts: CardFacts, one: Measured) -> dict[str, Any]:
    """The data set of a result; the Hub wants one, and `unknown` is its word where nothing is known."""
    given = next(iter(facts.datasets), None)
    source = one.source or Source(given or "unknown")
    name = next(iter(facts.dataset_names), None) or (source.name if source.name != "unknown" else "Unknown")
    # The prefix of a metric is a word of its author's: only that of the data set itself, or "test", is a split.
    split = source.split or ("test" if one.split == "test" else None)
    found = {"dataset_type": source.name, "dataset_name": name, "dataset_config": source.config, "dataset_split": split}
    return {**found, "dataset_revision": source.revision}


# --- beside the adapter ---------------------------------------------------------------------
def is_own_card(file: str | os.PathLike[str]) -> bool:
    """
    Whether a card is the work of somebody, who would miss it.

    Args:
        file (`str` or `os.PathLike`): The card; it need not exist.

    Returns: `bool`: False for what this module or PEFT wrote unasked, and where there is none.
    """
    try:
        found = Path(file).read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return False
    return bool(found.strip()) and not _MARK.search(found) and not _is_stub(found)


def _is_stub(found: str) -> bool:
    """Whether this is the form that PEFT saves with every adapter, not filled in."""
    empty = ModelCard.from_template(ModelCardData()).text
    body = re.sub(r"\A---\r?\n.*?^---\r?$", "", found, count=1, flags=re.MULTILINE | re.DOTALL)
    body = re.sub(r"^- PEFT \S+\s*$", "", body, flags=re.MULTILINE)
    form = re.sub(r"^- PEFT \S+\s*$", "", empty, flags=re.MULTILINE)
    # PEFT ends it with its version, under the heading of the form where that has one.
    return _words(body).removesuffix(_VERSIONS) == _words(form).removesuffix(_VERSIONS)


_VERSIONS = " ### Framework versions"


def _words(found: str) -> str:
    return " ".join(found.split())


def write_card(card: ModelCard, folder: str | os.PathLike[str]) -> bool:
    """
    Put a card beside an adapter, unless somebody has written one there.

    Args:
        card ([`~huggingface_hub.ModelCard`]): The card.
        folder (`str` or `os.PathLike`): The folder.

    Returns: `bool`: whether it was written.
    """
    file = Path(folder) / FILE_NAME
    if is_own_card(file):
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    # Whole or not at all: a card cut short would lose its mark.
    scratch = file.with_name(f".{FILE_NAME}.{os.getpid()}")
    try:
        scratch.write_text(str(card), encoding="utf-8", newline="\n")
        os.replace(scratch, file)
    finally:
        scratch.unlink(missing_ok=True)
    return True
