"""
The settings on which cheap choices are judged: a model, a data set, a number of rows.

Everything that trains on a setting takes its rows, folds, epochs and learning rate from here, so that the truth and
what is compared with it cannot differ in anything else. `--bench` of the programs beside this is a folder with
`models/` and `datasets/`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    set_seed,
)

from subtuning_hf.cli.metrics import compute_metrics_with
from subtuning_hf.compare import Task

sys.path.insert(0, str(Path(__file__).parent.parent))
import cifar_resnet
from real_data import Tokens, training_arguments

NUM_FOLDS = 3


@dataclass(frozen=True)
class Setting:
    """
    One model on one data set.

    Args:
        name (`str`): Of the setting.
        model (`str`): `"resnet20"`, `"resnet32"`, `"mobilenet"` or `"minilm"`.
        data (`str`): Folder below `datasets/`.
        rows (`int`): Training rows, drawn by the seed.
        epochs (`int`), batch_size (`int`), learning_rate (`float`): Of every training.
        test_rows (`int`): Test rows, the first of the split shuffled by seed 0.
        greedy (`bool`): Whether the exact greedy search is run, beside the profile.
        classes (`int`, *optional*): Only rows of the first so many classes.
    """

    name: str
    model: str
    data: str
    rows: int
    epochs: int
    batch_size: int
    learning_rate: float
    test_rows: int = 1000
    greedy: bool = False
    classes: int | None = None

    @property
    def is_text(self) -> bool:
        return self.model == "minilm"


_TEXT, _IMAGE = (32, 1e-3), (32, 4e-3)
SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("contrast-300", "resnet20", "cifar10_c_sev5/contrast", 300, 12, *_IMAGE, greedy=True),
        Setting("trec6-200", "minilm", "trec6", 200, 8, *_TEXT, 500, greedy=True),
        Setting("noise-300", "resnet20", "cifar10_c_sev5/gaussian_noise", 300, 12, *_IMAGE),
        Setting("digits-300", "resnet20", "sign_digits", 300, 12, *_IMAGE, 500, greedy=True),
        Setting("sst2-200", "minilm", "sst2", 200, 8, *_TEXT),
        Setting("contrast-900", "resnet20", "cifar10_c_sev5/contrast", 900, 8, *_IMAGE),
        Setting("deep-noise-300", "resnet32", "cifar10_c_sev5/gaussian_noise", 300, 10, *_IMAGE),
        Setting("cifar100-600", "resnet20", "cifar100", 600, 10, *_IMAGE, classes=20),
        Setting("trec6-600", "minilm", "trec6", 600, 6, *_TEXT, 500),
    )
}


class SmallPixels(cifar_resnet.ToPixels):
    """The same for pictures of any size."""

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, Any]:
        return super().__call__({**batch, "image": [image.resize((32, 32)) for image in batch["image"]]})


class MediumPixels(cifar_resnet.ToPixels):
    """Pictures of any size, 64 by 64 pixels, around 0: what MobileNetV2 was trained on, smaller."""

    def __init__(self) -> None:
        self.mean = self.std = [0.5, 0.5, 0.5]

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, Any]:
        return super().__call__({**batch, "image": [image.resize((64, 64)) for image in batch["image"]]})


def load(setting: Setting, bench: Path, seed: int) -> Task:
    """
    Model and rows of a setting.

    Args:
        setting ([`Setting`]): Which.
        bench (`Path`): Folder with `models/` and `datasets/`.
        seed (`int`): Draws the rows, the new head and the folds.

    Returns: [`Task`]
    """
    data = load_dataset(str(bench / "datasets" / setting.data))
    if setting.classes is not None:
        most = setting.classes
        for name in data:
            numbers = [i for i, label in enumerate(data[name]["label"]) if label < most]
            data[name] = data[name].select(numbers)
    train = data["train"].shuffle(seed=seed).select(range(setting.rows))
    test = data["test"].shuffle(seed=0).select(range(min(setting.test_rows, len(data["test"]))))
    names = train.features["label"].names[: setting.classes]
    set_seed(seed)
    if setting.is_text:
        folder = str(bench / "models" / "minilm_l6_h384")
        model: Any = AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=len(names), dtype=torch.float32
        )
        transform: Any = Tokens(folder)
        collator: Any = DataCollatorWithPadding(transform.tokenizer)
    elif setting.model == "mobilenet":
        model = AutoModelForImageClassification.from_pretrained(
            str(bench / "models" / "timm_mobilenetv2_100_imagenet"), num_labels=len(names), ignore_mismatched_sizes=True
        )
        transform, collator = MediumPixels(), cifar_resnet.collate
    else:
        model = cifar_resnet.load(bench / "models" / "cifar10_resnets_option_a", setting.model)
        if not setting.data.startswith("cifar10_c"):  # other classes than the head was trained for
            model.classifier = torch.nn.Linear(model.classifier.in_features, len(names))
            model.config.num_labels = model.num_labels = len(names)
        transform, collator = SmallPixels(model.config), cifar_resnet.collate
    return Task(
        model=model,
        train=train,
        test=test,
        arguments=training_arguments(setting.epochs, setting.batch_size),
        compute_metrics=compute_metrics_with("accuracy"),
        train_transform=transform,
        eval_transform=transform,
        data_collator=collator,
    )
