"""
`find_blocks`: the blocks of any model in forward order, and what is said when the rules do not fit it.

The rules themselves are in `rules`, those for coarser and finer units in `granularity`. What this module does not know:
weights, data, and the graph.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from ..errors import ArgumentsError, NoBlocksFoundError
from .granularity import GRANULARITIES
from .head import head_by_name
from .rules import MIN_WEIGHTS, blocks_below, inner_sequence
from .tree import Node, Tree


@dataclass(frozen=True)
class Block:
    """
    One choosable unit of a model.

    Args:
        name (`str`): Full dotted name, as in `model.named_modules()` of the bare model.
        index (`int`): Place in forward order, from 0.
        num_parameters (`int`): Number of its parameters.
        kind (`str`, *optional*, defaults to `"block"`):
            What it is: `"stage"`, `"block"`, or for a part of a block `"attention"`, `"mlp"`, `"norm"`,
            `"convolution"`, `"other"`.
    """

    name: str
    index: int
    num_parameters: int
    kind: str = "block"


def find_blocks(model: nn.Module, granularity: str = "block", warn: bool = True) -> list[Block]:
    """
    List the blocks of a model, or coarser or finer units, in forward order.

    Works on transformers, timm and plain models, bare or with adapters, also on the meta device; adapters' copies are
    looked through, and names are those of the bare model. Weights are not read.

    Args:
        model (`torch.nn.Module`): The model.
        granularity (`str`, *optional*, defaults to `"block"`):
            - `"block"`: residual blocks, encoder and decoder layers;
            - `"stage"`: the modules that hold runs of blocks, such as `layer1` of a ResNet;
            - `"submodule"`: the parts of each block: attention, MLP, convolutions and norms. What stands in a block
              beside them, such as layer scales, stays frozen whichever parts are chosen.
        warn (`bool`, *optional*, defaults to `True`):
            Warn when blocks look like whole stages, hold less than a quarter of the model, may not be in forward order,
            or are left out because they stand in several places.

    Returns: `list[Block]`: at least two.
    Raises: [`NoBlocksFoundError`]: If the rules find fewer than two. Blocks can then be named explicitly.
    Raises: [`ArgumentsError`]: If there is no such granularity.
    """
    tree = Tree(model)
    check_granularity(granularity)
    found = found_units(tree, granularity)
    if len(found) < 2:
        raise NoBlocksFoundError(nothing_found(tree, [node for node, _ in found], granularity))
    if warn:
        for message in _doubts(tree, [node for node, _ in found], granularity):
            warnings.warn(message, UserWarning, stacklevel=2)
    return [Block(node.name, index, node.num_parameters, kind) for index, (node, kind) in enumerate(found)]


def check_granularity(granularity: str) -> None:
    """
    Refuse what is no granularity.

    Raises: [`ArgumentsError`]
    """
    if not isinstance(granularity, str) or granularity not in GRANULARITIES:
        close = difflib.get_close_matches(str(granularity), GRANULARITIES, n=1, cutoff=0.4)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        expected = ", ".join(repr(name) for name in GRANULARITIES)
        raise ArgumentsError(f"`granularity` must be one of {expected}, found {granularity!r}.{hint}")


def found_units(tree: Tree, granularity: str) -> list[tuple[Node, str]]:
    """
    The nodes that can be chosen at a granularity.

    Args:
        tree ([`Tree`]): The model.
        granularity (`str`): A key of `GRANULARITIES`.

    Returns: `list[tuple[Node, str]]`: each with its kind, in forward order; fewer than two mean that the rules do not
    fit.
    """
    blocks = found_nodes(tree)
    return GRANULARITIES[granularity](tree, blocks) if len(blocks) > 1 else [(block, "block") for block in blocks]


def found_nodes(tree: Tree) -> list[Node]:
    """
    The nodes that the rules take for blocks, in forward order; fewer than two mean that the rules do not fit.

    Args:
        tree ([`Tree`]): The model.

    Returns: `list[Node]`
    """
    head = head_by_name(tree.root) or []
    # Replacing one place of a reused module would leave the others as they are: such a block cannot be tuned.
    return [node for node in blocks_below(tree.root, head) if node.name not in tree.reused]


# --- what is said when the rules are in doubt ------------------------------------------------
def nothing_found(tree: Tree, nodes: list[Node], granularity: str = "block") -> str:
    """
    What to tell when the rules do not fit a model.

    Args:
        tree ([`Tree`]): The model.
        nodes (`list[Node]`): The fewer than two blocks found.
        granularity (`str`, *optional*, defaults to `"block"`): What was looked for.

    Returns: `str`: what was expected and found, and how to name blocks.
    """
    kind = type(tree.root.module).__name__
    if granularity == "stage" and len(blocks := found_nodes(tree)) > 1:
        return (
            f"Expected stages in '{kind}', numbered modules that hold runs of blocks, found none: its {len(blocks)} "
            f"blocks are '{blocks[0].name}' ... '{blocks[-1].name}'. Use granularity='block', or "
            "granularity='submodule' for the parts of each block."
        )
    found = f"only '{nodes[0].name}'" if nodes else "none"
    shared = [name for name in tree.reused if len(tree.nodes[name].weights) >= MIN_WEIGHTS]
    reason = f" ('{shared[0]}' stands in several places and cannot be tuned in one of them)" if shared else ""
    large = sorted((n for n in tree.nodes.values() if _nameable(n)), key=lambda n: (-n.num_parameters, n.position))[:3]
    names = ", ".join(repr(node.name) for node in sorted(large, key=lambda n: n.position))
    return (
        f"Expected at least two blocks to choose from in '{kind}', found {found}{reason}. Name the blocks explicitly: "
        "`blocks=[...]` takes the full name of any module with parameters"
        + (f", such as {names}," if names else "")
        + " and patterns such as 'features.*'; `model.named_modules()` lists the names."
    )


def _nameable(node: Node) -> bool:
    if not node.name or not node.sizes or not node.is_called or node.embeddings:
        return False
    size, rest = node.num_parameters, [child for child in node.children if child.sizes]
    return bool(size) and (not rest or max(child.num_parameters for child in rest) < size / 2)


def _doubts(tree: Tree, nodes: list[Node], granularity: str) -> Iterator[str]:
    if granularity == "block":
        doubts = [_stages(nodes), _side_by_side(nodes)]
    else:
        doubts = [_side_by_side(found_nodes(tree))]  # order is the order of the blocks
    doubts += [_left_out(tree), _small_share(tree, nodes)]
    return (f"Blocks of '{type(tree.root.module).__name__}': {doubt}" for doubt in doubts if doubt)


def _stages(nodes: list[Node]) -> str | None:
    stages = [(node, inner) for node in nodes if (inner := inner_sequence(node))]
    if not stages:
        return None
    node, inner = stages[0]
    return (
        f"{len(stages)} of the {len(nodes)} found look like stages ('{node.name}' holds {len(inner)} blocks of its "
        f"own). To choose more finely name blocks explicitly, such as blocks=['{inner[0].name}']."
    )


def _side_by_side(nodes: list[Node]) -> str | None:
    """Doubt about lists of one length under one parent: they (XLM's `attentions` and `ffns`) may be called in turn."""
    lists: dict[Node, list[Node]] = {}
    for node in nodes:
        if node.parent is not None and not node.parent.is_called:
            lists.setdefault(node.parent, []).append(node)
    for one, members in lists.items():
        for other, others in lists.items():
            alike = one.prefix is not None and one.prefix == other.prefix  # lists numbered themselves run in sequence
            if one is not other and one.parent is other.parent and not alike and len(members) == len(others) > 1:
                return (
                    f"the lists '{one.name}' and '{other.name}' are of one length. They are taken to run one after the "
                    "other; if the model calls their members in turn, the order of the blocks is not the forward order."
                )
    return None


def _left_out(tree: Tree) -> str | None:
    reused = [n for n in blocks_below(tree.root, head_by_name(tree.root) or []) if n.name in tree.reused]
    if not reused:
        return None
    return (
        f"{len(reused)} are left out, such as '{reused[0].name}', because they stand in several places of the model: a "
        "tuned copy in one of them would leave the others as they are."
    )


def _small_share(tree: Tree, nodes: list[Node]) -> str | None:
    held = set().union(*(node.sizes for node in nodes))
    head = head_by_name(tree.root) or []
    barred = tree.root.embeddings.union(*(node.sizes for node in head))
    counted = {key: size for key, size in tree.root.sizes.items() if key not in barred}
    share = sum(size for key, size in counted.items() if key in held) / max(1, sum(counted.values()))
    if share >= 0.25:
        return None
    rest = [node for node in tree.nodes.values() if _nameable(node) and not (held | barred) & node.sizes.keys()]
    largest = max(rest, key=lambda node: node.num_parameters, default=None)
    example = f" Other modules can be named too, such as '{largest.name}'." if largest else ""
    return (
        f"the {len(nodes)} found hold only {100 * share:.0f} % of the parameters, head and embeddings not counted; the "
        f"rest would never be trained.{example}"
    )
