"""
What functions and settings are, as far as a score can depend on it.

A function is its qualified name, its source and the values it closes over; a class is its source, what its methods
close over and its plain attributes; an object is its class and its attributes; settings are all fields of the arguments
but a list of those that cannot change a score. What lies beyond (a global variable, a file that a function reads) is
for `study_tag`.
"""

from __future__ import annotations

import collections
import contextlib
import copyreg
import functools
import inspect
import os
import types
from collections.abc import Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback

from .arguments import GreedySubTuningArguments
from .fingerprint import Hasher, fingerprint_tensors, fingerprint_value


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Fields that cannot change a score. All others count, so that a field of a future version does as well.
EXCLUDED = _names(
    """
    output_dir overwrite_output_dir run_name project trackio_space_id trackio_bucket_id trackio_static_space_id
    report_to disable_tqdm log_level log_level_replica log_on_each_node logging_dir logging_strategy logging_steps
    logging_first_step logging_nan_inf_filter include_num_input_tokens_seen include_tokens_per_second
    push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision
    save_only_model save_on_each_node save_total_limit save_safetensors enable_jit_checkpoint
    dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor
    dataloader_multiprocessing_context dataloader_in_order eval_use_gather_object eval_accumulation_steps
    torch_empty_cache_steps skip_memory_metrics debug do_train do_eval do_predict resume_from_checkpoint
    ignore_data_skip restore_callback_states_from_checkpoint local_rank ddp_find_unused_parameters ddp_bucket_cap_mb
    ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout
    strategy direction candidates granularity min_gain max_blocks max_trainable_parameters pruner confidence reduction
    smallest_budget score_limit speculate use_cpu blocks dry_run study_tag num_threads fsdp fsdp_config deepspeed
    parallelism_config start_from prefix_cache prefix_cache_gb search_budget
    latency_profile serving_tasks serving_batch max_added_latency serving_aware
    metric_for_best_model greater_is_better fold_seed
    """
)
# Fields that matter only where a candidate's training evaluates as it goes.
INNER_ONLY = _names(
    """
    eval_strategy eval_steps eval_delay eval_on_start save_strategy save_steps load_best_model_at_end
    inner_validation_fraction
    """
)
# Fields that came after studies had been made: at these values nothing is as it was not before.
LATER = {"augmentation_views": None, "init_head": "model", "init_blocks": "pretrained"}
# How often rows are read and by how many workers matters where reading draws random numbers.
RANDOM_DATA_ONLY = frozenset({"dataloader_num_workers"})
_CONFIG_NOISE = ("_name_or_path", "name_or_path", "transformers_version", "use_cache", "torch_dtype", "dtype")
_DEPTH = 6
_FIELDS = "__dataclass_fields__"  # their values are the objects' own
# What a module keeps that is no setting; names with an underscore are others' notes.
_BOOKKEEPING = _names("training dump_patches call_super_init gradient_checkpointing grad_checkpointing")
# Modules of values without attributes, which say by themselves what they are made of and keep no state.
_PLAIN_MODULES = _names("builtins collections re datetime decimal fractions uuid")


def settings_of(args: GreedySubTuningArguments, inner: bool, random_data: bool) -> dict[str, Any]:
    """
    The arguments that can change a score, as readable JSON.

    Args:
        args ([`GreedySubTuningArguments`]): All arguments.
        inner (`bool`): Whether candidates evaluate on an inner split as they train.
        random_data (`bool`): Whether reading a training row draws random numbers.

    Returns: `dict[str, Any]`
    """
    skip = EXCLUDED | (frozenset() if inner else INNER_ONLY) | (frozenset() if random_data else RANDOM_DATA_ONLY)
    skip |= {name for name, value in LATER.items() if getattr(args, name) == value}
    fields = {name: _json(value) for name, value in args.to_dict().items() if name not in skip}
    if inner:
        # The inner training is steered by the metric, and by what makes it better.
        fields["metric_for_best_model"] = args.metric_for_best_model
        fields["greater_is_better"] = args.greater_is_better
    fields["fold_seed"] = args.resolved_fold_seed
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", "bf16" if args.bf16 else "fp16" if args.fp16 else "no"):
        fields["mixed_precision"] = launched  # of the launcher, where the arguments say nothing of it
    return dict(sorted(fields.items()))


def _json(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_json(item) for item in value]
    return describe(value)


