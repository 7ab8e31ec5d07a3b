"""What the tests of commands share: a tiny model, and a handful of drawn images."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
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
    """A recipe for it that takes seconds."""
    file = tmp_path / "search.yaml"
    file.write_text(
        f"""
model: {{name: {base}/model}}
data: {{path: {base}/photos, image_column: image}}
preprocessing: {{augmentation: flip}}
args:
  output_dir: {tmp_path}/out
  num_folds: 2
  strategy: exact
  max_blocks: 1
  num_train_epochs: 2
  per_device_train_batch_size: 8
  learning_rate: 1e-2
  use_cpu: true
  save_strategy: "no"
"""
    )
    return file


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """A tiny BERT with a tokenizer, and a CSV file of two kinds of sentences."""
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer, set_seed

    folder = tmp_path_factory.mktemp("texts")
    words = ["good", "bad", "fine", "awful", "day", "night", "a", "the"]
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n")
    set_seed(0)
    config = BertConfig(vocab_size=13, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    BertForSequenceClassification(config).save_pretrained(folder / "model")
    BertTokenizer(str(vocabulary)).save_pretrained(folder / "model")
    rows = [f"the {word} {time},{kind}" for kind, kinds in (("up", ("good", "fine")), ("down", ("bad", "awful")))
            for word in kinds for time in ("day", "night", "day a", "night a", "a a")]  # fmt: skip
    (folder / "texts.csv").write_text("\n".join(["sentence,mood", *rows]) + "\n")
    return folder


@pytest.fixture
def text_recipe(texts, tmp_path):
    """A recipe for it."""
    file = tmp_path / "texts.yaml"
    file.write_text(
        f"""
model: {{name: {texts}/model}}
data: {{path: {texts}/texts.csv, text_column: sentence, label_column: mood, test_fraction: 0.3}}
preprocessing: {{max_length: 8}}
args:
  output_dir: {tmp_path}/out
  num_folds: 2
  strategy: exact
  max_blocks: 1
  num_train_epochs: 1
  per_device_train_batch_size: 4
  use_cpu: true
  save_strategy: "no"
"""
    )
    return file
