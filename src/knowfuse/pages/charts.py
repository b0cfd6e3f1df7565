"""How are figures drawn? Lines over training, areas of shares, dots with intervals; each an SVG without another file."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from knowfuse.pages.axes import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, spanning

MOST_POINTS = 300  # of a line: more than a reader can tell apart
ROW = 26.0  # of a dot
LETTER = 7.0  # the width of one, about


@dataclass(frozen=True)
class Line:
    """Values over training; `faint`: behind the others; `dashed`: a limit, not a measurement."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    faint: bool = False
    dashed: bool = False
    dotted: bool = False  # each point is marked


@dataclass(frozen=True)
class Dot:
    """A figure, between which values it lies, and whether it is what the chart is about."""

    name: str
    colour: str
    value: float
    low: float | None = None
    high: float | None = None
    is_point: bool = False


def lines(series: Sequence[Line], across: str, up: str, mark: tuple[float, float, str] | None = None) -> str:
    """`across` and `up` name the axes; `mark` is a point to look at and what it says."""
    points = [point for line in series for point in line.points if math.isfinite(point[1])]
    x = spanning((p[0] for p in points), LEFT, WIDTH - RIGHT, room=0.02)
    y = spanning((p[1] for p in points), HEIGHT - BOTTOM, TOP + 14)
    parts = [_frame(x, y, across, up)]
    for line in series:
        parts.append(_path(line, x, y))
    if mark is not None:
        at = x.at(mark[0])
        anchor, side = ("end", -8) if at > WIDTH / 2 else ("start", 8)
        parts.append(
            f"<circle cx='{at:.1f}' cy='{y.at(mark[1]):.1f}' r='5' fill='none' stroke='var(--ink)' stroke-width='1.5'/>"
            f"<text x='{at + side:.1f}' y='{y.at(mark[1]) - 9:.1f}' text-anchor='{anchor}'>{escape(mark[2])}</text>"
        )
    return _svg(HEIGHT, parts, up)


def areas(shares: Mapping[str, Sequence[float]], colours: Mapping[str, str], over: Sequence[float], across: str) -> str:
    """Shares of a whole over training, one upon the other, each name in its colour; a single point fills the chart."""
    if len(over) == 1:
        over, shares = [0.0, over[0]], {name: [values[0]] * 2 for name, values in shares.items()}
    x, y = Axis(min(over), max(over), LEFT, WIDTH - RIGHT), Axis(0.0, 1.0, HEIGHT - BOTTOM, TOP + 14)
    below, parts = [0.0] * len(over), []
    for name, values in shares.items():
        above = [low + value for low, value in zip(below, values, strict=True)]
        edge = [f"{x.at(at):.1f},{y.at(top):.1f}" for at, top in zip(over, above, strict=True)]
        edge += [f"{x.at(at):.1f},{y.at(low):.1f}" for at, low in reversed(list(zip(over, below, strict=True)))]
        parts.append(
            f"<polygon points='{' '.join(edge)}' fill='{colours[name]}' opacity='.85'><title>{escape(name)}</title></polygon>"
        )
        below = above
    return _svg(HEIGHT, [_frame(x, y, across, "share"), *parts], "share")


def dots(rows: Sequence[Dot], across: str) -> str:
    """One below the other, on an axis that begins where they differ; the point to look at stands on a band."""
    names = min(max(len(row.name) for row in rows) * LETTER + 16, WIDTH * 0.42)
    height = ROW * len(rows) + BOTTOM
    ends = [value for row in rows for value in (row.value, row.low, row.high) if value is not None]
    x = spanning(ends, names, WIDTH - 44.0)
    parts = []
    for at, text in x.ticks(4):
        parts.append(f"<line class=axis x1='{at:.1f}' x2='{at:.1f}' y1='0' y2='{height - BOTTOM:.1f}'/>")
        parts.append(f"<text class=tick x='{at:.1f}' y='{height - 20:.1f}' text-anchor='middle'>{text}</text>")
    parts.append(
        f"<text class=tick x='{(names + WIDTH) / 2:.0f}' y='{height - 4:.1f}' text-anchor='middle'>{escape(across)}</text>"
    )
    for n, row in enumerate(rows):
        parts.append(_dot(row, x, ROW * (n + 0.5)))
    return _svg(height, parts, across)


