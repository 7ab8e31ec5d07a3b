"""
Many tasks on one trunk: adapters of one base model, answered together.

Knows adapters, blocks and how to start a model at one; does not know training.
"""

from .model import MultiTaskModel
from .plan import Plan, make_plan

__all__ = ["MultiTaskModel", "Plan", "make_plan"]
