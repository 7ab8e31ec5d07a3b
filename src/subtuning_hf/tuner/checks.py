"""
What can go wrong in silence between an adapter and a model, made to fail loudly.

Knows names and shapes; decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NoReturn

import torch
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from ..errors import AdapterFileError, AdapterMismatchError, AdapterNameError, ArgumentsError
from .config import SubTuningConfig
from .head import output_layers
from .intake import Found
from .labels import labels_of
from .layer import BlockLayer

_RESERVED = frozenset(
    {"__base__", "base_layer", "base_model", "model", "modules_to_save", "original_module", "subtuning_blocks"}
)
_EMPTY = nn.ModuleDict()
_SLACK = 4096


def check_adapter_name(model: nn.Module, name: str) -> None:
    """
    Refuse a name that is also a name inside the model, or one that cannot hold copies.

    PEFT tells the tensors of adapters apart by `.name.` in their keys: with a second adapter called "mlp" it would
    drop every tensor of the first that lies in a module "mlp", and say nothing. Copies are kept in a `ModuleDict`,
    which takes no key that is an attribute of its own, such as "type".

    Raises: [`AdapterNameError`]
    """
    if not isinstance(name, str) or not name or "." in name:
        raise AdapterNameError(f"An adapter's name must be a non-empty string without dots, found {name!r}.")
    if name in _RESERVED or name in set(_components(model)):
        raise AdapterNameError(
            f"The adapter name '{name}' is also the name of a module, parameter or buffer inside "
            f"'{type(model).__name__}'. PEFT would mix up their tensors when saving. Choose another, such as "
            f"'{name}_task', with `adapter_name=`."
        )
    if hasattr(_EMPTY, name):
        raise AdapterNameError(
            f"The adapter name '{name}' is an attribute of torch's modules. Choose another, such as '{name}_task', "
            "with `adapter_name=`."
        )
    if adapter_tensors(model, name):
        raise AdapterNameError(
            f"'{type(model).__name__}' already holds an adapter '{name}', whose weights would be lost. Call "
            "unload() on the PeftModel that holds it, delete it, or choose another `adapter_name`."
        )


def _components(module: nn.Module) -> Iterator[str]:
    if isinstance(module, BlockLayer):
        yield from _components(module.original)
    elif isinstance(module, AuxiliaryTrainingWrapper):
        yield from _components(module.original_module)
    else:
        yield from module._parameters
        yield from module._buffers
        for name, child in module.named_children():
            yield name
            yield from _components(child)


def check_present(model: nn.Module, names: list[str]) -> None:
    """
    Refuse modules whose weights accelerate keeps elsewhere: a copy would be empty, and its hook run the original's.

    Raises: [`ArgumentsError`]
    """
    for name in names:
        for module in model.get_submodule(name).modules():
            if getattr(getattr(module, "_hf_hook", None), "offload", False):
                raise ArgumentsError(
                    f"'{name}' is offloaded to the CPU or the disk, and what is not on a device cannot be tuned. Load "
                    "the base with a `device_map` that places this module on a device."
                )


def check_finite(model: nn.Module, adapter_names: list[str]) -> None:
    """Refuse adapters with NaN or infinity in a parameter, before any part of them is merged."""
    parameters = {key for key, _ in model.named_parameters(remove_duplicate=False)}
    for name in adapter_names:
        for key, tensor in adapter_tensors(model, name).items():
            if key in parameters and tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise ValueError(f"NaN or infinity in '{_readable(key, name)}' of adapter {name}; it was not merged.")


def adapter_tensors(model: nn.Module, adapter_name: str) -> dict[str, torch.Tensor]:
    """Tensors of an adapter by their key in the model's state dict."""
    tensors: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, BlockLayer):
            child = "subtuning_blocks"
        elif isinstance(module, AuxiliaryTrainingWrapper):
            child = "modules_to_save"
        else:
            continue
        copies = module._modules.get(child)
        if isinstance(copies, nn.ModuleDict) and adapter_name in copies:
            prefix = f"{name}.{child}.{adapter_name}." if name else f"{child}.{adapter_name}."
            tensors.update({prefix + key: value for key, value in copies[adapter_name].state_dict().items()})
    return tensors


