"""Every example in README.md and docs/ is run, or at least read by the real parsers."""

import argparse
import glob
import importlib
import itertools
import linecache
import re

import pytest

from docs import pages, world
from subtuning_hf.cli.main import COMMANDS, build_parser, main
from subtuning_hf.cli.recipe import load_recipe
from subtuning_hf.errors import how_to_install

PAGES = pages.pages()
WITH_PYTHON = [page for page in PAGES if pages.python_examples(page)]
WITH_COMMANDS = [page for page in PAGES if any(pages.own_words(words) for _, words in pages.shell_lines(page))]
TOUR = "docs/index.md"
TEXTS = {".py", ".md", ".txt", ".ipynb", ".yaml"}
# What stands for the names that a page takes from elsewhere; by default they are those of the quick tour.
GIVEN = {"README.md": world.readme, TOUR: dict, "docs/howto/own_data.md": dict, "docs/howto/own_model.md": dict}
# Not run here, and where instead.
NOT_RUN = {"demo": "takes minutes; tests/cli/test_demo.py"}


def run_page(page):
    """Run the Python examples of a page one after another, and give what they define."""
    given = GIVEN.get(page, world.toured)
    namespace = {"__name__": "examples", **given()}
    for each in pages.python_examples(page):
        if page == "README.md":  # whose examples stand by themselves, and say `model` and `base` of different ones
            namespace.update(given())
        # Lines where they are in the page, and where `inspect` finds them.
        source = "\n" * (each.line - 1) + each.text
        name = f"<{page}:{each.line}>"
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        exec(compile(source, name, "exec"), namespace)
    return namespace


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_PYTHON)
def test_python_examples_run(page, reader):
    found = run_page(page)
    if page == TOUR:
        assert world.toured().keys() <= found.keys(), "pages go on from the quick tour with names that it does not have"
        assert (reader / "adapter/README.md").is_file()


def test_pages_that_go_on_from_the_quick_tour_say_so():
    for page in WITH_PYTHON:
        if page not in GIVEN and page.startswith("docs/howto/"):
            taken = [name for name in ("train", "to_inputs", "accuracy")
                     if any(f"={name}" in each.text for each in pages.python_examples(page))]  # fmt: skip
            text = (pages.ROOT / page).read_text("utf-8")
            assert not taken or "go on from the [quick tour]" in text, page


def test_nobody_is_sent_to_a_registry():
    """There is no such package on one: the commands are those of a checkout."""
    folders = ("src", "recipes", "docs", "tests/hub/assets")
    files = [path for folder in folders for path in (pages.ROOT / folder).rglob("*") if path.suffix in TEXTS]
    assert len(files) > 250
    for path in (*files, *pages.ROOT.glob("*.md")):
        assert not re.search(r"pip install (--?\w+ )*'?subtuning-hf", path.read_text("utf-8")), path
    assert how_to_install("plots") == "`pip install '.[plots]'` in a checkout of subtuning-hf"


def test_there_are_examples():
    assert TOUR in WITH_PYTHON and "README.md" in WITH_PYTHON and "docs/cli.md" in WITH_COMMANDS
    assert len(WITH_PYTHON) >= 9 and len(WITH_COMMANDS) >= 8


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_commands_are_read_by_the_real_parsers(page, tmp_path, monkeypatch):
    world.furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    for line, words in pages.shell_lines(page):
        for option, value in itertools.pairwise(words):
            if option == "--config_file":
                assert (pages.ROOT / value).is_file(), f"{page}:{line}: there is no {value}"
        own = pages.own_words(words)
        if own is not None:
            try:
                read(own)
            except SystemExit as end:
                assert not end.code, f"{page}:{line}: {' '.join(words)}"


def read(words):
    """Read a command as `main` does, and the recipe it names with its overrides."""
    chosen = build_parser().parse_args(words)
    module = importlib.import_module(COMMANDS[chosen.command][0])
    parser = argparse.ArgumentParser(prog=f"subtuning {chosen.command}")
    module.add_arguments(parser)
    options = parser.parse_intermixed_args(chosen.rest)
    if getattr(options, "config", None):
        load_recipe(placed(options.config), getattr(options, "overrides", []))


def placed(word):
    """The recipe that stands for `RECIPE`."""
    return "recipe.yaml" if word == "RECIPE" else word


def test_a_wrong_command_would_be_noticed(tmp_path, monkeypatch, capsys):
    from subtuning_hf.errors import RecipeError

    world.furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        read(["blocks", "some-model", "--no-such-option"])
    with pytest.raises(RecipeError, match="nothing_knows"):
        read(["search", "--config", "RECIPE", "data.nothing_knows=1"])


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_commands_run(page, reader, capsys):
    for line, words in pages.shell_lines(page):
        if words[0] != "subtuning" or words[1] in NOT_RUN:
            continue
        given = [path for word in words[1:] for path in (sorted(glob.glob(word)) or [placed(word)])]
        try:
            code = main(given)
        except SystemExit as end:
            code = end.code
        assert not code, f"{page}:{line}: {' '.join(words)}\n{capsys.readouterr().err}"
