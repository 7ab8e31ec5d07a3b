"""
Rows to model inputs: image processors and data configs of timm, tokenizers, named augmentation.

What a trained adapter expects of its inputs is kept beside it, so that predictions need no recipe. Knows processors;
does not know data sets or models.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import AdapterFileError, RecipeError
from .images import as_rgb
from .recipe import PreprocessingSection

FILE_NAME = "preprocessing.json"


# --- processors -----------------------------------------------------------------------------
def load_processor(name: str, revision: str | None, preprocessing: PreprocessingSection, text: bool) -> Any:
    """
    The image processor or tokenizer, set to the size that is asked for.

    Args:
        name (`str`), revision (`str`, *optional*): Of the model, whose own processor is the default.
        preprocessing ([`PreprocessingSection`]): The section.
        text (`bool`): Whether inputs are texts.

    Returns: [`~transformers.BaseImageProcessor`] or [`~transformers.PreTrainedTokenizerBase`]
    Raises: [`RecipeError`]: If there is none.
    """
    from transformers import AutoImageProcessor, AutoTokenizer

    if preprocessing.processor is not None:
        name, revision = preprocessing.processor, None
    auto: Any = AutoTokenizer if text else AutoImageProcessor
    try:
        processor = auto.from_pretrained(name, revision=revision)
    except (OSError, ValueError, ImportError) as error:
        kind = "tokenizer" if text else "image processor"
        reason = str(error).strip().splitlines()[0]
        raise RecipeError(f"preprocessing.processor: no {kind} in '{name}': {reason}") from error
    return processor if text or preprocessing.image_size is None else _resized(processor, preprocessing.image_size)


def _resized(processor: Any, side: int) -> Any:
    """The same processor for another size. Of timm's, the data config decides, crop and normalisation included."""
    config = getattr(processor, "data_config", None)
    if config is not None:
        return type(processor)({**config, "input_size": (config["input_size"][0], side, side)})
    square = {"height": side, "width": side}
    processor.size = {"shortest_edge": side} if "shortest_edge" in dict(processor.size or {}) else square
    if getattr(processor, "do_center_crop", False):
        processor.crop_size = square
    return processor


# --- what goes with an adapter --------------------------------------------------------------
@dataclass(frozen=True)
class InputSettings:
    """
    How an adapter's inputs were made.

    Args:
        text (`bool`): Whether inputs are texts, else images.
        revision (`str`, *optional*), dtype (`str`, *optional*): Of the base model. No other argument of its loading is
            kept: an adapter of somebody else must not decide what code runs.
        image_size (`int`, *optional*), max_length (`int`, *optional*), processor (`str`, *optional*):
            As in [`PreprocessingSection`].
    """

    text: bool
    revision: str | None = None
    dtype: str | None = None
    image_size: int | None = None
    max_length: int | None = None
    processor: str | None = None

    def save(self, folder: Path) -> None:
        """Write it beside the adapter."""
        (folder / FILE_NAME).write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, file: Path) -> InputSettings:
        """
        Read what [`save`] wrote.

        Raises: [`AdapterFileError`]: If the file holds something else.
        """
        try:
            return cls(**json.loads(file.read_text(encoding="utf-8")))
        except (TypeError, ValueError) as error:
            raise AdapterFileError(f"'{file}' does not say how inputs are made: {error}") from None


# --- transforms -----------------------------------------------------------------------------
class Tokenize:
    """
    Texts to token ids, unpadded: batches are padded to their own longest text.

    Args:
        tokenizer (`Any`): The tokenizer.
        text_column (`str`), label_column (`str`): Where texts and labels are; rows without labels stay without.
        max_length (`int`, *optional*): Longest text in tokens.
    """

    def __init__(self, tokenizer: Any, text_column: str, label_column: str, max_length: int | None) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self.text_column, self.label_column = text_column, label_column

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, Any]:
        texts = list(batch[self.text_column])
        out = dict(self.tokenizer(texts, truncation=True, max_length=self.max_length))
        if self.label_column in batch:
            out["labels"] = list(batch[self.label_column])
        return out


class ToInputs:
    """
    Images to `pixel_values`, with a named augmentation before the processor.

    Args:
        processor (`Any`): The image processor.
        image_column (`str`), label_column (`str`): Where images and labels are; rows without labels stay without.
        augmentation (`str`): As in [`augment`].
    """

    def __init__(self, processor: Any, image_column: str, label_column: str, augmentation: str) -> None:
        self.processor, self.augmentation = processor, augmentation
        self.image_column, self.label_column = image_column, label_column

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, Any]:
        images = [augment(as_rgb(image), self.augmentation) for image in batch[self.image_column]]
        out: dict[str, Any] = {"pixel_values": list(self.processor(images, return_tensors="pt")["pixel_values"])}
        if self.label_column in batch:
            out["labels"] = list(batch[self.label_column])
        return out


# --- augmentation ---------------------------------------------------------------------------
def augment(image: Any, name: str) -> Any:
    """
    A random change that keeps the class, drawn from torch's generator.

    Args:
        image (`PIL.Image.Image`): The image.
        name (`str`): `"none"`, or `"flip"`, `"shift"`, `"crop"`, `"shift_flip"`, `"crop_flip"`; see the recipe's
            section `preprocessing`.

    Returns: `PIL.Image.Image`: of the same size.
    """
    import torch
    from PIL import ImageOps

    if "shift" in name:
        image = _shifted(image)
    if "crop" in name:
        image = _cropped(image)
    if "flip" in name and bool(torch.rand(()) < 0.5):
        image = ImageOps.mirror(image)
    return image


def _shifted(image: Any) -> Any:
    import torch
    from PIL import Image, ImageOps

    width, height = image.size
    x = int(torch.randint(-(width // 8), width // 8 + 1, ()))
    y = int(torch.randint(-(height // 8), height // 8 + 1, ()))
    moved = Image.new(image.mode, image.size)
    # Its reflections continue the image, so that no black bar gives the shift away.
    for column in (-1, 0, 1):
        for row in (-1, 0, 1):
            tile = ImageOps.mirror(image) if column else image
            moved.paste(ImageOps.flip(tile) if row else tile, (x + column * width, y + row * height))
    return moved


def _cropped(image: Any) -> Any:
    import torch
    from PIL import Image

    area = float(torch.empty(()).uniform_(0.35, 1.0))
    ratio = math.exp(float(torch.empty(()).uniform_(math.log(3 / 4), math.log(4 / 3))))
    width = min(max(round(image.width * math.sqrt(area * ratio)), 1), image.width)
    height = min(max(round(image.height * math.sqrt(area / ratio)), 1), image.height)
    x = int(torch.randint(0, image.width - width + 1, ()))
    y = int(torch.randint(0, image.height - height + 1, ()))
    return image.resize(image.size, Image.Resampling.BILINEAR, box=(x, y, x + width, y + height))
