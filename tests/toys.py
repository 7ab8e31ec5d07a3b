"""
Tiny random models, one row per architecture, built from configurations without any download.

`TOYS` maps a name to a [`Toy`]; the tests of every part take their models from here. A row says how
to build the model, what to feed it, and what the block rules must find in it. Weights depend on the
name alone, so two `build()` of one toy are equal bit for bit, and each block has a visible effect on
the output. Dropout stays as the architecture's own configuration has it. Adding a case is one line
in `TOYS`.

What this module does not know: the package under test. It imports torch and nothing else until a
model is built.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from toy_modules import NUM_LABELS, VOCABULARY, HeadListTransformer, PlainResNet, sequential_net


@dataclass(frozen=True)
class Toy:
    """
    One tiny architecture.

    Args:
        name (`str`): Key in `TOYS`, also the pytest id.
        kind (`str`): One of `"image"`, `"text"`, `"seq2seq"`, `"audio"`, `"timm"`, `"timm-wrapper"`, `"plain"`.
        make (`Callable[[], nn.Module]`): Builds the model with whatever random state is current; use `build()`.
        feed (`Callable[[int], dict[str, Tensor]]`): Batch size to keyword arguments of `forward`; use `inputs()`.
        blocks (`tuple[str, ...]`): Full names of the expected blocks in forward order.
        head (`tuple[str, ...]`): Names of the expected output-layer modules, `()` where there is none.
    """

    name: str
    kind: str
    make: Callable[[], nn.Module] = field(repr=False)
    feed: Callable[[int], dict[str, Tensor]] = field(repr=False)
    blocks: tuple[str, ...] = ()
    head: tuple[str, ...] = ()

    @property
    def num_blocks(self) -> int:
        """`int`: Number of blocks the rules must find."""
        return len(self.blocks)

    @property
    def has_head(self) -> bool:
        """`bool`: Whether the model ends in a classification head of `NUM_LABELS` outputs."""
        return bool(self.head)

    def build(self) -> nn.Module:
        """Returns: `nn.Module` in eval mode, the same weights at every call, RNG left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(self.name.encode()))
            model = self.make()
            enliven(model)
            settle_statistics(model, self.feed)
            return model.eval()

    def build_meta(self) -> nn.Module:
        """Returns: `nn.Module` on the meta device: shapes without storage."""
        try:
            with torch.device("meta"):
                return self.make().eval()
        except NotImplementedError:  # timm 1.0.22 computes the widths of a RegNet with tensors that need values
            return self.make().eval().to("meta")

    def inputs(self, batch_size: int = 2, seed: int = 0) -> dict[str, Tensor]:
        """Returns: `dict[str, Tensor]`: keyword arguments for `model(**inputs)`, RNG left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.feed(batch_size)


def logits_of(output: Any) -> Tensor:
    """Returns: `Tensor`: the logits, whatever the model wraps them in."""
    if isinstance(output, Tensor):
        return output
    return output["logits"] if isinstance(output, Mapping) else output[0]


def enliven(model: nn.Module) -> None:
    """
    Give fresh weights the size of trained ones.

    Initial values made for large models leave a tiny one dead: zero biases and gains, layer scales of 1e-6 and weights
    of 0.02 that sixteen blocks multiply to 1e-29. A test of equal outputs would hold for any weights.
    """
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and name.endswith("weight"):  # of a norm
                parameter.copy_(1 + 0.1 * torch.randn_like(parameter))
            elif parameter.min() == parameter.max():
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif parameter.ndim > 1 and id(parameter) not in tables:
                spread = float(parameter.std() * parameter[0].numel() ** 0.5)  # 1 keeps the scale of what goes through
                parameter.mul_(max(1.0, 1.0 / spread))


def settle_statistics(model: nn.Module, feed: Callable[[int], dict[str, Tensor]]) -> None:
    """Fill the running statistics of batch norms from two batches, so that they are neither 0 and 1 nor meaningless."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if norms:
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = None  # the mean of all batches
        model.train()
        with torch.no_grad():
            for _ in range(2):
                model(**feed(8))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def expand(*patterns: str) -> tuple[str, ...]:
    """
    Write out names from a short form, the rightmost braces running fastest.

    `expand("layer{1-2}.{0-1}")` is `("layer1.0", "layer1.1", "layer2.0", "layer2.1")`; `{0,2}` lists values.
    """
    names: list[str] = []
    for pattern in patterns:
        pieces = re.split(r"\{([^}]*)\}", pattern)
        choices = [_choices(piece) if i % 2 else [piece] for i, piece in enumerate(pieces)]
        names.extend("".join(parts) for parts in itertools.product(*choices))
    return tuple(names)


def _choices(text: str) -> list[str]:
    span = re.fullmatch(r"(\d+)-(\d+)", text)
    return [str(i) for i in range(int(span[1]), int(span[2]) + 1)] if span else text.split(",")


