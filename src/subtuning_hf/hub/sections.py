"""
The sections of a model card, each a function of the facts; `""` where there is nothing to tell.

Knows facts; not the metadata of the card, nor how pictures come about.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ..errors import INSTALL
from ..search.finals import summarise
from . import laddering
from .facts import AUTO_CLASSES, CardFacts, Measured
from .markdown import block, code, number, plural, share, table, text

# So many names of classes are shown openly, and so many in all.
_FEW_LABELS, _MOST_LABELS = 20, 1000


def summary(facts: CardFacts) -> str:
    """What the adapter is, in two lines."""
    classes = f" for {_answers(facts)}" if facts.labels else ""
    size = share(facts.trained_parameters, facts.base_parameters)
    of = f", {size} of the {facts.base_parameters:,} of the base" if size else ""
    return (
        f"A [SubTuning](https://arxiv.org/abs/2302.06354) adapter{classes} on {_base(facts)}. "
        f"{_extent(facts)}; everything else is the base's, frozen.\n"
        f"The adapter holds {facts.trained_parameters:,} parameters{of}."
    )


def _answers(facts: CardFacts) -> str:
    """What it answers with, counted."""
    count = len(facts.labels)
    if facts.problem == "regression":
        return "one number" if count == 1 else f"{count:,} numbers"
    several = ", any of which a row may have," if facts.problem == "multi_label_classification" else ""
    return plural(count, "class", "classes") + several


def _extent(facts: CardFacts) -> str:
    """What was trained, in words."""
    of = f" of its {plural(facts.num_blocks, 'block')}" if facts.num_blocks else " of its blocks"
    count, others = len(facts.blocks), len(facts.parts) > len(facts.blocks)
    if not count:
        return "Only its output layer was trained"
    if not others:
        return f"{count}{of} {'was' if count == 1 else 'were'} trained"
    return f"{count}{of} and the output layer were trained"


def _base(facts: CardFacts) -> str:
    if facts.base is None:
        return f"a base of class {code(facts.architecture)}, which is not on the Hub"
    revision = f" (revision {code(facts.base_revision)})" if facts.base_revision else ""
    return f"[{text(facts.base)}](https://huggingface.co/{facts.base}){revision}, a {code(facts.architecture)}"


# --- results --------------------------------------------------------------------------------
def results(facts: CardFacts) -> str:
    """What was measured after the training, and how much of it is luck."""
    measured = [_measured(one) for one in facts.measured]
    finals = _finals(facts)
    pieces = [*filter(None, measured), *filter(None, [finals])]
    return "\n\n".join(["## Results", *pieces]) if pieces else ""


def _measured(one: Measured) -> str:
    rows = [[code(name), number(value)] for name, value in one.metrics.items()]
    if not rows:
        return ""
    count = "" if one.num_rows is None else f", {plural(one.num_rows, 'row')}"
    where = f" of {code(one.source.name)}" if one.source is not None else ""
    words = f"Of this adapter, on the rows named {code(one.split)}{where}{count}."
    words += (
        " These rows also steered the training (its checkpoint or its end), so this is no test."
        if one.steered
        else " Neither the search nor the training was given these rows."
    )
    return f"{words}\n\n{table(['metric', 'value'], rows)}"


def _finals(facts: CardFacts) -> str:
    """Repeated final trainings of the same blocks, by the rows they were scored on."""
    chosen = {part.name for part in facts.blocks}
    runs = () if facts.study is None else facts.study.finals
    mine = [run for run in runs if set(run.candidate.blocks) == chosen]
    found = []
    for rows in dict.fromkeys(str(run.info.get("rows", "")) for run in mine):
        group = [run for run in mine if str(run.info.get("rows", "")) == rows]
        lines = [
            [code(score.metric), number(score.mean), "" if score.spread is None else number(score.spread)]
            for score in summarise(group)
            if not _is_speed(score.metric)
        ]
        if len(group) > 1 and lines:
            seeds = ", ".join(str(run.seed) for run in group)
            found.append(
                f"The same blocks, trained {len(group)} times on all training rows (seeds {seeds}) and scored on the "
                f"same rows: mean and standard deviation between seeds.\n\n{table(['metric', 'mean', 'spread'], lines)}"
            )
    return "\n\n".join(found)


def _is_speed(name: str) -> bool:
    return name.endswith(("_runtime", "_per_second", "_preparation_time", "_model_preparation_time"))


# --- what was trained -----------------------------------------------------------------------
def trained(facts: CardFacts) -> str:
    """The blocks and the head with their sizes, and the labels."""
    rows = [
        [code(part.name) + ("" if part.is_block else " (head)"), f"{part.num_parameters:,}", _of_base(facts, part)]
        for part in facts.parts
    ]
    if len(rows) > 1:
        whole = share(facts.trained_parameters, facts.base_parameters)
        rows.append(["in all", f"{facts.trained_parameters:,}", whole])
    found = ["## What was trained"]
    if not facts.blocks:
        found.append("No block: the adapter is a head alone, on the frozen features of the base.")
    found.append(table(["module", "parameters", "of the base"], rows) if rows else "")
    if facts.steps:
        rows_seen = "" if facts.train_rows is None else f" on {plural(facts.train_rows, 'row')}"
        epochs = "" if facts.epochs is None else f", {facts.epochs:.4g} epochs"
        found.append(f"Trained for {plural(facts.steps, 'step')}{epochs}{rows_seen}.")
    return "\n\n".join([*filter(None, found), *filter(None, [_labels(facts)])])


def _of_base(facts: CardFacts, part: Any) -> str:
    return share(part.num_parameters, facts.base_parameters) if part.is_block else ""


def _labels(facts: CardFacts) -> str:
    if not facts.labels or (facts.problem == "regression" and len(facts.labels) == 1):
        return ""
    what = "Numbers" if facts.problem == "regression" else "Classes"
    names = ", ".join(f"{place} {code(name)}" for place, name in enumerate(facts.labels[:_MOST_LABELS]))
    if len(facts.labels) > _MOST_LABELS:
        names += f" ... and {len(facts.labels) - _MOST_LABELS:,} more, in `adapter_config.json`"
    if len(facts.labels) <= _FEW_LABELS:
        return f"{what} by index: {names}."
    return f"<details><summary>The {len(facts.labels):,} {what.lower()} by index</summary>\n\n{names}.\n\n</details>"


# --- use ------------------------------------------------------------------------------------
def usage(facts: CardFacts) -> str:
    """How to load it, in every way there is."""
    base, adapter = json.dumps(facts.base or "PATH_OR_NAME_OF_THE_BASE"), json.dumps(facts.adapter)
    auto = AUTO_CLASSES.get(facts.task or "")
    revision = f", revision={json.dumps(facts.base_revision)}" if facts.base_revision and facts.base else ""
    if auto is None:
        load = ["base = ...  # the base model, a " + facts.architecture]
    else:
        load = [f"base = {auto}.from_pretrained({base}{revision})"]
    lines = [
        "import subtuning_hf  # makes PEFT know the kind of adapter",
        "from peft import PeftModel",
        *([f"from transformers import {auto}"] if auto else []),
        "",
        *load,
        f"model = PeftModel.from_pretrained(base, {adapter}).eval()",
    ]
    found = ["## How to use", block(f"{INSTALL}  # in a checkout of subtuning-hf", "bash"), block("\n".join(lines))]
    found.append("The head and its labels are in the adapter, so the base may have any other head.")
    found += _shorter_ways(facts, adapter)
    name = json.dumps(facts.title)
    tasks = [
        "from subtuning_hf import MultiTaskModel",
        "",
        f"tasks = MultiTaskModel.from_adapters(base, {{{name}: {adapter}}})  # more adapters of this base: more tasks",
    ]
    found += ["Many tasks on one frozen trunk, which runs once for all of them:", block("\n".join(tasks))]
    return "\n\n".join(found)


def _shorter_ways(facts: CardFacts, adapter: str) -> list[str]:
    if facts.base is None:
        return []
    auto = [
        "import subtuning_hf",
        "from peft import AutoPeftModel",
        "",
        f"model = AutoPeftModel.from_pretrained({adapter}).eval()",
    ]
    found = ["The base is named in the adapter, so this does the same:", block("\n".join(auto))]
    inputs = {"image-classification": "images/", "text-classification": "texts.txt"}.get(facts.task or "")
    if inputs and facts.labels and facts.has_processor:
        what = "an image or a folder of images" if inputs == "images/" else "a file with a text on each line"
        command = block(f"subtuning predict {facts.adapter} {inputs}", "bash")
        given = "Numbers" if facts.problem == "regression" else "Labels and probabilities"
        found += [f"{given} for {what}, without a line of code:", command]
    return found


# --- the search -----------------------------------------------------------------------------
def search(facts: CardFacts, pictures: str = "") -> str:
    """How the blocks were found, what was tried, and what that cost."""
    if facts.result is None:
        return ""
    return "\n\n".join(["## How the blocks were found", *laddering.story(facts.result, facts.study, pictures)])


def comparison(facts: CardFacts) -> str:
    """Beside a linear probe and a full fine-tune, if that was measured."""
    rows = facts.comparison
    if not rows:
        return ""
    most = max(row["trainable_parameters"] for row in rows)
    lines = [
        [
            text(row["method"]),
            number(row["mean"]) + ("" if row.get("spread") is None else f" ± {number(row['spread'])}"),
            str(len(row["scores"])),
            f"{row['trainable_parameters']:,}",
            share(row["trainable_parameters"], most),
            "" if row.get("learning_rate") is None else f"{row['learning_rate']:g}",
        ]
        for row in rows
    ]
    headings = ["method", "test score", "seeds", "trained parameters", "of the largest", "learning rate"]
    counts = sorted({int(row["num_examples"]) for row in rows})
    words = (
        "Each method with its own learning rate, chosen on folds of the training rows, then trained on all of them and "
        f"scored on {' or '.join(f'{count:,}' for count in counts)} test rows; ± is the standard deviation between "
        "seeds. LP trains the head alone, FT everything."
    )
    return "\n\n".join(["## Comparison", words, table(headings, lines)])


# --- data, reproduction, limits -------------------------------------------------------------
def data(facts: CardFacts) -> str:
    """Sizes and fingerprints of the data."""
    known = {} if facts.study is None else facts.study.spec.settings.get("data", {})
    prints = {} if facts.study is None else facts.study.spec.fingerprints
    rows = known.get("rows", facts.train_rows)
    given = [*facts.dataset_names, *(f"arguments {one}" for one in facts.dataset_args)]
    lines = [
        ["data set, as its user named it", ", ".join(map(text, given))],
        ["training rows from", _source(facts)],
        ["training rows", "" if rows is None else f"{rows:,}"],
        ["rows that chose the blocks", _count(known.get("validation_rows"))],
        ["fingerprint of these rows", code(prints["data"]) if prints.get("data") else ""],
        ["fingerprint of the folds", code(prints["folds"]) if prints.get("folds") else ""],
    ]
    shown = [line for line in lines if line[1]]
    if not shown:
        return ""
    words = "A fingerprint is a hash of the rows' content: equal rows have equal fingerprints on every machine."
    found = ["## Data", table(["what", "value"], shown, left=2)]
    return "\n\n".join([*found, *([words] if prints.get("data") else [])])


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else ""


def _source(facts: CardFacts) -> str:
    source = facts.source
    if source is None:
        return ""
    extra = [f"{name} {code(value)}" for name, value in vars(source).items() if value and name != "name"]
    link = f"[{text(source.name)}](https://huggingface.co/datasets/{source.name})"
    return ", ".join([link, *extra])


def reproduction(facts: CardFacts) -> str:
    """Arguments, seed, versions, and where the records of every training are."""
    found = []
    if facts.arguments or facts.seed is not None:
        seed = {} if facts.seed is None else {"seed": facts.seed}
        lines = [f"    {name}={_literal(value)}," for name, value in {**facts.arguments, **seed}.items()]
        call = "\n".join(["GreedySubTuningArguments(", '    "out",', *lines, ")"])
        found += ["What differs from the defaults, and the seed:", block(call)]
    if facts.versions:
        versions = ", ".join(f"{name} {code(version)}" for name, version in facts.versions.items())
        count = "" if facts.processes == 1 else f", {facts.processes} processes"
        where = "" if facts.device is None else f" On {code(facts.device)}{count}."
        found.append(f"{versions}.{where}")
    if facts.has_journal:
        study = "" if facts.study is None else f" Fingerprint of the study: {code(facts.study.spec.fingerprint)}."
        found.append(
            "Every training of the search is in the folder `journal`, as JSON lines; `subtuning plot` draws them."
            + study
        )
    return "\n\n".join(["## How to reproduce it", *found]) if found else ""


def _literal(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(key))}: {_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def limits(facts: CardFacts) -> str:
    """What the numbers do not say."""
    points = []
    if facts.result is not None:
        points += laddering.cautions(facts.result, facts.study)
    if not any(not one.steered for one in facts.measured):
        points.append("This adapter was not scored on rows that it had not seen, or the trainer was not told of it.")
    if facts.labels and facts.problem is None:
        points.append(
            f"It always answers with one of its {plural(len(facts.labels), 'class', 'classes')}, "
            "also for inputs that belong to none of them."
        )
    points.append("No evaluation of fairness, bias, safety or robustness was made, by this package or with it.")
    points.append("What is said of the base, its licence included, holds for the adapter too: it is of no use alone.")
    return "\n".join(["## Limits", "", *(f"- {point}" for point in points)])
