"""Pushed over real HTTP to a Hub on this machine, and loaded from there: with tokens, revisions and broken lines."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from packaging.version import Version
from peft import AutoPeftModel, PeftModel
from PIL import Image
from transformers import (
    AutoModelForImageClassification,
    ConvNextImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
)

from subtuning_hf.errors import ArgumentsError
from training.cases import Rows, make_images, make_model, make_trainer

OWNER = {"hub_token": "hf_owner", "hub_model_id": "user/stripes"}


def put_base(hub, tmp_path, **settings):
    make_model().save_pretrained(tmp_path / "base")
    files = {path.name: path.read_bytes() for path in (tmp_path / "base").iterdir()}
    return hub.put("lab/base", files, **settings)


def load_base(**kwargs):
    return AutoModelForImageClassification.from_pretrained("lab/base", **kwargs)


def logits(model):
    images, _ = make_images(5, seed=9)
    with torch.no_grad():
        return model.eval()(pixel_values=images).logits


def uploads_of(hub):
    return [request for request in hub.asked("/lfs/") if request.startswith("PUT")]


@pytest.fixture
def pushed(hub, tmp_path):
    """A trainer with a base of the Hub that has trained, and its Hub."""
    put_base(hub, tmp_path)
    processor = ConvNextImageProcessor(size={"shortest_edge": 16}, crop_pct=1.0)
    trainer = make_trainer(
        tmp_path / "out", model=load_base(), args=OWNER, processing_class=processor, eval_dataset=Rows(12, seed=3)
    )
    trainer.train(blocks=[1])
    trainer.evaluate(metric_key_prefix="test")
    return trainer


def test_what_was_pushed_answers_as_what_was_trained(hub, pushed):
    done = pushed.push_to_hub("first words")
    repo = hub.repos["user/stripes"]
    assert done.oid == repo.resolve("main") and repo.messages[done.oid] == "first words"
    assert sorted(repo.files()) == [
        ".gitattributes",
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "preprocessor_config.json",
        "test_results.json",
    ]
    assert not any(b"hf_owner" in data for data in repo.files().values())
    expected = logits(pushed.model)
    for model in (
        PeftModel.from_pretrained(load_base(), "user/stripes"),
        AutoPeftModel.from_pretrained("user/stripes"),
    ):
        assert torch.equal(logits(model), expected)
    assert not torch.equal(logits(load_base()), expected)


def test_the_card_names_the_base_and_passes_the_hub(hub, pushed):
    pushed.push_to_hub(license="mit")
    text = hub.repos["user/stripes"].files()["README.md"].decode()
    asked = hub.cards[-1]
    assert asked["base_model"] == "lab/base" and asked["license"] == "mit"
    assert "base_model:adapter:lab/base" in asked["tags"] and asked["model-index"][0]["name"] == "stripes"
    assert 'PeftModel.from_pretrained(base, "user/stripes")' in text
    assert "subtuning predict user/stripes images/" in text


def test_the_file_that_the_card_names_as_source_is_pushed(hub, pushed):
    pushed.push_to_hub()
    files = hub.repos["user/stripes"].files()
    (result,) = hub.cards[-1]["model-index"][0]["results"]
    assert result["source"]["url"] == "https://huggingface.co/user/stripes/blob/main/test_results.json"
    told = {f"test_{one['type']}": one["value"] for one in result["metrics"]}
    found = json.loads(files["test_results.json"])
    assert found.pop("blocks") == list(pushed.model.peft_config["default"].blocks) and found == told and len(told) == 2


def test_a_search_goes_with_its_pictures_and_its_journal(hub, tmp_path):
    from subtuning_hf.search import read_study

    trainer = make_trainer(tmp_path / "out", args=OWNER)
    trainer.search()
    trainer.train()
    trainer.push_to_hub()
    files = hub.repos["user/stripes"].files()
    assert {"pictures/profile.png", "pictures/ladder.png", "journal/rank-0000.jsonl"} <= files.keys()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "rank-0000.jsonl").write_bytes(files["journal/rank-0000.jsonl"])
    assert read_study(tmp_path / "there") == trainer.study()


def test_pushing_again_changes_what_has_changed(hub, pushed):
    pushed.push_to_hub()
    first = dict(hub.repos["user/stripes"].files())
    (pushed.args.folder / "NOTES.md").write_text("more")
    uploads = uploads_of(hub)
    pushed.push_to_hub("again")
    assert uploads_of(hub) == uploads  # weights that are there are not sent again
    assert hub.repos["user/stripes"].files() == {**first, "NOTES.md": b"more"}


def test_a_report_is_pushed_on_purpose_alone(hub, pushed):
    with pytest.raises(ArgumentsError, match="which is not there. Write it with `subtuning report"):
        pushed.push_to_hub(report=True)
    assert not hub.repos.get("user/stripes") or list(hub.repos["user/stripes"].files()) == [".gitattributes"]
    (pushed.args.folder / "report.html").write_text("<p>for me")
    pushed.push_to_hub()
    assert "report.html" not in hub.repos["user/stripes"].files()
    pushed.push_to_hub(report=True)
    assert hub.repos["user/stripes"].files()["report.html"] == b"<p>for me"


def test_pushing_in_the_background(hub, pushed):
    done = pushed.push_to_hub(blocking=False).result(timeout=60)
    assert done.oid == hub.repos["user/stripes"].resolve("main")


# --- revisions, pull requests, private and gated ---------------------------------------------
def test_a_revision_is_made_and_can_be_loaded(hub, pushed):
    pushed.push_to_hub(revision="second")
    repo = hub.repos["user/stripes"]
    assert "adapter_config.json" in repo.files("second") and "adapter_config.json" not in repo.files("main")
    expected = logits(pushed.model)
    assert torch.equal(logits(PeftModel.from_pretrained(load_base(), "user/stripes", revision="second")), expected)
    with pytest.raises((ValueError, OSError)):
        PeftModel.from_pretrained(load_base(), "user/stripes")
    pushed.push_to_hub(revision="second")  # it exists by now
    with pytest.raises(RevisionNotFoundError):
        from huggingface_hub import hf_hub_download

        hf_hub_download("user/stripes", "adapter_config.json", revision="third")


def test_a_revision_of_the_arguments(hub, pushed):
    pushed.args.hub_revision = "third"
    pushed.push_to_hub()
    assert list(hub.repos["user/stripes"].branches) == ["main", "third"]


def test_a_pull_request_leaves_the_branch_alone(hub, pushed):
    done = pushed.push_to_hub(create_pr=True)
    repo = hub.repos["user/stripes"]
    assert done.pr_url.endswith("/user/stripes/discussions/1") and list(repo.files()) == [".gitattributes"]
    assert "adapter_model.safetensors" in repo.files("refs/pr/1")
    model = PeftModel.from_pretrained(load_base(), "user/stripes", revision="refs/pr/1")
    assert torch.equal(logits(model), logits(pushed.model))


@pytest.mark.parametrize("how", ["argument", "field"])
def test_a_private_repository_needs_the_token(hub, pushed, how):
    if how == "field":
        pushed.args.hub_private_repo = True
    pushed.push_to_hub(**({"private": True} if how == "argument" else {}))
    assert hub.repos["user/stripes"].private
    for token in (None, "hf_reader"):
        with pytest.raises((ValueError, OSError)):
            PeftModel.from_pretrained(load_base(), "user/stripes", token=token)
    model = PeftModel.from_pretrained(load_base(), "user/stripes", token="hf_owner")
    assert torch.equal(logits(model), logits(pushed.model))


def test_a_gated_base_is_asked_for_with_the_token(hub, pushed, tmp_path, monkeypatch):
    pushed.push_to_hub()
    expected = logits(pushed.model)
    hub.repos["lab/base"].gated = True
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "other-cache"))
    with pytest.raises((GatedRepoError, OSError), match="gated|restricted"):
        AutoPeftModel.from_pretrained("user/stripes")
    if Version(transformers.__version__) < Version("5.23"):  # 5.19 does not take `token` to the base
        monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert torch.equal(logits(AutoPeftModel.from_pretrained("user/stripes", token="hf_reader")), expected)


# --- faults ---------------------------------------------------------------------------------
def test_nothing_trained_is_refused_before_the_network(hub, tmp_path):
    trainer = make_trainer(tmp_path / "out", args=OWNER)
    with pytest.raises(ArgumentsError, match="Call train\\(\\) first"):
        trainer.push_to_hub()
    assert hub.requests == []


@pytest.mark.parametrize("token, status", [("hf_wrong", 401), ("hf_reader", 403)])
def test_a_wrong_token_pushes_nothing(hub, pushed, token, status):
    with pytest.raises(HfHubHTTPError) as caught:
        pushed.push_to_hub(token=token)
    assert caught.value.response.status_code == status
    assert "user/stripes" not in hub.repos and not uploads_of(hub)
    pushed.push_to_hub()  # with the token of the arguments
    assert "adapter_model.safetensors" in hub.repos["user/stripes"].files()


def test_a_refused_commit_leaves_the_repository_as_it_was(hub, pushed):
    hub.refuse_commits = "The quota of this account is used up."
    with pytest.raises(HfHubHTTPError, match="quota"):
        pushed.push_to_hub()
    assert list(hub.repos["user/stripes"].files()) == [".gitattributes"]
    hub.refuse_commits = None
    pushed.push_to_hub()
    assert torch.equal(logits(PeftModel.from_pretrained(load_base(), "user/stripes")), logits(pushed.model))


def test_a_broken_line_is_tried_again(hub, pushed):
    hub.cut_uploads = 1
    pushed.push_to_hub()
    assert len(uploads_of(hub)) == 2  # once cut, once whole
    assert torch.equal(logits(PeftModel.from_pretrained(load_base(), "user/stripes")), logits(pushed.model))


def test_after_a_line_that_stays_broken_a_second_push_completes(hub, pushed):
    hub.cut_uploads = 1000
    with pytest.raises(Exception, match="adapter_model.safetensors"):
        pushed.push_to_hub()
    assert 1 < len(uploads_of(hub)) < 20  # it was given up in the end
    assert list(hub.repos["user/stripes"].files()) == [".gitattributes"] and hub.large == {}
    hub.cut_uploads = 0
    pushed.push_to_hub()
    assert torch.equal(logits(PeftModel.from_pretrained(load_base(), "user/stripes")), logits(pushed.model))


def test_a_repository_that_is_gone(hub, pushed):
    pushed.push_to_hub()
    del hub.repos["user/stripes"]
    with pytest.raises(RepositoryNotFoundError):
        pushed.push_to_hub()


# --- Trainer's other ways --------------------------------------------------------------------
def test_save_model_pushes_where_the_arguments_say_so(hub, tmp_path):
    trainer = make_trainer(tmp_path / "out", args={**OWNER, "push_to_hub": True, "hub_strategy": "end"})
    trainer.train(blocks=[0])
    trainer.save_model()
    files = hub.repos["user/stripes"].files()
    assert "adapter_config.json" in files and b"written by subtuning-hf" in files["README.md"]
    assert "training_args.bin" not in files


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints"])
def test_pushes_during_the_training_hold_the_adapter_alone(hub, tmp_path, strategy):
    args = {**OWNER, "push_to_hub": True, "hub_strategy": strategy, "save_strategy": "epoch", "hub_always_push": True}
    trainer = make_trainer(tmp_path / "out", args={**args, "num_train_epochs": 2})
    (tmp_path / "out" / ".prefix").mkdir(parents=True)
    (tmp_path / "out" / ".prefix" / "rows").write_text("inputs of blocks")
    trainer.train(blocks=[0])
    trainer._finish_current_push()
    repo = hub.repos["user/stripes"]
    files = repo.files()
    assert {"adapter_config.json", "adapter_model.safetensors"} <= files.keys() and "README.md" not in files
    assert not [name for name in files if "training_args" in name or ".prefix" in name]
    states = sorted({name.split("/")[0] for name in files if name.endswith("optimizer.pt")})
    expected = {
        "every_save": [],
        "checkpoint": ["last-checkpoint"],
        "all_checkpoints": ["checkpoint-3", "checkpoint-6"],
    }
    assert states == expected[strategy]
    assert not any(b"hf_owner" in data for commit in repo.commits.values() for data in commit.values())


def test_push_to_hub_of_the_model_itself(hub, pushed):
    pushed.model.push_to_hub("user/plain", token="hf_owner")
    assert torch.equal(logits(PeftModel.from_pretrained(load_base(), "user/plain")), logits(pushed.model))
    config = json.loads(hub.repos["user/plain"].files()["adapter_config.json"])
    assert config["base_model_name_or_path"] == "lab/base" and config["peft_type"] == "SUBTUNING"


def test_many_tasks_from_the_hub(hub, pushed):
    from subtuning_hf import MultiTaskModel

    pushed.push_to_hub()
    tasks = MultiTaskModel.from_adapters(load_base(), {"stripes": "user/stripes"})
    images, _ = make_images(5, seed=9)
    with torch.no_grad():
        found = tasks(pixel_values=images)["stripes"].logits
    assert torch.allclose(found, logits(pushed.model), atol=1e-6)


def test_many_tasks_by_revision(hub, pushed, tmp_path, monkeypatch):
    from subtuning_hf import MultiTaskModel

    pushed.push_to_hub(revision="v2")
    expected, (images, _) = logits(pushed.model), make_images(5, seed=9)
    assert "adapter_config.json" not in hub.repos["user/stripes"].files("main")
    for base in (load_base(), "lab/base"):
        tasks = MultiTaskModel.from_adapters(base, {"a": "user/stripes@v2"})
        with torch.no_grad():
            assert torch.allclose(tasks(pixel_values=images)["a"].logits, expected, atol=1e-6)
    tasks.add_task("b", "user/stripes", revision="v2")
    with pytest.raises(ArgumentsError, match="Give one of them"):
        tasks.add_task("c", "user/stripes@v2", revision="main")
    for wrong in ("user/stripes@", "@v2"):
        with pytest.raises(ArgumentsError, match="user/adapter@revision"):
            tasks.add_task("c", wrong)
    with pytest.raises((ValueError, OSError)):
        tasks.add_task("c", "user/stripes")
    pushed.save_model(str(tmp_path / "a@b"))  # a folder may be called so
    tasks.add_task("c", tmp_path / "a@b")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(ArgumentsError, match="is a folder, which has no revisions"):
        tasks.add_task("d", "here@v2")


def test_auto_class_by_revision(hub, pushed):
    pushed.push_to_hub(revision="v2")
    assert torch.equal(logits(AutoPeftModel.from_pretrained("user/stripes", revision="v2")), logits(pushed.model))
    with pytest.raises((ValueError, OSError)):
        AutoPeftModel.from_pretrained("user/stripes")


# --- in a process of its own -----------------------------------------------------------------
@pytest.mark.slow
def test_a_stranger_predicts_with_names_alone(hub, tmp_path):
    """Base, adapter, labels and processor come from the Hub; HF_ENDPOINT and a token are all that is set."""
    photos = make_photos(tmp_path)
    trainer, expected = train_photos(hub, tmp_path, photos)
    trainer.push_to_hub(private=True)
    hub.repos["lab/photo-net"].gated = True
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}

    def run(*words, token):
        settings = {**environment, **({"HF_TOKEN": token} if token else {})}
        return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=240, env=settings)

    command = ["-m", "subtuning_hf.cli", "predict", "user/photos", str(tmp_path / "photos"), "--use-cpu", "--format"]
    refused = run(*command, "jsonl", token=None)
    assert refused.returncode != 0 and "user/photos" in refused.stderr and "Traceback" not in refused.stderr
    done = run(*command, "jsonl", token="hf_owner")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["input"] for row in rows] == [str(path) for path in photos]
    shares = expected.softmax(-1)
    for row, share in zip(rows, shares, strict=True):
        assert row["label"] == ("dark", "light")[int(share.argmax())]
        assert abs(row["probability"] - float(share.max())) < 1e-4
    done = run("-c", PIPELINES, str(photos[0]), token="hf_owner")
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        found = {one["label"]: one["score"] for one in json.loads(line)}
        assert abs(found["light"] - float(shares[0, 1])) < 1e-4, line
    assert len(done.stdout.splitlines()) == 2


PIPELINES = """
import json, sys
import subtuning_hf
from peft import AutoPeftModel
from transformers import AutoImageProcessor, pipeline
processor = AutoImageProcessor.from_pretrained("user/photos")
for model in (AutoPeftModel.from_pretrained("user/photos").eval(), "user/photos"):
    ask = pipeline("image-classification", model=model, image_processor=processor, device="cpu")
    print(json.dumps(ask(sys.argv[1], top_k=2)))
