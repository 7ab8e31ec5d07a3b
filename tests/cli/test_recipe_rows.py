"""Rows of every kind that a recipe can name, and labels as class indices."""

import io
import json

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from subtuning_hf.cli.images import check_images
from subtuning_hf.cli.recipe import DataSection
from subtuning_hf.cli.recipe_rows import encode_labels, load_rows, read_table
from subtuning_hf.errors import DataError, RecipeError

ROWS = {"text": [f"row {i}" for i in range(10)], "kind": ["b", "a"] * 5}


def section(path, **values):
    return DataSection(**{"path": str(path), "text_column": "text", "label_column": "kind", **values})


def write(folder, ending, name, rows=ROWS):
    data = Dataset.from_dict(rows)
    file = folder / f"{name}.{ending}"
    if ending == "parquet":
        data.to_parquet(file)
    elif ending in ("csv", "tsv"):
        data.to_csv(file, sep="," if ending == "csv" else "\t", index=False)
    else:
        data.to_json(file)
    return file


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_one_file_with_a_test_part(ending, tmp_path):
    file = write(tmp_path, ending, "all")
    rows = load_rows(section(file, test_fraction=0.3))
    assert (len(rows.train), len(rows.test)) == (7, 3) and rows.validation is None
    assert rows.names == ["a", "b"]
    both = list(rows.train["text"]) + list(rows.test["text"])
    assert sorted(both) == ROWS["text"]
    for part in (rows.train, rows.test):
        expected = [{"a": 0, "b": 1}[ROWS["kind"][ROWS["text"].index(text)]] for text in part["text"]]
        assert list(part["kind"]) == expected and part.features["kind"].names == ["a", "b"]
    again = load_rows(section(file, test_fraction=0.3))
    assert list(again.test["text"]) == list(rows.test["text"])
    other = load_rows(section(file, test_fraction=0.3, seed=1))
    assert list(other.test["text"]) != list(rows.test["text"])


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_folder_of_tables(ending, tmp_path):
    for name in ("train", "validation", "test"):
        write(tmp_path, ending, name, {**ROWS, "text": [f"{name} {i}" for i in range(10)]})
    rows = load_rows(section(tmp_path, validation_split="validation", max_train_rows=4, max_test_rows=5))
    assert (len(rows.train), len(rows.validation), len(rows.test)) == (4, 10, 5)
    assert all(text.startswith("train") for text in rows.train["text"])
    assert all(text.startswith("validation") for text in rows.validation["text"])


@pytest.mark.parametrize("seed", range(6))
def test_every_class_has_its_share_of_a_cut(seed, tmp_path):
    kinds = ["a"] * 30 + ["b"] * 10 + ["rare"] * 2 + ["single"]
    file = write(tmp_path, "jsonl", "all", {"text": [f"row {i}" for i in range(43)], "kind": kinds})
    rows = load_rows(section(file, test_fraction=0.5, seed=seed))
    assert sorted(rows.names) == rows.names == ["a", "b", "rare", "single"]
    assert [list(rows.train["kind"]).count(label) for label in range(4)] == [15, 5, 1, 1]
    assert [list(rows.test["kind"]).count(label) for label in range(4)] == [15, 5, 1, 0]
    assert {*rows.train["text"], *rows.test["text"]} == {f"row {i}" for i in range(43)}
    few = load_rows(section(file, test_fraction=0.05, seed=3))  # three rows, of which four classes can have no share
    assert len(few.test) == 3 and len(few.train) == 40


def test_a_saved_data_set(tmp_path):
    parts = DatasetDict({name: Dataset.from_dict(ROWS) for name in ("train", "test")})
    parts.save_to_disk(tmp_path / "dict")
    assert len(load_rows(section(tmp_path / "dict")).test) == 10
    parts["train"].save_to_disk(tmp_path / "single")
    assert len(load_rows(section(tmp_path / "single", test_fraction=0.5)).test) == 5


def test_images_by_path(tmp_path):
    (tmp_path / "pictures").mkdir()
    for i in range(4):
        Image.fromarray(np.full((4, 4, 3), 50 * i, np.uint8)).save(tmp_path / "pictures" / f"{i}.png")
    lines = ["file,kind", *[f"pictures/{i}.png,{'xy'[i % 2]}" for i in range(4)]]
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    data = DataSection(path=str(tmp_path / "list.csv"), image_column="file", label_column="kind", test_fraction=0.25)
    rows = load_rows(data)
    for row in [*rows.train, *rows.test]:
        assert np.asarray(row["file"])[0, 0, 0] // 50 % 2 == row["kind"]
    (tmp_path / "pictures" / "2.png").unlink()
    with pytest.raises(RecipeError, match=r"there is no file '.*2.png', which column 'file' names"):
        load_rows(data)


