"""`subtuning evaluate` with an adapter of the Hub: by name, at a revision, and what a revision cannot be of."""

import json

import pytest
from torch import tensor
from torch.nn.functional import nll_loss

from hub.test_predict_hub import TEXTS, moods, shares_of, trained
from subtuning_hf.cli.main import main

__all__ = ["moods"]  # a fixture
MOODS = ["up", "up", "down", "up"]


@pytest.fixture
def recipe(moods, tmp_path):
    """A recipe for the base of the adapters, with the texts that they are asked about as its test split."""
    (tmp_path / "rows").mkdir()
    for split, repeats in (("train", 3), ("test", 1)):
        lines = [f"{text},{mood}" for text, mood in zip(TEXTS, MOODS, strict=True)] * repeats
        (tmp_path / "rows" / f"{split}.csv").write_text("\n".join(["text,mood", *lines]) + "\n")
    file = tmp_path / "recipe.yaml"
    file.write_text(
        f"""
model: {{name: lab/mood-net}}
data: {{path: {tmp_path}/rows, text_column: text, label_column: mood}}
preprocessing: {{processor: {tmp_path}/one/out}}
args: {{output_dir: {tmp_path}/scores, use_cpu: true, save_strategy: "no"}}
"""
    )
    return file


def loss_of(trainer):
    return float(nll_loss(shares_of(trainer).log(), tensor([int(mood == "up") for mood in MOODS])))


def test_revisions_of_the_adapter(moods, recipe, hub, tmp_path, capsys):
    second = trained(tmp_path / "two", seed=2)
    second.push_to_hub(revision="second")
    first = hub.repos["user/moods"].resolve("main")
    assert loss_of(moods) != pytest.approx(loss_of(second), abs=1e-4)
    for words, trainer, name in (
        (["user/moods"], moods, "user/moods"),
        (["user/moods@second"], second, "user/moods@second"),
        (["user/moods", "--revision", "second"], second, "user/moods@second"),
        ([f"user/moods@{first}"], moods, f"user/moods@{first}"),
    ):
        assert main(["evaluate", "--config", str(recipe), "--adapter", *words]) == 0, capsys.readouterr().err
        assert f"adapter: {name}\nrows: 4" in capsys.readouterr().out
        found = json.loads((tmp_path / "scores" / "test_results.json").read_text())
        assert found["test_loss"] == pytest.approx(loss_of(trainer), abs=1e-5), words


def test_revisions_that_cannot_be(recipe, tmp_path, capsys):
    for words, message in (
        (["--adapter", "user/moods@third"], "No adapter 'user/moods@third'"),
        (["--adapter", "user/moods@a", "--revision", "b"], "names the revision 'a', and --revision 'b'"),
        (["--adapter", f"{tmp_path}/one/out", "--revision", "main"], "is a folder, which has no revisions"),
        (["--revision", "main"], "--revision is of an adapter on the Hub. Name it with --adapter"),
    ):
        assert main(["evaluate", "--config", str(recipe), *words]) == 2
        assert message in capsys.readouterr().err, words
    assert not (tmp_path / "scores" / "test_results.json").exists()
