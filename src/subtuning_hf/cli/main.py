"""
Entry point of the command line: finds the command, loads it alone, turns errors into exit codes.

A command is a module with `DESCRIPTION`, `add_arguments(parser)` and `run(options)`. Knows no command's options.

Exit codes: 0 success, 2 wrong usage or an error of this package (one message, no traceback), 130 interrupted,
141 output closed by its reader. Any other error is a defect and shows its traceback.
"""

import argparse
import importlib
import logging
import os
import signal
import sys
import warnings
from collections.abc import Sequence

from .._version import __version__
from ..errors import SubTuningError

# Only here, so that `--help` need not load the commands.
COMMANDS = {
    "demo": ("subtuning_hf.cli.demo", "greedy SubTuning on real images in two to three minutes, no network needed"),
    "blocks": ("subtuning_hf.cli.blocks", "list the blocks of a model"),
    "profile": ("subtuning_hf.cli.profile", "what each block alone is worth, as a recipe says"),
    "search": ("subtuning_hf.cli.search", "choose blocks, train them and save the adapter, as a recipe says"),
    "train": ("subtuning_hf.cli.train", "train chosen blocks and save the adapter, as a recipe says"),
    "evaluate": ("subtuning_hf.cli.evaluate", "score a saved adapter on a recipe's test split"),
    "compare": ("subtuning_hf.cli.compare", "SubTuning beside other ways to fine-tune, as a recipe says"),
    "predict": ("subtuning_hf.cli.predict", "label images or texts with a saved adapter"),
    "latency": ("subtuning_hf.cli.latency", "what tuning each block adds to the latency of serving many tasks"),
    "plot": ("subtuning_hf.cli.plot", "draw what a study has found"),
    "report": ("subtuning_hf.cli.report", "one HTML page of all that a study has found"),
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of the first word; the command's own parser reads the rest."""
    width = max(len(name) for name in COMMANDS)
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="subtuning",
        usage="subtuning [-h] [--version] COMMAND ...",
        description="Choose the few blocks of a pretrained model that are worth fine-tuning, and train only those.",
        epilog="\n".join(["commands:", *lines, "", "`subtuning COMMAND --help` explains a command."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"subtuning-hf {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=list(COMMANDS), help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run one command.

    Args:
        argv (`Sequence[str]`, *optional*): Words after `subtuning`; by default the process's own.

    Returns: `int`: the exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    if not words:
        parser.print_help()
        return 0
    chosen = parser.parse_args(words)
    module = importlib.import_module(COMMANDS[chosen.command][0])
    command = argparse.ArgumentParser(
        prog=f"subtuning {chosen.command}",
        description=module.DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(command)
    # PEFT asks transformers by an old name; nobody who runs a command can do anything about it.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    # Nor about a kernel for 4 bits on a CPU, which bitsandbytes misses whenever PEFT is imported.
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_is_worth_saying)
    options = command.parse_intermixed_args(chosen.rest)  # overrides may stand before, between and after options
    try:
        code = module.run(options) or 0
        _leave_launch()
        return code
    except SubTuningError as error:
        print(f"\nsubtuning {chosen.command}: {type(error).__name__}: {error}", file=sys.stderr)
        for note in getattr(error, "__notes__", []):
            print(note, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        resumes = getattr(module, "RESUMES", "")
        print(f"\nsubtuning {chosen.command}: interrupted. {resumes}".rstrip(), file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # `subtuning blocks ... | head`: the reader has gone, and Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _is_worth_saying(record: logging.LogRecord) -> bool:
    return "gemm_4bit_forward" not in str(record.msg)


def _leave_launch() -> None:
    """End the process group of a launch: at exit its threads may still run, and torch then aborts the process."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
