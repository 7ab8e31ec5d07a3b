"""
Choose the few blocks of a pretrained model that are worth fine-tuning, train only those.

Names are loaded on first use: importing this package loads neither torch nor transformers nor
peft, and yet makes PEFT know the adapter type.
"""

import importlib
from typing import TYPE_CHECKING, Any

from subtuning_hf import _register
from subtuning_hf._version import __version__

if TYPE_CHECKING:
    from subtuning_hf.blocks import find_blocks
    from subtuning_hf.multitask import MultiTaskModel
    from subtuning_hf.training import GreedySubTuningArguments, GreedySubTuningTrainer
    from subtuning_hf.tuner import SubTuningConfig, lora_config_for_blocks

__all__ = [
    "find_blocks",
    "SubTuningConfig",
    "GreedySubTuningArguments",
    "GreedySubTuningTrainer",
    "MultiTaskModel",
    "lora_config_for_blocks",
    "__version__",
]

_HOME = {
    "find_blocks": "subtuning_hf.blocks",
    "SubTuningConfig": "subtuning_hf.tuner",
    "MultiTaskModel": "subtuning_hf.multitask",
    "lora_config_for_blocks": "subtuning_hf.tuner",
    "GreedySubTuningArguments": "subtuning_hf.training",
    "GreedySubTuningTrainer": "subtuning_hf.training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_register.with_peft()
