"""
Each parameter of a model in exactly one of stem, blocks and head.

What this module does not know: which of them are to be trained.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from .find import Block, find_blocks
from .head import head_nodes
from .resolve import resolve_in
from .tree import Tree


@dataclass(frozen=True)
class Partition:
    """
    The names of a model's parameters by part, each name once.

    Args:
        stem (`list[str]`):
            Parameters of neither a block nor the head: embeddings, the layers before the first block, and what stands
            between and behind the blocks, such as downsampling and final norms.
        blocks (`dict[str, list[str]]`): Block name to its parameters, in forward order.
        head (`list[str]`): Parameters of the output layer.
    """

    stem: list[str]
    blocks: dict[str, list[str]]
    head: list[str]


def partition(model: nn.Module, blocks: Iterable[str | int | Block] | None = None) -> Partition:
    """
    Sort the parameters of a model into stem, blocks and head.

    A parameter that several modules share is listed once, under its first name, as in `model.named_parameters()`, and
    belongs to the part of that name. Names are those of the bare model; adapters' copies are not listed.

    Args:
        model (`torch.nn.Module`): Bare or with adapters.
        blocks (`Iterable[str | int | Block]`, *optional*):
            The blocks, as for [`resolve_blocks`]; all that [`find_blocks`] finds by default. A block wins where it is
            part of the head.

    Returns: [`Partition`]
    Raises: [`NoBlocksFoundError`], [`BlockSelectionError`]: As [`find_blocks`] and [`resolve_blocks`] do.
    """
    tree = Tree(model)
    names = [block.name for block in find_blocks(model, warn=False)] if blocks is None else resolve_in(tree, blocks)
    parts = Partition(stem=[], blocks={name: [] for name in names}, head=[])
    lists = {node.name: parts.head for node in head_nodes(tree)} | parts.blocks
    seen: set[int] = set()
    for node in tree.nodes.values():
        home = next((lists[above.name] for above in node.path() if above.name in lists), parts.stem)
        for key, parameter in node.module._parameters.items():
            if parameter is not None and id(parameter) not in seen:
                seen.add(id(parameter))
                home.append(f"{node.name}.{key}" if node.name else key)
    return parts
