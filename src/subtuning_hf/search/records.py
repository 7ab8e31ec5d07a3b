"""
The records a study is made of: frozen, plain JSON in and out, refused when they mean nothing.

A record is checked when it is made, so whatever exists is sound and can be written. Knows no model, no data set and no
file: blocks are names, folds are numbers, and the order of things is the business of whoever holds them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..errors import ArgumentsError, DuplicateBlockError, NonFiniteScoreError
from . import checks

STRATEGIES = ("exact",)
DIRECTIONS = ("forward",)


@dataclass(frozen=True)
class BlockInfo:
    """
    A choosable block, as a study remembers it.

    Args:
        name (`str`): Full dotted name of the module.
        num_parameters (`int`): Number of parameters in it.
    """

    name: str
    num_parameters: int

    def __post_init__(self) -> None:
        checks.put(self, "name", checks.text(self.name, "BlockInfo.name"))
        checks.put(self, "num_parameters", checks.whole(self.num_parameters, "BlockInfo.num_parameters", least=0))

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "num_parameters": self.num_parameters}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BlockInfo:
        return cls(**checks.exactly(cls, data))


@dataclass(frozen=True)
class Candidate:
    """
    A selection under trial.

    Two candidates are the same if they name the same blocks in the same order; the functions of `space` always name
    them in forward order.

    Args:
        blocks (`tuple[str, ...]`): Full dotted names in forward order; `()` trains the head alone.

    Raises: [`DuplicateBlockError`]: If a block is named twice.
    """

    blocks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.blocks, str) or not isinstance(self.blocks, (tuple, list)):
            raise ArgumentsError(f"Candidate.blocks must be a tuple of names, found {self.blocks!r}.")
        names = tuple(checks.text(name, "a name in Candidate.blocks") for name in self.blocks)
        for place, name in enumerate(names):
            if name in names[:place]:
                raise DuplicateBlockError(f"Candidate.blocks must name a block once, found {name!r} twice in {names}.")
        checks.put(self, "blocks", names)

    @property
    def key(self) -> str:
        """Short name that depends on the blocks alone: `"head"`, or 16 hexadecimal digits."""
        return checks.digest(self.blocks, 8) if self.blocks else "head"

    @property
    def label(self) -> str:
        """The candidate in words."""
        return " + ".join(self.blocks) or "head only"

    def to_json(self) -> dict[str, Any]:
        return {"blocks": list(self.blocks)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Candidate:
        return cls(**checks.exactly(cls, data))


@dataclass(frozen=True)
class Evaluation:
    """
    One candidate trained and scored on one fold: the unit of work and of the journal.

    Args:
        candidate ([`Candidate`]): What was trained.
        fold (`int`): Number of the fold, from 0.
        score (`float`): What the search maximises; the sign is already turned where lower is better.
        num_examples (`int`): Validation rows the score is the mean of; the fold's weight.
        metrics (`dict[str, float]`, *optional*): All metrics as they were returned; these may be NaN.
        trainable_parameters (`int`, *optional*): Parameters that were trained, head included.
        seconds (`float`, *optional*): Wall-clock time of training and evaluation, in seconds.
        info (`dict`, *optional*):
            Anything else that is plain JSON; numbers that are not finite become the texts `"nan"`, `"inf"`, `"-inf"`.

    Raises:
        [`NonFiniteScoreError`]: If the score is NaN or infinite.
        [`ArgumentsError`]: If a value is of another type or out of range.
    """

    candidate: Candidate
    fold: int
    score: float
    num_examples: int
    metrics: dict[str, float] = field(default_factory=dict, hash=False)
    trainable_parameters: int = 0
    seconds: float = 0.0
    info: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        checks.instance(Candidate, self.candidate, "Evaluation.candidate")
        checks.put(self, "fold", checks.whole(self.fold, "Evaluation.fold", least=0))
        score = checks.number(self.score, "Evaluation.score")
        if not math.isfinite(score):
            raise NonFiniteScoreError(
                f"The score of a candidate must be a finite number, found {score} for {self.candidate.label} on fold "
                f"{self.fold}. Lower the learning rate, or look for rows the metric cannot handle."
            )
        checks.put(self, "score", score)
        checks.put(self, "num_examples", checks.whole(self.num_examples, "Evaluation.num_examples", least=1))
        checks.put(self, "metrics", _metrics(self.metrics))
        parameters = checks.whole(self.trainable_parameters, "Evaluation.trainable_parameters", least=0)
        checks.put(self, "trainable_parameters", parameters)
        checks.put(self, "seconds", checks.finite(self.seconds, "Evaluation.seconds", least=0))
        checks.put(self, "info", checks.plain_dict(self.info, "Evaluation.info"))

    @property
    def key(self) -> tuple[str, int]:
        """Key of the candidate and number of the fold: two evaluations of one study with equal keys are repeats."""
        return self.candidate.key, self.fold

    def to_json(self) -> dict[str, Any]:
        return checks.plain_dict(_shallow(self) | {"candidate": self.candidate.to_json()}, "Evaluation")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evaluation:
        values = checks.exactly(cls, data)
        return cls(**values | {"candidate": Candidate.from_json(values["candidate"])})


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
        blocks = [block.to_json() for block in self.blocks]
        return checks.plain_dict(_shallow(self) | {"blocks": blocks}, "StudySpec")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StudySpec:
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
        strategy (`str`, *optional*, defaults to `"exact"`): `"exact"`: each candidate is trained on each fold.
        direction (`str`, *optional*, defaults to `"forward"`): `"forward"`: from no block, one more each round.
        max_blocks (`int`, *optional*): Most blocks to choose.
        min_gain (`float`, *optional*):
            Least gain in score for a block to be added, the paper's epsilon: `0.01` is one point of accuracy. By
            default a gain must exceed its own standard error.

    Raises: [`ArgumentsError`]: If a value is of another type or out of range.
    """

    strategy: str = "exact"
    direction: str = "forward"
    max_blocks: int | None = None
    min_gain: float | None = None

    def __post_init__(self) -> None:
        for name, known in (("strategy", STRATEGIES), ("direction", DIRECTIONS)):
            if getattr(self, name) not in known:
                words = ", ".join(map(repr, known))
                raise ArgumentsError(f"SearchSpec.{name} must be one of {words}, found {getattr(self, name)!r}.")
        if self.max_blocks is not None:
            checks.put(self, "max_blocks", checks.whole(self.max_blocks, "SearchSpec.max_blocks", least=0))
        if self.min_gain is not None:
            checks.put(self, "min_gain", checks.finite(self.min_gain, "SearchSpec.min_gain", least=0))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SearchSpec:
        return cls(**checks.exactly(cls, data))


