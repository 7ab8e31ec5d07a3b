"""
Coarser and finer units than blocks: the stages that hold runs of blocks, and the parts that a block is made of.

A stage is the outermost numbered module around a block that does not hold all blocks: `layer1` of a ResNet,
`encoder.layers.0` of a Swin.

A part is found from the block down. What is taken apart, and what is one part:
1. a container that is never called (`ModuleList`) is taken apart, since nothing can take its place;
2. a module that is one thing with its norms is taken apart into that thing and each norm: a convolution with its
   normalisation, a sublayer of T5, BERT's `output`; so is a `Sequential`, unless it is an MLP;
3. a module called attention or MLP is one part, with the norms inside it, unless it holds both;
4. any other module with norms inside is taken apart, unless it has parameters of its own: then it computes something;
5. what is left is one part: a convolution, a norm, a linear layer, a squeeze-excite unit, an MLP without a name.
A layer with neither a weight matrix nor a norm's name (a layer scale, the slope of a PReLU) is no part, nor are bare
parameters of a block, nor a module that stands in several places. They stay as they are, whichever parts are chosen.
A block with nothing to take apart stands for itself, as do attentions and MLPs that XLM keeps in lists of their own.

What this module does not know: whether a part is worth anything; a search finds out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from torch import nn

from .head import head_nodes
from .order import in_call_order
from .rules import inner_sequence
from .tree import Node, Tree

_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_MLP = re.compile(r"mlp|ffn|feed_?forward|(?<![a-z])ff(?![a-z])", re.IGNORECASE)
_NORM = re.compile(r"norm|grn$|(?<![a-z])(bn|ln)(?![a-z])", re.IGNORECASE)


def stages(tree: Tree, blocks: list[Node]) -> list[tuple[Node, str]]:
    """
    The modules that hold runs of blocks.

    Args:
        tree ([`Tree`]): The model.
        blocks (`list[Node]`): Its blocks in forward order.

    Returns: `list[tuple[Node, str]]`: each with its kind, in forward order; a block that stands in no stage stands for
    itself. Empty if no block stands in one.
    """
    # Neither what holds all blocks nor what holds the head is one stage of several.
    around_all = {node for node in blocks[0].path() if node in blocks[-1].path()}
    barred = around_all.union(*(part.path() for part in head_nodes(tree)))
    found: dict[Node, str] = {}
    for block in blocks:
        around = [node for node in block.path() if node is not block and node.prefix is not None and node.is_called]
        around = [node for node in around if node.name not in tree.reused and node not in barred]
        is_stage = bool(around or inner_sequence(block))
        found[around[-1] if around else block] = "stage" if is_stage else "block"
    return list(found.items()) if "stage" in found.values() else []


def parts(tree: Tree, blocks: list[Node]) -> list[tuple[Node, str]]:
    """
    The parts that blocks are made of.

    Args:
        tree ([`Tree`]): The model.
        blocks (`list[Node]`): Its blocks in forward order.

    Returns: `list[tuple[Node, str]]`: each with its kind, in the order in which the model calls them; a block that
    cannot be taken apart stands for itself.
    """
    found: list[tuple[Node, str]] = []
    for block in blocks:
        inside = [] if _is_one_part(block) else [node for node in _parts_below(block) if node.name not in tree.reused]
        found += [(node, _kind(node, block)) for node in inside or [block]]
    return found


def _parts_below(node: Node) -> Iterator[Node]:
    children = [child for child in in_call_order(node) if child.sizes]
    for child in children:
        if not child.is_called or _is_group(child) or (len(children) == 1 and _is_shell(child)):
            yield from _parts_below(child)
        elif _is_norm(child) or (child.weights and not _is_vector(child)):
            yield child


def _is_group(node: Node) -> bool:
    """Whether a module only holds parts together."""
    if _has_own_parameters(node):
        return False
    inside = [child for child in node.children if child.sizes]
    norms = [child for child in inside if _is_norm(child)]
    if (norms and len(inside) - len(norms) == 1) or _holds_both(node):
        return True
    if _is_named(node) or (_is_perceptron(node) and not any(_says(_ATTENTION, below) for below in node.walk())):
        return False
    return isinstance(node.module, nn.Sequential) or _holds_norm(node)


def _is_shell(node: Node) -> bool:
    """Whether the only part of a block is no more than the block itself under another name."""
    return bool(node.children) and not (_is_named(node) or _is_perceptron(node) or _has_own_parameters(node))


def _is_one_part(block: Node) -> bool:
    """Whether the model keeps attention and MLP of a layer in lists of their own (XLM), so that each is a block."""
    return _is_named(block) and not _holds_norm(block) and not _holds_both(block)


def _kind(node: Node, block: Node) -> str:
    if _is_norm(node):
        return "norm"
    if _is_convolution(node):
        return "convolution"
    for above in node.path():
        if above is block and node is not block:
            break
        # The nearest name counts: an MLP beside an attention in what is called an attention block is an MLP.
        for kind, pattern in (("attention", _ATTENTION), ("mlp", _MLP)):
            if _says(pattern, above):
                return kind
    return "block" if node is block else "mlp" if _is_perceptron(node) else "other"


def _says(pattern: re.Pattern[str], node: Node) -> bool:
    return bool(pattern.search(node.key) or pattern.search(type(node.module).__name__))


def _is_named(node: Node) -> bool:
    return _says(_ATTENTION, node) or _says(_MLP, node)


def _holds_both(node: Node) -> bool:
    inside = [child for child in node.children if child.weights]
    return any(_says(_ATTENTION, child) for child in inside) and any(_says(_MLP, child) for child in inside)


def _holds_norm(node: Node) -> bool:
    return any(_is_norm(below) for below in node.walk())


def _is_norm(node: Node) -> bool:
    return bool(node.sizes) and not node.weights and _says(_NORM, node)


def _is_convolution(node: Node) -> bool:
    return isinstance(node.module, nn.modules.conv._ConvNd)


def _is_vector(node: Node) -> bool:
    """Whether its parameters only scale or shift channels, in whatever shape (`(channels, 1, 1)`)."""
    if node.children or isinstance(node.module, nn.Linear) or _is_convolution(node):
        return False
    return all(p.numel() == max(p.shape, default=1) for p in node.module._parameters.values() if p is not None)


def _is_perceptron(node: Node) -> bool:
    """Whether all its weights are matrices that multiply: linear layers, whatever their class."""
    layers = [below for below in node.walk() if _has_own_parameters(below)]
    return bool(node.weights) and all(_is_linear(layer) or _is_norm(layer) for layer in layers)


def _is_linear(node: Node) -> bool:
    shapes = [p.ndim for p in node.module._parameters.values() if p is not None]
    return bool(node.weights) and max(shapes) == 2 and not node.children


def _has_own_parameters(node: Node) -> bool:
    return any(parameter is not None for parameter in node.module._parameters.values())


GRANULARITIES: dict[str, Callable[[Tree, list[Node]], list[tuple[Node, str]]]] = {
    "stage": stages,
    "block": lambda tree, blocks: [(block, "block") for block in blocks],
    "submodule": parts,
}
