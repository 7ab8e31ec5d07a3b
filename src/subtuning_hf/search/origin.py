"""
Where a search starts from: the blocks that another search chose on the same base.

They say what is tried first and nothing else: what they scored there is of other data, and is not kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import checks
from .units import Candidate


@dataclass(frozen=True)
class SearchStart:
    """
    What another search chose.

    Two starts are the same if they name the same blocks in the same order, wherever these were read.

    Args:
        blocks (`tuple[str, ...]`): Full dotted names, in the order in which they are tried.
        source (`str`): Hub name of the adapter, or the name of its folder.
        revision (`str`, *optional*): The commit that was read.

    Raises:
        [`ArgumentsError`]: If a value is of another type.
        [`DuplicateBlockError`]: If a block is named twice.
    """

    blocks: tuple[str, ...]
    source: str = field(compare=False)
    revision: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        checks.put(self, "blocks", Candidate(self.blocks).blocks)
        checks.text(self.source, "SearchStart.source")
        if self.revision is not None:
            checks.text(self.revision, "SearchStart.revision")

    def turn(self, candidate: Candidate) -> tuple[int, tuple[int, ...]]:
        """
        Sorts candidates into the order in which they are tried.

        Args:
            candidate ([`Candidate`]): A selection.

        Returns: `tuple[int, tuple[int, ...]]`: blocks that only one of the two has, then the places of those that both
            have.
        """
        places = tuple(place for place, name in enumerate(self.blocks) if name in candidate.blocks)
        return len(self.blocks) + len(candidate.blocks) - 2 * len(places), places

    def to_json(self) -> dict[str, Any]:
        return {"blocks": list(self.blocks), "source": self.source, "revision": self.revision}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SearchStart:
        values = checks.exactly(cls, data)
        return cls(**values | {"blocks": tuple(checks.instance(list, values["blocks"], "SearchStart.blocks"))})
