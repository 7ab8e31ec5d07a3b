"""The entry point: exit codes, messages, and commands that exist."""

import importlib
import logging
import sys
import types

import pytest

from subtuning_hf.cli import main as cli
from subtuning_hf.errors import ArgumentsError


@pytest.fixture
def command(monkeypatch):
    """Install a command named `try` that does what the test says."""

    def install(run, **attributes):
        module = types.ModuleType("subtuning_cli_try")
        module.DESCRIPTION, module.run, module.add_arguments = "Try.", run, lambda parser: None
        for name, value in attributes.items():
            setattr(module, name, value)
        monkeypatch.setitem(sys.modules, "subtuning_cli_try", module)
        monkeypatch.setitem(cli.COMMANDS, "try", ("subtuning_cli_try", "try something"))

    return install


def raising(error):
    def run(options):
        raise error

    return run


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_listed_exists_and_explains_itself(name, capsys):
    module = importlib.import_module(cli.COMMANDS[name][0])
    assert callable(module.run) and module.DESCRIPTION.strip()
    with pytest.raises(SystemExit) as stop:
        cli.main([name, "--help"])
    assert stop.value.code == 0
    assert f"usage: subtuning {name}" in capsys.readouterr().out


def test_every_command_module_is_listed():
    from pathlib import Path

    modules = {path.stem for path in Path(cli.__file__).parent.glob("*.py") if "\ndef run(" in path.read_text()}
    assert modules == {place.rpartition(".")[2] for place, _ in cli.COMMANDS.values()}


def test_no_words_prints_help(capsys):
    assert cli.main([]) == 0
    output = capsys.readouterr().out
    assert all(name in output for name in cli.COMMANDS)


def test_unknown_command(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["serch"])
    assert stop.value.code == 2
    assert "invalid choice: 'serch'" in capsys.readouterr().err


def test_success(command):
    command(lambda options: None)
    assert cli.main(["try"]) == 0


def test_errors_of_the_package_are_one_message(command, capsys):
    error = ArgumentsError("expected this, found that")
    error.add_note("(in a recipe)")
    command(raising(error))
    assert cli.main(["try"]) == 2
    output = capsys.readouterr().err
    assert "subtuning try: ArgumentsError: expected this, found that\n(in a recipe)" in output
    assert "Traceback" not in output


def test_other_errors_keep_their_traceback(command):
    command(raising(ZeroDivisionError("a defect")))
    with pytest.raises(ZeroDivisionError):
        cli.main(["try"])


def test_interrupted(command, capsys):
    command(raising(KeyboardInterrupt()), RESUMES="The same command goes on.")
    assert cli.main(["try"]) == 130
    assert "interrupted. The same command goes on." in capsys.readouterr().err


@pytest.mark.parametrize("name", ["demo", "profile", "search", "train"])
def test_long_commands_say_that_they_resume(name):
    assert "same command" in importlib.import_module(cli.COMMANDS[name][0]).RESUMES


def test_missing_recipe_is_an_error_of_ours(tmp_path, capsys):
    assert cli.main(["search", "--config", str(tmp_path / "none.yaml")]) == 2
    assert "RecipeError: There is no recipe" in capsys.readouterr().err


def test_a_kernel_that_nobody_asked_for_is_not_told(command, caplog):
    def run(options):
        logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
        logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s.", "none")
        logger.warning("anything else")

    command(run)
    assert cli.main(["try"]) == 0
    assert caplog.messages == ["anything else"]