def check_room(model: nn.Module, config: SubTuningConfig) -> None:
    """
    Compare what an adapter's file announces with the model, before any room is made for it.

    Only sizes: names and shapes of all tensors are compared when they have been read ([`check_tensors`]), and on the
    CPU tensors of a file take no memory before. A head of a billion labels and their names would, and so would a file
    of a terabyte on a GPU.

    Args:
        model (`torch.nn.Module`): Model without the adapter.
        config ([`SubTuningConfig`]): As [`SubTuningConfig.from_pretrained`] read it; any other says nothing.

    Raises: [`AdapterMismatchError`]
    """
    header: dict[str, Found] | None = config.__dict__.pop("_header", None)
    if header is None:
        return
    names = [*(config.blocks or []), *(config.head or []), *(config.modules_to_save or [])]
    modules = dict(model.named_modules())
    if any(name not in modules for name in config.blocks or []):
        return  # it will be told in better words when blocks are looked for, before room is made for anything
    for name in config.head or []:
        if name not in modules:
            _refuse(model, config, f"it has a head '{name}', which is no module here")
    room = 0
    for key, module in modules.items():
        if any(key == name or (config.task_type and key.endswith(str(name))) for name in names):
            room += sum(t.numel() for t in module.state_dict().values() if isinstance(t, torch.Tensor))
    for key, shape in _new_outputs(model, config):
        found = header.get(f"base_model.model.{key}")
        if found is None or found.shape != shape:
            what = "is not in the adapter" if found is None else f"has shape {found.shape} in the adapter"
            _refuse(model, config, f"tensor '{key}' {what}, and its {shape[0]:,} labels need {shape}")
        room += math.prod(shape) + shape[0]
    held = sum(one.numel for one in header.values())
    if held > 2 * room + _SLACK:
        _refuse(model, config, f"its file holds {held:,} numbers, and these blocks and heads here {room:,}")


