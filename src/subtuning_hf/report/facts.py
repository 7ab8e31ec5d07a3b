"""
What is known of a study when its report is written: records, what follows from them, and finished pictures.

Reads nothing and draws nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from ..search.greedy import SearchState
from ..search.journal import Study
from ..search.pareto import ParetoFront
from ..search.profile import Profile
from ..search.proposed import ProposalRun
from ..search.records import SearchSpec
from ..search.result import SearchResult


@dataclass(frozen=True)
class Picture:
    """
    A finished picture.

    Args:
        light (`str`), dark (`str`): The same for either scheme of colours, as `data:` addresses.
        alt (`str`): What it shows, for those who do not see it.
    """

    light: str
    dark: str
    alt: str


@dataclass(frozen=True)
class Search:
    """
    A search of the study, and how far it is.

    Args:
        spec ([`SearchSpec`]): What was asked for.
        state ([`SearchState`], *optional*): Where it stands; `None` while it predicts.
        result ([`SearchResult`], *optional*): What it came to; `None` while it is not finished.
        run ([`ProposalRun`], *optional*): What was predicted for it.
    """

    spec: SearchSpec
    state: SearchState | None = None
    result: SearchResult | None = None
    run: ProposalRun | None = None

    @property
    def name(self) -> str:
        """Its kind in words."""
        if self.spec.strategy != "exact":
            return f"{self.spec.strategy}, {self.spec.direction}"
        return {"best": "forward and backward", "list": "listed selections"}.get(
            self.spec.direction, self.spec.direction
        )

    @property
    def missing(self) -> int:
        """Trainings that its next decision lacks."""
        return 0 if self.state is None else len(self.state.pending)


@dataclass(frozen=True)
class Comparison:
    """
    Methods that were trained and tested alike.

    Args:
        rows (`Sequence[Mapping]`): As `compare.method_rows` gives them.
        file (`str`): Name of the file they come from.
        verdict (`str`, *optional*): Who is ahead, in a sentence.
    """

    rows: Sequence[Mapping[str, Any]]
    file: str
    verdict: str = ""


@dataclass(frozen=True)
class ReportFacts:
    """
    All that a report tells. What is `None` or empty is not known and not told.

    Args:
        title (`str`): Heading.
        study ([`~search.journal.Study`]): The journal.
        searches (`tuple[Search, ...]`, *optional*): Its searches.
        shown (`Mapping[str, SearchResult]`, *optional*): The results that are told in full, by their kind.
        chosen ([`SearchResult`], *optional*): The one whose blocks count.
        profile ([`Profile`], *optional*), front ([`ParetoFront`], *optional*): What follows from its evaluations.
        pictures (`Mapping[str, Sequence[Picture]]`, *optional*): By section: `profile`, `ladder`, `pareto`, `timeline`.
        damage (`tuple[str, ...]`, *optional*): What could not be read.
        notes (`tuple[str, ...]`, *optional*): Anything else that its reader should know first.
        comparison ([`Comparison`], *optional*): With other methods.
        defaults (`Mapping[str, Any]`, *optional*): Of the settings; `None` if they are not known.
        short (`Mapping[str, str]`, *optional*): Short names of blocks.
    """

    title: str
    study: Study
    searches: tuple[Search, ...] = ()
    shown: Mapping[str, SearchResult] = field(default_factory=dict)
    chosen: SearchResult | None = None
    profile: Profile | None = None
    front: ParetoFront | None = None
    pictures: Mapping[str, Sequence[Picture]] = field(default_factory=dict)
    damage: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    comparison: Comparison | None = None
    defaults: Mapping[str, Any] | None = None
    short: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Parameters of each block, in forward order."""
        return {block.name: block.num_parameters for block in self.study.spec.blocks}

    @cached_property
    def places(self) -> dict[str, int]:
        """The number of each block."""
        return {name: place for place, name in enumerate(self.sizes)}

    @property
    def sign(self) -> int:
        """What turns a score into the metric as it is."""
        return 1 if self.study.spec.greater_is_better else -1

    @property
    def unfinished(self) -> tuple[Search, ...]:
        """Searches without a result."""
        return tuple(search for search in self.searches if search.result is None)

    def setting(self, *path: str) -> Any:
        """A value deep in the study's settings; `None` where there is none."""
        found: Any = self.study.spec.settings
        for name in path:
            found = found.get(name) if isinstance(found, Mapping) else None
        return found


def moment(value: Any) -> str:
    """A time since 1970 as UTC, to the second; nothing for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return ""
    try:
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return ""
