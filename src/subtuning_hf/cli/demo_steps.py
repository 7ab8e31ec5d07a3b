"""The steps of the demo, each of which prints what it found."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .. import compare as comparing
from ..blocks import find_blocks
from ..compare import (
    FullFineTuning,
    LinearProbe,
    Method,
    RunLog,
    Selection,
    Task,
    Trials,
    method_rows,
    method_table,
    rates,
    repeat,
    verdict,
)
from ..search.folds import make_folds
from ..search.result import SearchResult
from ..training import GreedySubTuningArguments, GreedySubTuningTrainer
from . import demo_data, demo_model
from .demo import MAX_BLOCKS, NUM_FOLDS, Demo, headline, percent, say, shown_trials
from .metrics import compute_metrics_with


def prepare(options: argparse.Namespace, folder: Path) -> Demo:
    """Data and source model."""
    data = demo_data.load_digits(options.rows, options.seed)
    headline(1, "Data: scikit-learn's 1,797 scanned digits")
    say(f"   source  {len(data.source):>4} clean digits, to pretrain on")
    say(f"   target  {len(data.train):>4} corrupted ones ({demo_data.DESCRIPTION}): all a method may learn from")
    say(f"   test    {len(data.test):>4} corrupted ones, scored once at the end\n")
    unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    drawn = demo_data.drawing(data.clean, data.test, unicode=unicode)
    say("   " + drawn.replace("\n", "\n   "))
    settings = demo_model.MODELS[options.model]
    folder.mkdir(parents=True, exist_ok=True)
    model, seconds = demo_model.pretrain(options.model, data.source, options.seed, str(folder))
    task = make_task(model, data, settings)
    size = f"{len(find_blocks(model))} blocks, {model.num_parameters():,} parameters"
    headline(2, f"Source model: {settings.name}, {size}")
    clean, corrupted = (demo_model.accuracy(model, part, settings) for part in (data.clean, data.test))
    say(f"   pretrained in {seconds:.0f} s; reads {percent(clean)} of clean, {percent(corrupted)} of corrupted digits")
    folds = make_folds(len(data.train), NUM_FOLDS, options.seed, labels=data.train["label"])
    return Demo(options, folder, data, settings, task, folds, RunLog(folder / "runs.jsonl"))


def make_task(model: Any, data: demo_data.DemoData, settings: demo_model.DemoModel) -> Task:
    """What all methods are given alike."""
    return Task(
        model=model,
        train=data.train,
        test=data.test,
        arguments=training_arguments(settings),
        compute_metrics=compute_metrics_with("accuracy"),
        train_transform=settings.transform,
        eval_transform=settings.transform,
        data_collator=demo_data.collate,
    )


def training_arguments(settings: demo_model.DemoModel) -> dict[str, Any]:
    """Arguments of every training on the target task, except its learning rate and seed."""
    return {
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": settings.batch_size,
        "per_device_eval_batch_size": demo_model.EVAL_BATCH_SIZE,
        "weight_decay": 0.01,
        "remove_unused_columns": False,
        "report_to": [],
        "dataloader_pin_memory": False,
    }


def tune_baselines(demo: Demo) -> tuple[Trials, Trials]:
    """Learning rates of LP and FT by cross-validation."""
    count = len(demo.settings.learning_rates)
    headline(3, f"Baselines: {count} learning rates x {NUM_FOLDS} folds of the {len(demo.data.train)} digits")
    probe, full = (tune(demo, method) for method in (LinearProbe, FullFineTuning))
    say(shown_trials(probe, "LP"))
    say(shown_trials(full, "FT"))
    return probe, full


def tune(demo: Demo, method: Method) -> Trials:
    """The learning-rate trials of one method, with a bar."""
    tried = rates(*demo.settings.learning_rates)
    with bar(f"{method.name}: learning rates", len(tried) * len(demo.folds)) as shown:
        return comparing.tune(demo.task, method, tried, demo.folds, demo.options.seed, demo.log, shown.update)


def bar(text: str, total: int) -> Any:
    """A bar that leaves nothing behind."""
    return tqdm(total=total, desc=f"   {text}", leave=False, bar_format="{desc} {bar:20} {n_fmt}/{total_fmt}")


def search(demo: Demo) -> tuple[GreedySubTuningTrainer, SearchResult, Trials]:
    """The greedy search, then learning rates for what it chose."""
    blocks = len(find_blocks(demo.task.model))
    rate = demo.settings.learning_rates[len(demo.settings.learning_rates) // 2]
    headline(4, f"Greedy search over {blocks} blocks on the same folds, learning rate {rate:g} (the middle one)")
    trainer = make_trainer(demo, rate)
    result = trainer.search()
    assert isinstance(result, SearchResult)
    trials = tune(demo, Selection(result.blocks))
    say(f"\n{shown_trials(trials, 'SubTuning')}")
    return trainer, result, trials


def make_trainer(demo: Demo, learning_rate: float) -> GreedySubTuningTrainer:
    """The search's trainer, which never gets the test rows."""
    arguments = GreedySubTuningArguments(
        output_dir=str(demo.folder / "study"),
        num_folds=NUM_FOLDS,
        strategy="exact",
        max_blocks=MAX_BLOCKS,
        fold_seed=demo.options.seed,
        seed=demo.options.seed,
        learning_rate=learning_rate,
        metric_for_best_model="accuracy",
        greater_is_better=True,
        label_column="label",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=False,  # one bar for the whole study
        **demo.task.arguments,
    )
    return GreedySubTuningTrainer(
        model=demo.task.model,
        args=arguments,
        train_dataset=demo.data.train,
        train_transform=demo.task.train_transform,
        eval_transform=demo.task.eval_transform,
        data_collator=demo.task.data_collator,
        compute_metrics=demo.task.compute_metrics,
    )


