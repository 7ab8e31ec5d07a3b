"""The head's own learning rate, in the parameter groups of whatever optimiser is used."""

import pytest
import torch
from peft import get_peft_model
from transformers import Trainer

from subtuning_hf.errors import ArgumentsError
from subtuning_hf.training.optimizer import split_head
from subtuning_hf.training.recipe import candidate_class
from subtuning_hf.tuner import SubTuningConfig, head_parameters
from training.cases import Rows, make_args, make_model


def make(tmp_path, blocks=(1,), trainer_cls=Trainer, **changes):
    kwargs = {key: changes.pop(key) for key in ("optimizer_cls_and_kwargs",) if key in changes}
    args = make_args(tmp_path, **{"head_learning_rate": 0.5, "learning_rate": 0.01, "weight_decay": 0.1, **changes})
    model = get_peft_model(make_model(), SubTuningConfig(blocks=list(blocks)))
    return candidate_class(trainer_cls)(model=model, args=args, train_dataset=Rows(), **kwargs)


def check(trainer, head_rate=0.5, rate=0.01):
    groups = trainer.optimizer.param_groups
    head = {id(p) for p in head_parameters(trainer.model)}
    inside = [p for group in groups for p in group["params"]]
    wanted = [p for p in trainer.model.parameters() if p.requires_grad]
    assert len(inside) == len({id(p) for p in inside}) == len(wanted)
    assert {id(p) for p in inside} == {id(p) for p in wanted}
    for group in groups:
        of_head = {id(p) in head for p in group["params"]}
        assert len(of_head) <= 1
        if of_head:
            assert group["lr"] == (head_rate if of_head.pop() else rate)
    return groups


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"blocks": ()},
        {"optim": "sgd"},
        {"optim": "adafactor"},
        {"optimizer_cls_and_kwargs": (torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.3})},
    ],
)
def test_head_has_its_own_rate_and_keeps_the_rest(tmp_path, changes):
    trainer = make(tmp_path, **changes)
    trainer.create_optimizer()
    groups = check(trainer)
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    names = {id(p): name for name, p in trainer.model.named_parameters()}
    plain = make(tmp_path, **{**changes, "head_learning_rate": None})
    plain.create_optimizer()
    before = {
        name: group["weight_decay"]
        for group in plain.optimizer.param_groups
        for p in group["params"]
        for name, q in plain.model.named_parameters()
        if q is p
    }
    assert {names[key]: value for key, value in decays.items()} == before
    trainer.create_optimizer()
    assert len(trainer.optimizer.param_groups) == len(groups)


def test_the_schedule_scales_both(tmp_path):
    trainer = make(tmp_path, max_steps=4)
    trainer.create_optimizer_and_scheduler(4)
    assert {group["initial_lr"] for group in trainer.optimizer.param_groups if group["params"]} == {0.5, 0.01}
    trainer.optimizer.step()
    trainer.lr_scheduler.step()
    check(trainer, 0.375, 0.0075)


def test_groups_of_an_own_trainer_are_kept(tmp_path):
    class Own(Trainer):
        def create_optimizer(self, model=None):
            self.optimizer = torch.optim.SGD(
                [p for p in self.model.parameters() if p.requires_grad], lr=0.01, momentum=0.7
            )
            return self.optimizer

    trainer = make(tmp_path, trainer_cls=Own)
    trainer.create_optimizer()
    assert {group["momentum"] for group in check(trainer)} == {0.7}


def test_an_optimiser_without_the_head_is_refused():
    block, head = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(ArgumentsError, match="1 of the head's 1 tensors are in no parameter group of SGD"):
        split_head(torch.optim.SGD([block], lr=0.1), [head], 0.5)
