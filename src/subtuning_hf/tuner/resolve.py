"""
From what a user writes in a config to what the tuner does to a model.

Names, indices and patterns become full dotted names; the head and the labels are found; everything that the model
cannot take is refused here, before the model is touched.
"""

from __future__ import annotations

import difflib
from copy import copy
from typing import Any

from torch import nn

from ..blocks import find_head, resolve_blocks
from ..errors import (
    AdapterMismatchError,
    ArgumentsError,
    BlockSelectionError,
    EmptySelectionError,
    NestedBlocksError,
)
from .checks import made_for
from .config import SubTuningConfig
from .head import output_layers
from .labels import labels_of
from .layer import BlockLayer
from .thin import problem_of

# Names that PEFT's classes for these tasks add to `modules_to_save` by themselves, whether the model has them or not.
_ADDED_BY_TASK = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}
_ADDED_BY_PEFT = frozenset(name for names in _ADDED_BY_TASK.values() for name in names)
_FILLED_IN = ("blocks", "num_labels", "id2label", "label2id", "head", "base_architecture", "pruned_channels")


def resolve_config(model: nn.Module, config: SubTuningConfig, others: dict[str, SubTuningConfig]) -> None:
    """
    Fill a config in for a model.

    Args:
        model (`torch.nn.Module`): The base model, possibly with other adapters.
        config ([`SubTuningConfig`]): Changed in place, once all checks have passed.
        others (`dict[str, SubTuningConfig]`): Configs of the adapters already there.

    Raises: [`BlockSelectionError`] and its kinds, [`AdapterMismatchError`], [`ArgumentsError`].
    """
    if not config.task_type and _ADDED_BY_PEFT & {*(config.modules_to_save or ())}:
        # PEFT's class for the task of the first adapter names the modules of that task for every later one.
        config.task_type = next((other.task_type for other in others.values() if other.task_type), None)
    given = given_fields(config)
    if "_given" not in config.__dict__:
        _fill_in(model, config, others)
        config.__dict__["_given"] = given
        return
    # The user's object has met a model before, whose adapter holds it still: it cannot be filled in anew.
    fresh = copy(config)
    fresh.__dict__.update(given)
    _fill_in(model, fresh, others)
    for name in _FILLED_IN:
        if getattr(fresh, name) != getattr(config, name):
            raise ArgumentsError(
                f"This SubTuningConfig was filled in for another model: `{name}` is {getattr(config, name)!r} there "
                f"and would be {getattr(fresh, name)!r} for this '{type(model).__name__}'. Make a new SubTuningConfig."
            )


def given_fields(config: SubTuningConfig) -> dict[str, Any]:
    """What a config said before it was filled in for a model."""
    return config.__dict__.get("_given") or {name: getattr(config, name) for name in _FILLED_IN}


def _fill_in(model: nn.Module, config: SubTuningConfig, others: dict[str, SubTuningConfig]) -> None:
    try:
        blocks = _resolve_selection(model, config)
        head = _resolve_head(model, config)
        if config.siamese:
            head = [_single_layer(model, head)]
        extra = _resolve_extra(model, config, head)
        _check_apart(blocks, head, extra)
    except BlockSelectionError as error:
        if config.base_architecture is None:
            raise
        raise AdapterMismatchError(f"{made_for(config)}, and does not fit '{type(model).__name__}': {error}") from error
    if not blocks and not head and not extra:
        raise EmptySelectionError(
            f"Nothing to train: no block is chosen and no head was found in '{type(model).__name__}'. Choose blocks "
            "(list them with find_blocks), or name the output layer with `head=[...]`."
        )
    _check_peft_s_own(model, config, [*head, *extra])
    _check_pruned(model, config, blocks)
    for name, other in others.items():
        _check_beside(name, [*blocks], [*head, *extra], other)
    _resolve_labels(model, config, head)
    config.blocks = list(blocks)
    config.head = head
    if config.modules_to_save is not None:
        own = [name for name in config.modules_to_save if _is_peft_s_own(config, name)]
        config.modules_to_save = list(dict.fromkeys(extra + own))
    if config.base_architecture is None:
        config.base_architecture = type(model).__name__


