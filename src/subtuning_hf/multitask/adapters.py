"""
An adapter as a model of its own that shares all it does not tune with the base.

A copy of the base's modules holds the very tensors of the base; the adapter is put into that copy, so that neither the
base nor any model that answers meanwhile sees it. Knows adapters and modules; does not know batches.
"""

from __future__ import annotations

import copy
import importlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from torch import nn

from ..blocks import find_blocks
from ..errors import MultiTaskError, NoBlocksFoundError
from ..tuner import BlockLayer, SubTuningConfig, TaskModuleWrapper
from ..tuner.intake import check_files
from ..tuner.revisions import split_revision

KINDS = ("SUBTUNING", "LORA")


@dataclass(frozen=True)
class TaskModel:
    """
    One task.

    Args:
        model (`torch.nn.Module`): Answers this task alone; what it does not tune is the base's.
        own (`Mapping[str, torch.nn.Module]`): Its modules in the place of the base's, by name: blocks and heads.
        apart (`str` or `None`): Something of its own outside of blocks and such modules, so that it shares nothing.
        siamese (`str` or `None`): Of `own`, the output layer that takes the frozen network's features beside its own.
    """

    model: nn.Module
    own: Mapping[str, nn.Module]
    apart: str | None = None
    siamese: str | None = None


def structure_copy(model: nn.Module) -> nn.Module:
    """A copy of a model's modules that holds the same parameters and buffers, also after either of them is moved."""
    tensors = [*model.parameters(), *model.buffers()]
    copied = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    for ours, theirs in zip(model.modules(), copied.modules(), strict=True):
        theirs._parameters, theirs._buffers = ours._parameters, ours._buffers
    return copied


def load_base(name: str, config: PeftConfig, **kwargs: Any) -> nn.Module:
    """
    The base model of an adapter.

    Args:
        name (`str`): Folder or Hub name of the base.
        config (`~peft.PeftConfig`): Of the adapter, which says what class of model it is for.
        kwargs: For `from_pretrained`.

    Raises: [`MultiTaskError`]: If the adapter does not say.
    """
    import transformers

    mapping: dict[str, Any] = config.auto_mapping or {}
    library, kind = str(mapping.get("parent_library", "")), str(mapping.get("base_model_class", ""))
    by_task = {
        "SEQ_CLS": "AutoModelForSequenceClassification",
        "TOKEN_CLS": "AutoModelForTokenClassification",
        "CAUSAL_LM": "AutoModelForCausalLM",
        "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
        "QUESTION_ANS": "AutoModelForQuestionAnswering",
        "FEATURE_EXTRACTION": "AutoModel",
    }
    if library == "transformers" or library.startswith("transformers."):  # nothing else is imported by a file's word
        found: Any = getattr(importlib.import_module(library), kind, None)
        if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
            found = None
    else:
        found = getattr(transformers, by_task.get(str(getattr(config.task_type, "value", config.task_type)), ""), None)
    if found is None:
        raise MultiTaskError(
            f"The first adapter does not say which class of model '{name}' is. Load the base yourself and pass it."
        )
    return found.from_pretrained(name, **kwargs)


def load_task(base: nn.Module, blocks: Collection[str], adapter: str | os.PathLike, **kwargs: Any) -> TaskModel:
    """
    Put an adapter on a copy of the base's modules.

    Args:
        base (`torch.nn.Module`): Bare.
        blocks (`Collection[str]`): Names of its blocks.
        adapter (`str` or `os.PathLike`): Folder or Hub name, with `@revision` if need be.
        kwargs: For `PeftModel.from_pretrained`, such as `revision`.

    Raises:
        [`ArgumentsError`]: If two revisions are named, or one of a folder.
        [`MultiTaskError`]: If it is of another kind than SubTuning and LoRA.
        [`AdapterFileError`]: If its files are not what an adapter's are.
    """
    name, revision = split_revision(adapter, kwargs.pop("revision", None))
    if revision is not None:
        kwargs["revision"] = revision
    check_files(name, **_for_config(kwargs))
    config = PeftConfig.from_pretrained(name, **_for_config(kwargs))
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if kind not in KINDS:
        raise MultiTaskError(f"Expected an adapter of SubTuning or LoRA, found one of {kind} in '{adapter}'.")
    if getattr(config, "alora_invocation_tokens", None):
        raise MultiTaskError(
            f"'{adapter}' is an activated LoRA, which depends on tokens of the input: it cannot share."
        )
    memo: dict[int, Any] = {}
    # Some adapters of LoRA are written into the weights of the base when they are loaded: not into these.
    copied = structure_copy(base) if kind == "SUBTUNING" else copy.deepcopy(base, memo)
    with torch.random.fork_rng():  # PEFT draws weights before it reads them
        peft: Any = PeftModel.from_pretrained(copied, name, **kwargs)  # type: ignore[arg-type]
    if isinstance(config, SubTuningConfig) and config.siamese:
        return _siamese_task(base, blocks, peft)
    if kind == "SUBTUNING":
        model = peft.merge_and_unload()
    else:  # its weights stay apart from those of the base
        model = peft.base_model.model
        model.__dict__.pop("_hf_peft_config_loaded", None)
        _share(base, memo)
    return as_task(base, blocks, model)


