"""
The SubTuning tuner: puts adapters of whole blocks into a model, and takes them out again.

Registered with PEFT from outside (see `register`). Knows PEFT's injection and saving; does not know how blocks are
chosen or trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from ..errors import ArgumentsError
from . import modes, native, siamese
from .checks import bare, check_adapter_name, check_finite, check_present, check_room, check_tensors
from .config import PROBLEMS, SubTuningConfig
from .head import TaskModuleWrapper, initialise_output, output_layers
from .initialise import initialise
from .labels import labels_of
from .layer import BlockLayer
from .resolve import extra_modules, given_fields, resolve_config
from .undo import take_out, wrapped


class SubTuningModel(BaseTuner):
    """
    A model with adapters that replace whole blocks.

    Made by `get_peft_model(model, SubTuningConfig(blocks=[...]))`. Each adapter owns a full copy, buffers included, of
    the blocks it tunes and of the head; everything else is shared and frozen, in eval mode while training.

    Args:
        model (`torch.nn.Module`): The base model.
        peft_config ([`SubTuningConfig`] or `dict[str, SubTuningConfig]`): The configuration of the adapter.
        adapter_name (`str`): Its name.

    Raises:
        [`UnknownBlockError`], [`DuplicateBlockError`], [`NestedBlocksError`], [`EmptySelectionError`]: A selection that
            the model cannot take.
        [`AdapterNameError`]: A name that collides with one inside the model.
        [`AdapterMismatchError`]: A saved adapter that was made for another base.
    Source: SubTuning, arXiv 2302.06354.
    """

    prefix = "subtuning_"
    tuner_layer_cls = BlockLayer
    target_module_mapping: dict = {}  # noqa: RUF012

    def __init__(self, model: nn.Module, peft_config: Any, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        # PEFT enters the config first, in the place of that of an adapter of the same name.
        check_adapter_name(model, adapter_name)
        super().__init__(model, peft_config, adapter_name, *args, **kwargs)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        check_adapter_name(model, adapter_name)
        configs: dict[str, Any] = self.peft_config
        config = configs[adapter_name]
        # Filled in, and not here: such an adapter comes from a file and waits for its weights.
        waits = given_fields(config)["base_architecture"] is not None
        disabled = any(module.disable_adapters for _, _, module in wrapped(model))
        try:
            check_room(model, config)
            resolve_config(model, config, {n: c for n, c in configs.items() if n != adapter_name})
            check_present(model, [*config.blocks, *config.head, *extra_modules(config)])
            self._injecting = adapter_name
            extra = config.modules_to_save
            try:
                super().inject_adapter(model, adapter_name, *args, **kwargs)
            finally:
                config.modules_to_save = extra
        except Exception:
            take_out(model, adapter_name, configs)
            raise
        self._join(model, disabled)
        model.__dict__.setdefault("_subtuning_waiting", set())
        if waits:
            model.__dict__["_subtuning_waiting"].add(adapter_name)
        modes.install(model)
        native.install(model)
        if config.siamese:
            siamese.install(model, config.head[0])
        if model.training:
            modes.freeze_modes(model)

    def _prepare_adapter_config(self, peft_config: SubTuningConfig, model_config: dict) -> SubTuningConfig:
        return peft_config  # resolved before anything of PEFT's reads it, see `inject_adapter`

    def _prepare_model(self, peft_config: SubTuningConfig, model: nn.Module) -> None:
        labels = labels_of(model)
        layers = output_layers(model, peft_config.head or [], labels.base_count)
        count = peft_config.num_labels
        # Not every output is a label: where the base's labels are not named, their number must be that of its outputs.
        if count is not None and (peft_config.id2label or labels.base_count in [width for _, width in layers.values()]):
            labels.add(self._injecting, count, peft_config.id2label, peft_config.problem_type)
        for name in [*(peft_config.head or []), *extra_modules(peft_config)]:
            is_head = name in (peft_config.head or [])
            resize = None
            if is_head and peft_config.num_labels is not None and name in layers:
                resize = (layers[name][0], peft_config.num_labels)
            wrapper = self._wrap_module(model, name, labels if is_head else None, resize)
            if is_head and peft_config.siamese:
                wrapper.widen(self._injecting)
        # PEFT would go on to wrap every module whose name ends like one of these; given back in `inject_adapter`.
        peft_config.modules_to_save = None

    @staticmethod
    def _join(model: nn.Module, disabled: bool) -> None:
        """Switch new wrappers with those that are there."""
        wrappers = [module for _, _, module in wrapped(model)]
        heads = [module for module in wrappers if isinstance(module, TaskModuleWrapper)]
        for module in wrappers:
            if isinstance(module, BlockLayer):
                module._heads = heads
            if disabled:
                module.enable_adapters(False)

    def _wrap_module(
        self, model: nn.Module, name: str, labels: Any, resize: tuple[str, int] | None
    ) -> TaskModuleWrapper:
        parent_name, _, child_name = name.rpartition(".")
        parent = model.get_submodule(parent_name)
        module = getattr(parent, child_name)
        if isinstance(module, TaskModuleWrapper):
            module.update(self._injecting, resize=resize)
        else:
            module = TaskModuleWrapper(module, self._injecting, labels, resize)
            # Active or not is decided with the blocks' at the end of the injection.
            module.set_adapter([])
            setattr(parent, child_name, module)
        if resize is not None:
            layer = module.modules_to_save[self._injecting].get_submodule(resize[0])
            if layer.weight.shape != module.original_module.get_submodule(resize[0]).weight.shape:
                initialise_output(layer, model)
        return module

    @staticmethod
    def _check_target_module_exists(peft_config: SubTuningConfig, key: str) -> bool:  # type: ignore[override]
        return key in (peft_config.blocks or ())

    def _create_and_replace(
        self,
        peft_config: SubTuningConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        widths = (peft_config.pruned_channels or {}).get(current_key)
        if isinstance(target, BlockLayer):
            target.update_layer(adapter_name, inference_mode=peft_config.inference_mode, widths=widths)
        else:
            layer = BlockLayer(target, adapter_name, inference_mode=peft_config.inference_mode, widths=widths)
            layer.training = target.training
            setattr(parent, target_name, layer)
            target = layer
        if peft_config.init_blocks == "random":
            initialise(target.subtuning_blocks[adapter_name], self.model, current_key)  # type: ignore[index, arg-type]

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """Copies keep the dtypes of the block they copy: half of it in float32 would not run."""

    def train(self, mode: bool = True) -> SubTuningModel:
        super().train(mode)
        if mode:
            modes.freeze_modes(self.model)
        return self

    def delete_adapter(self, adapter_name: str) -> None:
        """
        Delete an adapter. If it was active, the oldest that is left becomes active, in all layers alike.

        Args:
            adapter_name (`str`): The adapter.
        """
        if adapter_name not in self.peft_config:
            raise ValueError(f"Adapter {adapter_name} does not exist")
        active = [name for name in self.active_adapters if name != adapter_name]
        was_active = len(active) != len(self.active_adapters)
        super().delete_adapter(adapter_name)
        self.model.__dict__.get("_subtuning_waiting", set()).discard(adapter_name)
        if was_active and not active:
            active = list(self.peft_config)[:1]
        if was_active and active:
            self.set_adapter(active if len(active) != 1 else active[0])
        self.active_adapter = active if len(active) != 1 else active[0]

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """
        Put the copies of the active adapter in the place of the originals.

        Args:
            adapter_names (`list[str]`, *optional*): The active adapter; another cannot be merged, since blocks and
                head would then belong to two adapters.
            safe_merge (`bool`, *optional*, defaults to `False`): Refuse NaN and infinity, before anything is merged.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names or self.active_adapters)
        siamese.refuse_merge(names, self.peft_config)
        inactive = [name for name in names if name not in self.active_adapters]
        if inactive:
            raise ValueError(
                f"Adapter {inactive[0]} is not active, and its head would stay out: call set_adapter first, or "
                "merge_and_unload(adapter_names=[...])."
            )
        if safe_merge:
            check_finite(self.model, names)
        super().merge_adapter(adapter_names=names, safe_merge=safe_merge)

    def _unload_and_optionally_merge(
        self,
        merge: bool = True,
        progressbar: bool = False,
        safe_merge: bool = False,
        adapter_names: list[str] | None = None,
    ) -> nn.Module:
        names = [name for name in (adapter_names or self.active_adapters) if name in self.peft_config]
        if merge:
            siamese.refuse_merge(names, self.peft_config)
        if merge and len(names) > 1:
            raise ValueError(f"Cannot merge {names} at once: adapters replace blocks. Merge one of them.")
        if merge and safe_merge:
            check_finite(self.model, names)
        for parent, child_name, module in list(wrapped(self.model)):
            if isinstance(module, BlockLayer):
                new = module.block_of(names[0]) if merge and names else module.original
            else:
                new = module.unload_and_optionally_merge_module(merge, safe_merge, names)  # type: ignore[operator]
            setattr(parent, child_name, new)
        labels_of(self.model).apply(names[0] if merge and names else None)
        modes.uninstall(self.model)
        native.uninstall(self.model)
        siamese.uninstall(self.model)
        for attribute in ("_subtuning_labels", "_subtuning_waiting", "peft_config"):
            self.model.__dict__.pop(attribute, None)
        return self.model

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        names = kwargs.pop("adapter_names", None)
        if names is None:
            yield
            return
        if self.training:
            raise ValueError("Cannot pass `adapter_names` when the model is in training mode.")
        unknown = sorted(set(names) - set(self.peft_config) - {"__base__"})
        if unknown:
            raise ValueError(
                f"Trying to infer with non-existing adapter(s): {', '.join(unknown)}. "
                f"There are {list(self.peft_config)}, and '__base__' for the untouched model."
            )
        paired = [name for name in names if getattr(self.peft_config.get(name), "siamese", False)]
        if paired:
            raise ArgumentsError(
                f"Adapter '{paired[0]}' is Siamese, which runs the whole batch twice and cannot be one of several in "
                "`adapter_names`. Run it on its own (`set_adapter`), or put it in a MultiTaskModel with the others."
            )
        beams = kwargs.get("num_beams")
        if isinstance(beams, int) and beams > 1:
            raise ValueError("Beam search with `adapter_names` is not supported; pass num_beams=1.")
        hook = partial(_pass_adapter_names, adapter_names=list(names))
        handles = [m.register_forward_pre_hook(hook, with_kwargs=True) for _, _, m in wrapped(self.model)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: SubTuningConfig,
        adapter_name: str,
        state_dict: dict[str, torch.Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, torch.Tensor]:
        selected = super()._get_adapter_state_dict(model, config, adapter_name, state_dict, unwanted_adapter_names)
        # The configuration is written next. A base knows nothing of the kind of labels that an adapter was trained for.
        problem = labels_of(bare(model)).problem_of(adapter_name)
        if problem in PROBLEMS:
            config.problem_type = problem
        for name, module in model.named_modules():
            if isinstance(module, BlockLayer) and adapter_name in module.merged_adapters:
                # A merged copy has changed places with the original: save the copy, not what stands in its place.
                for key in list(selected):
                    owner, _, rest = key.partition(f".subtuning_blocks.{adapter_name}.")
                    if owner == name and rest:
                        selected[key] = state_dict[f"{name}.base_layer.{rest}"]
        return selected

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        return key.replace(f".subtuning_blocks.{adapter_name}.", ".subtuning_blocks.", 1)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: Any, config: SubTuningConfig, adapter_name: str, state_dict: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        remapped = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        waiting = bare(model).__dict__.get("_subtuning_waiting", set())
        try:
            check_tensors(model, config, adapter_name, remapped)
        except Exception:
            # Leave no half-loaded adapter behind; one that existed before this load is the user's and stays.
            if adapter_name in waiting and hasattr(model, "base_model"):
                if len(model.peft_config) == 1:
                    model.base_model.unload()
                else:
                    model.delete_adapter(adapter_name)
            raise
        waiting.discard(adapter_name)
        return remapped


def _pass_adapter_names(module: nn.Module, args: tuple, kwargs: dict, adapter_names: list[str]) -> tuple[tuple, dict]:
    kwargs["adapter_names"] = adapter_names
    return args, kwargs
