"""
The CIFAR ResNet with parameter-free shortcuts ("option A"), as a `PreTrainedModel` of its own.

No class of transformers or timm fits it, so it also shows what a custom model needs to be searched: blocks in a
sequence, and a head with a telling name. Reads the weights of akamaster/pytorch_resnet_cifar10 (BSD-2-Clause) as
safetensors beside a `config.json` that describes them. As a program it scores a checkpoint on a test split:

    python benchmarks/cifar_resnet.py MODELS_FOLDER --data CIFAR10_FOLDER --name resnet20

Source: He et al., Deep Residual Learning for Image Recognition, arXiv 1512.03385, section 4.2.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput


class CifarResNetConfig(PretrainedConfig):
    """
    Configuration of a [`CifarResNetForImageClassification`].

    Args:
        blocks_per_stage (`int`, *optional*, defaults to 3): 3 for ResNet-20, 5 for ResNet-32.
        widths (`list[int]`, *optional*, defaults to `[16, 32, 64]`): Channels of the three stages.
        image_mean (`list[float]`), image_std (`list[float]`): Normalisation of images in [0, 1].
    """

    model_type = "cifar_resnet"

    def __init__(
        self,
        blocks_per_stage: int = 3,
        widths: tuple[int, ...] | list[int] = (16, 32, 64),
        image_mean: tuple[float, ...] | list[float] = (0.485, 0.456, 0.406),
        image_std: tuple[float, ...] | list[float] = (0.229, 0.224, 0.225),
        **kwargs: Any,
    ) -> None:
        self.blocks_per_stage = blocks_per_stage
        self.widths = list(widths)
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        kwargs.setdefault("num_labels", 10)
        super().__init__(**kwargs)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions with a shortcut that strides and pads with zeros instead of projecting."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width_out)
        self.stride, self.grown = stride, width_out - width_in

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.grown:
            side = self.grown // 2
            x = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, side, side))
        return torch.relu(out + x)


class CifarResNetForImageClassification(PreTrainedModel):
    """The network, with the module names of the published weights except for the head, which is `classifier`."""

    config_class = CifarResNetConfig
    main_input_name = "pixel_values"

    def __init__(self, config: CifarResNetConfig) -> None:
        super().__init__(config)
        self.conv1 = nn.Conv2d(3, config.widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(config.widths[0])
        width = config.widths[0]
        for stage, out in enumerate(config.widths, start=1):
            strides = [1 if stage == 1 else 2] + [1] * (config.blocks_per_stage - 1)
            blocks = []
            for stride in strides:
                blocks.append(BasicBlock(width, out, stride))
                width = out
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.classifier = nn.Linear(width, config.num_labels)
        self.post_init()

    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **kwargs: Any
    ) -> ImageClassifierOutput:
        """Logits of shape `(batch, num_labels)` from `pixel_values` of shape `(batch, 3, 32, 32)`."""
        x = torch.relu(self.bn1(self.conv1(pixel_values)))
        for stage in range(1, len(self.config.widths) + 1):
            x = getattr(self, f"layer{stage}")(x)
        logits = self.classifier(x.mean((2, 3)))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)


def load(folder: str | Path, name: str = "resnet20") -> CifarResNetForImageClassification:
    """
    A published checkpoint.

    Args:
        folder (`str` or `Path`): Holds `config.json` and the safetensors files.
        name (`str`, *optional*, defaults to `"resnet20"`): Its entry in `config.json`.

    Returns: [`CifarResNetForImageClassification`] in eval mode.
    """
    described = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))[name]
    labels = dict(enumerate(described["classes"]))
    config = CifarResNetConfig(
        blocks_per_stage=described["blocks_per_stage"],
        widths=described["stages"],
        image_mean=described["mean"],
        image_std=described["std"],
        id2label=labels,
        label2id={label: index for index, label in labels.items()},
    )
    model = CifarResNetForImageClassification(config)
    weights = load_file(Path(folder) / described["file"])
    # The published name of the head, "linear", says nothing of what it is for.
    weights = {name.replace("linear.", "classifier."): tensor for name, tensor in weights.items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    # Old checkpoints do not count the batches a BatchNorm has seen; nothing else may be missing.
    if unexpected or any(not key.endswith("num_batches_tracked") for key in missing):
        raise ValueError(f"'{described['file']}' does not fit: missing {missing}, unexpected {unexpected}.")
    return model.eval()


class ToPixels:
    """Images to normalised `pixel_values`, as `Dataset.set_transform` calls it."""

    def __init__(self, config: CifarResNetConfig) -> None:
        self.mean, self.std = config.image_mean, config.image_std

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, Any]:
        images = np.stack([np.asarray(image.convert("RGB")) for image in batch["image"]])
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255  # (batch, 3, 32, 32)
        pixels = (pixels - torch.tensor(self.mean).view(3, 1, 1)) / torch.tensor(self.std).view(3, 1, 1)
        out: dict[str, Any] = {"pixel_values": list(pixels)}
        if "label" in batch:
            out["labels"] = list(batch["label"])
        return out


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Stack rows to a batch."""
    return {
        "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
        "labels": torch.tensor([int(row["labels"]) for row in rows]),
    }


def accuracy(model: nn.Module, rows: Any, transform: ToPixels, batch_size: int = 250) -> float:
    """Share of rows the model gets right."""
    right = 0
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            batch = transform(rows[start : start + batch_size])
            found = model(pixel_values=torch.stack(batch["pixel_values"])).logits.argmax(-1)
            right += int((found == torch.tensor(batch["labels"])).sum())
    return right / len(rows)


def main() -> None:
    """Score a checkpoint on the test split of a data set."""
    from datasets import load_dataset

    parser = argparse.ArgumentParser(description="Score a CIFAR ResNet checkpoint on a test split.")
    parser.add_argument("folder", help="folder with config.json and safetensors")
    parser.add_argument("--data", required=True, help="folder or Hub name of a data set with image and label")
    parser.add_argument("--name", default="resnet20")
    options = parser.parse_args()
    model = load(options.folder, options.name)
    rows = load_dataset(options.data, split="test")
    found = accuracy(model, rows, ToPixels(model.config))
    print(f"{options.name} on {len(rows)} rows of {options.data}: {100 * found:.2f} %")


if __name__ == "__main__":
    main()
