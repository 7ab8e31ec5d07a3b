"""
Predictions for a search: what a proposal is given, and what becomes of what it says.

Hands rows, collator and metric of the trainings to a proposal, runs the greedy search on its predictions, and plans
which few selections are trained with what is left of the budget. Writes nothing and decides nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import EvalPrediction

from ..blocks import find_head
from ..errors import ArgumentsError
from ..proposal import make_proposal
from ..proposal.base import BudgetTooSmall, Meter, Prediction, Problem, Proposal
from ..proposal.copies import call
from ..search.folds import Fold
from ..search.proposals import MOST_CONFIRMED, plan_shortlist, predict_ladder, shortlist_of, with_all
from ..search.proposed import Predicted, ProposalRun
from ..search.records import Candidate, SearchSpec, StudySpec
from .arguments import GreedySubTuningArguments
from .cache import Cache, draws
from .data import read_labels, view
from .evaluator import find_metric, seed_all
from .guard import unaltered
from .recipe import Recipe
from .rows import RowSource, RowStore


def propose(
    recipe: Recipe, spec: StudySpec, folds: Sequence[Fold], search: SearchSpec, cache: Cache | None
) -> ProposalRun:
    """
    Predict, and plan what is trained.

    Args:
        recipe ([`Recipe`]): The base model and its data.
        spec ([`StudySpec`]), folds (`Sequence[Fold]`): The study.
        search ([`SearchSpec`]): What is searched, with which proposal and budget.
        cache ([`Cache`], *optional*): Where trainings will start.

    Returns: [`ProposalRun`]
    """
    assert search.budget is not None
    started = time.perf_counter()
    with unaltered(recipe.model), _autocast(recipe.args):
        seed_all(recipe.args)
        problem = make_problem(recipe, spec, folds, cache)
        proposal = make_proposal(search.strategy)
        prediction = _fit(proposal, problem, search)

        def predict(candidate: Candidate) -> Predicted:
            estimate = prediction(candidate.blocks)
            return Predicted(candidate, estimate.fold_scores, estimate.standard_error, estimate.behind)

        state, predictions = predict_ladder(spec, search, predict)
        found = shortlist_of(spec, search, state, predictions, most=MOST_CONFIRMED + 1)
        predictions = with_all(predictions, found, predict)
    spent = problem.meter.spent
    # In a model without a head there is nothing to train but blocks.
    listed = ([one for one in found if one.blocks or problem.head] or found)[:MOST_CONFIRMED]
    prices = {one: _prices(recipe, problem, folds[-1], one, cache) for one in listed}
    left = search.budget - spent
    shortlist, share, num_folds = plan_shortlist(listed, [prices[one] for one in listed], left, len(folds))
    trainings, scorings = zip(*(prices[one] for one in shortlist), strict=True)
    # The fold that predictions were made on comes last.
    trained = [*range(1, len(folds)), 0][:num_folds]
    return ProposalRun(
        search=search,
        predictions=predictions,
        shortlist=shortlist,
        folds=tuple(trained),
        share=share,
        fine_tunes=spent,
        planned=spent + num_folds * (share * sum(trainings) + sum(scorings)),
        seconds=time.perf_counter() - started,
        info={"started": time.time() - (time.perf_counter() - started)},
    )


def allowance(proposal: Proposal, search: SearchSpec) -> float:
    """
    What predictions may take of the budget of a search; the rest trains the best predicted.

    Args:
        proposal ([`Proposal`]): What it would take.
        search ([`SearchSpec`]): Budget and start. Where there is a start, half is kept to train what it names.

    Returns: `float`: in full fine-tunes.
    """
    assert search.budget is not None
    wanted = proposal.allowance(search.budget)
    return wanted if search.start is None else min(wanted, 0.5 * search.budget)


def _fit(proposal: Proposal, problem: Problem, search: SearchSpec) -> Prediction:
    """Let a proposal look; what it says of a budget that is too small is said of the part that it was given."""
    given = allowance(proposal, search)
    try:
        return proposal.fit(problem, given)
    except BudgetTooSmall as error:
        assert search.budget is not None
        least = _least_budget(proposal, search, error.needed)
        raise ArgumentsError(
            f"`search_budget` is {search.budget:g}, of which predictions may take {100 * given / search.budget:.0f} %; "
            f"about {least:g} is needed. {error}"
        ) from error


def _least_budget(proposal: Proposal, search: SearchSpec, needed: float) -> float:
    """The budget of a search of which predictions may take what they need, rounded up to two digits."""
    assert search.budget is not None
    budget = search.budget
    while allowance(proposal, replace(search, budget=budget)) < needed:
        budget *= 1.01
    digits = 1 - math.floor(math.log10(budget))
    return math.ceil(budget * 10**digits) / 10**digits


def _prices(
    recipe: Recipe, problem: Problem, fold: Fold, candidate: Candidate, cache: Cache | None
) -> tuple[float, float]:
    """A full training and the scoring of a selection on one fold, in full fine-tunes."""
    args, shares = recipe.args, problem.meter.shares
    first = min((problem.blocks.index(name) for name in candidate.blocks), default=len(shares))
    start = first if cache is not None and _starts_at(cache, candidate) else 0
    rows = round(len(fold.train) * problem.epochs) if args.max_steps <= 0 else args.max_steps * problem.batch_size
    meter = Meter(shares, problem.meter.fine_tune)
    training = meter.train(rows, first=first, start=start if cache is not None and cache.fits_training else 0)
    return training, meter.forward(len(fold.validation), first=start)


def _starts_at(cache: Cache, candidate: Candidate) -> bool:
    """
    Whether a training starts at its first tuned block, and not before.

    The cache counts in blocks of the model, which need not be those to choose from; so its number of a block says
    nothing about prices, and any earlier start is taken for none.
    """
    return cache.trunk is not None and 0 < cache.trunk.cut_of(candidate.blocks) == cache.cut_of(candidate.blocks)


def _autocast(args: GreedySubTuningArguments) -> AbstractContextManager[Any]:
    return torch.autocast(args.device.type, dtype=torch.bfloat16) if args.bf16 else nullcontext()


# --- what a proposal is given ----------------------------------------------------------------
def make_problem(recipe: Recipe, spec: StudySpec, folds: Sequence[Fold], cache: Cache | None = None) -> Problem:
    """
    What a proposal may look at.

    Rows of a `validation_dataset` are numbered behind the training rows.

    Args:
        recipe ([`Recipe`]): The base model, without adapters, and its data.
        spec ([`StudySpec`]), folds (`Sequence[Fold]`): The study.
        cache ([`Cache`], *optional*): Rows that were read already.

    Returns: [`Problem`]
    """
    args, model = recipe.args, recipe.model
    batches, rows = _Batches(recipe, cache), len(recipe.train_dataset)
    labels = read_labels(recipe.train_dataset, args.label_column)
    if recipe.validation_dataset is not None:
        folds = [Fold(f.index, f.train, tuple(rows + row for row in f.validation)) for f in folds]
        more = read_labels(recipe.validation_dataset, args.label_column)
        labels = None if labels is None or more is None else [*labels, *more]
    size = args.train_batch_size * args.gradient_accumulation_steps
    steps_per_epoch = -(-rows // size)
    epochs = args.max_steps / steps_per_epoch if args.max_steps > 0 else float(args.num_train_epochs)
    steps = max(round(epochs * steps_per_epoch), 1)
    names = tuple(block.name for block in spec.blocks)
    shares = forward_shares(model, names, batches.evaluate(range(min(2, rows))))
    return Problem(
        model=model,
        blocks=names,
        head=tuple(find_head(model)),
        folds=tuple(folds),
        labels=labels,
        train_batch=batches.train,
        eval_batch=batches.evaluate,
        score=_score_of(recipe),
        epochs=epochs,
        batch_size=size,
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        meter=Meter(shares, 3.0 * rows * epochs),
        head_learning_rate=args.head_learning_rate,
        warmup=min(args.get_warmup_steps(steps) / steps, 1.0),
        eval_batch_size=args.per_device_eval_batch_size,
        seed=args.seed,
    )


class _Batches:
    """Rows as the model takes them, each read once: those of the cache, if it has all."""

    def __init__(self, recipe: Recipe, cache: Cache | None) -> None:
        args, self.count = recipe.args, len(recipe.train_dataset)
        if cache is not None and cache.fits_training and recipe.validation_dataset is None:
            sources, self.rows = cache.sources, cache.rows
        else:
            sources = _sources_of(recipe)
            self.rows = RowStore(sources, int(args.prefix_cache_gb * 1e9))
        self.training, self.scored = sources[0], sources[-1]
        self.plain = self.scored if recipe.validation_dataset is None else sources[-2]
        trainer = recipe.trainer(recipe.model, args.for_candidate(str(args.folder), False), None)
        self.prepare = trainer._prepare_inputs
        self.collate = trainer._get_collator_with_removed_columns(trainer.data_collator)

    def train(self, rows: Sequence[int]) -> dict[str, Any]:
        """Training rows through the training transform."""
        return self._batch([self.training.number(row) for row in rows])

    def evaluate(self, rows: Sequence[int]) -> dict[str, Any]:
        """Rows through the evaluation transform."""
        return self._batch(
            [self.plain.number(row) if row < self.count else self.scored.number(row - self.count) for row in rows]
        )

    def _batch(self, numbers: Sequence[int]) -> dict[str, Any]:
        return dict(self.prepare(dict(self.collate(self.rows.read(numbers)))))  # type: ignore[operator]


def _sources_of(recipe: Recipe) -> list[RowSource]:
    """Training rows, the same as they are scored, and rows of a validation set, as far as these differ."""
    rows, transform = recipe.train_dataset, recipe.train_transform
    drawn = draws(view(rows, None, transform))
    sources = [RowSource(rows, transform, seed=recipe.args.seed, seeded=drawn)]
    if drawn or recipe.eval_transform is not transform:
        sources.append(RowSource(rows, recipe.eval_transform, first=len(rows)))
    if recipe.validation_dataset is not None:
        first = sources[-1].numbers.stop
        sources.append(RowSource(recipe.validation_dataset, recipe.eval_transform, first=first))
    return sources


def _score_of(recipe: Recipe) -> Any:
    """Logits, labels and mean loss to the score that is maximised."""
    metric, args = recipe.trainer_kwargs.get("compute_metrics"), recipe.args
    preprocess = recipe.trainer_kwargs.get("preprocess_logits_for_metrics")

    def score(logits: Any, labels: Any, loss: float) -> float:
        metrics = {"eval_loss": loss}
        if metric is not None:
            if preprocess is not None:
                logits = np.asarray(preprocess(torch.as_tensor(logits), torch.as_tensor(labels)))
            found = metric(EvalPrediction(predictions=logits, label_ids=labels))
            metrics |= {name if name.startswith("eval_") else f"eval_{name}": value for name, value in found.items()}
        value = find_metric(metrics, args)
        return value if args.score_greater_is_better else -value

    return score


def forward_shares(model: torch.nn.Module, blocks: Sequence[str], batch: dict[str, Any]) -> tuple[float, ...]:
    """
    Each block's share of the arithmetic of a forward pass.

    Args:
        model (`torch.nn.Module`): The model.
        blocks (`Sequence[str]`): Their names.
        batch (`dict[str, Any]`): Some rows.

    Returns: `tuple[float, ...]`
    """
    model.eval()
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            call(model, batch)
    except NotImplementedError:  # the counter does not know an operation; blocks then count alike
        return (1.0 / len(blocks),) * len(blocks)
    counts = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    whole, top = max(counts.get("Global", 0), 1), type(model).__name__
    return tuple(_inside(counts, f"{top}.{block}") / whole for block in blocks)


def _inside(counts: dict[str, int], name: str) -> int:
    """Arithmetic of a module; of one that only holds others, such as the list of a stage, that of these."""
    if name in counts:
        return counts[name]
    below = [other for other in counts if other.startswith(f"{name}.")]
    return sum(counts[one] for one in below if not any(one.startswith(f"{other}.") for other in below))
