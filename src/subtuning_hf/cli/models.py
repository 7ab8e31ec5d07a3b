"""
Models by name, for commands that only look at their structure.

Weights are never read: a config is enough, and the model is built on the meta device, or with random weights. Knows
names and files; does not know blocks.
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingDependencyError, ModelNotFoundError

if TYPE_CHECKING:
    from torch import nn


# Tried for a config that names no class which this version of transformers has.
AUTO_CLASSES = (
    "AutoModelForImageClassification",
    "AutoModelForSequenceClassification",
    "AutoModelForAudioClassification",
    "AutoModelForSeq2SeqLM",
    "AutoModelForCausalLM",
    "AutoModel",
)


def model_structure(
    name: str, revision: str | None = None, auto_class: str | None = None, random_weights: bool = False
) -> nn.Module:
    """
    Build a model without its weights.

    Args:
        name (`str`):
            `timm/<architecture>`; or a name on the Hub; or a folder that holds a `config.json`; or the path of one.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        auto_class (`str`, *optional*):
            An `AutoModel` class of transformers; by default the class that the configuration names.
        random_weights (`bool`, *optional*, defaults to `False`): Build a model that can be run.

    Returns: `torch.nn.Module`: the model on the meta device where its code allows that, else with random weights.
    Raises: [`ModelNotFoundError`]: If there is no such model, with the nearest names where they are known.
    """
    if name.startswith("timm/") and not Path(name).exists():
        return _timm(name, random_weights)
    return _from_config(_config(name, revision), auto_class, random_weights)


def _timm(name: str, random_weights: bool) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise MissingDependencyError(f"'{name}' needs timm, which is not installed: pip install timm") from None
    short = name.removeprefix("timm/").removeprefix("hf_hub:")
    try:
        with _place(random_weights):
            return timm.create_model(short, pretrained=False)
    except RuntimeError as error:
        if "Unknown model" not in str(error) and "Invalid pretrained tag" not in str(error):
            raise
        near = difflib.get_close_matches(short.split(".")[0], timm.list_models(), n=3)
        meant = f" Did you mean {', '.join(f'timm/{n}' for n in near)}?" if near else ""
        raise ModelNotFoundError(f"timm has no architecture '{short}'.{meant}") from None


def _config(name: str, revision: str | None) -> Any:
    from transformers import AutoConfig

    path = Path(name).expanduser()
    if path.is_dir() and not (path / "config.json").is_file():
        what = "an adapter, whose base model is what you want" if (path / "adapter_config.json").is_file() else "none"
        raise ModelNotFoundError(f"'{name}' is a folder without a config.json (found: {what}).")
    if not path.exists() and (path.suffix == ".json" or name.startswith((".", "/", "~"))):
        raise ModelNotFoundError(f"There is no file or folder '{name}'.")
    if path.exists():
        file = path / "config.json" if path.is_dir() else path
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ModelNotFoundError(f"'{file}' is not a JSON file: {error}") from None
        if not isinstance(found, dict) or not {"model_type", "architecture"} & set(found):
            raise ModelNotFoundError(
                f"'{file}' does not say what model it configures: it has neither 'model_type' (transformers) nor "
                "'architecture' (timm)."
            )
    try:
        return AutoConfig.from_pretrained(str(path) if path.exists() else name, revision=revision)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelNotFoundError(
            f"No configuration for '{name}': {reason}\nGive a name on the Hub (with a network, or when it is in the "
            "cache), a local folder, the path of a config.json, or timm/<architecture>."
        ) from error


def _from_config(config: Any, auto_class: str | None, random_weights: bool) -> nn.Module:
    import transformers

    if auto_class is not None:
        if not auto_class.startswith("AutoModel") or not hasattr(transformers, auto_class):
            near = difflib.get_close_matches(auto_class, [n for n in dir(transformers) if n.startswith("AutoModel")], 1)
            meant = f" Did you mean {near[0]}?" if near else ""
            raise ModelNotFoundError(f"transformers has no class '{auto_class}' of the AutoModel family.{meant}")
        try:
            return _build(getattr(transformers, auto_class).from_config, config, random_weights)
        except ValueError as error:
            reason = str(error).strip().splitlines()[0]
            raise ModelNotFoundError(f"'{config.model_type}' is nothing for {auto_class}: {reason}") from None
    for architecture in getattr(config, "architectures", None) or []:
        cls = getattr(transformers, architecture, None)
        if cls is not None:
            return _build(cls, config, random_weights)
    errors = []
    for auto in AUTO_CLASSES:
        try:
            return _build(getattr(transformers, auto).from_config, config, random_weights)
        except ValueError as error:  # not a config of this kind of task
            errors.append(error)
    raise ModelNotFoundError(f"transformers has no model for a '{config.model_type}' configuration: {errors[-1]}")


def _build(make: Any, config: Any, random_weights: bool) -> nn.Module:
    make = getattr(make, "_from_config", make)
    try:
        with _place(random_weights):
            return make(config)
    except (NotImplementedError, RuntimeError):
        if random_weights:
            raise
        # Some constructors compute with their weights, which the meta device cannot.
        return make(config)


def _place(random_weights: bool) -> Any:
    import torch

    return torch.device("cpu" if random_weights else "meta")
