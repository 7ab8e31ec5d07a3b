"""What functions and settings are: equal for equal ones in every process, different for every change."""

import collections
import copy
import dataclasses
import datetime
import decimal
import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import evaluate
import pytest
import torch
from transformers import DefaultDataCollator, EarlyStoppingCallback, Trainer, TrainingArguments

from subtuning_hf.training.arguments import GreedySubTuningArguments
from subtuning_hf.training.identity import (
    EXCLUDED,
    INNER_ONLY,
    LATER,
    RANDOM_DATA_ONLY,
    describe,
    fingerprint_code,
    model_identity,
    settings_of,
)
from training.cases import accuracy, make_args, make_model

# Fields of other versions of transformers than the installed one.
OTHER_VERSIONS = {
    "overwrite_output_dir",
    "logging_dir",
    "include_tokens_per_second",
    "save_safetensors",
}


def scaled(factor):
    def function(x):
        return factor * x

    return function


class Scale:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, x):
        return self.factor * x

    def method(self, x):
        return x


class OwnMetric(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="",
            citation="",
            features=__import__("datasets").Features(
                {
                    "predictions": __import__("datasets").Value("int64"),
                    "references": __import__("datasets").Value("int64"),
                }
            ),
        )

    def _compute(self, predictions, references):
        return {"own": 0.0}


class Loss(Trainer):
    def compute_loss(self, *args, **kwargs):
        return super().compute_loss(*args, **kwargs)


def test_code_counts_by_source_and_captured_values():
    things = [
        scaled(2), scaled(3), accuracy, len, Scale(2), Scale(3), Scale(2).method, Scale, Trainer, Loss,
        functools.partial(accuracy, 1), functools.partial(accuracy, 2), lambda x: x, lambda x: x + 1,
        EarlyStoppingCallback, DefaultDataCollator(), (torch.optim.SGD, {"lr": 1}), (torch.optim.SGD, {"lr": 2}),
        scaled(torch.ones(2)), scaled(torch.zeros(2)), scaled(scaled(1)), scaled(scaled(2)), torch.nn.Dropout(0.1),
        torch.nn.Dropout(0.2),
    ]  # fmt: skip
    prints = [fingerprint_code(thing) for thing in things]
    assert len(set(prints)) == len(things)
    assert [fingerprint_code(thing) for thing in things] == prints
    assert fingerprint_code(scaled(2)) == fingerprint_code(scaled(2))
    assert fingerprint_code(Scale(2)) == fingerprint_code(Scale(2))


class OwnLoss(torch.nn.Module):
    def __init__(self, gamma):
        super().__init__()
        self.gamma, self.inner = gamma, torch.nn.CrossEntropyLoss(label_smoothing=0.1)


@dataclasses.dataclass(slots=True)
class Slotted:
    number: int


def weighted(weights):
    class Weighted(Trainer):
        def compute_loss(self, model, inputs, **kwargs):
            return super().compute_loss(model, inputs, **kwargs) * weights[0]

    return Weighted


PAIRS = [
    ({0, 1}, {2}), (frozenset("ab"), frozenset("ac")), (range(3), range(5)), (slice(0, 1), slice(0, 2)),
    (re.compile("a"), re.compile("b")), (Path("a"), Path("b")), (Slotted(1), Slotted(2)),
    (collections.deque([1]), collections.deque([2])), (bytearray(b"a"), bytearray(b"b")),
    (datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)), (decimal.Decimal("1.5"), decimal.Decimal("1.25")),
    (OwnLoss(0.0), OwnLoss(3.0)), (torch.nn.CrossEntropyLoss(), torch.nn.CrossEntropyLoss(label_smoothing=0.5)),
    ({(1, 2): scaled(2)}, {(1, 2): scaled(3)}), (weighted([1.0]), weighted([2.0])),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), PAIRS, ids=[f"{i}-{type(one).__name__}" for i, (one, _) in enumerate(PAIRS)])
def test_captured_values_of_every_kind_count(one, other):
    assert fingerprint_code(scaled(one)) == fingerprint_code(scaled(one))
    if not isinstance(one, type):
        assert fingerprint_code(scaled(one)) == fingerprint_code(scaled(copy.deepcopy(one)))
    assert fingerprint_code(scaled(one)) != fingerprint_code(scaled(other))


def test_a_class_counts_by_its_attributes_as_they_are(monkeypatch):
    before = fingerprint_code(Scale)
    monkeypatch.setattr(Scale, "factors", [1.0, 2.0], raising=False)
    changed = fingerprint_code(Scale)
    Scale.factors[1] = 3.0
    assert len({before, changed, fingerprint_code(Scale)}) == 3


def test_a_plain_model_counts_by_its_attributes():
    same, other = (model_identity(OwnLoss(gamma)) for gamma in (1.0, 2.0))
    assert same == model_identity(OwnLoss(1.0).eval()) and same != other


