"""A line that breaks in the middle of a download: tried again, or a clear error, and nothing half-written is used."""

from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from peft import PeftModel

from hub.test_predict_hub import agree, moods, predict, shares_of, shown  # noqa: F401
from hub.test_push import load_base, logits, pushed  # noqa: F401
from subtuning_hf import MultiTaskModel
from subtuning_hf.errors import DownloadError
from training.cases import make_images

WEIGHTS = "adapter_model.safetensors"
MANY = 1000


def by_peft():
    return logits(PeftModel.from_pretrained(load_base(), "user/stripes"))


def by_tasks():
    tasks = MultiTaskModel.from_adapters(load_base(), {"a": "user/stripes"})
    with torch.no_grad():
        return tasks(pixel_values=make_images(5, seed=9)[0])["a"].logits


def natively():
    base = load_base()
    base.load_adapter("user/stripes")
    return logits(base)


WAYS = pytest.mark.parametrize("load", [by_peft, by_tasks, natively])


def finished(name):
    """Files of this name in the cache, under the name by which they are found."""
    return list(Path(constants.HF_HUB_CACHE).rglob(name))


@WAYS
def test_a_line_that_breaks_once_is_tried_again(hub, pushed, load):  # noqa: F811
    pushed.push_to_hub()
    hub.cut_downloads = 1
    assert torch.allclose(load(), logits(pushed.model), atol=1e-6)
    assert hub.cut_downloads == 0 and len(hub.asked(WEIGHTS)) >= 3


@WAYS
def test_a_line_that_stays_broken_is_an_error_and_leaves_nothing(hub, pushed, load):  # noqa: F811
    pushed.push_to_hub()
    hub.cut_downloads = MANY
    # transformers' own way asks for the pickle next, and says what it says where neither is there.
    with pytest.raises(OSError if load is natively else DownloadError) as caught:
        load()
    assert load is natively or ("user/stripes" in str(caught.value) and "Try again" in str(caught.value))
    assert not finished(WEIGHTS)
    hub.cut_downloads = 0
    assert torch.allclose(load(), logits(pushed.model), atol=1e-6) and finished(WEIGHTS)


@pytest.mark.parametrize("file", [WEIGHTS, "model.safetensors"])
def test_predict_says_so(hub, moods, capsys, monkeypatch, tmp_path, file):  # noqa: F811
    expected = shares_of(moods)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "fresh"))
    hub.cut_file, hub.cut_downloads = file, MANY
    code, out, err = predict(capsys, "user/moods")
    told = "DownloadError" if file == WEIGHTS else "RecipeError: model.name: 'lab/mood-net'"
    assert code == 2 and not out and told in err and "peer closed connection" in err
    assert not finished(file)
    hub.cut_downloads = 0
    code, out, _ = predict(capsys, "user/moods")
    assert code == 0 and agree(shown(out), expected)
