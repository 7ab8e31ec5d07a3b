"""
What the site shows besides the pages in docs/: API entries, options of commands, the notebook, tables of benchmarks.

A hook of MkDocs. Everything here is read from its source when the site is built, so that no copy can go stale.
"""

from __future__ import annotations

import argparse
import html
import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "src")]

from docstrings import MODULES, documented, place_of, public_names  # noqa: E402

# Files outside docs/ that pages may link to, as they do in the repository.
OUTSIDE = (
    "benchmarks/results/**/*.md",
    "benchmarks/results/**/*.png",
    "benchmarks/*.py",
    "recipes/**/*.yaml",
    "recipes/serve/README.md",
    "accelerate_configs/*.yaml",
    "notebooks/*.ipynb",
)
_LEAVES = re.compile(r"(\]\()\.\./((?:\.\./)*(?:benchmarks|recipes|accelerate_configs|notebooks)/)")

# The site shows notebooks as pages.
_NOTEBOOK = re.compile(r"(\]\((?:\.\./)*notebooks/\w+)\.ipynb(?=\))")


def on_files(files: Any, config: Any) -> Any:
    """Add the files that are linked, and the notebook as a page."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=notebook_page(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Fill in what is generated, and let links that leave docs/ find their files."""
    markdown = re.sub(r"<!-- api: ([\w.]+) -->", lambda found: api_entries(found[1]), markdown)
    markdown = markdown.replace("<!-- commands -->", commands())
    return _NOTEBOOK.sub(r"\1.md", _LEAVES.sub(r"\1\2", markdown))


def api_entries(module: str) -> str:
    """
    An entry for each public name of a module that no module before it has.

    Raises: `KeyError`: If a page names a module that is not listed in `MODULES`.
    """
    if module not in MODULES:
        raise KeyError(f"A page documents '{module}', expected one of {', '.join(MODULES)}.")
    known = documented()
    own = [name for name in public_names(module) if known[name] == place_of(module, name)]
    return "\n\n".join(f"::: {known[name]}" for name in own)


def commands() -> str:
    """Every command with its description and options, as `--help` prints them."""
    from subtuning_hf.cli.main import COMMANDS

    parts = []
    for name, (module_name, words) in COMMANDS.items():
        module = importlib.import_module(module_name)
        parser = argparse.ArgumentParser(
            prog=f"subtuning {name}",
            description=module.DESCRIPTION,
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=100),
        )
        module.add_arguments(parser)
        parts.append(f"### {name}\n\n{words[0].upper()}{words[1:]}.\n\n```text\n{parser.format_help().rstrip()}\n```")
    return "\n\n".join(parts)


def notebook_page(path: Path) -> str:
    """
    A notebook with its saved outputs as Markdown.

    Args:
        path (`Path`): The `.ipynb` file.

    Returns: `str`
    """
    parts = []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif source:
            parts.append(f"```python\n{source}\n```")
            parts += filter(None, (_output(output) for output in cell["outputs"]))
    return "\n\n".join([*parts, f"*This page shows [`{path.name}`]({path.name}) as it was run.*"]) + "\n"


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        alt = html.escape(output.get("metadata", {}).get("image/png", {}).get("alt", "picture"))
        return f'<img alt="{alt}" src="data:image/png;base64,{"".join(data["image/png"].split())}">'
    if "text/markdown" in data:
        return "".join(data["text/markdown"])
    text = "".join(output.get("text") or data.get("text/plain") or [])
    return f"````text\n{text.rstrip()}\n````" if text.strip() else ""
