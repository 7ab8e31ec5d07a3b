"""
Carries out a recipe's sections: rows, transforms, model.

Everything goes through `datasets` and the model's own processor or tokenizer. Does not know the search.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RecipeError
from .recipe import DataSection, ModelSection, PreprocessingSection, Recipe

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Prepared:
    """
    A recipe's model and data, ready for a trainer.

    Args:
        model (`transformers.PreTrainedModel`): With a head of as many labels as the data has.
        processor (`Any`): Image processor or tokenizer.
        train (`datasets.Dataset`), test (`datasets.Dataset`): Raw rows.
        train_transform (`Callable`), eval_transform (`Callable`): As in `Dataset.set_transform`.
        data_collator (`Callable`, *optional*): For texts, which are padded by batch.
        label_column (`str`): The label's column.
    """

    model: Any
    processor: Any
    train: Dataset
    test: Dataset
    train_transform: Any
    eval_transform: Any
    data_collator: Any
    label_column: str


def prepare(recipe: Recipe) -> Prepared:
    """
    Load what a recipe names.

    Args:
        recipe ([`Recipe`]): The recipe.

    Returns: [`Prepared`]
    Raises: [`RecipeError`]: If a split or column is missing, or model or data cannot be found.
    """
    train, test = load_rows(recipe.data)
    names = label_names(train, recipe.data.label_column)
    text = recipe.data.text_column is not None
    processor = load_processor(recipe, text)
    model = load_model(recipe.model, names, text)
    collator = None
    if text:
        from transformers import DataCollatorWithPadding

        plain: Any = Tokenize(processor, recipe.data, recipe.preprocessing.max_length)
        augmented, collator = plain, DataCollatorWithPadding(processor)
    else:
        plain = ToInputs(processor, recipe.data, recipe.preprocessing, "none")
        augmented = ToInputs(processor, recipe.data, recipe.preprocessing, recipe.preprocessing.augmentation)
    return Prepared(model, processor, train, test, augmented, plain, collator, recipe.data.label_column)


def load_rows(section: DataSection) -> tuple[Dataset, Dataset]:
    """The training and the test split, cut to their largest number of rows by the recipe's seed."""
    from datasets import DatasetDict, load_dataset, load_from_disk

    origin = section.name or str(Path(section.path or "").expanduser())
    try:
        if (Path(origin) / "dataset_dict.json").is_file():
            found: Any = load_from_disk(origin)
        else:
            found = load_dataset(origin, section.config)
    except (OSError, ValueError) as error:
        raise RecipeError(f"data: '{origin}' cannot be loaded: {str(error).strip().splitlines()[0]}") from error
    if not isinstance(found, DatasetDict):
        raise RecipeError(f"data: '{origin}' has no splits. Expected '{section.train_split}', '{section.test_split}'.")
    parts = []
    for key, most in (("train_split", section.max_train_rows), ("test_split", section.max_test_rows)):
        split = getattr(section, key)
        if split not in found:
            raise RecipeError(f"data.{key}: there is no split '{split}' in '{origin}', only {', '.join(found)}.")
        rows = found[split]
        for column_key in ("image_column", "text_column", "label_column"):
            column = getattr(section, column_key)
            if column is not None and column not in rows.column_names:
                raise RecipeError(
                    f"data.{column_key}: split '{split}' has no column '{column}', only {', '.join(rows.column_names)}."
                )
        if most is not None and most < len(rows):
            rows = rows.shuffle(seed=section.seed).select(range(most))
        parts.append(rows)
    return parts[0], parts[1]


def label_names(rows: Dataset, column: str) -> list[str]:
    """
    Names of the classes, from the column's `ClassLabel`, else from its integers.

    Raises: [`RecipeError`]: If the labels are no class indices.
    """
    feature = rows.features[column]
    if hasattr(feature, "names"):
        return list(feature.names)
    labels = set(rows.with_format(None)[column])
    if not all(isinstance(label, int) and label >= 0 for label in labels):
        raise RecipeError(
            f"data.label_column: '{column}' must hold class indices, found {sorted(labels, key=str)[:5]}. Encode it "
            f"with `dataset.class_encode_column('{column}')` first."
        )
    return [str(label) for label in range(max(labels) + 1)]


