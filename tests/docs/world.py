"""
The world that the examples of the documentation are run in: a Hub with tiny models, photos, texts, recipes.

Names are those that readers see (`microsoft/resnet-18`); what is behind them is built from configurations.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("daisy", "rose", "tulip")
WORDS = ("good", "bad", "fine", "awful", "day", "night", "a", "the")
# What the recipe for texts asks for by commit.
PINNED = {"google-bert/bert-base-uncased": "86b5e0934494bd15c9632b12f734a8a67f723594"}


def resnet(depths: tuple[int, ...] = (1, 1, 2, 1), labels: int = 5) -> Any:
    """A residual network with the stages of a ResNet-18, few blocks in them, four channels wide."""
    from transformers import ResNetConfig, ResNetForImageClassification

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = ResNetConfig(
            embedding_size=4, hidden_sizes=[4] * len(depths), depths=list(depths), layer_type="basic", num_labels=labels
        )
        return ResNetForImageClassification(config).eval()


def build(folder: Path) -> list[str]:
    """Save models and adapters below a folder, and give their names on the Hub."""
    from peft import get_peft_model
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer, ConvNextImageProcessor

    from subtuning_hf import SubTuningConfig

    names = ["microsoft/resnet-18", "microsoft/resnet-50", "google-bert/bert-base-uncased"]
    for name, depths in zip(names, [(1, 1, 2, 1), (3, 4, 6, 3)], strict=False):
        resnet(depths).save_pretrained(folder / name)
        ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=1.0).save_pretrained(folder / name)
    config = BertConfig(vocab_size=13, hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=8)
    BertForSequenceClassification(config).save_pretrained(folder / names[2])
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    BertTokenizer(str(vocabulary)).save_pretrained(folder / names[2])
    for name, block in (("user/a", 4), ("user/b", 2), ("user/adapter-on-the-hub", 3)):
        base = resnet()
        base.name_or_path = names[0]
        labels = dict(enumerate(CLASSES))
        model = get_peft_model(base, SubTuningConfig(blocks=[block], num_labels=len(CLASSES), id2label=labels))
        model.save_pretrained(folder / name)
        names.append(name)
    return names


def publish(hub: Any, folder: Path, names: list[str]) -> None:
    """Put what was built into a Hub."""
    for name in names:
        repo = hub.put(name, {path.name: path.read_bytes() for path in (folder / name).iterdir()})
        if name in PINNED:
            repo.commits[PINNED[name]] = repo.files()


def furnish(folder: Path) -> None:
    """Put photos, texts, recipes and launch configurations into a folder."""
    generator = np.random.default_rng(0)
    for place, count in (("train", 12), ("test", 4), ("new", 2)):
        for label, name in enumerate(CLASSES):
            home = folder / "photos" / place / (name if place != "new" else "")
            home.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                pixels = generator.integers(0, 90, (32, 32, 3))
                pixels[..., label] += 150
                Image.fromarray(pixels.astype(np.uint8)).save(home / f"{name}-{index}.jpg")
    kinds = (("up", ("good", "fine")), ("down", ("bad", "awful")))
    times = [f"{first} {last}" for first in WORDS[4:] for last in ("", *WORDS[4:])]
    rows = [f"the {word} {time},{kind}" for kind, words in kinds for word in words for time in times]
    (folder / "texts.csv").write_text("\n".join(["sentence,mood", *rows]) + "\n")
    (folder / "new.txt").write_text("the good day\nthe bad night\n")
    for name in ("recipes", "accelerate_configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    (folder / "recipe.yaml").write_text(RECIPE)


# What stands for RECIPE.
RECIPE = """
model: {name: microsoft/resnet-18}
data: {path: photos, image_column: image}
args: {output_dir: out/study, num_folds: 2, strategy: exact, max_blocks: 1, num_train_epochs: 1, learning_rate: 1e-2,
       per_device_train_batch_size: 8, use_cpu: true, save_strategy: "no"}
"""


def toured() -> dict[str, Any]:
    """What the quick tour has defined, for the pages that go on from it."""
    from datasets import load_dataset
    from transformers import AutoImageProcessor

    data = load_dataset("imagefolder", data_dir="photos")
    processor = AutoImageProcessor.from_pretrained("microsoft/resnet-18")

    def to_inputs(batch: dict[str, Any]) -> dict[str, Any]:
        images = [image.convert("RGB") for image in batch["image"]]
        return {"pixel_values": list(processor(images, return_tensors="pt")["pixel_values"]), "labels": batch["label"]}

    def accuracy(prediction: Any) -> dict[str, float]:
        return {"accuracy": float((np.argmax(prediction.predictions, -1) == prediction.label_ids).mean())}

    return {
        "model": resnet(labels=len(CLASSES)),
        "train": data["train"],
        "test": data["test"],
        "processor": processor,
        "to_inputs": to_inputs,
        "accuracy": accuracy,
    }


def readme() -> dict[str, Any]:
    """What README.md takes for granted."""
    given = toured()
    return {
        "train": given["train"],
        "test": given["test"],
        "augment": given["to_inputs"],
        "plain": given["to_inputs"],
        "compute_metrics": given["accuracy"],
        "model": resnet(),
        "base": resnet(),
        "x": torch.randn(4, 3, 32, 32),
    }
