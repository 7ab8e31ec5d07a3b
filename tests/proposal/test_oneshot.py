"""One training for all selections."""

import pytest
import torch

from proposal.problem_cases import Tower, make_tower, tower_problem
from subtuning_hf.proposal.copies import Copies
from subtuning_hf.proposal.judging import Judge
from subtuning_hf.proposal.oneshot import OneShotProposal, SharedPrediction
from subtuning_hf.proposal.side_by_side import SideBySide


def problem_of(rows=96, norm=False, **settings):
    model, x = make_tower(3, rows, norm=norm)
    generator = torch.Generator().manual_seed(0)
    labels = (x @ torch.randn(12, 3, generator=generator)).argmax(-1)
    return tower_problem(model, labels, x, **{"epochs": 30.0, "learning_rate": 1e-2, **settings})


def test_selections_are_small_and_in_order():
    generator = torch.Generator().manual_seed(0)
    blocks = tuple("abcdef")
    drawn = [OneShotProposal().draw(blocks, generator) for _ in range(200)]
    assert all([len(one) for one in ones] == [1, 1, 2, 3] for ones in drawn)
    assert all(list(one) == sorted(one) for ones in drawn for one in ones)
    counts = {block: sum(block in one for ones in drawn for one in ones) for block in blocks}
    assert min(counts.values()) > 0.75 * 200 * 7 / 6
    assert [len(one) for one in OneShotProposal().draw(("a", "b"), generator)] == [1, 1, 2, 2]


def test_several_blocks_are_scored_until_the_budget_is_spent():
    problem = problem_of()
    prediction = OneShotProposal(training_share=0.3).fit(problem, 2.0)
    assert isinstance(prediction, SharedPrediction)
    pair, before = problem.blocks[:2], problem.meter.units
    first = prediction(pair)
    assert problem.meter.units > before
    before = problem.meter.units
    assert prediction(pair) == first and problem.meter.units == before
    prediction.end = problem.meter.units
    best = max(prediction((name,)).score for name in problem.blocks[1:3])
    assert prediction(problem.blocks[1:3]).score == best and problem.meter.units == before
    assert best != first.score


def test_a_selection_alone_and_among_others_scores_alike():
    problem = problem_of(norm=True)
    copies = Copies(problem.model, (*problem.blocks, *problem.head))
    with copies.installed():
        trained = SideBySide(problem, problem.folds[0], copies, shared_head=True)
        singles = [(name,) for name in problem.blocks]
        trained.train([singles] * 5, 8)
        judge = Judge(trained, True, problem.folds[0].validation)
        together = judge.from_passes(singles, problem.folds[0].train)
        alone = {one: judge.from_passes([one], problem.folds[0].train)[one] for one in singles}
    assert together == pytest.approx(alone, abs=1e-4) and len(set(together.values())) == 4


def test_a_step_moves_its_selection_and_its_head_alone():
    problem = problem_of(norm=True)
    copies = Copies(problem.model, (*problem.blocks, *problem.head))

    def values(names):
        return {name: [p.detach().clone() for p in copies.copies[name].state_dict().values()] for name in names}

    with copies.installed():
        trained = SideBySide(problem, problem.folds[0], copies, shared_head=False)
        before = values(problem.blocks)
        heads = [trained.head(one).modules["head"].weight.clone() for one in (("blocks.1",), ("blocks.2",))]
        trained.train([[("blocks.1",)]], 8)
        after = values(problem.blocks)
        heads_after = [trained.head(one).modules["head"].weight for one in (("blocks.1",), ("blocks.2",))]
    moved = [
        name for name in before if any(not torch.equal(*pair) for pair in zip(before[name], after[name], strict=True))
    ]
    assert moved == ["blocks.1"]
    assert [torch.equal(*pair) for pair in zip(heads, heads_after, strict=True)] == [False, True]
    assert len(trained.head(("blocks.1",)).seen) == 8


def test_side_by_side_equals_each_alone():
    def trained_weights(steps, name):
        problem = problem_of()
        copies = Copies(problem.model, (*problem.blocks, *problem.head))
        with copies.installed():
            SideBySide(problem, problem.folds[0], copies, shared_head=False).train(steps, 8)
        return [p.detach() for p in copies.copies[name].parameters()]

    together = [[("blocks.0",), ("blocks.2",)]] * 6
    for name in ("blocks.0", "blocks.2"):
        alone = trained_weights([[(name,)]] * 6, name)
        assert all(torch.equal(*pair) for pair in zip(trained_weights(together, name), alone, strict=True))


def test_a_step_is_that_of_an_ordinary_training():
    problem = problem_of(norm=True, batch_size=16)
    copies = Copies(problem.model, (*problem.blocks, *problem.head))
    rows = []
    batch = problem.train_batch
    problem.train_batch = lambda numbers: rows.append(list(numbers)) or batch(numbers)
    with copies.installed():
        trained = SideBySide(problem, problem.folds[0], copies, shared_head=True)
        trained.train([[problem.blocks]], 16)
    model = Tower(norm=True)
    model.load_state_dict(problem.model.state_dict())
    for block in model.blocks:
        block.train()
        block.norm.momentum = None
    # Half way down a cosine, which has risen by then.
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5 * problem.learning_rate, weight_decay=0.0)
    torch.nn.functional.cross_entropy(model(batch(rows[0])["x"]), batch(rows[0])["labels"]).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    for place, block in enumerate(model.blocks):
        found = copies.copies[f"blocks.{place}"].state_dict()
        assert all(torch.allclose(found[key], value, atol=1e-6) for key, value in block.state_dict().items())
    assert torch.allclose(trained.head(()).modules["head"].weight, model.head.weight, atol=1e-6)