@dataclass(frozen=True)
class Decision:
    """
    What ended a round.

    Args:
        round (`int`): Number of the round; round 0 is the head alone.
        winner ([`Candidate`], *optional*): The new selection; `None` means that the search stops with the old one.
        gain (`float`, *optional*): Gain in score of the best candidate over the selection before; none in round 0.
        standard_error (`float`, *optional*): Of that gain; none with a single fold.
        threshold (`float`, *optional*): What the gain was compared with; none in round 0.
        reason (`str`): The decision in words.
    """

    round: int
    winner: Candidate | None
    gain: float | None
    standard_error: float | None
    threshold: float | None
    reason: str

    def __post_init__(self) -> None:
        checks.put(self, "round", checks.whole(self.round, "Decision.round", least=0))
        if self.winner is not None:
            checks.instance(Candidate, self.winner, "Decision.winner")
        for name in ("gain", "standard_error", "threshold"):
            if getattr(self, name) is not None:
                checks.put(self, name, checks.finite(getattr(self, name), f"Decision.{name}"))
        checks.text(self.reason, "Decision.reason")

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"winner": None if self.winner is None else self.winner.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Decision:
        values = checks.exactly(cls, data)
        winner = values["winner"]
        return cls(**values | {"winner": None if winner is None else Candidate.from_json(winner)})


@dataclass(frozen=True)
class Round:
    """
    All candidates of one size with what is known of them, and the decision that ended it.

    Args:
        index (`int`): Number of the round; round 0 is the head alone.
        selection ([`Candidate`]): The selection before the round.
        candidates (`tuple[Candidate, ...]`): In forward order of the block that is added.
        evaluations (`tuple[Evaluation, ...]`): In the order of the candidates, then of the folds.
        decision ([`Decision`], *optional*): None while evaluations are missing.
    """

    index: int
    selection: Candidate
    candidates: tuple[Candidate, ...]
    evaluations: tuple[Evaluation, ...] = ()
    decision: Decision | None = None

    def of(self, candidate: Candidate) -> tuple[Evaluation, ...]:
        """The evaluations of one candidate."""
        return tuple(evaluation for evaluation in self.evaluations if evaluation.candidate == candidate)

    def to_json(self) -> dict[str, Any]:
        return {
            "index": self.index,
            "selection": self.selection.to_json(),
            "candidates": [candidate.to_json() for candidate in self.candidates],
            "evaluations": [evaluation.to_json() for evaluation in self.evaluations],
            "decision": None if self.decision is None else self.decision.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Round:
        values = checks.exactly(cls, data)
        return cls(
            index=checks.whole(values["index"], "Round.index", least=0),
            selection=Candidate.from_json(values["selection"]),
            candidates=_list(Candidate, values["candidates"], "Round.candidates"),
            evaluations=tuple(
                map(Evaluation.from_json, checks.instance(list, values["evaluations"], "Round.evaluations"))
            ),
            decision=None if values["decision"] is None else Decision.from_json(values["decision"]),
        )


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


def _shallow(record: Any) -> dict[str, Any]:
    return {item.name: getattr(record, item.name) for item in fields(record)}


def _list(kind: Any, values: Any, where: str) -> tuple[Any, ...]:
    return tuple(kind.from_json(value) for value in checks.instance(list, values, where))


def _metrics(metrics: Any) -> dict[str, float]:
    checked = {}
    for name, value in checks.instance(dict, metrics, "Evaluation.metrics").items():
        value = float(value) if isinstance(value, str) and value in ("nan", "inf", "-inf") else value
        checked[checks.text(name, "a name in Evaluation.metrics")] = checks.number(
            value, f"Evaluation.metrics[{name!r}]"
        )
    return checked
