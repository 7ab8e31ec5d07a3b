"""Recipes are read strictly, and every recipe of the repository is one that says what it is."""

import re
from pathlib import Path

import pytest
import yaml

from subtuning_hf.cli.recipe import AUGMENTATIONS, Recipe, load_recipe
from subtuning_hf.cli.strict import RANGES, check, check_arguments
from subtuning_hf.cli.vtab import TASKS
from subtuning_hf.errors import RecipeError, SubTuningError

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").rglob("*.y*ml"))
# What each must hold of the original's settings, and which of its scripts says so: epochs, learning rate, weight decay.
ORIGINAL = {
    "vit-b16_cifar100/search.yaml": (10, 1e-4, 5e-5),
    "vit-b16_cifar100/profile.yaml": (10, 1e-4, 5e-5),
    "resnet50_vtab-cifar100/profile.yaml": (20, 1e-3, 1e-2),
    "resnet50_cifar10/profile.yaml": (10, 1e-3, 1e-2),
    "resnet50_vtab-flowers102/search.yaml": (20, 1e-3, 1e-2),
    "resnet50_vtab-caltech101/search.yaml": (20, 1e-3, 1e-2),
    "resnet50_vtab-dmlab/search.yaml": (20, 1e-3, 1e-2),
    "resnet50_stanford-cars/search.yaml": (40, 1e-4, 5e-5),
    "resnet50_inaturalist-mini/search.yaml": (40, 1e-4, 5e-5),
}
GOOD = """
model: {name: some/model}
data: {name: some/data, image_column: image, max_train_rows: 10}
args: {output_dir: out, learning_rate: 1e-3, num_folds: 3}
"""


def name_of(file):
    return "/".join(file.relative_to(ROOT / "recipes").parts)


def read(file, monkeypatch, tmp_path):
    """A shipped recipe, beside the data that its reader brings."""
    monkeypatch.chdir(tmp_path)
    for place in re.findall(r"^  path: (\S+)$", file.read_text(), flags=re.M):
        Path(place).touch()
    return load_recipe(file)


@pytest.fixture
def write(tmp_path):
    def write_recipe(text):
        file = tmp_path / "search.yaml"
        file.write_text(text)
        return file

    return write_recipe


# --- those that ship ------------------------------------------------------------------------
def test_there_are_recipes():
    server = ROOT / "recipes" / "serve"
    everything = [file for file in (ROOT / "recipes").rglob("*") if file.is_file() and server not in file.parents]
    assert len(RECIPES) == 19 and everything == [file for file in everything if file in RECIPES]
    assert {file.stem for file in RECIPES} == {"search", "profile"}


@pytest.mark.parametrize("file", RECIPES, ids=name_of)
def test_every_recipe_is_read_with_its_arguments(file, tmp_path, monkeypatch):
    from subtuning_hf.cli.session import build_arguments

    recipe = read(file, monkeypatch, tmp_path)
    arguments = build_arguments(load_recipe(file, ["use_cpu=true"]))
    assert arguments.num_train_epochs == float(recipe.args["num_train_epochs"])
    assert arguments.learning_rate == float(recipe.args["learning_rate"])
    assert arguments.num_folds == recipe.args.get("num_folds", 5)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", RECIPES, ids=name_of)
def test_every_recipe_says_what_it_is(file, tmp_path, monkeypatch):
    recipe = read(file, monkeypatch, tmp_path)
    about = recipe.about
    assert about is not None, "a recipe that ships needs a section `about`"
    assert about.command == f"subtuning {file.stem} --config recipes/{name_of(file)}"
    assert all(len(text) > 10 for text in (about.hardware, about.source, about.expected))
    if not about.measured:
        # No number may look like a result.
        assert about.expected == "not measured; no number is claimed"
    assert recipe.model.revision, "name the revision of the model"
    assert recipe.data.revision or recipe.data.path or recipe.data.vtab, "name the revision of the data"
    if recipe.data.vtab:
        assert f"{TASKS[recipe.data.vtab].test_rows:,}" in about.note and "ours" in about.note


