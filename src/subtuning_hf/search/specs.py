"""
What is searched and how: the study that all evaluations belong to, and the rules of one search in it.

Knows no model, no data set and no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ArgumentsError
from . import checks
from .origin import SearchStart
from .serving import ServingCost
from .units import BlockInfo, Candidate

# "exact" trains every candidate; the others predict scores, each in its own way, and train a few candidates.
STRATEGIES = ("exact", "short-profile", "one-shot", "swap", "kernel", "statistics")
DIRECTIONS = ("forward", "backward", "best", "list")
PRUNERS = ("none", "race", "halving", "certain")


@dataclass(frozen=True)
class StudySpec:
    """
    What all evaluations of a study have in common, and what makes two studies different.

    Args:
        blocks (`tuple[BlockInfo, ...]`): The blocks to choose from, in forward order.
        num_folds (`int`): Number of folds.
        metric (`str`): Name of the metric behind the score.
        greater_is_better (`bool`): Whether the metric itself is better when greater; the score always is.
        fingerprints (`dict[str, str]`, *optional*): Hashes of what scores depend on, such as stem, data, settings.
        settings (`dict`, *optional*): The same readable, so that a difference can be explained; not compared.
        environment (`dict`, *optional*): Versions, device, threads: recorded, never compared.

    Raises: [`ArgumentsError`]: If a value is of another type or out of range, or there is no block.
    """

    blocks: tuple[BlockInfo, ...]
    num_folds: int
    metric: str
    greater_is_better: bool
    fingerprints: dict[str, str] = field(default_factory=dict, hash=False)
    settings: dict[str, Any] = field(default_factory=dict, hash=False)
    environment: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        blocks = tuple(checks.instance(BlockInfo, block, "an item of StudySpec.blocks") for block in self.blocks)
        if not blocks:
            raise ArgumentsError("StudySpec.blocks must hold the blocks to choose from, found none.")
        Candidate(tuple(block.name for block in blocks))  # refuses a block named twice
        checks.put(self, "blocks", blocks)
        checks.put(self, "num_folds", checks.whole(self.num_folds, "StudySpec.num_folds", least=1))
        checks.text(self.metric, "StudySpec.metric")
        checks.instance(bool, self.greater_is_better, "StudySpec.greater_is_better")
        fingerprints = checks.plain_dict(self.fingerprints, "StudySpec.fingerprints")
        for name, value in fingerprints.items():
            checks.instance(str, value, f"StudySpec.fingerprints[{name!r}]")
        checks.put(self, "fingerprints", fingerprints)
        checks.put(self, "settings", checks.plain_dict(self.settings, "StudySpec.settings"))
        checks.put(self, "environment", checks.plain_dict(self.environment, "StudySpec.environment"))

    @property
    def fingerprint(self) -> str:
        """Hash of blocks, folds, metric and fingerprints: 32 hexadecimal digits."""
        return checks.digest(self._identity(), 16)

    @property
    def has_head(self) -> bool:
        """`bool`: whether the model has a head, which is then trained with every selection; yes if nothing says so."""
        return self.environment.get("head") != ""

    def _identity(self) -> dict[str, Any]:
        """What tells this study from others."""
        return {name: value for name, value in self.to_json().items() if name not in ("settings", "environment")}

    def differences(self, other: StudySpec) -> list[str]:
        """
        Say in words in what another study differs from this one, old value first.

        Args:
            other ([`StudySpec`]): The later study.

        Returns: `list[str]`: empty exactly if the fingerprints are equal.
        """
        old, new = self._identity(), other._identity()
        if old == new:
            return []
        lines = [] if self.blocks == other.blocks else [_blocks_differ(self.blocks, other.blocks)]
        lines += [
            f"{name}: {checks.short(old[name])} -> {checks.short(new[name])}"
            for name in ("num_folds", "metric", "greater_is_better")
            if old[name] != new[name]
        ]
        changed = list(checks.changes(self.settings, other.settings))
        # A hash says that something differs; where the settings say what, that is enough.
        for name in checks.union(self.fingerprints, other.fingerprints):
            before, after = self.fingerprints.get(name, "none"), other.fingerprints.get(name, "none")
            if before != after and not (changed and name == "settings"):
                lines.append(f"{name}: {checks.short(before)} -> {checks.short(after)}")
        return lines + changed

    def to_json(self) -> dict[str, Any]:
        """`dict`: what a journal says of it, in types of JSON alone."""
        blocks = [block.to_json() for block in self.blocks]
        return checks.plain_dict(checks.written(self) | {"blocks": blocks}, "StudySpec")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StudySpec:
        """[`StudySpec`]: from what [`StudySpec.to_json`] gave; `data` with other fields or types is refused."""
        values = checks.exactly(cls, data)
        blocks = tuple(
            BlockInfo.from_json(block) for block in checks.instance(list, values["blocks"], "StudySpec.blocks")
        )
        return cls(**values | {"blocks": blocks})


@dataclass(frozen=True)
class SearchSpec:
    """
    How a study is searched. Searches of one study share its evaluations.

    Args:
        strategy (`str`, *optional*, defaults to `"exact"`):
            `"exact"`: each candidate is trained on each fold. Any other names a proposal: scores are predicted, and a
            few of the best predicted candidates are trained.
        direction (`str`, *optional*, defaults to `"forward"`):
            `"forward"`: from no block, one more each round. `"backward"`: from all blocks, one less each round.
            `"best"`: both, and the better of their ends. `"list"`: the best of `candidates`.
        max_blocks (`int`, *optional*): Most blocks to choose.
        min_gain (`float`, *optional*):
            Least gain in score for a block to be added or to stay, the paper's epsilon: `0.01` is one point of
            accuracy. By default a gain must exceed its own standard error.
        max_block_parameters (`int`, *optional*): Most parameters the chosen blocks may have, the head not counted.
        candidates (`tuple[Candidate, ...]`, *optional*): For `"list"`: selections of any size in forward order.
        pruner (`str`, *optional*, defaults to `"none"`):
            `"none"`: every candidate is trained in full on each fold. `"race"`: fold by fold, and a candidate that is
            clearly behind gets no further one. `"halving"`: first a share of the training, and the best go on.
            `"certain"`: fold by fold, and a candidate that cannot win any more gets no further one.
        confidence (`float`, *optional*, defaults to 0.95): For `"race"`: how sure it must be that a candidate is
            behind, from 0.5 and below 1.
        reduction (`int`, *optional*, defaults to 3): For `"halving"`: one candidate in so many goes on, with so many
            times the training.
        smallest_budget (`float`, *optional*, defaults to 1/9): For `"halving"`: share of the full training that every
            candidate gets first.
        score_limit (`float`, *optional*): For `"certain"`: the best possible score, in what is maximised.
        budget (`float`, *optional*): For proposals: what the search may cost, in full fine-tunes.
        serving ([`ServingCost`], *optional*): What selections add to the latency of serving many tasks.
        max_added_latency (`float`, *optional*):
            Most that a selection may add, in passes of the base; others are not trained. Backward starts from all
            blocks that keep the bound alone, and while they do not together, the best removal is made.
        serving_aware (`bool`, *optional*, defaults to `False`):
            Take the candidate that adds least latency among those that are about as good as the best; see
            `decisions.cheapest_to_serve` for the rule.
        start ([`SearchStart`], *optional*):
            Blocks that another search chose: candidates nearest to them are tried first, which changes no decision.
            Searches that predict train them beside the best predicted.

    Raises: [`ArgumentsError`]: If a value is of another type or out of range.
    """

    strategy: str = "exact"
    direction: str = "forward"
    max_blocks: int | None = None
    min_gain: float | None = None
    max_block_parameters: int | None = checks.later(None)
    candidates: tuple[Candidate, ...] = checks.later(())
    pruner: str = checks.later("none")
    confidence: float = checks.later(0.95)
    reduction: int = checks.later(3)
    smallest_budget: float = checks.later(1 / 9)
    score_limit: float | None = checks.later(None)
    budget: float | None = checks.later(None)
    serving: ServingCost | None = checks.later(None)  # noqa: RUF009 (a field; and the record is frozen)
    max_added_latency: float | None = checks.later(None)
    serving_aware: bool = checks.later(False)
    start: SearchStart | None = checks.later(None)  # noqa: RUF009 (as above)

    def __post_init__(self) -> None:
        for name, known in (("strategy", STRATEGIES), ("direction", DIRECTIONS), ("pruner", PRUNERS)):
            if getattr(self, name) not in known:
                words = ", ".join(map(repr, known))
                raise ArgumentsError(f"SearchSpec.{name} must be one of {words}, found {getattr(self, name)!r}.")
        for name in ("max_blocks", "max_block_parameters"):
            if getattr(self, name) is not None:
                checks.put(self, name, checks.whole(getattr(self, name), f"SearchSpec.{name}", least=0))
        if self.min_gain is not None:
            checks.put(self, "min_gain", checks.finite(self.min_gain, "SearchSpec.min_gain", least=0))
        self._check_candidates()
        confidence = checks.number(self.confidence, "SearchSpec.confidence")
        if not 0.5 <= confidence < 1:
            raise ArgumentsError(f"SearchSpec.confidence must be a number from 0.5 and below 1, found {confidence}.")
        checks.put(self, "confidence", confidence)
        checks.put(self, "reduction", checks.whole(self.reduction, "SearchSpec.reduction", least=2))
        checks.put(self, "smallest_budget", checks.share(self.smallest_budget, "SearchSpec.smallest_budget"))
        if (self.strategy == "exact") != (self.budget is None):
            raise ArgumentsError(
                f"SearchSpec.budget is for strategies that predict, and needed there; found {self.budget!r} with "
                f"strategy {self.strategy!r}."
            )
        if self.budget is not None:
            checks.put(self, "budget", checks.finite(self.budget, "SearchSpec.budget", least=0))
        if (self.pruner == "certain") != (self.score_limit is not None):
            raise ArgumentsError(
                "SearchSpec.score_limit is for pruner 'certain', and only for that; found "
                f"{self.score_limit!r} with pruner {self.pruner!r}."
            )
        if self.score_limit is not None:
            checks.put(self, "score_limit", checks.finite(self.score_limit, "SearchSpec.score_limit"))
        self._check_serving()
        if self.start is not None:
            checks.instance(SearchStart, self.start, "SearchSpec.start")

    def _check_serving(self) -> None:
        checks.instance(bool, self.serving_aware, "SearchSpec.serving_aware")
        if self.max_added_latency is not None:
            most = checks.finite(self.max_added_latency, "SearchSpec.max_added_latency", least=0)
            checks.put(self, "max_added_latency", most)
        if self.serving is None:
            if self.serving_aware or self.max_added_latency is not None:
                raise ArgumentsError(
                    "SearchSpec.serving must say what selections cost for `max_added_latency` and `serving_aware`, "
                    "found None."
                )
            return
        checks.instance(ServingCost, self.serving, "SearchSpec.serving")
        if self.serving_aware and (self.strategy != "exact" or self.pruner == "certain"):
            raise ArgumentsError(
                "SearchSpec.serving_aware compares candidates that were trained on every fold, which strategy 'exact' "
                f"does without pruner 'certain'; found strategy {self.strategy!r} and pruner {self.pruner!r}."
            )

    def _check_candidates(self) -> None:
        if not isinstance(self.candidates, (tuple, list)):
            found = checks.short(self.candidates)
            raise ArgumentsError(f"SearchSpec.candidates must be a tuple of Candidate, found {found}.")
        given = tuple(
            checks.instance(Candidate, candidate, "an item of SearchSpec.candidates") for candidate in self.candidates
        )
        checks.put(self, "candidates", given)
        for place, candidate in enumerate(given):
            if candidate in given[:place]:
                raise ArgumentsError(f"SearchSpec.candidates must differ, found {candidate.label!r} twice.")
        if (self.direction == "list") != bool(given):
            raise ArgumentsError(
                "SearchSpec.candidates are what direction 'list' chooses from, and no other direction takes any; found "
                f"{len(given)} candidates with direction {self.direction!r}."
            )

    def to_json(self) -> dict[str, Any]:
        """`dict`: what a journal says of it, in types of JSON alone."""
        values = checks.written(self)
        if self.candidates:
            values["candidates"] = [candidate.to_json() for candidate in self.candidates]
        if self.serving is not None:
            values["serving"] = self.serving.to_json()
        if self.start is not None:
            values["start"] = self.start.to_json()
        return values

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SearchSpec:
        """[`SearchSpec`]: from what [`SearchSpec.to_json`] gave; `data` with other fields or types is refused."""
        values = checks.exactly(cls, data)
        if "candidates" in values:
            listed = checks.instance(list, values["candidates"], "SearchSpec.candidates")
            values["candidates"] = tuple(map(Candidate.from_json, listed))
        if "serving" in values:
            values["serving"] = ServingCost.from_json(values["serving"])
        if "start" in values:
            values["start"] = SearchStart.from_json(values["start"])
        return cls(**values)


def _blocks_differ(old: tuple[BlockInfo, ...], new: tuple[BlockInfo, ...]) -> str:
    before, after = [block.name for block in old], [block.name for block in new]
    if before == after:
        first = next(place for place, (one, two) in enumerate(zip(old, new, strict=True)) if one != two)
        sizes = f"{old[first].num_parameters:,} -> {new[first].num_parameters:,} parameters"
        return f"blocks: {before[first]!r} has another size: {sizes}"
    gone = [name for name in before if name not in after]
    added = [name for name in after if name not in before]
    words = [f"without {checks.short(gone)}"] * bool(gone) + [f"with {checks.short(added)}"] * bool(added)
    return f"blocks: {len(before)} -> {len(after)}, {', '.join(words) or 'in another order'}"
