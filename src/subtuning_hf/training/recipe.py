"""
How one model is trained and scored: everything that is the same for all candidates.

Builds plain Trainers; knows neither folds nor candidates nor the journal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Protocol

from torch import nn
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback

from ..errors import ArgumentsError
from .arguments import GreedySubTuningArguments
from .data import view
from .optimizer import HeadLearningRateMixin

CallbackFactory = Callable[[], TrainerCallback]


class Rows(Protocol):
    """Where a training's data sets come from."""

    def training_rows(self, rows: Sequence[int]) -> Any: ...
    def inner_rows(self, rows: Sequence[int]) -> Any: ...
    def validation_rows(self, rows: Sequence[int]) -> Any: ...


@dataclass
class Recipe:
    """
    What it takes to train and score a model on given rows.

    Args:
        model (`torch.nn.Module`): The base model.
        args ([`GreedySubTuningArguments`]): The arguments.
        train_dataset: Where training rows are.
        validation_dataset (*optional*): Where validation rows are, if not among the training rows.
        train_transform (`Callable`, *optional*), eval_transform (`Callable`, *optional*):
            What rows go through when trained on, and when scored.
        trainer_cls (`type[Trainer]`): The Trainer that trains.
        trainer_kwargs (`dict[str, Any]`): Further arguments of its constructor: collator, metrics, losses ...
        callbacks (`tuple[Callable[[], TrainerCallback], ...]`): Classes or factories, called for each training.
        labels (`list`, *optional*), groups (`list`, *optional*): Class and group of each training row.
    """

    model: nn.Module
    args: GreedySubTuningArguments
    train_dataset: Any
    validation_dataset: Any = None
    train_transform: Callable | None = None
    eval_transform: Callable | None = None
    trainer_cls: type[Trainer] = Trainer
    trainer_kwargs: dict[str, Any] = field(default_factory=dict)
    callbacks: tuple[CallbackFactory, ...] = ()
    labels: list[Any] | None = None
    groups: list[Any] | None = None

    @property
    def needs_inner_split(self) -> bool:
        """`bool`: whether a training evaluates as it goes, and so needs rows that do not score it."""
        return self.args.evaluates_while_training or self.stops_early

    @property
    def stops_early(self) -> bool:
        """`bool`: whether one of the callbacks stops a training early."""
        return any(issubclass(kind, EarlyStoppingCallback) for kind in map(kind_of, self.callbacks))

    def without_callbacks(self) -> Recipe:
        """The same without the user's callbacks, for steps that are only timed."""
        return replace(self, callbacks=())

    def training_rows(self, rows: Sequence[int]) -> Any:
        """Rows to train on."""
        return view(self.train_dataset, rows, self.train_transform)

    def inner_rows(self, rows: Sequence[int]) -> Any:
        """Training rows that steer a training."""
        return view(self.train_dataset, rows, self.eval_transform)

    def validation_rows(self, rows: Sequence[int]) -> Any:
        """Rows that score."""
        source = self.train_dataset if self.validation_dataset is None else self.validation_dataset
        return view(source, rows, self.eval_transform)

    def trainer(self, model: nn.Module, args: GreedySubTuningArguments, train: Any, evaluation: Any = None) -> Trainer:
        """
        A Trainer with callbacks of its own.

        Args:
            model (`torch.nn.Module`): What is trained or scored.
            args ([`GreedySubTuningArguments`]): Arguments made for this training.
            train: Training rows, already a view.
            evaluation (*optional*): Rows that it evaluates on as it trains.

        Returns: [`~transformers.Trainer`]
        """
        kwargs = dict(self.trainer_kwargs)
        chosen = kwargs.get("optimizer_cls_and_kwargs")
        if chosen is not None:
            # Trainer takes entries out of this dict.
            kwargs["optimizer_cls_and_kwargs"] = (chosen[0], dict(chosen[1]))
        kind = candidate_class(self.trainer_cls)  # type: ignore[arg-type]
        with let_through(model):
            trainer = kind(
                model=model,
                args=args,
                train_dataset=train,
                eval_dataset=evaluation,
                callbacks=[make_callback(make) for make in self.callbacks] or None,
                **kwargs,
            )
        # Without its progress bar Trainer prints; a search has one bar for all.
        trainer.remove_callback(PrinterCallback)
        return trainer


@contextmanager
def let_through(model: nn.Module) -> Iterator[None]:
    """
    Let Trainer's constructor accept a quantised base, which it refuses unless adapters are attached.

    What is trained is the adapter, put in later. The flag is the one that Trainer asks for.
    """
    if not getattr(model, "is_quantized", False) or getattr(model, "_hf_peft_config_loaded", False):
        yield
        return
    had = "_hf_peft_config_loaded" in model.__dict__
    model._hf_peft_config_loaded = True  # type: ignore[assignment]
    try:
        yield
    finally:
        if had:
            model._hf_peft_config_loaded = False  # type: ignore[assignment]
        else:
            del model.__dict__["_hf_peft_config_loaded"]


class EveryRowMixin:
    """Makes a `Trainer` score every row: with `dataloader_drop_last` it would leave out a last, smaller batch."""

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        args: Any = self.args  # type: ignore[attr-defined]
        dropped, args.dataloader_drop_last = args.dataloader_drop_last, False
        try:
            return super().get_eval_dataloader(eval_dataset)  # type: ignore[misc]
        finally:
            args.dataloader_drop_last = dropped


@cache
def candidate_class(trainer_cls: type[Trainer]) -> type[Trainer]:
    """A Trainer class that honours `head_learning_rate`, scores every row, and is the given one in all else."""
    namespace = {"__module__": trainer_cls.__module__, "__qualname__": trainer_cls.__qualname__}
    return type(trainer_cls.__name__, (HeadLearningRateMixin, EveryRowMixin, trainer_cls), namespace)


def make_callback(make: CallbackFactory) -> TrainerCallback:
    """Call a class or factory; its error or its foreign product is refused with its name."""
    callback = make()
    if not isinstance(callback, TrainerCallback):
        raise ArgumentsError(
            f"`callbacks` must be TrainerCallback classes or functions that return one; {make!r} returned "
            f"{type(callback).__name__}."
        )
    return callback


def check_callbacks(callbacks: Any) -> tuple[CallbackFactory, ...]:
    """
    Refuse callback instances: their state would run from one candidate into the next.

    Raises: [`ArgumentsError`]
    """
    if callbacks is None:
        return ()
    if isinstance(callbacks, TrainerCallback) or not isinstance(callbacks, list | tuple):
        raise ArgumentsError(f"`callbacks` must be a list of callback classes or factories, found {callbacks!r}.")
    for callback in callbacks:
        if isinstance(callback, TrainerCallback):
            name = type(callback).__name__
            raise ArgumentsError(
                f"`callbacks` holds an instance of {name}: its state would run from one candidate's training into the "
                f"next. Pass the class, or a factory such as `lambda: {name}(...)`."
            )
        if not callable(callback):
            raise ArgumentsError(f"`callbacks` must hold classes or factories, found {callback!r}.")
    for make in callbacks:
        make_callback(make)
    return tuple(callbacks)


def kind_of(make: CallbackFactory) -> type:
    """The class of callbacks that a class or factory makes."""
    return make if isinstance(make, type) else type(make_callback(make))
