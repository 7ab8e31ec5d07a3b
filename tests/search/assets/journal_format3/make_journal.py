"""
Makes the journal beside it: two writers, all that format 2 had, and what came with format 3: two searches that predict,
so proposals, one of which trains its shortlist for a share of the steps; a torn tail.

Run once, by the first version that wrote journal format 3. The files must stay readable for ever: do not make them
again when the format changes, but add a folder for the new format.

    python make_journal.py FOLDER
"""

import math
import sys
from pathlib import Path

from subtuning_hf.search.greedy import SearchState, replay
from subtuning_hf.search.journal import Journal
from subtuning_hf.search.proposals import Predicted, ProposalRun, confirm
from subtuning_hf.search.records import BlockInfo, Candidate, Evaluation, FinalRun, SearchSpec, StudySpec, Unit

BLOCKS = ("encoder.layer.0", "encoder.layer.1", "encoder.layer.2")
RIGHT = {
    "": (20, 18),
    "0": (30, 33),
    "1": (24, 25),
    "2": (28, 27),
    "01": (33, 35),
    "02": (38, 36),
    "12": (30, 29),
    "012": (37, 37),
}
SIZES = (50, 49)
SPEC = StudySpec(
    blocks=tuple(BlockInfo(name, 1000 + place) for place, name in enumerate(BLOCKS)),
    num_folds=2,
    metric="eval_accuracy",
    greater_is_better=True,
    fingerprints={"stem": "5e1f", "blocks": "0b7c", "data": "c0de", "settings": "77aa", "study_tag": ""},
    settings={"arguments": {"learning_rate": 0.001, "num_train_epochs": 3.0, "label_names": None}, "model": "Bert"},
    environment={"python": "3.11.7", "torch": "2.5.1", "threads": 1, "device": "cpu"},
)
CHOSEN = Candidate((BLOCKS[0], BLOCKS[2]))
SEARCHES = (
    SearchSpec(strategy="exact", direction="forward", max_blocks=3, min_gain=None),
    SearchSpec(direction="best", pruner="halving", reduction=2, smallest_budget=0.5, max_block_parameters=2500),
    SearchSpec(direction="list", candidates=(CHOSEN, Candidate(BLOCKS[:1])), min_gain=0.01, pruner="race"),
)
PREDICTED = tuple(
    Predicted(Candidate(tuple(BLOCKS[int(digit)] for digit in digits)), scores, 0.0625)
    for digits, scores in (("02", (0.75, 0.5)), ("0", (0.5, 0.625)), ("2", (0.25, 0.375)), ("", (-0.125, 0.0)))
)
SHORTLIST = tuple(each.candidate for each in PREDICTED[:2])
PROPOSALS = (
    ProposalRun(
        search=SearchSpec(strategy="kernel", max_blocks=2, budget=1.0),
        predictions=PREDICTED,
        shortlist=SHORTLIST,
        folds=(1,),
        share=0.375,
        fine_tunes=0.5,
        planned=0.9375,
        seconds=2.5,
        info={"started": 1700000000.5},
    ),
    ProposalRun(
        SearchSpec(strategy="one-shot", direction="backward", budget=0.25),
        PREDICTED,
        SHORTLIST[:1],
        (),
        1.0,
        0.25,
        0.25,
        4,
    ),
)


def evaluation(unit: Unit, right: int | None = None) -> Evaluation:
    digits = "".join(name[-1] for name in unit.candidate.blocks)
    right = RIGHT[digits][unit.fold] if right is None else right
    score = right / SIZES[unit.fold] * (1 if unit.budget == 1 else 0.75)
    return Evaluation(
        unit.candidate,
        unit.fold,
        score,
        SIZES[unit.fold],
        metrics={"eval_accuracy": score, "eval_f1": math.nan, "eval_loss": 1.5 - score},
        trainable_parameters=10 + 1000 * len(unit.candidate.blocks),
        seconds=0.25 * (1 + len(unit.candidate.blocks)),
        info={"steps": 12, "note": "Schlüssel"},
        repeat=unit.repeat,
        budget=unit.budget,
    )


def rounds_of(state: SearchState) -> list:
    return [round_ for part in state.parts or (state,) for round_ in part.rounds]


def main(folder: Path) -> None:
    with Journal.open(folder, SPEC) as zero, Journal.open(folder, SPEC, "rank-0001") as one:
        for search in SEARCHES:
            zero.append(search)
            while not (state := replay(SPEC, search, zero.read().evaluations)).finished:
                unit = state.pending[0]
                (one if unit.fold else zero).append(evaluation(unit))
            for round_ in rounds_of(state):
                zero.append(round_.decision)
        for run in PROPOSALS:
            zero.append(run)
            zero.append(run.search)
            for unit in run.units:
                one.append(evaluation(unit))
            zero.append(confirm(run, zero.read().evaluations).rounds[0].decision)
        for seed in (42, 43):
            metrics = {"eval_accuracy": seed / 64, "eval_f1": math.nan}
            zero.append(FinalRun(CHOSEN, seed, metrics, 2010, 1.5, {"rows": "7e57", "started": 1700000000.25}))
        one.append(evaluation(Unit(Candidate(), 1), right=0))  # made again, with another result: the first counts
        one.append(evaluation(Unit(CHOSEN, 1, repeat=1), right=40))  # a repeat that lacks a fold: no search reads it
        one.append(evaluation(Unit(Candidate(BLOCKS[1:]), 0), right=50))
        lines = one.path.read_bytes()
    one.path.write_bytes(lines[:-20])  # as if killed while writing the last of these
    for lock in folder.glob("*.lock"):
        lock.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
