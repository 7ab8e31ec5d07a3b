"""`subtuning predict`: the labels a user would get from the model itself, whatever the inputs come as."""

import csv
import io
import json
import os
import shutil

import numpy as np
import pytest
import torch

from subtuning_hf.cli.main import main


@pytest.fixture(scope="module")
def photos(base, tmp_path_factory):
    """An adapter for photos, trained at a size of its own, and what it says of each test photo."""
    from peft import PeftModel
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    folder = tmp_path_factory.mktemp("photos")
    (folder / "recipe.yaml").write_text(
        f"""
model: {{name: {base}/model}}
data: {{path: {base}/photos, image_column: image}}
preprocessing: {{image_size: 16}}
args: {{output_dir: {folder}/out, num_train_epochs: 2, learning_rate: 1e-2, use_cpu: true, save_strategy: "no"}}
"""
    )
    assert main(["train", "--config", str(folder / "recipe.yaml"), "--blocks", "0"]) == 0
    model = AutoModelForImageClassification.from_pretrained(base / "model")
    model = PeftModel.from_pretrained(model, folder / "out").eval()
    processor = AutoImageProcessor.from_pretrained(base / "model")
    processor.size = {"shortest_edge": 16}
    expected = {}
    for path in sorted((base / "photos" / "test").rglob("*.png")):
        inputs = processor([Image.open(path)], return_tensors="pt")
        assert inputs["pixel_values"].shape[-1] == 16
        with torch.no_grad():
            expected[str(path)] = model(**inputs).logits.softmax(-1)[0].numpy()
    return folder, expected


@pytest.fixture(scope="module")
def moods(texts, tmp_path_factory):
    """An adapter for texts."""
    folder = tmp_path_factory.mktemp("moods")
    (folder / "recipe.yaml").write_text(
        f"""
model: {{name: {texts}/model}}
data: {{path: {texts}/texts.csv, text_column: sentence, label_column: mood, test_fraction: 0.3}}
preprocessing: {{max_length: 4}}
args: {{output_dir: {folder}/out, num_train_epochs: 1, use_cpu: true, save_strategy: "no"}}
"""
    )
    assert main(["train", "--config", str(folder / "recipe.yaml"), "--blocks", "1"]) == 0
    return folder


def run(capsys, *words):
    capsys.readouterr()
    assert main(["predict", *map(str, words), "--use-cpu"]) == 0
    return capsys.readouterr().out


def rows_of(output):
    return list(csv.DictReader(io.StringIO(output)))


def test_images_of_a_folder(photos, base, capsys):
    folder, expected = photos
    rows = rows_of(run(capsys, folder / "out", base / "photos" / "test", "--top", 3, "--batch-size", 5))
    assert [row["input"] for row in rows] == list(expected)
    for row in rows:
        shares = expected[row["input"]]
        order = np.argsort(-shares)
        names = ["dark", "light", "red"]
        for key, index in zip(("", "_2", "_3"), order, strict=True):
            assert row[f"label{key}"] == names[index]
            assert float(row[f"probability{key}"]) == pytest.approx(float(shares[index]), abs=2e-6)


def test_recipe_and_adapter_agree(photos, base, capsys):
    folder, expected = photos
    image = next(iter(expected))
    direct = run(capsys, folder / "out", image)
    assert run(capsys, "--config", folder / "recipe.yaml", image) == direct
    moved = ["--config", folder / "recipe.yaml", image, f"output_dir={folder}/out"]
    assert run(capsys, *moved) == direct


def test_tables_and_standard_input_name_images(photos, base, tmp_path, capsys, monkeypatch):
    folder, expected = photos
    two = list(expected)[:2]
    for path in two:
        shutil.copy(path, tmp_path / f"{two.index(path)}.png")
    (tmp_path / "list.csv").write_text("file,more\n0.png,x\n1.png,y\n")
    rows = rows_of(run(capsys, folder / "out", tmp_path / "list.csv", "--column", "file"))
    assert [row["input"] for row in rows] == [str(tmp_path / "0.png"), str(tmp_path / "1.png")]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(two) + "\n"))
    again = rows_of(run(capsys, folder / "out", "-"))
    assert [row["label"] for row in again] == [row["label"] for row in rows]


def test_texts(moods, texts, tmp_path, capsys, monkeypatch):
    (tmp_path / "lines.txt").write_text("the good day\n\nthe bad night, awful\n")
    rows = rows_of(run(capsys, moods / "out", tmp_path / "lines.txt"))
    assert [row["input"] for row in rows] == ["the good day", "the bad night, awful"]
    assert {row["label"] for row in rows} <= {"up", "down"}
    monkeypatch.setattr("sys.stdin", io.StringIO("the good day\n"))
    assert rows_of(run(capsys, moods / "out", "-")) == rows[:1]
    lines = run(capsys, moods / "out", texts / "texts.csv", "--column", "sentence", "--format", "jsonl").splitlines()
    found = [json.loads(line) for line in lines]
    assert len(found) == 20 and set(found[0]) == {"input", "label", "probability"}
    with_recipe = run(capsys, "--config", moods / "recipe.yaml", texts / "texts.csv", "--format", "jsonl").splitlines()
    assert with_recipe == lines  # the recipe knows the column


