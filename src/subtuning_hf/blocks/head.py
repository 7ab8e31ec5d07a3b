"""
The output layer of a model.

A transformers model says it by its structure: what stands outside its base model is what a checkpoint of the bare
backbone lacks. A timm model names it. For the rest a few names are conventional, and failing that the last layer behind
the blocks is taken. A language model's output embedding is no head: it is often tied to the input embedding, and a copy
would untie it. What this module does not know: labels, and how many outputs a task needs.
"""

from __future__ import annotations

from torch import nn

from .rules import blocks_below
from .tree import Node, Tree

_NAMES = frozenset(
    {"classification_head", "classifier", "ctc_head", "decode_head", "fc", "head", "head_dist", "heads", "last_linear"}
    | {"qa_outputs", "score"}
)
# Task layers in front of the output layer: part of the head where they come with one.
_COMPANIONS = frozenset({"auxiliary_head", "pooler", "pre_classifier", "projector"})
_OUTPUT_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def find_head(model: nn.Module) -> list[str]:
    """
    Name the modules of a model's output layer.

    Args:
        model (`torch.nn.Module`): Bare or with adapters; adapters' copies are looked through.

    Returns: `list[str]`: full dotted names in registration order, several where the task has a layer in front of the
    output layer (`["pre_classifier", "classifier"]`); empty for a language model and for a model without head.
    """
    return [node.name for node in head_nodes(Tree(model))]


def head_nodes(tree: Tree) -> list[Node]:
    """
    The same for a tree.

    Args:
        tree ([`Tree`]): The model.

    Returns: `list[Node]`
    """
    by_name = head_by_name(tree.root)
    return _last_layer(tree) if by_name is None else by_name


def head_by_name(root: Node) -> list[Node] | None:
    """
    The output layer as far as the model says itself which one it is.

    Args:
        root ([`Node`]): The model.

    Returns: `list[Node]` or `None`: empty for a model that has no head, `None` where the model does not say.
    """
    node = root
    while True:
        if _is_language_model(node):
            return []
        found = _timm_head(node) if node.is_timm else (_outside_base(node) or _conventional(node))
        if found or node.is_timm:
            return found
        inside = [child for child in node.children if child.sizes]
        if len(inside) != 1:
            return [] if _is_bare(node) else None
        node = inside[0]


def _is_transformers(node: Node) -> bool:
    return isinstance(getattr(type(node.module), "base_model_prefix", None), str)


def _is_bare(node: Node) -> bool:
    # A backbone ends in a norm or a pooler, which is no head. By their names the classes of models with a head say what
    # the model is for (`...ForImageClassification`), also those that are not transformers' own.
    return _is_transformers(node) and "For" not in type(node.module).__name__


def _is_language_model(node: Node) -> bool:
    if not _is_transformers(node):
        return False
    try:
        return node.module.get_output_embeddings() is not None  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return False


def _outside_base(node: Node) -> list[Node]:
    base = node.child(node.module.base_model_prefix) if _is_transformers(node) else None  # type: ignore[arg-type]
    if base is None:
        return []
    outside = [child for child in node.children if child is not base and child.weights]
    return [child for child in outside if len(list(blocks_below(child))) < 2]


def _conventional(node: Node) -> list[Node]:
    weighted = [child for child in node.children if child.weights]
    if not any(child.key in _NAMES for child in weighted):
        return []
    return [child for child in weighted if child.key in _NAMES | _COMPANIONS]


def _timm_head(model: Node) -> list[Node]:
    names = model.module.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr, operator]
    names = (names,) if isinstance(names, str) else names
    prefix = f"{model.name}." if model.name else ""
    wanted = {prefix + name for name in names}
    return [node for node in model.walk() if node.name in wanted and node.weights]


def _last_layer(tree: Tree) -> list[Node]:
    """The last layer of the model, if it is one that can give an output and stands behind all blocks."""
    last = [node for node in tree.nodes.values() if any(p is not None for p in node.module._parameters.values())][-1:]
    if not last or not isinstance(last[0].module, _OUTPUT_LAYERS):
        return []
    blocks = list(blocks_below(tree.root))
    in_block = len(blocks) > 1 and any(above in blocks for above in last[0].path())
    tied = bool(last[0].weights & tree.root.embeddings) or last[0].key == "lm_head"
    return [] if in_block or tied else last