def compare(demo: Demo, tuned: Sequence[Trials], result: SearchResult) -> list[dict[str, Any]]:
    """Final trainings on all target rows, scored on the test split: the table and the verdict."""
    seeds = f"{len(demo.seeds)} seeds" if len(demo.seeds) > 1 else "1 seed"
    headline(
        5, f"Final trainings on all {len(demo.data.train)} digits, {seeds} each; {len(demo.data.test)} test digits"
    )
    results = []
    with bar("final trainings", len(tuned) * len(demo.seeds)) as shown:
        for trials in tuned:
            results.append((trials, repeat(demo.task, trials.method, trials.best, demo.seeds, demo.log, shown.update)))
    rows = method_rows(results)
    say("   " + method_table(rows).replace("\n", "\n   "))
    say(f"\n   {verdict(rows)}")
    cost = result.cost
    each = statistics.fmean(row["seconds"] for row in rows if row["method"] == "FT")
    say(
        f"   The search itself cost {cost.num_evaluations} trainings on folds, {cost.seconds:.0f} s: as much as "
        f"{cost.seconds / each:.0f} full fine-tunes."
    )
    if demo.log.reused:
        say(f"   ({demo.log.reused} trainings were on disk from an earlier run)")
    report = {
        "options": vars(demo.options),
        "methods": rows,
        "search": {"blocks": list(result.blocks), "ladder": result.to_rows()},
    }
    (demo.folder / "results.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return rows


def picture(demo: Demo, result: SearchResult, probe: Trials, full: Trials) -> None:
    """The finetuning profile as PNG and SVG, beside LP and FT at their own best learning rates."""
    from ..plots import Reference, plot_profile, save_figure

    figure = plot_profile(
        result.profile,
        selection=result.blocks,
        linear_probe=Reference(probe.best_mean, probe.standard_error, "linear probe"),
        full_finetuning=Reference(full.best_mean, full.standard_error),
        metric=f"accuracy, mean of {NUM_FOLDS} folds",
        title=f"Finetuning profile: a small {demo.settings.name} on {len(demo.data.train)} corrupted digits",
    )
    files = save_figure(figure, demo.folder / "profile")
    headline(6, "Finetuning profile: what each block alone is worth")
    say(f"   {files[0]}")