def _resolve_selection(model: nn.Module, config: SubTuningConfig) -> list[str]:
    if config.blocks is None:
        raise EmptySelectionError(
            "SubTuningConfig has no `blocks`. Name the blocks to train, such as blocks=[-1] for the last one "
            "(find_blocks lists them), or pass blocks=[] to train the head alone."
        )
    return resolve_blocks(model, config.blocks)


def _resolve_head(model: nn.Module, config: SubTuningConfig) -> list[str]:
    if config.head is None:
        return find_head(model)
    return [_existing(model, "head", name) for name in config.head]


def _single_layer(model: nn.Module, head: list[str]) -> str:
    """Of a head, the one layer that can take the frozen network's features beside the tuned ones."""
    found = {}
    for key, layer in model.named_modules():
        name = _plain(key)
        if any(name == one or _inside(name, one) for one in head) and any(True for _ in layer.parameters(False)):
            found[name] = layer
    (name, layer), *others = found.items() or [("", None)]
    if not others and isinstance(layer, nn.Linear) and layer.weight.is_floating_point():
        return name
    layers = ", ".join(f"'{name}' ({type(layer).__name__})" for name, layer in found.items()) or "none"
    raise ArgumentsError(
        f"siamese=True needs a head that is one torch.nn.Linear, which then takes twice as many features; the head of "
        f"'{type(model).__name__}' has these layers: {layers}. Name a single Linear with `head=[...]` (the others then "
        "stay frozen), or leave `siamese` out."
    )


def _resolve_extra(model: nn.Module, config: SubTuningConfig, head: list[str]) -> list[str]:
    extra = []
    for name in config.modules_to_save or []:
        if name not in head and not _is_peft_s_own(config, name):
            extra.append(_existing(model, "modules_to_save", name))
    return extra


def _is_peft_s_own(config: SubTuningConfig, name: str) -> bool:
    return bool(config.task_type) and name in _ADDED_BY_PEFT


def _check_peft_s_own(model: nn.Module, config: SubTuningConfig, owned: list[str]) -> None:
    # PEFT's classes for these tasks wrap whatever ends in one of the names, after the tuner is done.
    added = _ADDED_BY_TASK.get(getattr(config.task_type, "value", config.task_type) or "")
    for name in dict.fromkeys([*added, *(config.modules_to_save or [])]) if added else ():
        for key in (_plain(key) for key, _ in model.named_modules()):
            if key.endswith(name) and key not in owned and not any(_inside(key, one) for one in owned):
                raise ArgumentsError(
                    f"With task_type={config.task_type!s} PEFT would also train '{key}', since its name ends in "
                    f"'{name}'. Leave `task_type` out, or name '{key}' in `head` or `modules_to_save`."
                )


def extra_modules(config: SubTuningConfig) -> list[str]:
    """Modules a resolved config trains in full beside blocks and head."""
    return [name for name in config.modules_to_save or [] if not _is_peft_s_own(config, name)]


def _existing(model: nn.Module, field: str, name: str) -> str:
    names = [n for n in (_plain(key) for key, _ in model.named_modules()) if n]
    if name in names:
        return name
    ending = sorted({n for n in names if n.endswith(f".{name}")})
    if len(ending) == 1:
        return ending[0]
    close = ending or difflib.get_close_matches(name, names, n=3)
    hint = f" Did you mean {' or '.join(repr(n) for n in close[:3])}?" if close else ""
    raise BlockSelectionError(
        f"`{field}` names '{name}', which is {'not unique' if ending else 'no module'} in '{type(model).__name__}'."
        f"{hint} Give the full dotted name."
    )


def _plain(key: str) -> str:
    """The name a module has in the model without wrappers; empty for what lies inside an adapter's copies."""
    parts = key.split(".")
    if "subtuning_blocks" in parts or "modules_to_save" in parts:
        return ""
    return ".".join(part for part in parts if part not in ("base_layer", "original_module"))


def _inside(inner: str, outer: str) -> bool:
    return inner.startswith(f"{outer}.")


