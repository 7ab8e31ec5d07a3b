"""What leaves the machine with an adapter, and what does not."""

import pytest
from huggingface_hub.utils import filter_repo_objects

from subtuning_hf.cli.report import FILE_NAME
from subtuning_hf.hub import hub_name, pipeline_tag, pushed_files, source_of
from subtuning_hf.hub.files import REPORT, as_patterns, checkpoint_files

GO = [
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "journal/rank-0000.jsonl",
    "journal/rank-0001.jsonl",
    "odd [name]*.txt",
    "pictures/ladder.png",
    "preprocessor_config.json",
    "runs/now/events.out.tfevents.1",
    "runs/now/report.html",
]
STAY = [
    ".README.md.77",
    ".candidate-abc/model.safetensors",
    ".prefix/0123/rows.bin",
    "_private/notes.txt",
    "checkpoint-10/adapter_model.safetensors",
    "checkpoint-10/optimizer.pt",
    "journal/.initial_head.safetensors.12",
    "journal/initial_head.safetensors",
    "journal/rank-0000.jsonl.lock",
    "journal/old/rank-0000.jsonl",
    "training_args.bin",
    "optimizer.pt",
    "report.html",
]


def fill(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def test_adapter_card_and_journal_go_and_the_rest_stays(tmp_path):
    fill(tmp_path, [*GO, *STAY])
    assert pushed_files(tmp_path) == sorted(GO)


def test_a_report_goes_if_it_is_asked_for(tmp_path):
    assert REPORT == FILE_NAME  # as the command names it
    fill(tmp_path, [*GO, *STAY])
    assert pushed_files(tmp_path, report=True) == sorted([*GO, "report.html"])


def test_patterns_fit_these_files_alone(tmp_path):
    names = ["a[1].txt", "b?.txt", "c*"]
    all_names = [*names, "a1.txt", "bx.txt", "cc", "d/c*"]
    assert list(filter_repo_objects(all_names, allow_patterns=as_patterns(names))) == names


def test_a_checkpoint_goes_without_the_token(tmp_path):
    fill(
        tmp_path,
        [
            "README.md",
            "adapter_model.safetensors",
            "optimizer.pt",
            "training_args.bin",
            "global_step1/training_args.bin",
        ],
    )
    assert checkpoint_files(tmp_path) == ["adapter_model.safetensors", "optimizer.pt"]


# --- what names mean -------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["user/model", "gpt2", "timm/resnet50.a1_in1k"])
def test_names_of_repositories(name):
    assert hub_name(name) == name


@pytest.mark.parametrize("name", [None, "", "/home/me/model", "../model", "a/b/c", "C:\\models\\x", 3, "a model"])
def test_other_names_are_nobody_elses_business(name):
    assert hub_name(name) is None


def test_a_folder_that_looks_like_a_repository(tmp_path, monkeypatch):
    (tmp_path / "user" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub_name("user/model") is None and hub_name("user/other") == "user/other"


def test_rows_say_where_they_come_from():
    from datasets import Dataset, DatasetInfo

    sha = "0123456789abcdef0123456789abcdef01234567"
    files = {f"hf://datasets/user/flowers@{sha}/data/{part}.parquet": {"num_bytes": 1} for part in "ab"}
    info = DatasetInfo(config_name="small", download_checksums=files)
    rows = Dataset.from_dict({"x": [1, 2, 3]}, info=info, split="train")
    found = source_of(rows.select([0, 2]))
    assert (found.name, found.config, found.split, found.revision) == ("user/flowers", "small", "train", sha)
    files = {**files, f"hf://datasets/user/other@{sha}/x": {}}
    assert source_of(Dataset.from_dict({"x": [1]}, info=DatasetInfo(download_checksums=files))) is None
    assert source_of(Dataset.from_dict({"x": [1]})) is None and source_of([1, 2]) is None and source_of(None) is None


def test_tasks_of_models():
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification, BertModel

    from training.cases import make_model

    tiny = BertConfig(vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4)
    assert pipeline_tag(make_model()) == "image-classification"
    assert pipeline_tag(BertForSequenceClassification(tiny)) == "text-classification"
    assert pipeline_tag(BertForTokenClassification(tiny)) == "token-classification"
    assert pipeline_tag(BertModel(tiny)) is None and pipeline_tag(torch.nn.Linear(1, 1)) is None

    class Own(BertForSequenceClassification):
        pass

    assert pipeline_tag(Own(tiny)) == "text-classification"
