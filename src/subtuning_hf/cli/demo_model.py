"""
The demo's models: a small ResNet or ViT of transformers, pretrained on clean digits.

No weights can be assumed without a network, so the source model is trained here, in seconds, by a plain `Trainer`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .demo_data import ToPixels, collate

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

EVAL_BATCH_SIZE = 256
DIGITS = {digit: str(digit) for digit in range(10)}


@dataclass(frozen=True)
class DemoModel:
    """
    One architecture and what all methods train it with.

    Args:
        name (`str`): For people.
        size (`int`): Side of the input, pixels.
        pretraining (`dict`): Arguments of the source model's training.
        epochs (`int`): Epochs of every training on the target task.
        batch_size (`int`): Batch size of every training.
        learning_rates (`tuple[float, ...]`):
            What every method may choose from, by the same folds. Wide enough for a head and for a whole network; the
            search runs at the middle one.
    """

    name: str
    size: int
    pretraining: dict[str, Any]
    epochs: int
    batch_size: int
    learning_rates: tuple[float, ...]

    @property
    def transform(self) -> ToPixels:
        """Pixels for this model."""
        return ToPixels(self.size)


MODELS = {
    "resnet": DemoModel(
        name="ResNet",
        size=32,
        pretraining={"num_train_epochs": 12, "per_device_train_batch_size": 64, "learning_rate": 3e-3},
        epochs=10,
        batch_size=32,
        learning_rates=(1e-3, 4e-3, 1.6e-2, 6e-2, 2.5e-1),
    ),
    "vit": DemoModel(
        name="ViT",
        size=16,
        pretraining={"num_train_epochs": 25, "per_device_train_batch_size": 64, "learning_rate": 1e-3},
        epochs=10,
        batch_size=32,
        learning_rates=(3e-4, 1.5e-3, 7e-3, 3e-2, 1.5e-1),
    ),
}


def build(kind: str, seed: int) -> PreTrainedModel:
    """A randomly initialised model of one kind, `"resnet"` (6 residual blocks) or `"vit"` (6 encoder layers)."""
    from transformers import (
        ResNetConfig,
        ResNetForImageClassification,
        ViTConfig,
        ViTForImageClassification,
        set_seed,
    )

    set_seed(seed)
    labels: dict[str, Any] = {"id2label": DIGITS, "label2id": {name: digit for digit, name in DIGITS.items()}}
    if kind == "resnet":
        return ResNetForImageClassification(
            ResNetConfig(
                num_channels=1,
                embedding_size=16,
                hidden_sizes=[16, 32, 64],
                depths=[2, 2, 2],
                layer_type="basic",
                **labels,
            )
        )
    return ViTForImageClassification(
        ViTConfig(
            image_size=MODELS["vit"].size,
            patch_size=4,
            num_channels=1,
            hidden_size=48,
            num_hidden_layers=6,
            num_attention_heads=4,
            intermediate_size=96,
            **labels,
        )
    )


def pretrain(kind: str, source: Dataset, seed: int, folder: str) -> tuple[PreTrainedModel, float]:
    """
    Train a model on the source task.

    Args:
        kind (`str`): `"resnet"` or `"vit"`.
        source (`datasets.Dataset`): Clean digits.
        seed (`int`): Seed of weights and order.
        folder (`str`): Where the trainer may write.

    Returns: `tuple[PreTrainedModel, float]`: the model in eval mode, and seconds.
    """
    from transformers import PrinterCallback, Trainer, TrainingArguments

    start = time.perf_counter()
    settings = MODELS[kind]
    model = build(kind, seed)
    arguments = TrainingArguments(
        folder,
        seed=seed,
        remove_unused_columns=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        weight_decay=0.01,
        **settings.pretraining,
    )
    data = source.with_transform(settings.transform)
    trainer = Trainer(model, arguments, train_dataset=data, data_collator=collate)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return model.eval(), time.perf_counter() - start


def accuracy(model: Any, rows: Dataset, settings: DemoModel) -> float:
    """Share of rows a model gets right, in the batches the trainers use too."""
    import torch

    training = model.training
    model.eval()
    right = 0
    with torch.no_grad():
        for start in range(0, len(rows), EVAL_BATCH_SIZE):
            batch = settings.transform(rows[start : start + EVAL_BATCH_SIZE])
            found = model(pixel_values=torch.stack(batch["pixel_values"])).logits.argmax(-1)
            right += int((found == torch.tensor(batch["labels"])).sum())
    model.train(training)
    return right / len(rows)
