"""
A saved adapter on its base model, ready to predict.

Knows adapters, what lies beside them, and base models by name; does not know recipes or files of inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..errors import RecipeError, SubTuningError
from .predict_origin import Origin, check_base, check_processor, has_processor, input_settings
from .recipe import PreprocessingSection
from .recipe_inputs import InputSettings, load_processor

if TYPE_CHECKING:
    from .predict_inputs import Inputs


@dataclass(frozen=True)
class Predictor:
    """
    Args:
        model (`peft.PeftModel`): The adapter on its base, in eval mode.
        processor (`Any`): Image processor or tokenizer.
        labels (`list[str]`): Names of the classes.
        settings ([`InputSettings`]): How inputs are made.
        base (`str`): Name of the base.
    """

    model: Any
    processor: Any
    labels: list[str]
    settings: InputSettings
    base: str

    @property
    def problem(self) -> str | None:
        """`str` or `None`: what the labels are, where they are not one class per row."""
        from ..hub.facts import problem_of

        return problem_of(self.model)

    @property
    def is_regression(self) -> bool:
        """`bool`: whether outputs are numbers: so it is said, or there is one, of which a softmax says nothing."""
        return self.problem == "regression" or len(self.labels) == 1


def load_predictor(adapter: Origin | str, base: str | None = None, revision: str | None = None) -> Predictor:
    """
    Load an adapter and all it needs.

    Args:
        adapter ([`Origin`] or `str`): Folder or Hub name, with `@revision` if need be.
        base (`str`, *optional*), revision (`str`, *optional*): The base; by default the one the adapter names.

    Returns: [`Predictor`]
    Raises:
        [`RecipeError`]: If adapter or base are missing, or the base is for neither images nor texts.
        [`AdapterFileError`]: If the adapter holds, or asks for, what an adapter may not.
    """
    from .recipe import ModelSection
    from .recipe_data import load_model

    origin = adapter if isinstance(adapter, Origin) else Origin.of(adapter)
    config = adapter_config(origin)
    name = base or config.base_model_name_or_path
    if not name:
        raise RecipeError(f"The adapter '{origin}' does not name its base model. Name it with --base.")
    if base is None:
        check_base(origin, name)
    settings = input_settings(origin) or InputSettings(text=_is_text(name, revision))
    revision = revision or settings.revision or (config.revision if base is None else None)
    labels = [config.id2label[index] for index in sorted(config.id2label or {})]
    if not labels:
        raise RecipeError(f"The adapter '{origin}' has no labels: it is not one of a classifier.")
    own = has_processor(origin, settings.text)
    kwargs = {"trust_remote_code": False, **({} if settings.dtype is None else {"dtype": settings.dtype})}
    model = with_adapter(load_model(ModelSection(name, revision, kwargs), labels, settings.text), origin)
    asked = PreprocessingSection(None if own else settings.processor, settings.image_size, settings.max_length)
    place = (origin.name, origin.revision) if own else (name, revision)
    processor = load_processor(*place, asked, settings.text)
    check_processor(origin, processor)
    return Predictor(model, processor, labels, replace(settings, revision=revision), name)


def with_adapter(base: Any, origin: Origin) -> Any:
    """
    An adapter on its base, in eval mode.

    Args:
        base (`transformers.PreTrainedModel`): The base model.
        origin ([`Origin`]): Whose adapter.

    Raises: [`RecipeError`]: If there is none. Errors of adapters that do not fit are their own.
    """
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(base, origin.name, revision=origin.revision).eval()
    except (OSError, ValueError) as error:
        if isinstance(error, SubTuningError):
            raise
        raise RecipeError(f"No adapter '{origin}': {str(error).strip().splitlines()[0]}") from error


def adapter_config(origin: Origin) -> Any:
    """
    The configuration of an adapter.

    Raises: [`RecipeError`]: If there is none. A damaged one has an error of its own.
    """
    from ..tuner import SubTuningConfig

    try:
        return SubTuningConfig.from_pretrained(origin.name, revision=origin.revision)
    except SubTuningError:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise RecipeError(
            f"There is no SubTuning adapter '{origin}': {str(error).strip().splitlines()[0]} The first word after "
            "`predict` is an adapter folder or a name on the Hub, the others are inputs."
        ) from error


def _is_text(name: str, revision: str | None) -> bool:
    """Whether a base model is for texts, by the kind of its configuration."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    )

    try:
        kind = type(AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RecipeError(f"No base model '{name}': {reason} Name it with --base.") from error
    if kind in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        return False
    if kind in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        return True
    raise RecipeError(f"'{name}' ({kind.__name__}) classifies neither images nor texts.")


def answers(predictor: Predictor, inputs: Inputs, arguments: Any) -> Any:
    """
    Probabilities of the labels, or the numbers of a regression, in the order of the inputs, the same in every process
    of a launch. Where a row may have several labels, each has a probability of its own.

    Args:
        predictor ([`Predictor`]): The adapter.
        inputs ([`Inputs`]): What is predicted.
        arguments ([`~transformers.TrainingArguments`]): Batch size and device.

    Returns: `numpy.ndarray` of shape `(inputs, labels)`.
    """
    import torch
    from transformers import Trainer

    from ..training.data import view
    from .recipe_data import collator, transform

    text = predictor.settings.text
    shown = transform(
        predictor.processor,
        text_column="text" if text else None,
        image_column=None if text else "image",
        label_column="",
        max_length=predictor.settings.max_length,
    )
    trainer = Trainer(model=predictor.model, args=arguments, data_collator=collator(predictor.processor, text))
    logits = trainer.predict(view(inputs.rows, None, shown)).predictions
    logits = logits[0] if isinstance(logits, tuple) else logits  # models that return more than logits
    found = torch.from_numpy(logits).float()
    if predictor.is_regression:
        return found.numpy()
    several = predictor.problem == "multi_label_classification"
    return (found.sigmoid() if several else found.softmax(-1)).numpy()