@pytest.mark.parametrize("name", ORIGINAL)
def test_settings_of_the_original(name, tmp_path, monkeypatch):
    recipe = read(ROOT / "recipes" / name, monkeypatch, tmp_path)
    epochs, rate, decay = ORIGINAL[name]
    args = recipe.args
    assert (args["num_train_epochs"], float(args["learning_rate"]), float(args["weight_decay"])) == (
        epochs,
        rate,
        decay,
    )
    assert args["optim"] == "adamw_torch" and args["lr_scheduler_type"] == "cosine"
    assert args["per_device_train_batch_size"] == 256
    assert args["fp16"] is (name != "vit-b16_cifar100/profile.yaml")  # that script is in fp32
    assert recipe.preprocessing.image_size in (None, 224)  # 224 is the processors' own
    assert "original" in recipe.about.source
    if name.endswith("search.yaml"):
        assert args["min_gain"] == 0.01
        assert args.get("direction", "forward") == ("backward" if name.startswith("vit") else "forward")


def test_the_original_is_named_only_where_its_settings_are_checked():
    named = {name_of(file) for file in RECIPES if "original's" in file.read_text()}
    assert named == set(ORIGINAL)
    assert (
        "16 blocks x 5 repeats"
        in yaml.safe_load((ROOT / "recipes/resnet50_vtab-cifar100/profile.yaml").read_text())["about"]["source"]
    )


def test_recipes_write_to_different_folders():
    outputs = [yaml.safe_load(file.read_text())["args"]["output_dir"] for file in RECIPES]
    assert len(set(outputs)) == len(outputs)


def test_numbers_of_trainings_are_right():
    """What notes say of costs is arithmetic, which is checked."""
    seen = 0
    for file in RECIPES:
        note = " ".join(yaml.safe_load(file.read_text())["about"]["note"].split())
        for folds, inside, total in re.findall(r"(\d+) x \(([\d +]+)\) = (\d+) trainings", note):
            seen += 1
            assert int(folds) * sum(map(int, inside.split(" + "))) == int(total), file
            args = yaml.safe_load(file.read_text())["args"]
            assert int(folds) == args["num_folds"] and len(inside.split(" + ")) == args["max_blocks"] + 1, file
    assert seen >= 10


# --- reading --------------------------------------------------------------------------------
def test_a_good_recipe(write):
    recipe = load_recipe(write(GOOD))
    assert isinstance(recipe, Recipe)
    assert recipe.model.name == "some/model" and recipe.data.max_train_rows == 10
    assert recipe.metric == "accuracy" and recipe.preprocessing.augmentation == "none"
    assert recipe.profile.window == 1 and recipe.train.blocks is None and recipe.about is None


def test_overrides(write):
    recipe = load_recipe(write(GOOD), ["num_folds=5", "data.max_train_rows=20", "metric=macro_f1", "args.seed=3"])
    assert recipe.args["num_folds"] == 5 and recipe.args["seed"] == 3
    assert recipe.data.max_train_rows == 20 and recipe.metric == "macro_f1"
    recipe = load_recipe(write(GOOD), ["train.blocks=[3, 'a.*']", "profile.window=2", "model.kwargs.dtype=float32"])
    assert recipe.train.blocks == [3, "a.*"] and recipe.profile.window == 2
    assert recipe.model.kwargs == {"dtype": "float32"}


def test_an_override_can_name_local_data(write, tmp_path):
    recipe = load_recipe(write(GOOD), ["data.name=null", f"data.path={tmp_path}"])
    assert recipe.data.path == str(tmp_path) and recipe.data.name is None


