"""
What the trainings of a study share: rows that were read once, and what the frozen blocks make of them.

Decides whether a study can be cached at all, what is worth keeping within the budget, and hands the evaluator data sets
and a model that starts at the first tuned block. Knows the recipe; not the journal or how work is spread.
"""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer
from transformers.utils import logging

from ..blocks import find_blocks
from ..errors import PrefixCacheError, SubTuningError
from ..prefix import Trunk, TrunkCosts, plan_cuts
from .arguments import GreedySubTuningArguments
from .carrying import BLIND, LOOPS, carry_numbers, overridden, showing_epochs
from .data import is_hf, is_random, same_value, view
from .guard import unaltered
from .randomness import drawing
from .recipe import Recipe
from .rows import NumberedRows, RowSource, RowStore, bytes_of, lightened

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
        kind (`type[Trainer]`, *optional*): The Trainer of that one, if it is not the recipe's.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path | None = None,
        only: Sequence[str] | None = None,
        kind: type[Trainer] | None = None,
    ) -> None:
        self.recipe = recipe
        self.kind = kind or recipe.trainer_cls
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
            try:
                self._open(budget)
            except Exception as error:
                # A batch that the bare model fails on, no memory ...: the trainings may do without.
                if only is not None or (isinstance(error, SubTuningError) and not isinstance(error, PrefixCacheError)):
                    raise
                why = error if isinstance(error, PrefixCacheError) else f"{type(error).__name__}: {error}"
                logger.warning(f"Frozen blocks run anew in each training: {why}")

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
        if not draws(view(rows, None, transform)):
            return RowSource(rows, transform)
        if views is None:
            return None
        source = RowSource(rows, transform, views=views, seed=recipe.args.seed, seeded=True)
        return source if self._repeats(source) else None

    @staticmethod
    def _repeats(source: RowSource) -> bool:
        numbers = [source.numbers[0]] * 8
        if same_value(source.read(numbers), source.read(numbers)):
            return True
        logger.warning(
            "`augmentation_views` is set, but `train_transform` draws random numbers that no seed of torch, numpy or "
            "`random` steers: views would differ from candidate to candidate. Training reads rows anew each time."
        )
        return False

    # --- the trunk --------------------------------------------------------------------------
    def _open(self, budget: int) -> None:
        recipe = self.recipe
        args = recipe.args.for_candidate(str(recipe.args.folder), False)
        probe = recipe.trainer(recipe.model, args, view(recipe.train_dataset, None, recipe.train_transform))
        self._collate = probe._get_collator_with_removed_columns(probe.data_collator)
        self._check_collator()
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
            names = sorted(trunk.can_skip_inputs)
            if names and self._may_be_light(names):
                self.rows.skip(names)

    def _some(self) -> list[Any]:
        return [row for source in self.sources for row in self.rows.read(list(source.numbers[:2]))]

    def _check_collator(self) -> None:
        if not all(isinstance(row, Mapping) for row in self._some()):
            raise PrefixCacheError("Rows that are no dicts cannot carry their numbers.")
        with drawing(self._collate) as drawn:
            same = same_value(self._collate(self._some()), self._collate(self._some()))
        if drawn[0] or not same:
            raise PrefixCacheError("The collator is random: a row's batch is another one each time.")

    def _may_be_light(self, names: Sequence[str]) -> bool:
        """Whether nobody but the model reads some inputs: no Trainer, no metric, and no collator for other inputs."""
        if not overridden(self.kind) <= BLIND or "inputs" in self.recipe.args.include_for_metrics:
            return False
        try:
            full, light = self._collate(self._some()), self._collate([lightened(row, names) for row in self._some()])
        except Exception:  # it writes into them
            return False
        shapes = [{name: (batch[name].shape, batch[name].dtype) for name in names} for batch in (full, light)]
        rest = [{name: value for name, value in batch.items() if name not in names} for batch in (full, light)]
        return shapes[0] == shapes[1] and same_value(*rest)

    def batch(self, numbers: Sequence[int]) -> dict[str, Any]:
        """Rows by number as a batch, as the trainings' collator makes it, without what the model does not take."""
        batch, args = self._collate(self.rows.read(numbers)), self.recipe.args
        # As Trainer has it: labels that the model is not shown need not be such that it understands them.
        apart = args.label_smoothing_factor or "compute_loss_func" in self.recipe.trainer_kwargs
        taken = {name: value for name, value in batch.items() if self._taken is None or name in self._taken}
        return {name: value for name, value in taken.items() if name != "labels" or not apart}

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

    @contextmanager
    def starting_at(self, trainer: Trainer, cut: int) -> Iterator[None]:
        """While this lasts, the trainer's model starts at a cut for rows that carry their numbers."""
        with showing_epochs(trainer):
            if self.trunk is None or cut == 0:
                yield
                return
            model: Any = trainer.model
            light = self.rows.is_light
            with self.trunk.starting_at(model, cut, strict=light), carry_numbers(trainer, model, plain=light):
                yield


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


