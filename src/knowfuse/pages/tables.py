"""How is a table written?"""

from collections.abc import Collection, Mapping, Sequence
from html import escape

NOTHING: Mapping[tuple[int, int], str] = {}


def table(
    heading: Sequence[str],
    rows: Sequence[Sequence[str]],
    classes: Mapping[tuple[int, int], str] = NOTHING,
    points: Collection[int] = (),
) -> str:
    """Cells are plain text; what stands in them after a newline is small. The first column is left, the others are right.

    `classes` by row and column, `points` are rows to look at.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in heading)
    lines = [
        f"<tr{' class=point' if r in points else ''}>"
        + "".join(_cell(cell, classes.get((r, c), "")) for c, cell in enumerate(row))
        + "</tr>"
        for r, row in enumerate(rows)
    ]
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"


def _cell(text: str, kind: str) -> str:
    value, _, small = text.partition("\n")
    inside = escape(value) + (f"<br><small>{escape(small)}</small>" if small else "")
    return f"<td class='{kind}'>{inside}</td>" if kind else f"<td>{inside}</td>"
