"""A text adapter of the Hub, predicted with: its tokenizer, its revision, and what it may ask for."""

from __future__ import annotations

import csv
import io
import json
import pickle

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    set_seed,
)

from hub.hostile import CANARY, Runs, code
from subtuning_hf.cli.main import main
from training.cases import make_trainer

TEXTS = ["the good day", "the bad night a", "awful", "a fine night"]
LABELS = {"id2label": {0: "down", 1: "up"}, "label2id": {"down": 0, "up": 1}}


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def tokenizer_in(folder):
    words = ["good", "bad", "fine", "awful", "day", "night", "a", "the"]
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n")
    return BertTokenizer(str(folder / "vocab.txt"))


def trained(folder, seed):
    """A trainer that has tuned block 1 of the base on the Hub."""
    set_seed(seed)
    base = AutoModelForSequenceClassification.from_pretrained("lab/mood-net", ignore_mismatched_sizes=True, **LABELS)
    tokenizer = tokenizer_in(folder)
    rows = [{**tokenizer(text), "labels": int(index in (0, 3))} for index, text in enumerate(TEXTS * 3)]
    args = {"hub_token": "hf_owner", "hub_model_id": "user/moods", "num_train_epochs": 3, "seed": seed}
    trainer = make_trainer(folder / "out", base, [dict(row) for row in rows], args, processing_class=tokenizer)
    trainer.train(blocks=[1])
    return trainer


def shares_of(trainer):
    """What the trained model says of `TEXTS`."""
    batch = trainer.processing_class(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        return trainer.model.eval()(**batch).logits.softmax(-1)


@pytest.fixture
def moods(hub, tmp_path, monkeypatch):
    """An adapter on the Hub whose base there has no tokenizer."""
    set_seed(0)
    config = BertConfig(vocab_size=13, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "net")
    hub.put("lab/mood-net", files_of(tmp_path / "net"))
    trainer = trained(tmp_path / "one", seed=1)
    trainer.push_to_hub()
    (tmp_path / "lines.txt").write_text("\n".join(TEXTS) + "\n")
    monkeypatch.chdir(tmp_path)
    return trainer


def predict(capsys, *words):
    capsys.readouterr()
    code_ = main(["predict", *words, "lines.txt", "--use-cpu", "--top", "2"])
    found = capsys.readouterr()
    return code_, found.out, found.err


def shown(output):
    rows = list(csv.DictReader(io.StringIO(output)))
    assert [row["input"] for row in rows] == TEXTS
    both = [{row["label"]: float(row["probability"]), row["label_2"]: float(row["probability_2"])} for row in rows]
    return torch.tensor([[one["down"], one["up"]] for one in both])


def agree(left, right):
    return torch.allclose(left, right, atol=2e-6)


def test_texts_with_the_tokenizer_of_the_adapter(moods, capsys):
    code_, out, err = predict(capsys, "user/moods")
    assert code_ == 0, err
    assert agree(shown(out), shares_of(moods))


def test_revisions_of_the_adapter(moods, hub, tmp_path, capsys):
    second = trained(tmp_path / "two", seed=2)
    second.push_to_hub(revision="second")
    asked = trained(tmp_path / "three", seed=3)
    asked.push_to_hub(create_pr=True)
    first = hub.repos["user/moods"].resolve("main")
    expected = {name: shares_of(trainer) for name, trainer in (("1", moods), ("2", second), ("3", asked))}
    assert not agree(expected["1"], expected["2"]) and not agree(expected["1"], expected["3"])
    for words, name in (
        (["user/moods@second"], "2"),
        (["user/moods", "--revision", "second"], "2"),
        (["user/moods@second", "--revision", "second"], "2"),
        (["user/moods@refs/pr/1"], "3"),
        ([f"user/moods@{first}"], "1"),
        (["user/moods"], "1"),
    ):
        code_, out, err = predict(capsys, *words)
        assert code_ == 0, err
        assert agree(shown(out), expected[name]), words
    code_, out, _ = predict(capsys, "user/moods@second", "--dry-run")
    assert code_ == 0 and "adapter: user/moods@second\nbase: lab/mood-net" in out


def test_revisions_that_cannot_be(moods, capsys, tmp_path):
    for words, message in (
        (["user/moods@third"], "There is no SubTuning adapter 'user/moods@third'"),
        (["user/moods@a", "--revision", "b"], "names the revision 'a', and --revision 'b'"),
        (["user/moods@"], "Write user/adapter@revision"),
        ([str(tmp_path / "one" / "out"), "--revision", "main"], "is a folder, which has no revisions"),
        ([f"{tmp_path}/one/out@main"], "is a folder, which has no revisions"),
        (["--config", "recipe.yaml", "--revision", "main"], "--revision is of an adapter on the Hub"),
    ):
        code_, out, err = predict(capsys, *words)
        assert code_ == 2 and message in err and not out, words


def test_a_folder_with_an_at_sign(moods, tmp_path, capsys):
    moods.save_model(str(tmp_path / "moods@home"))
    code_, out, err = predict(capsys, "moods@home")
    assert code_ == 0, err
    assert agree(shown(out), shares_of(moods))


def test_private_adapter_and_gated_base(moods, hub, capsys, monkeypatch, tmp_path):
    from huggingface_hub import constants

    hub.repos["lab/mood-net"].gated = True
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "other-cache"))
    code_, _, err = predict(capsys, "user/moods")
    assert code_ == 2 and "lab/mood-net" in err and "gated" in err
    hub.repos["user/moods"].private = True
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "third-cache"))
    code_, _, err = predict(capsys, "user/moods")
    assert code_ == 2 and "There is no SubTuning adapter 'user/moods'" in err
    monkeypatch.setenv("HF_TOKEN", "hf_owner")
    code_, out, err = predict(capsys, "user/moods")
    assert code_ == 0, err
    assert agree(shown(out), shares_of(moods))


