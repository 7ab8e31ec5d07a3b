"""
The tuner: SubTuning as a PEFT method.

A chosen block is wrapped in a layer that keeps the frozen original and one full copy per adapter;
the task's head is kept per adapter in the same way. Knows blocks and PEFT; does not know training,
data or how blocks come to be chosen.
"""

from typing import Any

from .config import SubTuningConfig, SubTuningType
from .head import TaskModuleWrapper, head_parameters
from .layer import BlockLayer
from .lora import lora_config_for_blocks
from .model import SubTuningModel
from .pruning import prune_blocks

__all__ = [
    "BlockLayer",
    "SubTuningConfig",
    "SubTuningModel",
    "SubTuningType",
    "TaskModuleWrapper",
    "head_parameters",
    "lora_config_for_blocks",
    "prune_blocks",
    "register",
]


def register() -> None:
    """
    Make the adapter type known to PEFT; may be called more than once.

    PEFT's `register_peft_method` accepts members of its own closed `PeftType` enum only (peft issues 2273 and
    2634), so the entries are made in its mappings directly. Remove when PEFT opens its registry.
    """
    from peft import mapping

    kind: Any = SubTuningType.SUBTUNING
    mapping.PEFT_TYPE_TO_CONFIG_MAPPING[kind] = SubTuningConfig
    mapping.PEFT_TYPE_TO_TUNER_MAPPING[kind] = SubTuningModel
    mapping.PEFT_TYPE_TO_PREFIX_MAPPING[kind] = SubTuningModel.prefix


register()
