"""`subtuning search` from a recipe to an adapter, on a handful of drawn images."""

import json

import pytest
import torch

from subtuning_hf.cli.main import main


def test_from_recipe_to_adapter(recipe, base, tmp_path, capsys):
    from peft import PeftModel
    from transformers import AutoModelForImageClassification

    assert main(["search", "--config", str(recipe)]) == 0
    output = capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "test_results.json").read_text())
    assert f"test_accuracy: {found['test_accuracy']:.4f}" in output and "adapter:" in output

    model = AutoModelForImageClassification.from_pretrained(base / "model")  # a head of 5 labels
    model = PeftModel.from_pretrained(model, tmp_path / "out").eval()
    assert model.peft_config["default"].blocks == found["blocks"]
    logits = model(pixel_values=torch.zeros(1, 3, 32, 32)).logits
    assert logits.shape == (1, 3)
    assert model.config.id2label == {0: "dark", 1: "light", 2: "red"}

    journal = (tmp_path / "out" / "journal" / "rank-0000.jsonl").read_text()
    assert main(["search", "--config", str(recipe)]) == 0  # everything is in the journal already
    assert (tmp_path / "out" / "journal" / "rank-0000.jsonl").read_text() == journal
    assert json.loads((tmp_path / "out" / "test_results.json").read_text())["test_accuracy"] == found["test_accuracy"]

    assert main(["search", "--config", str(recipe), "learning_rate=1e-3"]) == 2  # another study
    assert "learning_rate" in capsys.readouterr().err


def test_dry_run_writes_nothing(recipe, tmp_path, capsys):
    assert main(["search", "--config", str(recipe), "--dry-run"]) == 0
    # Trainer itself makes the folder; nothing may be in it.
    assert not list((tmp_path / "out").rglob("*"))
    assert "training" in capsys.readouterr().out.lower()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.train_split=training", "there is no split 'training'"),
        ("data.image_column=picture", "has no column 'picture', only image, label"),
        ("data.label_column=class", "has no column 'class'"),
        ("model.name=/no/such/model", "model"),
        ("metric=acuracy", "neither one of accuracy"),
        ("num_fold=3", "has no such field. Did you mean 'num_folds'?"),
        ("output_dir=null", "args.output_dir"),
    ],
)
def test_bad_recipes_train_and_write_nothing(recipe, tmp_path, capsys, override, message):
    before = sorted(tmp_path.rglob("*"))
    assert main(["search", "--config", str(recipe), override]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert sorted(tmp_path.rglob("*")) == before


def test_start_from_an_adapter(recipe, base, tmp_path, capsys):
    from subtuning_hf.search import read_study

    other = tmp_path / "17"  # a name that YAML would take for a number
    words = ["--config", str(recipe), "data.max_train_rows=18"]
    assert main(["search", *words, f"output_dir={other}", "direction=list", "candidates=[[1]]", "min_gain=0"]) == 0
    chosen = json.loads((other / "test_results.json").read_text())["blocks"]
    capsys.readouterr()
    assert main(["search", "--config", str(recipe), "--start-from", str(other)]) == 0
    assert f"Tried first, since '17' has them: {', '.join(chosen) or 'no block'}." in capsys.readouterr().out
    known = read_study(tmp_path / "out" / "journal")
    assert known.searches[0].start.source == "17" and list(known.searches[0].start.blocks) == chosen
    tried = list(dict.fromkeys(each.candidate.blocks for each in known.evaluations))
    assert tried[1] == tuple(chosen) or not chosen
    assert main(["search", "--config", str(recipe), "--dry-run", "--start-from", str(base / "model")]) == 2
    assert "There is no adapter in" in capsys.readouterr().err
