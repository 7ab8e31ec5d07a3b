"""
Training: the search as a `Trainer`.

Knows transformers' Trainer and accelerate; decisions are made in `search`, adapters in `tuner`.
"""

from .arguments import GreedySubTuningArguments
from .trainer import GreedySubTuningTrainer

__all__ = ["GreedySubTuningArguments", "GreedySubTuningTrainer"]
