"""Adapters for numbers, and for several labels per row, say so and are answered so."""

import json

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch.utils.data import Dataset

from subtuning_hf import GreedySubTuningTrainer, MultiTaskModel, SubTuningConfig
from subtuning_hf.cli.predict_inputs import Inputs, numbers_of
from subtuning_hf.cli.predict_model import Predictor
from subtuning_hf.errors import ArgumentsError
from toys import TOYS
from training.cases import make_args

WAYS = {
    "regression": (1, lambda row: float(row % 5)),
    "multi_label_classification": (3, lambda row: [float(row % 2), 1.0, float(row % 3 == 0)]),
    None: (3, lambda row: row % 3),
}


def build(count):
    model = TOYS["bert"].build()
    model.classifier = torch.nn.Linear(model.classifier.in_features, count)
    model.config.num_labels = model.num_labels = count
    return model


class Rows(Dataset):
    def __init__(self, label):
        self.inputs, self.label = TOYS["bert"].inputs(12), label

    def __len__(self):
        return 12

    def __getitem__(self, row):
        return {name: values[row] for name, values in self.inputs.items()} | {"labels": torch.tensor(self.label(row))}


@pytest.fixture(params=list(WAYS), ids=str)
def saved(request, tmp_path):
    """The problem, the folder of an adapter that a trainer saved, and the base it goes onto."""
    count, label = WAYS[request.param]
    model = build(count)
    trainer = GreedySubTuningTrainer(model, make_args(tmp_path / "out"), train_dataset=Rows(label))
    trainer.train(blocks=[1])
    trainer.save_model(str(tmp_path / "adapter"))
    return request.param, tmp_path / "adapter", build(count)


def test_the_kind_of_labels_comes_back_with_the_adapter(saved):
    problem, folder, base = saved
    assert json.loads((folder / "adapter_config.json").read_text())["problem_type"] == problem
    assert base.config.problem_type is None
    model = PeftModel.from_pretrained(base, folder)
    assert base.config.problem_type == problem
    with model.disable_adapter():
        assert base.config.problem_type is None
    many = MultiTaskModel.from_adapters(build(len(model.peft_config["default"].id2label)), {"a": folder})
    assert many.config_of("a").problem_type == problem
    model.unload()
    assert base.config.problem_type is None


def test_the_card_says_what_is_answered(saved):
    problem, folder, _ = saved
    card = (folder / "README.md").read_text()
    words = {"regression": "adapter for one number on", None: "adapter for 3 classes on"}
    assert words.get(problem, "adapter for 3 classes, any of which a row may have, on") in card
    assert ("It always answers with one of its 3 classes" in card) == (problem is None)
    assert ("Classes by index" in card) == (problem != "regression")


def test_a_predictor_knows_numbers(saved):
    problem, folder, base = saved
    model = PeftModel.from_pretrained(base, folder)
    labels = list(model.peft_config["default"].id2label.values())
    predictor = Predictor(model, None, labels, None, "base")
    assert predictor.problem == problem and predictor.is_regression == (problem == "regression")


def test_numbers_of_several_outputs_have_names():
    inputs = Inputs("text", ["a", "b"], None)
    assert [row["value"] for row in numbers_of(inputs, [[0.25], [2.0]], ["LABEL_0"])] == [0.25, 2.0]
    assert numbers_of(inputs, [[1, 2], [3, 4]], ["x", "y"])[1] == {"input": "b", "value_x": 3.0, "value_y": 4.0}


def test_a_kind_that_a_user_names_is_kept(tmp_path):
    config = SubTuningConfig(blocks=[0], problem_type="multi_label_classification")
    base = build(3)
    model = get_peft_model(base, config)
    assert base.config.problem_type == "multi_label_classification"
    model.save_pretrained(tmp_path)
    assert SubTuningConfig.from_pretrained(tmp_path).problem_type == "multi_label_classification"
    with pytest.raises(ArgumentsError, match="`problem_type` must be 'regression' or"):
        SubTuningConfig(blocks=[0], problem_type="single")
