"""
Texts and images of requests to what the model takes, as `subtuning predict` does it for one adapter.

Knows tokenizers and image processors; does not know tasks, batches or HTTP.
"""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from subtuning_hf.cli.images import as_rgb
from subtuning_hf.cli.predict_model import input_settings
from subtuning_hf.cli.recipe import PreprocessingSection
from subtuning_hf.cli.recipe_inputs import load_processor
from subtuning_hf.errors import DataError

from .errors import ServeError

MAX_PIXELS = 50_000_000
_TOKENIZER = ("tokenizer_config.json",)
_PROCESSOR = ("preprocessor_config.json", "processor_config.json")
# What decides the pixels; the rest of a processor's settings are names.
_DECIDES = (
    "size", "crop_size", "do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_pad", "rescale_factor",
    "image_mean", "image_std", "resample", "crop_pct", "data_config",
)  # fmt: skip


class Inputs(Protocol):
    """One kind of inputs."""

    kind: str
    threads: int  # that may prepare at a time

    def prepare(self, content: str | bytes) -> Mapping[str, Any]:
        """
        One row.

        Raises: [`ServeError`]: If the content is no such input.
        """

    def group(self, row: Mapping[str, Any]) -> Hashable:
        """What rows must have in common to be in one batch."""

    def batch(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Rows as the model takes them, padded to the longest."""

    def examples(self) -> list[Mapping[str, Any]]:
        """Rows that differ, to try a model with."""

    def signature(self) -> str:
        """Equal for inputs that come out equal."""


class Texts:
    """
    Texts to token ids.

    Args:
        tokenizer (`Any`): The tokenizer.
        max_length (`int`): Longest text in tokens; what is beyond is cut off, as in training.
    """

    kind = "text"
    threads = 1  # a fast tokenizer refuses two callers at once

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        from transformers import DataCollatorWithPadding

        if tokenizer.pad_token is None:
            raise ServeError("The tokenizer has no padding token, which batches need. Save it with one (`pad_token`).")
        self.tokenizer, self.max_length = tokenizer, max_length
        self.collate = DataCollatorWithPadding(tokenizer)

    def prepare(self, content: str | bytes) -> Mapping[str, Any]:
        """Token ids of one text."""
        if not isinstance(content, str):
            raise ServeError('This server takes texts, found an image. Send {"text": "..."}.', 422)
        row = dict(self.tokenizer(content, truncation=True, max_length=self.max_length))
        if not row["input_ids"]:
            raise ServeError("The text is empty: it has no tokens.", 422)
        return row

    def group(self, row: Mapping[str, Any]) -> Hashable:
        """Texts of all lengths run together."""
        return None

    def batch(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Token ids of shape `(rows, longest)`, and their mask."""
        return dict(self.collate([dict(row) for row in rows]))

    def examples(self) -> list[Mapping[str, Any]]:
        """Three texts of different lengths."""
        return [self.prepare(text) for text in ("an example", "another example of a text", "yes")]

    def signature(self) -> str:
        """Of the vocabulary and the longest text."""
        words = sorted(self.tokenizer.get_vocab().items())
        return _signature(["text", words, self.max_length, self.tokenizer.padding_side, self.tokenizer.truncation_side])


class Images:
    """
    Images to pixels.

    Args:
        processor (`Any`): The image processor.
    """

    kind = "image"
    threads = 2

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def prepare(self, content: str | bytes) -> Mapping[str, Any]:
        """Pixels of one image file."""
        if isinstance(content, str):
            raise ServeError('This server takes images, found a text. Send {"image": "BASE64"} or the file.', 422)
        return self._pixels(_opened(content))

    def _pixels(self, image: Any) -> Mapping[str, Any]:
        return {"pixel_values": torch.as_tensor(self.processor([image], return_tensors="pt")["pixel_values"][0])}

    def group(self, row: Mapping[str, Any]) -> Hashable:
        """A processor may leave images of different sizes."""
        return tuple(row["pixel_values"].shape)

    def batch(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Pixels of shape `(rows, channels, height, width)`."""
        return {"pixel_values": torch.stack([row["pixel_values"] for row in rows])}

    def examples(self) -> list[Mapping[str, Any]]:
        """Three images of noise."""
        from PIL import Image

        generator = torch.Generator().manual_seed(0)
        noise = torch.randint(0, 256, (3, 64, 64, 3), generator=generator, dtype=torch.uint8)
        return [self._pixels(Image.fromarray(one.numpy())) for one in noise]

    def signature(self) -> str:
        """Of sizes, crops and normalisation."""
        settings = {**self.processor.to_dict(), "data_config": getattr(self.processor, "data_config", None)}
        return _signature(["image", {name: settings.get(name) for name in _DECIDES}])


def _opened(content: bytes) -> Any:
    """
    An image file, read.

    Raises: [`ServeError`]: If it is none, has too many pixels, or values of which nothing says what is white.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own limit is told by an error of ours
            image = Image.open(io.BytesIO(content))
        if image.width * image.height > MAX_PIXELS:
            raise ServeError(f"Expected an image of at most {MAX_PIXELS:,} pixels, found {image.size}. Shrink it.", 413)
        return as_rgb(image)
    except ServeError:
        raise
    except DataError as error:
        raise ServeError(str(error), 422) from None
    except Exception as error:  # decoders of foreign bytes raise whatever they like
        name = type(error).__name__
        raise ServeError(
            f"Expected an image that Pillow reads, found {len(content)} other bytes ({name}).", 422
        ) from None


def _signature(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, default=_plain, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else str(value)


# --- loading --------------------------------------------------------------------------------
def load_inputs(model: Any, base: str, revision: str | None, adapter: Path) -> Inputs | None:
    """
    How an adapter's inputs are made: by its own processor and settings, else by the base's.

    Args:
        model (`torch.nn.Module`): The base.
        base (`str`), revision (`str`, *optional*): Its name.
        adapter (`Path`): Folder of the adapter.

    Returns: [`Inputs`] or `None`: `None` if neither brings any.
    Raises: [`ServeError`]: If the model is for neither texts nor images.
    """
    takes = getattr(model, "main_input_name", None)
    if takes not in ("input_ids", "pixel_values"):
        raise ServeError(f"Expected a base model for texts or images, found {type(model).__name__} ({takes}).")
    text = takes == "input_ids"
    settings = input_settings(str(adapter))
    own = any((adapter / name).is_file() for name in (_TOKENIZER if text else _PROCESSOR))
    if settings is not None and settings.text != text:
        raise ServeError(f"The adapter is for {'texts' if settings.text else 'images'}, the base is not.", 422)
    named = str(adapter) if own else settings.processor if settings is not None else None
    size, most = (settings.image_size, settings.max_length) if settings is not None else (None, None)
    folder = Path(base)
    files = any((folder / name).is_file() for name in (*_TOKENIZER, *_PROCESSOR))
    # Models of timm have no file for it: their configuration says how images are made.
    if named is None and folder.is_dir() and not files and getattr(model.config, "model_type", "") != "timm_wrapper":
        return None
    processor = load_processor(base, revision, PreprocessingSection(named, size, most), text)
    return Texts(processor, _longest(most, processor, model)) if text else Images(processor)


def _longest(asked: int | None, tokenizer: Any, model: Any) -> int:
    """A text longer than the model has positions would fail, and its batch with it."""
    limits = [asked, tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None), 1_000_000]
    return min(limit for limit in limits if limit)
