"""
The directions of a search: where it starts, which selections it tries next, and how it decides.

Each is a set of rules without a state of its own; `greedy` walks by them. Knows neither pruners nor what is evaluated.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from ..errors import ArgumentsError
from .decisions import Scored, decide, decide_removal, start
from .records import Candidate, Decision, Round, SearchSpec, StudySpec
from .scores import RELATIVE_TIE
from .space import HEAD_ONLY, add_one, in_forward_order, remove_one, windows


class Direction(ABC):
    """
    Rules of one direction.

    Args:
        spec ([`StudySpec`]): Blocks to choose from.
        search ([`SearchSpec`]): Stop rule and bounds.
    """

    name: str

    def __init__(self, spec: StudySpec, search: SearchSpec) -> None:
        self.search = search
        self.bare = "the head alone" if spec.has_head else "the untouched base"
        self.blocks = tuple(block.name for block in spec.blocks)
        self._sizes = {block.name: block.num_parameters for block in spec.blocks}
        self._places = {name: place for place, name in enumerate(self.blocks)}

    @property
    @abstractmethod
    def start(self) -> Candidate:
        """The selection of round 0."""

    @abstractmethod
    def following(self, selection: Candidate, decision: Decision | None = None) -> tuple[Candidate, ...] | str:
        """The candidates of the round after a decision for a selection (`None`: the start), or why there is none."""

    @abstractmethod
    def decide(self, round_: Round, path: Sequence[Scored]) -> Decision:
        """End a round; `path` holds the evaluations of each selection so far, the present one last."""

    def num_parameters(self, candidate: Candidate) -> int:
        """Parameters of a candidate's blocks, without the head."""
        return sum(self._sizes[name] for name in candidate.blocks)

    def places(self, candidate: Candidate) -> tuple[int, ...]:
        """Sorts candidates in forward order."""
        return tuple(self._places[name] for name in candidate.blocks)

    def turn(self, candidate: Candidate) -> tuple[object, ...]:
        """Sorts candidates into the order in which they are tried: those near to the search's start, then forward."""
        near = () if self.search.start is None else self.search.start.turn(candidate)
        return (*near, self.places(candidate))

    def exceeded(self, candidate: Candidate) -> str | None:
        """The bound that a selection is over, in words."""
        most, parameters = self.search.max_blocks, self.search.max_block_parameters
        if most is not None and len(candidate.blocks) > most:
            return f"max_blocks={most}"
        if parameters is not None and self.num_parameters(candidate) > parameters:
            return f"max_block_parameters={parameters:,}"
        if self.too_slow(candidate):
            return f"max_added_latency={self.search.max_added_latency:g}"
        return None

    def too_slow(self, candidate: Candidate) -> bool:
        """Whether a selection adds more to the latency of serving than it may."""
        cost, most = self.search.serving, self.search.max_added_latency
        return cost is not None and most is not None and cost.relative(candidate.blocks) > most * (1 + RELATIVE_TIE)


class Forward(Direction):
    """From the head alone, one block more each round."""

    name = "forward"
    start = HEAD_ONLY

    def following(self, selection: Candidate, decision: Decision | None = None) -> tuple[Candidate, ...] | str:
        count = len(selection.blocks)
        if count == len(self.blocks):
            return f"All {count} blocks are chosen." if count > 1 else "The only block is chosen."
        if self.search.max_blocks is not None and count >= self.search.max_blocks:
            return f"The bound max_blocks={self.search.max_blocks} is reached."
        found = tuple(wanted for wanted in add_one(self.blocks, selection) if self.exceeded(wanted) is None)
        if not found:
            bounds = dict.fromkeys(self.exceeded(wanted) for wanted in add_one(self.blocks, selection))
            return f"No {'further block' if count else 'block'} fits under {' and '.join(map(str, bounds))}."
        return found

    def decide(self, round_: Round, path: Sequence[Scored]) -> Decision:
        return _decide_more(self, round_, path)


class Backward(Direction):
    """From all blocks that are not too slow alone, one less each round."""

    name = "backward"

    @property
    def start(self) -> Candidate:
        return Candidate(tuple(name for name in self.blocks if not self.too_slow(Candidate((name,)))))

    def following(self, selection: Candidate, decision: Decision | None = None) -> tuple[Candidate, ...] | str:
        # Reversed, so that a tie removes the block nearest the input, which is the dearest to train and to serve.
        return tuple(reversed(remove_one(self.blocks, selection))) or f"No block is left: {self.bare}."

    def decide(self, round_: Round, path: Sequence[Scored]) -> Decision:
        if round_.index == 0:
            count, some = len(self.start.blocks), len(self.start.blocks) < len(self.blocks)
            kept = f" that keep max_added_latency={self.search.max_added_latency:g} alone" if some else ""
            return start(round_, f"all {count} blocks{kept} together score" if count else f"{self.bare} scores")
        # What a bound forbids is no measure for what it allows.
        allowed = [scored for scored in path if self.exceeded(scored[0].candidate) is None]
        return decide_removal(round_, allowed or path, self.search, self.exceeded(round_.selection))


class Listed(Direction):
    """The head alone, then the candidates of a list."""

    name = "list"
    start = HEAD_ONLY

    def __init__(self, spec: StudySpec, search: SearchSpec) -> None:
        super().__init__(spec, search)
        for candidate in search.candidates:
            if in_forward_order(self.blocks, candidate.blocks) != candidate:
                raise ArgumentsError(
                    f"SearchSpec.candidates must name blocks in forward order, found {candidate.label!r}, which is "
                    f"{in_forward_order(self.blocks, candidate.blocks).label!r}."
                )

    def following(self, selection: Candidate, decision: Decision | None = None) -> tuple[Candidate, ...] | str:
        if decision is not None and decision.round:
            return decision.reason
        wanted = [each for each in self.search.candidates if each != HEAD_ONLY and self.exceeded(each) is None]
        if not wanted:
            return "No candidate of the list has blocks and keeps the bounds."
        # A tie goes to fewer parameters, then to the one nearest the head.
        return tuple(sorted(wanted, key=lambda each: (-self.num_parameters(each), self.places(each))))

    def decide(self, round_: Round, path: Sequence[Scored]) -> Decision:
        return _decide_more(self, round_, path)


def _decide_more(rules: Direction, round_: Round, path: Sequence[Scored]) -> Decision:
    """End a round of a search that starts from no block."""
    if round_.index == 0:
        return start(round_, f"{rules.bare} scores")
    return decide(round_, path[-1] if path else (), rules.search)


DIRECTIONS: dict[str, type[Direction]] = {rules.name: rules for rules in (Forward, Backward, Listed)}


def left_out(spec: StudySpec, search: SearchSpec) -> tuple[Candidate, ...]:
    """
    What a search does not train since it adds too much latency: of a list its candidates, else single blocks.

    Larger selections are judged when they come up; those that begin with such a block are mostly too slow as well.

    Args:
        spec ([`StudySpec`]): Blocks to choose from.
        search ([`SearchSpec`]): Its bound.

    Returns: `tuple[Candidate, ...]`: in forward order; empty without a bound.
    """
    rules = Forward(spec, search)
    tried = search.candidates if search.direction == "list" else windows(rules.blocks)
    return tuple(candidate for candidate in tried if rules.too_slow(candidate))
