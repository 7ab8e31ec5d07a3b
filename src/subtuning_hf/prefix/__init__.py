"""
Prefix: run a model from block k on, with the inputs of that block stored.

Knows blocks and modules; does not know tasks, searches or Trainers.
"""

from .check import Verdict
from .files import FileStore
from .plan import plan_cuts
from .standins import ROWS
from .store import PrefixStore
from .trunk import Trunk, TrunkCosts

__all__ = ["ROWS", "FileStore", "PrefixStore", "Trunk", "TrunkCosts", "Verdict", "plan_cuts"]
