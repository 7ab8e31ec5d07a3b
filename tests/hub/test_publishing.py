"""What the trainer tells in the card of what it trained, and what it leaves alone."""

import json
import re

import pytest
from huggingface_hub import ModelCard
from transformers import EarlyStoppingCallback

from hub.cases import comparison
from subtuning_hf.errors import ArgumentsError
from training.cases import BLOCKS, Rows, make_model, make_trainer


def card_of(folder):
    return ModelCard.load(folder / "README.md")


def trained(folder, blocks=(0,), **kwargs):
    trainer = make_trainer(folder, **kwargs)
    trainer.train(blocks=list(blocks) if blocks is not None else None)
    return trainer


def test_a_search_is_told_as_it_was(tmp_path):
    trainer = make_trainer(tmp_path, eval_dataset=Rows(30, seed=3), args={"learning_rate": 0.02})
    result = trainer.search()
    trainer.train()
    scores = trainer.evaluate(metric_key_prefix="test")
    trainer.save_model()
    card = card_of(tmp_path)
    assert [(one.metric_type, one.metric_value) for one in card.data.eval_results] == [
        ("loss", scores["test_loss"]),
        ("accuracy", scores["test_accuracy"]),
    ]
    for name in result.blocks:
        size = sum(p.numel() for p in make_model().get_submodule(name).parameters())
        assert f"| `{name}` | {size:,} |" in card.text
    assert "30 rows" in card.text and "learning_rate=0.02" in card.text and "min_gain=0.0" in card.text
    assert trainer.study().spec.fingerprint in card.text and result.reason in card.text
    assert str(tmp_path) not in str(card)
    drawn = re.findall(r"\]\((pictures/.*?)\)", card.text)
    assert drawn == ["pictures/profile.png", "pictures/ladder.png"][: len(drawn)] and drawn
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in drawn)


def test_scores_lie_beside_the_adapter_and_are_added_to(tmp_path):
    trainer = trained(tmp_path, eval_dataset=Rows(12, seed=3))
    trainer.save_model()
    assert not (tmp_path / "test_results.json").exists()  # nothing was measured
    first = trainer.evaluate(metric_key_prefix="test")
    trainer.save_model()
    told = {"blocks": [BLOCKS[0]], "test_loss": first["test_loss"], "test_accuracy": first["test_accuracy"]}
    assert json.loads((tmp_path / "test_results.json").read_text()) == told
    assert all(one.source_url is None for one in card_of(tmp_path).data.eval_results)  # a folder has no address
    (tmp_path / "test_results.json").write_text(json.dumps({**told, "test_loss": 9.0, "repeats": [1]}))
    trainer.save_model()
    assert json.loads((tmp_path / "test_results.json").read_text()) == {**told, "repeats": [1]}
    (tmp_path / "test_results.json").write_text(json.dumps({"blocks": ["another"], "repeats": [1]}))
    trainer.save_model()
    assert json.loads((tmp_path / "test_results.json").read_text()) == told


def test_sizes_are_those_of_the_base_whatever_the_head(tmp_path):
    from subtuning_hf.hub import adapter_parts

    trainer = trained(tmp_path, blocks=[0, 2])
    parts, base = adapter_parts(trainer.model)
    assert base == sum(p.numel() for p in make_model().parameters())
    assert [part.name for part in parts] == [BLOCKS[0], BLOCKS[2], "classifier"]
    assert sum(part.num_parameters for part in parts) == trainer.model.num_parameters(only_trainable=True)


