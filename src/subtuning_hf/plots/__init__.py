"""
Pictures from a study. Matplotlib only, without pyplot: no window, no global state.

Knows finished numbers; does not know models or data.
"""

from .ladder import plot_ladder
from .latency import plot_latency
from .names import short_names
from .pairs import plot_pairs
from .pareto import plot_pareto
from .profile import Reference, plot_predictions, plot_profile
from .style import save_figure
from .timeline import plot_timeline

__all__ = [
    "Reference",
    "plot_ladder",
    "plot_latency",
    "plot_pairs",
    "plot_pareto",
    "plot_predictions",
    "plot_profile",
    "plot_timeline",
    "save_figure",
    "short_names",
]
