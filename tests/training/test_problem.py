"""What a proposal is given: batches, shares of the arithmetic, rows that the cache has read."""

import pytest
import torch

from subtuning_hf.training.cache import Cache
from subtuning_hf.training.proposing import forward_shares, make_problem
from toys import NUM_LABELS, TOYS, logits_of
from training.cases import make_model, make_trainer

ARGS = {"num_train_epochs": 4, "search_budget": 4.0, "strategy": "short-profile"}


def test_a_stage_that_is_never_called_counts_for_its_blocks():
    model, batch = make_model(), {"pixel_values": torch.zeros(2, 1, 16, 16), "labels": torch.tensor([0, 1])}
    blocks = ["resnet.encoder.stages.1.layers.0", "resnet.encoder.stages.1.layers.1"]
    one, other = forward_shares(model, blocks, batch)
    (whole,) = forward_shares(model, ["resnet.encoder.stages.1.layers"], batch)
    assert one > 0 and other > 0 and whole == pytest.approx(one + other)

    holder = torch.nn.Module()  # a list is a module that nobody calls
    holder.body = torch.nn.ModuleList([torch.nn.Linear(4, 4), torch.nn.Linear(4, 8)])
    holder.forward = lambda x: holder.body[1](holder.body[0](x))
    assert forward_shares(holder, ["body", "body.1"], {"x": torch.zeros(3, 4)}) == pytest.approx((1.0, 2 / 3))


def test_a_module_that_takes_no_labels(tmp_path):
    toy = TOYS["timm-vit"]
    rows = [
        {**{name: value[0] for name, value in toy.inputs(1, seed).items()}, "labels": seed % NUM_LABELS}
        for seed in range(24)
    ]
    trainer = make_trainer(
        tmp_path, model=toy.build(), train_dataset=rows, compute_metrics=None,
        compute_loss_func=lambda output, labels, **_: torch.nn.functional.cross_entropy(logits_of(output), labels),
        args={**ARGS, "label_names": ["labels"]},
    )  # fmt: skip
    assert set(trainer.search().blocks) <= set(toy.blocks)


def test_rows_of_the_cache_are_not_read_again(tmp_path):
    trainer = make_trainer(tmp_path, args=ARGS)
    cache = Cache(trainer._recipe)
    prepared = trainer._prepare()
    problem = make_problem(trainer._recipe, prepared.spec, prepared.folds, cache)
    cache.rows.read(range(24))
    held = cache.rows.held
    batch, again = problem.train_batch([3, 1]), cache.batch([3, 1])
    assert all(torch.equal(batch[name], again[name]) for name in ("pixel_values", "labels"))
    assert cache.rows.held == held
