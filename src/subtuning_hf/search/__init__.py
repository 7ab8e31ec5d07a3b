"""
The search without the training: decisions are pure functions of records, and state is a replay of them.

Needs the standard library alone.
"""

from .folds import Fold, inner_split, make_folds, single_split
from .greedy import SearchState, replay, speculate
from .journal import Journal, Study, find_study, read_study
from .pareto import ParetoFront, ParetoPoint, pareto_front
from .profile import Profile, ProfileRow, profile_of
from .records import BlockInfo, Candidate, Decision, Evaluation, FinalRun, Round, SearchSpec, StudySpec, Unit
from .result import Cost, LadderRow, SearchResult, ladder, ladder_table
from .space import add_one, pairs, remove_one, units_of, windows

__all__ = [
    "BlockInfo",
    "Candidate",
    "Unit",
    "Evaluation",
    "FinalRun",
    "StudySpec",
    "SearchSpec",
    "Round",
    "Decision",
    "Journal",
    "Study",
    "read_study",
    "find_study",
    "SearchState",
    "replay",
    "speculate",
    "add_one",
    "remove_one",
    "windows",
    "pairs",
    "units_of",
    "Fold",
    "make_folds",
    "single_split",
    "inner_split",
    "Profile",
    "ProfileRow",
    "profile_of",
    "ParetoFront",
    "ParetoPoint",
    "pareto_front",
    "SearchResult",
    "LadderRow",
    "Cost",
    "ladder",
    "ladder_table",
]
