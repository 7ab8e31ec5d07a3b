"""
Copies that can be trained: what a quantised block holds in integers becomes floating point in its copy.

Knows modules of bitsandbytes and tensors of torchao by their names and by their ways back; imports neither unless it
meets one.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from ..errors import ArgumentsError


def floating_copy(module: nn.Module) -> nn.Module:
    """
    A copy of a module in which every weight can have a gradient.

    Linear layers of bitsandbytes (8 and 4 bit) and of torchao become the linear layers that their integers stand for;
    all else is copied.

    Args:
        module (`torch.nn.Module`): A block; stays as it is.

    Returns: `torch.nn.Module`
    Raises: [`ArgumentsError`]: If it holds weights in integers that are not known how to be read.
    """
    kinds = [p.dtype for p in module.parameters() if _floating(p)]
    # Norms and biases have the kind of numbers that the model computes with.
    kind = kinds[0] if kinds else torch.get_default_dtype()
    memo: dict[int, Any] = {id(one): _plain_linear(one, kind) for one in module.modules() if _is_quantized(one)}
    # A config is the model's: what is set in it later, such as the implementation of attention, holds for copies too.
    for one in module.modules():
        config = getattr(one, "config", None)
        if isinstance(config, PretrainedConfig):
            memo[id(config)] = config
    copy = deepcopy(module, memo)
    odd = next((name for name, p in copy.named_parameters() if not _floating(p) or of_torchao(p)), None)
    if odd is not None:
        weight = copy.get_parameter(odd)
        kind_of = type(weight).__name__ if of_torchao(weight) else weight.dtype
        raise ArgumentsError(
            f"'{odd}' of a '{type(module).__name__}' holds {kind_of}, in which nothing can be trained. Of quantised "
            "bases those of bitsandbytes can be tuned, and linear layers of torchao; load others in floating point, or "
            "keep the blocks to be tuned out of the quantisation."
        )
    return copy


def _is_quantized(module: nn.Module) -> bool:
    if isinstance(module, nn.Linear) and of_torchao(module.weight):
        return True
    return type(module).__name__ in ("Linear8bitLt", "Linear4bit") and hasattr(module, "weight")


def of_torchao(tensor: Tensor) -> bool:
    """`bool`: whether integers are behind a tensor that calls itself floating point."""
    return type(tensor).__module__.split(".")[0] == "torchao"


def _floating(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _plain_linear(module: Any, kind: torch.dtype) -> nn.Linear:
    if of_torchao(module.weight):
        weight = module.weight.dequantize()
    else:
        from transformers.integrations.bitsandbytes import dequantize_bnb_weight

        weight = dequantize_bnb_weight(module.weight, state=getattr(module, "state", None))
    bias = module.bias
    made = nn.Linear(module.in_features, module.out_features, bias is not None, device=weight.device, dtype=kind)
    with torch.no_grad():
        made.weight.copy_(weight)
        if bias is not None:
            made.bias.copy_(bias)
    return made.train(module.training)