"""


def make_photos(folder):
    """Six images, the dark ones first."""
    (folder / "photos").mkdir()
    generator = np.random.default_rng(0)
    paths = [folder / "photos" / f"{index}.png" for index in range(6)]
    for index, path in enumerate(paths):
        pixels = generator.integers(0, 60, (32, 32, 3)) + 160 * (index >= 3)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return paths


def train_photos(hub, folder, photos):
    """A trained adapter on a base of the Hub, and its logits for the photos."""
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=5)
    ResNetForImageClassification(config).save_pretrained(folder / "net")
    hub.put("lab/photo-net", {path.name: path.read_bytes() for path in (folder / "net").iterdir()})
    labels = {"id2label": {0: "dark", 1: "light"}, "label2id": {"dark": 0, "light": 1}}
    base = AutoModelForImageClassification.from_pretrained("lab/photo-net", ignore_mismatched_sizes=True, **labels)
    processor = ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=1.0)
    pixels = processor([Image.open(path) for path in photos], return_tensors="pt")["pixel_values"]
    rows = [{"pixel_values": one, "labels": int(index >= 3)} for index, one in enumerate(pixels)]
    trainer = make_trainer(
        folder / "out", model=base, train_dataset=rows, processing_class=processor,
        args={**OWNER, "hub_model_id": "user/photos", "num_train_epochs": 5},
    )  # fmt: skip
    trainer.train(blocks=[1])
    with torch.no_grad():
        return trainer, trainer.model.eval()(pixel_values=pixels).logits