def test_blocks_that_were_given_have_no_search(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.search()
    trainer.train(blocks=[1])
    if set(trainer.result.blocks) == {BLOCKS[1]}:
        pytest.fail("the search must have chosen other blocks for this test")
    trainer.save_model()
    assert "How the blocks were found" not in card_of(tmp_path).text


def test_evaluations_of_other_models_are_not_told(tmp_path):
    trainer = make_trainer(tmp_path, eval_dataset=Rows(9, seed=3), args={"eval_strategy": "epoch"})
    trainer.evaluate()  # of the base
    trainer.train(blocks=[0])  # evaluates as it goes
    trainer.evaluate(trainer.train_dataset)
    trainer.save_model()
    assert card_of(tmp_path).data.eval_results is None
    trainer.predict(Rows(12, seed=5))
    trainer.save_model()
    assert {one.dataset_split for one in card_of(tmp_path).data.eval_results} == {"test"}
    assert "12 rows" in card_of(tmp_path).text
    trainer.train(blocks=[1])
    trainer.save_model()
    assert card_of(tmp_path).data.eval_results is None


def test_several_evaluation_sets_are_told_apart(tmp_path):
    sets = {"a": Rows(6, seed=3), "b": Rows(9, seed=4)}
    trainer = trained(tmp_path, eval_dataset=sets)
    trainer.evaluate()
    trainer.save_model()
    text = card_of(tmp_path).text
    assert "`eval_a`, 6 rows" in text and "`eval_b`, 9 rows" in text


def test_rows_that_stopped_the_training_are_no_test(tmp_path):
    args = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    args |= {"metric_for_best_model": "accuracy"}
    stop = lambda: EarlyStoppingCallback(1)  # noqa: E731
    trainer = trained(tmp_path, eval_dataset=Rows(9, seed=3), args=args, callbacks=[stop])
    trainer.evaluate()
    trainer.save_model()
    assert card_of(tmp_path).data.eval_results is None and "is no test" in card_of(tmp_path).text
    trainer.evaluate(Rows(9, seed=8), metric_key_prefix="test")
    trainer.save_model()
    assert {one.dataset_split for one in card_of(tmp_path).data.eval_results} == {"test"}


def test_a_card_that_somebody_wrote_stays_to_the_byte(tmp_path):
    words = b"---\r\ntags:\r\n- mine\r\n---\r\n# Mine"
    (tmp_path / "README.md").write_bytes(words)
    trainer = trained(tmp_path)
    trainer.save_model()
    trainer.create_model_card()
    assert (tmp_path / "README.md").read_bytes() == words and (tmp_path / "adapter_config.json").exists()
    assert not (tmp_path / "pictures").exists()


def test_words_of_the_author_hold_for_later_cards(tmp_path):
    trainer = trained(tmp_path)
    trainer.create_model_card(
        license="mit", language="en", tags="mine", model_name="Photos", dataset_tags=["user/photos"],
        dataset="My photos", finetuned_from="some-lab/net", tasks="image-feature-extraction",
    )  # fmt: skip
    trainer.save_model()
    data = card_of(tmp_path).data
    assert (data.license, data.language, data.base_model) == ("mit", "en", "some-lab/net")
    assert data.pipeline_tag == "image-feature-extraction" and data.datasets == ["user/photos"]
    assert "mine" in data.tags and "# Photos" in card_of(tmp_path).text and "My photos" in card_of(tmp_path).text


def test_nothing_trained_nothing_told(tmp_path):
    trainer = make_trainer(tmp_path / "out")
    for call in (trainer.create_model_card, trainer.push_to_hub):
        with pytest.raises(ArgumentsError, match="Call train\\(\\) first"):
            call()
    assert not (tmp_path / "out" / "README.md").exists()
    trainer.train(blocks=[0])
    with pytest.raises(ArgumentsError, match="with the blocks of this adapter"):
        trainer.create_model_card(comparison=[{"method": "LP"}])


@pytest.mark.parametrize("how", ["argument", "file"])
def test_a_comparison_is_told_where_it_is_about_these_blocks(tmp_path, how):
    rows = [{**row, "blocks": row["blocks"] and [BLOCKS[0]]} for row in comparison()]
    trainer = trained(tmp_path)
    if how == "argument":
        trainer.create_model_card(comparison=rows)
    else:
        (tmp_path / "results.json").write_text(json.dumps({"methods": rows}))
        trainer.create_model_card()
    assert "| FT | 0.7000 ± 0.0100 |" in card_of(tmp_path).text
    if how == "file":
        trainer.train(blocks=[1])
        trainer.create_model_card()
        assert "## Comparison" not in card_of(tmp_path).text


def test_a_damaged_journal_does_not_cost_the_adapter(tmp_path, caplog):
    trainer = trained(tmp_path)
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "rank-0000.jsonl").write_text("damaged\nmore\n")
    trainer.save_model()
    assert (tmp_path / "adapter_model.safetensors").exists() and "How to use" in card_of(tmp_path).text


def test_without_matplotlib_there_is_a_card_without_pictures(tmp_path, monkeypatch):
    import sys

    trainer = make_trainer(tmp_path)
    trainer.search()
    trainer.train()
    for name in [name for name in sys.modules if name.startswith("subtuning_hf.plots")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("subtuning_hf.plots", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    trainer.save_model()
    text = card_of(tmp_path).text
    assert "How the blocks were found" in text and "![" not in text and not (tmp_path / "pictures").exists()


def test_secrets_and_places_are_in_no_card(tmp_path):
    args = {"hub_token": "hf_secret", "hub_model_id": "user/x", "run_name": "my secret run", "study_tag": "tag one"}
    trainer = trained(tmp_path, args=args)
    trainer.save_model()
    text = str(card_of(tmp_path))
    assert "hf_secret" not in text and "secret run" not in text and str(tmp_path) not in text and "tag one" in text
    assert b"hf_secret" in (tmp_path / "training_args.bin").read_bytes()  # why that file is not pushed


def test_checkpoints_have_no_card_of_ours(tmp_path):
    trained(tmp_path, args={"save_strategy": "epoch"})
    (found,) = tmp_path.glob("checkpoint-*/README.md")
    assert "subtuning-hf" not in found.read_text()


def test_other_folders_get_a_card_without_the_journal(tmp_path):
    trainer = make_trainer(tmp_path / "out")
    trainer.search()
    trainer.train()
    trainer.save_model(str(tmp_path / "other"))
    text = card_of(tmp_path / "other").text
    assert "folder `journal`" not in text and "How the blocks were found" in text
    assert (tmp_path / "other" / "pictures" / "profile.png").exists()
