"""The server is a recipe, not part of the package: its folder is put on the path as running its script does."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "serve"))


def made(folder, model, tasks):
    """A base, adapters and inputs of a kind, with the answers of each adapter alone."""
    from loadtest.problem import MODELS, make_adapters, make_base, make_problem

    base = make_base(folder / "base", model)
    adapters = make_adapters(folder / "adapters", base, tasks)
    return make_problem(str(folder / "base"), adapters, MODELS[model][0], 12, 1e-4)


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """Four tasks for texts."""
    return made(tmp_path_factory.mktemp("texts"), "tiny-text", 4)


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Three tasks for images."""
    return made(tmp_path_factory.mktemp("images"), "tiny-image", 3)


@pytest.fixture(scope="module")
def trunk(texts):
    """All tasks for texts; whoever changes them takes `own_trunk`."""
    from serving.trunk import Trunk

    return Trunk.load(texts.base, texts.adapters, "cpu")


@pytest.fixture
def own_trunk(texts):
    """All tasks for texts, for one test alone."""
    from serving.trunk import Trunk

    return Trunk.load(texts.base, texts.adapters, "cpu")
