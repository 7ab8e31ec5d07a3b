"""
The initial head of a study, kept beside its journal.

`from_pretrained(..., ignore_mismatched_sizes=True)` draws a new random head at every load, so a script that is run
again has another one. All candidates of a study start from the same head: the first run's. Knows files and tensors.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, load_file, save, save_file
from torch import nn
from transformers.utils import logging

from ..blocks import find_head
from ..errors import JournalError, StudyMismatchError
from .fingerprint import fingerprint_tensors

logger = logging.get_logger(__name__)

FILE_NAME = "initial_head.safetensors"
_KEY = "fingerprint"


def head_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Tensors of a model's output layer by their full names; empty where it has none of its own."""
    return {
        f"{name}.{key}": tensor.detach()
        for name in find_head(model)
        for key, tensor in model.get_submodule(name).state_dict().items()
    }


def head_fingerprint(model: nn.Module) -> str:
    """Fingerprint of a model's output layer, `""` where it has none."""
    tensors = head_tensors(model)
    return fingerprint_tensors(tensors) if tensors else ""


def save_head(model: nn.Module, folder: Path) -> None:
    """
    Write the head beside the journal: all of it, or nothing.

    Raises: [`JournalError`]: If the disk does not take it.
    """
    tensors = {name: tensor.cpu().clone().contiguous() for name, tensor in head_tensors(model).items()}
    if not tensors:
        return
    path, scratch = folder / FILE_NAME, folder / f".{FILE_NAME}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, scratch, metadata={_KEY: fingerprint_tensors(tensors)})
        with open(scratch, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except (OSError, SafetensorError) as error:
        scratch.unlink(missing_ok=True)
        raise JournalError(
            f"The study's initial head cannot be written to '{path}': {error}. Free space or choose another "
            "`output_dir`; nothing was trained."
        ) from error


def settle_head(model: nn.Module, folder: Path, recorded: str) -> bool:
    """
    Make a model start from the head that a study was started with.

    Args:
        model (`torch.nn.Module`): The base model; its head is replaced where it differs.
        folder (`Path`): The journal's folder.
        recorded (`str`): Fingerprint of the head in the journal's header, for a folder whose file is lost.

    Returns: `bool`: whether the model's head was replaced.
    Raises: [`StudyMismatchError`]: If that head is lost or does not fit.
    """
    own = head_tensors(model)
    if not own:
        return False
    path = folder / FILE_NAME
    if not path.exists() and recorded == fingerprint_tensors(own):
        save_head(model, folder)
        return False
    stored = _read_head(path)
    unfit = sorted(stored.keys() ^ own.keys()) or [name for name in own if own[name].shape != stored[name].shape]
    if unfit:
        shapes = [tuple(found[unfit[0]].shape) if unfit[0] in found else "missing" for found in (stored, own)]
        raise StudyMismatchError(
            f"The head that the study in '{folder}' was started with does not fit the model: '{unfit[0]}' was "
            f"{shapes[0]} and is {shapes[1]}. Load the model with the number of labels it had then, or start a new "
            "study in another `output_dir`."
        )
    if fingerprint_tensors(stored) == fingerprint_tensors(own):
        return False
    _fill(own, stored)
    logger.warning(
        f"The model has another head than the one the study in '{folder}' was started with, as a newly drawn head has "
        "at every load. The study's head was put into the model, so that scores stay comparable and the final "
        "training starts where the candidates did. To use the new head, start a study in another `output_dir`."
    )
    return True


def share_head(model: nn.Module, team: Any, sender: int = 0) -> None:
    """
    Give all processes the head of one of them: each may have drawn another one.

    Args:
        model (`torch.nn.Module`): The base model; its head is replaced where it differs.
        team ([`Team`]): The processes; all must call.
        sender (`int`, *optional*, defaults to 0): The process whose head it is.
    """
    own = head_tensors(model)
    if len(set(team.gather(fingerprint_tensors(own) if own else ""))) == 1:
        return
    packed = save({name: tensor.cpu().clone().contiguous() for name, tensor in own.items()})
    sent = load(team.gather(packed if team.rank == sender else None)[sender])

    def fit() -> None:
        for name, tensor in own.items():
            if name not in sent or sent[name].shape != tensor.shape:
                raise StudyMismatchError(
                    f"All processes must load the same model, but the head of process {sender} does not fit that of "
                    f"process {team.rank} in '{name}'."
                )

    team.together(fit)
    _fill(own, sent)


def _fill(own: dict[str, torch.Tensor], content: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(content[name])


def _read_head(path: Path) -> dict[str, torch.Tensor]:
    try:
        tensors = load_file(path)
        with safe_open(path, framework="pt") as file:
            sound = (file.metadata() or {}).get(_KEY) == fingerprint_tensors(tensors)
        if not sound:
            raise ValueError("it was changed since it was written")
    except (OSError, ValueError, SafetensorError) as error:
        raise StudyMismatchError(
            f"The study was started with a head of its own, but '{path}' cannot be used: {error}. All candidates of a "
            "study start from one head: restore the file, or start a new study in another `output_dir`."
        ) from error
    return tensors
