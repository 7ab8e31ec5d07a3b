"""The harness gives every method the same, chooses learning rates by the folds, and repeats nothing it has stored."""

import json

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from peft import get_peft_model
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, TrainingArguments
from transformers.modeling_outputs import ImageClassifierOutput

from subtuning_hf import SubTuningConfig
from subtuning_hf.compare import (
    FullFineTuning,
    LinearProbe,
    RunLog,
    Selection,
    Task,
    Trials,
    method_rows,
    method_table,
    rates,
    repeat,
    tune,
    verdict,
)
from subtuning_hf.errors import ArgumentsError, MetricNotFoundError, NonFiniteScoreError
from subtuning_hf.search.folds import make_folds

WIDTH = 6
RATE = {"learning_rate": 1e-2}


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


class Net(PreTrainedModel):
    config_class = PretrainedConfig
    main_input_name = "x"

    def __init__(self, config):
        super().__init__(config)
        self.layers = nn.ModuleList(Layer() for _ in range(3))
        self.classifier = nn.Linear(WIDTH, 2)

    def forward(self, x, labels=None):
        for layer in self.layers:
            x = layer(x)
        logits = self.classifier(x)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)


def accuracy(prediction):
    return {"accuracy": float(np.mean(prediction.predictions.argmax(-1) == prediction.label_ids))}


def collate(rows):
    return {
        "x": torch.tensor([row["x"] for row in rows]),
        "labels": torch.tensor([row["label"] for row in rows]),
    }


def rows_of(count, seed):
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(count, WIDTH)).astype("float32")
    features = Features({"x": Sequence(Value("float32")), "label": ClassLabel(names=["no", "yes"])})
    return Dataset.from_dict({"x": x.tolist(), "label": (x[:, 0] * x[:, 1] > 0).astype(int).tolist()}, features)


@pytest.fixture
def task():
    torch.manual_seed(0)
    arguments = {"num_train_epochs": 3, "per_device_train_batch_size": 8, "use_cpu": True, "report_to": []}
    return Task(
        Net(PretrainedConfig(num_labels=2)), rows_of(36, 0), rows_of(30, 1), arguments, accuracy, data_collator=collate
    )


@pytest.fixture
def folds(task):
    return make_folds(len(task.train), 3, 0, labels=task.train["label"])


def weights_of(task):
    return {name: tensor.clone() for name, tensor in task.model.state_dict().items()}


def test_methods_train_what_they_say_and_leave_the_model_alone(task):
    before = weights_of(task)
    methods = (LinearProbe, FullFineTuning, Selection(["layers.1"]))
    runs = {method.name: repeat(task, method, RATE, [0])[0] for method in methods}
    head = sum(p.numel() for p in task.model.classifier.parameters())
    block = sum(p.numel() for p in task.model.layers[1].parameters())
    assert runs["LP"]["trainable_parameters"] == head
    assert runs["SubTuning"]["trainable_parameters"] == head + block
    assert runs["FT"]["trainable_parameters"] == sum(p.numel() for p in task.model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.model.state_dict().items())
    assert not hasattr(task.model, "peft_config") and all(p.requires_grad for p in task.model.parameters())


def test_a_selection_of_no_block_is_the_linear_probe(task):
    assert repeat(task, Selection([]), RATE, [3])[0]["score"] == repeat(task, LinearProbe, RATE, [3])[0]["score"]


def test_a_run_is_what_a_trainer_gives(task):
    """The harness adds nothing of its own: an ordinary Trainer on an ordinary PeftModel scores the same."""
    import copy
    import tempfile

    from transformers import Trainer, set_seed

    found = repeat(task, Selection(["layers.2"]), RATE, [5])[0]["score"]
    set_seed(5)
    model = get_peft_model(copy.deepcopy(task.model), SubTuningConfig(blocks=["layers.2"]))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, seed=5, learning_rate=1e-2, remove_unused_columns=False, save_strategy="no", **task.arguments
        )
        trainer = Trainer(
            model,
            arguments,
            train_dataset=task.train,
            eval_dataset=task.test,
            data_collator=collate,
            compute_metrics=accuracy,
        )
        trainer.train()
        assert trainer.evaluate()["eval_accuracy"] == found


def test_trials_score_the_folds_and_never_the_test_rows(task, folds):
    class Untouchable:
        def __getattr__(self, name):
            raise AssertionError(f"the test rows were touched: {name}")

    identity = task.identity  # reads the test rows to recognise them, before they are taken away
    object.__setattr__(task, "test", Untouchable())
    calls = []
    trials = tune(task, FullFineTuning, rates(1e-3, 1e-2), folds, 0, on_run=lambda: calls.append(1))
    assert task.identity == identity and len(calls) == 6
    assert trials.fold_sizes == tuple(len(fold.validation) for fold in folds)
    assert trials.best_mean == max(trials.mean(0), trials.mean(1))


