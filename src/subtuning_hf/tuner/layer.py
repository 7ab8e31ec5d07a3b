"""
The layer that stands in for a tuned block: the frozen original beside one full copy per adapter.

Knows nothing of where it sits in a model.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import nn

from .floating import floating_copy
from .grads import needs_grad, require_grad
from .mixed import mixed_forward
from .siamese import frozen_pass
from .thin import Widths, thin


class BlockLayer(nn.Module, BaseTunerLayer):
    """
    A block with the copies that adapters train.

    The original stays in `base_layer`, frozen and untouched; `subtuning_blocks[adapter]` is a full copy with its own
    parameters and buffers. So adapters switch, disable, merge, unload, coexist and are saved alone. An adapter that
    does not tune this block passes through the original.

    Args:
        base_layer (`torch.nn.Module`): The block.
        adapter_name (`str`): First adapter that tunes it.
        inference_mode (`bool`, *optional*, defaults to `False`): Whether its copy is frozen.
        widths (`Mapping[str, Sequence[int]]`, *optional*): Of its layers, if the adapter was pruned ([`thin`]).
    """

    adapter_layer_names = ("subtuning_blocks",)

    def __init__(
        self, base_layer: nn.Module, adapter_name: str, inference_mode: bool = False, widths: Widths | None = None
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.subtuning_blocks = nn.ModuleDict()
        self.merged_adapters: list[str] = []
        self._active_adapter = [adapter_name]
        # Which arguments carry the batch, learned from the calls seen (see `mixed.py`).
        self._not_batched: set[str] = set()
        self._trainable: set[str] = set()
        # Heads of the same model, switched along: transformers' `enable_adapters` passes them by.
        self._heads: list[Any] = []
        self.update_layer(adapter_name, inference_mode=inference_mode, widths=widths)

    @property
    def original(self) -> nn.Module:
        """The pretrained block, also while an adapter is merged."""
        return self.subtuning_blocks[self.merged_adapters[0]] if self.merged_adapters else self.base_layer

    @property
    def active_block(self) -> nn.Module:
        """The block a call goes through now."""
        if not self.disable_adapters and not self.merged:
            for name in self.active_adapters:
                if name in self.subtuning_blocks:
                    return self.subtuning_blocks[name]
        return self.base_layer

    def block_of(self, adapter_name: str) -> nn.Module:
        """The block an adapter uses here: its copy wherever that is now, else the original."""
        if adapter_name in self.merged_adapters:
            return self.base_layer
        return self.subtuning_blocks[adapter_name] if adapter_name in self.subtuning_blocks else self.original  # noqa: SIM401

    def update_layer(self, adapter_name: str, inference_mode: bool = False, widths: Widths | None = None) -> None:
        """Give an adapter its own copy of the original, or of what a pruned one has room for."""
        copy = floating_copy(self.original)
        thin(copy, widths or {})
        copy.train(self.training)
        self.subtuning_blocks[adapter_name] = copy
        # A new adapter is not active until set: `set_adapter` of the model decides.
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        present = [name for name in names if name in self.subtuning_blocks]
        if len(present) > 1:
            raise ValueError(
                f"Adapters {present} tune the same block and cannot be active at once: a block is replaced, not "
                "summed. Set one, or pass `adapter_names` for a mixed batch."
            )
        trainable = [] if inference_mode else present
        if self.disable_adapters:
            # Gradients come back when adapters are enabled, and then to what is active by now.
            if names != self._active_adapter:
                self._trainable = set(trainable)
            trainable = []
        for name, block in self.subtuning_blocks.items():
            require_grad(block, name in trainable)
        self._active_adapter = names

    def delete_adapter(self, adapter_name: str) -> None:
        """Drop an adapter's copy; if it was active here, no adapter is (choosing another is for the model to do)."""
        if adapter_name in self.subtuning_blocks:
            del self.subtuning_blocks[adapter_name]
        if adapter_name in self.active_adapters:
            self.set_adapter([name for name in self.active_adapters if name != adapter_name])

    def enable_adapters(self, enabled: bool) -> None:
        if enabled == (not self._disable_adapters):
            return
        if not enabled:
            if self.merged:
                self.unmerge()
            self._trainable = {name for name, block in self.subtuning_blocks.items() if needs_grad(block)}
        self._disable_adapters = not enabled
        for name, block in self.subtuning_blocks.items():
            # An adapter loaded for inference stays frozen when it is switched on again (peft issue 3447).
            require_grad(block, enabled and name in self.active_adapters and name in self._trainable)
        for head in self._heads:
            head.enable_adapters(enabled)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """
        Put an adapter's copy in the place of the original; the original waits in the adapter's place.

        Args:
            safe_merge (`bool`, *optional*, defaults to `False`): Refuse a copy that holds NaN or infinity.
            adapter_names (`list[str]`, *optional*): One adapter; by default the active one.
        """
        names = check_adapters_to_merge(self, adapter_names)
        names = [name for name in names or [] if name in self.subtuning_blocks]
        if not names:
            return
        if len(names) > 1:
            raise ValueError(f"Trying to merge {len(names)} adapters into one block; a block can be replaced once.")
        if self.merged:
            warnings.warn(f"Already merged with {self.merged_adapters}. Unmerging first.", stacklevel=2)
            self.unmerge()
        name = names[0]
        copy = self.subtuning_blocks[name]
        if safe_merge and not all(torch.isfinite(p).all() for p in copy.parameters() if p.is_floating_point()):
            raise ValueError(f"NaN or infinity in adapter {name}; it was not merged.")
        self.subtuning_blocks[name], self.base_layer = self.base_layer, copy
        self.merged_adapters.append(name)

    def unmerge(self) -> None:
        if not self.merged:
            warnings.warn("Already unmerged. Nothing to do.", stacklevel=2)
            return
        name = self.merged_adapters.pop()
        self.subtuning_blocks[name], self.base_layer = self.base_layer, self.subtuning_blocks[name]

    def forward(self, *args: Any, adapter_names: list[str] | None = None, **kwargs: Any) -> Any:
        if frozen_pass():
            return self.original(*args, **kwargs)
        if adapter_names is not None and not self.disable_adapters:
            if self.merged:
                raise ValueError("Cannot pass `adapter_names` while an adapter is merged. Unmerge it first.")
            return mixed_forward(self.block_of, adapter_names, self._not_batched, args, kwargs)
        if self.disable_adapters and self.merged:
            self.unmerge()
        return self.active_block(*args, **kwargs)

    @property
    def weight(self) -> torch.Tensor:
        """The active block's: models may read the weights of a layer without calling it (PEFT's is the base's)."""
        return self.active_block.weight  # type: ignore[return-value]

    @property
    def bias(self) -> torch.Tensor | None:
        """The same for its bias."""
        return self.active_block.bias  # type: ignore[return-value]

    def __getattr__(self, name: str) -> Any:
        # Models read attributes of their blocks (`layer.self_attn.layer_idx`, `block.attention_type`).
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ("base_layer", "subtuning_blocks") or "_modules" not in self.__dict__:
                raise
            return getattr(self.active_block, name)

    def _get_base_layer_device_and_dtype(self, base_layer: nn.Module) -> tuple[torch.device | None, None]:
        # A block has tensors of several dtypes, each copy keeps them: only the device follows the original.
        tensor = next(iter(base_layer.parameters()), None)
        return (None if tensor is None else tensor.device), None

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        return False

    def __repr__(self) -> str:
        return "subtuning." + super().__repr__()
