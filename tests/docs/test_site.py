"""The site is built without a warning, and what is generated for it is complete."""

import ast
import importlib
import re
import subprocess
import sys

import pytest

import subtuning_hf
from docs import pages

HOOKS = pages.ROOT / "docs/hooks"


@pytest.fixture
def docstrings(monkeypatch):
    pytest.importorskip("griffe")
    monkeypatch.syspath_prepend(str(HOOKS))
    return importlib.import_module("docstrings")


def listed_modules():
    """`MODULES` of the hook, read and not imported: it needs griffe."""
    tree = ast.parse((HOOKS / "docstrings.py").read_text("utf-8"))
    (value,) = [node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "MODULES"]
    return list(ast.literal_eval(value))


def test_the_api_pages_have_a_section_for_each_listed_module():
    text = "".join((pages.ROOT / f"docs/api/{name}.md").read_text("utf-8") for name in ("index", "search", "parts"))
    assert re.findall(r"<!-- api: ([\w.]+) -->", text) == listed_modules()
    assert re.findall(r"^## (subtuning_hf[\w.]*)$", text, re.MULTILINE) == listed_modules()


def test_public_names_are_those_that_modules_export(docstrings):
    for module in listed_modules():
        found = importlib.import_module(module)
        expected = getattr(found, "__all__", None)
        if expected is None:  # errors: all its classes
            expected = [name for name, value in vars(found).items() if isinstance(value, type)]
        assert docstrings.public_names(module) == [name for name in expected if not name.startswith("__")], module
    assert {name for name in subtuning_hf.__all__ if name != "__version__"} <= docstrings.documented().keys()


def test_a_function_is_not_taken_for_the_module_of_its_name(docstrings):
    assert docstrings.documented()["partition"] == "subtuning_hf.blocks.partition.partition"
    assert docstrings.documented()["find_head"] == "subtuning_hf.blocks.find_head"


def test_sections_become_markdown(docstrings):
    text = """First line of [`Known`] and [`Unknown`].

Args:
    name (`str`): What it is,
        over two lines.
    other (`int`, *optional*):
        - one
        - two
    last (`int`), kwargs: Others.

Returns: [`~lib.Known`], or text
    that goes on.
Raises: [`Known`]: If it is
    so.
Raises:
    [`Unknown`]: Always.
Source: a paper."""
    expected = """First line of [`Known`][package.Known] and `Unknown`.


**Args:**

- **`name`** (`str`): What it is,
    over two lines.
- **`other`** (`int`, *optional*):
    - one
    - two

- **`last`** (`int`), **`kwargs`**: Others.


**Returns:** [`Known`][package.Known], or text
    that goes on.

**Raises:** [`Known`][package.Known]: If it is
    so.

**Raises:**

- `Unknown`: Always.

**Source:** a paper."""
    assert docstrings.as_markdown(text, {"Known": "package.Known"}) == expected


def test_pages_are_in_the_menu_or_nowhere():
    import yaml

    config = yaml.safe_load((pages.ROOT / "mkdocs.yml").read_text("utf-8"))
    menu = re.findall(r"'([\w/]+\.md)'", repr(config["nav"]))
    written = {page.removeprefix("docs/") for page in pages.pages() if page != "README.md"}
    notebooks = {f"notebooks/{path.stem}.md" for path in (pages.ROOT / "notebooks").glob("*.ipynb")}
    assert set(menu) == written | notebooks
    assert len(menu) == len(set(menu))


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    for name in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(name)
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=pages.ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    api = (tmp_path / "site/api/index.html").read_text("utf-8")
    for name in subtuning_hf.__all__:
        assert name == "__version__" or f'id="subtuning_hf.{name}"' in api, name
    from subtuning_hf.cli.main import COMMANDS

    commands = (tmp_path / "site/cli/index.html").read_text("utf-8")
    assert all(f'id="{name}"' in commands for name in COMMANDS)
    assert "usage: subtuning search" in commands and "&lt;!--" not in api
