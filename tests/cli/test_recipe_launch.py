"""Recipes under torchrun: the journal and the reports of one process, printed once."""

import json
import os
import subprocess
import sys

import pytest

from subtuning_hf.cli.main import main
from subtuning_hf.search.journal import read_study

pytestmark = pytest.mark.slow


def launch(*words):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [*launcher, "-m", "subtuning_hf.cli", *map(str, words)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def scores(folder):
    return sorted((str(e.unit), e.score) for e in read_study(folder / "journal").evaluations)


def test_two_processes_search_as_one_does(text_recipe, tmp_path):
    two, one = tmp_path / "two", tmp_path / "one"
    common = ["--config", str(text_recipe), "num_threads=1", "train.repeats=2"]

    planned = launch("search", *common, f"output_dir={two}", "--dry-run")
    assert planned.count("evaluations and") == 1 and "2 processes" in planned and not list(two.rglob("*"))

    printed = launch("search", *common, f"output_dir={two}")
    assert main(["search", *common, f"output_dir={one}"]) == 0
    assert scores(two) == scores(one)
    assert [printed.count(text) for text in ("Chosen:", "blocks:", "adapter:", "over 2 seeds")] == [1, 1, 1, 2]
    results = [json.loads((folder / "test_results.json").read_text()) for folder in (one, two)]
    assert results[0]["blocks"] == results[1]["blocks"]
    assert [run["metrics"]["eval_accuracy"] for run in results[0]["repeats"]] == [
        run["metrics"]["eval_accuracy"] for run in results[1]["repeats"]
    ]


def test_two_processes_score_and_predict_as_one_does(text_recipe, texts, tmp_path, capsys):
    # The batches are so small that each process has several.
    common = ["--config", str(text_recipe), "num_threads=1", "per_device_eval_batch_size=1"]
    results = tmp_path / "out" / "test_results.json"
    assert main(["train", *common, "--blocks", "1"]) == 0
    alone = json.loads(results.read_text())
    launch("evaluate", *common)
    shared = json.loads(results.read_text())
    assert shared["test_accuracy"] == alone["test_accuracy"]
    # Not times the number of processes, as Trainer has it where the model averages its loss itself.
    assert shared["test_loss"] == pytest.approx(alone["test_loss"], rel=1e-5)

    capsys.readouterr()
    words = ["predict", tmp_path / "out", texts / "texts.csv", "--column", "sentence", "--use-cpu", "--batch-size", 3]
    assert main([*map(str, words)]) == 0
    assert launch(*words) == capsys.readouterr().out


def test_two_processes_make_a_profile(recipe, tmp_path):
    printed = launch("profile", "--config", recipe, "num_threads=1")
    assert printed.count("head only") == 1 and printed.count("pictures:") == 1
    assert main(["profile", "--config", str(recipe), "num_threads=1", f"output_dir={tmp_path}/one"]) == 0
    assert scores(tmp_path / "out") == scores(tmp_path / "one")