# --- what models are fed --------------------------------------------------------------------
def pixels(size: int = 32, key: str = "pixel_values") -> Callable[[int], dict[str, Tensor]]:
    """Images of shape `(batch, 3, size, size)`."""
    return lambda batch: {key: torch.randn(batch, 3, size, size)}


def tokens(length: int = 9, decoder: bool = False) -> Callable[[int], dict[str, Tensor]]:
    """Token ids of shape `(batch, length)` without special tokens, the last two of row 0 padded away."""

    def feed(batch: int) -> dict[str, Tensor]:
        ids = torch.randint(5, VOCABULARY, (batch, length))
        mask = torch.ones_like(ids)
        if batch > 1:
            mask[0, -2:] = 0
            ids[0, -2:] = 0
        fed = {"input_ids": ids, "attention_mask": mask}
        if decoder:
            fed["decoder_input_ids"] = torch.randint(5, VOCABULARY, (batch, 4))
        return fed

    return feed


def tokens_with_end(length: int = 9) -> Callable[[int], dict[str, Tensor]]:
    """Token ids whose every row ends in the one end-of-sequence token that T5's and BART's classifiers look for."""

    def feed(batch: int) -> dict[str, Tensor]:
        ids = torch.randint(5, VOCABULARY, (batch, length))
        ids[:, -1] = 1
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    return feed


def waves(length: int = 400) -> Callable[[int], dict[str, Tensor]]:
    """Raw sound of shape `(batch, length)`."""
    return lambda batch: {"input_values": torch.randn(batch, length)}


def mels(bins: int = 8, frames: int = 20) -> Callable[[int], dict[str, Tensor]]:
    """Mel spectrograms of shape `(batch, bins, frames)`."""
    return lambda batch: {"input_features": torch.randn(batch, bins, frames)}


# --- how rows are written -------------------------------------------------------------------
def hf(name: str, kind: str, model: str, blocks: tuple[str, ...], head: tuple[str, ...] = ("classifier",),
       feed: Callable[[int], dict[str, Tensor]] | None = None, **settings: Any) -> Toy:  # fmt: skip
    """A transformers architecture: the name of its class, and the settings of its configuration that make it tiny."""

    def make() -> nn.Module:
        import transformers

        labels = {} if "num_labels" in settings or not head else {"num_labels": NUM_LABELS}
        cls = getattr(transformers, model)
        return cls(cls.config_class(**settings, **labels))

    feeds = {"image": pixels(), "text": tokens(), "seq2seq": tokens(), "audio": waves()}
    return Toy(name, kind, make, feed or feeds[kind], blocks, head)


def timm(name: str, model: str, blocks: tuple[str, ...], head: tuple[str, ...], size: int = 32, **settings: Any) -> Toy:
    """A plain timm model."""

    def make() -> nn.Module:
        import timm

        return timm.create_model(model, num_classes=NUM_LABELS, **settings)

    return Toy(name, "timm", make, pixels(size, "x"), blocks, head)


def timm_wrapper(name: str, model: str, blocks: tuple[str, ...], head: tuple[str, ...], size: int = 32,
                 **settings: Any) -> Toy:  # fmt: skip
    """The same inside transformers' TimmWrapper, as `AutoModelForImageClassification` loads `timm/...` checkpoints."""

    def make() -> nn.Module:
        from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

        config = TimmWrapperConfig(architecture=model, num_labels=NUM_LABELS, model_args=settings or None)
        return TimmWrapperForImageClassification(config)

    prefixed = tuple(f"timm_model.{block}" for block in blocks), tuple(f"timm_model.{part}" for part in head)
    return Toy(name, "timm-wrapper", make, pixels(size), *prefixed)


def plain(name: str, make: Callable[[], nn.Module], blocks: tuple[str, ...], head: tuple[str, ...],
          feed: Callable[[int], dict[str, Tensor]] | None = None) -> Toy:  # fmt: skip
    """A module that belongs to no library."""
    return Toy(name, "plain", make, feed or pixels(16, "x"), blocks, head)


# --- the table ------------------------------------------------------------------------------
VIT: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32,
                       "image_size": 32, "patch_size": 8}  # fmt: skip
BERT: dict[str, Any] = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
                        "intermediate_size": 32, "max_position_embeddings": 64, "pad_token_id": 0}  # fmt: skip
ENDS: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2}
MODERN: dict[str, Any] = {**BERT, **ENDS, "cls_token_id": 1, "sep_token_id": 2}
LLAMA: dict[str, Any] = {**BERT, **ENDS, "num_key_value_heads": 1}
DEBERTA: dict[str, Any] = {**BERT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "pooler_hidden_size": 16}
GPT2: dict[str, Any] = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 64,
                        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}  # fmt: skip
