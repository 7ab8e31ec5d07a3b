"""Recipes are read strictly, and every recipe of the repository is one."""

import os
import re
from pathlib import Path

import pytest

from subtuning_hf.cli.recipe import AUGMENTATIONS, Recipe, check, check_arguments, load_recipe
from subtuning_hf.errors import RecipeError

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))
GOOD = """
model: {name: some/model}
data: {name: some/data, image_column: image, max_train_rows: 10}
args: {output_dir: out, learning_rate: 1e-3, num_folds: 3}
"""


@pytest.fixture
def write(tmp_path):
    def write_recipe(text):
        file = tmp_path / "search.yaml"
        file.write_text(text)
        return file

    return write_recipe


def test_there_are_recipes():
    assert len(RECIPES) >= 2


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.parent.name)
def test_every_recipe_is_read(file, tmp_path, monkeypatch):
    from subtuning_hf import GreedySubTuningArguments

    monkeypatch.chdir(tmp_path)
    wanted = re.findall(r"^  path: (\S+)$", file.read_text(), flags=re.M)
    for folder in wanted:  # data that the reader of a recipe brings
        os.mkdir(folder)
    recipe = load_recipe(file)
    values = check_arguments(recipe.args, GreedySubTuningArguments)
    arguments = GreedySubTuningArguments(**{**values, "use_cpu": True})
    assert arguments.num_folds == recipe.args["num_folds"]
    assert not (tmp_path / "out").exists()


def test_recipes_write_to_different_folders():
    outputs = [re.search(r"output_dir: (\S+)", file.read_text()).group(1) for file in RECIPES]
    assert len(set(outputs)) == len(outputs)


def test_a_good_recipe(write):
    recipe = load_recipe(write(GOOD))
    assert isinstance(recipe, Recipe)
    assert recipe.model.name == "some/model" and recipe.data.max_train_rows == 10
    assert recipe.metric == "accuracy" and recipe.preprocessing.augmentation == "none"


def test_overrides(write):
    recipe = load_recipe(write(GOOD), ["num_folds=5", "data.max_train_rows=20", "metric=macro_f1", "args.seed=3"])
    assert recipe.args["num_folds"] == 5 and recipe.args["seed"] == 3
    assert recipe.data.max_train_rows == 20 and recipe.metric == "macro_f1"


def test_an_override_can_name_local_data(write, tmp_path):
    recipe = load_recipe(write(GOOD), ["data.name=null", f"data.path={tmp_path}"])
    assert recipe.data.path == str(tmp_path) and recipe.data.name is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("max_train_rows", "max_trian_rows"), "data.max_trian_rows: unknown key. Did you mean 'max_train_rows'?"),
        (("model:", "modle:"), "modle: unknown key. Did you mean 'model'?"),
        (("args:", "arguments:"), "arguments: unknown key."),
        (("name: some/model", "nam: x"), "model.nam: unknown key. Did you mean 'name'?"),
        (("model: {name: some/model}", "model: {}"), "model.name is missing."),
        (("model: {name: some/model}", ""), "model is missing."),
        (("model: {name: some/model}", "model: some/model"), "model must be a section with keys, found 'some/model'"),
        (("max_train_rows: 10", "max_train_rows: ten"), "data.max_train_rows must be int or null, found 'ten' (str)."),
        (("max_train_rows: 10", "max_train_rows: 0"), "data.max_train_rows must be at least 1, found 0."),
        (("max_train_rows: 10", "max_train_rows: true"), "must be int or null, found True (bool)"),
        (("name: some/model", "name: 7"), "model.name must be str, found 7 (int)."),
        (("name: some/data", "path: nowhere/at/all"), "data.path: there is no 'nowhere/at/all'"),
        (("name: some/data, ", ""), "data: give exactly one of name and path, found neither."),
        (("image_column: image", "image_column: a, text_column: b"), "found both."),
        (("args:", "preprocessing: {augmentation: flipp}\nargs:"), "Did you mean 'flip'?"),
        (("args:", "metric: [accuracy]\nargs:"), "metric must be str, found ['accuracy'] (list)."),
        (("num_folds: 3", "num_folds: 3, num_folds: 4"), "line 4: 'num_folds' is given twice."),
        (("args: {", "args: {{"), "is not YAML"),
        ((GOOD, "- a list"), "must hold the sections model, data, preprocessing, metric, args"),
        ((GOOD, ""), "must hold the sections"),
    ],
)
def test_bad_recipes(write, change, message):
    text = GOOD.replace(*change)
    assert text != GOOD
    with pytest.raises(RecipeError) as error:
        load_recipe(write(text))
    assert message in str(error.value)


@pytest.mark.parametrize("override", ["num_folds", "=3", "model.name.first=3"])
def test_bad_overrides(write, override):
    with pytest.raises(RecipeError):
        load_recipe(write(GOOD), [override])


def test_missing_recipe(tmp_path):
    with pytest.raises(RecipeError, match="There is no recipe"):
        load_recipe(tmp_path / "none.yaml")


def test_arguments_are_those_of_the_class(write):
    from subtuning_hf import GreedySubTuningArguments

    read = check_arguments({"learning_rate": "1e-3", "num_folds": 3, "report_to": "none"}, GreedySubTuningArguments)
    assert read == {"learning_rate": 0.001, "num_folds": 3, "report_to": "none"}
    with pytest.raises(RecipeError, match="no such field. Did you mean 'num_folds'"):
        check_arguments({"num_fold": 3}, GreedySubTuningArguments)
    with pytest.raises(RecipeError, match="args.num_folds must be int"):
        check_arguments({"num_folds": "three"}, GreedySubTuningArguments)


def test_numbers_without_a_point():
    assert check("1e-3", float, "x") == 0.001
    assert check(1, float, "x") == 1.0
    assert check(0.01, float | None, "x") == 0.01
    assert check("1e-3", str, "x") == "1e-3"
    with pytest.raises(RecipeError):
        check(True, float, "x")


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations_keep_size_and_follow_the_seed(name):
    import numpy as np
    import torch
    from PIL import Image

    from subtuning_hf.cli.recipe_data import augment

    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)

    def draw(seed):
        torch.manual_seed(seed)
        return np.asarray(augment(image, name))

    drawn = [draw(seed) for seed in range(20)]
    assert all(one.shape == pixels.shape for one in drawn)
    assert np.array_equal(drawn[3], draw(3))
    distinct = {one.tobytes() for one in drawn}
    assert len(distinct) == 1 if name == "none" else len(distinct) > 1
    if name == "flip":
        assert distinct == {pixels.tobytes(), pixels[:, ::-1].tobytes()}
    if name == "shift":  # reflected: no pixel that the image does not have
        assert all(set(map(tuple, one.reshape(-1, 3))) <= set(map(tuple, pixels.reshape(-1, 3))) for one in drawn)
