"""
What is assigned or added to a trainer after it was made counts in every candidate's training too.

Knows which attributes of Trainer a recipe holds; not what they do.
"""

from __future__ import annotations

import logging
from typing import Any

from transformers import TrainerCallback

from .data import check_datasets
from .recipe import Recipe, check_callbacks, kind_of, make_callback

logger = logging.getLogger(__name__)

_FOLLOWED = ("data_collator", "processing_class", "compute_loss_func", "compute_metrics",
             "preprocess_logits_for_metrics")  # fmt: skip


class FollowingMixin:
    """For a `Trainer` with a `_recipe` and a list of `_own_callbacks`."""

    _recipe: Recipe
    _own_callbacks: list[TrainerCallback]
    _known: dict[str, Any] | None = None

    def _take_stock(self) -> None:
        """The attributes as the constructor left them."""
        self._known = {name: getattr(self, name) for name in (*_FOLLOWED, "train_dataset")}

    def _follow(self) -> None:
        """Take over what was assigned since."""
        assert self._known is not None
        for name, before in self._known.items():
            now = getattr(self, name)
            if now is before:
                continue
            if name == "train_dataset":
                check_datasets(now, getattr(self, "eval_dataset", None), self._recipe.validation_dataset)
                self._recipe.train_dataset = now
            elif now is None:
                self._recipe.trainer_kwargs.pop(name, None)
            else:
                self._recipe.trainer_kwargs[name] = now
            self._known[name] = now

    def add_callback(self, callback: Any) -> None:
        """As in Trainer. Every candidate's training gets one of a class; an instance sees `train()` alone."""
        if self._known is None:  # Trainer's constructor adds its own
            super().add_callback(callback)  # type: ignore[misc]
            return
        if isinstance(callback, type):
            self._recipe.callbacks += check_callbacks([callback])
            callback = make_callback(callback)
            self._own_callbacks.append(callback)
        else:
            name = type(callback).__name__
            logger.warning(
                f"This {name} sees the final training alone, since its state would run from one candidate's training "
                f"into the next. Add the class, add_callback({name}), for those too."
            )
        super().add_callback(callback)  # type: ignore[misc]

    def remove_callback(self, callback: Any) -> None:
        """As in Trainer, and in every candidate's training."""
        kind = callback if isinstance(callback, type) else type(callback)
        self._recipe.callbacks = tuple(make for make in self._recipe.callbacks if kind_of(make) is not kind)
        self._own_callbacks = [one for one in self._own_callbacks if type(one) is not kind]
        super().remove_callback(callback)  # type: ignore[misc]