VTAB = "data: {vtab: cifar100, train_split: train800}"


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
        (("max_train_rows: 10", "test_fraction: 1.5"), "data.test_fraction must lie between 0 and 1, found 1.5."),
        (("max_train_rows: 10", "seed: -1"), "data.seed must be 0 or more, found -1."),
        (("max_train_rows: 10", "test_split: train"), "one split serves twice (train, train)"),
        (("max_train_rows: 10", "validation_split: test"), "one split serves twice"),
        (("name: some/model", "name: 7"), "model.name must be str, found 7 (int)."),
        (("name: some/data", "path: nowhere/at/all"), "data.path: there is no 'nowhere/at/all'"),
        (("name: some/data, ", ""), "data: give exactly one of name, path and vtab, found none."),
        (("name: some/data", "name: some/data, vtab: dtd, train_split: train800"), "found name and vtab."),
        (("image_column: image", "image_column: a, text_column: b"), "found both."),
        (("image_column: image, ", ""), "data: give exactly one of image_column and text_column, found neither."),
        (("args:", "preprocessing: {augmentation: flipp}\nargs:"), "Did you mean 'flip'?"),
        (("args:", "preprocessing: {image_size: 0}\nargs:"), "preprocessing.image_size must be at least 1, found 0."),
        (("args:", "profile: {window: 0}\nargs:"), "profile.window must be at least 1, found 0."),
        (("args:", "profile: {window: 2, pairs: true}\nargs:"), "pairs and window=2 ask for different candidates"),
        (("args:", "profile: {pair: true}\nargs:"), "profile.pair: unknown key. Did you mean 'pairs'?"),
        (("args:", "train: {blocks: 3}\nargs:"), "train.blocks must be list of str or int or null, found 3 (int)."),
        (("args:", "train: {blocks: [1.5]}\nargs:"), "train.blocks[0] must be str or int, found 1.5 (float)."),
        (("args:", "train: {repeats: 0}\nargs:"), "train.repeats must be at least 1, found 0."),
        (("args:", "about: {hardware: a GPU}\nargs:"), "about.command is missing."),
        (("args:", "metric: [accuracy]\nargs:"), "metric must be str, found ['accuracy'] (list)."),
        (("num_folds: 3", "num_folds: 3, num_folds: 4"), "line 4: 'num_folds' is given twice."),
        (("args: {", "args: {{"), "is not YAML"),
        ((GOOD, "- a list"), "must hold the sections model, data, preprocessing, profile, train, compare"),
        ((GOOD, ""), "must hold the sections"),
        ((GOOD, GOOD.replace("data: {name: some/data", "data: {vtab: cifar10")), "data.vtab must be one of"),
        (
            (GOOD, "model: {name: a}\n" + VTAB.replace("800", "")),
            "must be one of train800, val200, train800val200, test",
        ),
        (
            (GOOD, "model: {name: a}\n" + VTAB.replace("}", ", text_column: t}")),
            "data.text_column: VTAB tasks have none.",
        ),
        (
            (GOOD, "model: {name: a}\n" + VTAB.replace("800}", "800val200, validation_split: val200}")),
            "train800val200 holds val200",
        ),
    ],
)
def test_bad_recipes(write, change, message):
    text = GOOD.replace(*change)
    assert text != GOOD
    with pytest.raises(RecipeError) as error:
        load_recipe(write(text))
    assert message in str(error.value)


def test_vtab_names_its_columns(write):
    data = load_recipe(write("model: {name: a}\n" + VTAB)).data
    assert (data.image_column, data.label_column, data.test_split) == ("image", "label", "test")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("num_folds", "An override has the form section.key=value"),
        ("=3", "An override has the form section.key=value"),
        ("model.name.first=3", "'name' is no section"),
        ("dta.path=x", "dta: unknown key. Did you mean 'data'?"),
        ("data.max_row=3", "data.max_row: unknown key. Did you mean 'max_test_rows'?"),
    ],
)
def test_bad_overrides(write, override, message):
    with pytest.raises(RecipeError) as error:
        load_recipe(write(GOOD), [override])
    assert message in str(error.value)
    assert "(in " in error.value.__notes__[0]


