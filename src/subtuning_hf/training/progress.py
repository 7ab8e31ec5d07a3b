"""
One progress bar for a whole study, with an estimate that says what it knows.

Knows durations and counts; decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tqdm.auto import tqdm

from ..search.greedy import SearchState, score_of
from ..search.records import Candidate, Evaluation, StudySpec, Unit
from ..search.space import UNTOUCHED


class CostModel:
    """
    Seconds that an evaluation will take, learned from those that are done.

    Backward runs from the head down to the first tuned block, so cost grows with that depth. What the same candidate
    took on another fold counts first; others are read off a straight line over depth.

    Args:
        blocks (`Sequence[str]`): All blocks in forward order.
    """

    def __init__(self, blocks: Sequence[str]) -> None:
        self.positions = {name: index for index, name in enumerate(blocks)}
        self.samples: list[tuple[float, float]] = []
        self.by_candidate: dict[Candidate, list[float]] = {}

    def depth(self, candidate: Candidate) -> int:
        """`int`: blocks that backward runs through."""
        if not candidate.blocks:
            return 0
        return len(self.positions) - min(self.positions.get(name, 0) for name in candidate.blocks)

    def add(self, evaluation: Evaluation) -> None:
        """Learn from an evaluation."""
        self.add_seconds(evaluation.candidate, evaluation.seconds)

    def add_seconds(self, candidate: Candidate, seconds: float) -> None:
        """Learn that a candidate took some seconds."""
        self.samples.append((float(self.depth(candidate)), seconds))
        self.by_candidate.setdefault(candidate, []).append(seconds)

    def seconds(self, candidate: Candidate) -> float | None:
        """Estimate for one evaluation, `None` before anything was measured."""
        own = self.by_candidate.get(candidate)
        if own:
            return sum(own) / len(own)
        return self.seconds_at(self.depth(candidate))

    def seconds_at(self, depth: float) -> float | None:
        """Estimate for a depth of backward."""
        if not self.samples:
            return None
        count = len(self.samples)
        mean_x = sum(x for x, _ in self.samples) / count
        mean_y = sum(y for _, y in self.samples) / count
        spread = sum((x - mean_x) ** 2 for x, _ in self.samples)
        slope = sum((x - mean_x) * (y - mean_y) for x, y in self.samples) / spread if spread else 0.0
        # Deeper is never cheaper; a line that says so was bent by noise.
        return max(mean_y + max(slope, 0.0) * (depth - mean_x), min(y for _, y in self.samples) * 0.5)


def evaluations_at_most(num_blocks: int, index: int, last_round: int, num_folds: int) -> int:
    """Evaluations of the rounds after round `index`, if every round came about; round r tries all blocks but r - 1."""
    return num_folds * sum(num_blocks - later + 1 for later in range(index + 1, last_round + 1))


def format_seconds(seconds: float) -> str:
    """Seconds in words of the right size: `8 s`, `3 min`, `1 h 20 min`."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def format_metric(score: float, spec: StudySpec) -> str:
    """The metric behind a score: a share as per cent, anything else with four digits."""
    value = score if spec.greater_is_better else -score
    return f"{100 * value:.1f} %" if spec.greater_is_better and 0 <= value <= 1 else f"{value:.4g}"


def short_label(candidate: Candidate, has_head: bool = True) -> str:
    """What tells a candidate from others in a line that has little room."""
    if not candidate.blocks:
        return "head only" if has_head else UNTOUCHED
    names = [".".join(name.split(".")[-2:]) for name in candidate.blocks]
    return " + ".join(names) if len(names) < 3 else f"{names[0]} + ... + {names[-1]}"


