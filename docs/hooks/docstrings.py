"""
Docstrings of this project as Markdown: the sections of the Hugging Face style written out, names linked.

A griffe extension, and the list of what the API pages document. Knows text; imports nothing of the package.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import griffe

SOURCE = Path(__file__).resolve().parents[2] / "src"
# What the API pages show: everything that these export in `__all__`.
MODULES = (
    "subtuning_hf",
    "subtuning_hf.search",
    "subtuning_hf.proposal",
    "subtuning_hf.compare",
    "subtuning_hf.blocks",
    "subtuning_hf.multitask",
    "subtuning_hf.tuner.pruning",
    "subtuning_hf.hub",
    "subtuning_hf.plots",
    "subtuning_hf.errors",
)
_SECTION = re.compile(r"^(Args|Returns|Raises|Source|Attributes|Example|Shape):[ ]*(.*)$")
_NAME = re.compile(r"\[`(~?[\w.]+)`\](?![(\[])")


def public_names(module: str) -> list[str]:
    """
    The public names of a module, from its `__all__`, read and not imported; without one, its public classes.

    Args:
        module (`str`): Full name.

    Returns: `list[str]`: in the order given there, without dunders.
    """
    path = SOURCE.joinpath(*module.split("."))
    tree = ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text("utf-8"))
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == "__all__":
            return [name for name in ast.literal_eval(node.value) if not name.startswith("__")]  # type: ignore[attr-defined]
    return [node.name for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]


def documented() -> dict[str, str]:
    """`dict[str, str]`: each documented name with the full name it is documented under; the first module has it."""
    found: dict[str, str] = {}
    for module in MODULES:
        for name in public_names(module):
            found.setdefault(name, place_of(module, name))
    return found


def place_of(module: str, name: str) -> str:
    """
    The full name of a public name, past a submodule that is called the same.

    Args:
        module (`str`): Who exports it.
        name (`str`): A function or class.

    Returns: `str`
    """
    path = SOURCE.joinpath(*module.split("."))
    if not (path / f"{name}.py").is_file():
        return f"{module}.{name}"
    for node in ast.parse((path / "__init__.py").read_text("utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.level == 1 and name in [alias.name for alias in node.names]:
            return f"{module}.{node.module}.{name}"
    return f"{module}.{name}"


def as_markdown(text: str, links: dict[str, str]) -> str:
    """
    A docstring in Markdown.

    Args:
        text (`str`): The docstring, cleaned of its indentation.
        links (`dict[str, str]`): Names that have an entry in the API pages, with the entry.

    Returns: `str`: sections as bold words and lists, known names linked, others as code.
    """
    out: list[str] = []
    lists = nested = False
    for line in text.splitlines():
        begin = _SECTION.match(line)
        if begin:
            lists = begin[1] in ("Args", "Raises", "Attributes") and not begin[2]
            out += ["", f"**{begin[1]}:** {begin[2]}".rstrip(), *([] if begin[2] else [""])]
        elif lists and re.match(r"^ {4}\S", line):
            if nested:
                out.append("")  # ends the list within the entry before
            nested = False
            out.append("- " + _entry(line.strip()))
        elif lists and line.startswith(" "):
            item = line.lstrip().startswith("- ")
            if item and not nested and not out[-1].startswith("- "):
                out.append("")
            nested = nested or item
            out.append(line.removeprefix("    "))
        else:
            out.append(line)
    return _NAME.sub(lambda found: _link(found[1], links), "\n".join(out)).strip()


def _entry(line: str) -> str:
    """`name (`type`), other (`type`): text` with the names as code."""
    return re.sub(r"(?:^|(?<=\), ))(\w+)(?= \(|: )", r"**`\1`**", line)


def _link(name: str, links: dict[str, str]) -> str:
    last = name.lstrip("~").rpartition(".")[2]
    return f"[`{last}`][{links[last]}]" if last in links else f"`{name.lstrip('~')}`"


class HuggingFaceStyle(griffe.Extension):
    """Rewrites each docstring before it is rendered."""

    def __init__(self) -> None:
        super().__init__()
        self.links = documented()

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value, self.links)
