"""
A model as a tree of named modules, with adapters looked through.

Where a tuned block or a per-adapter head stands, the tree has the original in its place, under the name the original
has in the bare model; copies are not in the tree at all. What stands around the whole model (PEFT, data parallelism,
`torch.compile`) is taken off first.

Wrappers are known by the submodules they hold, not by their class: this floor does not import the tuner. What the tree
does not know: which of its nodes are blocks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property

from torch import nn

_NUMBER = re.compile(r"(.*?)(\d+)")


class Node:
    """
    One module of a model.

    Args:
        name (`str`): Full dotted name in the bare model, `""` for the model itself.
        key (`str`): Last component of the name.
        module (`torch.nn.Module`): The module, never a wrapper.
        position (`int`): Place in registration order, parents before children.
        parent ([`Node`], *optional*): `None` for the model itself.
    """

    def __init__(self, name: str, key: str, module: nn.Module, position: int, parent: Node | None) -> None:
        self.name, self.key, self.module, self.position, self.parent = name, key, module, position, parent
        self.children: list[Node] = []

    def walk(self) -> Iterator[Node]:
        """Yields: [`Node`]: this node and all below it in registration order."""
        yield self
        for child in self.children:
            yield from child.walk()

    def path(self) -> Iterator[Node]:
        """Yields: [`Node`]: this node, its parent, and so on up to the model."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.parent

    def child(self, key: str) -> Node | None:
        """Returns: [`Node`] or `None`: the direct child of that name."""
        return next((child for child in self.children if child.key == key), None)

    @property
    def prefix(self) -> str | None:
        """`str` or `None`: the key without its closing number (`"layer"` for `layer3`), `None` if it has none."""
        match = _NUMBER.fullmatch(self.key)
        return match[1] if match else None

    @cached_property
    def sizes(self) -> dict[int, int]:
        """`dict[int, int]`: identity of each parameter at or below this node to its number of elements."""
        sizes = {id(p): p.numel() for p in self.module._parameters.values() if p is not None}
        for child in self.children:
            sizes.update(child.sizes)
        return sizes

    @cached_property
    def weights(self) -> set[int]:
        """
        `set[int]`: identities of the weight matrices and kernels at or below this node.

        Embedding tables are none, nor are learned tokens and positions of shape `(1, ...)`: neither makes a block.
        """
        own: set[int] = set()
        if not isinstance(self.module, (nn.Embedding, nn.EmbeddingBag)):
            for parameter in self.module._parameters.values():
                if parameter is not None and parameter.ndim > 1 and (parameter.ndim == 2 or parameter.shape[0] > 1):
                    own.add(id(parameter))
        return own.union(*(child.weights for child in self.children))

    @cached_property
    def embeddings(self) -> set[int]:
        """`set[int]`: identities of the embedding tables at or below this node."""
        own: set[int] = set()
        if isinstance(self.module, (nn.Embedding, nn.EmbeddingBag)):
            own = {id(p) for p in self.module._parameters.values() if p is not None}
        return own.union(*(child.embeddings for child in self.children))

    @property
    def is_called(self) -> bool:
        """`bool`: Whether the module computes something; a `ModuleList` does not, and no layer can replace it."""
        return type(self.module).forward is not nn.Module.forward

    @property
    def is_timm(self) -> bool:
        """`bool`: Whether this node is a whole timm model."""
        return callable(getattr(type(self.module), "group_matcher", None)) and hasattr(self.module, "pretrained_cfg")

    @property
    def num_parameters(self) -> int:
        """`int`: Number of parameters at or below this node, each counted once."""
        return sum(self.sizes.values())

    def __repr__(self) -> str:
        return f"Node({self.name!r})"


class Tree:
    """
    The modules of a model.

    Args:
        model (`torch.nn.Module`): Bare or wrapped.

    Attributes:
        root ([`Node`]): The model itself, wrappers taken off.
        nodes (`dict[str, Node]`): All nodes by name, in registration order, each module once under its first name.
        aliases (`dict[str, str]`): Other names of modules to their first name.
        reused (`set[str]`): First names of modules that stand in several places of the model, so that replacing one
            place would not replace the others.
    """

    def __init__(self, model: nn.Module) -> None:
        self.nodes: dict[str, Node] = {}
        self.aliases: dict[str, str] = {}
        self.reused: set[str] = set()
        self._first: dict[int, Node] = {}
        self.root = self._add(unwrap(model), "", "", None)

    def _add(self, module: nn.Module, name: str, key: str, parent: Node | None) -> Node:
        node = Node(name, key, module, len(self.nodes), parent)
        self.nodes[name] = self._first[id(module)] = node
        for child_key, child in module._modules.items():
            if child is None:
                continue
            child = original(child)
            child_name = f"{name}.{child_key}" if name else child_key
            known = self._first.get(id(child))
            if known is None:
                node.children.append(self._add(child, child_name, child_key, node))
            else:
                self.reused.add(known.name)
                self._add_aliases(known, child_name)
        return node

    def _add_aliases(self, known: Node, name: str) -> None:
        for node in known.walk():
            self.aliases[name + node.name[len(known.name) :]] = node.name


def original(module: nn.Module) -> nn.Module:
    """
    Look through the layers that adapters put in the place of a module.

    Args:
        module (`torch.nn.Module`): A submodule of a model.

    Returns: `torch.nn.Module`: the pretrained module of the base, `module` itself if nothing wraps it.
    """
    while True:
        # `_modules` and not `hasattr`: such layers pass unknown attributes on to what they wrap.
        parts = module._modules
        if "subtuning_blocks" in parts and "base_layer" in parts:
            inner = parts["base_layer"]
        elif "modules_to_save" in parts and "original_module" in parts:
            inner = parts["original_module"]
        else:
            return module
        if inner is None:
            return module
        module = inner


def unwrap(model: nn.Module) -> nn.Module:
    """
    Take off what stands around a whole model: PEFT models and tuners, `torch.compile`, data parallelism.

    Args:
        model (`torch.nn.Module`): Bare or wrapped.

    Returns: `torch.nn.Module`: the model whose names are those of the base checkpoint.
    """
    while True:
        parts = model._modules
        if "_orig_mod" in parts:  # torch.compile
            inner = parts["_orig_mod"]
        elif isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        elif _is_tuner(model):
            inner = parts["model"]
        elif "base_model" in parts and ("_peft_config" in model.__dict__ or _is_tuner(parts["base_model"])):
            inner = parts["base_model"]
        else:
            inner = None
        if inner is None:
            return original(model)
        model = inner


def _is_tuner(module: nn.Module | None) -> bool:
    # `peft_config` would not tell a tuner from the model in it: PEFT leaves that attribute on both.
    return module is not None and "targeted_module_names" in module.__dict__ and "model" in module._modules