def _new_outputs(model: nn.Module, config: SubTuningConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The layers of the head that get another number of outputs than the base's: name of the weight, and its shape."""
    for name, (path, width) in output_layers(model, config.head or [], labels_of(model).base_count).items():
        if config.num_labels is None or config.num_labels == width:
            continue
        module: Any = model.get_submodule(name)
        layer = getattr(module, "original_module", module).get_submodule(path)
        if layer.weight.numel():  # else it is spread over processes
            inputs = tuple(size * (2 if config.siamese else 1) for size in layer.weight.shape[1:])
            yield ".".join(filter(None, [name, path, "weight"])), (config.num_labels, *inputs)


def _refuse(model: Any, config: SubTuningConfig, problem: str) -> NoReturn:
    raise AdapterMismatchError(f"{made_for(config)}, and does not fit '{type(bare(model)).__name__}': {problem}.")


def check_tensors(model: nn.Module, config: SubTuningConfig, adapter_name: str, found: dict[str, torch.Tensor]) -> None:
    """
    Compare the tensors of an adapter's file with those the model has room for.

    Args:
        model (`torch.nn.Module`): Model with the adapter in place.
        config ([`SubTuningConfig`]): The adapter's configuration.
        adapter_name (`str`): Its name.
        found (`dict[str, torch.Tensor]`): Tensors of the file by their key in the model's state dict.

    Raises:
        [`AdapterMismatchError`]: If one is missing, has another shape or another kind of numbers, or has no place.
        [`AdapterFileError`]: If there is NaN or infinity where the model has none.
    """
    expected, found = _compared(model, config, adapter_name, found)
    _check_numbers(config, adapter_name, {key: (expected[key], found[key]) for key in expected})


def check_header(model: nn.Module, config: SubTuningConfig, adapter_name: str, found: dict[str, Found]) -> None:
    """
    Compare the table of contents of an adapter's file with the model, before a tensor is read.

    Args:
        model (`torch.nn.Module`): Model with the adapter in place.
        config ([`SubTuningConfig`]): The adapter's configuration.
        adapter_name (`str`): Its name.
        found (`dict[str, Found]`): Tensors of the file by their key in the model's state dict.

    Raises: [`AdapterMismatchError`]: If one is missing, has another shape, or has no place.
    """
    here = adapter_tensors(model, adapter_name)
    # Kinds of numbers are compared when the tensors are read.
    dtypes = {key: here[key].dtype if key in here else torch.float32 for key in found}
    empty = {key: torch.empty(one.shape, dtype=dtypes[key], device="meta") for key, one in found.items()}
    _compared(model, config, adapter_name, empty)


def keys_in_model(model: nn.Module, adapter_name: str, saved: dict[str, Any]) -> dict[str, Any]:
    """
    What a file says of tensors, by their key in the model's state dict instead of that in the file.

    Args:
        model (`torch.nn.Module`): A base model with the adapter in place.
        adapter_name (`str`): The adapter.
        saved (`dict`): By key in the file, with or without PEFT's prefix; keys that are unknown stay as they are.
    """
    homes: dict[str, str] = {}
    for key in adapter_tensors(model, adapter_name):
        short = key.replace(f".subtuning_blocks.{adapter_name}.", ".subtuning_blocks.", 1)
        short = short.replace(f".modules_to_save.{adapter_name}.", ".", 1)
        homes.update({short: key, f"base_model.model.{short}": key})
    return {homes.get(key, key): value for key, value in saved.items()}


def _compared(
    model: nn.Module, config: SubTuningConfig, adapter_name: str, found: dict[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The model's tensors and the file's, by the same keys and of the same shapes and kinds."""
    expected = adapter_tensors(model, adapter_name)
    if not any(key in found for key in expected):
        # Keys carry PEFT's prefix, or not when the adapter sits in a bare transformers model.
        found = {key.removeprefix("base_model.model."): value for key, value in found.items()}
    missing = [key for key in expected if key not in found]
    foreign = [key for key in found if key not in expected]
    both = [key for key in expected if key in found]
    shapes = [key for key in both if expected[key].shape != found[key].shape]
    kinds = [key for key in both if _kind(expected[key]) != _kind(found[key])]
    if shapes:
        key = shapes[0]
        problem = (
            f"tensor '{_readable(key, adapter_name)}' has shape {tuple(found[key].shape)} in the adapter and "
            f"{tuple(expected[key].shape)} in this model ({len(shapes)} of {len(expected)} tensors differ)"
        )
    elif missing:
        problem = f"tensor '{_readable(missing[0], adapter_name)}' is not in the adapter ({len(missing)} are missing)"
    elif foreign:
        problem = f"tensor '{_readable(foreign[0], adapter_name)}' has no place in the model ({len(foreign)} have none)"
    elif kinds:
        key = kinds[0]
        problem = (
            f"tensor '{_readable(key, adapter_name)}' holds {found[key].dtype} in the adapter, which cannot stand for "
            f"{expected[key].dtype}"
        )
    else:
        return expected, found
    _refuse(model, config, problem)


def _check_numbers(
    config: SubTuningConfig, adapter_name: str, pairs: dict[str, tuple[torch.Tensor, torch.Tensor]]
) -> None:
    """Refuse NaN and infinity, but where the model itself has some, as in tables of masks."""
    for key, (here, there) in pairs.items():
        if not _finite(there) and (here.is_meta or _finite(here)):
            raise AdapterFileError(
                f"{made_for(config)}, and holds NaN or infinity in '{_readable(key, adapter_name)}': whatever it was "
                "trained for, it answers nothing. Train it again, with a lower learning rate or in float32."
            )


def _finite(tensor: torch.Tensor) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    return bool(torch.isfinite(tensor if tensor.element_size() > 1 else tensor.float()).all())


def _kind(tensor: torch.Tensor) -> str:
    """Numbers of one kind can be cast to one another as adapters are; a weight of whole numbers is none."""
    if tensor.is_floating_point() or tensor.is_complex():
        return "floating" if tensor.is_floating_point() else "complex"
    return "bool" if tensor.dtype == torch.bool else "whole"


def made_for(config: SubTuningConfig) -> str:
    """Which base an adapter says it was made for."""
    architecture = config.base_architecture or "an unknown architecture"
    return f"The adapter was made for '{config.base_model_name_or_path or 'an unnamed base'}' ({architecture})"


def bare(model: Any) -> nn.Module:
    """The base model of a PeftModel; any other model as it is."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _readable(key: str, adapter_name: str) -> str:
    key = key.removeprefix("base_model.model.")
    return key.replace(f".subtuning_blocks.{adapter_name}", "").replace(f".modules_to_save.{adapter_name}", "")
