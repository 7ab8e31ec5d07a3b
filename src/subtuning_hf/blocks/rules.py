"""
The rules that tell blocks, without a table of architectures.

What counts as a block, from the top of a model down:
1. in a timm model, what its own `group_matcher` calls blocks;
2. a transformers `GradientCheckpointingLayer`;
3. a module whose name ends in a number, if most of the modules numbered beside it qualify.
Each needs at least two weight layers, which leaves out single convolutions and norms. A block found by 2 or 3 that is
mostly one numbered list of blocks, like a stage of Swin or ResNet, gives way to the blocks in it.

Order is registration order: the order in which the author wrote the model down. What the rules do not know: the graph.
A list that runs side by side looks like one that runs in sequence; only size and a few names tell them apart.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from torch import nn

from .tree import Node

MIN_WEIGHTS = 2
# Lists whose members run side by side, each a part of the layer around them; and numbered parts of a layer.
_PARALLEL = frozenset({"experts", "heads", "attention_heads", "branches"})
_PARTS = frozenset({"aux", "branch", "conv", "expert", "head", "tower"})
# Lists whose members run one after the other.
_SEQUENCES = frozenset({"block", "blocks", "layer", "layers", "stages", "h"})


def blocks_below(node: Node, head: Iterable[Node] = ()) -> Iterator[Node]:
    """
    Apply the rules.

    Args:
        node ([`Node`]): A model, or a part of one that is no block itself.
        head (`Iterable[Node]`, *optional*): Nodes that are no blocks, nor is what holds them.

    Yields: [`Node`]: blocks in forward order.
    """
    if node.is_timm:
        blocks = _timm_blocks(node)
        if len(blocks) > 1:
            yield from blocks
            return
    qualified = {member for group in _groups(node) for member in _qualified(group)}
    for child in node.children:
        if child in head:
            continue
        holds_head = any(child in part.path() for part in head)
        if not holds_head and child.is_called and (child in qualified or _is_checkpointed(child)):
            yield from refine(child)
        else:
            yield from blocks_below(child, head)


def refine(node: Node) -> list[Node]:
    """Returns: `list[Node]`: the block itself, or the blocks of the stage that it turns out to be."""
    inner = _main_list(node)
    if not inner:
        return [node]
    return [block for member in inner for block in (refine(member) if member.is_called else blocks_below(member))]


def inner_sequence(node: Node) -> list[Node]:
    """Returns: `list[Node]`: blocks that a block holds in a list that runs in sequence, if two or more."""
    for group in _groups_below(node):
        members, above = _qualified(group), group[0].parent
        in_sequence = above is not None and (above.key in _SEQUENCES or isinstance(above.module, nn.Sequential))
        if len(members) > 1 and in_sequence and _alike(members) and not _is_mixed_with_others(members):
            return members
    return []


def _main_list(node: Node) -> list[Node]:
    """The numbered list that makes up most of a stage; empty where the node is a block."""
    total = sum(size for key, size in node.sizes.items() if key not in node.embeddings)
    for group in _groups_below(node):
        members = _qualified(group)
        if not members or not _alike(members) or _is_mixed_with_others(members):
            continue
        held = set().union(*(member.sizes for member in members))
        weights = set().union(*(member.weights for member in members))
        most = sum(node.sizes[key] for key in held) > total / 2
        # Beside its list a stage has little, a downsampling at most; a block (attention and experts) has more.
        if most and len(node.weights - weights) < len(weights) / len(members):
            return members
    return []


def _groups(node: Node) -> list[list[Node]]:
    """Children that differ in their closing number only, in registration order; one `mobilenet_v2` is no list."""
    if node.key in _PARALLEL:
        return []
    groups: dict[str, list[Node]] = {}
    for child in node.children:
        if child.prefix is not None and child.weights and child.prefix.rstrip("_") not in _PARTS:
            groups.setdefault(child.prefix, []).append(child)
    return [group for prefix, group in groups.items() if len(group) > 1 or not prefix]


def _groups_below(node: Node) -> Iterator[list[Node]]:
    for below in node.walk():
        yield from _groups(below)


def _qualified(group: list[Node]) -> list[Node]:
    members = [node for node in group if len(node.weights) >= MIN_WEIGHTS]
    return members if 2 * len(members) > len(group) else []


def _alike(members: list[Node]) -> bool:
    """Whether most members are of one class: T5's blocks are lists too, of an attention and a feed-forward layer."""
    classes = Counter(type(member.module) for member in members)
    return 2 * max(classes.values()) > len(members)


def _is_mixed_with_others(members: list[Node]) -> bool:
    """Whether as many activations and norms stand between them: then they are the layers of one block (Xception)."""
    beside = [child for child in members[0].parent.children if child.prefix == members[0].prefix]  # type: ignore[union-attr]
    return 2 * len(members) <= len(beside)


def _is_checkpointed(node: Node) -> bool:
    # By name: a lower floor than transformers, and plain models need not have it installed.
    marked = any(cls.__name__ == "GradientCheckpointingLayer" for cls in type(node.module).__mro__)
    return marked and len(node.weights) >= MIN_WEIGHTS


# --- timm ------------------------------------------------------------------------------------
def _timm_blocks(model: Node) -> list[Node]:
    fine = _timm_patterns(model, coarse=False)
    found: list[Node] = []
    for pattern in fine:
        # As in timm, an earlier pattern wins: a later one is for what stands beside the blocks of a stage.
        taken = {above for node in found for above in node.path()}
        fits = [node for node in _matching(model, pattern) if node not in taken and _could_be_block(node)]
        found += [node for node in fits if not any(above in found or above in fits for above in list(node.path())[1:])]
    found.sort(key=lambda node: node.position)
    # Where timm itself makes no difference between blocks and stages, its blocks may be stages.
    if fine == _timm_patterns(model, coarse=True):
        return [block for node in found for block in refine(node)]
    return found


def _could_be_block(node: Node) -> bool:
    return node.prefix is not None and node.is_called and len(node.weights) >= MIN_WEIGHTS


def _timm_patterns(model: Node, coarse: bool) -> list[str]:
    try:
        blocks = model.module.group_matcher(coarse=coarse).get("blocks", ())  # type: ignore[operator, union-attr]
    except (AssertionError, AttributeError, NotImplementedError, TypeError):
        return []  # some models have the method and no answer
    rows = [blocks] if isinstance(blocks, str) else list(blocks)
    return [row if isinstance(row, str) else row[0] for row in rows]


def _matching(model: Node, pattern: str) -> list[Node]:
    compiled, start = re.compile(pattern.removeprefix("^")), len(model.name) + 1 if model.name else 0
    return [node for node in model.walk() if node is not model and compiled.fullmatch(node.name[start:])]
