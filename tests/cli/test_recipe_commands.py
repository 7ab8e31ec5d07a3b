"""`subtuning profile`, `train` and `evaluate`, which share recipe, journal and adapter with `search`."""

import json

import pytest

from subtuning_hf.cli.main import main
from subtuning_hf.cli.session import repeats_lines
from subtuning_hf.cli.train import chosen_blocks
from subtuning_hf.search.records import Candidate, FinalRun


def journal(tmp_path):
    return sorted(path.read_text() for path in (tmp_path / "out" / "journal").glob("*.jsonl"))


def evaluations(tmp_path):
    return [line for text in journal(tmp_path) for line in text.splitlines() if '"evaluation"' in line]


def test_profile_is_the_first_round_of_the_search(recipe, tmp_path, capsys):
    assert main(["profile", "--config", str(recipe)]) == 0
    output = capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "profile_blocks.json").read_text())
    assert [row["block"] for row in found["rows"]] == [
        "resnet.encoder.stages.0.layers.0",
        "resnet.encoder.stages.1.layers.0",
    ]
    assert "head only" in output and "subtuning plot" in output
    assert found["head_only"] is not None and found["num_folds"] == 2
    trained = evaluations(tmp_path)
    assert len(trained) == 6  # head and two blocks, two folds
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    assert main(["search", "--config", str(recipe)]) == 0
    assert evaluations(tmp_path) == trained  # the search had nothing left to train


def test_profile_of_pairs_and_repeats(recipe, tmp_path, capsys):
    assert main(["profile", "--config", str(recipe), "profile.pairs=true", "profile.repeats=2"]) == 0
    rows = json.loads((tmp_path / "out" / "profile_pairs.json").read_text())["rows"]
    assert [row["repeats"] for row in rows] == [2]
    assert main(["profile", "--config", str(recipe), "profile.window=3"]) == 2
    assert "window" in capsys.readouterr().err


def test_train_with_named_blocks_needs_no_search(recipe, tmp_path, capsys):
    assert main(["train", "--config", str(recipe), "train.blocks=[0]", "--dry-run"]) == 0
    output = capsys.readouterr().out
    assert "blocks: resnet.encoder.stages.0.layers.0" in output and "24 to train on, 12 to score" in output
    assert main(["train", "--config", str(recipe), "granularity=submodule", "--blocks", "1", "--dry-run"]) == 0
    assert "blocks: resnet.encoder.stages.0.layers.0." in capsys.readouterr().out
    assert not list((tmp_path / "out").rglob("*"))

    assert main(["train", "--config", str(recipe), "train.blocks=[0]", "--blocks", "1"]) == 0  # the command line wins
    found = json.loads((tmp_path / "out" / "test_results.json").read_text())
    assert found["blocks"] == ["resnet.encoder.stages.1.layers.0"] and "repeats" not in found
    assert not (tmp_path / "out" / "journal").exists()

    assert main(["train", "--config", str(recipe), "--blocks"]) == 0
    assert json.loads((tmp_path / "out" / "test_results.json").read_text())["blocks"] == []
    assert main(["train", "--config", str(recipe), "--blocks", "7"]) == 2
    assert "UnknownBlockError" in capsys.readouterr().err


def test_train_takes_what_the_search_chose_and_repeats_it(recipe, tmp_path, capsys):
    assert main(["search", "--config", str(recipe)]) == 0
    first, before = json.loads((tmp_path / "out" / "test_results.json").read_text()), evaluations(tmp_path)
    capsys.readouterr()
    assert main(["train", "--config", str(recipe), "train.repeats=3"]) == 0
    found = json.loads((tmp_path / "out" / "test_results.json").read_text())
    assert evaluations(tmp_path) == before
    assert found["blocks"] == first["blocks"] and found["test_accuracy"] == first["test_accuracy"]
    assert [run["seed"] for run in found["repeats"]] == [42, 43, 44]
    output = capsys.readouterr().out
    assert "over 3 seeds" in output and "±" in output
    # The first seed is that of the adapter.
    scores = [value for key, value in found["repeats"][0]["metrics"].items() if key.endswith("accuracy")]
    assert scores == [found["test_accuracy"]]


