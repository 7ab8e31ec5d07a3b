"""Kinds of tasks: each is searched exactly, with predictions, and trained as a plain Trainer trains it."""

import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model

from subtuning_hf import SubTuningConfig
from support.cases import NUM_LABELS, Case, Texts, compare, pad, predicted, toy
from toys import BERT, GPT2, LLAMA


def make(cls, **settings):
    """A tiny model of a class, drawn from a seed."""

    def build():
        import transformers

        kind = getattr(transformers, cls)
        torch.manual_seed(0)
        return kind(kind.config_class(**settings)).eval()

    return build


def mse(prediction):
    return {"mse": float(np.mean((prediction.predictions.squeeze() - prediction.label_ids) ** 2))}


def per_label(prediction):
    return {"accuracy": float(np.mean((prediction.predictions > 0) == (prediction.label_ids > 0.5)))}


def per_token(prediction):
    known = prediction.label_ids != -100
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids)[known].mean())}


TASKS = {
    "classification": Case(
        {"metric_for_best_model": "accuracy"}, {"data_collator": pad}, lambda: toy("bert"),
        lambda: Texts(lambda row, ids: row % NUM_LABELS),
    ),
    "imbalanced": Case(
        {"metric_for_best_model": "accuracy"}, {"data_collator": pad}, lambda: toy("bert"),
        lambda: Texts(lambda row, ids: int(row % 6 == 0)),
    ),
    "regression": Case(
        {"metric_for_best_model": "mse", "greater_is_better": False},
        {"data_collator": pad, "compute_metrics": mse},
        make("BertForSequenceClassification", **BERT, num_labels=1, problem_type="regression"),
        lambda: Texts(lambda row, ids: sum(ids) / 100),
    ),
    # Prices are no classes, of which every fold would have to hold some.
    "regression on whole numbers": Case(
        {"metric_for_best_model": "mse", "greater_is_better": False},
        {"data_collator": pad, "compute_metrics": mse},
        make("BertForSequenceClassification", **BERT, num_labels=1),
        lambda: Texts(lambda row, ids: row % 23),
    ),
    "multi-label": Case(
        {"metric_for_best_model": "accuracy"},
        {"data_collator": pad, "compute_metrics": per_label},
        make("BertForSequenceClassification", **BERT, num_labels=3, problem_type="multi_label_classification"),
        lambda: Texts(lambda row, ids: [float(row % 2), float(row % 3 == 0), 1.0]),
    ),
    "token classification": Case(
        {"metric_for_best_model": "accuracy"},
        {"data_collator": pad, "compute_metrics": per_token},
        make("BertForTokenClassification", **BERT, num_labels=3),
        lambda: Texts(lambda row, ids: [-100] + [one % 3 for one in ids[1:]]),
    ),
    "causal LM, GPT-2": Case(
        {}, {"data_collator": pad, "compute_metrics": None}, make("GPT2LMHeadModel", **GPT2),
        lambda: Texts(lambda row, ids: list(ids)),
    ),
    "causal LM, Llama": Case(
        {}, {"data_collator": pad, "compute_metrics": None}, make("LlamaForCausalLM", **LLAMA),
        lambda: Texts(lambda row, ids: list(ids)),
    ),
    "masked LM": Case(
        {}, {"data_collator": pad, "compute_metrics": None}, make("BertForMaskedLM", **BERT),
        lambda: Texts(lambda row, ids: [one if place % 3 == 0 else -100 for place, one in enumerate(ids)]),
    ),
    "question answering": Case(
        {}, {"data_collator": pad, "compute_metrics": None}, make("BertForQuestionAnswering", **BERT),
        lambda: Spans(lambda row, ids: 0),
    ),
    "multiple choice": Case(
        {"metric_for_best_model": "accuracy"}, {}, make("BertForMultipleChoice", **BERT), lambda: Choices(),
    ),
}  # fmt: skip


class Spans(Texts):
    """Rows with the first and last token of an answer."""

    def __getitem__(self, index):
        row = super().__getitem__(index)
        del row["labels"]
        return {**row, "start_positions": index % 3, "end_positions": 3}


class Choices(torch.utils.data.Dataset):
    """Rows of three texts of one length each, one of which is right."""

    def __init__(self, count=24):
        self.ids = torch.randint(5, 40, (count, 3, 6), generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        return {"input_ids": self.ids[index], "labels": index % 3}


@pytest.mark.parametrize("name", TASKS)
def test_exact_search_and_training(name, tmp_path):
    case = TASKS[name]
    compare(case, tmp_path)


def test_a_width_that_labels_do_not_have_is_loaded_again(tmp_path):
    """A choice is scored by one output, a vocabulary by as many as it has words; `id2label` names two or three."""
    for name, head in (("multiple choice", None), ("causal LM, GPT-2", ["lm_head"]), ("masked LM", ["cls"])):
        build = TASKS[name].model
        model = get_peft_model(build(), SubTuningConfig(blocks=[-1], head=head))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1)
        model.save_pretrained(tmp_path / name)
        again = PeftModel.from_pretrained(build(), tmp_path / name)
        ids = torch.arange(12).reshape((2, 1, 6) if name == "multiple choice" else (2, 6)) + 5
        with torch.no_grad():
            assert torch.equal(again.eval()(input_ids=ids).logits, model.eval()(input_ids=ids).logits), name
        assert again.peft_config["default"].id2label is None, name


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_predicting_search(name, tmp_path):
    result = predicted(TASKS[name], tmp_path)
    assert all(np.isfinite(one.score) for one in result.proposal.predictions)