def load_processor(recipe: Recipe, text: bool) -> Any:
    """The image processor or tokenizer."""
    from transformers import AutoImageProcessor, AutoTokenizer

    name = recipe.preprocessing.processor or recipe.model.name
    revision = recipe.model.revision if recipe.preprocessing.processor is None else None
    try:
        return (AutoTokenizer if text else AutoImageProcessor).from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        kind = "tokenizer" if text else "image processor"
        reason = str(error).strip().splitlines()[0]
        raise RecipeError(f"preprocessing.processor: no {kind} in '{name}': {reason}") from error


def load_model(section: ModelSection, names: list[str], text: bool) -> Any:
    """The classifier, with a head of the right size."""
    from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

    auto = AutoModelForSequenceClassification if text else AutoModelForImageClassification
    labels = dict(enumerate(names))
    try:
        return auto.from_pretrained(
            section.name,
            revision=section.revision,
            num_labels=len(names),
            id2label=labels,
            label2id={name: index for index, name in labels.items()},
            ignore_mismatched_sizes=True,
            **section.kwargs,
        )
    except (OSError, ValueError) as error:
        raise RecipeError(f"model.name: '{section.name}': {str(error).strip().splitlines()[0]}") from error


class Tokenize:
    """Texts to token ids. Args: as the recipe's sections."""

    def __init__(self, tokenizer: Any, data: DataSection, max_length: int | None) -> None:
        self.tokenizer, self.data, self.max_length = tokenizer, data, max_length

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, Any]:
        out = dict(self.tokenizer(batch[self.data.text_column or ""], truncation=True, max_length=self.max_length))
        if self.data.label_column in batch:
            out["labels"] = list(batch[self.data.label_column])
        return out


class ToInputs:
    """Images to `pixel_values`, with a named augmentation. Args: as the recipe's sections."""

    def __init__(
        self, processor: Any, data: DataSection, preprocessing: PreprocessingSection, augmentation: str
    ) -> None:
        self.processor, self.data, self.augmentation = processor, data, augmentation
        self.options = _sized(processor, preprocessing.image_size)

    def __call__(self, batch: dict[str, list[Any]]) -> dict[str, Any]:
        images = [augment(image.convert("RGB"), self.augmentation) for image in batch[self.data.image_column or ""]]
        out: dict[str, Any] = {
            "pixel_values": list(self.processor(images, return_tensors="pt", **self.options)["pixel_values"])
        }
        if self.data.label_column in batch:
            out["labels"] = list(batch[self.data.label_column])
        return out


def _sized(processor: Any, side: int | None) -> dict[str, Any]:
    if side is None:
        return {}
    square = {"height": side, "width": side}
    keys = dict(getattr(processor, "size", None) or {})
    options: dict[str, Any] = {"size": {"shortest_edge": side} if "shortest_edge" in keys else square}
    if getattr(processor, "do_center_crop", False):
        options["crop_size"] = square
    return options


def augment(image: Any, name: str) -> Any:
    """
    A random change that keeps the class, drawn from torch's generator.

    Args:
        image (`PIL.Image.Image`): The image.
        name (`str`): `"none"`, `"flip"`, `"shift"` or `"shift_flip"`.

    Returns: `PIL.Image.Image`: of the same size.
    """
    import torch
    from PIL import Image, ImageOps

    if "shift" in name:
        width, height = image.size
        x = int(torch.randint(-(width // 8), width // 8 + 1, ()))
        y = int(torch.randint(-(height // 8), height // 8 + 1, ()))
        moved = Image.new(image.mode, image.size)
        # Its reflections continue the image, so that no black bar gives the shift away.
        for column in (-1, 0, 1):
            for row in (-1, 0, 1):
                tile = ImageOps.mirror(image) if column else image
                moved.paste(ImageOps.flip(tile) if row else tile, (x + column * width, y + row * height))
        image = moved
    if "flip" in name and bool(torch.rand(()) < 0.5):
        image = ImageOps.mirror(image)
    return image
