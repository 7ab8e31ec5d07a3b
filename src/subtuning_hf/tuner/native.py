"""
The checks of an adapter's files and tensors on transformers' own way of loading.

`model.load_adapter`, `AutoModel.from_pretrained("adapter")` and `pipeline(model="adapter")` make the configuration and
the wrappers through PEFT, and then read the weights themselves, without asking PEFT or this package. What they read
with is looked up on the model, so a model that holds an adapter of ours gets one that looks at the files first.

Knows files and wrappers. What comes before the files are known it cannot check: the configuration has been read by
PEFT, and room for the adapter has been made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft.utils.constants import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file
from torch import nn

from ..errors import AdapterFileError
from . import modes, siamese
from .checks import check_header, check_tensors, keys_in_model
from .config import SubTuningConfig
from .intake import file_in, read_header
from .undo import take_out, wrapped

# Private to transformers, and the only thing that its `load_adapter` asks of the model once it knows the files. Where
# a version has none, nothing is installed, and `tests/tuner/test_hostile.py` fails.
_LOADER = "_load_pretrained_model"
_STATE = ("_subtuning_labels", "_subtuning_waiting", "peft_config")


def install(model: nn.Module) -> None:
    """
    Have transformers' loading into this model check adapters of this package first.

    Args:
        model (`torch.nn.Module`): A model that holds such an adapter; of any but transformers' nothing changes.
    """
    if hasattr(type(model), _LOADER):
        model.__dict__[_LOADER] = _load


def uninstall(model: nn.Module) -> None:
    """Load as transformers does again."""
    model.__dict__.pop(_LOADER, None)


def _load(
    model: Any, state_dict: dict[str, Any] | None, checkpoint_files: list[str] | None, *args: Any, **kwargs: Any
) -> Any:
    # A plain function and not a method, so that a copied or pickled model has it as well.
    load = getattr(type(model), _LOADER)
    configs = model.__dict__.get("peft_config") or {}
    name = next(reversed(configs), None)  # `load_adapter` has just entered the one that it loads
    config = configs.get(name)
    if not isinstance(config, SubTuningConfig):
        return load(model, state_dict, checkpoint_files, *args, **kwargs)
    assert isinstance(name, str)
    try:
        _check(model, config, name, state_dict, checkpoint_files or [])
        loaded = load(model, state_dict, checkpoint_files, *args, **kwargs)
    except Exception:
        _undo(model, name)
        raise
    model.__dict__.get("_subtuning_waiting", set()).discard(name)
    return loaded


def _check(
    model: nn.Module, config: SubTuningConfig, name: str, state_dict: dict[str, Any] | None, files: list[str]
) -> None:
    if state_dict is not None:
        check_tensors(model, config, name, keys_in_model(model, name, state_dict))
        return
    if [Path(file).name for file in files] != [SAFETENSORS_WEIGHTS_NAME]:
        raise AdapterFileError(
            f"The weights of the adapter must be one {SAFETENSORS_WEIGHTS_NAME}, found {files}. Others can run code "
            "when loaded and are never read. Ask for that file, and load with `use_safetensors` left out."
        )
    folder = Path(files[0]).parent
    if file_in(folder, CONFIG_NAME) is not None:  # else the caller gave the configuration
        SubTuningConfig.from_pretrained(str(folder))
    path = file_in(folder, SAFETENSORS_WEIGHTS_NAME)
    assert path is not None
    check_header(model, config, name, keys_in_model(model, name, read_header(path)))
    check_tensors(model, config, name, keys_in_model(model, name, load_file(path)))


def _undo(model: Any, name: str) -> None:
    """Leave the model as it was before the adapter was loaded; of other adapters, the oldest becomes active."""
    configs = model.peft_config
    take_out(model, name, configs)
    model.__dict__.get("_subtuning_waiting", set()).discard(name)
    if configs:
        # Not by `model.set_adapter`, which some versions of transformers refuse beside some of PEFT.
        for _, _, module in wrapped(model):
            module.set_adapter([next(iter(configs))])
        return
    modes.uninstall(model)
    siamese.uninstall(model)
    uninstall(model)
    for attribute in _STATE:
        model.__dict__.pop(attribute, None)
    model.__dict__.pop("_hf_peft_config_loaded", None)
