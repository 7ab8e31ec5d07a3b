"""A folder with data and recipes, and a Hub with what the pages name."""

import pytest

from docs import world
from hub.conftest import hub  # noqa: F401


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """Tiny models and adapters, saved once."""
    folder = tmp_path_factory.mktemp("built")
    return folder, world.build(folder)


@pytest.fixture
def reader(built, hub, tmp_path, monkeypatch):  # noqa: F811
    """Where a reader sits who tries the examples: in a folder with data, logged in."""
    world.publish(hub, *built)
    folder = tmp_path / "reader"
    folder.mkdir()
    world.furnish(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_TOKEN", "hf_owner")
    return folder