def test_a_changed_line_is_seen_and_an_unchanged_one_is_equal_in_a_new_process(tmp_path):
    def load(source):
        path = tmp_path / f"own_{abs(hash(source))}.py"
        path.write_text(source)
        spec = importlib.util.spec_from_file_location("own", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules["own"] = module
        spec.loader.exec_module(module)
        return module

    source = (
        "class T:\n    def __call__(self, x):\n        return x in {'a', 'b', 'c'}\n\ndef f(x):\n    return x + 1\n"
    )
    first, second = load(source), load(source.replace("+ 1", "+ 2"))
    assert fingerprint_code(first.f) != fingerprint_code(second.f)
    assert fingerprint_code(first.T()) == fingerprint_code(second.T())
    # Without source, bytecode must do, and be free of hash randomisation.
    code = (
        "from subtuning_hf.training.identity import fingerprint_code as f\n"
        f"names = {{'__name__': '__main__'}}; exec({source!r}, names)\n"
        "print(f(names['f']), f(names['T']()))"
    )
    other = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "3"},
        capture_output=True,
        text=True,
        check=True,
        timeout=250,
    )
    names = {"__name__": "__main__"}
    exec(source, names)
    assert other.stdout.split() == [fingerprint_code(names["f"]), fingerprint_code(names["T"]())]


def test_a_metric_of_evaluate_is_the_same_at_every_load():
    first, second = scaled(OwnMetric()), scaled(OwnMetric(seed=5))
    assert fingerprint_code(first) == fingerprint_code(second)


def test_descriptions_name_the_thing():
    assert describe(accuracy) == "training.cases.accuracy"
    assert describe(functools.partial(accuracy, 1)) == "partial(training.cases.accuracy)"
    assert describe(Scale(2)).endswith("test_identity.Scale")
    assert describe(Scale(2).method).endswith("Scale.method")


# --- settings -------------------------------------------------------------------------------
def test_excluded_names_are_fields():
    fields = {f.name for f in dataclasses.fields(GreedySubTuningArguments)}
    listed = EXCLUDED | INNER_ONLY | RANDOM_DATA_ONLY
    assert listed - fields <= OTHER_VERSIONS
    assert not EXCLUDED & INNER_ONLY
    # Whoever adds a field to the arguments decides here whether it can change a score.
    ours = fields - {f.name for f in dataclasses.fields(TrainingArguments)}
    assert ours - listed == {
        "num_folds", "stratify", "label_column", "group_column", "fold_column", "head_learning_rate",
        *LATER,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({"learning_rate": 0.5}, True),
        ({"num_train_epochs": 2}, True),
        ({"seed": 7}, True),
        ({"weight_decay": 0.1}, True),
        ({"per_device_train_batch_size": 4}, True),
        ({"optim": "sgd"}, True),
        ({"head_learning_rate": 0.1}, True),
        ({"lr_scheduler_kwargs": {"num_cycles": 2}}, True),
        ({"output_dir": "elsewhere"}, False),
        ({"logging_steps": 3}, False),
        ({"run_name": "x", "push_to_hub": False, "disable_tqdm": False}, False),
        ({"max_blocks": 2, "min_gain": 0.5, "dry_run": True}, False),
        ({"eval_strategy": "epoch", "inner_validation_fraction": 0.5}, False),
        ({"dataloader_num_workers": 1}, False),
    ],
)
def test_settings_that_can_change_a_score_count(tmp_path, changes, counts):
    base = settings_of(make_args(tmp_path), inner=False, random_data=False)
    other = settings_of(make_args(**{"folder": tmp_path, **_folder(changes)}), inner=False, random_data=False)
    assert (base != other) is counts
    assert json.loads(json.dumps(base)) == base


def _folder(changes):
    changes = dict(changes)
    if "output_dir" in changes:
        changes["folder"] = changes.pop("output_dir")
    return changes


def test_some_settings_count_only_where_they_matter(tmp_path):
    one, two = make_args(tmp_path), make_args(tmp_path, inner_validation_fraction=0.5, dataloader_num_workers=1)
    assert settings_of(one, True, False) != settings_of(two, True, False)
    assert settings_of(one, False, True) != settings_of(two, False, True)
    assert settings_of(one, False, False)["fold_seed"] == 42
    assert settings_of(make_args(tmp_path, fold_seed=42), False, False) == settings_of(one, False, False)


def test_a_models_config_counts_but_not_its_label_names():
    base = model_identity(make_model())
    renamed = make_model()
    renamed.config.id2label = {0: "a", 1: "b", 2: "c"}
    renamed.config.use_cache = False
    assert model_identity(renamed) == base
    assert model_identity(make_model(hidden_act="gelu")) != base
    plain = model_identity(torch.nn.Sequential(torch.nn.Dropout(0.1)))
    assert plain != model_identity(torch.nn.Sequential(torch.nn.Dropout(0.2)))


def test_the_launchers_precision_counts_where_the_arguments_say_nothing_of_it(tmp_path, monkeypatch):
    plain = settings_of(make_args(tmp_path), False, False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert settings_of(make_args(tmp_path), False, False) == plain
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    launched = settings_of(make_args(tmp_path), False, False)
    assert launched.pop("mixed_precision") == "bf16" and launched == plain
    assert "mixed_precision" not in settings_of(make_args(tmp_path, bf16=True), False, False)
