"""
What serving costs, for a search: read from the latency profile that its arguments name, and checked against the study.

Knows files and records; measures nothing.
"""

from __future__ import annotations

from ..errors import ArgumentsError
from ..search.latency import LatencyProfile
from ..search.records import StudySpec
from ..search.serving import ServingCost
from .arguments import GreedySubTuningArguments


def serving_cost(args: GreedySubTuningArguments, spec: StudySpec) -> ServingCost | None:
    """
    The cost of serving that a search knows.

    Args:
        args ([`GreedySubTuningArguments`]): With `latency_profile`, `serving_tasks` and `serving_batch`.
        spec ([`StudySpec`]): The blocks to choose from.

    Returns: [`ServingCost`] or `None`: `None` without a profile.
    Raises: [`ArgumentsError`]: If the file is none, or of another model, number of tasks or size of the batch.
    """
    if args.latency_profile is None:
        return None
    profile = LatencyProfile.load(args.latency_profile)
    if args.serving_tasks is not None and args.serving_tasks != profile.num_tasks:
        raise ArgumentsError(
            f"`serving_tasks` is {args.serving_tasks}, but '{args.latency_profile}' was measured for "
            f"{profile.num_tasks} tasks. Measure it again: `subtuning latency MODEL --tasks {args.serving_tasks}`."
        )
    if args.serving_batch is None and len(profile.batch_sizes) > 1:
        raise ArgumentsError(
            f"`serving_batch` must say how many rows are served at once: '{args.latency_profile}' has times for "
            f"{', '.join(map(str, profile.batch_sizes))}. Name one of them."
        )
    sizes = dict(zip(profile.blocks, profile.num_parameters, strict=True))
    for block in spec.blocks:
        if sizes.get(block.name) != block.num_parameters:
            found = f"{sizes[block.name]:,} parameters" if block.name in sizes else "no time"
            raise ArgumentsError(
                f"`latency_profile` must be of the model that is searched, block by block, but for '{block.name}' with "
                f"{block.num_parameters:,} parameters '{args.latency_profile}' has {found}. Measure this model "
                "(`subtuning latency MODEL`), and search with granularity='block'."
            )
    size = profile.batch_sizes[0] if args.serving_batch is None else args.serving_batch
    return profile.cost(size)