def model_identity(model: nn.Module) -> dict[str, Any]:
    """
    What a model computes beside its weights: its class and its config, as readable JSON.

    Labels count by their number: their names change no score.
    """
    found: dict[str, Any] = {"class": _qualified(type(model))}
    config = getattr(model, "config", None)
    if config is not None and hasattr(config, "to_dict"):
        values = {k: v for k, v in config.to_dict().items() if k not in (*_CONFIG_NOISE, "id2label", "label2id")}
        values["num_labels"] = getattr(config, "num_labels", None)
        found["config"] = _json(values)
    else:
        # Hyper-parameters that are no weights (dropout rates, strides) are in the modules' own description, and others
        # in their attributes.
        found["modules"] = fingerprint_value(repr(model))
        found["attributes"] = fingerprint_code(_attributes(model))
    return found


# --- code -----------------------------------------------------------------------------------
def describe(thing: Any) -> str:
    """Readable name of a function, class or object."""
    if isinstance(thing, functools.partial):
        return f"partial({describe(thing.func)})"
    if inspect.ismethod(thing):
        return f"{_qualified(type(thing.__self__))}.{thing.__name__}"
    if isinstance(thing, type | types.FunctionType | types.BuiltinFunctionType):
        return _qualified(thing)
    return _qualified(type(thing))


def _qualified(thing: Any) -> str:
    return f"{getattr(thing, '__module__', '?')}.{getattr(thing, '__qualname__', repr(thing))}"


def fingerprint_code(thing: Any) -> str:
    """
    Fingerprint of a function, a class, a partial, a bound method or a callable object.

    Returns: `str`, the same in every process as long as source and captured values are the same.
    """
    hasher = Hasher()
    _add(hasher, thing, _DEPTH, set())
    return hasher.hex()


def _add(hasher: Hasher, thing: Any, depth: int, seen: set[int]) -> None:
    if thing is None or isinstance(thing, bool | int | float | complex | str | bytes) or _is_array(thing):
        hasher.value(thing)
        return
    if isinstance(thing, Enum):
        hasher.raw("enum", str(thing).encode())
        return
    if depth == 0 or id(thing) in seen:
        hasher.raw("seen", describe(thing).encode())
        return
    seen = seen | {id(thing)}
    if isinstance(thing, functools.partial):
        hasher.raw("partial")
        for part in (thing.func, list(thing.args), thing.keywords):
            _add(hasher, part, depth - 1, seen)
    elif inspect.ismethod(thing):
        hasher.raw("method", thing.__name__.encode())
        _add(hasher, thing.__self__, depth - 1, seen)
        _add(hasher, thing.__func__, depth - 1, seen)
    elif isinstance(thing, types.FunctionType):
        _add_function(hasher, thing, depth, seen)
    elif isinstance(thing, type):
        _add_class(hasher, thing, depth, seen)
    elif isinstance(thing, Mapping):
        hasher.raw("dict", str(len(thing)).encode())
        for key in sorted(thing, key=repr):
            hasher.raw("key", repr(key).encode())
            _add(hasher, thing[key], depth - 1, seen)
    elif isinstance(thing, list | tuple | collections.deque):
        hasher.raw("list", str(len(thing)).encode())
        for item in thing:
            _add(hasher, item, depth - 1, seen)
    elif isinstance(thing, set | frozenset):
        prints = []
        for item in thing:
            inner = Hasher()
            _add(inner, item, depth - 1, seen)
            prints.append(inner.hex().encode())
        hasher.raw("set", *sorted(prints))
    else:
        _add_object(hasher, thing, depth, seen)


def _attributes(model: nn.Module) -> dict[str, Any]:
    """Plain values that modules keep beside their weights, such as the smoothing of a loss, by the module's name."""
    return {
        name: {
            key: value
            for key, value in vars(module).items()
            if not key.startswith("_") and key not in _BOOKKEEPING and _is_plain(value)
        }
        for name, module in model.named_modules()
    }


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain(key) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | complex | str | bytes | Enum)


def _is_array(thing: Any) -> bool:
    return isinstance(thing, torch.Tensor) or (type(thing).__module__ == "numpy" and hasattr(thing, "__array__"))


def _add_function(hasher: Hasher, function: types.FunctionType, depth: int, seen: set[int]) -> None:
    hasher.raw("function", _qualified(function).encode(), _source(function))
    if function.__name__ == "<lambda>":
        # The source of a lambda is its whole line, which may hold two of them.
        hasher.raw("lambda", _bytecode(function.__code__))
    _add(hasher, list(function.__defaults__ or ()), depth - 1, seen)
    _add(hasher, function.__kwdefaults__ or {}, depth - 1, seen)
    _add_captured(hasher, function, depth, seen)
    wrapped = getattr(function, "__wrapped__", None)
    if wrapped is not None:
        _add(hasher, wrapped, depth - 1, seen)


