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
from .directions import left_out
from .greedy import SearchState, pick_winner, score_of, spread_of
from .predictions import prediction_rows, prediction_table
from .profile import Profile, profile_of
from .proposed import ProposalRun
from .records import Candidate, Evaluation, Round, SearchSpec, StudySpec
from .serving import ServingCost
from .space import UNTOUCHED
from .tables import count, decimal, seconds, text_table, to_frame

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class LadderRow:
    """
    One step of a ladder: the winner of a round, or its best candidate where none was taken.

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
        added_latency (`float`, *optional*):
            What the selection after it adds to the latency of serving, in passes of the base; None if not measured.
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
    added_latency: float | None = None

    @property
    def label(self) -> str:
        """The step in words."""
        return self.named()

    def named(self, has_head: bool = True) -> str:
        """The step in words, of a model with a head or without one."""
        if self.block is None:
            return f"all {self.num_blocks} blocks" if self.num_blocks else "head only" if has_head else UNTOUCHED
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
        search ([`SearchSpec`], *optional*): What was asked for, with what serving costs.
        left_out (`tuple[Candidate, ...]`, *optional*): Not trained since they add too much latency; see `left_out`.
        has_head (`bool`, *optional*, defaults to `True`): Whether the model has a head, which is trained with no block.
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
    search: SearchSpec | None = None
    left_out: tuple[Candidate, ...] = ()
    has_head: bool = True

    @classmethod
    def from_state(
        cls,
        spec: StudySpec,
        state: SearchState,
        evaluations: Iterable[Evaluation] = (),
        proposal: ProposalRun | None = None,
        search: SearchSpec | None = None,
    ) -> SearchResult:
        """
        Sum up a finished search.

        Args:
            spec ([`StudySpec`]): The study.
            state ([`SearchState`]): Where the search stands.
            evaluations (`Iterable[Evaluation]`, *optional*): More evaluations of the study, for the profile.
            proposal ([`ProposalRun`], *optional*): What was predicted, if it was.
            search ([`SearchSpec`], *optional*): What was asked for, so that the result can say what serving costs.

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
            search=search,
            left_out=() if search is None else left_out(spec, search),
            has_head=spec.has_head,
        )

    @property
    def ladder(self) -> tuple[LadderRow, ...]:
        """The steps of the search."""
        return ladder(self.rounds, self.serving)

    @property
    def serving(self) -> ServingCost | None:
        """What selections cost to serve, where the search was told."""
        return None if self.search is None else self.search.serving

    @property
    def serving_words(self) -> str:
        """`str`: what the chosen blocks add to the latency of serving, and what was left out; empty if not known."""
        if self.serving is None or self.search is None:
            return ""
        added, passes = self.serving.added(self.blocks), self.serving.relative(self.blocks)
        words = f"Serving {self.serving.words}: the chosen blocks add {passes:.2f} passes ({added:.3g} ms)."
        if self.left_out:
            names = ", ".join(candidate.label for candidate in self.left_out)
            words += f" Not trained, since they add more than max_added_latency={self.search.max_added_latency:g}: "
            words += f"{names}."
        return words

    @property
    def chosen_words(self) -> str:
        """`str`: the blocks, or what it means that there is none."""
        return ", ".join(self.blocks) or f"no block, the {'head alone' if self.has_head else UNTOUCHED}"

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
        parts = self.parts or (self.rounds,)
        shared = (self.metric, self.greater_is_better, self.serving, self.has_head)
        ladders = [ladder_table(part, *shared) for part in parts]
        titles = [f"{part[0].direction.capitalize()}:\n" for part in self.parts] or [""]
        trainings = f"{self.cost.num_evaluations} trainings"
        if self.cost.full_trainings != self.cost.num_evaluations:
            trainings += f", worth {self.cost.full_trainings:.1f} full ones"
        shown = "\n\n".join(map("".join, zip(titles, ladders, strict=True)))
        lines = [f"{shown}\n", self.reason, *filter(None, [self.serving_words])]
        return "\n".join([*lines, f"Chosen: {self.chosen_words} ({trainings}, {seconds(self.cost.seconds)} s)."])


def ladder(rounds: Iterable[Round], serving: ServingCost | None = None) -> tuple[LadderRow, ...]:
    """
    The steps of a search.

    Args:
        rounds (`Iterable[Round]`): Rounds of a search; one that is not decided yet is left out.
        serving ([`ServingCost`], *optional*): What selections cost to serve.

    Returns: `tuple[LadderRow, ...]`
    """
    rows = []
    for round_ in rounds:
        decision = round_.decision
        if decision is None:
            continue
        best = pick_winner(round_) if decision.winner is None else decision.winner
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
                added_latency=None if serving is None else serving.relative(best.blocks),
            )
        )
    return tuple(rows)


_CHANGES = {"forward": "add", "backward": "remove", "list": "choose"}
_HEADINGS = {"forward": "block added", "backward": "block removed", "list": "chosen"}


def _without(one: Candidate, other: Candidate) -> list[str]:
    return [name for name in one.blocks if name not in other.blocks]


def ladder_table(
    rounds: Iterable[Round],
    metric: str = "score",
    greater_is_better: bool = True,
    serving: ServingCost | None = None,
    has_head: bool = True,
) -> str:
    """
    The steps of a search as text.

    Args:
        rounds (`Iterable[Round]`): Rounds of a search.
        metric (`str`, *optional*, defaults to `"score"`): Heading of the scores.
        greater_is_better (`bool`, *optional*, defaults to `True`): If not, scores are shown with their sign turned.
        serving ([`ServingCost`], *optional*): What selections cost to serve; adds a column, in passes of the base.
        has_head (`bool`, *optional*, defaults to `True`): Whether a head is trained where there is no block.

    Returns: `str`: a step that was not taken is in parentheses.
    """
    rounds = tuple(rounds)
    sign = 1 if greater_is_better else -1
    rows = ladder(rounds, serving)
    pruned = any(row.num_pruned for row in rows)
    change = _HEADINGS[rounds[0].direction if rounds else "forward"]
    headings = ["round", change, metric, "spread", "gain", "s.e.", "trainable", "trainings", "seconds"]
    return text_table(
        [*headings, *["given up"] * pruned, *["latency"] * (serving is not None)],
        [
            [
                str(row.round),
                row.named(has_head) if row.block is None else row.block if row.added else f"({row.block})",
                decimal(sign * row.mean),
                decimal(row.spread),
                decimal(row.gain, sign=True),
                decimal(row.standard_error),
                count(row.trainable_parameters),
                count(row.num_evaluations),
                seconds(row.seconds),
                *[f"{row.num_pruned} of {row.num_candidates}"] * pruned,
                *([] if row.added_latency is None else [f"+{row.added_latency:.2f}"]),
            ]
            for row in rows
        ],
        left=2,
    )
