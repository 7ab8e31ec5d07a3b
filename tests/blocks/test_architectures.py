"""
A check list of what is found in architectures beyond the toys, at their real sizes, without weights.

A row is one line: the model, the blocks in short form, the head. Models are on the meta device, as for `subtuning blocks`.
"""

# One row is one line, however long its list of stages is.
# ruff: noqa: E501

import warnings

import pytest
import torch

from subtuning_hf.blocks import find_blocks, find_head, partition
from toys import expand

CLASSIFIER = ("classifier",)

TRANSFORMERS = [
    ("BeitForImageClassification", ["beit.layers.{0-11}"], CLASSIFIER),
    ("BitForImageClassification", ["bit.encoder.stages.0.layers.{0-2}", "bit.encoder.stages.1.layers.{0-3}", "bit.encoder.stages.2.layers.{0-5}", "bit.encoder.stages.3.layers.{0-2}"], CLASSIFIER),
    ("ConvNextV2ForImageClassification", ["convnextv2.encoder.stages.{0-1}.layers.{0-2}", "convnextv2.encoder.stages.2.layers.{0-8}", "convnextv2.encoder.stages.3.layers.{0-2}"], CLASSIFIER),
    ("CvtForImageClassification", ["cvt.encoder.stages.0.layers.0", "cvt.encoder.stages.1.layers.{0-1}", "cvt.encoder.stages.2.layers.{0-9}"], CLASSIFIER),
    ("Dinov2WithRegistersForImageClassification", ["dinov2_with_registers.encoder.layer.{0-11}"], CLASSIFIER),
    ("FocalNetForImageClassification", ["focalnet.encoder.stages.{0-1}.layers.{0-1}", "focalnet.encoder.stages.2.layers.{0-5}", "focalnet.encoder.stages.3.layers.{0-1}"], CLASSIFIER),
    ("PoolFormerForImageClassification", ["poolformer.encoder.block.{0-1}.{0-1}", "poolformer.encoder.block.2.{0-5}", "poolformer.encoder.block.3.{0-1}"], CLASSIFIER),
    ("PvtForImageClassification", ["pvt.encoder.block.{0-3}.{0-1}"], CLASSIFIER),
    ("PvtV2ForImageClassification", ["pvt_v2.encoder.layers.{0-3}.blocks.{0-1}"], CLASSIFIER),
    ("RegNetForImageClassification", ["regnet.encoder.stages.0.layers.{0-1}", "regnet.encoder.stages.1.layers.{0-5}", "regnet.encoder.stages.2.layers.{0-11}", "regnet.encoder.stages.3.layers.{0-1}"], CLASSIFIER),
    ("SegformerForImageClassification", ["segformer.stages.{0-3}.blocks.{0-1}"], CLASSIFIER),
    ("Siglip2ForImageClassification", ["vision_model.encoder.layers.{0-11}"], CLASSIFIER),
    ("SwiftFormerForImageClassification", ["swiftformer.encoder.network.0.blocks.{0-2}", "swiftformer.encoder.network.2.blocks.{0-2}", "swiftformer.encoder.network.4.blocks.{0-5}", "swiftformer.encoder.network.6.blocks.{0-3}"], ("head", "dist_head")),
    ("Swinv2ForImageClassification", ["swinv2.encoder.layers.{0-1}.blocks.{0-1}", "swinv2.encoder.layers.2.blocks.{0-5}", "swinv2.encoder.layers.3.blocks.{0-1}"], CLASSIFIER),
    ("ASTForAudioClassification", ["audio_spectrogram_transformer.layers.{0-11}"], CLASSIFIER),
    ("HubertForSequenceClassification", ["hubert.encoder.layers.{0-11}"], ("projector", "classifier")),
    ("WavLMForSequenceClassification", ["wavlm.encoder.layers.{0-11}"], ("projector", "classifier")),
    ("WhisperForConditionalGeneration", ["model.encoder.layers.{0-3}", "model.decoder.layers.{0-3}"], ()),
    ("BartForSequenceClassification", ["model.encoder.layers.{0-11}", "model.decoder.layers.{0-11}"], ("classification_head",)),
    ("ElectraForSequenceClassification", ["electra.encoder.layer.{0-11}"], CLASSIFIER),
    ("XLMRobertaForTokenClassification", ["roberta.encoder.layer.{0-11}"], CLASSIFIER),
    ("MPNetForSequenceClassification", ["mpnet.encoder.layer.{0-11}"], CLASSIFIER),
    ("XLNetForSequenceClassification", ["transformer.layer.{0-23}"], ("sequence_summary", "logits_proj")),
    ("FunnelForSequenceClassification", ["funnel.encoder.blocks.{0-2}.{0-3}"], CLASSIFIER),
    ("GPTNeoXForSequenceClassification", ["gpt_neox.layers.{0-43}"], ("score",)),
    ("Gemma2ForSequenceClassification", ["model.layers.{0-25}"], ("score",)),
    ("Gemma3ForSequenceClassification", ["model.vision_tower.encoder.layers.{0-11}", "model.language_model.layers.{0-25}"], ("score",)),
    ("OPTForSequenceClassification", ["model.decoder.layers.{0-11}"], ("score",)),
    ("Phi3ForSequenceClassification", ["model.layers.{0-31}"], ("score",)),
    ("MixtralForCausalLM", ["model.layers.{0-31}"], ()),
    ("JambaForCausalLM", ["model.layers.{0-31}"], ()),
    ("DetrForObjectDetection", ["model.backbone.model.layer1.{0-2}", "model.backbone.model.layer2.{0-3}", "model.backbone.model.layer3.{0-5}", "model.backbone.model.layer4.{0-2}", "model.encoder.layers.{0-5}", "model.decoder.layers.{0-5}"], ("class_labels_classifier", "bbox_predictor")),
]  # fmt: skip

