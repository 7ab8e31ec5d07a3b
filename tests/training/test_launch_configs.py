"""The configurations of accelerate that ship: each is read by accelerate itself, and says what it is for."""

from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType

FOLDER = Path(__file__).parents[2] / "accelerate_configs"
FILES = sorted(FOLDER.glob("*.yaml"))
KINDS = {
    "cpu": (DistributedType.MULTI_GPU, 2),
    "single_gpu": (DistributedType.NO, 1),
    "multi_gpu": (DistributedType.MULTI_GPU, 8),
    "multi_node": (DistributedType.MULTI_GPU, 16),
    "fsdp": (DistributedType.FSDP, 8),
    "deepspeed_zero2": (DistributedType.DEEPSPEED, 8),
    "deepspeed_zero3": (DistributedType.DEEPSPEED, 8),
}


def test_all_of_them_are_here():
    assert {path.stem for path in FILES} == set(KINDS)
    assert sorted(FOLDER.iterdir()) == FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_accelerate_reads_it(path):
    config = load_config_from_file(str(path))
    assert (config.distributed_type, config.num_processes) == KINDS[path.stem]
    assert config.use_cpu is (path.stem == "cpu")
    text = path.read_text()
    assert f"--config_file accelerate_configs/{path.name}" in text and "-m subtuning_hf.cli" in text
    stage = yaml.safe_load(text).get("deepspeed_config", {}).get("zero_stage")
    assert stage == {"deepspeed_zero2": 2, "deepspeed_zero3": 3}.get(path.stem)


def test_the_readme_says_what_was_run_with_each():
    readme = (FOLDER.parent / "README.md").read_text()
    for path in FILES:
        assert f"`{path.name}`" in readme, f"{path.name} is missing from README's table of launch configurations"
