"""
A base model, adapters and inputs, with the answer of each adapter alone for each input.

The models are random and made from configurations; their sizes are those of real ones or tiny. Knows models; does not
know servers.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from torch import nn

from subtuning_hf import SubTuningConfig, find_blocks
from subtuning_hf.cli.predict_model import load_predictor
from subtuning_hf.errors import ArgumentsError

NUM_WORDS = 500
TINY = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
# As wide and deep as MiniLM-L6 and ViT-S/16.
SMALL_TEXT = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
SMALL_IMAGE = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny-text": ("text", TINY),
    "tiny-image": ("image", {**TINY, "image_size": 32, "patch_size": 8}),
    "small-text": ("text", SMALL_TEXT),
    "small-image": ("image", {**SMALL_IMAGE, "image_size": 224, "patch_size": 16}),
}


@dataclass(frozen=True)
class Problem:
    """
    What is asked, and what must come back.

    Args:
        base (`str`): Folder or Hub name.
        adapters (`Mapping[str, Path]`): Folders by task.
        bodies (`Sequence[Mapping[str, str]]`): Inputs as requests hold them.
        labels (`Mapping[str, Sequence[str]]`): Of each adapter.
        wanted (`Mapping[str, torch.Tensor]`): Probabilities of shape `(inputs, labels)` by adapter.
    """

    base: str
    adapters: Mapping[str, Path]
    bodies: Sequence[Mapping[str, str]]
    labels: Mapping[str, Sequence[str]]
    wanted: Mapping[str, torch.Tensor]


# --- models and adapters --------------------------------------------------------------------
def make_base(folder: Path, model: str) -> nn.Module:
    """
    A random model with its tokenizer or processor, saved.

    Args:
        folder (`Path`): Where to.
        model (`str`): One of `MODELS`.
    """
    import transformers

    kind, settings = MODELS[model]
    torch.manual_seed(0)
    if kind == "text":
        config: Any = transformers.BertConfig(vocab_size=NUM_WORDS + 4, max_position_embeddings=128, **settings)
        base: Any = transformers.BertForSequenceClassification(config)
        _tokenizer().save_pretrained(folder)
    else:
        base = transformers.ViTForImageClassification(transformers.ViTConfig(**settings))
        side = settings["image_size"]
        transformers.ViTImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
    _enliven(base)
    base.save_pretrained(folder)
    return base.eval()


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{n}" for n in range(NUM_WORDS))]
    backend = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=128, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def _enliven(model: nn.Module) -> None:
    """Fresh weights hardly depend on the input: give them the scale of trained ones, or any answer would look right."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                spread = float(module.weight.std() * module.in_features**0.5)
                module.weight.mul_(1 / max(spread, 1e-6))
            elif isinstance(module, nn.Embedding):
                module.weight.mul_(10)


def make_adapters(folder: Path, base: nn.Module, count: int) -> dict[str, Path]:
    """
    Adapters that tune one or two of the last blocks, with different numbers of classes.

    Args:
        folder (`Path`): Where to.
        base (`torch.nn.Module`): The model.
        count (`int`): How many.
    """
    import copy

    last, found = len(find_blocks(base)) - 1, {}
    for number in range(count):
        torch.manual_seed(number + 1)
        name = f"task-{number}"
        blocks = [[last], [last - 1], [last - 1, last]][number % 3]
        labels = {n: f"{name}:{n}" for n in range(2 + number % 5)}
        peft = get_peft_model(copy.deepcopy(base), SubTuningConfig(blocks=blocks, id2label=labels))  # type: ignore[arg-type]
        with torch.no_grad():
            for parameter in peft.parameters():
                if parameter.requires_grad:
                    spread = 0.3 * parameter.std().nan_to_num(1.0).clamp_min(0.1)
                    parameter.add_(spread * torch.randn_like(parameter))
        peft.save_pretrained(str(folder / name))
        found[name] = folder / name
    return found


# --- inputs and answers ---------------------------------------------------------------------
def make_inputs(kind: str, count: int) -> list[Any]:
    """
    Texts of 3 to 40 words, or images of noise.

    Args:
        kind (`str`): `"text"` or `"image"`.
        count (`int`): How many.
    """
    generator = torch.Generator().manual_seed(0)
    if kind == "text":
        lengths = torch.randint(3, 41, (count,), generator=generator).tolist()
        return [
            " ".join(f"w{n}" for n in torch.randint(NUM_WORDS, (length,), generator=generator).tolist())
            for length in lengths
        ]
    from PIL import Image

    noise = torch.randint(0, 256, (count, 32, 32, 3), generator=generator, dtype=torch.uint8)
    return [Image.fromarray(one.numpy()) for one in noise]


def body_of(one: Any) -> dict[str, str]:
    """An input as a request holds it."""
    if isinstance(one, str):
        return {"text": one}
    file = io.BytesIO()
    one.save(file, format="PNG")
    return {"image": base64.b64encode(file.getvalue()).decode()}


def answers_alone(base: str, adapter: Path, inputs: Sequence[Any]) -> tuple[list[str], torch.Tensor]:
    """
    What PEFT answers with one adapter, one input at a time.

    Args:
        base (`str`): Folder or Hub name.
        adapter (`Path`): Folder.
        inputs (`Sequence[Any]`): Texts or images.

    Returns: `tuple[list[str], torch.Tensor]`: labels, and probabilities of shape `(inputs, labels)`.
    """
    predictor = load_predictor(str(adapter), base)
    rows = []
    for one in inputs:
        if predictor.settings.text:
            longest = predictor.settings.max_length
            fed = predictor.processor(one, truncation=True, max_length=longest, return_tensors="pt")
        else:
            fed = predictor.processor([one.convert("RGB")], return_tensors="pt")
        with torch.inference_mode():
            rows.append(predictor.model.eval()(**fed).logits.float().softmax(-1)[0])
    return predictor.labels, torch.stack(rows)


def make_problem(base: str, adapters: Mapping[str, Path], kind: str, count: int, tolerance: float) -> Problem:
    """
    Inputs and what must come back for them.

    Args:
        base (`str`): Folder or Hub name.
        adapters (`Mapping[str, Path]`): Folders by task.
        kind (`str`): `"text"` or `"image"`.
        count (`int`): Number of inputs.
        tolerance (`float`): Of the comparison to come.

    Raises: [`ArgumentsError`]: If answers are so alike that a wrong one would not be noticed.
    """
    inputs = make_inputs(kind, count)
    labels, wanted = {}, {}
    for name, folder in adapters.items():
        labels[name], wanted[name] = answers_alone(base, folder, inputs)
        apart = (wanted[name] - wanted[name].roll(1, 0)).abs().amax(-1) > 10 * tolerance
        if float(apart.float().mean()) < 0.8:
            raise ArgumentsError(
                f"'{name}' answers different inputs alike, so that wrong answers would look right. Expected 8 of 10 "
                f"to differ by more than {10 * tolerance:g}, found {int(apart.sum())} of {count}. Take other adapters."
            )
    return Problem(base, dict(adapters), [body_of(one) for one in inputs], labels, wanted)