def ask(model, **kwargs):
    from transformers import pipeline

    pipe = pipeline("text-classification", model=model, device="cpu", **kwargs)
    found = [{one["label"]: one["score"] for one in each} for each in pipe(TEXTS, top_k=2)]
    return torch.tensor([[one["down"], one["up"]] for one in found])


def test_pipelines(moods, hub, tmp_path):
    """With a model and its tokenizer, or by name where the tokenizer is named, too; the labels are the adapter's."""
    from peft import PeftModel
    from transformers import AutoTokenizer

    second = trained(tmp_path / "two", seed=2)
    second.push_to_hub(revision="second")
    tokenizer = AutoTokenizer.from_pretrained("user/moods")
    for trainer, revision in ((moods, "main"), (second, "second")):
        base = AutoModelForSequenceClassification.from_pretrained("lab/mood-net")
        model = PeftModel.from_pretrained(base, "user/moods", revision=revision)
        assert agree(ask(model, tokenizer=tokenizer), shares_of(trainer))
    assert agree(ask("user/moods", tokenizer="user/moods"), shares_of(moods))


def test_what_a_pipeline_by_name_does_not_do(moods, hub, tmp_path):
    """It takes the tokenizer of the base, and the revision for one of the base, which may not have it."""
    trained(tmp_path / "two", seed=2).push_to_hub(revision="second")
    assert not agree(ask("user/moods"), shares_of(moods))
    with pytest.raises(OSError, match="second"):
        ask("user/moods", revision="second", tokenizer="user/moods")


# --- what an adapter may not ask for -----------------------------------------------------------
def changed(hub, **files):
    """A copy of the adapter's repository under another name, with files replaced (None: taken out)."""
    known = dict(hub.repos["user/moods"].files())
    for name, content in files.items():
        known.pop(name, None)
        if content is not None:
            known[name] = content
    hub.put("evil/moods", known)


def config_with(hub, **fields):
    return json.dumps({**json.loads(hub.repos["user/moods"].files()["adapter_config.json"]), **fields}).encode()


def refused(capsys, message, *words, name="evil/moods"):
    code_, out, err = predict(capsys, name, *words)
    assert code_ == 2 and message in err and not out and "Traceback" not in err, err