def _dot(row: Dot, x: Axis, y: float) -> str:
    at, weight = x.at(row.value), "700" if row.is_point else "400"
    band = (
        f"<rect x='0' y='{y - ROW / 2:.1f}' width='{WIDTH}' height='{ROW}' rx='4' fill='{row.colour}' opacity='.13'/>"
    )
    said = f"{row.name}: {row.value:.4f}"
    whisker = ""
    if row.low is not None and row.high is not None:
        said += f" ({row.low:.4f} to {row.high:.4f})"
        whisker = f"<line x1='{x.at(row.low):.1f}' x2='{x.at(row.high):.1f}' y1='{y:.1f}' y2='{y:.1f}' stroke='{row.colour}' stroke-width='2' opacity='.6'/>"
    return (
        f"<g><title>{escape(said)}</title>{band if row.is_point else ''}"
        f"<text x='4' y='{y + 4:.1f}' font-weight='{weight}'>{escape(row.name)}</text>{whisker}"
        f"<circle cx='{at:.1f}' cy='{y:.1f}' r='{6 if row.is_point else 4.5}' fill='{row.colour}'/>"
        f"<text x='{WIDTH - 4}' y='{y + 4:.1f}' text-anchor='end' font-weight='{weight}'>{row.value:.3f}</text></g>"
    )


def _frame(x: Axis, y: Axis, across: str, up: str) -> str:
    parts = [f"<text class=tick x='0' y='{TOP:.0f}'>{escape(up)}</text>"]
    for at, text in y.ticks():
        parts.append(f"<line class=axis x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{at:.1f}' y2='{at:.1f}'/>")
        parts.append(f"<text class=tick x='{LEFT - 6}' y='{at + 4:.1f}' text-anchor='end'>{text}</text>")
    for at, text in x.ticks(6):
        parts.append(f"<text class=tick x='{at:.1f}' y='{HEIGHT - BOTTOM + 16:.1f}' text-anchor='middle'>{text}</text>")
    parts.append(f"<text class=tick x='{WIDTH - RIGHT}' y='{HEIGHT - 4}' text-anchor='end'>{escape(across)}</text>")
    return "".join(parts)


def _path(line: Line, x: Axis, y: Axis) -> str:
    known = [point for point in line.points if math.isfinite(point[1])]
    places = [(x.at(a), y.at(b)) for a, b in thinned(known)]
    if not places:
        return ""
    dash = " stroke-dasharray='5 4'" if line.dashed else ""
    path = "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
    drawn = (
        f"<path d='M{path}' stroke='{line.colour}' stroke-width='{1 if line.faint or line.dashed else 2}' stroke-linejoin='round'"
        f"{dash} opacity='{0.35 if line.faint else 1}'><title>{escape(line.name)}</title></path>"
    )
    is_marked = line.dotted or len(places) == 1
    return drawn + "".join(_mark(a, b, line.colour) for a, b in places if is_marked)


def _mark(a: float, b: float, colour: str) -> str:
    return f"<circle cx='{a:.1f}' cy='{b:.1f}' r='2.6' fill='{colour}'/>"


def thinned(points: Sequence[tuple[float, float]]) -> Iterable[tuple[float, float]]:
    """At most `MOST_POINTS`, each the mean of neighbours, the first and the last as they are."""
    if len(points) <= MOST_POINTS:
        return points
    size = math.ceil((len(points) - 2) / (MOST_POINTS - 2))
    groups = [points[n : min(n + size, len(points) - 1)] for n in range(1, len(points) - 1, size)]
    means = [(sum(p[0] for p in g) / len(g), sum(p[1] for p in g) / len(g)) for g in groups]
    return [points[0], *means, points[-1]]


def _svg(height: float, parts: Iterable[str], label: str) -> str:
    return f"<svg viewBox='0 0 {WIDTH:.0f} {height:.0f}' role='img' aria-label='{escape(label, quote=True)}'>{''.join(parts)}</svg>"