def test_the_search_scores_as_the_harness_does(task, folds, tmp_path):
    """A candidate's evaluation in the search and a trial here are the same number, bit for bit."""
    from subtuning_hf import GreedySubTuningArguments, GreedySubTuningTrainer

    trials = tune(task, Selection(["layers.0"]), rates(1e-2), folds, 0)
    arguments = GreedySubTuningArguments(
        str(tmp_path),
        strategy="exact",
        num_folds=3,
        max_blocks=1,
        fold_seed=0,
        seed=0,
        learning_rate=1e-2,
        disable_tqdm=True,
        metric_for_best_model="accuracy",
        greater_is_better=True,
        label_column="label",
        remove_unused_columns=False,
        **task.arguments,
    )
    trainer = GreedySubTuningTrainer(
        model=task.model, args=arguments, train_dataset=task.train, data_collator=collate, compute_metrics=accuracy
    )
    result = trainer.search()
    searched = [e for r in result.rounds for e in r.evaluations if e.candidate.blocks == ("layers.0",)]
    scores = tuple(e.score for e in sorted(searched, key=lambda e: e.fold))
    assert scores == trials.fold_scores[0]


def test_a_stopped_comparison_goes_on(task, folds, tmp_path):
    file = tmp_path / "runs.jsonl"
    whole = tune(task, LinearProbe, rates(1e-3, 1e-2), folds, 0, RunLog(file))
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) == 6
    file.write_bytes(b"".join(lines[:4]) + lines[4][:-9])  # killed while it wrote the fifth
    log = RunLog(file)
    again = tune(task, LinearProbe, rates(1e-3, 1e-2), folds, 0, log)
    assert again.fold_scores == whole.fold_scores and log.reused == 4
    assert [json.loads(line)["key"] for line in file.read_bytes().splitlines()] == [json.loads(x)["key"] for x in lines]


@pytest.mark.parametrize("change", ["weights", "rows", "arguments", "seed", "learning_rate"])
def test_a_changed_task_reuses_nothing(task, tmp_path, change):
    import dataclasses

    repeat(task, LinearProbe, RATE, [0], RunLog(tmp_path / "runs.jsonl"))
    seeds, rate = [0], 1e-2
    if change == "weights":
        with torch.no_grad():
            task.model.classifier.bias += 1
        task = dataclasses.replace(task, _identity=[])
    elif change == "rows":
        task = dataclasses.replace(task, train=task.train.select(range(30)), _identity=[])
    elif change == "arguments":
        task = dataclasses.replace(task, arguments={**task.arguments, "num_train_epochs": 2}, _identity=[])
    elif change == "seed":
        seeds = [1]
    else:
        rate = 2e-2
    log = RunLog(tmp_path / "runs.jsonl")
    repeat(task, LinearProbe, {"learning_rate": rate}, seeds, log)
    assert log.reused == 0


def test_bad_input(task, folds):
    import dataclasses

    with pytest.raises(ArgumentsError, match="must not be empty"):
        tune(task, LinearProbe, rates(), folds, 0)
    with pytest.raises(MetricNotFoundError, match="'f1', an evaluation returns .*accuracy"):
        repeat(dataclasses.replace(task, metric="f1", _identity=[]), LinearProbe, RATE, [0])
    broken = dataclasses.replace(task, compute_metrics=lambda p: {"accuracy": float("nan")}, _identity=[])
    with pytest.raises(NonFiniteScoreError, match="LP scored nan"):
        repeat(broken, LinearProbe, RATE, [0])


def row(name, mean, spread=0.01, parameters=10, count=600):
    return {
        "method": name, "blocks": [], "mean": mean, "spread": spread, "scores": [mean] * 3, "num_examples": count,
        "cv_mean": mean, "learning_rate": 0.01, "learning_rate_at_edge": name == "LP",
        "trainable_parameters": parameters, "seconds": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ((0.5, 0.7, 0.9), "SubTuning wins: 20.0 points above FT"),
        ((0.5, 0.9, 0.7), "FT wins: 20.0 points above SubTuning"),
        ((0.9, 0.5, 0.7), "LP wins: 20.0 points above SubTuning"),
        ((0.5, 0.71, 0.70), "No clear winner: SubTuning (with 20 % of FT's parameters) is 1.0 points below FT"),
    ],
)
def test_the_verdict_names_whoever_is_ahead(scores, words):
    rows = [
        row("LP", scores[0], parameters=2),
        row("FT", scores[1], parameters=100),
        row("SubTuning", scores[2], parameters=20),
    ]
    assert words in verdict(rows)


def test_the_verdict_knows_paired_differences():
    rows = [row("FT", 0.71, parameters=100), row("SubTuning", 0.70, parameters=20)]
    rows[0]["against"] = {"method": "SubTuning", "margin": 0.004}
    assert "FT wins: 1.0 points above SubTuning (with 20 % of FT's parameters; half of the 95 % interval: 0.4)" in (
        verdict(rows)
    )
    rows[0]["against"] = {"method": "SubTuning", "margin": None}
    assert "2 standard errors" in verdict(rows)


def test_the_table(task):
    table = method_table([row("LP", 0.512), row("FT", 0.75, parameters=1000)])
    assert "51.2 ± 1.0 %" in table and "1,000" in table and "0.01*" in table and "* the lowest or highest" in table
    assert "±" not in method_table([row("FT", 0.75, spread=None)])


def test_rows_count_seeds():
    trials = Trials(LinearProbe, tuple(rates(0.1, 0.01)), ((0.5, 0.7), (0.6, 0.8)), (10, 30), 1.0)
    runs = [{"score": s, "num_examples": 9, "trainable_parameters": 3, "seconds": 2.0} for s in (0.5, 0.7)]
    (found,) = method_rows([(trials, runs)])
    assert trials.best == RATE and found["cv_mean"] == pytest.approx(0.75) and found["mean"] == pytest.approx(0.6)
    assert found["spread"] == pytest.approx(0.1 * 2**0.5) and found["learning_rate_at_edge"]