def test_broken_images_are_named_before_anything_is_trained(tmp_path):
    draw = np.random.default_rng(0)
    for place in ("train/x", "train/y", "test/x", "test/y"):
        (tmp_path / place).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(draw.integers(0, 255, (9, 9, 3), np.uint8)).save(tmp_path / place / f"{i}.jpg")
    data = DataSection(path=str(tmp_path), image_column="image", label_column="label")
    assert len(load_rows(data).train) == 8
    cut, text, other = (tmp_path / name for name in ("train/x/1.jpg", "train/y/2.jpg", "test/x/3.jpg"))
    cut.write_bytes(cut.read_bytes()[:-60])
    text.write_text("none")
    other.write_bytes(b"")
    with pytest.raises(DataError, match="of the 8 train rows 2 have no picture in 'image' that can be read") as found:
        load_rows(data)
    assert f"{cut} (image file is truncated" in str(found.value)
    assert f"{text} (nothing that Pillow knows). Mend them" in str(found.value)
    cut.unlink()
    text.unlink()
    with pytest.raises(DataError, match="of the 8 test rows 1 have no picture .*3.jpg"):
        load_rows(data)


def test_images_without_a_file_are_named_by_row():
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    cells = [{"bytes": file.getvalue(), "path": None}] * 260 + [None, {"bytes": b"no", "path": None}] * 4
    rows = Dataset.from_dict({"it": cells}, features=Features({"it": ImageFeature()}))
    with pytest.raises(DataError, match=r"of the 268 test rows 8 .* row 260 \(there is none\), row 261 .* and 3 more"):
        check_images(rows, "it", "test")
    check_images(rows.select(range(260)), "it", "test")


def test_labels_that_are_no_images(tmp_path):
    data = DataSection(path=str(write(tmp_path, "jsonl", "all", {"n": [1, 2], "kind": [0, 1]})), image_column="n",
                       label_column="kind", test_fraction=0.5)  # fmt: skip
    with pytest.raises(RecipeError, match="data.image_column: 'n' must hold images or paths of image files"):
        load_rows(data)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "data.test_split: there is no split 'test' in '.*', only train. Name one of them, or cut one with"),
        ({"train_split": "trian", "test_fraction": 0.5}, None),  # one file is whatever the recipe calls it
        ({"test_fraction": 0.5, "text_column": "txt"}, "has no column 'txt', only text, kind. Did you mean 'text'?"),
        ({"test_fraction": 0.5, "label_column": "knd"}, "has no column 'knd', only text, kind. Did you mean 'kind'?"),
        ({"test_fraction": 0.5, "validation_split": "validation"}, "data.validation_split: there is no split"),
    ],
)
def test_missing_splits_and_columns(tmp_path, values, message):
    data = section(write(tmp_path, "jsonl", "all"), **values)
    if message is None:
        assert len(load_rows(data).train) == 5
        return
    with pytest.raises(RecipeError, match=message):
        load_rows(data)


def test_a_fraction_where_there_is_a_test_split(tmp_path):
    for name in ("train", "test"):
        write(tmp_path, "csv", name)
    with pytest.raises(RecipeError, match="data.test_fraction: there is a split 'test' already"):
        load_rows(section(tmp_path, test_fraction=0.5))


def test_files_of_another_kind(tmp_path):
    (tmp_path / "rows.xlsx").write_text("x")
    with pytest.raises(RecipeError, match=r"must be a folder or end in one of .csv, .tsv"):
        load_rows(section(tmp_path / "rows.xlsx"))
    (tmp_path / "rows.parquet").write_text("not parquet")
    with pytest.raises(RecipeError, match=r"rows.parquet' cannot be read"):
        load_rows(section(tmp_path / "rows.parquet"))


# --- labels ---------------------------------------------------------------------------------
def parts(train, test, train_names=None, test_names=None):
    def make(labels, names):
        kind = ClassLabel(names=names) if names else Value("string" if isinstance(labels[0], str) else "int64")
        return Dataset.from_dict({"y": labels}, features=Features({"y": kind}))

    return {"train": make(train, train_names), "test": make(test, test_names)}


def test_indices_stay():
    found, names = encode_labels(parts([0, 2, 1], [1]), "y")
    assert names == ["0", "1", "2"] and list(found["train"]["y"]) == [0, 2, 1]
    found, names = encode_labels(parts([0, 1], [1, 0], ["cat", "dog"], ["cat", "dog"]), "y")
    assert names == ["cat", "dog"] and list(found["test"]["y"]) == [1, 0]


def test_names_are_sorted_and_shared():
    found, names = encode_labels(parts(["dog", "cat", "cow"], ["cow", "cat"]), "y")
    assert names == ["cat", "cow", "dog"]
    assert list(found["train"]["y"]) == [2, 0, 1] and list(found["test"]["y"]) == [1, 0]


