"""
How often a pruner loses the winner of a round, what it saves, and what the search loses by it, on finished studies.

    python benchmarks/pruners.py benchmarks/results/searches/*/block benchmarks/results/searches/*/submodule

Reads journals and trains nothing. Two questions are answered apart:

- Rounds: every round of every exact search in a journal is judged by each pruner, in every order of the folds. Was the
  round's exact winner among those it dropped, and how many of the trainings did it need?
- Searches: where a journal holds a search with a pruner beside the exact one (`searches.py --pruners`), the two are
  compared as they were run: trainings, seconds, and the cross-validated score of what they chose.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

from subtuning_hf.search.greedy import SearchState, replay, score_of
from subtuning_hf.search.journal import Study, read_study
from subtuning_hf.search.pruners import Halving, NoPruner, Pruner, Race, judge
from subtuning_hf.search.records import Candidate, Evaluation, Round, SearchSpec, Unit
from subtuning_hf.search.scores import table_of

PRUNERS: dict[str, Pruner] = {
    "none": NoPruner(),
    "race 0.80": Race(0.80),
    "race 0.90": Race(0.90),
    "race 0.95": Race(0.95),
    "race 0.99": Race(0.99),
    "halving 3, from 1/9": Halving(3, 1 / 9),
}


@dataclass
class Judged:
    """One round under one pruner and one order of folds."""

    lost: bool
    score_lost: float
    trainings: float
    exact_trainings: int


@dataclass
class Tally:
    """Rounds under one pruner."""

    rounds: int = 0
    lost: int = 0
    score_lost: float = 0.0
    most_lost: float = 0.0
    trainings: float = 0.0
    exact_trainings: float = 0.0

    def add(self, judged: Judged) -> None:
        """Count a round."""
        self.rounds += 1
        self.lost += judged.lost
        self.score_lost += judged.score_lost
        self.most_lost = max(self.most_lost, judged.score_lost)
        self.trainings += judged.trainings
        self.exact_trainings += judged.exact_trainings


def rounds_of(state: SearchState) -> Iterator[Round]:
    """The rounds in which there was something to choose."""
    for part in state.parts or (state,):
        yield from (round_ for round_ in part.rounds if len(round_.candidates) > 2)


def judge_round(pruner: Pruner, round_: Round, study: Study, order: tuple[int, ...]) -> Judged | None:
    """Judge a round whose folds come in another order; None where short trainings are missing."""
    place = {fold: index for index, fold in enumerate(order)}
    wanted = set(round_.candidates)
    turned = [replace(e, fold=place[e.fold]) for e in study.evaluations if e.candidate in wanted and e.repeat == 0]
    table = table_of(turned)
    folds = study.spec.num_folds
    verdict = judge(pruner, round_.candidates, folds, table)
    if verdict.pending:
        return None
    scores = {c: score_of([table[Unit(c, fold)] for fold in range(folds)]) for c in round_.candidates}
    best = max(scores.values())
    left = max(score for candidate, score in scores.items() if candidate not in verdict.pruned)
    # Short trainings cost their share of a full one.
    return Judged(left < best, best - left, sum(e.budget for e in verdict.used), len(scores) * folds)


def tallies(studies: dict[str, Study]) -> dict[str, Tally]:
    """All exact rounds of all studies, under each pruner."""
    found = {name: Tally() for name in PRUNERS}
    for study in studies.values():
        orders = list(permutations(range(study.spec.num_folds)))
        for round_ in {(r.direction, r.index): r for state in exact(study) for r in rounds_of(state)}.values():
            for name, pruner in PRUNERS.items():
                # Halving sees all folds at once: their order says nothing.
                for order in orders if isinstance(pruner, Race) else orders[:1]:
                    judged = judge_round(pruner, round_, study, order)
                    if judged is not None:
                        found[name].add(judged)
    return found


def exact(study: Study) -> Iterator[SearchState]:
    """The finished exact searches of a study, forward and backward."""
    for search in dict.fromkeys(study.searches):
        if search.pruner == "none" and search.direction in ("forward", "backward"):
            state = replay(study.spec, search, study.evaluations)
            if state.finished:
                yield state


def compared(name: str, study: Study) -> Iterator[dict[str, Any]]:
    """Each search with a pruner beside its exact one, as they were run."""
    full = {search: replay(study.spec, search, study.evaluations) for search in dict.fromkeys(study.searches)}
    for search, state in full.items():
        plain = replace(search, pruner="none", confidence=0.95, reduction=3, smallest_budget=1 / 9)
        if search.pruner == "none" or plain not in full or not state.finished or not full[plain].finished:
            continue
        mine, theirs = cost(state), cost(full[plain])
        gap = score(study, full[plain].selection) - score(study, state.selection)
        yield {
            "study": name,
            "search": search.direction,
            "pruner": f"race {search.confidence:.2f}" if search.pruner == "race" else search.pruner,
            "trainings": f"{mine[0]:.1f} of {theirs[0]:.0f}",
            "share of trainings": mine[0] / theirs[0],
            "share of seconds": mine[1] / theirs[1],
            "same blocks": state.selection == full[plain].selection,
            "score lost": gap,
        }


def cost(state: SearchState) -> tuple[float, float]:
    """Full trainings (short ones by their share) and seconds of a search."""
    used: dict[Unit, Evaluation] = {e.unit: e for round_ in state.rounds for e in round_.evaluations}
    return sum(e.budget for e in used.values()), sum(e.seconds for e in used.values())


def score(study: Study, selection: Candidate) -> float:
    """Cross-validated score of a selection, from its full trainings."""
    table = table_of(study.evaluations)
    return score_of([table[Unit(selection, fold)] for fold in range(study.spec.num_folds)])


def markdown(rows: list[dict[str, Any]]) -> str:
    """Rows as a table."""

    def cell(value: Any) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    head = list(rows[0])
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join(lines + [f"| {' | '.join(cell(row[name]) for name in head)} |" for row in rows])


def main() -> None:
    """Judge all journals given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+", type=Path, help="output folders of studies")
    parser.add_argument("--output-dir", type=Path, default=Path("benchmarks/results/pruners"))
    options = parser.parse_args()
    studies = {"/".join(folder.parts[-2:]): read_study(folder / "journal") for folder in options.studies}
    found = tallies(studies)
    by_round = [
        {
            "pruner": name,
            "rounds judged": tally.rounds,
            "winner lost": tally.lost,
            "share lost": tally.lost / tally.rounds,
            "mean score lost": tally.score_lost / tally.rounds,
            "most score lost": tally.most_lost,
            "share of trainings": tally.trainings / tally.exact_trainings,
        }
        for name, tally in found.items()
        if tally.rounds
    ]
    searches = [row for name, study in studies.items() for row in compared(name, study)]
    specs: list[SearchSpec] = [search for study in studies.values() for search in study.searches]
    count = sum(1 for study in studies.values() for _ in exact(study))
    lines = [
        f"# Pruners on {count} exact searches in {len(studies)} studies ({', '.join(studies)})",
        "\n## Rounds: is the exact winner among the dropped?\n",
        "Every round with three candidates or more; races in every order of the folds.\n",
        markdown(by_round),
    ]
    if searches:
        lines += ["\n## Searches as they were run\n", markdown(searches)]
    options.output_dir.mkdir(parents=True, exist_ok=True)
    report = {"rounds": {name: asdict(t) for name, t in found.items()}, "searches": searches, "specs": len(specs)}
    (options.output_dir / "pruners.json").write_text(json.dumps(report, indent=2) + "\n")
    (options.output_dir / "pruners.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
