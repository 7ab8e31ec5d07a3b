"""`subtuning blocks`: names of all kinds, the table's numbers, and its errors."""

import json

import pytest

from subtuning_hf.cli.blocks import describe, table
from subtuning_hf.cli.main import main
from subtuning_hf.cli.models import model_structure
from subtuning_hf.errors import ArgumentsError, ModelNotFoundError, NoBlocksFoundError


@pytest.fixture
def folder(tmp_path):
    from transformers import ViTConfig

    config = ViTConfig(
        image_size=8, patch_size=4, hidden_size=8, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16
    )
    config.architectures = ["ViTForImageClassification"]
    config.save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["", "/config.json"])
def test_folder_and_file_without_weights(folder, name):
    model = model_structure(f"{folder}{name}")
    assert type(model).__name__ == "ViTForImageClassification"
    assert all(parameter.is_meta for parameter in model.parameters())


def test_the_numbers_add_up(folder):
    model = model_structure(str(folder))
    found = describe(model)
    assert [block["index"] for block in found["blocks"]] == [0, 1, 2]
    parts = [found["stem"], *found["blocks"], found["head"]]
    assert sum(part["num_parameters"] for part in parts) == found["num_parameters"]
    assert found["num_parameters"] == sum(parameter.numel() for parameter in model.parameters())


def test_table_and_json(folder, capsys):
    assert main(["blocks", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "3 blocks" in text and "head: classifier" in text and "\033" not in text
    assert next(line for line in text.splitlines() if line.strip().startswith("1 ")).split()[1].endswith("1")
    assert main(["blocks", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["class"] == "ViTForImageClassification" and len(found["blocks"]) == 3


def test_shares_are_of_the_whole(folder):
    shares = [float(line.split()[-2]) for line in table(describe(model_structure(str(folder)))).splitlines()[4:]]
    assert abs(sum(shares) - 100) < 0.05 * len(shares) + 1e-9


def test_parts_of_blocks(folder, capsys):
    assert main(["blocks", str(folder), "--granularity", "submodule"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "12 submodules" in lines[0] and "kind" in lines[2]
    rows = [line.split() for line in lines[5:-1]]
    assert [row[0] for row in rows] == [str(index) for index in range(12)]
    assert [row[2] for row in rows] == ["norm", "attention", "norm", "mlp"] * 3
    assert len({len(line) for line in lines[4:]}) == 1, "columns stand below each other"
    assert main(["blocks", str(folder), "--granularity=submodule", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["granularity"] == "submodule"
    assert found["blocks"][1] == {
        "name": "vit.layers.0.attention",
        "index": 1,
        "num_parameters": 288,
        "kind": "attention",
    }
    parts = [found["stem"], *found["blocks"], found["head"]]
    assert sum(part["num_parameters"] for part in parts) == found["num_parameters"]


def test_stages():
    pytest.importorskip("timm")
    model = model_structure("timm/convnext_atto")
    found = describe(model, "stage")
    assert [block["name"] for block in found["blocks"]] == [f"stages.{index}" for index in range(4)]
    text = table(found)
    assert "4 stages" in text and text.splitlines()[5].split()[2] == "stage"
    parts = describe(model, "submodule")  # layer scales are in no part
    scales = sum(p.numel() for name, p in model.named_parameters() if name.endswith(".gamma"))
    rest = sum(part["num_parameters"] for part in (describe(model)["stem"], *describe(model)["blocks"]))
    assert parts["stem"]["num_parameters"] == describe(model)["stem"]["num_parameters"] + scales
    assert rest == sum(part["num_parameters"] for part in (parts["stem"], *parts["blocks"]))


def test_units_that_are_not_there(folder):
    model = model_structure(str(folder))
    with pytest.raises(NoBlocksFoundError, match="Use granularity='block'"):
        describe(model, "stage")
    with pytest.raises(ArgumentsError, match="found 'blocks'. Did you mean 'block'?"):
        describe(model, "blocks")


def test_another_class(folder, capsys):
    assert main(["blocks", str(folder), "--auto-class", "AutoModel"]) == 0
    assert "ViTModel" in capsys.readouterr().out
    with pytest.raises(ModelNotFoundError, match="Did you mean AutoModelForImageClassification"):
        model_structure(str(folder), auto_class="AutoModelForImageClasification")
    with pytest.raises(ModelNotFoundError, match="'vit' is nothing for AutoModelForCausalLM"):
        model_structure(str(folder), auto_class="AutoModelForCausalLM")


def test_timm():
    pytest.importorskip("timm")
    model = model_structure("timm/resnet18")
    assert len(describe(model)["blocks"]) == 8
    with pytest.raises(ModelNotFoundError, match="Did you mean timm/resnet18"):
        model_structure("timm/resnet19")


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is not a JSON file"), ("[]", "does not say what model"), ('{"a": 1}', "does not say what model")],
)
def test_bad_config_files(tmp_path, content, message):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelNotFoundError, match=message):
        model_structure(str(tmp_path))


def test_nothing_there(tmp_path):
    with pytest.raises(ModelNotFoundError, match="no file or folder"):
        model_structure("/no/such/folder")
    with pytest.raises(ModelNotFoundError, match=r"without a config\.json"):
        model_structure(str(tmp_path))
    with pytest.raises(ModelNotFoundError, match="No configuration for 'no-such-name/on-the-hub'"):
        model_structure("no-such-name/on-the-hub")