T5: dict[str, Any] = {"vocab_size": VOCABULARY, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2,
                      "num_decoder_layers": 2, "decoder_start_token_id": 0}  # fmt: skip
STAGES: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 12, 16], "depths": [1, 2, 2]}
SWIN: dict[str, Any] = {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2],
                        "window_size": 4}  # fmt: skip
TIMM_SWIN: dict[str, Any] = {"img_size": 32, "embed_dim": 8, "depths": (2, 2), "num_heads": (2, 2), "window_size": 4}
TIMM_VIT: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}
TIMM_NEXT: dict[str, Any] = {"depths": (1, 1, 2, 1), "dims": (8, 12, 16, 24)}
WAVES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32,
                         "conv_dim": (8, 8), "conv_stride": (5, 4), "conv_kernel": (10, 4),
                         "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4,
                         "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8,
                         "apply_spec_augment": False}  # fmt: skip
WHISPER: dict[str, Any] = {"d_model": 16, "encoder_layers": 3, "encoder_attention_heads": 2, "encoder_ffn_dim": 32,
                           "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32, "num_mel_bins": 8,
                           "max_source_positions": 10, "vocab_size": VOCABULARY, "classifier_proj_size": 8,
                           "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
                           "decoder_start_token_id": 1}  # fmt: skip

RESNET_BLOCKS = expand("resnet.encoder.stages.0.layers.0", "resnet.encoder.stages.{1-2}.layers.{0-1}")
CONVNEXT_BLOCKS = expand("convnext.encoder.stages.0.layers.0", "convnext.encoder.stages.{1-2}.layers.{0-1}")
MOBILENET_V3_BLOCKS = expand("blocks.0.0", "blocks.1.{0-1}", "blocks.2.{0-2}", "blocks.3.{0-1}", "blocks.4.{0-2}")
NEXT_BLOCKS = expand("stages.{0-1}.blocks.0", "stages.2.blocks.{0-1}", "stages.3.blocks.0")
EFFICIENTNET_BLOCKS = expand("blocks.{1-4}.0")

