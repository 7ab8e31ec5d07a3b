"""Where a search may start: what the journal beside an adapter says was chosen, and why that may not be used."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from hub.test_push import OWNER
from subtuning_hf.errors import AdapterFileError
from subtuning_hf.hub.starting import in_order, read_start
from subtuning_hf.search import Candidate, Decision, read_study
from training.cases import Rows, make_trainer


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A folder with a searched and trained adapter, and its trainer."""
    folder = tmp_path_factory.mktemp("starting")
    trainer = make_trainer(folder / "out", args=OWNER)
    trainer.search()
    trainer.train()
    trainer.save_model()
    return trainer, folder / "out"


@pytest.fixture
def copied(searched, tmp_path):
    shutil.copytree(searched[1], tmp_path / "adapter")
    return tmp_path / "adapter"


def spec_of(folder, **changes):
    """The study of another task on the same base: other data, folds and settings."""
    spec = read_study(folder / "journal").spec
    others = {name: "00" for name in spec.fingerprints if name not in ("stem", "blocks")}
    return replace(spec, fingerprints={**spec.fingerprints, **others, **changes})


def journal_of(folder):
    return folder / "journal" / "rank-0000.jsonl"


def lines_of(folder):
    return journal_of(folder).read_text().splitlines()


def write(folder, lines):
    journal_of(folder).write_text("".join(f"{line}\n" for line in lines))


def test_blocks_in_the_order_of_the_search(searched, tmp_path):
    trainer, folder = searched
    start = read_start(folder, spec_of(folder))
    assert start.usable and start.ordered and start.obstacles == ()
    assert start.blocks == trainer.result.blocks and start.blocks
    other = make_trainer(tmp_path / "other", train_dataset=Rows(30, seed=5))
    other.profile()
    assert read_start(folder, other.study().spec) == start  # a study of other data, as it really is


def test_the_order_is_that_of_adding(copied):
    """A ladder of two that was begun with the later block; the adapter lists them in forward order."""
    names = [block.name for block in read_study(copied / "journal").spec.blocks]
    header = lines_of(copied)[0]
    chain = [Candidate(()), Candidate((names[2],)), Candidate((names[0], names[2]))]
    told = [Decision(r, winner, None, None, None, "so") for r, winner in enumerate(chain)]
    write(copied, [header, *(json.dumps({"type": "decision", **one.to_json()}, separators=(",", ":")) for one in told)])
    config = json.loads((copied / "adapter_config.json").read_text()) | {"blocks": [names[0], names[2]]}
    (copied / "adapter_config.json").write_text(json.dumps(config))
    start = read_start(copied, spec_of(copied))
    assert start.usable and start.blocks == (names[2], names[0])


def test_scores_are_not_looked_at(copied):
    """Whatever scores say, even that they are no numbers, the answer is the same; and a cut last line is left out."""
    spec = spec_of(copied)
    before = read_start(copied, spec)
    kept = [line for line in lines_of(copied) if '"type":"evaluation"' not in line]
    assert len(kept) < len(lines_of(copied))
    write(copied, [*kept[:1], '{"type":"evaluation","score":1e999,"candidate":"evil"}', *kept[1:]])
    with open(journal_of(copied), "a") as file:
        file.write('{"type":"decision","round":0,"win')
    assert read_start(copied, spec) == before and before.usable


@pytest.mark.parametrize("part", ["stem", "blocks"])
def test_other_weights(searched, part):
    start = read_start(searched[1], spec_of(searched[1], **{part: "ff"}))
    assert not start.usable and "other weights in" in start.obstacles[0] and start.blocks
    spec = spec_of(searched[1])
    fingerprints = {name: value for name, value in spec.fingerprints.items() if name != part}
    assert "Nothing says" in read_start(searched[1], replace(spec, fingerprints=fingerprints)).obstacles[0]


def test_other_blocks(searched):
    spec = spec_of(searched[1])
    renamed = tuple(replace(block, name=f"vit.{block.name}") for block in spec.blocks)
    start = read_start(searched[1], replace(spec, blocks=renamed))
    assert "which are others" in start.obstacles[0] and "none of the" in start.obstacles[1]
    larger = tuple(replace(block, num_parameters=block.num_parameters + 1) for block in spec.blocks)
    assert "parameters, here it has" in read_start(searched[1], replace(spec, blocks=larger)).obstacles[0]
    few = replace(spec, blocks=spec.blocks[:1])
    assert "another choice of `blocks`" in read_start(searched[1], few).obstacles[0]


