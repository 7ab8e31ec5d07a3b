"""`subtuning search` from a recipe to an adapter, on a handful of drawn images."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from subtuning_hf.cli.main import main


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny model with an image processor, and photos in one folder per class."""
    from transformers import ConvNextImageProcessor, ResNetConfig, ResNetForImageClassification, set_seed

    folder = tmp_path_factory.mktemp("recipe")
    set_seed(0)
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=5)
    ResNetForImageClassification(config).save_pretrained(folder / "model")
    ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=1.0).save_pretrained(folder / "model")
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for label, name in enumerate(["dark", "light", "red"]):
            place = folder / "photos" / split / name
            place.mkdir(parents=True)
            for index in range(count):
                pixels = generator.integers(0, 60, (32, 32, 3)) + (0, 160, 0)[label]
                pixels[..., 0] += 120 * (label == 2)
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{index}.png")
    return folder


@pytest.fixture
def recipe(base, tmp_path):
    file = tmp_path / "search.yaml"
    file.write_text(
        f"""
model: {{name: {base}/model}}
data: {{path: {base}/photos, image_column: image}}
preprocessing: {{augmentation: flip}}
args:
  output_dir: {tmp_path}/out
  num_folds: 2
  max_blocks: 1
  num_train_epochs: 2
  per_device_train_batch_size: 8
  learning_rate: 1e-2
  use_cpu: true
  save_strategy: "no"
"""
    )
    return file


def test_from_recipe_to_adapter(recipe, base, tmp_path, capsys):
    from peft import PeftModel
    from transformers import AutoModelForImageClassification

    assert main(["search", "--config", str(recipe)]) == 0
    output = capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "test_results.json").read_text())
    assert f"test_accuracy: {found['test_accuracy']:.4f}" in output and "adapter:" in output

    model = AutoModelForImageClassification.from_pretrained(base / "model")  # a head of 5 labels
    model = PeftModel.from_pretrained(model, tmp_path / "out").eval()
    assert model.peft_config["default"].blocks == found["blocks"]
    logits = model(pixel_values=torch.zeros(1, 3, 32, 32)).logits
    assert logits.shape == (1, 3)
    assert model.config.id2label == {0: "dark", 1: "light", 2: "red"}

    journal = (tmp_path / "out" / "journal" / "rank-0000.jsonl").read_text()
    assert main(["search", "--config", str(recipe)]) == 0  # everything is in the journal already
    assert (tmp_path / "out" / "journal" / "rank-0000.jsonl").read_text() == journal
    assert json.loads((tmp_path / "out" / "test_results.json").read_text())["test_accuracy"] == found["test_accuracy"]

    assert main(["search", "--config", str(recipe), "learning_rate=1e-3"]) == 2  # another study
    assert "learning_rate" in capsys.readouterr().err


def test_dry_run_writes_nothing(recipe, tmp_path, capsys):
    assert main(["search", "--config", str(recipe), "--dry-run"]) == 0
    # Trainer itself makes the folder; nothing may be in it.
    assert not list((tmp_path / "out").rglob("*"))
    assert "training" in capsys.readouterr().out.lower()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.train_split=training", "there is no split 'training'"),
        ("data.image_column=picture", "has no column 'picture', only image, label"),
        ("data.label_column=class", "has no column 'class'"),
        ("model.name=/no/such/model", "model"),
        ("metric=acuracy", "neither one of accuracy"),
        ("num_fold=3", "has no such field. Did you mean 'num_folds'?"),
        ("output_dir=null", "args.output_dir"),
    ],
)
def test_bad_recipes_train_and_write_nothing(recipe, tmp_path, capsys, override, message):
    before = sorted(tmp_path.rglob("*"))
    assert main(["search", "--config", str(recipe), override]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert sorted(tmp_path.rglob("*")) == before
