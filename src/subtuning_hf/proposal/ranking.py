"""
Scores that say something about single blocks only.

A selection is predicted by the best of its blocks: none of these scores knows what two blocks do together, and a sum
would only reward numbers. The head alone is predicted below every block.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from .base import Estimate, Prediction, Problem, Proposal
from .intact import intact


class BlockScores(Proposal):
    """One number for each block, the greater the better."""

    predicts_subsets = False

    def fit(self, problem: Problem, budget: float) -> Prediction:
        with problem.meter.timed(), intact(problem.model, problem.seed):
            scores = self.scores(problem)
        return _Prediction(dict(zip(problem.blocks, scores, strict=True)))

    @abstractmethod
    def scores(self, problem: Problem) -> list[float]:
        """
        Look at the model, which is frozen and in eval mode, and put back as it was afterwards.

        Args:
            problem ([`Problem`]): Whose blocks. Only the training rows of its first fold are looked at.

        Returns: `list[float]`: one for each block.
        """


@dataclass(frozen=True)
class _Prediction(Prediction):
    """The best of a selection's blocks."""

    by_block: dict[str, float]

    def __call__(self, blocks: Sequence[str]) -> Estimate:
        if blocks:
            return Estimate((max(self.by_block[name] for name in blocks),))
        least, most = min(self.by_block.values()), max(self.by_block.values())
        return Estimate((least - max(most - least, 1e-12),))
