"""The swap test: one short full fine-tune, then its blocks among pretrained ones."""

import torch

from proposal.problem_cases import make_tower, tower_problem
from subtuning_hf.proposal.swap import SwapProposal


def fitted(rows=96, budget=2.0):
    model, x = make_tower(3, rows)
    generator = torch.Generator().manual_seed(0)
    labels = (x @ torch.randn(12, 3, generator=generator)).argmax(-1)
    problem = tower_problem(model, labels, x, epochs=30.0, learning_rate=1e-2)
    return problem, SwapProposal(training_share=0.4).fit(problem, budget)


def test_every_step_trains_all_blocks():
    assert SwapProposal().draw(("a", "b"), torch.Generator()) == [("a", "b")]
    problem, prediction = fitted()
    copies = prediction.judge.trained.copies
    for name in problem.blocks:
        old, new = copies.originals[name].parameters(), copies.copies[name].parameters()
        assert all(not torch.equal(*pair) for pair in zip(old, new, strict=True))


def test_no_block_swapped_in_is_the_pretrained_network():
    problem, prediction = fitted()
    copies = prediction.judge.trained.copies
    before = prediction(()).score
    with torch.no_grad():
        for name in problem.blocks:
            for parameter in copies.copies[name].parameters():
                parameter.zero_()
    del prediction.scores[()], prediction.scores[("blocks.1",)]
    assert prediction(()).score == before
    assert prediction(("blocks.1",)).score != before


def test_all_blocks_swapped_in_score_best_where_all_were_needed():
    problem, prediction = fitted()
    assert prediction(problem.blocks).score > max(prediction((name,)).score for name in ("blocks.0", "blocks.1"))
    assert prediction(problem.blocks).score > prediction(()).score
