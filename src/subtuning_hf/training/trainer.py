"""
`GreedySubTuningTrainer`: a Trainer that chooses the blocks it trains.

Ties recipe, study and Trainer together; how a candidate is trained, what is decided and what is written is in the
modules below it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import Trainer
from transformers.trainer_utils import TrainOutput

from ..search.result import SearchResult
from ..tuner import SubTuningConfig
from .arguments import GreedySubTuningArguments
from .cache import Cache, open_training_cache
from .checks import check_arguments, check_callables, check_model, check_plain, check_steering, warn_of_overrides
from .data import check_datasets, view
from .evaluator import seed_all
from .first_head import Head, check_first_head, fitted_head, put_head
from .guard import Snapshot, unaltered
from .optimizer import HeadLearningRateMixin
from .preflight import check_world, check_writable
from .prepare import Prepared
from .publishing import PublishingMixin
from .recipe import Recipe, check_callbacks, let_through, make_callback
from .searching import SearchMixin
from .team import Solo, Team


class GreedySubTuningTrainer(SearchMixin, PublishingMixin, HeadLearningRateMixin, Trainer):
    """
    Chooses the blocks of a model that are worth fine-tuning, then trains them.

    `search()` finds the blocks by cross-validation on the training set and never reads `eval_dataset`; `train()`
    trains them on the whole training set, after which `trainer.model` is the [`~peft.PeftModel`]. All else is
    [`~transformers.Trainer`]. The model given is not altered by a search.

    Under torchrun or `accelerate launch` each process trains candidates of its own, and the final training is the
    distributed one that the launch asks for. Every process makes the same calls.

    Args:
        model (`torch.nn.Module`): The base model, plain.
        args ([`GreedySubTuningArguments`]): Arguments of the search and of every training in it.
        train_dataset: Map-style data set with the training rows; the folds are cut from it.
        eval_dataset (*optional*): As in Trainer, for `train()` and `evaluate()`.
        processing_class (*optional*), data_collator (*optional*), compute_metrics (*optional*),
        compute_loss_func (*optional*), preprocess_logits_for_metrics (*optional*): As in Trainer, used for every
            candidate and for the final training.
        callbacks (`list`, *optional*):
            Callback classes, or functions without arguments that return a callback: each training gets its own.
        optimizer_cls_and_kwargs (`tuple`, *optional*): Class of the optimiser and its arguments.
        train_transform (`Callable`, *optional*), eval_transform (`Callable`, *optional*):
            What rows go through when trained on, and when scored (validation folds, `evaluate`, `predict`). For a
            `datasets.Dataset` a function of a batch as in `Dataset.set_transform`, else a function of one item.
        validation_dataset (*optional*):
            Rows of your own to choose blocks by, in place of folds: candidates train on all of `train_dataset`.
        trainer_cls (`type[Trainer]`, *optional*):
            Your own Trainer subclass, with its `compute_loss` for instance: used for every candidate and for the final
            training.

    Attributes: `result` ([`SearchResult`], after `search()`), `base_model` (the model given).
    Raises: [`ArgumentsError`], [`DataError`], [`JournalError`]: Before anything is trained or written.
    Source: SubTuning, arXiv 2302.06354, Algorithm 1; differs in folds, stop rule and ties (see `search.greedy`).
    """

    args: GreedySubTuningArguments

    def __new__(cls, *args: Any, trainer_cls: Any = None, **kwargs: Any) -> GreedySubTuningTrainer:
        # The final training must go through the user's Trainer too: it becomes a parent of this object's class.
        if isinstance(trainer_cls, type) and issubclass(trainer_cls, Trainer) and not issubclass(cls, trainer_cls):
            cls = _with_parent(cls, trainer_cls)  # type: ignore[arg-type]
        return object.__new__(cls)

    def __init__(
        self,
        model: nn.Module | None = None,
        args: GreedySubTuningArguments | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Any = None,
        compute_loss_func: Callable | None = None,
        compute_metrics: Callable | None = None,
        callbacks: Sequence[Any] | None = None,
        optimizers: Any = (None, None),
        optimizer_cls_and_kwargs: Any = None,
        preprocess_logits_for_metrics: Callable | None = None,
        *,
        train_transform: Callable | None = None,
        eval_transform: Callable | None = None,
        validation_dataset: Any = None,
        trainer_cls: type[Trainer] = Trainer,
    ) -> None:
        check_model(model, model_init)
        assert model is not None
        check_arguments(args, optimizers, trainer_cls, GreedySubTuningTrainer)
        assert args is not None
        factories = check_callbacks(callbacks)
        check_datasets(train_dataset, eval_dataset, validation_dataset)
        check_world(args)
        check_writable(args.folder)
        warn_of_overrides(type(self), GreedySubTuningTrainer, trainer_cls)
        check_callables(train_transform=train_transform, eval_transform=eval_transform)
        self.base_model = model
        self.result: SearchResult | None = None
        shared = {
            "data_collator": data_collator,
            "processing_class": processing_class,
            "compute_loss_func": compute_loss_func,
            "compute_metrics": compute_metrics,
            "optimizer_cls_and_kwargs": optimizer_cls_and_kwargs,
            "preprocess_logits_for_metrics": preprocess_logits_for_metrics,
        }
        self._recipe = Recipe(
            model=model,
            args=args,
            train_dataset=train_dataset,
            validation_dataset=validation_dataset,
            train_transform=train_transform,
            eval_transform=eval_transform,
            trainer_cls=trainer_cls,
            trainer_kwargs={name: value for name, value in shared.items() if value is not None},
            callbacks=factories,
        )
        check_steering(args, self._recipe.stops_early)
        self._prepared: Prepared | None = None
        self._untouched: Snapshot | None = None
        self._team: Solo | Team | None = None
        self._stored_rows: Any = None
        self._measured = []
        self._card_words = {}
        self._own_callbacks = [make_callback(make) for make in factories]
        with let_through(model):
            super().__init__(
                model=model,
                args=args,
                train_dataset=train_dataset,
                eval_dataset=eval_dataset,
                callbacks=list(self._own_callbacks) or None,
                **self._recipe.trainer_kwargs,  # only what is given: not every Trainer subclass takes all
            )
        self._take_stock()

    # --- the final training -----------------------------------------------------------------
    def train(  # type: ignore[override]
        self,
        resume_from_checkpoint: str | bool | None = None,
        blocks: Sequence[str | int] | None = None,
        **kwargs: Any,
    ) -> TrainOutput:
        """
        Train the chosen blocks and the head on the whole training set.

        Starts from the base model at every call. Afterwards `model` is the [`~peft.PeftModel`].

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): As in Trainer; the search is taken from the journal.
            blocks (`Sequence[str | int]`, *optional*):
                Names, indices or patterns of the blocks to train, without any search; `[]` trains the head alone. By
                default what `search()` chose, which is run first where it has not been.
            kwargs: As in Trainer.

        Returns: [`~transformers.trainer_utils.TrainOutput`]
        """
        self._follow()
        if blocks is not None:
            chosen = self._resolve(blocks)
        else:
            chosen = list(self._chosen())
        with self._threads():
            self._unwrap()
            check_plain(self.base_model)
            stored = open_training_cache(self._recipe, chosen, type(self))
            head = self._first_head() if self.args.init_head == "fit" else None
            self._wrap(chosen)
            if head is not None:
                put_head(self.model, head)  # type: ignore[arg-type]
            with self._starting_late(stored, chosen):
                return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _first_head(self) -> Head:
        """The head fitted to all training rows."""
        check_first_head(self._recipe)
        seed_all(self.args)
        rows = self._recipe.training_rows(range(len(self._recipe.train_dataset)))
        with unaltered(self.base_model):
            return fitted_head(self._recipe, self.args, rows, lambda _: nullcontext())

    @contextmanager
    def _starting_late(self, stored: Cache | None, blocks: Sequence[str]) -> Iterator[None]:
        """Let training rows start at the first tuned block, if what comes before it was stored."""
        if stored is None:
            yield
            return
        self._recipe.args = self.args
        cut = stored.cut_of(blocks)
        self._stored_rows = stored.at(cut).training_rows(range(len(self._recipe.train_dataset)))
        try:
            with stored.starting_at(self, cut):
                yield
        finally:
            self._stored_rows = None
            stored.close()

    def _wrap(self, blocks: list[str]) -> None:
        """Put a new adapter into the base, where there is none."""
        snapshot = Snapshot(self.base_model)
        seed_all(self.args)
        try:
            config = SubTuningConfig(blocks=list(blocks), init_blocks=self.args.init_blocks)
            model = get_peft_model(self.base_model, config)
        except BaseException:
            snapshot.restore()
            raise
        self._untouched = snapshot
        self._measured = []
        self._use(model)
        handler = self.callback_handler
        handler.callbacks = [one for one in handler.callbacks if one not in self._own_callbacks]
        self._own_callbacks = [make_callback(make) for make in self._recipe.callbacks]
        for callback in self._own_callbacks:
            handler.add_callback(callback)

    def _unwrap(self) -> None:
        if self._untouched is None:
            return
        if isinstance(self.model, PeftModel):
            self.model.unload()
        self._untouched.restore()
        self._untouched = None
        self._use(self.base_model)

    def _use(self, model: nn.Module) -> None:
        if self.place_model_on_device:
            self._move_model_to_device(model, self.args.device)
        self.accelerator.free_memory()
        self.model = self.model_wrapped = model
        self.optimizer = self.lr_scheduler = None
        self._created_lr_scheduler = False
        self._signature_columns = None
        self.callback_handler.model = model
        self.callback_handler.optimizer = self.callback_handler.lr_scheduler = None

    # --- rows through their transforms ------------------------------------------------------
    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        with self._shown("train_dataset", self._recipe.train_transform, self._stored_rows):
            return super().get_train_dataloader()

    def get_eval_dataloader(self, eval_dataset: Any = None) -> torch.utils.data.DataLoader:
        transform = self._recipe.eval_transform
        if eval_dataset is None or isinstance(eval_dataset, str):
            with self._shown("eval_dataset", transform):
                return super().get_eval_dataloader(eval_dataset)
        return super().get_eval_dataloader(view(eval_dataset, None, transform))

    def get_test_dataloader(self, test_dataset: Any) -> torch.utils.data.DataLoader:
        return super().get_test_dataloader(view(test_dataset, None, self._recipe.eval_transform))

    @contextmanager
    def _shown(self, name: str, transform: Callable | None, stored: Any = None) -> Iterator[None]:
        """Let Trainer's own method, or a subclass's, find the data set through its transform, or as it was stored."""
        original = getattr(self, name)
        if stored is None and (transform is None or original is None):
            yield
            return
        if stored is not None:
            seen: Any = stored
        elif isinstance(original, dict):
            seen = {key: view(value, None, transform) for key, value in original.items()}
        else:
            seen = view(original, None, transform)
        setattr(self, name, seen)
        try:
            yield
        finally:
            setattr(self, name, original)


@cache
def _with_parent(cls: type, trainer_cls: type) -> type:
    namespace = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls.__name__, (cls, trainer_cls), namespace)