def test_texts_are_cut_as_in_training(moods, tmp_path, capsys):
    """`max_length: 4` leaves two words between the special tokens, and it is kept beside the adapter."""
    (tmp_path / "lines.txt").write_text("good day\ngood day awful bad bad\n")
    short, long = rows_of(run(capsys, moods / "out", tmp_path / "lines.txt"))
    assert short["probability"] == long["probability"]


def test_output_to_a_file(moods, tmp_path, capsys):
    (tmp_path / "lines.txt").write_text("good day\n")
    out = tmp_path / "labels.jsonl"
    printed = run(capsys, moods / "out", tmp_path / "lines.txt", "--output", out)
    assert json.loads(out.read_text())["input"] == "good day" and "1 predictions" in printed
    before = out.read_text()
    assert main(["predict", str(moods / "out"), str(tmp_path / "lines.txt"), "--output", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err and out.read_text() == before


def test_dry_run(moods, tmp_path, capsys):
    (tmp_path / "lines.txt").write_text("good day\nbad\n")
    output = run(capsys, moods / "out", tmp_path / "lines.txt", "--dry-run", "--output", tmp_path / "labels.csv")
    assert "inputs: 2" in output and "Nothing was predicted." in output and not (tmp_path / "labels.csv").exists()


def test_nothing_else_is_written(moods, tmp_path, capsys, monkeypatch):
    (tmp_path / "lines.txt").write_text("good day\n")
    monkeypatch.chdir(tmp_path)
    run(capsys, moods / "out", "lines.txt")
    assert os.listdir(tmp_path) == ["lines.txt"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ADAPTER"], "Give an adapter and at least one input"),
        (["ADAPTER", "nowhere.txt"], "There is no file or folder 'nowhere.txt'"),
        (["nowhere", "lines.txt"], "There is no SubTuning adapter 'nowhere'"),
        (["ADAPTER", "."], "is a folder; this adapter is for texts"),
        (["ADAPTER", "empty.txt"], "The inputs are empty"),
        (["ADAPTER", "two.csv"], "has the columns a, b, not 'text'. Name one with --column."),
        (["ADAPTER", "bytes.txt"], "is no text in UTF-8"),
        (["ADAPTER", "lines.txt", "--top", "0"], "--top must be at least 1, found 0."),
        (["ADAPTER", "lines.txt", "--base", "./nowhere"], "model.name: './nowhere'"),
        (["--config", "none.yaml", "lines.txt"], "There is no recipe"),
        (["--config", "RECIPE", "output_dir=empty", "lines.txt"], "There is no adapter in 'empty'"),
        (["--config", "RECIPE"], "the following arguments are required"),
    ],
)
def test_bad_requests(moods, tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lines.txt").write_text("good day\n")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "two.csv").write_text("a,b\n1,2\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    words = [{"ADAPTER": str(moods / "out"), "RECIPE": str(moods / "recipe.yaml")}.get(word, word) for word in words]
    try:
        assert main(["predict", *words, "--use-cpu"]) == 2
    except SystemExit as stop:
        assert stop.code == 2
    assert message in capsys.readouterr().err


def test_images_that_are_none(photos, tmp_path, capsys):
    folder, _ = photos
    (tmp_path / "note.txt").write_text("no picture")
    for place, message in ((tmp_path / "note.txt", "is no image that Pillow reads"), (tmp_path, "holds no images")):
        assert main(["predict", str(folder / "out"), str(place), "--use-cpu"]) == 2
        assert message in capsys.readouterr().err


def test_an_adapter_without_its_settings(photos, tmp_path, capsys):
    """Saved by hand: the kind of inputs then follows from the base."""
    folder, expected = photos
    shutil.copytree(folder / "out", tmp_path / "adapter")
    (tmp_path / "adapter" / "preprocessing.json").unlink()
    rows = rows_of(run(capsys, tmp_path / "adapter", next(iter(expected))))
    assert rows[0]["label"] in ("dark", "light", "red")
    (tmp_path / "adapter" / "preprocessing.json").write_text('{"texts": true}')
    assert main(["predict", str(tmp_path / "adapter"), next(iter(expected)), "--use-cpu"]) == 2
    assert "AdapterFileError" in capsys.readouterr().err


def test_texts_of_a_table_and_lines_of_a_file_stay_as_they_are(tmp_path):
    from subtuning_hf.cli.predict_inputs import read_inputs

    file = tmp_path / "texts.csv"
    file.write_text("text,n\n007,1\n1e3,2\nNA,3\nnull,4\n")
    assert list(read_inputs([str(file)], True, None).rows["text"]) == ["007", "1e3", "NA", "null"]
    lines = tmp_path / "lines.txt"
    lines.write_bytes("\ufeffone\u2028still one\r\n\n  two\x0cstill two\n".encode())
    assert list(read_inputs([str(lines)], True, None).rows["text"]) == ["one\u2028still one", "  two\x0cstill two"]


@pytest.mark.parametrize(("place", "words"), [("none/out.csv", "there is no folder"), ("there.csv", "exists already")])
def test_an_output_that_cannot_be_written_is_refused_first(place, words, tmp_path, capsys):
    (tmp_path / "there.csv").write_text("")
    assert main(["predict", "no-adapter", "texts.txt", "--output", str(tmp_path / place)]) == 2
    assert words in capsys.readouterr().err
