"""What is public says what it is: every name of a folder's `__all__`, its methods, and the arguments of both."""

import importlib
import inspect
import pkgutil
import re

import pytest

import subtuning_hf

_BELOW = pkgutil.iter_modules(subtuning_hf.__path__)
FOLDERS = ["subtuning_hf", *(f"subtuning_hf.{one.name}" for one in _BELOW if one.ispkg)]
# Arguments that are somebody else's: of Trainer's arguments, of PEFT's configurations, of enums.
INHERITED = {"GreedySubTuningArguments", "SubTuningConfig", "SubTuningType"}
# Not said yet: its `settings`.
LATER = {("subtuning_hf.proposal", "Problem")}


def public():
    """`list[tuple[str, str, Any]]`: folder, name and what it is; each once."""
    found = {}
    for folder in FOLDERS:
        module = importlib.import_module(folder)
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            if (inspect.isclass(thing) or inspect.isfunction(thing)) and thing.__module__.startswith("subtuning_hf"):
                found.setdefault(id(thing), (folder, name, thing))
    return list(found.values())


def methods_of(kind):
    """Public functions, class methods and properties that a class brings itself, none that it takes over."""
    for name, value in vars(kind).items():
        value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        strangers = [parent for parent in kind.__mro__[1:] if not parent.__module__.startswith("subtuning_hf")]
        taken = any(name in vars(parent) for parent in strangers)
        if inspect.isfunction(value) and not name.startswith("_") and not taken:
            yield name, value


def unsaid(thing, text):
    names = set(inspect.signature(thing).parameters) - {"self", "cls", "args", "kwargs"}
    return sorted(name for name in names if not name.startswith("_") and not re.search(rf"\b{name}\b", text))


PUBLIC = public()


def test_there_are_names():
    assert len(PUBLIC) > 100 and {"find_blocks", "MultiTaskModel"} <= {name for _, name, _ in PUBLIC}


@pytest.mark.parametrize(("folder", "name", "thing"), PUBLIC, ids=[f"{folder}.{name}" for folder, name, _ in PUBLIC])
def test_public_names_are_explained(folder, name, thing):
    text = thing.__doc__ or ""
    assert text.strip() and not text.startswith(f"{name}(")  # which is what dataclasses write by themselves
    if inspect.isclass(thing):
        bare = [method for method, value in methods_of(thing) if not inspect.getdoc(value)]
        assert not bare, f"{folder}.{name} has methods without a word: {bare}"
    if name not in INHERITED and (folder, name) not in LATER:
        assert not unsaid(thing, text), f"{folder}.{name} does not say what these are: {unsaid(thing, text)}"
