"""
What a finished search gives: the blocks, the ladder that led to them, the profile, and what it cost.

Derived from records and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import IncompleteRoundError
from .greedy import SearchState, pick_winner, score_of, spread_of
from .predictions import prediction_rows, prediction_table
from .profile import Profile, profile_of
from .proposals import ProposalRun
from .records import Candidate, Evaluation, Round, StudySpec
from .tables import count, decimal, seconds, text_table, to_frame

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class LadderRow:
    """
    One step of a ladder: the best candidate of a round.

    Args:
        round (`int`): Number of the round; round 0 is the start, forward the head alone and backward all blocks.
        block (`str`, *optional*): What it adds, removes or chooses; None for the start.
        added (`bool`): Whether the step was taken; False for the best of the round that ended the search.
        mean (`float`): Score of the selection after it, maximised: the size-weighted mean over folds.
        spread (`float`, *optional*): Standard deviation of that score between folds; None with a single fold.
        gain (`float`, *optional*):
            Gain over the step before on the same folds, backward over the best so far, where a loss is negative; None
            for the start.
        standard_error (`float`, *optional*): Of that gain; None with a single fold.
        threshold (`float`, *optional*): What the gain, or backward the loss, was compared with; None for the start.
        trainable_parameters (`int`): All that was trained, head included.
        num_evaluations (`int`): Trainings of the whole round.
        seconds (`float`): Wall-clock time of the whole round's trainings, added up, in seconds.
        reason (`str`): The decision in words.
        change (`str`): `"start"`, `"add"`, `"remove"` or `"choose"`.
        num_blocks (`int`): Blocks of the selection after it.
        num_candidates (`int`): Candidates of the round.
        num_pruned (`int`): Those of them that were given up before they were trained in full on every fold.
    """

    round: int
    block: str | None
    added: bool
    mean: float
    spread: float | None
    gain: float | None
    standard_error: float | None
    threshold: float | None
    trainable_parameters: int
    num_evaluations: int
    seconds: float
    reason: str
    change: str = "add"
    num_blocks: int = 0
    num_candidates: int = 1
    num_pruned: int = 0

    @property
    def label(self) -> str:
        """The step in words."""
        if self.block is None:
            return f"all {self.num_blocks} blocks" if self.num_blocks else "head only"
        sign = {"remove": "- ", "add": "+ "}.get(self.change, "")
        return f"{sign}{self.block}"


@dataclass(frozen=True)
class Cost:
    """
    What the evaluations of a search cost when they were made.

    Args:
        num_evaluations (`int`): Trainings of one candidate on one fold, those with a share of the training included.
        seconds (`float`): Their wall-clock time, added up, in seconds.
        full_trainings (`float`): Their shares of the full training, added up.
    """

    num_evaluations: int
    seconds: float
    full_trainings: float


@dataclass(frozen=True)
class SearchResult:
    """
    The outcome of a search.

    Args:
        blocks (`tuple[str, ...]`):
            The blocks, `()` if none is worth it: those of a forward search in the order they were chosen, others in
            forward order.
        rounds (`tuple[Round, ...]`): Every round with all its evaluations; of two starts, those of the one taken.
        profile ([`Profile`]): The one-block candidates that were trained; without rows if there are none.
        cost ([`Cost`]): Of the search, evaluations it found in the journal included.
        reason (`str`): Why the search ended, in words.
        metric (`str`): Name of the metric behind the score.
        greater_is_better (`bool`): Whether the metric itself is better when greater; if not, scores are its negative.
        parts (`tuple[tuple[Round, ...], ...]`, *optional*): Of two starts, the rounds of each, the forward one first.
        proposal ([`ProposalRun`], *optional*):
            Of a search that predicts: what was predicted and what it cost; `rounds` is then empty, and the cost that of
            the trainings alone.
        confirmations (`tuple[Evaluation, ...]`, *optional*): The trainings of the best predicted selections.
    """

    blocks: tuple[str, ...]
    rounds: tuple[Round, ...]
    profile: Profile
    cost: Cost
    reason: str
    metric: str
    greater_is_better: bool
    parts: tuple[tuple[Round, ...], ...] = ()
    proposal: ProposalRun | None = None
    confirmations: tuple[Evaluation, ...] = ()

    @classmethod
    def from_state(
        cls,
        spec: StudySpec,
        state: SearchState,
        evaluations: Iterable[Evaluation] = (),
        proposal: ProposalRun | None = None,
    ) -> SearchResult:
        """
        Sum up a finished search.

        Args:
            spec ([`StudySpec`]): The study.
            state ([`SearchState`]): Where the search stands.
            evaluations (`Iterable[Evaluation]`, *optional*): More evaluations of the study, for the profile.
            proposal ([`ProposalRun`], *optional*): What was predicted, if it was.

        Returns: [`SearchResult`]
        Raises: [`IncompleteRoundError`]: If the search is not finished.
        """
        if not state.finished or state.reason is None:
            raise IncompleteRoundError(
                f"A result needs a finished search, found round {len(state.rounds) - 1} with {len(state.pending)} "
                "evaluations missing."
            )
        parts = tuple(part.rounds for part in state.parts)
        rounds = [round_ for part in parts or (state.rounds,) for round_ in part]
        used = list({each.unit: each for round_ in rounds for each in round_.evaluations}.values())
        blocks = state.selection.blocks
        if proposal is None and state.rounds[0].direction == "forward":
            blocks = tuple(row.block for row in ladder(state.rounds) if row.added and row.block is not None)
        return cls(
            blocks=blocks,
            rounds=state.rounds if proposal is None else (),
            profile=profile_of(spec, [*used, *evaluations]),
            cost=Cost(len(used), sum(each.seconds for each in used), math.fsum(each.budget for each in used)),
            reason=state.reason,
            metric=spec.metric,
            greater_is_better=spec.greater_is_better,
            parts=parts,
            proposal=proposal,
            confirmations=() if proposal is None else tuple(used),
        )

    @property
    def ladder(self) -> tuple[LadderRow, ...]:
        """The steps of the search."""
        return ladder(self.rounds)

    def to_rows(self) -> list[dict[str, Any]]:
        """`list[dict]`: the ladder, one flat row a step; of a search that predicts, one row a prediction."""
        if self.proposal is not None:
            return prediction_rows(self.proposal, self.confirmations)
        return [dict(vars(row)) for row in self.ladder]

    def to_pandas(self) -> pandas.DataFrame:
        """
        The ladder as a data frame.

        Returns: `pandas.DataFrame`: one row a step.
        Raises: [`MissingDependencyError`]: If pandas is not installed.
        """
        return to_frame(self.to_rows())

    def table(self) -> str:
        """`str`: the ladder as text, the metric as it is, and what came out."""
        if self.proposal is not None:
            return prediction_table(self)
        chosen = ", ".join(self.blocks) or "no block, the head alone"
        ladders = [ladder_table(part, self.metric, self.greater_is_better) for part in self.parts or (self.rounds,)]
        titles = [f"{part[0].direction.capitalize()}:\n" for part in self.parts] or [""]
        trainings = f"{self.cost.num_evaluations} trainings"
        if self.cost.full_trainings != self.cost.num_evaluations:
            trainings += f", worth {self.cost.full_trainings:.1f} full ones"
        shown = "\n\n".join(map("".join, zip(titles, ladders, strict=True)))
        return f"{shown}\n\n{self.reason}\nChosen: {chosen} ({trainings}, {seconds(self.cost.seconds)} s)."


def ladder(rounds: Iterable[Round]) -> tuple[LadderRow, ...]:
    """
    The steps of a search.

    Args:
        rounds (`Iterable[Round]`): Rounds of a search; one that is not decided yet is left out.

    Returns: `tuple[LadderRow, ...]`
    """
    rows = []
    for round_ in rounds:
        decision = round_.decision
        if decision is None:
            continue
        best = pick_winner(round_)
        evaluations = round_.of(best)
        changed = [*_without(best, round_.selection), *_without(round_.selection, best)]
        rows.append(
            LadderRow(
                round=round_.index,
                block=" + ".join(changed) or None,
                added=decision.winner is not None,
                mean=score_of(evaluations),
                spread=spread_of(evaluations),
                gain=decision.gain,
                standard_error=decision.standard_error,
                threshold=decision.threshold,
                trainable_parameters=max(evaluation.trainable_parameters for evaluation in evaluations),
                num_evaluations=len(round_.evaluations),
                seconds=sum(evaluation.seconds for evaluation in round_.evaluations),
                reason=decision.reason,
                change=_CHANGES[round_.direction] if round_.index else "start",
                num_blocks=len(best.blocks),
                num_candidates=len(round_.candidates),
                num_pruned=len(round_.pruned),
            )
        )
    return tuple(rows)


_CHANGES = {"forward": "add", "backward": "remove", "list": "choose"}
_HEADINGS = {"forward": "block added", "backward": "block removed", "list": "chosen"}


def _without(one: Candidate, other: Candidate) -> list[str]:
    return [name for name in one.blocks if name not in other.blocks]


def ladder_table(rounds: Iterable[Round], metric: str = "score", greater_is_better: bool = True) -> str:
    """
    The steps of a search as text.

    Args:
        rounds (`Iterable[Round]`): Rounds of a search.
        metric (`str`, *optional*, defaults to `"score"`): Heading of the scores.
        greater_is_better (`bool`, *optional*, defaults to `True`): If not, scores are shown with their sign turned.

    Returns: `str`: a step that was not taken is in parentheses.
    """
    rounds = tuple(rounds)
    sign = 1 if greater_is_better else -1
    rows = ladder(rounds)
    pruned = any(row.num_pruned for row in rows)
    change = _HEADINGS[rounds[0].direction if rounds else "forward"]
    headings = ["round", change, metric, "spread", "gain", "s.e.", "trainable", "trainings", "seconds"]
    return text_table(
        [*headings, *["given up"] * pruned],
        [
            [
                str(row.round),
                row.label if row.block is None else row.block if row.added else f"({row.block})",
                decimal(sign * row.mean),
                decimal(row.spread),
                decimal(row.gain, sign=True),
                decimal(row.standard_error),
                count(row.trainable_parameters),
                count(row.num_evaluations),
                seconds(row.seconds),
                *[f"{row.num_pruned} of {row.num_candidates}"] * pruned,
            ]
            for row in rows
        ],
        left=2,
    )
