"""
From what a user writes to full block names: names, indices and patterns.

Names are matched whole: a shortened name may fit several modules, or one inside an adapter's copy. What this module
does not know: what the blocks are wanted for.
"""

from __future__ import annotations

import difflib
import fnmatch
import numbers
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from ..errors import BlockSelectionError, DuplicateBlockError, NestedBlocksError, NoBlocksFoundError, UnknownBlockError
from .find import Block, check_granularity, found_nodes, found_units, nothing_found
from .head import head_nodes
from .order import sort_forward
from .tree import Node, Tree


def resolve_blocks(model: nn.Module, blocks: Iterable[str | int | Block], granularity: str = "block") -> list[str]:
    """
    Turn a selection of blocks into full names in forward order.

    Args:
        model (`torch.nn.Module`): Bare or with adapters; names are those of the bare model.
        blocks (`Iterable[str | int | Block]`):
            Each entry is one of
            - the full name of a block, or of any other module with parameters;
            - an index into [`find_blocks`], negative ones from the end;
            - a pattern with `*`, `?` or `[...]`, where `*` matches dots too. It is matched against the names of the
              blocks; if it fits none of them, against all modules with parameters outside the head, of which those
              that lie inside another match are dropped. Patterns may overlap each other and other entries;
            - a [`Block`].
            An empty selection is allowed (the head alone). A single string or number is refused: put it in a list.
        granularity (`str`, *optional*, defaults to `"block"`):
            What indices count and patterns are matched against first, as in [`find_blocks`]. Full names are taken at
            any granularity.

    Returns: `list[str]`
    Raises: [`BlockSelectionError`]: If `blocks` is no list, or an entry has another type or names a module that cannot
        be tuned.
    Raises: [`UnknownBlockError`]: If a name, index or pattern fits nothing.
    Raises: [`DuplicateBlockError`]: If two entries name the same block.
    Raises: [`NestedBlocksError`]: If a block lies inside another.
    Raises: [`NoBlocksFoundError`]: If there are indices, but the rules find no blocks to count.
    Raises: [`ArgumentsError`]: If there is no such granularity.
    """
    return resolve_in(Tree(model), blocks, granularity)


def resolve_in(tree: Tree, blocks: Iterable[str | int | Block], granularity: str = "block") -> list[str]:
    """The same for a tree."""
    check_granularity(granularity)
    entries = _entries(blocks)
    selection = _Selection(tree, granularity)
    for entry in entries:
        selection.add(entry)
    return selection.names()


def _entries(blocks: Any) -> list[Any]:
    expected = "`blocks` must be a list of names, indices or patterns, got "
    if isinstance(blocks, (str, numbers.Integral, Block)) and not isinstance(blocks, bool):
        shown = blocks.name if isinstance(blocks, Block) else blocks
        raise BlockSelectionError(
            f"{expected}the single {type(blocks).__name__} {shown!r}. Put it in a list: blocks=[{shown!r}]."
        )
    if isinstance(blocks, (bytes, Mapping)) or not isinstance(blocks, Iterable):
        raise BlockSelectionError(
            f"{expected}{blocks!r} of type {type(blocks).__name__}. Write for example blocks=[0, -1]; blocks=[] trains "
            "the head alone."
        )
    return list(blocks)


