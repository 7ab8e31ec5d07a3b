"""
Pictures from a study. Matplotlib only, without pyplot: no window, no global state.

Knows finished numbers; does not know models or data.
"""

from .ladder import plot_ladder
from .names import short_names
from .profile import Reference, plot_profile
from .style import save_figure

__all__ = ["Reference", "plot_ladder", "plot_profile", "save_figure", "short_names"]
