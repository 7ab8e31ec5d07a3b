"""The table of VTAB-1k, and splits from a copy in the form that the Hub's have."""

import io
import tarfile

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from PIL import Image

from subtuning_hf.cli import vtab
from subtuning_hf.cli.vtab import TASKS, VtabTask, load_task
from subtuning_hf.errors import RecipeError


def test_the_table():
    assert len(TASKS) == 19
    groups = [task.group for task in TASKS.values()]
    assert [groups.count(group) for group in ("natural", "specialized", "structured")] == [7, 4, 8]
    # Check sums, so that no count of this table is changed by mistake.
    assert sum(task.test_rows for task in TASKS.values()) == 387_904
    assert sum(task.classes for task in TASKS.values()) == 940
    assert len({task.copy for task in TASKS.values()}) == 19


def add(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A copy with the counts that a test asks for, its image telling the row; and its task."""

    def make(train=1100, test=7, classes=3, label=lambda row: row % 3, **task):
        for split, count in (("train", train), ("test", test)):
            (tmp_path / split).mkdir()
            with tarfile.open(tmp_path / split / "0.tar", "w") as tar:
                for row in range(count):
                    picture = io.BytesIO()
                    pixels = np.full((2, 2, 3), (row % 256, row // 256, split == "test"), np.uint8)
                    Image.fromarray(pixels).save(picture, "WEBP", lossless=True)
                    add(tar, f"s{row:07d}.webp", picture.getvalue())
                    add(tar, f"s{row:07d}.cls", str(label(row)).encode())
        (tmp_path / "classnames.txt").write_text("a\nb\nc\n")  # as the copies have, which must not be read as rows
        monkeypatch.setitem(TASKS, "try", VtabTask("natural", classes, 7, "nobody/nothing", **task))
        return str(tmp_path)

    return make


def rows_of(data):
    pixels = [np.asarray(image.convert("RGB"))[0, 0].tolist() for image in data["image"]]
    return [red + 256 * green for red, green, _ in pixels]


def test_splits(copy):
    parts = load_task("try", seed=0, root=copy())
    assert {name: len(rows) for name, rows in parts.items()} == {
        "train800": 800, "val200": 200, "train800val200": 1000, "test": 7,
    }  # fmt: skip
    assert set(parts) == set(vtab.SPLITS)
    train, validation = rows_of(parts["train800"]), rows_of(parts["val200"])
    assert not set(train) & set(validation)
    assert train + validation == rows_of(parts["train800val200"])
    assert train != sorted(train)  # drawn, not the first
    for rows in parts.values():
        assert rows.column_names == ["image", "label"] and rows.features["label"].num_classes == 3
        assert list(rows["label"]) == [row % 3 for row in rows_of(rows)]


def test_the_seed_draws_the_rows(tmp_path, copy):
    root = copy()
    first, again, other = (rows_of(load_task("try", seed, root)["val200"]) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"test": 8}, "1,100 training and 8 test rows; VTAB-1k has 1,000 of the former and officially 7"),
        ({"train": 999}, "999 training and 7 test rows"),
        ({"label": lambda row: row % 4}, r"the copy of 'try' has labels \[3\], expected 0 ... 2"),
    ],
)
def test_a_copy_that_is_not_the_official_one_is_refused(copy, wrong, message):
    with pytest.raises(RecipeError, match=message):
        load_task("try", 0, copy(**wrong))


def test_finer_classes_are_put_together_as_vtab_does(copy):
    """Its rule: the whole part of label / (finer classes / classes)."""
    parts = load_task("try", seed=0, root=copy(classes=16, label=lambda row: row % 40, finer=40))
    rows = parts["train800"]
    assert list(rows["label"]) == [int((row % 40) // 2.5) for row in rows_of(rows)]
    assert set(rows["label"]) == set(range(16))


def test_a_copy_that_cannot_be_had(tmp_path):
    with pytest.raises(RecipeError, match="(?s)'dtd' cannot be loaded from .*name it instead: data.vtab=null"):
        load_task("dtd", 0, str(tmp_path / "nowhere"))


def test_tables_instead_of_tar_files(monkeypatch):
    def load(name, **options):
        assert name == "dpdl-benchmark/sun397" and options == {"revision": TASKS["sun397"].revision}
        rows = {"image": [Image.new("RGB", (2, 2))] * 4, "label": [0, 1, 2, 396]}
        return DatasetDict({split: Dataset.from_dict(rows) for split in ("train", "test")})

    monkeypatch.setattr("datasets.load_dataset", load)
    with pytest.raises(RecipeError, match="4 training and 4 test rows; .* officially 21,750"):
        load_task("sun397", 0)


def test_a_recipe_takes_its_splits(copy, monkeypatch):
    from subtuning_hf.cli import recipe_rows
    from subtuning_hf.cli.recipe import DataSection

    root = copy()
    monkeypatch.setattr(recipe_rows, "load_task", lambda name, seed: load_task(name, seed, root))
    rows = recipe_rows.load_rows(DataSection(vtab="try", train_split="train800", validation_split="val200"))
    assert (len(rows.train), len(rows.validation), len(rows.test)) == (800, 200, 7)
    assert rows.names == ["0", "1", "2"]
