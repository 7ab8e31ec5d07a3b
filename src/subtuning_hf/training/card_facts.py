"""
What a model card tells of a training: arguments that matter, versions, pictures of the search.

Knows arguments and, where matplotlib is installed, `plots`; not the trainer.
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from transformers.utils import logging

from .. import __version__
from ..errors import how_to_install
from ..hub.card import Picture
from ..search.journal import Study
from ..search.profile import predicted_profile
from ..search.result import SearchResult
from .arguments import GreedySubTuningArguments
from .identity import EXCLUDED, describe

logger = logging.get_logger(__name__)

PICTURES = "pictures"


def changed_arguments(args: GreedySubTuningArguments) -> dict[str, Any]:
    """
    The arguments that differ from their defaults and can change what is chosen or trained.

    Args:
        args ([`GreedySubTuningArguments`]): All arguments.

    Returns: `dict[str, Any]`: plain values; neither places, nor names of accounts, nor the seed are among them.
    """
    own = GreedySubTuningArguments.__annotations__.keys() | {"metric_for_best_model", "greater_is_better"}
    hidden = (EXCLUDED - own) | {"dry_run", "seed", "start_from"}
    found = {}
    for field in dataclasses.fields(args):
        if field.name in hidden or not field.init or field.name.startswith("_"):
            continue
        value = getattr(args, field.name)
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        # Whatever later versions do by default, it should be seen how the blocks were found.
        if field.name == "strategy" or not _same(value, default, exact=field.name in own):
            found[field.name] = _plain(value)
    return found


def _same(value: Any, default: Any, exact: bool) -> bool:
    """Whether a value says what the default says; `exact` where False or 0 is something else than None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return default is None and value == type(value)()
    if _plain(value) == _plain(default):
        return True
    # TrainingArguments puts False, {} or [] where None was given.
    nothing: tuple[Any, ...] = (False, {}, [], "")
    return not exact and default is None and any(value is one or (value == one and value != 0) for one in nothing)


def _plain(value: Any) -> Any:
    value = getattr(value, "value", value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return describe(value)


def versions() -> dict[str, str]:
    libraries = {"torch": torch, "transformers": transformers, "peft": peft}
    found = {name: module.__version__ for name, module in libraries.items()}
    return {"subtuning-hf": __version__, **found, "python": platform.python_version()}


def listed(value: str | Sequence[str] | None) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


# --- pictures -------------------------------------------------------------------------------
def draw_pictures(result: SearchResult | None, folder: Path, study: Study | None = None) -> list[Picture]:
    """
    What was predicted, the profile and the ladder as PNG, where there is something to draw, and matplotlib to draw it.

    Args:
        result ([`SearchResult`], *optional*): The search.
        folder (`Path`): Where the card will be.
        study ([`Study`], *optional*): Its journal.

    Returns: `list[Picture]`
    """
    if result is None:
        return []
    try:
        from .. import plots
    except ImportError:
        logger.info(f"The model card has no pictures: matplotlib is not installed ({how_to_install('plots')}).")
        return []
    drawn: list[tuple[Any, str, str]] = []
    if result.proposal is not None and study is not None:
        predicted = predicted_profile(study.spec, result.proposal)
        known = {row.label for row in predicted.rows}
        if len(known) > 1:
            marked = [name for name in result.blocks if name in known]
            figure = plots.plot_predictions(predicted, selection=marked, strategy=result.proposal.search.strategy)
            drawn.append((figure, "prediction.png", "Predicted score of each block alone, on a scale of its own"))
    if len(result.profile.rows) > 1:
        known = {row.label for row in result.profile.rows}
        marked = [name for name in result.blocks if name in known]
        ordered = bool(result.rounds) and result.rounds[0].direction == "forward"
        figure = plots.plot_profile(result.profile, selection=marked, ordered=ordered)
        words = f"Finetuning profile: {result.metric} of each block alone"
        drawn.append((figure, "profile.png", words))
    if len(result.rounds) > 1:
        drawn.append(
            (plots.plot_ladder(result), "ladder.png", f"Ladder of the search: {result.metric} after each step")
        )
    for figure, name, _ in drawn:
        plots.save_figure(figure, folder / PICTURES / name)
    return [Picture(f"{PICTURES}/{name}", words) for _, name, words in drawn]