def test_a_pickle_on_the_hub_is_not_even_fetched(moods, hub, capsys, tmp_path):
    (tmp_path / "evil").mkdir()
    weights = pickle.dumps(Runs(tmp_path / "evil"))
    changed(hub, **{"adapter_model.safetensors": None, "adapter_model.bin": weights})
    refused(capsys, "no adapter_model.safetensors")
    from peft import PeftModel

    from subtuning_hf.errors import AdapterFileError

    base = AutoModelForSequenceClassification.from_pretrained("lab/mood-net")
    with pytest.raises(AdapterFileError, match="never read"):
        PeftModel.from_pretrained(base, "evil/moods")
    assert not hub.asked("adapter_model.bin") and not (tmp_path / CANARY).exists()


@pytest.mark.parametrize("name", ["/etc", "../net", "net", "~/net", "evil/moods", "Evil/Moods"])
def test_bases_that_an_adapter_of_the_hub_may_not_name(moods, hub, capsys, tmp_path, name):
    changed(hub, **{"adapter_config.json": config_with(hub, base_model_name_or_path=name)})
    refused(capsys, "--base")
    code_, out, err = predict(capsys, "evil/moods", "--base", "lab/mood-net")
    assert code_ == 0, err
    assert agree(shown(out), shares_of(moods))


def test_a_base_in_the_adapters_own_folder(moods, tmp_path, capsys):
    folder = tmp_path / "mine"
    moods.save_model(str(folder))
    BertForSequenceClassification.from_pretrained(tmp_path / "net").save_pretrained(folder / "inner")
    config = json.loads((folder / "adapter_config.json").read_text()) | {"base_model_name_or_path": f"{folder}/inner"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    refused(capsys, "names its own folder", name="mine")
    assert predict(capsys, "mine", "--base", "mine/inner")[0] == 0


@pytest.mark.parametrize("how", ["tokenizer", "base"])
def test_code_that_an_adapter_or_its_base_brings(moods, hub, capsys, tmp_path, monkeypatch, how):
    """`auto_map`: transformers would ask at a terminal whether to run it; here it is never run."""
    monkeypatch.setattr("builtins.input", lambda *words: "y")
    module = code(tmp_path / "any").encode()
    if how == "tokenizer":
        known = json.loads(hub.repos["user/moods"].files()["tokenizer_config.json"])
        known |= {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"}
        changed(hub, **{"tokenizer_config.json": json.dumps(known).encode(), "evil.py": module})
        refused(capsys, "asks for code of its own")
    else:
        known = json.loads(hub.repos["lab/mood-net"].files()["config.json"])
        known |= {"auto_map": {"AutoConfig": "evil.Evil", "AutoModelForSequenceClassification": "evil.Evil"}}
        known["model_type"] = "evil"
        hub.put("evil/net", {"config.json": json.dumps(known).encode(), "evil.py": module})
        changed(hub, **{"adapter_config.json": config_with(hub, base_model_name_or_path="evil/net")})
        refused(capsys, "evil/net")
    assert not (tmp_path / CANARY).exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('{"text": true, "image_size": 1000000}', "`image_size` must be a whole number from 1 to 4,096"),
        ('{"text": true, "max_length": -5}', "`max_length` must be a whole number"),
        ('{"text": true, "dtype": "os.system"}', "as `dtype`"),
        ('{"text": "yes"}', "whether inputs are texts"),
        ('{"text": true, "processor": "../elsewhere"}', "as its processor"),
        ('{"text": true, "processor": {"a": 1}}', "`processor` must be a name"),
        ('{"text": true, "revision": 7}', "`revision` must be a name"),
        ('{"text": true, "trust_remote_code": true}', "does not say how inputs are made"),
        ('{"text": true, "text": false}', "twice"),
        ('{"text": ' + "[" * 100_000, "nested too deeply"),
        ("text: true", "is not JSON"),
    ],
)
def test_settings_beside_an_adapter(moods, hub, capsys, settings, message):
    changed(hub, **{"preprocessing.json": settings.encode()})
    refused(capsys, message)
