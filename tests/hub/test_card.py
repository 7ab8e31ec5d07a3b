"""The card of an adapter: one is pinned as a whole, and none says what is not known or breaks by a name."""

import json
import math
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData

from hub.cases import CHOSEN, PICTURES, comparison, facts, predicted
from plots.studies import NAMES, result_of, study_of
from subtuning_hf.hub import Measured, Part, Source, is_own_card, model_card, read_comparison, write_card
from subtuning_hf.hub.card import MARK, metadata
from subtuning_hf.search.records import Candidate, SearchSpec

GOLDEN = Path(__file__).parent / "assets" / "card.md.txt"


def body(card):
    return card.text


def test_the_card_is_what_it_was():
    found = str(model_card(facts(), PICTURES))
    assert found == GOLDEN.read_text(encoding="utf-8")


def test_the_metadata_survive_a_round_trip():
    card = model_card(facts())
    again = ModelCard(str(card))
    assert again.data.to_dict() == card.data.to_dict() == ModelCardData(**card.data.to_dict()).to_dict()
    data = yaml.safe_load(card.data.to_yaml())
    assert data["base_model"] == "some-lab/net-6" and data["base_model_relation"] == "adapter"
    assert data["tags"] == ["subtuning", "peft", "base_model:adapter:some-lab/net-6", "vision"]
    assert data["library_name"] == "peft" and data["pipeline_tag"] == "image-classification"
    assert data["datasets"] == ["user/flowers"] and data["metrics"] == ["accuracy"]


def test_results_are_of_test_rows_and_never_of_folds():
    results = model_card(facts()).data.eval_results
    assert {(one.metric_type, one.metric_value, one.dataset_split) for one in results} == {
        ("loss", 0.5, "test"),
        ("accuracy", 0.76, "test"),
    }
    for measured in ((), (Measured("eval", {"accuracy": 0.9}, 30, steered=True),)):
        card = model_card(facts(measured=measured))
        assert card.data.eval_results is None and "model-index" not in str(card)
        assert "not scored on rows that it had not seen" in body(card)
    assert "is no test" in body(card) and "0.9000" in body(card)
    # Where nobody knows the data set, the Hub still wants a name; a word before a metric is no split.
    other = model_card(facts(measured=(Measured("held", {"accuracy": math.nan, "f1": 0.5}),), datasets=())).data
    assert [(one.metric_type, one.dataset_type, one.dataset_split) for one in other.eval_results] == [
        ("f1", "unknown", None)
    ]


def test_what_is_not_known_is_not_told():
    parts = (Part("classifier", 12, is_block=False),)
    nothing = dict.fromkeys(("base", "base_revision", "task", "num_blocks", "result", "study", "train_rows"))
    nothing |= dict.fromkeys(("source", "seed", "steps", "epochs", "device", "license"))
    empty = dict.fromkeys(("labels", "measured", "comparison", "tags"), ())
    card = model_card(
        facts(parts=parts, **nothing, **empty, arguments={}, versions={}, has_journal=False, has_processor=False)
    )
    headings = re.findall("^## (.*)$", body(card), re.MULTILINE)
    assert headings == ["What was trained", "How to use", "Limits"]
    assert yaml.safe_load(card.data.to_yaml()) == {"library_name": "peft", "tags": ["subtuning", "peft"]}
    assert "None" not in str(card) and "Only its output layer was trained" in body(card)
    assert "AutoPeftModel" not in body(card) and "subtuning predict" not in body(card)


def test_names_of_users_stay_names():
    nasty = [
        "<i>",
        "| a | b |",
        "```",
        "<script>alert(1)</script>",
        "[x](http://evil)",
        "- item\n# heading",
        "*bold*",
        "$x$",
        "",
    ]
    source = Source("user/data: {x: y}", "a|b\n---\nc")
    measured = (Measured("te|st", {"acc|uracy": 0.5, "<b>": 0.1}, 3),)
    arguments = {"study_tag": '```\n# broken "out" \\', "metric_for_best_model": "a`b"}
    card = model_card(
        facts(title="# <i>x</i> | y", labels=tuple(nasty), source=source, measured=measured, arguments=arguments,
              dataset_names=("x | y\n## z",), tags=("a: b", "- c"))
    )  # fmt: skip
    again = ModelCard(str(card))
    assert again.data.to_dict() == card.data.to_dict()
    assert {"a: b", "- c"} <= set(again.data.tags)
    prose = without_code(body(card))
    assert "<script>" not in prose and "<b>" not in prose and "<i>" not in prose and "](http://evil)" not in prose
    headings = re.findall("^#+ (.*)$", prose, re.MULTILINE)
    assert headings[0] == r"\# \<i\>x\</i\> \| y" and not any("broken" in one or "heading" in one for one in headings)
    for lines in re.findall(r"(?:^\|.*\|\n)+", prose, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines.splitlines()}) == 1, lines