def test_no_journal_and_one_of_something_else(copied):
    spec = spec_of(copied)
    config = json.loads((copied / "adapter_config.json").read_text())
    others = [block.name for block in spec.blocks if block.name not in config["blocks"]]
    (copied / "adapter_config.json").write_text(json.dumps({**config, "blocks": others[:1]}))
    start = read_start(copied, spec)
    assert start.obstacles == ("No search in its journal ended with its blocks.",) and not start.ordered
    shutil.rmtree(copied / "journal")
    assert "no journal beside it" in read_start(copied, spec).obstacles[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: ["[" * 100_000, *lines[1:]], "line 1 is not JSON"),
        (lambda lines: ['{"type":"evaluation"}', *lines], "not the header of a study"),
        (lambda lines: [lines[0].replace('"format":3', '"format":99'), *lines[1:]], "format 99"),
        (lambda lines: [lines[0].replace('"blocks":[', '"blocks":[1,'), *lines[1:]], "cannot be read"),
        (lambda lines: ['{"type":"study","format":3,"blocks":[' + '"a",' * 5000 + '"a"]}'], "5,001 blocks"),
        (lambda lines: [*lines, '{"type":"decision","round":0,"winner":{"blocks":["a","b","c","d","e","f","g","h"]}}'],
         "more blocks than there are"),
        (lambda lines: [*lines, '{"type":"decision","round":-1}'], "cannot be read"),
        (lambda lines: [lines[0], *['{"type":"decision","round":0,"winner":null,"gain":null,"standard_error":null,'
                                    '"threshold":null,"reason":"x"}'] * 10_001], "more than 10,000 times"),
    ],
)  # fmt: skip
def test_damaged_and_hostile_journals(copied, change, message):
    spec = spec_of(copied)
    write(copied, change(lines_of(copied)))
    start = read_start(copied, spec)
    assert not start.usable and any(message in each for each in start.obstacles)


def test_sizes_links_and_no_adapter(copied, tmp_path):
    spec = spec_of(copied)
    with open(journal_of(copied), "ab") as file:
        file.truncate(2**36)
    assert "are read" in read_start(copied, spec).obstacles[0]
    journal_of(copied).unlink()
    (tmp_path / "secret").write_text("s3cret\n")
    journal_of(copied).symlink_to(tmp_path / "secret")
    found = read_start(copied, spec).obstacles[0]
    assert "out of the adapter's folder" in found and "s3cret" not in found
    for text in ("{}", '{"blocks": "a"}', '{"blocks": [1]}', '{"blocks": ["a", "a"]}', "[]"):
        (copied / "adapter_config.json").write_text(text)
        with pytest.raises(AdapterFileError):
            read_start(copied, spec)
    with pytest.raises(AdapterFileError, match="There is no adapter"):
        read_start(tmp_path, spec)


def test_from_the_hub(searched, hub):
    trainer, folder = searched
    trainer.push_to_hub(revision="second", private=True)
    spec = spec_of(folder)
    with pytest.raises(AdapterFileError, match="There is no adapter 'user/stripes'"):
        read_start("user/stripes", spec, revision="second")
    start = read_start("user/stripes", spec, revision="second", token="hf_owner")
    assert start == replace(read_start(folder, spec), source="user/stripes") and start.usable
    repo = hub.repos["user/stripes"]
    repo.commit("second", {"journal/rank-0000.jsonl": b" " * (33 * 2**20)}, "large")
    asked = len(hub.asked("rank-0000"))
    assert "are read" in read_start("user/stripes", spec, revision="second", token="hf_owner").obstacles[0]
    assert len(hub.asked("rank-0000")) == asked  # it is not even downloaded


def test_in_order():
    def said(*steps, direction="forward"):
        return [
            Decision(r, None if names is None else Candidate(tuple(names)), None, None, None, "so", direction)
            for r, names in steps
        ]

    ladder = said((0, ""), (1, "c"), (2, "ac"), (3, "abc"), (4, None))
    assert in_order("abc", ladder) == ["c", "a", "b"] and in_order("ac", ladder) == ["c", "a"]
    assert in_order("", ladder) == [] and in_order("b", ladder) is None and in_order("b", []) is None
    assert in_order("ac", said((0, "abc"), (1, "ac"), direction="backward")) == ["a", "c"]
    again = [*ladder, *said((0, ""), (1, "b"), (2, "bc"), (3, "abc"))]
    assert in_order("abc", again) == ["b", "c", "a"]  # the last search that ended so
    assert in_order("ac", said((2, "ac"))) == ["a", "c"]  # how it came to it is not there
