"""
Baselines in the same harness as SubTuning.

Every method gets the same pretrained model, rows, folds, epochs, number of learning-rate trials and seeds, so that a
table of them compares the methods and nothing else. Does not know how blocks were chosen.
"""

from .harness import FullFineTuning, LinearProbe, Method, Selection, Task, Trials, repeat, tune_learning_rate
from .log import RunLog
from .table import method_rows, method_table, verdict

__all__ = [
    "FullFineTuning",
    "LinearProbe",
    "Method",
    "RunLog",
    "Selection",
    "Task",
    "Trials",
    "method_rows",
    "method_table",
    "repeat",
    "tune_learning_rate",
    "verdict",
]
