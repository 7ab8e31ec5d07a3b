"""Searches in every direction, with every pruner and bound, and profiles: by real trainings, one journal under them."""

import pytest

from subtuning_hf.errors import ArgumentsError, BlockSelectionError, DataError, StudyMismatchError
from subtuning_hf.search.finals import summarise
from subtuning_hf.search.greedy import replay
from subtuning_hf.search.journal import read_study
from subtuning_hf.search.records import Candidate
from training.cases import BLOCKS, Rows, assert_same_state, count_trainings, make_model, make_trainer, state_of


def units(folder):
    return [evaluation.unit for evaluation in read_study(folder / "journal").evaluations]


def sizes(result):
    return [len(round_.candidates) for round_ in result.rounds]


# --- directions -------------------------------------------------------------------------------
def test_backward_starts_from_all_blocks_and_leaves_the_base_alone(tmp_path):
    model = make_model()
    trainer = make_trainer(tmp_path, model=model, args={"direction": "backward"})
    before = state_of(model)
    result = trainer.search()
    assert_same_state(before, state_of(model))
    assert result.rounds[0].candidates == (Candidate(BLOCKS),)
    assert sizes(result)[:2] == [1, 3]
    assert set(result.blocks) <= set(BLOCKS) and list(result.blocks) == sorted(result.blocks, key=BLOCKS.index)
    assert "eval" in result.table() and str(result.cost.num_evaluations) in result.table()


def test_all_directions_share_one_journal(tmp_path, monkeypatch):
    trainings = count_trainings(monkeypatch)
    forward = make_trainer(tmp_path, args={"max_blocks": 3, "min_gain": 0.0}).search()
    backward = make_trainer(tmp_path, args={"max_blocks": 3, "direction": "backward", "min_gain": 0.0}).search()
    made = len(trainings)
    assert made == len(units(tmp_path)) == len(set(units(tmp_path)))
    best = make_trainer(tmp_path, args={"max_blocks": 3, "direction": "best", "min_gain": 0.0}).search()
    assert len(trainings) == made  # both halves were known
    assert set(best.blocks) in (set(forward.blocks), set(backward.blocks))
    # Alone in a folder of its own, it comes to the same.
    alone = make_trainer(tmp_path / "alone", args={"max_blocks": 3, "direction": "best", "min_gain": 0.0}).search()
    assert (alone.blocks, alone.reason) == (best.blocks, best.reason)


def test_a_list_of_ones_own(tmp_path):
    listed = [[0], ["resnet.encoder.stages.1.layers.*"], [2, 0]]
    result = make_trainer(tmp_path, args={"direction": "list", "candidates": listed}).search()
    wanted = [(BLOCKS[0],), BLOCKS[1:], (BLOCKS[0], BLOCKS[2])]
    assert {candidate.blocks for candidate in result.rounds[1].candidates} == set(wanted)
    assert result.blocks in [(), *wanted]
    assert len(units(tmp_path)) == 2 * (1 + 3)


@pytest.mark.parametrize(("named", "count"), [("pairs", 3), ("windows:2", 2)])
def test_lists_by_name(tmp_path, named, count):
    result = make_trainer(tmp_path, args={"direction": "list", "candidates": named}).search()
    assert sizes(result) == [1, count]


def test_lists_that_are_none(tmp_path, monkeypatch):
    trainings = count_trainings(monkeypatch)

    def refused(error, match, **args):
        with pytest.raises(error, match=match):
            make_trainer(tmp_path, args=args).search()

    refused(ArgumentsError, "Give both or neither", direction="list")
    refused(ArgumentsError, "Give both or neither", candidates=[[0]])
    refused(ArgumentsError, "'pairs' or 'windows:2', found 'pears'", direction="list", candidates="pears")
    refused(ArgumentsError, r"such as \[\[0\], \[0, 3\]\], found \[0, 1\]", direction="list", candidates=[0, 1])
    refused(
        BlockSelectionError, "none of the 1 blocks to choose from",
        direction="list", candidates=[[0]], blocks=[1],
    )  # fmt: skip
    refused(ArgumentsError, "holds an empty selection", direction="list", candidates=[[0], []])
    refused(ArgumentsError, "Did you mean 'backward'", direction="backwards")
    assert trainings == [] and not list(tmp_path.iterdir())