def _check_apart(blocks: list[str], head: list[str], extra: list[str]) -> None:
    for block in blocks:
        for module in [*head, *extra]:
            if module == block or _inside(module, block) or _inside(block, module):
                raise NestedBlocksError(
                    f"Block '{block}' and module '{module}' (head or `modules_to_save`) contain one another: its "
                    "tensors would be trained twice. Leave one of them out."
                )
    for first in [*head, *extra]:
        for second in [*head, *extra]:
            if _inside(first, second):
                raise NestedBlocksError(f"`modules_to_save` or head: '{first}' lies inside '{second}'. Name one.")


def _check_beside(name: str, blocks: list[str], modules: list[str], other: SubTuningConfig) -> None:
    theirs = [str(block) for block in other.blocks or []]
    their_modules = [*(other.head or []), *extra_modules(other)]
    for mine in blocks:
        for one in theirs:
            if _inside(mine, one) or _inside(one, mine):
                raise NestedBlocksError(
                    f"Block '{mine}' and block '{one}' of adapter '{name}' contain one another. Adapters on one model "
                    "must cut it into the same blocks: choose both at one level, or delete that adapter first."
                )
        for one in their_modules:
            if mine == one or _inside(mine, one) or _inside(one, mine):
                raise NestedBlocksError(f"Block '{mine}' overlaps '{one}', which adapter '{name}' trains in full.")
    for mine in modules:
        for one in theirs:
            if mine == one or _inside(mine, one) or _inside(one, mine):
                raise NestedBlocksError(f"Module '{mine}' overlaps block '{one}' of adapter '{name}'.")
        for one in their_modules:
            if _inside(mine, one) or _inside(one, mine):
                raise NestedBlocksError(
                    f"Module '{mine}' and module '{one}' of adapter '{name}' contain one another. Name the same one "
                    "for both, with `head=[...]` or `modules_to_save=[...]`."
                )


def _check_pruned(model: nn.Module, config: SubTuningConfig, blocks: list[str]) -> None:
    if config.pruned_channels and config.base_architecture is None:  # no weights will come that have these widths
        raise ArgumentsError(
            "`pruned_channels` is filled in when a tuned model is pruned, and says which weights an adapter's file "
            "has. Leave it out, wrap the model, and call prune_blocks."
        )
    for name, widths in (config.pruned_channels or {}).items():
        block = model.get_submodule(name) if name in blocks else None
        problem = "it is none of the adapter's blocks"
        if block is not None:
            problem = problem_of(block.original if isinstance(block, BlockLayer) else block, widths) or ""
        if problem:
            raise AdapterMismatchError(
                f"{made_for(config)}, and does not fit '{type(model).__name__}': of its pruned block '{name[:200]}', "
                f"{problem}."
            )


def _resolve_labels(model: nn.Module, config: SubTuningConfig, head: list[str]) -> None:
    base_names = labels_of(model).base_names
    layers = output_layers(model, head, labels_of(model).base_count)
    widths = {width for _, width in layers.values()}
    if not widths:
        if config.num_labels is not None:
            raise ArgumentsError(
                f"`num_labels` is {config.num_labels}, but '{type(model).__name__}' has no head of linear or "
                "convolution layers to give that many outputs. Leave `num_labels` out, or name the head with `head`."
            )
        return
    width = max(widths)
    has_labels = base_names is not None and len(base_names) == width
    if config.num_labels is None:
        # Not every output layer speaks of labels: a language model's has the size of the vocabulary.
        config.num_labels = width
        if has_labels:
            config.id2label = dict(base_names)  # type: ignore[arg-type]
    elif config.id2label is None and base_names is not None:
        same = has_labels and config.num_labels == width
        if config.base_architecture is None:
            config.id2label = dict(base_names) if same else {i: f"LABEL_{i}" for i in range(config.num_labels)}  # type: ignore[arg-type]
        elif same:
            config.id2label = dict(base_names)  # type: ignore[arg-type]
        elif config.num_labels != width:  # saved without names: outputs that are no labels, such as a vocabulary's
            raise AdapterMismatchError(
                f"{made_for(config)}, and names none of its {config.num_labels:,} labels, while this "
                f"'{type(model).__name__}' has {width:,} outputs. Save the adapter again."
            )
    if config.id2label is not None:
        config.label2id = {name: index for index, name in config.id2label.items()}
