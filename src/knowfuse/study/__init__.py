"""What is found out by many runs? Points, their runs, the better half of them, and the tables that are left of it."""

from knowfuse.study.asked import asked_of
from knowfuse.study.gathered import Line, Measured, ahead_to_its_best, intervals, lines_of, lines_of_intervals, trained
from knowfuse.study.halving import Round, halved
from knowfuse.study.point import Point, axis, grid
from knowfuse.study.runs import Finished, Runs
from knowfuse.study.specialist import as_settings, specialist
from knowfuse.study.table import markdown, read_lines, write_lines

__all__ = [
    "Finished",
    "Line",
    "Measured",
    "Point",
    "Round",
    "Runs",
    "ahead_to_its_best",
    "as_settings",
    "asked_of",
    "axis",
    "grid",
    "halved",
    "intervals",
    "lines_of",
    "lines_of_intervals",
    "markdown",
    "read_lines",
    "specialist",
    "trained",
    "write_lines",
]