def open_training_cache(recipe: Recipe, blocks: Sequence[str], kind: type[Trainer] | None = None) -> Cache | None:
    """
    The cache of one training on all training rows, if it pays.

    It does where there is something before the first tuned block, and more than two epochs for each view of a row:
    reading rows and running the frozen blocks once, with what it takes to check that, costs about two epochs' savings.

    Args:
        recipe ([`Recipe`]): The base model, without adapters, and its data.
        blocks (`Sequence[str]`): What is tuned.
        kind (`type[Trainer]`, *optional*): The Trainer of this training, if it is not the recipe's.

    Returns: [`Cache`] or `None`
    """
    args, rows = recipe.args, recipe.train_dataset
    if not args.prefix_cache or args.world_size > 1 or args.n_gpu > 1 or not hasattr(rows, "__len__"):
        return None
    steps = args.max_steps * args.train_batch_size * args.gradient_accumulation_steps
    epochs = args.num_train_epochs if args.max_steps <= 0 else steps / max(len(rows), 1)
    if epochs <= 2 * (args.augmentation_views or 1) or not len(rows):
        return None
    if _reason_against(recipe, draws(view(rows, None, recipe.eval_transform)), kind) is not None:
        return None
    try:
        cache = Cache(recipe, only=blocks, kind=kind)
    except Exception as error:
        logger.info(f"The training runs in full: {type(error).__name__}: {error}")
        return None
    if cache.cut_of(blocks):
        return cache
    cache.close()
    return None


def draws(rows: Any) -> bool:
    """
    `bool`: whether reading rows gives others each time, or draws random numbers.

    The latter shows augmentation that happens to rows so rarely that a few readings do not show it.
    """
    with drawing(rows) as drawn:
        for row in {0, len(rows) // 2, len(rows) - 1}:
            rows[row]
    return drawn[0] or is_random(rows)


def _place(args: GreedySubTuningArguments, costs: TrunkCosts, cuts: Sequence[int], count: int) -> torch.device:
    """On the accelerator if a quarter of its free memory is enough, else on the CPU."""
    size = count * sum(costs.bytes_per_row[cut] for cut in cuts)
    if args.device.type == "cuda" and size <= torch.cuda.mem_get_info(args.device)[0] / 4:
        return torch.device(args.device)
    return torch.device("cpu")


def _autocast(args: GreedySubTuningArguments) -> torch.dtype | None:
    return torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None


def _reason_against(recipe: Recipe, random_rows: bool, kind: type[Trainer] | None = None) -> str | None:
    args, rows = recipe.args, recipe.train_dataset
    if random_rows:
        return "rows read twice differ"
    if args.torch_compile:
        return "`torch_compile` is set"
    if args.neftune_noise_alpha:
        return "`neftune_noise_alpha` adds noise before the first block"
    kind = kind or recipe.trainer_cls
    if loops := sorted(overridden(kind) & LOOPS):
        return f"{kind.__name__} has a `{loops[0]}` of its own, which may change rows"
    sorts = args.train_sampling_strategy in ("group_by_length", "batch_rebalance")
    if sorts and is_hf(rows) and recipe.train_transform is None and args.length_column_name in rows.column_names:
        return f"rows are sorted by column '{args.length_column_name}', which Trainer reads in a datasets.Dataset alone"
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
    scored = recipe.train_dataset if recipe.validation_dataset is None else recipe.validation_dataset
    reason = _reason_against(recipe, random_rows or draws(view(scored, None, recipe.eval_transform)))
    if reason is None:
        return Cache(recipe, folder)
    logger.warning(f"Nothing is cached between trainings: {reason}. Scores are the same, the search takes longer.")
    return None
