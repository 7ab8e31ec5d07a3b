"""A Hub on this machine, and a process that believes it is the only one."""

import time
import types

import pytest

from hub.server import running


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A running server; the libraries of this process talk to it and to nothing else."""
    import huggingface_hub
    import transformers.utils.hub
    from huggingface_hub import constants
    from huggingface_hub.utils import _http, close_session

    with running() as server:
        settings = {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,  # the protocol of large files, which needs no server of its own
            "HF_HUB_CACHE": str(tmp_path / "hub-cache"),
            "HF_TOKEN_PATH": str(tmp_path / "no-token"),
            "HF_STORED_TOKENS_PATH": str(tmp_path / "no-tokens"),
        }
        for name, value in settings.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", server.url)
        monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
        # Waits between attempts are not what is tested.
        clock = types.SimpleNamespace(sleep=lambda seconds: None, time=time.time, monotonic=time.monotonic)
        monkeypatch.setattr(_http, "time", clock)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        close_session()
        yield server
        close_session()
