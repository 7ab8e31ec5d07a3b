"""
The demo's images: scikit-learn's 1,797 scanned digits, clean as the source and corrupted as the target task.

The corruption was fixed before any method was run on it. Knows images; does not know models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArgumentsError, MissingDependencyError, how_to_install

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

SOURCE_ROWS = 900
LEAST_TEST_ROWS = 200
# A scanner with the lamp inverted, little contrast and noise.
CONTRAST = 0.3
NOISE = 0.1
DESCRIPTION = f"inverted, contrast x {CONTRAST}, noise of {NOISE}"


@dataclass(frozen=True)
class DemoData:
    """
    Three disjoint parts of the digits.

    Args:
        source (`datasets.Dataset`): Clean, for pretraining.
        clean (`datasets.Dataset`): The images of `test` before corruption, to see what the source model can do.
        train (`datasets.Dataset`): Corrupted and few: all that any method may learn from or choose by.
        test (`datasets.Dataset`): Corrupted; seen by nothing but the final evaluations.
    """

    source: Dataset
    clean: Dataset
    train: Dataset
    test: Dataset


def load_digits(rows: int, seed: int) -> DemoData:
    """
    Split and corrupt the digits.

    Args:
        rows (`int`): Labelled images of the target task.
        seed (`int`): Seed of the split and of the noise.

    Returns: [`DemoData`]
    Raises:
        [`MissingDependencyError`]: Without scikit-learn.
        [`ArgumentsError`]: If too few images would remain for the test.
    """
    try:
        from sklearn.datasets import load_digits as scanned_digits
    except ImportError:
        raise MissingDependencyError(
            "The demo needs scikit-learn for its images and matplotlib for its picture: "
            f"{how_to_install('demo')}."
        ) from None
    digits = scanned_digits()
    most = len(digits.target) - SOURCE_ROWS - LEAST_TEST_ROWS
    if not 30 <= rows <= most:
        raise ArgumentsError(
            f"--rows must lie between 30 and {most} (of {len(digits.target)} images {SOURCE_ROWS} are the source "
            f"task's and at least {LEAST_TEST_ROWS} the test's), found {rows}."
        )
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(digits.target))
    images, labels = digits.images[order] / 16.0, digits.target[order]  # (1797, 8, 8) in [0, 1]
    corrupted = np.clip(0.5 + (0.5 - images) * CONTRAST + generator.normal(0, NOISE, images.shape), 0, 1)
    test = SOURCE_ROWS + rows
    return DemoData(
        source=_dataset(images[:SOURCE_ROWS], labels[:SOURCE_ROWS]),
        clean=_dataset(images[test:], labels[test:]),
        train=_dataset(corrupted[SOURCE_ROWS:test], labels[SOURCE_ROWS:test]),
        test=_dataset(corrupted[test:], labels[test:]),
    )


def _dataset(images: np.ndarray, labels: np.ndarray) -> Dataset:
    from datasets import ClassLabel, Dataset, Features, Image
    from PIL import Image as PillowImage

    pictures = [PillowImage.fromarray(np.round(255 * image).astype(np.uint8)) for image in images]
    features = Features({"image": Image(), "label": ClassLabel(names=[str(digit) for digit in range(10)])})
    return Dataset.from_dict({"image": pictures, "label": labels.tolist()}, features=features)


@dataclass(frozen=True)
class ToPixels:
    """
    The transform of the demo: 8 x 8 scans to `pixel_values`, the way `Dataset.set_transform` calls it.

    Args:
        size (`int`): Side of the model's input, pixels.
    """

    size: int

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, Any]:
        import torch

        scans = torch.from_numpy(np.stack([np.asarray(image) for image in batch["image"]])).float()
        pixels = torch.nn.functional.interpolate(  # (batch, 1, size, size) in [-1, 1]
            scans[:, None] / 127.5 - 1, size=(self.size, self.size), mode="bilinear", align_corners=False
        )
        out: dict[str, Any] = {"pixel_values": list(pixels)}
        if "label" in batch:
            out["labels"] = list(batch["label"])
        return out


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Stack rows to a batch."""
    import torch

    return {
        "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
        "labels": torch.tensor([int(row["labels"]) for row in rows]),
    }


def drawing(before: Dataset, after: Dataset, count: int = 4, unicode: bool = True) -> str:
    """
    A few digits as text, before and after corruption, two characters per pixel.

    Args:
        before (`datasets.Dataset`), after (`datasets.Dataset`): The same images.
        count (`int`, *optional*, defaults to 4): How many.
        unicode (`bool`, *optional*, defaults to `True`): Whether the terminal shows block characters.

    Returns: `str`
    """
    ramp = " ░▒▓█" if unicode else " .:*#"
    labels = before["label"]
    rows = [list(labels).index(digit) for digit in range(10) if digit in labels][:count]
    lines = []
    for y in range(8):
        pieces = [_line(data[row]["image"], y, ramp) for data in (before, after) for row in rows]
        arrow = "   ->   " if y == 4 else " " * 8
        lines.append("  ".join(pieces[: len(rows)]) + arrow + "  ".join(pieces[len(rows) :]))
    return "\n".join(lines)


def _line(image: Any, y: int, ramp: str) -> str:
    values = np.asarray(image)[y].astype(int) * len(ramp) // 256
    return "".join(2 * ramp[value] for value in values)