_ROWS: tuple[Toy, ...] = (
    hf("resnet", "image", "ResNetForImageClassification", RESNET_BLOCKS, layer_type="basic", **STAGES),
    hf("resnet-bottleneck", "image", "ResNetForImageClassification", RESNET_BLOCKS, **STAGES),
    hf("convnext", "image", "ConvNextForImageClassification", CONVNEXT_BLOCKS,
       hidden_sizes=[8, 12, 16], depths=[1, 2, 2], num_stages=3, drop_path_rate=0.1),
    hf("vit", "image", "ViTForImageClassification", expand("vit.layers.{0-2}"), **VIT),
    hf("deit", "image", "DeiTForImageClassification", expand("deit.layers.{0-2}"), **VIT),
    hf("dinov2", "image", "Dinov2ForImageClassification", expand("dinov2.encoder.layer.{0-2}"), **VIT),
    hf("swin", "image", "SwinForImageClassification", expand("swin.encoder.layers.{0-1}.blocks.{0-1}"), **SWIN),
    hf("mobilenet-v2", "image", "MobileNetV2ForImageClassification", expand("mobilenet_v2.layer.{0-15}"),
       depth_multiplier=0.1, min_depth=4, depth_divisible_by=4, image_size=32),
    hf("efficientnet", "image", "EfficientNetForImageClassification",
       expand("efficientnet.encoder.blocks.{0-9}"), width_coefficient=0.2, depth_coefficient=0.5, hidden_dim=256,
       image_size=32, depth_divisor=4),
    hf("bert", "text", "BertForSequenceClassification", expand("bert.encoder.layer.{0-2}"), **BERT),
    hf("roberta", "text", "RobertaForSequenceClassification", expand("roberta.encoder.layer.{0-2}"), **BERT),
    hf("deberta", "text", "DebertaForSequenceClassification", expand("deberta.encoder.layer.{0-2}"),
       ("pooler", "classifier"), **DEBERTA),
    hf("deberta-v2", "text", "DebertaV2ForSequenceClassification", expand("deberta.encoder.layer.{0-2}"),
       ("pooler", "classifier"), **DEBERTA),
    hf("distilbert", "text", "DistilBertForSequenceClassification",
       expand("distilbert.transformer.layer.{0-2}"), ("pre_classifier", "classifier"), vocab_size=VOCABULARY, dim=16,
       n_layers=3, n_heads=2, hidden_dim=32, max_position_embeddings=64),
    hf("modernbert", "text", "ModernBertForSequenceClassification", expand("model.layers.{0-2}"),
       ("head", "classifier"), **MODERN),
    hf("llama", "text", "LlamaForSequenceClassification", expand("model.layers.{0-2}"), ("score",), **LLAMA),
    hf("llama-causal", "text", "LlamaForCausalLM", expand("model.layers.{0-2}"), (), **LLAMA),
    hf("qwen2", "text", "Qwen2ForSequenceClassification", expand("model.layers.{0-2}"), ("score",), **LLAMA),
    hf("qwen3", "text", "Qwen3ForSequenceClassification", expand("model.layers.{0-2}"), ("score",),
       head_dim=8, **LLAMA),
    hf("mistral", "text", "MistralForSequenceClassification", expand("model.layers.{0-2}"), ("score",), **LLAMA),
    hf("gpt2", "text", "GPT2ForSequenceClassification", expand("transformer.h.{0-2}"), ("score",), **GPT2),
    hf("gpt2-causal", "text", "GPT2LMHeadModel", expand("transformer.h.{0-2}"), (), **GPT2),
    hf("t5", "seq2seq", "T5ForSequenceClassification",
       expand("transformer.encoder.block.{0-1}", "transformer.decoder.block.{0-1}"), ("classification_head",),
       tokens_with_end(), **T5),
    hf("t5-generation", "seq2seq", "T5ForConditionalGeneration",
       expand("encoder.block.{0-1}", "decoder.block.{0-1}"), (), tokens(decoder=True), **T5),
    hf("clip-vision", "image", "CLIPForImageClassification", expand("vision_model.encoder.layers.{0-2}"),
       vision_config=VIT, text_config={**BERT, **ENDS, "num_hidden_layers": 1}),
    hf("whisper", "audio", "WhisperForAudioClassification", expand("encoder.layers.{0-2}"),
       ("projector", "classifier"), mels(), **WHISPER),
    hf("wav2vec2", "audio", "Wav2Vec2ForSequenceClassification", expand("wav2vec2.encoder.layers.{0-2}"),
       ("projector", "classifier"), **WAVES),
    timm("timm-resnet", "resnet18", expand("layer{1-4}.{0-1}"), ("fc",), channels=(8, 8, 12, 16), stem_width=8),
    timm("timm-vit", "vit_tiny_patch16_224", expand("blocks.{0-2}"), ("head",), **TIMM_VIT),
    timm("timm-convnext", "convnext_atto", NEXT_BLOCKS, ("head.fc",), **TIMM_NEXT),
    timm("timm-swin", "swin_tiny_patch4_window7_224", expand("layers.{0-1}.blocks.{0-1}"), ("head.fc",), **TIMM_SWIN),
    timm("timm-mobilenet", "mobilenetv3_small_050", MOBILENET_V3_BLOCKS, ("classifier",)),
    timm("timm-efficientnet", "test_efficientnet", EFFICIENTNET_BLOCKS, ("classifier",)),
    timm("timm-densenet", "densenet121", expand("features.denseblock{1-3}.denselayer{1-2}"), ("classifier",),
         growth_rate=4, block_config=(2, 2, 2)),
    timm("timm-regnet", "regnetx_002", expand("s1.b1", "s2.b1", "s3.b{1-2}", "s4.b{1-3}"), ("head.fc",),
         depth=7, w0=8, wa=10.0, wm=2.0, group_size=4, stem_width=8),
    timm("timm-deit-distilled", "deit_tiny_distilled_patch16_224", expand("blocks.{0-2}"), ("head", "head_dist"),
         **TIMM_VIT),
    timm("timm-resnetv2-conv-head", "resnetv2_18", expand("stages.{0-3}.blocks.{0-1}"), ("head.fc",),
         channels=(8, 8, 12, 16), stem_chs=8),
    timm_wrapper("wrapped-resnet", "resnet18", expand("layer{1-4}.{0-1}"), ("fc",),
                 channels=(8, 8, 12, 16), stem_width=8),
    timm_wrapper("wrapped-vit", "vit_tiny_patch16_224", expand("blocks.{0-2}"), ("head",), **TIMM_VIT),
    timm_wrapper("wrapped-convnext", "convnext_atto", NEXT_BLOCKS, ("head.fc",), **TIMM_NEXT),
    timm_wrapper("wrapped-efficientnet", "test_efficientnet", EFFICIENTNET_BLOCKS, ("classifier",)),
    plain("plain-resnet", PlainResNet, expand("layer{1-3}.{0-1}"), ("fc",)),
    plain("plain-head-list", HeadListTransformer, expand("layers.{0-2}"), ("head",),
          lambda batch: {"x": torch.randint(0, VOCABULARY, (batch, 7))}),
    plain("plain-sequential", sequential_net, expand("{1-4}"), ("7",),
          lambda batch: {"input": torch.randn(batch, 3, 16, 16)}),
)  # fmt: skip

TOYS: dict[str, Toy] = {row.name: row for row in _ROWS}
assert len(TOYS) == len(_ROWS), "two toys share a name"
