"""
An adapter's way to the Hub: its model card, which files of a folder go there, and what a later search takes from it.

Is handed finished numbers and pictures; knows neither trainers nor how anything is drawn.
"""

from .card import Picture, is_own_card, model_card, write_card
from .compared import read_comparison
from .facts import CardFacts, Measured, Part, Source, adapter_parts, hub_name, pipeline_tag, source_of
from .files import pushed_files
from .starting import StartingPoint, read_start, search_start

__all__ = [
    "CardFacts",
    "Measured",
    "Part",
    "Picture",
    "Source",
    "StartingPoint",
    "adapter_parts",
    "hub_name",
    "is_own_card",
    "model_card",
    "pipeline_tag",
    "pushed_files",
    "read_comparison",
    "read_start",
    "search_start",
    "source_of",
    "write_card",
]
