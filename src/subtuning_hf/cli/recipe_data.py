"""
Carries out a recipe's sections: rows, transforms, model.

Everything goes through `datasets` and the model's own processor or tokenizer. Does not know the search.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import RecipeError
from .recipe import ModelSection, Recipe
from .recipe_inputs import InputSettings, ToInputs, Tokenize, load_processor
from .recipe_rows import load_rows

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
        validation (`datasets.Dataset`, *optional*): Rows to choose by.
        train_transform (`Callable`), eval_transform (`Callable`): As in `Dataset.set_transform`.
        data_collator (`Callable`, *optional*): For texts, which are padded by batch.
        settings ([`InputSettings`]): What predictions need to know of the inputs.
    """

    model: Any
    processor: Any
    train: Dataset
    test: Dataset
    validation: Dataset | None
    train_transform: Any
    eval_transform: Any
    data_collator: Any
    settings: InputSettings


def prepare(recipe: Recipe) -> Prepared:
    """
    Load what a recipe names.

    Args:
        recipe ([`Recipe`]): The recipe.

    Returns: [`Prepared`]
    Raises: [`RecipeError`]: If a split or column is missing, or model or data cannot be found.
    """
    data, preprocessing = recipe.data, recipe.preprocessing
    rows = load_rows(data)
    text = data.text_column is not None
    processor = load_processor(recipe.model.name, recipe.model.revision, preprocessing, text)
    model = load_model(recipe.model, rows.names, text)
    plain = transform(processor, data.text_column, data.image_column, data.label_column, preprocessing.max_length)
    augmented = plain
    if not text:
        augmented = ToInputs(processor, data.image_column or "", data.label_column, preprocessing.augmentation)
    settings = InputSettings(
        text,
        recipe.model.revision,
        recipe.model.kwargs.get("dtype"),
        preprocessing.image_size,
        preprocessing.max_length,
        preprocessing.processor,
    )
    return Prepared(
        model,
        processor,
        rows.train,
        rows.test,
        rows.validation,
        augmented,
        plain,
        collator(processor, text),
        settings,
    )


def transform(
    processor: Any, text_column: str | None, image_column: str | None, label_column: str, max_length: int | None
) -> Any:
    """What rows go through that are scored or predicted: no augmentation."""
    if text_column is not None:
        return Tokenize(processor, text_column, label_column, max_length)
    return ToInputs(processor, image_column or "", label_column, "none")


def collator(processor: Any, text: bool) -> Any:
    """What makes rows a batch: texts are padded to the longest among them, for images Trainer's own will do."""
    if not text:
        return None
    from transformers import DataCollatorWithPadding

    return DataCollatorWithPadding(processor)


def load_model(section: ModelSection, names: list[str], text: bool) -> Any:
    """
    The classifier, with a head of the right size.

    Args:
        section ([`ModelSection`]): The section.
        names (`list[str]`): Names of the classes.
        text (`bool`): Whether inputs are texts, else images.

    Raises: [`RecipeError`]: If there is no such model, or none for this kind of inputs.
    """
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
    except (OSError, ValueError, TypeError) as error:
        # transformers says the same of a name that is none and of a line that broke; what was behind it tells.
        behind = str(error.__cause__ or error.__context__ or "").strip().splitlines()[:1]
        reason = " ".join([str(error).strip().splitlines()[0], *(f"({line})" for line in behind)])
        raise RecipeError(f"model.name: '{section.name}': {reason}") from error
