"""Rows are picked as the rules say, by models that know the labels they asked for and no other."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import PretrainedConfig

from compare.test_compare import Net, accuracy, collate, rows_of
from subtuning_hf.compare import ACQUISITIONS, METHODS, Selection, Task, active_learning, compare
from subtuning_hf.compare.active_outputs import KeptMethod, blank_labels, look_at
from subtuning_hf.compare.active_rules import Seen, badge, chance, coreset, entropy, margin
from subtuning_hf.compare.choosing import middle_settings
from subtuning_hf.errors import ArgumentsError

BUDGETS = (12, 18, 24)
MIDDLE = middle_settings(1e-2)
GIVEN = dict.fromkeys(METHODS, MIDDLE)


def make_task(epochs=2, **changed):
    torch.manual_seed(0)
    arguments = {"num_train_epochs": epochs, "per_device_train_batch_size": 8, "use_cpu": True, "report_to": []}
    parts = {"train": rows_of(40, 0), "test": rows_of(30, 1), "data_collator": collate} | changed
    return Task(Net(PretrainedConfig(num_labels=2)), arguments=arguments, compute_metrics=accuracy, **parts)


def learn(task, methods=("LP", "SubTuning"), acquisitions=ACQUISITIONS, budgets=BUDGETS, **asked):
    shared = {"learning_rate": 1e-2, "settings": GIVEN, "blocks": ["layers.1"]}
    return active_learning(task, methods, acquisitions, budgets, **{**shared, **asked})


def rng():
    return np.random.default_rng(0)


def seen_of(probabilities, features=None, labelled=None):
    probabilities = np.asarray(probabilities, dtype=float)
    features = np.zeros((len(probabilities), 1)) if features is None else np.asarray(features, dtype=float)
    return Seen(probabilities, features, np.zeros((1, features.shape[1])) if labelled is None else np.asarray(labelled))


# --- rules ------------------------------------------------------------------------------------
def test_margin_and_entropy_differ_where_they_should():
    seen = seen_of([[0.90, 0.10, 0.00], [0.50, 0.49, 0.01], [0.40, 0.31, 0.29], [0.60, 0.30, 0.10]])
    assert margin(seen, 4, rng()) == [1, 2, 3, 0]  # margins 0.80, 0.01, 0.09, 0.30
    assert entropy(seen, 4, rng()) == [2, 3, 1, 0]  # entropies 0.33, 0.74, 1.09, 0.90
    assert entropy(seen_of([[1.0, 0.0], [0.5, 0.5]]), 1, rng()) == [1]


def test_equal_rows_are_picked_in_order():
    assert margin(seen_of([[0.5, 0.5]] * 4), 2, rng()) == [0, 1]


def test_coreset_takes_the_farthest_row_each_time():
    seen = seen_of([[1.0, 0.0]] * 4, [[1.0], [10.0], [4.0], [9.0]], [[0.0]])
    assert coreset(seen, 4, rng()) == [1, 2, 0, 3]
    assert coreset(replace(seen, labelled_features=np.array([[0.0], [10.0]])), 1, rng()) == [2]


@pytest.mark.parametrize("rule", [coreset, badge])
def test_copies_are_picked_once_each(rule):
    seen = seen_of([[0.7, 0.3]] * 6, [[1.0, 2.0]] * 5 + [[3.0, 0.0]], [[1.0, 2.0]])
    picked = rule(seen, 6, rng())
    assert sorted(picked) == list(range(6)) and picked[0] == 5


def test_badge_is_k_means_plus_plus_on_written_out_gradients():
    draw = np.random.default_rng(3)
    probabilities = draw.dirichlet(np.ones(3), 20)
    seen = seen_of(probabilities, draw.normal(size=(20, 4)))
    gradients = torch.empty(20, 12, dtype=torch.double)
    for row in range(20):  # of cross-entropy at the likeliest class, for the weights of a linear layer
        weight = torch.zeros(3, 4, dtype=torch.double, requires_grad=True)
        logits = torch.tensor(np.log(probabilities[row])) + weight @ torch.tensor(seen.features[row])
        torch.nn.functional.cross_entropy(logits[None], logits.argmax()[None]).backward()
        gradients[row] = weight.grad.flatten()
    expected, generator = [int(gradients.norm(dim=1).argmax())], rng()
    for _ in range(7):
        distances = torch.cdist(gradients, gradients[expected]).amin(1).square().numpy()
        distances[expected] = 0
        expected.append(int(generator.choice(20, p=distances / distances.sum())))
    assert badge(seen, 8, rng()) == expected


def test_chance_depends_on_the_generator_alone():
    assert chance(50, 5, rng()) == chance(50, 50, rng())[:5]
    assert sorted(chance(50, 50, rng())) == list(range(50))


# --- what a rule is given ---------------------------------------------------------------------
@pytest.mark.parametrize("name", ["LP", "FT", "LoRA", "SubTuning"])
def test_a_kept_model_is_the_one_that_was_scored(name):
    task = make_task()
    method = Selection(["layers.1"]) if name == "SubTuning" else METHODS[name]
    kept, settings = KeptMethod(method), {**MIDDLE, "rank": 2}
    run = kept.run(task, settings, 0, task.train, task.test)
    assert run["hits"] == method.run(task, settings, 0, task.train, task.test)["hits"]
    model = kept.trained()
    assert not isinstance(model, PeftModel) and not model.training
    seen = look_at(model, task, task.test, task.train)
    with torch.no_grad():
        x = torch.tensor(task.test["x"])
        logits = model(x).logits
        for layer in model.layers:
            x = layer(x)
    assert np.allclose(seen.probabilities, logits.double().softmax(-1), atol=1e-5)
    assert np.allclose(seen.features, x, atol=1e-5) and seen.labelled_features.shape == (40, 6)
    assert np.mean(seen.probabilities.argmax(1) == np.array(task.test["label"])) == run["score"]


def test_blanked_rows_tell_no_label():
    task = make_task()
    blank = blank_labels(task.train, "label", 3)
    assert set(blank["label"]) == {task.train[3]["label"]} and len(set(task.train["label"])) == 2
    assert blank["x"] == task.train["x"] and blank.features == task.train.features


def test_labels_that_were_not_asked_for_change_nothing():
    """Neither blocks, nor hyperparameters, nor the rows that are labelled next; nor do those of the test rows."""
    asked = {"settings": None, "blocks": None, "num_trials": 2, "num_folds": 2, "budgets": (16, 22)}
    task = make_task(epochs=12)
    found = learn(task, **asked)
    first = set(found.rounds[0]["rows"])
    other = [label if row in first else 1 - label for row, label in enumerate(task.train["label"])]
    swapped = replace(task, train=_relabelled(task.train, other), _identity=[])
    assert _rows(learn(swapped, **asked)) == _rows(found) and learn(swapped, **asked).methods == found.methods
    test = _relabelled(task.test, [1 - label for label in task.test["label"]])
    again = learn(replace(task, test=test, _identity=[]), **asked)
    assert _rows(again) == _rows(found) and again.methods == found.methods
    assert [one["score"] for one in again.rounds] != [one["score"] for one in found.rounds]


def test_what_looks_at_the_pool_reads_one_label():
    read = []

    def transform(batch):
        read.append(list(batch["label"]))
        return batch

    task = make_task(eval_transform=transform)
    found = learn(task, ["LP"], ["margin"])
    tests, pools = [], []
    for labels in read:
        (tests if len(set(labels)) > 1 else pools).append(labels)
    rows = sum(len(one) for one in pools)
    # Two rounds look: at the pool, and at what is labelled, which is all 40 rows each time.
    assert rows == 2 * 40 and sum(len(one) for one in tests) == 3 * 30
    assert {label for one in pools for label in one} == {task.train[found.rounds[0]["rows"][0]]["label"]}


def _relabelled(rows, labels):
    feature = rows.features["label"]
    return rows.remove_columns("label").add_column("label", labels, feature=feature)


def _rows(found):
    return [(one["method"], one["acquisition"], one["rows"]) for one in found.rounds]


# --- rounds -----------------------------------------------------------------------------------
def test_first_rows_and_random_rows_are_the_same_for_all():
    found = learn(make_task(), ["LP", "FT", "SubTuning"])
    assert len(found.rounds) == 3 * len(ACQUISITIONS) * len(BUDGETS)
    assert len({tuple(one["rows"]) for one in found.rounds if one["budget"] == BUDGETS[0]}) == 1
    for budget in BUDGETS:
        ours = [one for one in found.rounds if one["budget"] == budget]
        assert all(len(set(one["rows"])) == budget for one in ours)
        assert len({tuple(one["rows"]) for one in ours if one["acquisition"] == "random"}) == 1
    last = [tuple(one["rows"]) for one in found.rounds if one["budget"] == BUDGETS[-1]]
    assert len(set(last)) > 5  # while others differ
    for low, high in zip(found.rounds, found.rounds[1:], strict=False):
        assert high["budget"] == BUDGETS[0] or set(low["rows"]) < set(high["rows"])
    other = learn(make_task(), ["LP"], ["random"], seed=1)
    assert other.rounds[0]["rows"] != found.rounds[0]["rows"]


def test_a_round_is_a_training_from_the_pretrained_weights():
    task = make_task()
    found = learn(task, ["FT"], ["margin"])
    for one in found.rounds:
        rows = task.train.select(one["rows"])
        run = METHODS["FT"].run(task, MIDDLE, 0, rows, task.test)
        assert (run["score"], run["hits"]) == (one["score"], one["hits"])
    assert found.score("FT", "margin", 24) == found.rounds[-1]["score"]


def test_the_margin_is_that_of_the_model_of_the_round():
    task = make_task()
    found = learn(task, ["FT"], ["margin"], BUDGETS[:2])
    first, second = (set(one["rows"]) for one in found.rounds)
    kept = KeptMethod(METHODS["FT"])
    kept.run(task, MIDDLE, 0, task.train.select(sorted(first)), task.test)
    with torch.no_grad():
        two = kept.trained()(torch.tensor(task.train["x"])).logits.softmax(-1).sort(-1).values[:, -2:]
    margins = (two[:, 1] - two[:, 0]).tolist()
    rest = sorted(set(range(40)) - first, key=lambda row: margins[row])
    assert second - first == set(rest[:6])


def test_a_stopped_run_goes_on_to_the_same(tmp_path):
    task, calls = make_task(), []
    asked = {"methods": ["LP", "SubTuning"], "acquisitions": ["margin", "random"], "on_round": lambda: calls.append(1)}
    asked |= {"settings": None, "num_trials": 2, "num_folds": 2}
    whole = learn(task, output_dir=tmp_path / "whole", **asked)
    path = tmp_path / "whole" / "rounds.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(calls) == 2 * 2 * 3 and len(lines) == 2 * (2 + 2 + 1 + 2 * 2)  # trials, first round, two rounds each
    for cut in (1, 3, 5, len(lines) - 1):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "rounds.jsonl").write_bytes(b"".join(lines[:cut]) + lines[cut][:20])
        again = learn(task, output_dir=folder, **asked)
        assert _without_times(again.rounds) == _without_times(whole.rounds) and again.methods == whole.methods
        keys = [json.loads(line)["key"] for line in (folder / "rounds.jsonl").read_text().splitlines()]
        assert keys == [json.loads(line)["key"] for line in lines]
    learn(task, output_dir=tmp_path / "whole", **asked)
    assert path.read_bytes() == b"".join(lines)


def _without_times(rounds):
    return [{name: value for name, value in one.items() if name != "seconds"} for one in rounds]


@pytest.mark.parametrize("each_round", [False, True])
def test_blocks_and_hyperparameters_are_chosen_on_the_labelled_rows(each_round, tmp_path):
    task = make_task(epochs=12)
    asked = {
        "settings": None, "blocks": None, "budgets": (16, 22), "num_trials": 2, "num_refinements": 0, "num_folds": 2,
        "choose_each_round": each_round, "search_arguments": {"max_blocks": 1}, "output_dir": tmp_path,
    }  # fmt: skip
    found = learn(task, ["SubTuning"], ["random", "margin"], **asked)
    for one in found.rounds:
        # What a comparison on the same rows chooses, which knows of no rounds.
        chosen_on = one if each_round else found.rounds[0]
        alone = replace(task, train=task.train.select(chosen_on["rows"]), _identity=[])
        shared = {name: asked[name] for name in ("num_trials", "num_refinements", "num_folds", "search_arguments")}
        row = compare(alone, ["SubTuning"], learning_rate=1e-2, num_seeds=1, **shared).rows[0]
        assert (one["blocks"], one["settings"]) == (row["blocks"], row["settings"])
        if each_round:
            assert one["score"] == row["mean"]
    lines = (tmp_path / "rounds.jsonl").read_text()
    assert learn(task, ["SubTuning"], ["random", "margin"], **asked) == found
    assert (tmp_path / "rounds.jsonl").read_text() == lines


def test_what_was_given_is_not_chosen_again():
    found = learn(make_task(epochs=1), ["SubTuning"], ["random"], choose_each_round=True)
    assert [one["blocks"] for one in found.rounds] == [["layers.1"]] * len(BUDGETS)
    assert [one["settings"] for one in found.rounds] == [MIDDLE] * len(BUDGETS)


def test_seeds_share_a_folder(tmp_path):
    asked = {"methods": ["SubTuning"], "acquisitions": ["random"], "blocks": None, "budgets": (16, 20)}
    found = [learn(make_task(epochs=12), output_dir=tmp_path, seed=seed, **asked) for seed in (0, 1)]
    assert {path.name for path in tmp_path.iterdir()} == {"rounds.jsonl", "rounds.jsonl.lock", "seed-0", "seed-1"}
    assert found[0].rounds != found[1].rounds and all(one.methods["SubTuning"]["words"] for one in found)


def test_the_table_has_a_column_for_each_budget():
    said = []
    found = learn(make_task(), ["LP"], ["random", "entropy"], say=said.append)
    lines = found.table().splitlines()
    assert len(lines) == 4 and "12 rows" in lines[0] and "24 rows" in lines[0] and "entropy" in lines[3]
    assert len(said) == 2 and said[0].startswith("LP (lr 0.01") and "12: 0." in said[0]


def test_a_pool_may_be_used_up():
    found = learn(make_task(), ["LP"], ["coreset"], (12, 40))
    assert found.rounds[-1]["rows"] == list(range(40))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"methods": ["LP", "Head2Toe"]}, "Found Head2Toe: leave it out"),
        ({"methods": ["SubTuning", "random blocks"]}, "Found random blocks"),
        ({"methods": ["margin"]}, "`methods` must be names among"),
        ({"acquisitions": ["margin", "entropie"]}, "Found entropie"),
        ({"acquisitions": []}, "Found none"),
        ({"acquisitions": ["margin", "margin"]}, "different names"),
        ({"budgets": (12, 12)}, "must be whole numbers of rows that rise"),
        ({"budgets": (12, 41)}, "at most the 40 of `task.train`. Found 12, 41"),
        ({"budgets": ()}, "Found none"),
        ({"label_column": "x"}, "one class per row in 'x'"),
    ],
)
def test_wrong_arguments(wrong, words):
    with pytest.raises(ArgumentsError, match=words):
        learn(make_task(), **wrong)


def test_a_model_without_one_score_per_class_is_refused():
    task = make_task()
    task.model.classifier = torch.nn.Linear(6, 1)
    rows = blank_labels(task.train, "label", task.train["label"].index(0))
    with pytest.raises(ArgumentsError, match=r"logits of shape \(8, 1\)"):
        look_at(task.model.eval(), task, rows, rows)
