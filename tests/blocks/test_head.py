"""`find_head`: the output layer of every toy, and of models that say it in other ways or not at all."""

import pytest
import torch
from torch import nn

from subtuning_hf.blocks import find_head
from toys import BERT, GPT2, NUM_LABELS, T5, TOYS, VIT, WAVES, logits_of


@pytest.mark.parametrize("toy", TOYS.values(), ids=TOYS)
def test_head_of_every_toy(toy):
    model = toy.build()
    assert tuple(find_head(model)) == toy.head
    assert tuple(find_head(toy.build_meta())) == toy.head
    if toy.head:
        # It is the head in fact: with its weights at zero the logits are what its biases make them, for any input.
        with torch.no_grad():
            for name in toy.head:
                for parameter in model.get_submodule(name).parameters():
                    parameter.zero_()
            assert torch.equal(logits_of(model(**toy.inputs())), torch.zeros(2, NUM_LABELS))


def tiny(name, settings):
    import transformers

    cls = getattr(transformers, name)
    return cls(cls.config_class(**settings))


@pytest.mark.parametrize(
    ("name", "settings", "head"),
    [
        ("BertForTokenClassification", BERT, ["classifier"]),
        ("BertForQuestionAnswering", BERT, ["qa_outputs"]),
        ("BertForMultipleChoice", BERT, ["classifier"]),
        ("BertForMaskedLM", BERT, []),  # tied to the embeddings
        ("BertModel", BERT, []),  # its pooler is no output layer
        ("ViTModel", VIT, []),
        ("ViTForImageClassification", {**VIT, "num_labels": 0}, []),  # an Identity
        ("GPT2ForTokenClassification", GPT2, ["classifier"]),
        ("T5ForTokenClassification", T5, ["classifier"]),
        ("T5ForQuestionAnswering", T5, ["qa_outputs"]),
        ("GPT2Model", GPT2, []),
        ("Wav2Vec2ForCTC", {**WAVES, "vocab_size": 12}, ["lm_head"]),  # no embedding it could be tied to
        ("BertForSequenceClassification", {**BERT, "num_labels": 1}, ["classifier"]),  # regression
    ],
)
def test_head_of_other_tasks(name, settings, head):
    assert find_head(tiny(name, settings)) == head


def test_untied_output_embedding_is_no_head_either():
    assert find_head(tiny("GPT2LMHeadModel", {**GPT2, "tie_word_embeddings": False})) == []


def test_timm_without_classes_has_no_head():
    import timm

    assert find_head(timm.create_model("resnet18", num_classes=0, channels=(8, 8, 8, 8), stem_width=8)) == []


class Around(nn.Module):
    """A user's module around a backbone."""

    def __init__(self, backbone, **parts):
        super().__init__()
        self.backbone = backbone
        for name, part in parts.items():
            self.add_module(name, part)


def test_own_head_around_a_backbone():
    backbone = TOYS["timm-resnet"].build()
    assert find_head(Around(backbone, fc=nn.Linear(16, 2))) == ["fc"]
    assert find_head(Around(backbone, dropout=nn.Dropout(), anything=nn.Linear(16, 2))) == ["anything"]
    # Nothing of its own: the backbone's head.
    assert find_head(Around(backbone, dropout=nn.Dropout())) == ["backbone.fc"]
    assert find_head(Around(TOYS["bert"].build())) == ["backbone.classifier"]


def block():
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))


def test_plain_models():
    stack = [block() for _ in range(3)]
    assert find_head(nn.Sequential(*stack, nn.Linear(4, 2))) == ["3"]
    assert find_head(nn.Sequential(*stack)) == []  # the last layer is a block's
    assert find_head(nn.Sequential(*stack, nn.Linear(4, 4), nn.LayerNorm(4))) == []  # a neck
    assert find_head(Around(nn.Sequential(*stack), pre_classifier=nn.Linear(4, 4), classifier=nn.Linear(4, 2))) == [
        "pre_classifier",
        "classifier",
    ]
    assert find_head(Around(nn.Sequential(*stack), head=nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)))) == ["head"]
    assert find_head(nn.Identity()) == []


def test_plain_language_model():
    tied = Around(
        nn.Sequential(*(block() for _ in range(3))), embed=nn.Embedding(8, 4), out=nn.Linear(4, 8, bias=False)
    )
    tied.out.weight = tied.embed.weight
    assert find_head(tied) == []
    assert find_head(Around(nn.Sequential(*(block() for _ in range(3))), lm_head=nn.Linear(4, 8))) == []


def test_head_of_a_model_of_ones_own_by_any_name():
    from transformers import PreTrainedConfig, PreTrainedModel

    class OwnForImageClassification(PreTrainedModel):
        config_class = PreTrainedConfig

        def __init__(self, config):
            super().__init__(config)
            self.conv1 = nn.Conv2d(3, 4, 3)
            self.layers = nn.Sequential(
                *(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1)) for _ in range(3))
            )
            self.linear = nn.Linear(4, NUM_LABELS)

    class OwnModel(OwnForImageClassification):
        pass

    assert find_head(OwnForImageClassification(PreTrainedConfig())) == ["linear"]
    assert find_head(OwnModel(PreTrainedConfig())) == []