def without_code(text):
    """Markdown without its blocks and spans of code."""
    text = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", text)


def test_the_code_of_the_card_is_python():
    for card in (model_card(facts()), model_card(facts(base=None, task=None))):
        blocks = re.findall("^```python\n(.*?)^```$", body(card), re.MULTILINE | re.DOTALL)
        assert len(blocks) >= 3
        for block in blocks:
            compile(block, "card", "exec")
    call = next(block for block in blocks if "GreedySubTuningArguments" in block)
    made = eval(call, {"GreedySubTuningArguments": lambda folder, **values: values})
    assert made == {**facts().arguments, "seed": 7}


@pytest.mark.parametrize("direction", ["backward", "best", "list"])
def test_every_direction_has_its_ladder(direction):
    candidates = (Candidate(NAMES[:1]), Candidate(NAMES[2:4])) if direction == "list" else ()
    study = study_of(NAMES, {NAMES[4]: 0.2}, [SearchSpec(direction=direction, candidates=candidates)])
    result = result_of(study)
    text = body(model_card(facts(result=result, study=study)))
    for part in result.parts or (result.rounds,):
        assert f"| {len(part) - 1} |" in text
    assert {"backward": "block removed", "best": "### Backward", "list": "chosen"}[direction] in text


def test_losses_are_shown_as_they_are():
    study = study_of(NAMES, {NAMES[4]: 0.2}, loss=True)
    text = body(model_card(facts(result=result_of(study), study=study)))
    assert "`eval_loss` (lower is better)" in text
    start = next(line for line in text.splitlines() if line.startswith("| 0 | head only"))
    assert 0.49 < float(start.split("|")[3]) < 0.51  # the score is -0.5


def test_a_search_that_predicts_tells_what_was_trained():
    result, study = predicted()
    text = body(model_card(facts(result=result, study=study)))
    assert "strategy `short-profile`" in text and "trained with 50 % of the steps on folds 0, 2" in text
    rows = [line for line in text.splitlines() if line.startswith("| `net") or line.startswith("| head only")]
    rows = rows[-4:]
    assert [line.split("|")[2].strip() for line in rows] == ["0.9000", "0.8000", "0.7000", "0.6000"]
    assert [bool(line.split("|")[3].strip()) for line in rows] == [True, True, False, False]
    assert "0.90 full fine-tunes, 0.40 of them to predict" in text
    assert "trained for a part of the steps" in text


def test_several_seeds_are_mean_and_spread():
    text = body(model_card(facts()))
    assert "| `eval_accuracy` | 0.7600 | 0.0141 |" in text and "eval_runtime" not in text and "seeds 0, 2" in text


# --- beside the adapter ---------------------------------------------------------------------
def test_only_cards_of_machines_are_replaced(tmp_path):
    file, card = tmp_path / "README.md", model_card(facts())
    assert write_card(card, tmp_path) and file.read_text() == str(card)
    assert write_card(model_card(facts(title="other")), tmp_path) and "# other" in file.read_text()
    mine = file.read_text().replace(MARK, "")
    for words in (mine, "# My model\n", "---\nlicense: mit\n---\nMine, see [subtuning-hf](x)."):
        file.write_text(words)
        assert is_own_card(file) and not write_card(card, tmp_path) and file.read_text() == words
    file.write_text("  \n")
    assert write_card(card, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md"]


def test_the_form_of_peft_is_no_card_until_it_is_filled_in(tmp_path):
    from peft import get_peft_model

    from subtuning_hf import SubTuningConfig
    from training.cases import make_model

    get_peft_model(make_model(), SubTuningConfig(blocks=[0])).save_pretrained(tmp_path)
    file = tmp_path / "README.md"
    assert not is_own_card(file)
    file.write_text(file.read_text().replace("[More Information Needed]", "Photos of my garden.", 1))
    assert is_own_card(file)


# --- comparisons ----------------------------------------------------------------------------
def test_a_comparison_is_read_where_it_is_about_these_blocks(tmp_path):
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"methods": comparison()}))
    assert read_comparison([tmp_path / "none", tmp_path], CHOSEN[::-1]) == comparison()
    assert read_comparison([tmp_path], NAMES[:1]) == []


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"methods": 3}', '{"methods": [1, 2]}', '{"methods": [{"method": "LP"}, {}]}', '"x"']
)
def test_other_files_of_this_name_are_left_alone(content, tmp_path):
    (tmp_path / "results.json").write_text(content)
    assert read_comparison([tmp_path], CHOSEN) == []


def test_a_comparison_with_a_number_that_is_none_is_refused(tmp_path):
    rows = comparison()
    rows[0]["mean"] = math.nan
    (tmp_path / "results.json").write_text(json.dumps({"methods": rows}))
    assert read_comparison([tmp_path], CHOSEN) == []


def test_metadata_of_a_base_that_is_not_on_the_hub():
    assert not any(tag.startswith("base_model") for tag in metadata(facts(base=None)).tags)