class _Selection:
    """Blocks chosen so far, each with the entry that chose it."""

    def __init__(self, tree: Tree, granularity: str) -> None:
        self.tree, self.kind, self.granularity = tree, type(tree.root.module).__name__, granularity
        found = [node for node, _ in found_units(tree, granularity)]
        self.found = found if len(found) > 1 else []
        self.too_few = found
        self.exact: dict[str, str] = {}  # name -> entry as written
        self.matched: dict[str, str] = {}
        self.patterns: set[str] = set()

    def add(self, entry: Any) -> None:
        """Take one entry."""
        if isinstance(entry, Block):
            entry = entry.name
        if isinstance(entry, str):
            known = entry in self.tree.nodes or entry in self.tree.aliases
            if not known and any(sign in entry for sign in "*?["):
                self._add_pattern(entry)
            else:
                self._add_exact(self._by_name(entry), repr(entry))
        elif isinstance(entry, numbers.Integral) and not isinstance(entry, bool):
            self._add_exact(self._by_index(int(entry)), f"index {entry}")
        else:
            raise BlockSelectionError(
                f"Each entry of `blocks` must be a name, an index or a pattern, got {entry!r} of type "
                f"{type(entry).__name__}."
            )

    def names(self) -> list[str]:
        """Returns: `list[str]`: in forward order, checked for nesting."""
        chosen = [node for name, node in self.tree.nodes.items() if name in self.exact or name in self.matched]
        known = set(chosen)
        for node in chosen:
            for above in list(node.path())[1:]:
                if above in known:
                    raise NestedBlocksError(
                        f"`blocks` chooses '{node.name}'{self._chosen_by(node)}, which lies inside '{above.name}'"
                        f"{self._chosen_by(above)}. Its parameters would be trained twice: keep one of them."
                    )
        return [node.name for node in sort_forward(chosen, found_nodes(self.tree))]

    def _chosen_by(self, node: Node) -> str:
        entry = self.exact.get(node.name) or self.matched[node.name]
        return "" if entry == repr(node.name) else f" ({entry})"

    def _add_exact(self, node: Node, entry: str) -> None:
        if node.name in self.exact:
            first = self.exact[node.name]
            twice = f"twice, as {first} and as {entry}" if first != entry else f"twice, both times as {entry}"
            raise DuplicateBlockError(f"`blocks` names the block '{node.name}' {twice}. Remove one of them.")
        self.exact[node.name] = entry

    def _add_pattern(self, pattern: str) -> None:
        if pattern in self.patterns:
            raise DuplicateBlockError(f"`blocks` holds the pattern '{pattern}' twice. Remove one of them.")
        self.patterns.add(pattern)
        nodes = self._matching(self.found, pattern) or self._matching_anywhere(pattern)
        if not nodes:
            dotted = re.sub(r"\[(\d+)\]", r".\1", pattern)  # `layers[3]` is Python, the name is `layers.3`
            raise UnknownBlockError(
                f"`blocks` holds the pattern '{pattern}', but it fits no block and no other module with parameters of "
                f"'{self.kind}'. {self._known()}{self._hint(dotted)}"
            )
        for node in nodes:
            self.matched.setdefault(node.name, f"pattern '{pattern}'")

    @staticmethod
    def _matching(nodes: Iterable[Node], pattern: str) -> list[Node]:
        return [node for node in nodes if fnmatch.fnmatchcase(node.name, pattern)]

    def _matching_anywhere(self, pattern: str) -> list[Node]:
        head = head_nodes(self.tree)
        # Neither in the head nor around it, nor what cannot be replaced.
        barred = {above for part in head for above in part.path()} | {below for part in head for below in part.walk()}
        nodes = [n for n in self.tree.nodes.values() if n.name and n.sizes and n not in barred and self._replaceable(n)]
        matched = self._matching(nodes, pattern)
        return [node for node in matched if not any(above in matched for above in list(node.path())[1:])]

    def _replaceable(self, node: Node) -> bool:
        return node.name not in self.tree.reused and node.is_called

    def _by_index(self, index: int) -> Node:
        number = len(self.found)
        if not number:
            raise NoBlocksFoundError(
                f"`blocks` holds index {index}. {nothing_found(self.tree, self.too_few, self.granularity)}"
            )
        if not -number <= index < number:
            raise UnknownBlockError(
                f"`blocks` holds index {index}, but '{self.kind}' has {number} {self.granularity}s: indices 0 to "
                f"{number - 1}, or -{number} to -1 from the end."
            )
        return self.found[index]

    def _by_name(self, name: str) -> Node:
        node = self.tree.nodes.get(self.tree.aliases.get(name, name)) if name else None
        if node is None:
            raise UnknownBlockError(
                f"`blocks` names '{name}', but '{self.kind}' has no such block. {self._known()}{self._hint(name)} "
                "List them with `subtuning blocks MODEL`."
            )
        what = f"`blocks` names '{name}', which is a {type(node.module).__name__}"
        if not node.sizes:
            raise BlockSelectionError(f"{what} without parameters: there is nothing to train in it.")
        if not node.is_called:
            raise BlockSelectionError(
                f"{what}: a container that is never called, so it cannot be replaced. Name its members, for example "
                f"with the pattern '{node.name}.*'."
            )
        if node.name in self.tree.reused:
            places = [alias for alias, first in self.tree.aliases.items() if first == node.name]
            raise BlockSelectionError(
                f"{what} that stands in several places of '{self.kind}' (also at '{places[0]}'): a tuned copy in one "
                "of them would leave the others as they are. Choose a module that stands in one place."
            )
        return node

    def _known(self) -> str:
        if not self.found:
            return "No blocks are found in it by rule; `model.named_modules()` lists the names of its modules."
        return f"Its {len(self.found)} {self.granularity}s are '{self.found[0].name}' ... '{self.found[-1].name}'."

    def _hint(self, name: str) -> str:
        if name.lstrip("-").isdigit() and self.found:
            return f" To choose by index write the number {name} without quotes."
        others = [node.name for node in self.tree.nodes.values() if node.name and node.sizes and node.is_called]
        close = _close(name, [node.name for node in self.found]) or _close(name, others)
        return f" Did you mean {' or '.join(repr(one) for one in close)}?" if close else ""


def _close(name: str, names: list[str]) -> list[str]:
    """At most two names that could be meant: the same ending first, then the closest spelling."""
    ending = [one for one in names if one and (one.endswith(f".{name}") or name.endswith(f".{one}"))]
    if ending:
        return ending[:2]
    close = difflib.get_close_matches(name, names, n=10)
    number = name.rpartition(".")[2]
    return [one for one in close if one.rpartition(".")[2] == number][:1] or close[:1]
