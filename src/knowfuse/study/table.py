"""How is the table of a study kept? As a CSV file under a heading that says how it was made, and printed from it again."""

import csv
import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from knowfuse.files import undamaged, write_whole
from knowfuse.report.tables import markdown_table
from knowfuse.study.gathered import Cell, Line

DIGITS = 4  # of bits per byte, on paper
BITS = ("validation", "mean")  # columns whose lowest figure is bold
NOT_BITS = ("learning_rate", "seconds")  # figures that the table rounds otherwise
BOUNDS = {"mean": ("low", "high"), "more": ("more_low", "more_high")}  # of an interval, behind its figure


def write_lines(path: Path, heading: Sequence[str], lines: Sequence[Line]) -> None:
    """A CSV file of these lines, whole or not at all; each line of the heading before it, behind a `#`.

    A column for every key of any line, in the order in which they come; None is an empty cell, a figure has 7 digits.
    """
    columns = list(dict.fromkeys(key for line in lines for key in line))
    text = io.StringIO(newline="")
    text.writelines(f"# {line}\n" for line in heading)
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _short(value) for key, value in line.items()} for line in lines)
    write_whole(path, text.getvalue().encode())


def _short(value: Cell) -> Cell:
    return float(f"{value:.7g}") if isinstance(value, float) else value


def read_lines(path: Path) -> tuple[list[str], list[Line]]:
    """The heading and the lines; numbers are numbers again, an empty cell is None. ValueError for a file of another shape."""
    with undamaged(path, "run the command of its study again, or take it from git"):
        text, heading = path.read_text(encoding="utf-8"), []
        while text.startswith("#"):
            line, _, text = text.partition("\n")
            heading.append(line.removeprefix("#").strip())
        columns, *rows = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
        if not rows or {len(row) for row in rows} != {len(columns)}:
            raise EOFError(f"it has {len(rows)} lines, which must be at least one, and all as long as the first")
        lines = [dict(zip(columns, map(_value, row), strict=True)) for row in rows]
    return heading, lines


def _value(text: str) -> Cell:
    """A number where it is written as `write_lines` writes one: a row may be called 007."""
    for kind in (int, float):
        with suppress(ValueError):
            if str(kind(text)) == text and "n" not in text:  # neither nan nor inf
                return kind(text)
    return text or None


def markdown(lines: Sequence[Line], columns: Sequence[str] = ()) -> str:
    """A Markdown table of these columns, all where none is named; the lowest `validation` and `mean` are bold.

    `low` and `high` stand behind `mean`, `more_low` and `more_high` behind `more`, in brackets. ValueError for a column
    that is not there.
    """
    there = [key for key in lines[0] if not any(key in bounds for bounds in BOUNDS.values())]
    if strange := [key for key in columns if key not in there]:
        raise ValueError(f"the table has no column {strange[0]!r}: choose from {there}")
    shown = list(columns) or there
    lowest = {key: min((v for line in lines if isinstance(v := line.get(key), float)), default=None) for key in BITS}
    rows = [
        [_bold(_text(line, key), line[key] is not None and line[key] == lowest.get(key)) for key in shown]
        for line in lines
    ]
    return markdown_table(shown, rows)


def _bold(text: str, is_bold: bool) -> str:
    return f"**{text}**" if is_bold else text


def _text(line: Line, key: str) -> str:
    value = line[key]
    if not isinstance(value, float):
        return "" if value is None else f"{value:,}" if isinstance(value, int) and key != "seed" else str(value)
    if key in NOT_BITS:
        return f"{value:.3g}"
    sign = "+" if key == "more" else ""
    bounds = [bound for name in BOUNDS.get(key, ()) if isinstance(bound := line.get(name), float | int)]
    interval = f" ({bounds[0]:{sign}.{DIGITS}f} to {bounds[1]:{sign}.{DIGITS}f})" if len(bounds) == 2 else ""
    return f"{value:{sign}.{DIGITS}f}{interval}"
