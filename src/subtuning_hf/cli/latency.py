"""`subtuning latency STUDY_OR_BASE`: what tuning each block adds to the latency of serving many tasks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentsError, ModelNotFoundError, how_to_install
from .plot import cannot_write, check_folder

if TYPE_CHECKING:
    from torch import nn

DESCRIPTION = """\
Measure what tuning each block adds to the latency of answering several tasks on one trunk: blocks
ahead of the first tuned one run once for all tasks, those behind it on the rows of every task.

STUDY_OR_BASE is the output_dir of a search; or a name on the Hub, a local folder, the path of a
config.json, or timm/<architecture>. No weights are read: random ones take the same time. Measure on
the machine that will serve. A search that is given latency.json can take it into account:

  subtuning latency microsoft/resnet-50 --tasks 4 --batch 1,8
  subtuning latency out/flowers --tasks 8 --batch 1 --device cuda
  subtuning search --config RECIPE latency_profile=latency.json max_added_latency=0.5 serving_aware=true
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `subtuning latency`."""
    parser.add_argument("model", metavar="STUDY_OR_BASE", help="output_dir of a search, or the base model")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument("--auto-class", metavar="CLASS", help="build it with this AutoModel class of transformers")
    parser.add_argument("--tasks", type=int, default=4, metavar="N", help="tasks that are answered together (4)")
    parser.add_argument("--batch", type=_sizes, default=[1, 8, 64], metavar="B,B", help="rows of a batch (1,8,64)")
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help="side of images, by default the model's own")
    parser.add_argument("--length", type=int, metavar="N", help="tokens of a text (128), or samples of a sound (16000)")
    parser.add_argument("--repeats", type=int, default=10, metavar="N", help="how often everything is run (10)")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="for each size of the batch (60)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads, by default as torch has it")
    parser.add_argument("--device", default="cpu", metavar="DEVICE", help="cpu (the default), cuda, mps ...")
    parser.add_argument("--output-dir", metavar="DIR", help="by default the study's folder, else the current one")


def run(options: argparse.Namespace) -> int:
    """Measure, print the table, write latency.json and the picture."""
    import torch
    from transformers import set_seed

    from ..multitask.latency import measure_latency

    folder = Path(options.output_dir or (options.model if _journals(options.model) else "."))
    check_folder(folder)  # measuring takes minutes
    set_seed(0)
    model = model_of(options)
    inputs = inputs_for(model, options.image_size, options.length)
    before = torch.get_num_threads()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    try:
        profile = measure_latency(
            model.to(_device(options.device)),
            inputs,
            options.tasks,
            options.repeats,
            batches=options.batch,
            seconds=options.seconds,
            name=type(model).__name__ if Path(options.model).exists() else options.model,
        )
    finally:
        torch.set_num_threads(before)
    print(profile.table())
    try:
        files = [profile.save(folder / "latency.json"), *_draw(profile, folder)]
    except OSError as error:
        raise cannot_write(folder, error) from error
    print(f"\nin {folder}: {', '.join(file.name for file in files)}")
    return 0


def _draw(profile: Any, folder: Path) -> list[Path]:
    try:
        from ..plots import plot_latency, save_figure
    except ImportError:
        print(f"\nnot drawn: it needs matplotlib ({how_to_install('plots')})")
        return []
    return save_figure(plot_latency(profile), folder / "latency")


def _sizes(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdigit() and int(word) for word in words) or len(set(words)) < len(words):
        raise argparse.ArgumentTypeError(f"expected different numbers of rows such as 1,8,64, found '{text}'")
    return [int(word) for word in words]


def _device(name: str) -> Any:
    import torch

    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ArgumentsError(f"--device must be one that this machine has, found '{name}': {reason}") from error
    return device


# --- the model -------------------------------------------------------------------------------
def model_of(options: argparse.Namespace) -> nn.Module:
    """
    The model that is named, or that of the study, with random weights.

    Raises: [`ModelNotFoundError`]: If there is none.
    """
    from .models import model_structure

    journals = _journals(options.model)
    if not journals:
        return model_structure(options.model, options.revision, options.auto_class, random_weights=True)
    from ..search.journal import read_study

    return _model_of_study(read_study(journals[0]).spec.settings.get("model", {}), options.model)


def _journals(model: str) -> list[Path]:
    folder = Path(model)
    return [place for place in (folder / "journal", folder) if place.is_dir() and any(place.glob("*.jsonl"))]


def _model_of_study(identity: dict[str, Any], study: str) -> nn.Module:
    """A model as the journal describes it: its class and its config."""
    import transformers
    from transformers import AutoConfig

    kind, config = str(identity.get("class", "")).rpartition(".")[2], dict(identity.get("config") or {})
    cls: Any = getattr(transformers, kind, None)
    if cls is None or "model_type" not in config:
        raise ModelNotFoundError(
            f"The journal in '{study}' does not say how its model is built (class {kind or 'not known'}). Name the "
            "base model itself: `subtuning latency BASE`."
        )
    return cls(AutoConfig.for_model(**config))


# --- what it is fed --------------------------------------------------------------------------
def inputs_for(model: nn.Module, image_size: int | None = None, length: int | None = None) -> dict[str, Any]:
    """
    One row of random inputs.

    Args:
        model (`torch.nn.Module`): Of images, texts or sounds.
        image_size (`int`, *optional*): Side of images, by default the model's own.
        length (`int`, *optional*): Tokens of a text, or samples of a sound.

    Returns: `dict[str, torch.Tensor]`
    Raises: [`ArgumentsError`]: If the model takes something else.
    """
    import torch

    config: Any = getattr(model, "config", None)
    main = str(getattr(model, "main_input_name", "x"))
    if main in ("pixel_values", "x"):
        channels, side = _image(model, config)
        side = image_size or side
        return {main: torch.randn(1, channels, side, side)}
    if main == "input_ids":
        count = length or min(128, getattr(config, "max_position_embeddings", None) or 128)
        ids = torch.randint(5, max(config.vocab_size, 6), (1, count))
        if config.is_encoder_decoder and config.eos_token_id is not None:
            ids[ids == config.eos_token_id] = 4
            ids[:, -1] = config.eos_token_id
        found = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        writes = config.is_encoder_decoder and hasattr(model, "lm_head")
        return {**found, "decoder_input_ids": ids} if writes else found
    if main == "input_values":
        return {main: torch.randn(1, length or 16000)}
    raise ArgumentsError(
        f"`subtuning latency` makes inputs of images, texts and sounds, but {type(model).__name__} takes '{main}'. "
        "Call `subtuning_hf.multitask.latency.measure_latency(model, inputs)` with inputs of your own."
    )


def _image(model: Any, config: Any) -> tuple[int, int]:
    """Channels and side of the images that a model was made for, or 3 and 224."""
    size: Any = getattr(config, "image_size", None)
    timm: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
    shape = timm.get("input_size", (3, 224, 224))
    size = size[0] if isinstance(size, list | tuple) else size
    return getattr(config, "num_channels", None) or shape[0], size or shape[-1]
