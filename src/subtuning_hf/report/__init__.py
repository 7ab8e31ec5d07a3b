"""
A study as one self-contained HTML page.

Is handed records, what follows from them and finished pictures; knows neither models nor how anything is drawn.
"""

from .comparison import read_rows
from .facts import Comparison, Picture, ReportFacts, Search
from .page import check_target, make_page, write_page
from .salvage import Salvaged, salvage

__all__ = [
    "Comparison",
    "Picture",
    "ReportFacts",
    "Salvaged",
    "Search",
    "check_target",
    "make_page",
    "read_rows",
    "salvage",
    "write_page",
]
