"""
What the trainer's constructor refuses or warns about, before anything else happens.

Knows arguments and classes; data is checked in `data.py`, what needs rows or folds in `preflight.py`.
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any

from peft import PeftMixedModel, PeftModel
from torch import nn
from transformers import Trainer

from ..errors import ArgumentsError
from .arguments import GreedySubTuningArguments


def check_model(model: Any, model_init: Any) -> None:
    """
    Refuse what cannot be the one base of a search.

    Raises: [`ArgumentsError`]
    """
    if model_init is not None:
        raise ArgumentsError(
            "`model_init` makes a new model for each training, but a search compares candidates on one base model. "
            "Pass `model=` instead."
        )
    if isinstance(model, PeftModel | PeftMixedModel):
        raise ArgumentsError(
            f"`model` is a {type(model).__name__}: the search puts an adapter of its own into the base for each "
            "candidate, and an adapter already there would be part of every score. Pass the plain model "
            "(`model.unload()`, or `merge_and_unload()` to keep what the adapter learned)."
        )
    if not isinstance(model, nn.Module):
        found = "none" if model is None else type(model).__name__
        raise ArgumentsError(f"`model` must be a torch.nn.Module with a head for the task, found {found}.")
    if getattr(model, "is_quantized", False) and _has_four_bits_on_cpu(model):
        raise ArgumentsError(
            "`model` has 4-bit layers of bitsandbytes on a CPU: frozen ones are packed for inference there (0.50), and "
            "gradients through them are wrong, which nothing says. Load it in 8 bit or in floating point, or use a GPU."
        )
    check_plain(model)


def check_plain(model: Any) -> None:
    """
    Refuse a base that holds adapters, which may have come after the trainer was made.

    Raises: [`ArgumentsError`]
    """
    if getattr(model, "_hf_peft_config_loaded", False) or hasattr(model, "peft_config"):
        raise ArgumentsError(
            "`model` holds adapters (of add_adapter, load_adapter, get_peft_model or another trainer's train()), which "
            "would be part of every score. Take them out first: delete_adapter(), or unload() of the PeftModel, which "
            "is `trainer.model` of the trainer that trained it; merge_and_unload() keeps what was learned."
        )


def _has_four_bits_on_cpu(model: nn.Module) -> bool:
    layers: list[Any] = [one for one in model.modules() if type(one).__name__ == "Linear4bit"]
    return any(layer.weight.device.type == "cpu" for layer in layers)


def check_arguments(args: Any, optimizers: Any, trainer_cls: Any, searching_cls: type) -> None:
    """
    Refuse arguments of another kind or without effect here, a ready optimiser, and a `trainer_cls` that is none or
    searches itself.

    Raises: [`ArgumentsError`]
    """
    if not isinstance(args, GreedySubTuningArguments):
        found = "none" if args is None else type(args).__name__
        raise ArgumentsError(
            f"`args` must be GreedySubTuningArguments, found {found}. They take every field of TrainingArguments: "
            "GreedySubTuningArguments(output_dir=..., learning_rate=..., num_folds=5)."
        )
    if args.fp16 and args.device.type == "cpu":
        raise ArgumentsError(
            "`fp16=True` does nothing on a CPU: Trainer would compute in full precision and not say so. Use "
            "`bf16=True`, or leave it out."
        )
    if args.fsdp and args.device.type == "cpu":
        raise ArgumentsError(
            "`fsdp` does nothing on a CPU: Trainer would train with DDP, the whole model in each process, and not say "
            "so. Leave it out."
        )
    if optimizers is not None and any(one is not None for one in optimizers):
        raise ArgumentsError(
            "`optimizers` is a ready pair, bound to parameters that no candidate trains. Pass "
            "`optimizer_cls_and_kwargs=(torch.optim.AdamW, {'lr': ...})`, from which each training makes its own."
        )
    if not isinstance(trainer_cls, type) or not issubclass(trainer_cls, Trainer):
        raise ArgumentsError(f"`trainer_cls` must be a subclass of transformers.Trainer, found {trainer_cls!r}.")
    if issubclass(trainer_cls, searching_cls):
        raise ArgumentsError(
            f"`trainer_cls` is {trainer_cls.__name__}, which searches itself: a candidate is trained by a plain "
            "Trainer. Let it derive from transformers.Trainer."
        )


def check_callables(**functions: Any) -> None:
    """
    Refuse anything but functions, or `None`.

    Raises: [`ArgumentsError`]
    """
    for name, function in functions.items():
        if function is not None and not callable(function):
            raise ArgumentsError(f"`{name}` must be a function, found {type(function).__name__}.")


def warn_of_overrides(cls: type, searching_cls: type, trainer_cls: type[Trainer]) -> None:
    """Warn of methods that a subclass changes for the final training alone, since candidates never see it."""
    own = cls.__mro__[: cls.__mro__.index(searching_cls)]
    harmless = {"train", "predict", "log", "save_model", "push_to_hub", "create_model_card", "hyperparameter_search"}
    changed = {
        name
        for parent in own
        for name, member in vars(parent).items()
        if inspect.isfunction(member) and hasattr(Trainer, name) and not name.startswith("__") and name not in harmless
    }
    if changed:
        warnings.warn(
            f"{cls.__name__} overrides {', '.join(sorted(changed))} of Trainer, which candidates will not see: they "
            f"are trained by {trainer_cls.__name__}. Put the methods into a subclass of transformers.Trainer and pass "
            "it as `trainer_cls`; it is then used for candidates and for the final training.",
            UserWarning,
            stacklevel=4,
        )


def check_steering(args: GreedySubTuningArguments, early_stopping: bool) -> None:
    """
    Refuse early stopping with nothing to steer it; Trainer would only notice inside the first training.

    Raises: [`ArgumentsError`]
    """
    if not early_stopping:
        return
    missing = [] if args.eval_strategy != "no" else ["`eval_strategy` (such as 'epoch')"]
    if args.metric_for_best_model is None:
        missing.append("`metric_for_best_model` (such as 'loss')")
    if missing:
        raise ArgumentsError(
            f"EarlyStoppingCallback stops by a metric that is evaluated as training goes, and needs "
            f"{' and '.join(missing)}. Set that, or leave the callback out."
        )
