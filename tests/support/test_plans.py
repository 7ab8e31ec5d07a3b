"""The plan of a search in a model without a head of its own."""

from support.test_tasks import TASKS
from training.cases import files_under


def test_dry_run_without_a_head(tmp_path):
    plan = TASKS["causal LM, GPT-2"].trainer(tmp_path / "out", dry_run=True).search()
    assert plan.num_blocks == 3 and plan.evaluations > 0 and "head only" not in plan.seconds
    assert files_under(tmp_path) == []
