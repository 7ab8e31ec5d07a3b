"""
In which order a module calls its parts, read from the source of its `forward`.

Inside a block the order of registration misleads: transformers' ViT, Swin and Llama write their attention down before
the norm that comes in front of it. So `forward` is read as Python would evaluate it: arguments before the call they
belong to, methods of the module where they are called, and only the branch that the module's own flags (`norm_first`,
a part that is `None`) allow. Nothing is executed, and no weights are read.

What this module does not know: inputs, loops that call members of several lists in turn, and parts reached by computed
names. Where `forward` does not name all parts, or has no source, the order of registration is kept.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from torch import nn

from .tree import Node

_UNKNOWN = object()


def in_call_order(node: Node) -> list[Node]:
    """
    The children of a node in the order in which its `forward` calls them first.

    Args:
        node ([`Node`]): A module of a model.

    Returns: `list[Node]`: all children; those without parameters stand behind the others where `forward` is silent
    about them.
    """
    if len(node.children) < 2:
        return list(node.children)
    ranks = _Reader(node).ranks()
    if any(child.sizes and child.key not in ranks for child in node.children):
        return list(node.children)
    last = max(ranks.values(), default=(0, 0))
    return sorted(node.children, key=lambda child: (ranks.get(child.key, last), child.position))


def walk_in_call_order(node: Node) -> Iterator[Node]:
    """Yields: [`Node`]: this node and all below it, parents first, children in the order of their first calls."""
    yield node
    for child in in_call_order(node):
        yield from walk_in_call_order(child)


def sort_forward(nodes: Iterable[Node], blocks: Iterable[Node]) -> list[Node]:
    """
    Put nodes into forward order: registration order, and call order inside the same block.

    Args:
        nodes (`Iterable[Node]`): Nodes of one tree.
        blocks (`Iterable[Node]`): Its blocks.

    Returns: `list[Node]`
    """
    known, ranks = set(blocks), dict[Node, dict[Node, int]]()

    def place(node: Node) -> tuple[int, int]:
        block = next((above for above in node.path() if above in known), node)
        if block is node:
            return node.position, 0
        if block not in ranks:
            ranks[block] = {below: rank for rank, below in enumerate(walk_in_call_order(block))}
        return block.position, ranks[block][node]

    return sorted(nodes, key=place)


@cache
def _definition(function: Any) -> ast.FunctionDef | None:
    try:
        source = inspect.getsource(inspect.unwrap(function))
        # A method is indented, and its docstring may not be: no dedenting.
        body = ast.parse(f"if True:\n{source}" if source[:1].isspace() else source).body
    except (OSError, TypeError, ValueError, SyntaxError):
        return None
    first = body[0].body[0] if isinstance(body[0], ast.If) else body[0]
    return first if isinstance(first, ast.FunctionDef) and first.args.args else None


class _Returned(Exception):  # no error: ends the reading of one function
    """The function returns here whatever the input is."""


class _Reader(ast.NodeVisitor):
    """Reads `forward` and the methods it calls for mentions of a node's children."""

    def __init__(self, node: Node) -> None:
        self.module, self.keys = node.module, {child.key for child in node.children}
        self.called: list[str] = []
        self.mentioned: list[tuple[str, int]] = []  # with the number of calls read so far
        self.reading: list[tuple[Any, type, str]] = []  # function, the class that defines it, its name for `self`
        self.branches = 0  # how many conditions around that cannot be decided

    def ranks(self) -> dict[str, tuple[int, int]]:
        """Returns: `dict[str, tuple[int, int]]`: keys of the children named, smaller for those called earlier."""
        self._enter("forward", type(self.module).__mro__)
        ranks: dict[str, tuple[int, int]] = {}
        for number, key in enumerate(self.called):
            ranks.setdefault(key, (number, 0))
        # Passed on, subscripted or iterated over: that counts where there is no call.
        for place, (key, number) in enumerate(self.mentioned, start=1):
            ranks.setdefault(key, (number - 1, place))
        return ranks

    def _enter(self, name: str, classes: Iterable[type]) -> None:
        """Read a method at the place where it is called."""
        owner = next((one for one in classes if name in vars(one)), nn.Module)
        function = None if owner is nn.Module else vars(owner)[name]
        definition = _definition(function) if inspect.isfunction(function) else None
        if definition is None or any(function is one for one, _, _ in self.reading):
            return
        self.reading.append((function, owner, definition.args.args[0].arg))
        outer, self.branches = self.branches, 0
        try:
            for statement in definition.body:
                self.visit(statement)
        except _Returned:
            pass
        self.branches = outer
        self.reading.pop()

    def _mention(self, key: str, direct: bool, call: bool) -> None:
        if key in self.keys:
            if call:
                self.called.append(key)
            else:
                self.mentioned.append((key, len(self.called)))
        elif direct:
            self._enter(key, type(self.module).__mro__)

    def _of_self(self, node: ast.AST) -> tuple[str, bool] | None:
        """The attribute of `self` that an expression starts from, and whether it is that attribute itself."""
        direct = True
        while isinstance(node, (ast.Attribute, ast.Subscript)):
            inner = node.value
            if isinstance(node, ast.Attribute) and isinstance(inner, ast.Name) and inner.id == self.reading[-1][2]:
                return node.attr, direct
            node, direct = inner, False
        return None

    def visit_Call(self, node: ast.Call) -> None:
        """Arguments are evaluated before the call."""
        mention, above = self._of_self(node.func), _method_of_super(node.func)
        if mention is None and above is None:
            self.visit(node.func)
        # A method or part that is handed to a function, such as `checkpoint`, is called when all arguments are there.
        handed = [argument for argument in node.args if (self._of_self(argument) or (None, False))[1]]
        for argument in [*(one for one in node.args if one not in handed), *node.keywords, *handed]:
            self.visit(argument)
        if mention is not None:
            # `self.attn.weight.dim()` calls no part; `self.layer[0](x)` does, but its list counts by mention.
            self._mention(*mention, call=mention[1])
        elif above is not None:
            classes = type(self.module).__mro__
            self._enter(above, classes[classes.index(self.reading[-1][1]) + 1 :])

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """A part, or a method, that is passed on or looked at."""
        mention = self._of_self(node)
        if mention is None:
            self.generic_visit(node)
        else:
            self._mention(*mention, call=False)

    def visit_If(self, node: ast.If) -> None:
        """Only the branch taken, where that can be told."""
        self._branch(node.test, node.body, node.orelse)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        """The same in an expression."""
        self._branch(node.test, [node.body], [node.orelse])

    def _branch(self, test: ast.expr, body: list[Any], orelse: list[Any]) -> None:
        truth = self._truth(test)
        if truth is None:
            self._undecided([test, *body, *orelse])
            return
        for statement in body if truth else orelse:
            self.visit(statement)

    def _undecided(self, nodes: Iterable[ast.AST]) -> None:
        self.branches += 1
        for node in nodes:
            self.visit(node)
        self.branches -= 1

    def _perhaps(self, node: ast.AST) -> None:
        """What may run or not: a return in it does not end the function."""
        self._undecided(ast.iter_child_nodes(node))

    visit_For = visit_While = visit_Try = visit_Match = visit_FunctionDef = visit_Lambda = _perhaps

    def visit_Return(self, node: ast.Return) -> None:
        """What stands behind is not read."""
        self.generic_visit(node)
        if not self.branches:
            raise _Returned

    def _truth(self, test: ast.expr) -> bool | None:
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            inner = self._truth(test.operand)
            return None if inner is None else not inner
        if isinstance(test, ast.BoolOp):
            parts, decisive = [self._truth(value) for value in test.values], isinstance(test.op, ast.Or)
            return decisive if decisive in parts else None if None in parts else not decisive
        if isinstance(test, ast.Compare) and isinstance(test.ops[0], (ast.Is, ast.IsNot)):
            value, other = self._value(test.left), test.comparators[0]
            if value is _UNKNOWN or not (isinstance(other, ast.Constant) and other.value is None):
                return None
            return (value is None) == isinstance(test.ops[0], ast.Is)
        value = self._value(test)
        return bool(value) if value is None or isinstance(value, (bool, int)) else None

    def _value(self, node: ast.expr) -> Any:
        mention = self._of_self(node)
        # Read from where attributes are kept, so that no property runs; a part's place says whether it is there.
        if mention is None or mention[0] == "training" or not mention[1]:
            return _UNKNOWN
        for kept in (self.module.__dict__, self.module._modules, self.module._parameters):
            if mention[0] in kept:
                return kept[mention[0]]
        return _UNKNOWN


def _method_of_super(node: ast.expr) -> str | None:
    """The name of a method that is looked up on `super()`."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Call):
        function = node.value.func
        if isinstance(function, ast.Name) and function.id == "super":
            return node.attr
    return None
