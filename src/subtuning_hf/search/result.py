"""
What a finished search gives: the blocks, the ladder that led to them, the profile, and what it cost.

Derived from records and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import IncompleteRoundError, MissingDependencyError
from .greedy import SearchState, pick_winner, score_of, spread_of
from .profile import Profile, profile_of
from .records import Evaluation, Round, StudySpec
from .tables import count, decimal, seconds, text_table

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class LadderRow:
    """
    One step of a ladder: the best candidate of a round.

    Args:
        round (`int`): Number of the round; round 0 is the head alone.
        block (`str`, *optional*): The block it adds; None for the head alone.
        added (`bool`): Whether it was added; False for the best of the round that ended the search.
        mean (`float`): Score of the selection with it, maximised: the size-weighted mean over folds.
        spread (`float`, *optional*): Standard deviation of that score between folds; None with a single fold.
        gain (`float`, *optional*): Gain over the step before on the same folds; None for the head alone.
        standard_error (`float`, *optional*): Of that gain; None with a single fold.
        threshold (`float`, *optional*): What the gain was compared with; None for the head alone.
        trainable_parameters (`int`): All that was trained, head included.
        num_evaluations (`int`): Trainings of the whole round.
        seconds (`float`): Wall-clock time of the whole round's trainings, added up, in seconds.
        reason (`str`): The decision in words.
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


@dataclass(frozen=True)
class Cost:
    """
    What the evaluations of a search cost when they were made.

    Args:
        num_evaluations (`int`): Trainings of one candidate on one fold.
        seconds (`float`): Their wall-clock time, added up, in seconds.
    """

    num_evaluations: int
    seconds: float


@dataclass(frozen=True)
class SearchResult:
    """
    The outcome of a search.

    Args:
        blocks (`tuple[str, ...]`): The blocks in the order they were chosen; `()` if none is worth it.
        rounds (`tuple[Round, ...]`): Every round with all its evaluations.
        profile ([`Profile`]): The one-block candidates; without rows if the search was not allowed a block.
        cost ([`Cost`]): Of the search, evaluations it found in the journal included.
        reason (`str`): Why the search ended, in words.
        metric (`str`): Name of the metric behind the score.
        greater_is_better (`bool`): Whether the metric itself is better when greater; if not, scores are its negative.
    """

    blocks: tuple[str, ...]
    rounds: tuple[Round, ...]
    profile: Profile
    cost: Cost
    reason: str
    metric: str
    greater_is_better: bool

    @classmethod
    def from_state(cls, spec: StudySpec, state: SearchState, evaluations: Iterable[Evaluation] = ()) -> SearchResult:
        """
        Sum up a finished search.

        Args:
            spec ([`StudySpec`]): The study.
            state ([`SearchState`]): Where the search stands.
            evaluations (`Iterable[Evaluation]`, *optional*): More evaluations of the study, for the profile.

        Returns: [`SearchResult`]
        Raises: [`IncompleteRoundError`]: If the search is not finished.
        """
        if not state.finished or state.reason is None:
            raise IncompleteRoundError(
                f"A result needs a finished search, found round {len(state.rounds) - 1} with {len(state.pending)} "
                "evaluations missing."
            )
        used = [evaluation for round_ in state.rounds for evaluation in round_.evaluations]
        return cls(
            blocks=tuple(row.block for row in ladder(state.rounds) if row.added and row.block is not None),
            rounds=state.rounds,
            profile=profile_of(spec, [*used, *evaluations]),
            cost=Cost(len(used), sum(evaluation.seconds for evaluation in used)),
            reason=state.reason,
            metric=spec.metric,
            greater_is_better=spec.greater_is_better,
        )

    @property
    def ladder(self) -> tuple[LadderRow, ...]:
        """The steps of the search."""
        return ladder(self.rounds)

    def to_rows(self) -> list[dict[str, Any]]:
        """`list[dict]`: the ladder, one flat row a step."""
        return [dict(vars(row)) for row in self.ladder]

    def to_pandas(self) -> pandas.DataFrame:
        """
        The ladder as a data frame.

        Returns: `pandas.DataFrame`: one row a step.
        Raises: [`MissingDependencyError`]: If pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingDependencyError(
                "`to_pandas()` needs pandas: `pip install pandas`, or use `to_rows()`."
            ) from error
        return pandas.DataFrame(self.to_rows())

    def table(self) -> str:
        """`str`: the ladder as text, the metric as it is, and what came out."""
        chosen = ", ".join(self.blocks) or "no block, the head alone"
        return (
            f"{ladder_table(self.rounds, self.metric, self.greater_is_better)}\n\n{self.reason}\nChosen: {chosen} "
            f"({self.cost.num_evaluations} trainings, {seconds(self.cost.seconds)} s)."
        )


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
        new = [name for name in best.blocks if name not in round_.selection.blocks]
        rows.append(
            LadderRow(
                round=round_.index,
                block=" + ".join(new) or None,
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
            )
        )
    return tuple(rows)


def ladder_table(rounds: Iterable[Round], metric: str = "score", greater_is_better: bool = True) -> str:
    """
    The steps of a search as text.

    Args:
        rounds (`Iterable[Round]`): Rounds of a search.
        metric (`str`, *optional*, defaults to `"score"`): Heading of the scores.
        greater_is_better (`bool`, *optional*, defaults to `True`): If not, scores are shown with their sign turned.

    Returns: `str`: a block that was not added is in parentheses.
    """
    sign = 1 if greater_is_better else -1
    headings = ("round", "block added", metric, "spread", "gain", "s.e.", "trainable", "trainings", "seconds")
    return text_table(
        headings,
        [
            (
                str(row.round),
                "head only" if row.block is None else row.block if row.added else f"({row.block})",
                decimal(sign * row.mean),
                decimal(row.spread),
                decimal(row.gain, sign=True),
                decimal(row.standard_error),
                count(row.trainable_parameters),
                count(row.num_evaluations),
                seconds(row.seconds),
            )
            for row in ladder(rounds)
        ],
        left=2,
    )
