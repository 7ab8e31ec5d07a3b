"""
Whose adapter it is, and what that decides: its name and revision, its base, its processor.

An adapter may be anybody's. It may name a base on the Hub and bring its labels, sizes and a processor; it may not
decide what code runs, which folder of this machine is read, or how much memory an image takes. Knows files beside an
adapter; loads nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import AdapterFileError, RecipeError
from .recipe_inputs import FILE_NAME, InputSettings

DTYPES = ("auto", "bfloat16", "float16", "float32", "float64")
LARGEST_SIDE = 4096
_PROCESSORS = {True: ("tokenizer_config.json",), False: ("preprocessor_config.json", "processor_config.json")}


@dataclass(frozen=True)
class Origin:
    """
    Where an adapter comes from.

    Args:
        name (`str`): Folder or Hub name.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
    """

    name: str
    revision: str | None = None

    @classmethod
    def of(cls, word: str, revision: str | None = None) -> Origin:
        """
        Read what a user wrote: a folder, or a Hub name, or one with `@revision`.

        Raises: [`RecipeError`]: If there are two revisions, or a folder with one.
        """
        name, mark, said = word.partition("@")
        if not mark or Path(word).exists():
            name, said = word, ""
        if mark and name != word and not (name and said):
            raise RecipeError(f"'{word}' is no folder, and no adapter with its revision. Write user/adapter@revision.")
        if said and revision is not None and said != revision:
            raise RecipeError(f"'{word}' names the revision '{said}', and --revision '{revision}'. Give one of them.")
        found = cls(name, said or revision)
        if found.revision is not None and found.is_folder:
            raise RecipeError(f"'{name}' is a folder, which has no revisions. Leave '{found.revision}' out.")
        return found

    @property
    def is_folder(self) -> bool:
        """`bool`: whether it lies on this machine."""
        return Path(self.name).is_dir()

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"

    def beside(self, name: str) -> Path | None:
        """A file that lies beside the adapter, here or on the Hub; `None` where there is none."""
        if self.is_folder:
            from ..tuner.intake import file_in

            return file_in(Path(self.name), name)
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        try:
            return Path(hf_hub_download(self.name, name, revision=self.revision))
        except (EntryNotFoundError, LocalEntryNotFoundError):
            return None


def input_settings(adapter: Origin | str) -> InputSettings | None:
    """
    What lies beside the adapter of how its inputs were made; `None` for adapters that were saved without.

    Args:
        adapter ([`Origin`] or `str`): Folder or Hub name.

    Raises: [`AdapterFileError`]: If it says something else.
    """
    from ..tuner.intake import read_object

    origin = adapter if isinstance(adapter, Origin) else Origin.of(adapter)
    file = origin.beside(FILE_NAME)
    if file is None:
        return None
    read_object(file)
    settings = InputSettings.load(file)
    for name in ("image_size", "max_length"):
        value, most = getattr(settings, name), LARGEST_SIDE if name == "image_size" else 2**31 - 1
        if value is not None and (type(value) is not int or not 1 <= value <= most):
            found = f"{value!r:.80}"
            raise AdapterFileError(f"'{file}': `{name}` must be a whole number from 1 to {most:,}, found {found}.")
    for name in ("revision", "processor"):
        value = getattr(settings, name)
        if not (value is None or isinstance(value, str)):
            raise AdapterFileError(f"'{file}': `{name}` must be a name, found {value!r:.80}.")
    if type(settings.text) is not bool or settings.dtype not in (None, *DTYPES):
        raise AdapterFileError(
            f"'{file}' must say whether inputs are texts with true or false and give one of {', '.join(DTYPES)} as "
            f"`dtype`, found {settings.text!r:.80} and {settings.dtype!r:.80}."
        )
    if settings.processor is not None:
        _check_named(origin, settings.processor, "processor", "Save a processor beside the adapter.")
    return settings


def has_processor(origin: Origin, text: bool) -> bool:
    """
    Whether a processor was saved with the adapter.

    Raises: [`AdapterFileError`]: If it would need code of its own.
    """
    from ..tuner.intake import read_object

    found = [file for file in map(origin.beside, _PROCESSORS[text]) if file is not None]
    for file in found:
        said = read_object(file)
        parts = [said, *(part for part in said.values() if isinstance(part, dict))]
        if any("auto_map" in part for part in parts):
            raise AdapterFileError(
                f"'{file}' asks for code of its own (`auto_map`), and no code of an adapter is run. Load its processor "
                "yourself with transformers if you trust it."
            )
    return bool(found)


def check_processor(origin: Origin, processor: Any) -> None:
    """
    Refuse sizes at which a single image would fill the memory.

    Raises: [`AdapterFileError`]
    """
    for name in ("size", "crop_size"):
        value = getattr(processor, name, None)
        sides = dict(value).values() if value is not None and not isinstance(value, int) else [value]
        wide = [side for side in sides if isinstance(side, int) and side > LARGEST_SIDE]
        if wide:
            raise AdapterFileError(
                f"The processor of '{origin}' makes images of {wide[0]:,} pixels a side, {LARGEST_SIDE:,} are allowed."
            )


def check_base(origin: Origin, name: str) -> None:
    """
    Refuse a base that an adapter may not name: a folder of this machine, if the adapter is not from here; itself.

    Raises: [`AdapterFileError`]
    """
    _check_named(origin, name, "base model", "Name yours with --base.")
    if not origin.is_folder:
        if name.lower() == origin.name.lower():
            raise AdapterFileError(f"The adapter '{origin}' names itself as its base model. Name the base with --base.")
        return
    folder, base = Path(origin.name).resolve(), Path(name).expanduser()
    if base.exists() and base.resolve().is_relative_to(folder):
        raise AdapterFileError(
            f"The adapter '{origin}' names its own folder '{name}' as its base model. If that is a model you trust, "
            "name it with --base."
        )


def _check_named(origin: Origin, name: str, what: str, way_out: str) -> None:
    from ..hub import hub_name

    if not origin.is_folder and hub_name(name) is None:
        raise AdapterFileError(
            f"The adapter '{origin}' names '{name[:200]}' as its {what}, which is no name on the Hub but a folder, "
            f"here or where it was saved. {way_out}"
        )