def test_two_orders_of_the_same_classes_are_not_mixed_up():
    """Folders of images number their classes by name, and a test folder may lack one."""
    found, names = encode_labels(parts([0, 1, 2], [0, 1], ["a", "b", "c"], ["b", "c"]), "y")
    assert names == ["a", "b", "c"] and list(found["test"]["y"]) == [1, 2]


def test_truth_values_are_classes():
    data = Dataset.from_dict({"y": [True, False, True]})
    found, names = encode_labels({"train": data}, "y")
    assert names == ["False", "True"] and list(found["train"]["y"]) == [1, 0, 1]


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (["a", "b"], ["c"], "the test rows have the labels c, which no training row has"),
        ([0, 1], [5], "the test rows have the labels 5"),
        ([0, 1], [-1, -1], "-1 marks rows without a label.*name another split"),
        ([0.5, 1.0], [0.5], "found|0.5 .numbers to regress on"),
        (["a", None], ["a"], "None .a label is missing"),
    ],
)
def test_labels_that_are_no_classes(train, test, message):
    with pytest.raises(RecipeError, match=message):
        encode_labels({"train": Dataset.from_dict({"y": train}), "test": Dataset.from_dict({"y": test})}, "y")


def test_the_image_folder_of_the_other_tests(base):
    rows = load_rows(DataSection(path=f"{base}/photos", image_column="image"))
    assert rows.names == ["dark", "light", "red"] and (len(rows.train), len(rows.test)) == (24, 12)
    assert json.dumps(list(rows.test["label"])) == json.dumps([0] * 4 + [1] * 4 + [2] * 4)


# --- tables as they are written ---------------------------------------------------------------
def table(folder, lines, name="rows.csv"):
    file = folder / name
    file.write_text("\n".join(["text,kind", *lines]) + "\n", encoding="utf-8")
    return file


def whole(file):
    """All rows of a file, with classes, and their names."""
    parts, names = encode_labels({"train": read_table(file, ["text", "kind"])}, "kind")
    return parts["train"], names


@pytest.mark.parametrize(
    ("kinds", "names"),
    [
        ("2019 2020 2021", ["2019", "2020", "2021"]),
        ("1 2 3 4 5 10", ["1", "2", "3", "4", "5", "10"]),
        ("01 02 03", ["01", "02", "03"]),
        ("0 1 2", ["0", "1", "2"]),
        ("None NA null", ["NA", "None", "null"]),
        ("True False", ["False", "True"]),
        ("1 2 b", ["1", "2", "b"]),
    ],
)
def test_labels_are_the_classes_that_there_are(kinds, names, tmp_path):
    rows, found = whole(table(tmp_path, [f"text {n},{kind}" for n, kind in enumerate(kinds.split())]))
    assert found == names and [names[label] for label in rows["kind"]] == kinds.split()


def test_a_class_of_the_test_rows_alone_keeps_its_place():
    parts = {"train": Dataset.from_dict({"kind": [0, 3, 1]}), "test": Dataset.from_dict({"kind": [2]})}
    assert encode_labels(parts, "kind")[1] == ["0", "1", "2", "3"]
    parts["test"] = Dataset.from_dict({"kind": [7]})
    with pytest.raises(RecipeError, match="labels 7, which no training row has"):
        encode_labels(parts, "kind")


@pytest.mark.parametrize("kinds", ["0.5 1.25", "1 2.0", "1e-3 2"])
def test_numbers_in_a_table_are_no_classes(kinds, tmp_path):
    with pytest.raises(RecipeError, match="numbers to regress on"):
        whole(table(tmp_path, [f"text,{kind}" for kind in kinds.split()]))


def test_texts_stay_as_they_are_written(tmp_path):
    texts = ["007", "1e3", "NA", "null", "nan", "None", "12"]
    rows, _ = whole(table(tmp_path, [f"{text},{'ab'[n % 2]}" for n, text in enumerate(texts)]))
    assert list(rows["text"]) == texts
    found = load_rows(section(tmp_path / "rows.csv", test_fraction=0.3))
    assert sorted([*found.train["text"], *found.test["text"]]) == sorted(texts)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: table(folder, ["one,a", ",b"]), "row 1 of split 'train' has nothing in column 'text'"),
        (lambda folder: table(folder, []), "has no rows|holds no rows"),
        (lambda folder: _bytes(folder, b""), "it holds no rows"),
        (lambda folder: _bytes(folder, b"text,kind\n\xff\xfe,a\n"), "it is no text in UTF-8"),
        (lambda folder: write(folder, "jsonl", "x", {"text": [1, 2], "kind": ["a", "b"]}), "must hold texts, found"),
    ],
)
def test_tables_that_are_none(make, words, tmp_path):
    with pytest.raises(RecipeError, match=words):
        load_rows(section(make(tmp_path), test_fraction=0.5))


def _bytes(folder, content):
    (folder / "raw.csv").write_bytes(content)
    return folder / "raw.csv"
