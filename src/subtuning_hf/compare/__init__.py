"""
Baselines in the same harness as SubTuning.

Every method gets the same pretrained model, rows, epochs, number of trials and seeds, so that a table of them compares
the methods and nothing else.
"""

from .active import ActiveLearning, active_learning
from .active_rules import ACQUISITIONS
from .harness import Run, Trials, rates, repeat, run_all, tune
from .log import RunLog
from .method import Method, design
from .paired import Difference, difference
from .partial import BlockMethod, FullFineTuning, LinearProbe, Selection
from .study import CORE, METHODS, Comparison, check_methods, compare
from .table import comparison_table, method_rows, method_table, verdict
from .task import Task

__all__ = [
    "ACQUISITIONS",
    "CORE",
    "METHODS",
    "ActiveLearning",
    "BlockMethod",
    "Comparison",
    "Difference",
    "FullFineTuning",
    "LinearProbe",
    "Method",
    "Run",
    "RunLog",
    "Selection",
    "Task",
    "Trials",
    "active_learning",
    "check_methods",
    "compare",
    "comparison_table",
    "design",
    "difference",
    "method_rows",
    "method_table",
    "rates",
    "repeat",
    "run_all",
    "tune",
    "verdict",
]
