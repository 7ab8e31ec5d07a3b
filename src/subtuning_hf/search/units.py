"""
The unit of work and what came out of it: blocks, candidates, trainings to be made, trainings made.

A record is checked when it is made, so whatever exists is sound and can be written. Knows no model, no data set and no
file: blocks are names, folds are numbers, and the order of things is the business of whoever holds them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..errors import ArgumentsError, DuplicateBlockError, NonFiniteScoreError
from . import checks


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
        """`dict`: what a journal says of it, in types of JSON alone."""
        return {"name": self.name, "num_parameters": self.num_parameters}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BlockInfo:
        """[`BlockInfo`]: from what [`BlockInfo.to_json`] gave; `data` with other fields or types is refused."""
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
        """`dict`: what a journal says of it, in types of JSON alone."""
        return {"blocks": list(self.blocks)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Candidate:
        """[`Candidate`]: from what [`Candidate.to_json`] gave; `data` with other fields or types is refused."""
        return cls(**checks.exactly(cls, data))


class Unit(NamedTuple):
    """
    One training to be made.

    Args:
        candidate ([`Candidate`]): What is trained.
        fold (`int`): Number of the fold, from 0.
        repeat (`int`, *optional*, defaults to 0): Added to the seed; a search makes repeat 0 alone.
        budget (`float`, *optional*, defaults to 1.0): Share of the full training, above 0 and up to 1.
    """

    candidate: Candidate
    fold: int
    repeat: int = 0
    budget: float = 1.0


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
        repeat (`int`, *optional*, defaults to 0): Added to the seed: repeat r is trained with seed + r.
        budget (`float`, *optional*, defaults to 1.0): Share of the full training it had, above 0 and up to 1.

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
    repeat: int = checks.later(0)
    budget: float = checks.later(1.0)

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
        checks.put(self, "metrics", _metrics(self.metrics, "Evaluation.metrics"))
        parameters = checks.whole(self.trainable_parameters, "Evaluation.trainable_parameters", least=0)
        checks.put(self, "trainable_parameters", parameters)
        checks.put(self, "seconds", checks.finite(self.seconds, "Evaluation.seconds", least=0))
        checks.put(self, "info", checks.plain_dict(self.info, "Evaluation.info"))
        checks.put(self, "repeat", checks.whole(self.repeat, "Evaluation.repeat", least=0))
        checks.put(self, "budget", checks.share(self.budget, "Evaluation.budget"))

    @property
    def unit(self) -> Unit:
        """The training that this is the outcome of."""
        return Unit(self.candidate, self.fold, self.repeat, self.budget)

    @property
    def key(self) -> tuple[str, int, int, float]:
        """The unit with the candidate's key: of two evaluations of one study with equal keys one is superfluous."""
        return self.candidate.key, self.fold, self.repeat, self.budget

    def to_json(self) -> dict[str, Any]:
        """`dict`: what a journal says of it, in types of JSON alone."""
        return checks.plain_dict(checks.written(self) | {"candidate": self.candidate.to_json()}, "Evaluation")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evaluation:
        """[`Evaluation`]: from what [`Evaluation.to_json`] gave; `data` with other fields or types is refused."""
        values = checks.exactly(cls, data)
        return cls(**values | {"candidate": Candidate.from_json(values["candidate"])})


@dataclass(frozen=True)
class FinalRun:
    """
    Chosen blocks trained on the whole training set, and measured on rows that chose nothing. No decision reads it.

    Args:
        candidate ([`Candidate`]): What was trained.
        seed (`int`): The seed it was trained with.
        metrics (`dict[str, float]`): All metrics as they were returned; these may be NaN.
        trainable_parameters (`int`, *optional*): Parameters that were trained, head included.
        seconds (`float`, *optional*): Wall-clock time of training and evaluation, in seconds.
        info (`dict`, *optional*): Anything else that is plain JSON; `info["rows"]` names the rows it was measured on.

    Raises: [`ArgumentsError`]: If a value is of another type or out of range.
    """

    candidate: Candidate
    seed: int
    metrics: dict[str, float] = field(hash=False)
    trainable_parameters: int = 0
    seconds: float = 0.0
    info: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        checks.instance(Candidate, self.candidate, "FinalRun.candidate")
        checks.put(self, "seed", checks.whole(self.seed, "FinalRun.seed", least=0))
        checks.put(self, "metrics", _metrics(self.metrics, "FinalRun.metrics"))
        parameters = checks.whole(self.trainable_parameters, "FinalRun.trainable_parameters", least=0)
        checks.put(self, "trainable_parameters", parameters)
        checks.put(self, "seconds", checks.finite(self.seconds, "FinalRun.seconds", least=0))
        checks.put(self, "info", checks.plain_dict(self.info, "FinalRun.info"))

    def to_json(self) -> dict[str, Any]:
        """`dict`: what a journal says of it, in types of JSON alone."""
        return checks.plain_dict(checks.written(self) | {"candidate": self.candidate.to_json()}, "FinalRun")

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FinalRun:
        """[`FinalRun`]: from what [`FinalRun.to_json`] gave; `data` with other fields or types is refused."""
        values = checks.exactly(cls, data)
        return cls(**values | {"candidate": Candidate.from_json(values["candidate"])})


def _metrics(metrics: Any, where: str) -> dict[str, float]:
    checked = {}
    for name, value in checks.instance(dict, metrics, where).items():
        value = float(value) if isinstance(value, str) and value in ("nan", "inf", "-inf") else value
        checked[checks.text(name, f"a name in {where}")] = checks.number(value, f"{where}[{name!r}]")
    return checked