def _siamese_task(base: nn.Module, blocks: Collection[str], peft: Any) -> TaskModel:
    """A task whose model stays one of adapters, since no merged one gives both kinds of features."""
    model, adapter = peft.base_model.model, peft.active_adapter
    model.__dict__.pop("_hf_peft_config_loaded", None)
    model.requires_grad_(False).eval()
    merged = structure_copy(model)  # never called: what the adapter owns is read off it
    for name, module in model.named_modules():
        if isinstance(module, (BlockLayer, TaskModuleWrapper)):
            parent, _, child = name.rpartition(".")
            own = module.block_of(adapter) if isinstance(module, BlockLayer) else module.modules_to_save[adapter]
            setattr(merged.get_submodule(parent), child, own)
    return replace(as_task(base, blocks, merged), model=model, siamese=peft.peft_config[adapter].head[0])


def _share(base: nn.Module, memo: dict[int, Any]) -> None:
    """Put the tensors of the base in the place of copies that are equal; `memo` is that of the copying."""
    for module in base.modules():
        copied = memo[id(module)]
        for ours, theirs in ((module._parameters, copied._parameters), (module._buffers, copied._buffers)):
            for name, tensor in ours.items():
                found = theirs.get(name)
                if tensor is not None and found is not None and torch.equal(tensor, found):
                    theirs[name] = tensor  # type: ignore[assignment]
        if all(copied._buffers.get(name) is buffer for name, buffer in module._buffers.items()):
            copied._buffers = module._buffers  # they follow when the base is moved


def config_at(adapter: str | os.PathLike) -> PeftConfig:
    """
    The configuration of an adapter.

    Args:
        adapter (`str` or `os.PathLike`): Folder or Hub name, with `@revision` if need be.
    """
    name, revision = split_revision(adapter)
    return PeftConfig.from_pretrained(name, **({} if revision is None else {"revision": revision}))


def _for_config(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: kwargs[name] for name in ("revision", "token", "cache_dir", "subfolder") if name in kwargs}


def as_task(base: nn.Module, blocks: Collection[str], model: nn.Module) -> TaskModel:
    """
    What a model has of its own, compared with the base.

    Args:
        base (`torch.nn.Module`): Bare.
        blocks (`Collection[str]`): Names of its blocks.
        model (`torch.nn.Module`): Made from [`structure_copy`] of it.
    """
    model.requires_grad_(False).eval()
    own: list[str] = []
    apart = [name or type(model).__name__ for name in _differing(base, model, "", set(blocks), own)]
    return TaskModel(model, own_modules(model, own), apart[0] if apart else None)


def own_modules(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """Modules of a task by name: other modules around the same tensors, as models hang hooks on those they call."""
    return {name: structure_copy(model.get_submodule(name)) for name in names}


def lifted(models: Mapping[str, TaskModel], blocks: Collection[str]) -> dict[str, TaskModel]:
    """
    The same tasks, none with a module of its own that lies inside of what is another task's: both then have the outer.

    Args:
        models (`Mapping[str, TaskModel]`): All tasks.
        blocks (`Collection[str]`): Names of the blocks, which are places of their own.
    """
    places = {name for model in models.values() for name in model.own if name not in blocks}
    outer = {name: _outermost(name, places) for name in places}

    def lift(model: TaskModel) -> TaskModel:
        if model.siamese is not None and any(outer.get(name, name) != name for name in model.own):
            # What is around its own layer would be taken from a model of adapters.
            return replace(model, own={}, siamese=None, apart=model.siamese)
        wanted = dict.fromkeys(outer.get(name, name) for name in model.own)
        if wanted.keys() == model.own.keys():
            return model
        kept = {name: model.own[name] for name in wanted if name in model.own}
        return replace(model, own={**kept, **own_modules(model.model, [name for name in wanted if name not in kept])})

    return {task: lift(model) for task, model in models.items()}


def _outermost(name: str, places: Collection[str]) -> str:
    return min((place for place in places if f"{name}.".startswith(f"{place}.")), key=len)


def _differing(base: nn.Module, model: nn.Module, name: str, blocks: Collection[str], own: list[str]) -> Iterator[str]:
    """Enters the names of a task's own modules into `own`; yields those with blocks that differ beyond these."""
    if _same(base, model):
        return
    holds = any(not name or block.startswith(f"{name}.") for block in blocks)
    alike = type(base) is type(model) and base._modules.keys() == model._modules.keys()
    here = alike and _same(base, model, recurse=False)
    if name in blocks or (not holds and not here):
        own.append(name)
        return
    if not here:
        yield name
    if alike:
        for key, child in model._modules.items():
            theirs = base._modules[key]
            if child is not None and theirs is not None:
                yield from _differing(theirs, child, f"{name}.{key}".strip("."), blocks, own)


def _same(base: nn.Module, model: nn.Module, recurse: bool = True) -> bool:
    """Whether two modules hold the same tensors in the same kinds of modules."""
    pairs = [(base, model)]
    if recurse:
        left, right = dict(base.named_modules()), dict(model.named_modules())
        if left.keys() != right.keys():
            return False
        pairs = [(left[name], right[name]) for name in left]
    return all(type(a) is type(b) and _tensors(a) == _tensors(b) for a, b in pairs)


def _tensors(module: nn.Module) -> dict[str, int]:
    return {name: id(tensor) for held in (module._parameters, module._buffers) for name, tensor in held.items()}


def block_names(base: nn.Module, adapters: Collection[str | os.PathLike]) -> tuple[str, ...]:
    """
    Names of the blocks of a base: those that are found, else those that its adapters name.

    Raises: [`NoBlocksFoundError`]: If there are neither.
    """
    try:
        return tuple(block.name for block in find_blocks(base))
    except NoBlocksFoundError:
        named = {name for one in adapters for name in getattr(config_at(one), "blocks", None) or ()}
        if not named:
            raise
        return tuple(name for name, _ in base.named_modules() if name in named)