TIMM = [
    ("beit_base_patch16_224", ["blocks.{0-11}"], ("head",)),
    ("cait_xxs24_224", ["blocks.{0-23}", "blocks_token_only.{0-1}"], ("head",)),
    ("coatnet_pico_rw_224", ["stages.0.blocks.{0-1}", "stages.1.blocks.{0-2}", "stages.2.blocks.{0-4}", "stages.3.blocks.{0-1}"], ("head.fc",)),
    ("convmixer_768_32", ["blocks.{0-31}"], ("head",)),
    ("cspresnet50", ["stages.{0-1}.blocks.{0-2}", "stages.2.blocks.{0-4}", "stages.3.blocks.{0-1}"], ("head.fc",)),
    ("dpn48b", ["features.conv2_{1-3}", "features.conv3_{1-4}", "features.conv4_{1-6}", "features.conv5_{1-3}"], ("classifier",)),
    ("efficientformer_l1", ["stages.0.blocks.{0-2}", "stages.1.blocks.{0-1}", "stages.2.blocks.{0-5}", "stages.3.blocks.{0-2}", "stages.3.blocks.4"], ("head", "head_dist")),
    ("hrnet_w18_small", None, ("classifier",)),
    ("levit_128", ["stages.{0-2}.blocks.{0-3}"], ("head.linear", "head_dist.linear")),
    ("maxvit_pico_rw_256", ["stages.{0-1}.blocks.{0-1}", "stages.2.blocks.{0-4}", "stages.3.blocks.{0-1}"], ("head.fc",)),
    ("mixer_s16_224", ["blocks.{0-7}"], ("head",)),
    ("mvitv2_tiny", ["stages.0.blocks.0", "stages.1.blocks.{0-1}", "stages.2.blocks.{0-4}", "stages.3.blocks.{0-1}"], ("head.fc",)),
    ("nfnet_f0", ["stages.0.0", "stages.1.{0-1}", "stages.2.{0-5}", "stages.3.{0-2}"], ("head.fc",)),
    ("pvt_v2_b0", ["stages.{0-3}.blocks.{0-1}"], ("head",)),
    ("repvit_m0_9", None, ("head.head.l", "head.head_dist.l")),
    ("swinv2_tiny_window8_256", ["layers.{0-1}.blocks.{0-1}", "layers.2.blocks.{0-5}", "layers.3.blocks.{0-1}"], ("head.fc",)),
    ("tresnet_m", None, ("head.fc",)),
    ("volo_d1_224", ["network.0.{0-3}", "network.2.{0-3}", "network.3.{0-7}", "network.4.{0-1}"], ("aux_head", "head")),
    ("xception41", ["blocks.{0-12}"], ("head.fc",)),
    ("xcit_nano_12_p16_224", ["blocks.{0-11}"], ("head",)),
]  # fmt: skip


def check(model, patterns, head):
    blocks = find_blocks(model, warn=False)
    if patterns is not None:
        assert tuple(block.name for block in blocks) == expand(*patterns)
    assert tuple(find_head(model)) == head
    parts = partition(model)
    names = [*parts.stem, *(name for block in parts.blocks.values() for name in block), *parts.head]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())


@pytest.mark.parametrize(("name", "patterns", "head"), TRANSFORMERS, ids=[row[0] for row in TRANSFORMERS])
def test_transformers(name, patterns, head):
    import transformers

    cls = getattr(transformers, name)
    with torch.device("meta"):
        check(cls(cls.config_class()), patterns, head)


@pytest.mark.parametrize(("name", "patterns", "head"), TIMM, ids=[row[0] for row in TIMM])
def test_timm(name, patterns, head):
    import timm

    if name == "levit_128" and tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9):
        pytest.skip("seen with torch 2.7 and 2.8: built on the meta device, its blocks are found as whole stages")
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # meta tensors in schedules
        model = timm.create_model(name)
    check(model, patterns, head)


TORCHVISION = [
    ("convnext_tiny", ["features.{1,3}.{0-2}", "features.5.{0-8}", "features.7.{0-2}"], ("classifier",)),
    ("densenet121", ["features.denseblock1.denselayer{1-6}", "features.denseblock2.denselayer{1-12}", "features.denseblock3.denselayer{1-24}", "features.denseblock4.denselayer{1-16}"], ("classifier",)),
    ("efficientnet_b0", ["features.1.0", "features.2.{0-1}", "features.3.{0-1}", "features.4.{0-2}", "features.5.{0-2}", "features.6.{0-3}", "features.7.0"], ("classifier",)),
    ("mobilenet_v3_small", ["features.{1-11}"], ("classifier",)),
    ("resnet50", ["layer1.{0-2}", "layer2.{0-3}", "layer3.{0-5}", "layer4.{0-2}"], ("fc",)),
    ("swin_t", ["features.{1,3}.{0-1}", "features.5.{0-5}", "features.7.{0-1}"], ("head",)),
    ("vit_b_16", ["encoder.layers.encoder_layer_{0-11}"], ("heads",)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "patterns", "head"), TORCHVISION, ids=[row[0] for row in TORCHVISION])
def test_torchvision_has_no_rule_of_its_own(name, patterns, head):
    torchvision = pytest.importorskip("torchvision")
    with torch.device("meta"):
        check(torchvision.models.get_model(name), patterns, head)
