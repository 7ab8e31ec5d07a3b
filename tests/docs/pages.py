"""The examples of the documentation, as they stand in its pages."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^(`{3,})(\w*)[^\n]*\n(.*?)^\1[ ]*$", re.MULTILINE | re.DOTALL)
_SHELLS = ("sh", "bash", "shell", "console")


@dataclass(frozen=True)
class Example:
    """
    One fenced block of a page.

    Args:
        page (`str`): Path of the page in the repository.
        line (`int`): Line of its first line in the page, from 1.
        language (`str`): What the fence says.
        text (`str`): The block.
    """

    page: str
    line: int
    language: str
    text: str


def pages() -> list[str]:
    """README.md and every page in docs/."""
    return ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]


def examples(page: str) -> list[Example]:
    """All fenced blocks of a page."""
    text = (ROOT / page).read_text("utf-8")
    return [
        Example(page, text.count("\n", 0, found.start(3)) + 1, found[2], found[3]) for found in _FENCE.finditer(text)
    ]


def python_examples(page: str) -> list[Example]:
    """The Python blocks of a page."""
    return [each for each in examples(page) if each.language == "python"]


def shell_lines(page: str) -> list[tuple[int, list[str]]]:
    """The commands in shell blocks of a page, with their lines; comments are left out."""
    found = []
    for each in examples(page):
        if each.language in _SHELLS:
            for number, line in enumerate(each.text.replace("\\\n", "  ").splitlines(), each.line):
                words = shlex.split(line, comments=True)
                if words:
                    found.append((number, words))
    return found


def own_words(words: list[str]) -> list[str] | None:
    """The words after `subtuning`, or after `-m subtuning_hf.cli` in a launch; `None` for other commands."""
    if words[0] == "subtuning":
        return words[1:]
    return words[words.index("subtuning_hf.cli") + 1 :] if "subtuning_hf.cli" in words else None
