"""Facts of an adapter with fixed numbers, trained by nobody."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from plots.studies import NAMES, result_of, study_of
from subtuning_hf.hub import CardFacts, Measured, Part, Picture, Source
from subtuning_hf.search.journal import Study
from subtuning_hf.search.proposals import Predicted, ProposalRun, confirm
from subtuning_hf.search.records import Candidate, Evaluation, FinalRun, SearchSpec
from subtuning_hf.search.result import SearchResult

WORTH = {NAMES[4]: 0.2, NAMES[1]: 0.05}
CHOSEN = (NAMES[1], NAMES[4])
PICTURES = (Picture("pictures/profile.png", "Finetuning profile: accuracy of each block alone"),)


def exact_study() -> Study:
    """A study of six blocks on three folds with an identity, and two final trainings of what it chose."""
    study = study_of(NAMES, WORTH, [SearchSpec(min_gain=0.01)])
    settings = {"data": {"rows": 150, "type": "Dataset"}}
    spec = replace(study.spec, fingerprints={"data": "d" * 32, "folds": "f" * 32}, settings=settings)
    runs = [
        FinalRun(Candidate(CHOSEN), seed, {"eval_accuracy": 0.75 + seed / 100, "eval_runtime": 3.0}, info={"rows": "t"})
        for seed in (0, 2)
    ]
    other = FinalRun(Candidate(NAMES[:1]), 0, {"eval_accuracy": 0.1}, info={"rows": "t"})
    return replace(study, spec=spec, finals=(*runs, other))


def facts(**changes: Any) -> CardFacts:
    """An adapter for three classes, all of whose sections have something to tell."""
    study = exact_study()
    source = Source("user/flowers", "small", "train", "0123456789abcdef0123456789abcdef01234567")
    settings: dict[str, Any] = {
        "title": "flowers",
        "adapter": "user/flowers",
        "architecture": "ResNetForImageClassification",
        "parts": (Part(CHOSEN[0], 2000), Part(CHOSEN[1], 5000), Part("head", 50, is_block=False)),
        "base_parameters": 25_000,
        "num_blocks": 6,
        "base": "some-lab/net-6",
        "base_revision": "v2",
        "task": "image-classification",
        "labels": ("daisy", "rose | `thorn`", "<b>tulip</b>"),
        "has_processor": True,
        "result": result_of(study),
        "study": study,
        "measured": (Measured("test", {"loss": 0.5, "accuracy": 0.76}, 90, source=replace(source, split="test")),),
        "results_url": "https://huggingface.co/user/flowers/blob/main/test_results.json",
        "comparison": comparison(),
        "train_rows": 150,
        "source": source,
        "arguments": {"learning_rate": 0.01, "strategy": "exact", "blocks": ["a'b", 'c"d'], "min_gain": float("inf")},
        "seed": 7,
        "steps": 40,
        "epochs": 4.0,
        "device": "cpu",
        "versions": {"subtuning-hf": "0.1.0", "torch": "2.15.0", "python": "3.11.7"},
        "has_journal": True,
        "license": "apache-2.0",
        "tags": ("vision",),
    }
    return CardFacts(**{**settings, **changes})


def comparison() -> list[dict[str, Any]]:
    """Rows as a comparison writes them."""
    return [
        {
            "method": name, "blocks": blocks, "mean": mean, "spread": 0.01, "scores": [mean - 0.01, mean + 0.01],
            "num_examples": 90, "cv_mean": mean, "learning_rate": 0.01, "learning_rate_at_edge": False,
            "trainable_parameters": size, "seconds": 2.0,
        }
        for name, blocks, mean, size in (
            ("LP", [], 0.5, 50), ("SubTuning", list(CHOSEN), 0.76, 7050), ("FT", None, 0.7, 25_050)
        )
    ]  # fmt: skip


def predicted() -> tuple[SearchResult, Study]:
    """A search that predicted four selections and trained two of them for half the steps."""
    study = study_of(NAMES, {}, searches=())
    search = SearchSpec(strategy="short-profile", budget=1.0)
    candidates = [Candidate((NAMES[4],)), Candidate((NAMES[1],)), Candidate(), Candidate((NAMES[0],))]
    predictions = tuple(Predicted(c, (0.9 - place / 10,)) for place, c in enumerate(candidates))
    run = ProposalRun(search, predictions, tuple(candidates[:2]), (2, 0), 0.5, 0.4, 0.9, 12.0)
    chance = random.Random(0)
    made = tuple(
        Evaluation(unit.candidate, unit.fold, 0.6 + chance.random() / 100, 50, {}, 1050, 3.0, budget=unit.budget)
        for unit in run.units
    )
    study = replace(study, evaluations=made, proposals=(run,), writers=())
    return SearchResult.from_state(study.spec, confirm(run, made), made, run), study
