"""
What the trainings of a study share: rows that were read once, and what the frozen blocks make of them.

Decides whether a study can be cached at all, what is worth keeping within the budget, and hands the evaluator data sets
and a model that starts at the first tuned block. Knows the recipe; not the journal or how work is spread.
"""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer
from transformers.utils import logging

from ..blocks import find_blocks
from ..errors import PrefixCacheError
from ..prefix import Trunk, TrunkCosts, plan_cuts
from .arguments import GreedySubTuningArguments
from .data import is_random, same_value, view
from .guard import unaltered
from .recipe import Recipe
from .rows import NumberedRows, RowSource, RowStore, bytes_of, carry_numbers

logger = logging.get_logger(__name__)
FOLDER = ".prefix"


class Cache:
    """
    Rows and the outputs of frozen blocks, for any number of trainings of one base model in this process.

    Args:
        recipe ([`Recipe`]): How candidates are trained.
        folder (`Path`, *optional*):
            Where outputs of blocks are kept if several processes share them; by default in memory.
        only (`Sequence[str]`, *optional*): The blocks of the one training that it is for, on all training rows.
    """

    def __init__(self, recipe: Recipe, folder: Path | None = None, only: Sequence[str] | None = None) -> None:
        self.recipe = recipe
        self.folder = folder
        self.only = only
        self.trunk: Trunk | None = None
        self.fits_training = True
        args = recipe.args
        budget = int(args.prefix_cache_gb * 1e9)
        self.sources = self._make_sources()
        self.rows = RowStore(self.sources, budget // 2)
        self._collate: Any = None
        self._taken = _arguments_of(recipe.model)
        with unaltered(recipe.model):
            self._open(budget)

    def _make_sources(self) -> list[RowSource]:
        """Training rows first, then those that are only scored, where these are not the same."""
        recipe, training = self.recipe, self._training_source()
        self.fits_training = training is not None
        if self.only is not None:
            if training is None:
                raise PrefixCacheError("`train_transform` is random, and `augmentation_views` is not set")
            return [training]
        same = recipe.validation_dataset is None and recipe.train_transform is recipe.eval_transform
        if training is not None and same:
            return [training]
        first = 0 if training is None else training.numbers.stop
        scored = recipe.train_dataset if recipe.validation_dataset is None else recipe.validation_dataset
        validation = RowSource(scored, recipe.eval_transform, first=first)
        return [validation] if training is None else [training, validation]

    def _training_source(self) -> RowSource | None:
        """Training rows, `None` if every reading gives others."""
        recipe, views = self.recipe, self.recipe.args.augmentation_views
        rows, transform = recipe.train_dataset, recipe.train_transform
        if transform is None or not is_random(view(rows, None, transform)):
            return RowSource(rows, transform)
        if views is None:
            return None
        source = RowSource(rows, transform, views=views, seed=recipe.args.seed, seeded=True)
        return source if self._repeats(source) else None

    @staticmethod
    def _repeats(source: RowSource) -> bool:
        number = source.numbers[0]
        if same_value(source.read([number])[0], source.read([number])[0]):
            return True
        logger.warning(
            "`augmentation_views` is set, but `train_transform` draws random numbers that no seed of torch, numpy or "
            "`random` steers: views would differ from candidate to candidate. Training reads rows anew each time."
        )
        return False

    # --- the trunk --------------------------------------------------------------------------
    def _open(self, budget: int) -> None:
        recipe = self.recipe
        probe = recipe.trainer(recipe.model, recipe.args.for_candidate(str(recipe.args.folder), False), None)
        self._collate = probe._get_collator_with_removed_columns(probe.data_collator)
        blocks = [block.name for block in find_blocks(recipe.model, warn=False)]
        count = self.sources[-1].numbers.stop
        trunk = Trunk(
            recipe.model,
            blocks,
            self.batch,
            count,
            batch_size=recipe.args.per_device_eval_batch_size,
            autocast=_autocast(recipe.args),
        )
        costs = trunk.probe()
        left = budget - min(count * bytes_of(self.rows.read([0])[0]), self.rows.budget)
        uses = [1.0] * len(costs.bytes_per_row)
        if self.only is not None:
            uses = [float(cut == trunk.cut_of(self.only)) for cut in range(len(uses))]
        cuts = plan_cuts(costs.shares, costs.bytes_per_row, uses, count, left)
        if trunk.fill(cuts, folder=self.folder, device=_place(recipe.args, costs, cuts, count)):
            self.trunk = trunk
            if _passes_all_inputs(type(probe)):
                self.rows.skip(sorted(trunk.can_skip_inputs))

    def batch(self, numbers: Sequence[int]) -> dict[str, Any]:
        """Rows by number as a batch, as the trainings' collator makes it, without what the model does not take."""
        batch = self._collate([dict(row) for row in self.rows.read(numbers)])
        return {name: value for name, value in batch.items() if self._taken is None or name in self._taken}

    def close(self, remove: bool = False) -> None:
        """Let go of everything; `remove` deletes the files too, which those who use them keep until they close."""
        if self.trunk is not None:
            self.trunk.close()
        if remove and self.folder is not None:
            shutil.rmtree(self.folder.parent, ignore_errors=True)

    # --- for a training ---------------------------------------------------------------------
    def cut_of(self, blocks: Sequence[str]) -> int:
        """`int`: where a model starts that tunes these blocks; 0 if it has to run from the beginning."""
        if self.trunk is None:
            return 0
        first = self.trunk.cut_of(blocks)
        return max((cut for cut in self.trunk.cuts if cut <= first), default=0)

    def at(self, cut: int) -> CachedRows:
        """The rows of a training that starts at a cut."""
        return CachedRows(self, cut > 0)

    def starting_at(self, trainer: Trainer, cut: int) -> AbstractContextManager[Any]:
        """While this lasts, the trainer's model starts at a cut for rows that carry their numbers."""
        if self.trunk is None or cut == 0:
            return nullcontext()
        carry_numbers(trainer)
        model: Any = trainer.model
        return self.trunk.starting_at(model, cut, strict=self.rows.is_light)


class CachedRows:
    """
    The rows of one training.

    Args:
        cache ([`Cache`]): Where they are kept.
        numbered (`bool`): Whether they carry their numbers, for a model that starts behind its first block.
    """

    def __init__(self, cache: Cache, numbered: bool) -> None:
        self.cache, self.numbered = cache, numbered

    def training_rows(self, rows: Sequence[int]) -> Any:
        """Rows to train on."""
        if not self.cache.fits_training:
            return self.cache.recipe.training_rows(rows)
        return NumberedRows(self.cache.rows, self.cache.sources[0], rows, self.numbered)

    def validation_rows(self, rows: Sequence[int]) -> Any:
        """Rows that score."""
        return NumberedRows(self.cache.rows, self.cache.sources[-1], rows, self.numbered)

    def inner_rows(self, rows: Sequence[int]) -> Any:
        """Training rows that steer a training."""
        if self.cache.recipe.validation_dataset is None:
            return self.validation_rows(rows)
        return self.cache.recipe.inner_rows(rows)


def _arguments_of(model: nn.Module) -> frozenset[str] | None:
    """Names of what a model takes, `None` if it takes anything."""
    parameters = inspect.signature(model.forward).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return frozenset(parameters)


def open_training_cache(recipe: Recipe, blocks: Sequence[str]) -> Cache | None:
    """
    The cache of one training on all training rows, if it pays.

    It does if more epochs than views of each row are trained, and there is something before the first tuned block.

    Args:
        recipe ([`Recipe`]): The base model, without adapters, and its data.
        blocks (`Sequence[str]`): What is tuned.

    Returns: [`Cache`] or `None`
    """
    args, rows = recipe.args, recipe.train_dataset
    if not args.prefix_cache or args.world_size > 1 or args.n_gpu > 1 or not hasattr(rows, "__len__"):
        return None
    steps = args.max_steps * args.train_batch_size * args.gradient_accumulation_steps
    epochs = args.num_train_epochs if args.max_steps <= 0 else steps / max(len(rows), 1)
    if epochs <= (args.augmentation_views or 1) or not len(rows):
        return None
    if _reason_against(args, is_random(view(rows, None, recipe.eval_transform))) is not None:
        return None
    try:
        cache = Cache(recipe, only=blocks)
    except PrefixCacheError:
        return None
    if cache.cut_of(blocks):
        return cache
    cache.close()
    return None


def _passes_all_inputs(kind: type) -> bool:
    """Whether a Trainer hands the model all of a batch, so that the numbers of rows cannot get lost."""
    return all(getattr(kind, name) is getattr(Trainer, name) for name in ("compute_loss", "prediction_step"))


def _place(args: GreedySubTuningArguments, costs: TrunkCosts, cuts: Sequence[int], count: int) -> torch.device:
    """On the accelerator if a quarter of its free memory is enough, else on the CPU."""
    size = count * sum(costs.bytes_per_row[cut] for cut in cuts)
    if args.device.type == "cuda" and size <= torch.cuda.mem_get_info(args.device)[0] / 4:
        return torch.device(args.device)
    return torch.device("cpu")


def _autocast(args: GreedySubTuningArguments) -> torch.dtype | None:
    return torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None


def _reason_against(args: GreedySubTuningArguments, random_rows: bool) -> str | None:
    if random_rows:
        return "rows read twice differ"
    if args.torch_compile:
        return "`torch_compile` is set"
    if args.neftune_noise_alpha:
        return "`neftune_noise_alpha` adds noise before the first block"
    return None


def open_cache(recipe: Recipe, random_rows: bool, folder: Path | None = None) -> Cache | None:
    """
    The cache of a study, if it can have one.

    Args:
        recipe ([`Recipe`]): How candidates are trained.
        random_rows (`bool`): Whether a row of the data set itself, read twice, gives two different things.
        folder (`Path`, *optional*): Where outputs of blocks are kept if several processes share them.

    Returns: [`Cache`], or `None`: everything is then computed anew each time, and where that was not asked for, the
        log says why.
    """
    args = recipe.args
    if not args.prefix_cache:
        return None
    reason = _reason_against(args, random_rows)
    if reason is None:
        try:
            return Cache(recipe, folder)
        except PrefixCacheError as error:
            reason = str(error)
    logger.warning(f"Nothing is cached between trainings: {reason}. Scores are the same, the search takes longer.")
    return None
