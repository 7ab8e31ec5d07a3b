"""Searches on a GPU: the device of every candidate, precision, and a launch of one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from subtuning_hf.search.journal import read_study
from subtuning_hf.search.records import STRATEGIES
from training import launched
from training.cases import assert_same_state, make_model, make_trainer, state_of

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("precision", [{}, {"bf16": True}], ids=["fp32", "bf16"])
def test_candidates_are_trained_on_the_gpu_and_the_base_stays_as_it_was(tmp_path, precision):
    model = make_model()
    trainer = make_trainer(tmp_path, model=model, args={"use_cpu": False, "max_blocks": 1, **precision})
    before = state_of(model)
    trainer.search()
    assert_same_state(before, state_of(model))
    assert {e.info["device"] for e in read_study(tmp_path / "journal").evaluations} == {"cuda:0"}
    trainer.train(blocks=[1])
    assert {p.device.type for p in trainer.model.parameters()} == {"cuda"}


def test_memory_does_not_grow_with_candidates(tmp_path):
    trainer = make_trainer(tmp_path, args={"use_cpu": False, "max_blocks": 1})
    trainer.profile()
    used = torch.cuda.memory_allocated()
    trainer.profile(pairs=True)
    assert torch.cuda.memory_allocated() <= used + 2**16


@pytest.mark.parametrize("precision", [{}, {"bf16": True}], ids=["fp32", "bf16"])
@pytest.mark.parametrize("budget", [4.0, 1.6e-5], ids=["all", "some"])
def test_the_cache_changes_no_score(tmp_path, precision, budget):
    scores = []
    for cached in (True, False):
        args = {"use_cpu": False, "max_blocks": 1, "prefix_cache": cached, "prefix_cache_gb": budget, **precision}
        make_trainer(tmp_path / str(cached), args=args).search()
        study = read_study(tmp_path / str(cached) / "journal")
        scores.append({e.unit: e.metrics["eval_loss"] for e in study.evaluations})
        assert any(e.info.get("cut") for e in study.evaluations) == cached
    tolerance = 2e-2 if precision else 1e-3
    assert scores[0] == pytest.approx(scores[1], rel=tolerance)


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "exact"])
def test_searches_that_predict(tmp_path, strategy):
    result = make_trainer(
        tmp_path, args={"use_cpu": False, "strategy": strategy, "search_budget": 4.0, "num_train_epochs": 4}
    ).search()
    assert result.proposal is not None and result.proposal.planned <= 4.0


@pytest.mark.slow
def test_a_launch_of_one_process(tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1"]
    words = [str(Path(launched.__file__)), "on_gpu", str(tmp_path / "out")]
    done = subprocess.run([*launcher, *words], capture_output=True, text=True, env=dict(os.environ), timeout=280)
    assert done.returncode == 0, done.stderr
    assert {e.info["device"] for e in read_study(tmp_path / "out" / "journal").evaluations} == {"cuda:0"}
