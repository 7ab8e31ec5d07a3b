"""Processors at another size, and what is kept beside an adapter."""

import numpy as np
import pytest
import torch
from PIL import Image

from subtuning_hf.cli.recipe import PreprocessingSection
from subtuning_hf.cli.recipe_inputs import InputSettings, ToInputs, Tokenize, load_processor
from subtuning_hf.errors import AdapterFileError, RecipeError

IMAGES = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 50, 3), dtype=np.uint8)) for i in range(2)]


@pytest.fixture(scope="module")
def timm_model(tmp_path_factory):
    """A model of timm as transformers saves it, with a data config of its own."""
    pytest.importorskip("timm")
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    folder = tmp_path_factory.mktemp("timm")
    config = {
        "input_size": [3, 24, 24],
        "mean": [0.1] * 3,
        "std": [0.5] * 3,
        "crop_pct": 1.0,
        "interpolation": "bicubic",
    }
    made = TimmWrapperConfig(architecture="resnet10t", pretrained_cfg=config, num_labels=2)
    TimmWrapperForImageClassification(made).save_pretrained(folder)
    return folder, config


def pixels(processor):
    return torch.stack(ToInputs(processor, "image", "label", "none")({"image": IMAGES})["pixel_values"])


def test_timm_models_take_their_data_config(timm_model):
    from timm.data import create_transform

    folder, config = timm_model
    for side in (None, 16):
        processor = load_processor(str(folder), None, PreprocessingSection(image_size=side), text=False)
        size = side or 24
        expected = create_transform(**{**config, "input_size": (3, size, size)}, is_training=False)
        found = pixels(processor)
        assert found.shape == (2, 3, size, size)
        assert torch.equal(found, torch.stack([expected(image) for image in IMAGES]))


@pytest.mark.parametrize("name", ["ConvNextImageProcessor", "ViTImageProcessor", "BitImageProcessor"])
def test_processors_of_transformers(name, tmp_path):
    import transformers

    getattr(transformers, name)().save_pretrained(tmp_path)
    whole = pixels(load_processor(str(tmp_path), None, PreprocessingSection(), text=False))
    assert whole.shape[-1] in (224, 384)
    small = pixels(load_processor(str(tmp_path), None, PreprocessingSection(image_size=32), text=False))
    assert small.shape == (2, 3, 32, 32)


def test_missing_processor(tmp_path):
    with pytest.raises(RecipeError, match="preprocessing.processor: no image processor in"):
        load_processor(str(tmp_path), None, PreprocessingSection(), text=False)


def test_labels_go_along_where_there_are_any(texts):
    processor = load_processor(str(texts / "model"), None, PreprocessingSection(), text=True)
    tokenize = Tokenize(processor, "sentence", "mood", 3)
    out = tokenize({"sentence": ["good day", "bad night a"], "mood": [1, 0]})
    assert out["labels"] == [1, 0] and [len(ids) for ids in out["input_ids"]] == [3, 3]
    assert "labels" not in tokenize({"sentence": ["good"]})


def test_settings_come_back(tmp_path):
    settings = InputSettings(True, revision="abc", dtype="float32", max_length=7)
    settings.save(tmp_path)
    assert InputSettings.load(tmp_path / "preprocessing.json") == settings
    for text in ("{", "[]", '{"text": true, "trust_remote_code": true}'):
        (tmp_path / "preprocessing.json").write_text(text)
        with pytest.raises(AdapterFileError, match="does not say how inputs are made"):
            InputSettings.load(tmp_path / "preprocessing.json")
