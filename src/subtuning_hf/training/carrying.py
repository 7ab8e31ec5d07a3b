"""
The way of row numbers through a Trainer: with the batch out of its data loaders, around its steps, into its model.

Also says what a user's subclass of Trainer does in another way, since that may read or change batches. Knows Trainers;
does not know what the numbers are for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree
from transformers import Trainer, TrainerCallback

from ..prefix import ROWS
from .rows import NumberedRows, NumberingCollator

_OURS = __name__.partition(".")[0]
# Where a Trainer hands on a batch, and arguments of a model that change nothing before its head.
_STEPS = ("training_step", "prediction_step")
_HARMLESS = ("num_items_in_batch", "return_dict", "return_loss")
# Where a Trainer makes batches or loops over them, and what it may do in its own way without reading any.
LOOPS = {
    "get_train_dataloader", "get_eval_dataloader", "get_test_dataloader", "_get_dataloader", "get_batch_samples",
    "evaluation_loop", "_inner_training_loop", "_run_epoch",
}  # fmt: skip
BLIND = {"create_optimizer", "create_scheduler", "create_optimizer_and_scheduler", "get_decay_parameter_names", "log"}


def overridden(kind: type[Trainer]) -> set[str]:
    """`set[str]`: what a user's subclass does in another way than Trainer."""
    above = kind.__mro__[: kind.__mro__.index(Trainer)]
    theirs = {name for one in above if not one.__module__.startswith(_OURS) for name in vars(one)}
    return {name for name in theirs if hasattr(Trainer, name) and not name.startswith("__")}


class _EpochOfRows(TrainerCallback):
    def on_epoch_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any) -> None:
        rows = getattr(train_dataloader, "dataset", None)
        if isinstance(rows, NumberedRows):
            rows.set_epoch(int(state.epoch or 0))


@contextmanager
def showing_epochs(trainer: Trainer) -> Iterator[None]:
    """
    Let rows show the views of the epoch that begins.

    Accelerate's data loader tells the sampler of an epoch, and its rows only where no sampler wants to know: in 1.5
    never, in 1.15 not with several processes.

    Args:
        trainer ([`~transformers.Trainer`]): Whose training is still to begin.
    """
    callback = _EpochOfRows()
    trainer.callback_handler.add_callback(callback)
    try:
        yield
    finally:
        trainer.remove_callback(callback)


@contextmanager
def carry_numbers(trainer: Trainer, model: nn.Module, plain: bool) -> Iterator[None]:
    """
    Let a trainer's model get the numbers of the rows of its batches.

    They go around what the Trainer does in a step, in which a subclass may hand the batch to other models as well.
    Where it changes the batch on the way to the model, as Mixup does, the model gets none: nothing is stored for such
    rows.

    Args:
        trainer ([`~transformers.Trainer`]): Whose data loaders are still to be made.
        model (`torch.nn.Module`): Its model, which must be ready to take the numbers out.
        plain (`bool`): Whether nobody but the model reads its batches; the numbers then stay in them.
    """
    collator = trainer.data_collator
    trainer.data_collator = NumberingCollator(collator)
    # Columns that the model's forward does not name are removed on the way to the collator.
    trainer._set_signature_columns_if_needed()
    if trainer._signature_columns is not None and ROWS not in trainer._signature_columns:
        trainer._signature_columns.append(ROWS)
    steps, batch = () if plain else _STEPS, _Batch()
    for name in steps:
        setattr(trainer, name, batch.taking_numbers(getattr(trainer, name)))
    hook = model.register_forward_pre_hook(batch.give_numbers, prepend=True, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
        for name in steps:
            delattr(trainer, name)
        trainer.data_collator, trainer._signature_columns = collator, None


class _Batch:
    """The batch of a step: the numbers of its rows, and what was in it when the step began."""

    def __init__(self) -> None:
        self.rows: Any = None
        self.values: dict[str, list[tuple[Any, int]]] = {}

    def taking_numbers(self, step: Callable) -> Callable:
        def taking(model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            self.rows = inputs.pop(ROWS, None) if isinstance(inputs, MutableMapping) else None
            self.values = {} if self.rows is None else {name: _leaves(v) for name, v in inputs.items()}
            try:
                return step(model, inputs, *args, **kwargs)
            finally:
                self.rows, self.values = None, {}

        return taking

    def give_numbers(self, _model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict] | None:
        if self.rows is None or args or not all(self._as_collated(name, value) for name, value in kwargs.items()):
            return None
        return args, {**kwargs, ROWS: self.rows}

    def _as_collated(self, name: str, value: Any) -> bool:
        if value is None or name in _HARMLESS:
            return True
        was = self.values.get(name, [])
        now = _leaves(value)
        return len(was) == len(now) and all(a is b and n == m for (a, n), (b, m) in zip(was, now, strict=True))


def _leaves(value: Any) -> list[tuple[Any, int]]:
    """What nested containers hold, and how often it was written to."""
    return [
        (leaf, leaf._version if isinstance(leaf, torch.Tensor) and not leaf.is_inference() else 0)
        for leaf in pytree.tree_leaves(value)
    ]
