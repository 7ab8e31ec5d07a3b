"""`subtuning blocks MODEL`: the blocks of a model as a table."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

DESCRIPTION = """\
List the blocks of a model in forward order: index, name, parameters and their share.

MODEL is a name on the Hub, a local folder, the path of a config.json, or timm/<architecture>.
No weights are read. Use the indices, names or patterns such as '*.stages.3.*' as `blocks=`.

  subtuning blocks microsoft/resnet-50
  subtuning blocks timm/vit_base_patch16_224
  subtuning blocks ./my-model --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `subtuning blocks`."""
    parser.add_argument("model", metavar="MODEL", help="Hub name, folder, config.json or timm/<architecture>")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument(
        "--auto-class",
        metavar="CLASS",
        help="build it with this class, such as AutoModelForSequenceClassification, as names of blocks depend on it",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Print the table, or the JSON."""
    from .models import model_structure

    model = model_structure(options.model, options.revision, options.auto_class)
    found = describe(model)
    found["model"] = options.model
    print(json.dumps(found, indent=2) if options.json else table(found, colour=sys.stdout.isatty()))
    return 0


def describe(model: Any) -> dict[str, Any]:
    """
    Blocks, stem and head of a model with their numbers of parameters.

    Args:
        model (`torch.nn.Module`): Any model; its weights are not read.

    Returns: `dict`: JSON with `class`, `num_parameters`, `stem`, `blocks` and `head`.
    """
    from ..blocks import find_blocks, find_head, partition

    blocks = find_blocks(model)
    parts = partition(model)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return {
        "class": type(model).__name__,
        "num_parameters": sum(sizes.values()),
        "stem": {"num_parameters": sum(sizes[name] for name in parts.stem)},
        "blocks": [{"index": b.index, "name": b.name, "num_parameters": b.num_parameters} for b in blocks],
        "head": {"names": find_head(model), "num_parameters": sum(sizes[name] for name in parts.head)},
    }


def table(found: dict[str, Any], colour: bool = False) -> str:
    """The same for people: one line per block between the stem and the head."""
    total = found["num_parameters"] or 1
    rows = [("", "stem and the rest", found["stem"]["num_parameters"])]
    rows += [(str(b["index"]), b["name"], b["num_parameters"]) for b in found["blocks"]]
    rows += [("", f"head: {', '.join(found['head']['names']) or 'none found'}", found["head"]["num_parameters"])]
    wide = max(len(name) for _, name, _ in rows)
    count = max(len("parameters"), len(f"{total:,}"))
    dim, plain = ("\033[2m", "\033[0m") if colour else ("", "")
    title = f"{found.get('model', '')}  {found['class']}, {len(found['blocks'])} blocks, {total:,} parameters"
    lines = [title.strip(), "", f"{'index':>5}  {'name':<{wide}}  {'parameters':>{count}}   share"]
    lines.append("-" * len(lines[-1]))
    for index, name, number in rows:
        line = f"{index:>5}  {name:<{wide}}  {number:>{count},}  {100 * number / total:5.1f} %"
        lines.append(line if index else f"{dim}{line}{plain}")
    return "\n".join(lines)
