"""Searches that start from an adapter: its blocks are tried first, its scores count for nothing, its base must fit."""

import json
import shutil

import pytest

from hub.test_push import OWNER
from subtuning_hf.errors import AdapterFileError, AdapterMismatchError, ArgumentsError
from subtuning_hf.search.journal import read_study
from subtuning_hf.training.dry_run import SearchPlan
from training.cases import BLOCKS, Rows, make_model, make_trainer

# Enough for three steps of every block and two trainings.
KERNEL = {"strategy": "kernel", "num_train_epochs": 4, "search_budget": 4.0, "prefix_cache": False}


def adapter_in(folder, names, **args):
    """A trainer whose search chose these blocks of the same base for other rows, with its adapter."""
    listed = [[BLOCKS.index(name) for name in names]]
    settings = {**OWNER, "direction": "list", "candidates": listed, "min_gain": 0.0, **args}
    trainer = make_trainer(folder, train_dataset=Rows(18, seed=7), args=settings, compute_metrics=None)
    trainer.search()
    assert trainer.result.blocks == tuple(names)  # its head was drawn at random: anything is better
    trainer.train()
    trainer.save_model()
    return trainer


@pytest.fixture(scope="module")
def middle(tmp_path_factory):
    """The trainer and the folder of an adapter of the middle block."""
    folder = tmp_path_factory.mktemp("other") / "stripes"
    return adapter_in(folder, BLOCKS[1:2]), folder


def tried(folder):
    """Candidates in the order in which they were trained."""
    return list(dict.fromkeys(each.candidate.blocks for each in read_study(folder / "journal").evaluations))


def test_an_exact_search_tries_them_first_and_ends_where_it_would(middle, tmp_path):
    plain = make_trainer(tmp_path / "plain").search()
    started = make_trainer(tmp_path / "started").search(start_from=middle[1])
    assert tried(tmp_path / "plain")[1:4] == [(name,) for name in BLOCKS]
    assert tried(tmp_path / "started")[1:4] == [(BLOCKS[1],), (BLOCKS[0],), (BLOCKS[2],)]
    assert (started.blocks, started.reason) == (plain.blocks, plain.reason)
    scores = [
        {each.unit: each.score for each in read_study(tmp_path / name / "journal").evaluations}
        for name in ("plain", "started")
    ]
    assert scores[0] == scores[1]
    (search,) = read_study(tmp_path / "started" / "journal").searches
    assert search.start.to_json() == {"blocks": [BLOCKS[1]], "source": "stripes", "revision": None}


def test_one_study_holds_searches_with_and_without(middle, tmp_path):
    first = make_trainer(tmp_path).search()
    before = len(read_study(tmp_path / "journal").evaluations)
    again = make_trainer(tmp_path, args={"start_from": str(middle[1])}).search()
    known = read_study(tmp_path / "journal")
    assert again.blocks == first.blocks and len(known.evaluations) == before  # an order is no reason to train again
    assert [search.start is None for search in known.searches] == [True, False]


def test_the_final_training_searches_from_there(middle, tmp_path):
    trainer = make_trainer(tmp_path, args={"start_from": str(middle[1]), "max_blocks": 1})
    trainer.train()
    assert tried(tmp_path)[1] == (BLOCKS[1],)
    (search,) = read_study(tmp_path / "journal").searches
    assert search.start.blocks == (BLOCKS[1],)
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert str(middle[1]) not in card and str(middle[1]) not in json.dumps(search.to_json())


def test_a_search_that_predicts_trains_them_beside_the_best(middle, tmp_path):
    plain = make_trainer(tmp_path / "plain", args=KERNEL).search().proposal
    result = make_trainer(tmp_path / "started", args=KERNEL).search(start_from=middle[1])
    run = result.proposal
    assert run.search.start.blocks == (BLOCKS[1],) and plain.search.start is None
    assert run.shortlist[0] == plain.shortlist[0] and run.predictions == plain.predictions
    assert (BLOCKS[1],) in [one.blocks for one in run.shortlist[:2]] and run.units
    known = read_study(tmp_path / "started" / "journal").evaluations
    assert {each.candidate for each in known} == set(run.shortlist) and run.planned <= 4.0
    again = make_trainer(tmp_path / "started", args=KERNEL).search(start_from=middle[1])
    assert again.proposal == run and len(read_study(tmp_path / "started" / "journal").evaluations) == len(known)


def test_the_default_search_keeps_half_of_its_budget_for_them(middle, tmp_path):
    args = {"strategy": "short-profile", "num_train_epochs": 16, "search_budget": 1.0, "prefix_cache": False}
    plan = make_trainer(tmp_path, args={**args, "dry_run": True}).search(start_from=middle[1])
    assert isinstance(plan, SearchPlan) and [round_.name for round_ in plan.rounds][1:] == ["train the best"]
    assert len(make_trainer(tmp_path, args={**args, "dry_run": True}).search().rounds) == 1
    run = make_trainer(tmp_path, args=args).search(start_from=middle[1]).proposal
    assert 0 < run.fine_tunes <= 0.5 and run.planned <= 1.0
    assert (BLOCKS[1],) in [one.blocks for one in run.shortlist[:2]] and run.units
    alone = make_trainer(tmp_path / "alone", args=args).search().proposal
    assert alone.fine_tunes > 0.5 and alone.units == ()


def test_another_base_is_refused_before_anything_is_trained(middle, tmp_path):
    with pytest.raises(AdapterMismatchError, match="cannot start from .*other weights in .*leave `start_from` out"):
        make_trainer(tmp_path / "out", model=make_model(seed=1)).search(start_from=middle[1])
    assert not (tmp_path / "out" / "journal").exists()


def test_what_is_no_adapter_or_has_no_journal_is_refused(middle, tmp_path):
    shutil.copytree(middle[1], tmp_path / "bare", ignore=shutil.ignore_patterns("journal"))
    with pytest.raises(AdapterMismatchError, match="no journal beside it"):
        make_trainer(tmp_path / "out").search(start_from=tmp_path / "bare")
    with pytest.raises(AdapterFileError, match="There is no adapter in"):
        make_trainer(tmp_path / "out").search(start_from=tmp_path)
    for wrong in ("", 3):
        with pytest.raises(ArgumentsError, match="`start_from` must be the folder or Hub name"):
            make_trainer(tmp_path / "out", args={"start_from": wrong})


def test_from_the_hub_at_a_revision(middle, hub, tmp_path):
    trainer, _ = middle
    trainer.push_to_hub(private=True)
    first = hub.repos["user/stripes"].resolve("main")
    trainer.push_to_hub(revision="second")
    with pytest.raises(AdapterFileError, match="There is no adapter 'user/stripes'"):
        make_trainer(tmp_path / "out").search(start_from="user/stripes")
    for name, commit in (("user/stripes", first), ("user/stripes@second", hub.repos["user/stripes"].resolve("second"))):
        out = tmp_path / commit
        make_trainer(out, args={"hub_token": "hf_owner", "max_blocks": 1}).search(start_from=name)
        (search,) = read_study(out / "journal").searches
        assert search.start.to_json() == {"blocks": [BLOCKS[1]], "source": "user/stripes", "revision": commit}
        assert tried(out)[1] == (BLOCKS[1],)
    with pytest.raises(AdapterFileError, match="There is no adapter 'user/stripes'"):
        make_trainer(tmp_path / "out", args={"hub_token": "hf_owner"}).search(start_from="user/stripes@third")
