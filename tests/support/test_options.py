"""How a training is done: each option gives, in a search and in the final training, what a plain Trainer gives."""

import pytest
import torch

from support.cases import Case, compare


def weighted(outputs, labels, num_items_in_batch=None):
    """Cross entropy in which the classes weigh differently."""
    return torch.nn.functional.cross_entropy(outputs.logits, labels, weight=torch.tensor([1.0, 4.0, 9.0]))


def stack(rows):
    """A collator of one's own, which halves the pictures."""
    return {
        "pixel_values": torch.stack([row["pixel_values"] for row in rows]) / 2,
        "labels": torch.tensor([row["labels"] for row in rows]),
    }


OPTIONS = {
    "bf16": {"bf16": True},
    "gradient accumulation": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4},
    "label smoothing": {"label_smoothing_factor": 0.3},
    "adafactor": {"optim": "adafactor"},
    "sgd": {"optim": "sgd"},
    "adamw_torch_fused": {"optim": "adamw_torch_fused", "adam_beta2": 0.9},
    "rmsprop": {"optim": "rmsprop"},
    "cosine": {"lr_scheduler_type": "cosine"},
    "cosine_with_min_lr": {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-3}},
    "constant_with_warmup": {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 2},
    "warmup share": {"warmup_steps": 0.5},
    "weight decay": {"weight_decay": 0.5},
    "max_grad_norm": {"max_grad_norm": 0.1},
    "max_steps": {"max_steps": 4},
    "uneven batches": {"per_device_train_batch_size": 7, "per_device_eval_batch_size": 5},
    "drop_last": {"per_device_train_batch_size": 7, "dataloader_drop_last": True},
    "data_seed": {"data_seed": 7},
}
FUNCTIONS = {
    "class weights": {"compute_loss_func": weighted},
    "own collator": {"data_collator": stack},
    "optimiser class": {"optimizer_cls_and_kwargs": (torch.optim.Adagrad, {"lr": 0.05})},
}


@pytest.fixture(scope="module")
def default(tmp_path_factory):
    return compare(Case(), tmp_path_factory.mktemp("default"))


def changed(first, second):
    return any(not torch.allclose(first[1][name], second[1][name], rtol=1e-5, atol=1e-7) for name in first[1])


@pytest.mark.parametrize("name", OPTIONS)
def test_arguments(name, tmp_path, default):
    found = compare(Case(args=OPTIONS[name]), tmp_path)
    assert changed(found, default)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name, tmp_path, default):
    found = compare(Case(kwargs=FUNCTIONS[name]), tmp_path)
    assert changed(found, default)


def test_workers_change_nothing(tmp_path, default):
    found = compare(Case(args={"dataloader_num_workers": 1}), tmp_path)
    assert not changed(found, default) and found[0] == pytest.approx(default[0])