def _add_captured(hasher: Hasher, function: types.FunctionType, depth: int, seen: set[int]) -> None:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            content = cell.cell_contents
        except ValueError:  # not bound yet
            hasher.raw("captured", name.encode())
            continue
        if name == "__class__" and id(content) in seen:  # of `super()`, in a class that is being added
            continue
        hasher.raw("captured", name.encode())
        _add(hasher, content, depth - 1, seen)


def _add_class(hasher: Hasher, kind: type, depth: int, seen: set[int]) -> None:
    """A class with what it inherits, up to the libraries' own classes."""
    for parent in kind.__mro__:
        if parent in (object, Trainer, TrainerCallback) or parent.__module__.partition(".")[0] in _LIBRARIES:
            hasher.raw("base", _qualified(parent).encode())
            continue
        hasher.raw("class", _qualified(parent).encode(), _source(parent))
        for name, value in sorted(vars(parent).items()):
            method = value.__func__ if isinstance(value, staticmethod | classmethod) else value
            if isinstance(method, types.FunctionType):
                if name != "__repr__" and method.__code__.co_filename != "<string>":  # those of dataclasses
                    _add_captured(hasher, method, depth, seen | {id(parent)})
            elif not name.startswith("_") and name not in getattr(parent, _FIELDS, ()) and _is_plain(value):
                hasher.raw("attribute", name.encode())
                _add(hasher, value, depth - 1, seen)


def _add_object(hasher: Hasher, thing: Any, depth: int, seen: set[int]) -> None:
    _add_class(hasher, type(thing), depth, seen)
    if isinstance(thing, nn.Module):
        hasher.raw("module", repr(thing).encode(), fingerprint_tensors(thing.state_dict()).encode())
        _add(hasher, _attributes(thing), depth, seen)
        return
    if hasattr(thing, "init_kwargs") and hasattr(thing, "get_vocab"):
        _add_tokenizer(hasher, thing)
        return
    if hasattr(thing, "to_json_string") and hasattr(thing, "to_dict"):  # a processor of images or sounds
        values = {k: v for k, v in thing.to_dict().items() if not k.startswith("_")}
        hasher.value(_json(values))
        return
    if any(parent.__module__.partition(".")[0] == "evaluate" for parent in type(thing).__mro__):
        return  # its attributes (a random seed, paths, ids) differ in every process
    if type(thing).__module__ in _PLAIN_MODULES:  # a range, a pattern, a date: what makes one like it
        with contextlib.suppress(TypeError, AttributeError):  # a module, a generator: their class
            reduced = copyreg.dispatch_table.get(type(thing), lambda one: one.__reduce_ex__(2))(thing)
            _add(hasher, list(reduced[1:]), depth - 1, seen)
        return
    if isinstance(thing, PurePath):
        hasher.raw("path", str(thing).encode())
        return
    slots = [name for parent in type(thing).__mro__ for name in _listed(vars(parent).get("__slots__", ()))]
    state = {name: getattr(thing, name) for name in slots if hasattr(thing, name) and not name.startswith("__")}
    if isinstance(own := getattr(thing, "__dict__", None), dict):
        state |= {name: value for name, value in own.items() if isinstance(name, str)}
    if state or own is not None:
        _add(hasher, state, depth - 1, seen)


def _add_tokenizer(hasher: Hasher, tokenizer: Any) -> None:
    hasher.value(sorted(tokenizer.get_vocab().items()))
    for name in ("padding_side", "truncation_side", "model_max_length", "special_tokens_map"):
        hasher.value(_json(getattr(tokenizer, name, None)))


def _listed(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


_LIBRARIES = _names("transformers torch torchvision datasets evaluate builtins collections abc")


def _source(thing: Any) -> bytes:
    try:
        return inspect.getsource(thing).encode()
    except (OSError, TypeError):
        pass
    code = getattr(thing, "__code__", None)
    if code is None:
        methods = {n: f.__code__ for n, f in vars(thing).items() if isinstance(f, types.FunctionType)}
        return b"".join(name.encode() + _bytecode(methods[name]) for name in sorted(methods))
    return _bytecode(code)


def _bytecode(code: types.CodeType) -> bytes:
    inner = [_bytecode(c) if isinstance(c, types.CodeType) else _constant(c) for c in code.co_consts]
    return code.co_code + b"".join(inner) + repr(code.co_names).encode()


def _constant(value: Any) -> bytes:
    # The order of a set of strings differs from process to process.
    return repr(sorted(value, key=repr) if isinstance(value, frozenset) else value).encode()
