"""
Recipes: what to train on what, as a strict YAML file.

A key nothing knows, a value of the wrong type, a key given twice or a missing file is an error before anything is
loaded. Knows the sections and their types; does not know how they are carried out.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import RecipeError
from .strict import build, check_choice, did_you_mean, override, parse
from .vtab import SPLITS, TASKS

AUGMENTATIONS = ("none", "flip", "shift", "shift_flip", "crop", "crop_flip")


@dataclass(frozen=True)
class AboutSection:
    """
    What a reader must know of a recipe before running it. Every recipe that ships has one.

    Args:
        hardware (`str`): What it is meant for.
        command (`str`): How it is run.
        source (`str`): Where its settings come from, and where it differs.
        expected (`str`): What comes out, with mean and spread; or that nobody has measured it.
        measured (`bool`): Whether `expected` was measured by this project with this recipe.
        note (`str`, *optional*): What else there is to know.
    """

    hardware: str
    command: str
    source: str
    expected: str
    measured: bool
    note: str | None = None


@dataclass(frozen=True)
class ModelSection:
    """
    The pretrained model.

    Args:
        name (`str`): Name on the Hub (`timm/...` for models of timm), or a local folder.
        revision (`str`, *optional*): Branch, tag or commit.
        kwargs (`dict`, *optional*): Further arguments of `from_pretrained`. The number of labels comes from the data.
    """

    name: str
    revision: str | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DataSection:
    """
    A labelled data set, as `datasets.load_dataset` finds it. Give one of `name`, `path` and `vtab`.

    Args:
        name (`str`, *optional*): Name on the Hub.
        path (`str`, *optional*):
            Local folder (images in one folder per class, CSV, JSON or parquet files, or a saved data set) or a single
            such file. It must exist; relative to the current directory.
        vtab (`str`, *optional*): A task of VTAB-1k; see `vtab`.
        revision (`str`, *optional*): Branch, tag or commit of the data set on the Hub; not used for a folder.
        config (`str`, *optional*): Configuration of the data set.
        train_split (`str`, *optional*, defaults to `"train"`): Rows the search and the training see.
        validation_split (`str`, *optional*): Rows to choose blocks by, instead of folds of the training rows.
        test_split (`str`, *optional*, defaults to `"test"`): Rows that are scored once, at the end.
        test_fraction (`float`, *optional*): Where there is no test split: the share of the training rows to make one.
        image_column (`str`, *optional*), text_column (`str`, *optional*):
            The input: exactly one of them. Images may also be given as paths of files.
        label_column (`str`, *optional*, defaults to `"label"`): The class, as an index or a name.
        max_train_rows (`int`, *optional*), max_test_rows (`int`, *optional*): A random part of a split.
        seed (`int`, *optional*, defaults to 0): Seed of these parts.
    """

    name: str | None = None
    path: str | None = None
    vtab: str | None = None
    revision: str | None = None
    config: str | None = None
    train_split: str = "train"
    validation_split: str | None = None
    test_split: str = "test"
    test_fraction: float | None = None
    image_column: str | None = None
    text_column: str | None = None
    label_column: str = "label"
    max_train_rows: int | None = None
    max_test_rows: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _exactly_one("data", name=self.name, path=self.path, vtab=self.vtab)
        if self.vtab is not None:
            self._check_vtab()
        _exactly_one("data", image_column=self.image_column, text_column=self.text_column)
        if self.path is not None and not Path(self.path).expanduser().exists():
            raise RecipeError(f"data.path: there is no '{self.path}' (looked in {Path.cwd()}).")
        for key in ("max_train_rows", "max_test_rows"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise RecipeError(f"data.{key} must be at least 1, found {value}.")
        if self.test_fraction is not None and not 0 < self.test_fraction < 1:
            raise RecipeError(f"data.test_fraction must lie between 0 and 1, found {self.test_fraction}.")
        if self.seed < 0:
            raise RecipeError(f"data.seed must be 0 or more, found {self.seed}.")
        splits = [s for s in (self.train_split, self.validation_split, self.test_split) if s is not None]
        if len(set(splits)) < len(splits):
            raise RecipeError(
                f"data: one split serves twice ({', '.join(splits)}): rows that are scored must not be trained on. "
                "Name different splits, or cut one with test_fraction."
            )

    def _check_vtab(self) -> None:
        check_choice(self.vtab, TASKS, "data.vtab")
        for key in ("train_split", "validation_split", "test_split"):
            if getattr(self, key) is not None:
                check_choice(getattr(self, key), SPLITS, f"data.{key}")
        given = [k for k in ("text_column", "config", "revision", "test_fraction") if getattr(self, k) is not None]
        if given:
            raise RecipeError(f"data.{given[0]}: VTAB tasks have none. Leave it out, or name data of your own.")
        if self.validation_split is not None and self.train_split == "train800val200":
            raise RecipeError(
                "data.validation_split: train800val200 holds val200, so the rows that choose would be trained on. "
                "Use train_split: train800."
            )
        object.__setattr__(self, "image_column", self.image_column or "image")


@dataclass(frozen=True)
class PreprocessingSection:
    """
    How a row becomes the model's input.

    Args:
        processor (`str`, *optional*): Image processor or tokenizer; by default the model's own, with its revision.
        image_size (`int`, *optional*): Side in pixels, instead of the processor's.
        max_length (`int`, *optional*): Longest text in tokens; by default the tokenizer's. Batches are padded to their
            own longest text.
        augmentation (`str`, *optional*, defaults to `"none"`):
            For training rows only, never for rows that are scored. `"flip"`: left-right, for half of the images.
            `"shift"`: by up to an eighth of the image, continued by its reflection. `"crop"`: a random 35 to 100 % of
            the area at 3:4 to 4:3 of the image's own shape. `"shift_flip"`, `"crop_flip"`: both.
    """

    processor: str | None = None
    image_size: int | None = None
    max_length: int | None = None
    augmentation: str = "none"

    def __post_init__(self) -> None:
        check_choice(self.augmentation, AUGMENTATIONS, "preprocessing.augmentation")
        for key in ("image_size", "max_length"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise RecipeError(f"preprocessing.{key} must be at least 1, found {value}.")


@dataclass(frozen=True)
class ProfileSection:
    """
    What `subtuning profile` scores.

    Args:
        window (`int`, *optional*, defaults to 1): Consecutive blocks trained together.
        pairs (`bool`, *optional*, defaults to `False`): All pairs of blocks instead.
        repeats (`int`, *optional*, defaults to 1): Trainings of each candidate on each fold, with different seeds.
    """

    window: int = 1
    pairs: bool = False
    repeats: int = 1

    def __post_init__(self) -> None:
        for key in ("window", "repeats"):
            if getattr(self, key) < 1:
                raise RecipeError(f"profile.{key} must be at least 1, found {getattr(self, key)}.")
        if self.pairs and self.window != 1:
            raise RecipeError(f"profile: pairs and window={self.window} ask for different candidates. Give one.")


@dataclass(frozen=True)
class TrainSection:
    """
    The final training.

    Args:
        blocks (`list[str | int]`, *optional*):
            Names, indices or patterns, for `subtuning train`; by default what the search chose. `[]`: the head alone.
        repeats (`int`, *optional*, defaults to 1):
            Final trainings with one seed after another, each scored on the test rows. The first is the adapter.
    """

    blocks: list[str | int] | None = None
    repeats: int = 1

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise RecipeError(f"train.repeats must be at least 1, found {self.repeats}.")


@dataclass(frozen=True)
class CompareSection:
    """
    What `subtuning compare` compares. Rows, folds, epochs and metric are those of the recipe.

    Args:
        methods (`list[str]`, *optional*): Names as `subtuning compare --help` lists them; the core ones by default.
        trials (`int`, *optional*, defaults to 4): Trials of hyperparameters of each method, spread alike.
        refinements (`int`, *optional*, defaults to 2): Further trials of each, beside its best so far or beyond an
            edge.
        tuning_folds (`int`, *optional*, defaults to 1): Folds that score a trial, out of `args.num_folds`.
        seeds (`int`, *optional*, defaults to 5): Final trainings of each method.
    """

    methods: list[str] | None = None
    trials: int = 4
    refinements: int = 2
    tuning_folds: int = 1
    seeds: int = 5

    def __post_init__(self) -> None:
        for key in ("trials", "tuning_folds", "seeds"):
            if getattr(self, key) < 1:
                raise RecipeError(f"compare.{key} must be at least 1, found {getattr(self, key)}.")
        if self.refinements < 0:
            raise RecipeError(f"compare.refinements must be at least 0, found {self.refinements}.")


@dataclass(frozen=True)
class Recipe:
    """
    A whole recipe.

    Args:
        model ([`ModelSection`]), data ([`DataSection`]), preprocessing ([`PreprocessingSection`]): Its sections.
        profile ([`ProfileSection`], *optional*), train ([`TrainSection`], *optional*), compare ([`CompareSection`],
            *optional*): What commands of that name do.
        metric (`str`, *optional*, defaults to `"accuracy"`): A metric this package has, or one of `evaluate`.
        args (`dict`, *optional*): Fields of [`GreedySubTuningArguments`].
        about ([`AboutSection`], *optional*): For people.
    """

    model: ModelSection
    data: DataSection
    preprocessing: PreprocessingSection = field(default_factory=PreprocessingSection)
    profile: ProfileSection = field(default_factory=ProfileSection)
    train: TrainSection = field(default_factory=TrainSection)
    compare: CompareSection = field(default_factory=CompareSection)
    metric: str = "accuracy"
    args: dict[str, Any] = field(default_factory=dict)
    about: AboutSection | None = None


def load_recipe(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """
    Read a recipe.

    Args:
        path (`str` or `Path`): The YAML file.
        overrides (`Sequence[str]`, *optional*):
            `section.key=value`, read as YAML; a key without a section belongs to `args`.

    Returns: [`Recipe`]
    Raises: [`RecipeError`]: If the file is missing or anything in it is not what it should be.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        near = did_you_mean(str(path), map(str, _recipes_near(file)))
        raise RecipeError(f"There is no recipe '{path}' (looked in {Path.cwd()}).{near}")
    content = parse(file.read_text(encoding="utf-8"), str(path))
    if not isinstance(content, dict):
        names = ", ".join(f.name for f in dataclasses.fields(Recipe))
        raise RecipeError(f"'{path}' must hold the sections {names}, found {content!r:.80}.")
    try:
        for text in overrides:
            override(content, text, ("metric",))
        return build(Recipe, content, "")
    except RecipeError as error:
        error.add_note(f"(in {path})")
        raise


def _recipes_near(file: Path) -> list[Path]:
    """Recipes in the folder that was named, or in its parent's folders."""
    for folder in (file.parent, file.parent.parent):
        if folder.is_dir() and folder != Path("."):
            return sorted(folder.glob("*.yaml")) + sorted(folder.glob("*/*.yaml"))
    return []


def _exactly_one(section: str, **values: Any) -> None:
    given = [name for name, value in values.items() if value is not None]
    if len(given) != 1:
        two = len(values) == 2
        found = ("both" if two else " and ".join(given)) if given else ("neither" if two else "none")
        *first, last = values
        raise RecipeError(f"{section}: give exactly one of {', '.join(first)} and {last}, found {found}.")