def test_missing_recipe(tmp_path):
    (tmp_path / "model_data").mkdir()
    (tmp_path / "model_data" / "search.yaml").write_text(GOOD)
    with pytest.raises(RecipeError, match="There is no recipe.*Did you mean '.*model_data/search.yaml'"):
        load_recipe(tmp_path / "model_data" / "serch.yaml")
    with pytest.raises(RecipeError, match="There is no recipe"):
        load_recipe("none.yaml")


# --- arguments ------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def arguments_class():
    from subtuning_hf import GreedySubTuningArguments

    return GreedySubTuningArguments


def test_arguments_are_those_of_the_class(arguments_class):
    read = check_arguments({"learning_rate": "1e-3", "num_folds": 3, "report_to": "none"}, arguments_class)
    assert read == {"learning_rate": 0.001, "num_folds": 3, "report_to": "none"}
    # YAML 1.1 reads a bare `no` as false.
    assert check_arguments({"save_strategy": False}, arguments_class) == {"save_strategy": "no"}
    rich = {"blocks": [0, "a.*"], "candidates": "pairs", "report_to": ["tensorboard"], "warmup_steps": 0.1}
    assert check_arguments(rich, arguments_class) == rich


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_fold": 3}, "no such field. Did you mean 'num_folds'"),
        ({"num_folds": "three"}, "args.num_folds must be int"),
        ({"num_folds": 2.5}, "args.num_folds must be int"),
        ({"fp16": "yes please"}, "args.fp16 must be bool"),
        ({"direction": "foward"}, "args.direction must be one of .*Did you mean 'forward'"),
        ({"granularity": "layer"}, "args.granularity must be one of .*, found 'layer'"),
        ({"pruner": "races"}, "Did you mean 'race'"),
        ({"lr_scheduler_type": "cosin"}, "args.lr_scheduler_type must be one of .*Did you mean 'cosine'"),
        ({"optim": "adam_torch"}, "Did you mean 'adamw_torch'"),
        ({"eval_strategy": "epochs"}, "Did you mean 'epoch'"),
        ({"learning_rate": "-1e-3"}, "args.learning_rate must be above 0, found -0.001"),
        ({"learning_rate": 0}, "args.learning_rate must be above 0"),
        ({"weight_decay": -0.1}, "args.weight_decay must be 0 or more"),
        ({"per_device_train_batch_size": 0}, "args.per_device_train_batch_size must be 1 or more, found 0"),
        ({"label_smoothing_factor": 1}, "must be from 0 to below 1"),
    ],
)
def test_bad_arguments(arguments_class, values, message):
    with pytest.raises(RecipeError, match=message):
        check_arguments(values, arguments_class)


@pytest.mark.parametrize("override", ["num_folds=1", "num_train_epochs=0", "min_gain=-1", "eval_strategy=steps"])
def test_what_the_arguments_themselves_refuse_is_one_message(write, override, tmp_path):
    from subtuning_hf.cli.session import build_arguments

    extra = ["load_best_model_at_end=true", "save_strategy=epoch"] if override.startswith("eval") else []
    recipe = load_recipe(write(GOOD), [f"output_dir={tmp_path}/out", "use_cpu=true", override, *extra])
    with pytest.raises(SubTuningError):
        build_arguments(recipe)


def test_ranges_are_of_fields_that_exist(arguments_class):
    import dataclasses

    defaults = {f.name: f.default for f in dataclasses.fields(arguments_class)}
    assert set(RANGES) <= set(defaults)
    assert all(holds(defaults[name]) for name, (_, holds) in RANGES.items())


def test_numbers_without_a_point():
    assert check("1e-3", float, "x") == 0.001
    assert check(1, float, "x") == 1.0
    assert check(0.01, float | None, "x") == 0.01
    assert check("1e-3", str, "x") == "1e-3"
    with pytest.raises(RecipeError):
        check(True, float, "x")


# --- augmentation ---------------------------------------------------------------------------
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations_keep_size_and_follow_the_seed(name):
    import numpy as np
    import torch
    from PIL import Image

    from subtuning_hf.cli.recipe_inputs import augment

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
    if name.startswith("crop"):
        assert len(distinct) == 20
