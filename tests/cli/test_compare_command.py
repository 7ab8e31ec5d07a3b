"""`subtuning compare`: what it takes from a recipe, what it prints, and that several processes give the same."""

import json
import subprocess
import sys

import pytest

from subtuning_hf.cli.main import main

FEW = ["compare.trials=2", "compare.seeds=2", "compare.methods=[LP, FT, LoRA]"]


def found(tmp_path):
    return json.loads((tmp_path / "out" / "comparison" / "comparison.json").read_text())


def without_times(methods):
    return [
        {key: value for key, value in row.items() if key not in ("seconds", "tuning_seconds", "peak_mb")}
        for row in methods
    ]


def test_a_comparison_of_a_recipe(recipe, tmp_path, capsys):
    assert main(["compare", "--config", str(recipe), "--dry-run", *FEW]) == 0
    output = capsys.readouterr().out
    assert "methods: LP, FT, LoRA" in output and "trainings: 18" in output
    assert not list((tmp_path / "out").rglob("*"))

    assert main(["compare", "--config", str(recipe), *FEW]) == 0
    output = capsys.readouterr().out
    assert all(name in output for name in ("LP", "FT", "LoRA", "hyperparameters", "comparison.json"))
    rows = found(tmp_path)["methods"]
    assert [row["method"] for row in rows] == ["LP", "FT", "LoRA"]
    assert all(len(row["scores"]) == 2 and row["num_examples"] == 12 for row in rows)
    runs = (tmp_path / "out" / "comparison" / "runs.jsonl").read_text()
    assert len(runs.splitlines()) == 18

    assert main(["compare", "--config", str(recipe), *FEW]) == 0
    assert (tmp_path / "out" / "comparison" / "runs.jsonl").read_text() == runs
    assert found(tmp_path)["methods"] == rows


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "LP", "Lora"], "Found Lora"),
        (["compare.trials=0"], "compare.trials must be at least 1"),
        (["compare.folds=2"], "compare.folds"),
        (["compare.tuning_folds=9"], "`tuning_folds` must lie between 1"),
        (["metric_for_best_model=loss", "greater_is_better=false"], "less is better"),
        (["fold_column=label"], "cuts folds of its own"),
    ],
)
def test_what_it_cannot_do_is_refused_before_anything_is_trained(recipe, tmp_path, capsys, words, message):
    assert main(["compare", "--config", str(recipe), *words]) == 2
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("runs*"))


@pytest.mark.slow
def test_two_processes_find_what_one_does(recipe, tmp_path):
    names = [*FEW[:2], "compare.methods=[LP, surgical, 'SubTuning, exact']", "max_blocks=1"]
    assert main(["compare", "--config", str(recipe), *names]) == 0
    alone = found(tmp_path)
    (tmp_path / "out").rename(tmp_path / "one")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m",
               "subtuning_hf.cli", "compare", "--config", str(recipe), *names]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    together = found(tmp_path)
    files = sorted((tmp_path / "out" / "comparison").glob("runs*.jsonl"))
    assert len(files) == 2 and done.stdout.count("hyperparameters") == 1
    for row in (*alone["methods"], *together["methods"]):
        row["choosing"].pop("seconds")
    assert without_times(together["methods"]) == without_times(alone["methods"])
    assert together["trials"] == alone["trials"]
