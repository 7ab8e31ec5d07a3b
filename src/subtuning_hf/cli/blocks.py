"""`subtuning blocks MODEL`: the blocks of a model, or its stages or the parts of its blocks, as a table."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any

DESCRIPTION = """\
List the blocks of a model in forward order: index, name, parameters and their share.

MODEL is a name on the Hub, a local folder, the path of a config.json, or timm/<architecture>.
No weights are read. Use the indices, names or patterns such as '*.stages.3.*' as `blocks=`.

  subtuning blocks microsoft/resnet-50
  subtuning blocks timm/vit_base_patch16_224
  subtuning blocks timm/vit_base_patch16_224 --granularity submodule
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
    parser.add_argument(
        "--granularity",
        metavar="UNIT",
        default="block",
        help="what to list: stage (runs of blocks), block (the default), or submodule (attention, MLP, convolutions "
        "and norms of each block)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> int:
    """Print the table, or the JSON."""
    from .models import model_structure

    model = model_structure(options.model, options.revision, options.auto_class)
    found = describe(model, options.granularity)
    found["model"] = options.model
    print(json.dumps(found, indent=2) if options.json else table(found, colour=sys.stdout.isatty()))
    return 0


def describe(model: Any, granularity: str = "block") -> dict[str, Any]:
    """
    Blocks, stem and head of a model with their numbers of parameters.

    Args:
        model (`torch.nn.Module`): Any model; its weights are not read.
        granularity (`str`, *optional*, defaults to `"block"`): As for [`find_blocks`]; what stands in a block beside
            its parts counts with the stem.

    Returns: `dict`: JSON with `class`, `granularity`, `num_parameters`, `stem`, `blocks` and `head`.
    Raises: [`ArgumentsError`], [`NoBlocksFoundError`]: As [`find_blocks`] does.
    """
    from ..blocks import find_blocks, find_head, partition

    blocks = find_blocks(model, granularity)
    parts = partition(model, blocks)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return {
        "class": type(model).__name__,
        "granularity": granularity,
        "num_parameters": sum(sizes.values()),
        "stem": {"num_parameters": sum(sizes[name] for name in parts.stem)},
        "blocks": [asdict(block) for block in blocks],
        "head": {"names": find_head(model), "num_parameters": sum(sizes[name] for name in parts.head)},
    }


def table(found: dict[str, Any], colour: bool = False) -> str:
    """The same for people: one line per block between the stem and the head; its kind where there are several."""
    total, unit = found["num_parameters"] or 1, found["granularity"]
    rows = [("", "stem and the rest", "", found["stem"]["num_parameters"])]
    rows += [(str(b["index"]), b["name"], b["kind"], b["num_parameters"]) for b in found["blocks"]]
    rows += [("", f"head: {', '.join(found['head']['names']) or 'none found'}", "", found["head"]["num_parameters"])]
    wide = max(len(name) for _, name, _, _ in rows)
    kinds = 0 if unit == "block" else max(len(kind) for _, _, kind, _ in rows) + 2
    count = max(len("parameters"), len(f"{total:,}"))
    dim, plain = ("\033[2m", "\033[0m") if colour else ("", "")
    title = f"{found.get('model', '')}  {found['class']}, {len(found['blocks'])} {unit}s, {total:,} parameters"
    head = f"{'index':>5}  {'name':<{wide}}  {'kind' if kinds else '':<{kinds}}{'parameters':>{count}}   share"
    lines = [title.strip(), "", head, "-" * len(head)]
    for index, name, kind, number in rows:
        share = f"{100 * number / total:5.1f} %"
        line = f"{index:>5}  {name:<{wide}}  {kind if kinds else '':<{kinds}}{number:>{count},}  {share}"
        lines.append(line if index else f"{dim}{line}{plain}")
    return "\n".join(lines)
