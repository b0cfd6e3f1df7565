"""What is every page of ours made of? One HTML file that asks for no other: its style, tables, bars and charts."""

from knowfuse.pages.bars import Part, bars, key
from knowfuse.pages.charts import Dot, Line, areas, dots, lines
from knowfuse.pages.drawn import write_png
from knowfuse.pages.page import Section, figure, grid, page, paragraph
from knowfuse.pages.style import MARKER_COLOUR, MASS_COLOURS, MASS_MEANING, SERIES
from knowfuse.pages.tables import table

__all__ = [
    "MARKER_COLOUR",
    "MASS_COLOURS",
    "MASS_MEANING",
    "SERIES",
    "Dot",
    "Line",
    "Part",
    "Section",
    "areas",
    "bars",
    "dots",
    "figure",
    "grid",
    "key",
    "lines",
    "page",
    "paragraph",
    "table",
    "write_png",
]
