"""
One study of the journals that its processes have read, and what is said where it was begun elsewhere.

Knows records and the team; opens no file and trains nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from transformers.utils import logging

from ..search.proposed import ProposalRun
from ..search.records import Evaluation, FinalRun, StudySpec
from ..search.scores import table_of
from .prepare import raise_mismatch
from .team import Solo, Team

logger = logging.get_logger(__name__)


class Records(NamedTuple):
    """What a process knows: evaluations, final trainings and predictions."""

    evaluations: list[Evaluation]
    finals: list[FinalRun]
    proposals: list[ProposalRun]


def united(team: Solo | Team, spec: StudySpec, mine: Records) -> Records:
    """
    What all processes know together, each record once. All of them call this.

    Args:
        team ([`Team`]): The processes.
        spec ([`StudySpec`]): The study, as this process has it.
        mine ([`Records`]): What this process has read.

    Returns: [`Records`]: the same in every process.
    Raises: [`StudyMismatchError`]: If another process has another study.
    """
    # Each has checked its own journal; here it is that all of them do the same work.
    for rank, theirs in enumerate(team.gather(spec.to_json())):
        other = StudySpec.from_json(theirs)
        if other.fingerprint != spec.fingerprint:
            raise_mismatch(f"process {rank}", other, spec)
    shared = team.gather([[record.to_json() for record in records] for records in mine])
    evaluations = table_of(Evaluation.from_json(e) for known, *_ in shared for e in known)
    finals = {json.dumps(final): final for _, known, _ in shared for final in known}
    return Records(
        list(evaluations.values()),
        [FinalRun.from_json(final) for final in finals.values()],
        # The first process made them all.
        [ProposalRun.from_json(run) for *_, known in shared for run in known],
    )


def warn_of_environment(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """
    Say where a study that goes on was begun with other versions or on another kind of machine.

    Args:
        folder (`Path`): Its journal.
        old (`Mapping[str, Any]`), new (`Mapping[str, Any]`): The environments.
    """
    differs = [name for name in new if name in old and name != "head" and old[name] != new[name]]
    if differs:
        changed = ", ".join(f"{name} {old[name]} -> {new[name]}" for name in differs)
        logger.warning(
            f"The study in '{folder}' was begun in another environment ({changed}). New scores can differ from its "
            "scores in the last digits. Make the environments equal, or start a new study in another `output_dir`, "
            "where such differences matter."
        )
