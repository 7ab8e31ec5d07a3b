"""Metrics by name, without a network: what scikit-learn gives, for every kind of labels, and clear errors."""

import numpy as np
import pytest
from sklearn import metrics as reference
from transformers import EvalPrediction

from subtuning_hf.cli.metrics import LOCAL, compute_metrics_with
from subtuning_hf.errors import RecipeError
from support.cases import Case, pad, searched
from support.test_tasks import TASKS

DRAW = np.random.default_rng(0)
IMBALANCED = (DRAW.random(60) < 0.1).astype(int)
CLASSES = DRAW.integers(0, 4, 60)
MANY = (DRAW.random((40, 3)) < 0.3).astype(float)


def averaged(part, average):
    score = getattr(reference, f"{part}_score")
    return lambda true, found: score(true, found, average=average, zero_division=0)


SKLEARN = {
    "accuracy": reference.accuracy_score,
    "balanced_accuracy": reference.balanced_accuracy_score,
    "matthews_correlation": reference.matthews_corrcoef,
    **{part: averaged(part, "binary") for part in ("f1", "precision", "recall")},
    **{
        f"{average}_{part}": averaged(part, average)
        for part in ("f1", "precision", "recall") for average in ("macro", "micro", "weighted")
    },
    "mse": reference.mean_squared_error,
    "rmse": reference.root_mean_squared_error,
    "mae": reference.mean_absolute_error,
    "r_squared": reference.r2_score,
    "pearsonr": lambda true, found: np.corrcoef(true, found)[0, 1],
    "spearmanr": lambda true, found: __import__("scipy.stats").stats.spearmanr(true, found).statistic,
}  # fmt: skip
NUMBERS = ["mse", "rmse", "mae", "r_squared", "pearsonr", "spearmanr"]
BINARY = ["f1", "precision", "recall"]
ONE = ["balanced_accuracy", "matthews_correlation", *BINARY]  # of one label per row


def value(name, logits, labels):
    found = compute_metrics_with(name)(EvalPrediction(predictions=logits, label_ids=labels))
    assert list(found) == [name]
    return found[name]


def logits_for(classes, count):
    """Logits whose likeliest class is right in two thirds of the rows."""
    likely = np.where(np.arange(len(classes)) % 3 == 0, (classes + 1) % count, classes)
    return np.eye(count)[likely] + 0.1 * DRAW.random((len(classes), count)), likely


def test_every_local_metric_is_compared():
    assert SKLEARN.keys() == LOCAL.keys()


@pytest.mark.parametrize("name", [name for name in SKLEARN if name not in NUMBERS])
def test_classes(name):
    labels, count = (IMBALANCED, 2) if name in BINARY else (CLASSES, 4)
    logits, likely = logits_for(labels, count)
    assert value(name, logits, labels) == pytest.approx(SKLEARN[name](labels, likely))


@pytest.mark.parametrize("name", ["f1", "matthews_correlation", "balanced_accuracy", "macro_f1", "precision"])
def test_nothing_of_the_rare_class_is_found(name):
    logits = np.tile([1.0, 0.0], (60, 1))
    found = value(name, logits, IMBALANCED)
    assert found == pytest.approx(SKLEARN[name](IMBALANCED, np.zeros(60, int)))
    assert found <= 0.5 < value("accuracy", logits, IMBALANCED)


@pytest.mark.parametrize("name", [name for name in SKLEARN if name not in (*NUMBERS, *ONE)])
def test_several_labels_per_row(name):
    logits = MANY - 0.5 + DRAW.normal(size=MANY.shape)
    assert value(name, logits, MANY) == pytest.approx(SKLEARN[name](MANY, logits > 0))


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("shape", [(60,), (60, 1)])
def test_numbers(name, shape):
    true = np.round(DRAW.normal(size=60), 1).astype(np.float32)  # with ties
    found = (true + DRAW.normal(size=60)).astype(np.float32)
    assert value(name, found.reshape(shape), true) == pytest.approx(float(SKLEARN[name](true, found)), rel=1e-4)


def test_padded_tokens_are_left_out():
    labels = CLASSES.reshape(10, 6).copy()
    logits = logits_for(labels.reshape(-1), 4)[0].reshape(10, 6, 4)
    labels[:, 4:] = -100
    assert value("accuracy", logits, labels) == pytest.approx((logits.argmax(-1)[:, :4] == labels[:, :4]).mean())


@pytest.mark.parametrize(
    ("name", "logits", "labels", "message"),
    [
        ("accuracy", np.zeros((4, 1)), np.array([0.1, 0.2, 0.3, 0.4]), "'accuracy' compares classes.*are numbers.*mae"),
        ("mse", np.zeros((4, 2)), np.array([0, 1, 0, 1]), "'mse' compares numbers, but the labels are classes"),
        ("mse", np.zeros((4, 2)), np.array([0.1, 0.2, 0.3, 0.4]), r"one number per label, found .*\(4, 2\)"),
        ("f1", np.eye(3), np.array([0, 1, 2]), "class 1 against 0, found 3 classes. Use macro_f1"),
        ("f1", np.ones((2, 3)), np.ones((2, 3)), "several labels per row. Use macro_f1"),
        ("matthews_correlation", np.ones((2, 3)), np.ones((2, 3)), "Use micro_f1"),
        ("accuracy", np.ones((2, 3)), (np.ones(2), np.ones(2)), "one array of labels, found 2"),
    ],
)
def test_metrics_of_another_kind_say_so(name, logits, labels, message):
    with pytest.raises(ValueError, match=message):
        value(name, logits, labels)


def test_other_names_go_to_evaluate():
    with pytest.raises(RecipeError, match="'bertscore' is neither one of accuracy, .*without a network"):
        compute_metrics_with("bertscore")


@pytest.mark.parametrize(
    ("task", "name", "greater"),
    [
        ("classification", "macro_f1", True),
        ("imbalanced", "matthews_correlation", True),
        ("regression", "rmse", False),
        ("multi-label", "micro_f1", True),
        ("token classification", "accuracy", True),
    ],
)
def test_a_search_by_name(task, name, greater, tmp_path):
    case = TASKS[task]
    args = {"metric_for_best_model": name, "greater_is_better": greater}
    kwargs = {"data_collator": pad, "compute_metrics": compute_metrics_with(name)}
    found, trainer = searched(Case({**case.args, **args}, kwargs, case.model, case.rows), tmp_path)
    assert all(np.isfinite(each[f"eval_{name}"]) for each in found.values())
    evaluations = trainer.study().evaluations
    assert all(one.score == (1 if greater else -1) * one.metrics[f"eval_{name}"] for one in evaluations)