# --- bounds and pruners -----------------------------------------------------------------------
def test_a_bound_on_parameters_counts_the_head(tmp_path):
    model = make_model()
    head = sum(p.numel() for p in model.classifier.parameters())
    sizes_ = {b: sum(p.numel() for p in model.get_submodule(b).parameters()) for b in BLOCKS}
    bound = head + sizes_[BLOCKS[0]]
    result = make_trainer(tmp_path, args={"max_trainable_parameters": bound, "min_gain": 0.0}).search()
    tried = {e.candidate for round_ in result.rounds for e in round_.evaluations}
    assert tried == {Candidate(()), Candidate((BLOCKS[0],))}
    assert all(e.trainable_parameters <= bound for round_ in result.rounds for e in round_.evaluations)
    with pytest.raises(ArgumentsError, match="the head alone has 27, and it is always trained"):
        make_trainer(tmp_path / "other", args={"max_trainable_parameters": head - 1}).search()


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_a_race_decides_by_a_part_of_the_evaluations_of_the_exact_search(tmp_path, direction):
    args = {"num_folds": 4, "direction": direction, "max_blocks": 2}
    make_trainer(tmp_path / "exact", args=args).search()
    raced = make_trainer(tmp_path / "race", args={**args, "pruner": "race", "confidence": 0.6}).search()
    exact = {e.unit: e.score for e in read_study(tmp_path / "exact" / "journal").evaluations}
    made = {e.unit: e.score for e in read_study(tmp_path / "race" / "journal").evaluations}
    shared = exact.keys() & made.keys()
    assert all(exact[unit] == made[unit] for unit in shared)
    # Round for round up to the first that differs, a race makes a part of what the exact search makes.
    first = {e.unit for e in raced.rounds[0].evaluations + raced.rounds[1].evaluations}
    assert first <= exact.keys()
    assert [round_.pruned for round_ in raced.rounds] == [
        round_.pruned for round_ in replay(*replayed(tmp_path / "race", -1)).rounds
    ]


def replayed(folder, which):
    study = read_study(folder / "journal")
    return study.spec, study.searches[which], study.evaluations


def test_halving_trains_short_first_and_the_best_in_full(tmp_path):
    args = {"pruner": "halving", "reduction": 2, "smallest_budget": 0.5, "num_train_epochs": 4, "max_blocks": 1}
    make_trainer(tmp_path, args=args).search()
    found = read_study(tmp_path / "journal").evaluations
    short = [e for e in found if e.budget == 0.5]
    full = [e for e in found if e.budget == 1.0]
    assert {e.candidate for e in short} == {Candidate((name,)) for name in BLOCKS}
    assert {len(e.candidate.blocks) for e in full} == {0, 1} and len({e.candidate for e in full}) == 1 + 2
    # 12 training rows in batches of 8 make 2 steps an epoch.
    assert {e.info["steps"] for e in short} == {4} and {e.info["steps"] for e in full} == {8}


# --- granularity ------------------------------------------------------------------------------
def test_stages_and_parts_of_blocks_are_studies_of_their_own(tmp_path):
    stages = make_trainer(tmp_path / "stages", args={"granularity": "stage", "max_blocks": 1}).search()
    assert [row.label for row in stages.profile.rows] == ["resnet.encoder.stages.0", "resnet.encoder.stages.1"]
    parts = make_trainer(tmp_path / "parts", args={"granularity": "submodule", "max_blocks": 1}).search()
    names = [row.label for row in parts.profile.rows]
    assert len(names) > len(BLOCKS) and all(name.startswith(BLOCKS) for name in names)
    with pytest.raises(StudyMismatchError, match="blocks"):
        make_trainer(tmp_path / "stages", args={"granularity": "submodule"}).search()


def test_chosen_parts_are_trained(tmp_path):
    trainer = make_trainer(tmp_path, args={"granularity": "submodule", "max_blocks": 1, "min_gain": 0.0})
    result = trainer.search()
    trainer.train()
    assert list(trainer.model.peft_config["default"].blocks) == list(result.blocks)


# --- profiles and repeats ---------------------------------------------------------------------
def test_profile_and_search_share_their_evaluations_both_ways(tmp_path, monkeypatch):
    trainings = count_trainings(monkeypatch)
    make_trainer(tmp_path / "a").profile()
    assert len(trainings) == 2 * (1 + 3)
    make_trainer(tmp_path / "a", args={"max_blocks": 1}).search()
    assert len(trainings) == 2 * (1 + 3)
    make_trainer(tmp_path / "b", args={"max_blocks": 1}).search()
    make_trainer(tmp_path / "b").profile()
    assert len(trainings) == 2 * 2 * (1 + 3)
    same = [{e.unit: e.score for e in read_study(tmp_path / x / "journal").evaluations} for x in "ab"]
    assert same[0] == same[1]


