"""The demo: disjoint and fixed data, and (slow) the whole of it with little training."""

import dataclasses
import json

import numpy as np
import pytest

pytest.importorskip("sklearn")

from subtuning_hf.cli import demo_data, demo_model
from subtuning_hf.cli.main import main
from subtuning_hf.errors import ArgumentsError


@pytest.fixture(scope="module")
def data():
    return demo_data.load_digits(100, seed=0)


def pixels(rows):
    return np.stack([np.asarray(image) for image in rows["image"]])


def test_the_parts_are_disjoint_and_all_there(data):
    sizes = [len(part) for part in (data.source, data.train, data.test)]
    assert sizes == [900, 100, 797] and sum(sizes) == 1797
    assert len(data.clean) == len(data.test) and list(data.clean["label"]) == list(data.test["label"])
    counts = np.bincount(np.concatenate([part["label"] for part in (data.source, data.train, data.test)]))
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # of all 1,797


def test_the_seed_decides(data):
    again, other = demo_data.load_digits(100, seed=0), demo_data.load_digits(100, seed=1)
    assert np.array_equal(pixels(data.train), pixels(again.train))
    assert not np.array_equal(pixels(data.train), pixels(other.train))


def test_the_corruption_inverts_and_flattens(data):
    clean, corrupted = pixels(data.clean).astype(float), pixels(data.test).astype(float)
    assert np.corrcoef(clean.ravel(), corrupted.ravel())[0, 1] < -0.5
    assert corrupted.std() < clean.std() / 2


@pytest.mark.parametrize("rows", [0, 29, 698])
def test_rows_out_of_range(rows):
    with pytest.raises(ArgumentsError, match=r"between 30 and 697 .* found"):
        demo_data.load_digits(rows, seed=0)


def test_bad_options_write_nothing(tmp_path, capsys):
    assert main(["demo", "--rows", "5", "--output-dir", str(tmp_path / "out")]) == 2
    assert main(["demo", "--seeds", "0", "--output-dir", str(tmp_path / "out")]) == 2
    assert "--seeds must be at least 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("unicode", [True, False])
def test_the_drawing_is_aligned(data, unicode):
    lines = demo_data.drawing(data.clean, data.test, unicode=unicode).split("\n")
    assert len(lines) == 8 and {len(line) for line in lines} == {2 * (4 * 16 + 3 * 2) + 8}
    assert unicode or "".join(lines).isascii()


@pytest.mark.parametrize("kind", list(demo_model.MODELS))
def test_models_fit_their_pixels(data, kind):
    from subtuning_hf import find_blocks

    model = demo_model.build(kind, seed=0)
    assert len(find_blocks(model)) == 6
    assert 0 <= demo_model.accuracy(model, data.train.select(range(20)), demo_model.MODELS[kind]) <= 1
    assert model.training


@pytest.mark.slow
def test_the_whole_demo(tmp_path, monkeypatch, capsys):
    short = dataclasses.replace(
        demo_model.MODELS["resnet"],
        pretraining={"max_steps": 4, "per_device_train_batch_size": 64, "learning_rate": 3e-3},
        epochs=1,
        learning_rates=(1e-2, 3e-2),
    )
    monkeypatch.setitem(demo_model.MODELS, "resnet", short)
    words = ["demo", "--rows", "60", "--seeds", "2", "--output-dir", str(tmp_path / "out")]
    assert main(words) == 0
    output = capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["method"] for row in found["methods"]] == ["LP", "FT", "SubTuning"]
    assert all(len(row["scores"]) == 2 for row in found["methods"])
    assert "winner" in output or "wins" in output
    assert "here" in output and "in the new process" in output
    assert (tmp_path / "out" / "profile.png").stat().st_size > 10_000
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").exists()
    assert main(words) == 0  # nothing is trained twice but the source model and the adapter
    again = json.loads((tmp_path / "out" / "results.json").read_text())
    assert again["methods"] == found["methods"] and "on disk from an earlier run" in capsys.readouterr().out