def test_train_without_a_search_runs_one(recipe, tmp_path, capsys):
    assert main(["train", "--config", str(recipe), "--dry-run"]) == 0
    assert "Then the chosen blocks are trained on all 24 rows." in capsys.readouterr().out
    assert not list((tmp_path / "out").rglob("*"))
    assert main(["train", "--config", str(recipe)]) == 0
    assert len(evaluations(tmp_path)) == 6


def test_words_of_the_command_line_are_names_or_indices():
    assert chosen_blocks(["3", "-1", "a.*"], None) == [3, -1, "a.*"]
    assert chosen_blocks([], ["a"]) == []
    assert chosen_blocks(None, ["a", 2]) == ["a", 2]
    assert chosen_blocks(None, None) is None


def test_evaluate_gives_the_score_of_the_training(recipe, base, tmp_path, capsys):
    assert main(["evaluate", "--config", str(recipe)]) == 2
    assert "There is no adapter in" in capsys.readouterr().err
    assert main(["train", "--config", str(recipe), "train.blocks=[0,1]"]) == 0
    results = tmp_path / "out" / "test_results.json"
    trained = json.loads(results.read_text())
    results.unlink()
    capsys.readouterr()

    assert main(["evaluate", "--config", str(recipe), "--dry-run"]) == 0
    assert "rows: 12" in capsys.readouterr().out and not results.exists()
    assert main(["evaluate", "--config", str(recipe)]) == 0
    found = json.loads(results.read_text())
    assert found["blocks"] == trained["blocks"]
    for key in ("test_accuracy", "test_loss"):
        assert found[key] == pytest.approx(trained[key], abs=1e-6)
    assert "runtime" not in capsys.readouterr().out and "preparation_time" in str(found)

    other = tmp_path / "other"
    assert main(["evaluate", "--config", str(recipe), f"output_dir={other}", "--adapter", str(tmp_path / "out")]) == 0
    assert json.loads((other / "test_results.json").read_text())["test_accuracy"] == trained["test_accuracy"]
    assert main(["evaluate", "--config", str(recipe), "--adapter", str(base / "model")]) == 2
    assert "No adapter" in capsys.readouterr().err


def test_evaluate_refuses_data_with_other_classes(recipe, base, tmp_path, capsys):
    assert main(["train", "--config", str(recipe), "train.blocks=[]"]) == 0
    rows = [f"{path},{'ab'[index % 2]}" for index, path in enumerate(sorted((base / "photos/test").rglob("*.png")))]
    other = tmp_path / "other"
    other.mkdir()
    for name in ("train", "test"):
        (other / f"{name}.csv").write_text("\n".join(["image,label", *rows]) + "\n")
    assert main(["evaluate", "--config", str(recipe), f"data.path={other}"]) == 2
    error = capsys.readouterr().err
    assert "AdapterMismatchError" in error and "tells 3 classes apart (dark, light, red ...)" in error


def test_options_may_stand_among_overrides(recipe, tmp_path):
    words = ["search", "num_train_epochs=1", "--config", str(recipe), "seed=1", "--dry-run", "data.max_train_rows=12"]
    assert main(words) == 0


def test_texts_with_labels_by_name(text_recipe, tmp_path, capsys):
    assert main(["search", "--config", str(text_recipe)]) == 0
    found = json.loads((tmp_path / "out" / "test_results.json").read_text())
    assert main(["evaluate", "--config", str(text_recipe)]) == 0
    again = json.loads((tmp_path / "out" / "test_results.json").read_text())
    assert again["test_accuracy"] == found["test_accuracy"]
    settings = json.loads((tmp_path / "out" / "preprocessing.json").read_text())
    assert settings["text"] is True and settings["max_length"] == 8


@pytest.mark.parametrize(("scores", "words"), [((0.5, 0.5), "0.5000 ± 0.0000"), ((0.5,), "0.5000 ± nan")])
def test_equal_scores_have_a_spread_of_zero(scores, words):
    runs = [FinalRun(Candidate(), seed, {"test_accuracy": score}) for seed, score in enumerate(scores)]
    assert repeats_lines(runs) == [f"test_accuracy over {len(scores)} seeds: {words}"]