def test_windows_pairs_and_repeats(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    assert [row.candidate.blocks for row in trainer.profile(window=2).rows] == [BLOCKS[:2], BLOCKS[1:]]
    pairs = trainer.profile(pairs=True)
    assert [row.candidate.blocks for row in pairs.rows] == [BLOCKS[:2], (BLOCKS[0], BLOCKS[2]), BLOCKS[1:]]
    trainings = count_trainings(monkeypatch)
    assert trainer.profile(window=3).rows[0].candidate == Candidate(BLOCKS) and len(trainings) == 2
    assert len(trainer.profile(repeats=2).rows) == 3
    assert len(trainings) == 2 + 2 * (2 * (1 + 3)) - 2  # the head alone was known for the first seed
    losses = {(e.candidate, e.fold, e.repeat): e.score for e in trainer.study().evaluations}
    assert all(losses[(c, f, 0)] != losses[(c, f, 1)] for c, f, r in losses if r == 1)


def test_a_profile_owns_its_journal_before_it_writes_the_head(tmp_path, monkeypatch):
    from subtuning_hf.errors import JournalBusyError

    first = make_trainer(tmp_path, model=make_model(head_seed=1))
    heads, refused = [], []

    def meanwhile(prediction):
        if (tmp_path / "journal").exists() and not heads:
            heads.append((tmp_path / "journal" / "initial_head.safetensors").read_bytes())
            with pytest.raises(JournalBusyError):
                make_trainer(tmp_path, model=make_model(head_seed=2), compute_metrics=first.compute_metrics).profile()
            refused.append(True)
        return {}

    first._recipe.trainer_kwargs["compute_metrics"] = first.compute_metrics = meanwhile
    first.profile()
    assert refused == [True]
    assert heads == [(tmp_path / "journal" / "initial_head.safetensors").read_bytes()]


def test_profiles_that_mean_nothing(tmp_path):
    trainer = make_trainer(tmp_path)
    for asked, match in (
        ({"window": 2, "pairs": True}, "Give one of the two"),
        ({"window": 9}, "1 to 3 blocks, found 9"),
        ({"repeats": 0}, "1 or more, found 0"),
    ):
        with pytest.raises(ArgumentsError, match=match):
            trainer.profile(**asked)
    assert not list(tmp_path.iterdir())


def test_final_repeats_train_on_all_rows_once_for_each_seed(tmp_path, monkeypatch):
    test = Rows(15, seed=9)
    trainer = make_trainer(tmp_path, args={"max_blocks": 1, "seed": 7})
    trainings = count_trainings(monkeypatch)
    runs = trainer.repeat(test, num_repeats=2, blocks=[1])
    assert [run.seed for run in runs] == [7, 8] and len(trainings) == 2
    assert {run.candidate.blocks for run in runs} == {(BLOCKS[1],)} and {run.info["train_rows"] for run in runs} == {24}
    more = trainer.repeat(test, num_repeats=3, blocks=[1])
    assert more[:2] == runs and len(trainings) == 3
    loss = next(score for score in summarise(more) if score.metric == "eval_loss")
    assert loss.num_runs == 3 and loss.spread > 0
    # Rows of another set are another measurement; the search never reads these runs.
    trainer.repeat(Rows(15, seed=10), num_repeats=1, blocks=[1])
    assert len(trainings) == 4
    result = trainer.search()
    assert len(trainings) == 4 + 2 * (1 + 3)
    assert result.blocks == make_trainer(tmp_path / "alone", args={"max_blocks": 1, "seed": 7}).search().blocks
    # It is the training that `train` makes.
    final = make_trainer(tmp_path / "final", args={"seed": 7})
    final.train(blocks=[1])
    assert final.evaluate(test)["eval_loss"] == runs[0].metrics["eval_loss"]


def test_final_repeats_score_one_data_set(tmp_path):
    trainer = make_trainer(tmp_path, eval_dataset={"one": Rows(seed=1), "other": Rows(seed=2)})
    with pytest.raises(DataError, match="`eval_dataset` holds several data sets: one, other. Pass one of them."):
        trainer.repeat(num_repeats=1, blocks=[0])
    assert len(trainer.repeat(trainer.eval_dataset["other"], num_repeats=1, blocks=[0])) == 1


def test_final_repeats_need_rows_that_trained_nothing(tmp_path):
    rows = Rows()
    with pytest.raises(DataError, match="needs rows to score"):
        make_trainer(tmp_path, train_dataset=rows).repeat(blocks=[0])
    with pytest.raises(DataError, match="is the `train_dataset`"):
        make_trainer(tmp_path, train_dataset=rows).repeat(rows, blocks=[0])
    with pytest.raises(ArgumentsError, match="1 or more, found 0"):
        make_trainer(tmp_path, train_dataset=rows).repeat(Rows(6, seed=3), num_repeats=0, blocks=[0])
    assert not list(tmp_path.iterdir())
