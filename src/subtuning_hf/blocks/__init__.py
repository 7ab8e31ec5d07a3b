"""
Blocks: which parts of a model can be chosen, in which order, and what belongs to none of them.

Needs torch only. What this package does not know: adapters (it looks through them), tasks and data.
"""

from .find import Block, find_blocks
from .head import find_head
from .partition import Partition, partition
from .resolve import resolve_blocks

__all__ = ["Block", "Partition", "find_blocks", "find_head", "partition", "resolve_blocks"]
