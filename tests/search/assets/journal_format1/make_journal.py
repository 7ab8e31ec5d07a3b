"""
Makes the journal beside it: two writers, a search that chose two blocks of three, one evaluation twice, a torn tail.

Run once, by the first version that wrote journal format 1. The files must stay readable for ever: do not make them
again when the format changes, but add a folder for the new format.

    python make_journal.py FOLDER
"""

import math
import sys
from pathlib import Path

from subtuning_hf.search.greedy import replay
from subtuning_hf.search.journal import Journal
from subtuning_hf.search.records import BlockInfo, Candidate, Evaluation, SearchSpec, StudySpec

BLOCKS = ("encoder.layer.0", "encoder.layer.1", "encoder.layer.2")
RIGHT = {"": (20, 18), "0": (30, 33), "1": (24, 25), "2": (28, 27), "01": (33, 35), "02": (38, 36), "012": (37, 37)}
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
SEARCH = SearchSpec(strategy="exact", direction="forward", max_blocks=3, min_gain=None)


def evaluation(candidate: Candidate, fold: int, right: int | None = None) -> Evaluation:
    digits = "".join(name[-1] for name in candidate.blocks)
    right = RIGHT[digits][fold] if right is None else right
    score = right / SIZES[fold]
    return Evaluation(
        candidate,
        fold,
        score,
        SIZES[fold],
        metrics={"eval_accuracy": score, "eval_f1": math.nan, "eval_loss": 1.5 - score},
        trainable_parameters=10 + 1000 * len(candidate.blocks),
        seconds=0.25 * (1 + len(candidate.blocks)),
        info={"steps": 12, "note": "Schlüssel"},
    )


def main(folder: Path) -> None:
    with Journal.open(folder, SPEC) as zero, Journal.open(folder, SPEC, "rank-0001") as one:
        zero.append(SEARCH)
        decided = 0
        while not (state := replay(SPEC, SEARCH, zero.read().evaluations)).finished:
            for round_ in state.rounds[decided:-1]:
                zero.append(round_.decision)
                decided += 1
            candidate, fold = state.pending[0]
            (one if fold else zero).append(evaluation(candidate, fold))
        for round_ in state.rounds[decided:]:
            zero.append(round_.decision)
        one.append(evaluation(Candidate(), 1, right=0))  # made again, with another result: the first counts
        one.append(evaluation(Candidate((BLOCKS[1], BLOCKS[2])), 0, right=50))  # of a profile of pairs
        lines = one.path.read_bytes()
    one.path.write_bytes(lines[:-20])  # as if killed while writing the last of these
    for lock in folder.glob("*.lock"):
        lock.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
