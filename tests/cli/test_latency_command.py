"""`subtuning latency`: a table, a file that a search takes, and a picture."""

import json

import pytest

from subtuning_hf.cli.main import main
from subtuning_hf.search.journal import read_study
from subtuning_hf.search.latency import LatencyProfile

QUICK = ("--tasks", "2", "--repeats", "1", "--threads", "1")


def latency(*words):
    return main(["latency", *map(str, words), *QUICK])


def test_a_base_then_a_search_and_then_its_study(base, recipe, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    folder = tmp_path / "times"
    assert latency(base / "model", "--batch", "1,3", "--image-size", 32, "--output-dir", folder) == 0
    printed = capsys.readouterr().out
    profile = LatencyProfile.load(folder / "latency.json")
    assert profile.batch_sizes == (1, 3) and profile.num_tasks == 2 and profile.environment["threads"] == 1
    assert profile.environment["inputs"] == {"pixel_values": [3, 32, 32]}
    assert all(name in printed for name in profile.blocks)
    assert sorted(file.name for file in folder.iterdir()) == ["latency.json", "latency.png", "latency.svg"]

    # The first block may not be tuned; two recipes that differ in serving share their trainings.
    data = json.loads((folder / "latency.json").read_text())
    for each in data["batches"]:
        for kind, value in (("shared", 1.0), ("stacked", 2.0), ("tuned", 2.0)):
            each[kind] = [{"median": value, "spread": 0.0}] * 2
        each["outside"]["median"] = 2.0
    (folder / "latency.json").write_text(json.dumps(data))
    words = [f"latency_profile={folder}/latency.json", "serving_batch=3", "max_added_latency=0.3", "strategy=exact"]
    assert main(["search", "--config", str(recipe), *words, "--dry-run"]) == 0
    assert f"Not trained, since they add more than max_added_latency: {profile.blocks[0]}." in capsys.readouterr().out
    assert main(["search", "--config", str(recipe), *words]) == 0
    printed = capsys.readouterr().out
    assert "Serving 2 tasks on a batch of 3 rows: the chosen blocks add" in printed
    study = read_study(tmp_path / "out" / "journal")
    assert {each.candidate.blocks for each in study.evaluations} == {(), (profile.blocks[1],)}
    assert main(["search", "--config", str(recipe), "strategy=exact"]) == 0
    after = read_study(tmp_path / "out" / "journal")
    assert len(after.evaluations) == len(study.evaluations) + 2 and len(after.searches) == 2

    assert latency(tmp_path / "out", "--batch", "2", "--image-size", 32) == 0
    again = LatencyProfile.load(tmp_path / "out" / "latency.json")
    assert again.blocks == profile.blocks and again.num_parameters == profile.num_parameters


def test_texts(texts, tmp_path):
    assert latency(texts / "model", "--batch", "2", "--length", 5, "--output-dir", tmp_path) == 0
    found = LatencyProfile.load(tmp_path / "latency.json").environment["inputs"]
    assert found["input_ids"] == [5]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["serving_aware=true"], "needs to know what blocks cost"),
        (["max_added_latency=0.5"], "needs to know what blocks cost"),
        (["latency_profile=nothing.json"], "must be a latency profile"),
        (["latency_profile={file}"], "`serving_batch` must say"),
        (["latency_profile={file}", "serving_batch=1", "serving_tasks=9"], "measured for 4 tasks"),
        (["latency_profile={file}", "serving_batch=1"], "of the model that is searched"),
        (["latency_profile={file}", "serving_batch=1", "serving_aware=true", "strategy=kernel"], "trains few"),
        (["latency_profile={file}", "serving_aware=true", "pruner=certain", "score_limit=1.0"], "pruner='certain'"),
    ],
)
def test_settings_that_do_not_fit(recipe, tmp_path, capsys, words, message):
    from plots.test_latency import profile_of

    file = profile_of(["a", "b"]).save(tmp_path / "latency.json")
    words = [word.format(file=file) for word in words]
    words += ["strategy=exact"] * (not any(word.startswith("strategy") for word in words))
    assert main(["search", "--config", str(recipe), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "journal").exists()


@pytest.mark.parametrize("below", ["", "/new"])
def test_a_file_is_no_folder_and_is_refused_before_measuring(base, tmp_path, capsys, monkeypatch, below):
    from subtuning_hf.multitask import latency as measuring

    monkeypatch.setattr(measuring, "measure_latency", lambda *args, **kwargs: pytest.fail("it was measured"))
    (tmp_path / "file").write_text("mine")
    assert latency(base / "model", "--batch", "1", "--output-dir", f"{tmp_path}/file{below}") == 2
    assert "file' is no folder. Name another folder with --output-dir" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_after_all(base, tmp_path, capsys, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LatencyProfile, "save", full)
    assert latency(base / "model", "--batch", "1", "--image-size", 32, "--output-dir", tmp_path) == 2
    said = capsys.readouterr()
    assert "No space left on device" in said.err and "block tuned alone" in said.out  # what was measured is not lost


def test_options_that_do_not_fit(base, tmp_path, capsys):
    assert latency(base / "model", "--device", "nowhere") == 2
    assert "must be one that this machine has" in capsys.readouterr().err
    assert latency(tmp_path / "none.json") == 2
    with pytest.raises(SystemExit):
        latency(base / "model", "--batch", "1,1")