class StudyProgress:
    """
    The progress bar of a study.

    Its total counts the evaluations that are known to be needed, and grows when a round is decided.

    Args:
        spec ([`StudySpec`]): The study.
        last_round (`int`): Index of the last round there can be.
        disable (`bool`): Show nothing.
        processes (`int`, *optional*, defaults to 1): Processes that share the work.
    """

    def __init__(self, spec: StudySpec, last_round: int, disable: bool, processes: int = 1) -> None:
        self.spec = spec
        self.last_round = last_round
        self.processes = processes
        self.cost = CostModel([block.name for block in spec.blocks])
        self.known: dict[Candidate, dict[int, Evaluation]] = {}
        self.tried: list[Candidate] = []
        self.pending: list[Unit] = []
        self.later = 0
        self.bar = tqdm(
            desc="study", total=0, disable=disable, bar_format="{desc} |{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
        )

    def start(self, evaluations: Iterable[Evaluation]) -> None:
        """Count what a journal already holds."""
        known = list(evaluations)
        for evaluation in known:
            self._learn(evaluation)
        self.bar.total = len(known)
        self.bar.update(len(known))

    def show(self, state: SearchState) -> None:
        """Show where a search stands: its round, what is pending in it, and how many rounds there may be."""
        parts = [part for part in state.parts or (state,) if not part.finished] or [state]
        round_ = parts[0].rounds[-1]
        self.tried = list(round_.candidates)
        self.pending = list(state.pending)
        name, way = f"round {round_.index}", round_.direction
        if way == "forward":
            self.later = evaluations_at_most(
                len(self.spec.blocks), round_.index, self.last_round, self.spec.num_folds
            )
            name = f"{name}/<={self.last_round}"
        elif way == "list" and not round_.index and len(round_.candidates) > 1:  # what was predicted best
            self.later, name = 0, "training the best predicted"
        else:
            count = len(self.spec.blocks)
            self.later = evaluations_at_most(count, round_.index, 0 if way == "list" else count, self.spec.num_folds)
            name = f"{name} {way}"
        self._total(name)

    def expect(self, units: Iterable[Unit]) -> None:
        """Show a set of evaluations that no round asks for."""
        self.pending = list(units)
        self.tried = list(dict.fromkeys(unit.candidate for unit in self.pending))
        self._total("profile")

    def expect_finals(self, count: int) -> None:
        """Show final trainings, which are no evaluations."""
        self.pending, self.tried, self.later = [], [], 0
        self.bar.total = self.bar.n + count
        self.bar.set_description_str("final trainings", refresh=False)
        self._show()

    def expect_proposal(self, name: str) -> None:
        """Show that scores are being predicted."""
        self.pending, self.tried, self.later = [], [], 0
        self.bar.set_description_str(f"predicting ({name})", refresh=False)
        self._show()

    def final_done(self) -> None:
        """A final training has finished."""
        self.bar.update(1)

    def _total(self, name: str) -> None:
        self.bar.total = self.bar.n + len(self.pending)
        self.bar.set_description_str(name, refresh=False)
        self._show()

    def done(self, evaluation: Evaluation) -> None:
        """An evaluation has finished."""
        self._learn(evaluation)
        if evaluation.unit in self.pending:
            self.pending.remove(evaluation.unit)
        self.bar.update(1)
        self._show()

    def _learn(self, evaluation: Evaluation) -> None:
        if evaluation.budget == 1.0:
            self.cost.add(evaluation)
            if evaluation.repeat == 0:
                self.known.setdefault(evaluation.candidate, {}).setdefault(evaluation.fold, evaluation)

    def best(self) -> str:
        """`str`: the best candidate of this round among those that have all their folds, and its metric."""
        folds = self.spec.num_folds
        complete = {c: self.known[c].values() for c in self.tried if len(self.known.get(c, ())) == folds}
        if not complete:
            return ""
        scores = {candidate: score_of(evaluations) for candidate, evaluations in complete.items()}
        leader = max(scores, key=lambda candidate: scores[candidate])
        return f"best {short_label(leader, self.spec.has_head)} {format_metric(scores[leader], self.spec)}"

    def remaining(self) -> str:
        """`str`: time left in this round, and at most in all; empty before anything was measured."""
        each = [self.cost.seconds(unit.candidate) for unit in self.pending]
        if not each or any(seconds is None for seconds in each):
            return ""
        share = sum((seconds or 0.0) * unit.budget for seconds, unit in zip(each, self.pending, strict=True))
        this_round = share / min(self.processes, len(each))
        text = f"{format_seconds(this_round)} left in this round"
        if self.later:
            dearest = self.cost.seconds_at(len(self.spec.blocks)) or 0.0
            text += f", at most {format_seconds(this_round + self.later * dearest / self.processes)} in all"
        return text

    def _show(self) -> None:
        self.bar.set_postfix_str(" · ".join(piece for piece in (self.best(), self.remaining()) if piece))

    def close(self) -> None:
        """Take leave of the terminal line."""
        self.bar.close()
