"""The report as a picture: the figures as bars, and the beginning of one text byte by byte."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from knowfuse.align_report.example import Example
from knowfuse.evaluation import AlignmentQuality
from knowfuse.pages import MARKER_COLOUR, MASS_COLOURS
from knowfuse.types import MASS_CLASSES

LOSS = "alignment loss, bits per byte"
LINE_BYTES, NUM_LINES = 64, 3  # of the text that is drawn


def picture(qualities: Mapping[str, Mapping[str, AlignmentQuality]], examples: Sequence[Example]) -> Figure:
    """`qualities` by source and method; one example per source."""
    figure = Figure(figsize=(13, 4 + 2.4 * len(examples)), layout="constrained")
    grid = figure.add_gridspec(1 + len(examples), 4, height_ratios=[1.6] + [1.0] * len(examples))
    for n, (title, read) in enumerate(
        (
            (LOSS, lambda q: q.loss_bits_per_byte),
            ("coverage", lambda q: q.coverage),
            ("top-1 fidelity", lambda q: q.top1_fidelity),
        )
    ):
        _bars(
            figure.add_subplot(grid[0, n]),
            title,
            {s: {m: read(q) for m, q in by.items()} for s, by in qualities.items()},
        )
    _budgets(figure.add_subplot(grid[0, 3]), qualities)
    for n, example in enumerate(examples, 1):
        _text(figure.add_subplot(grid[n, :]), example)
    return figure


def _bars(axes: Axes, title: str, values: Mapping[str, Mapping[str, float]]) -> None:
    methods = list(next(iter(values.values())))
    width = 0.8 / len(values)
    for n, (source, by_method) in enumerate(values.items()):
        places = [y + n * width for y in range(len(methods))]
        axes.barh(places, [by_method[m] for m in methods], width, label=source)
    axes.set_yticks([y + 0.4 - width / 2 for y in range(len(methods))], methods, fontsize=8)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=10)
    if title == LOSS:
        axes.legend(fontsize=7)


def _budgets(axes: Axes, qualities: Mapping[str, Mapping[str, AlignmentQuality]]) -> None:
    budgets = {s: by["byte_exact"].budget or {} for s, by in qualities.items() if "byte_exact" in by}
    left = [0.0] * len(budgets)
    for kind in MASS_CLASSES:
        masses = [budget[kind] for budget in budgets.values()]
        axes.barh(list(budgets), masses, left=left, color=MASS_COLOURS[kind], label=kind)
        left = [a + b for a, b in zip(left, masses, strict=True)]
    axes.invert_yaxis()
    axes.set_title("byte_exact: where the mass goes", fontsize=10)
    axes.legend(fontsize=7, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.08))


def _text(axes: Axes, example: Example) -> None:
    """Source tokens above, target tokens below, each as wide as its bytes; a target token in its row's colours."""
    for line in range(NUM_LINES):
        first, top = line * LINE_BYTES, -3.0 * line
        for piece in example.source_pieces:
            if piece.is_marker:
                _marker(axes, piece.begin - first, top)
            _box(axes, piece.begin - first, piece.end - first, top, piece.text, {"#eeeeee": 1.0})
        for piece in example.target_pieces:
            if piece.is_marker:
                _marker(axes, piece.begin - first, top - 1.1)
            colours = {"#ffffff": 1.0}
            if piece.served_by is not None:
                colours = {MASS_COLOURS[kind]: mass for kind, mass in piece.budget.items()}
            _box(axes, piece.begin - first, piece.end - first, top - 1.1, piece.text, colours)
    axes.set_xlim(0, LINE_BYTES)
    axes.set_ylim(-3.0 * NUM_LINES + 1.2, 1.2)
    axes.set_axis_off()
    markers = "; a bar: markers of the chat template" if any(p.is_marker for p in example.target_pieces) else ""
    axes.set_title(f"{example.source} (above) → {example.target} (below){markers}", fontsize=10, loc="left")


def _marker(axes: Axes, at: int, y: float) -> None:
    """What takes no bytes, as a bar where it stands."""
    if 0 <= at <= LINE_BYTES:
        axes.plot([at, at], [y - 0.5, y + 0.5], color=MARKER_COLOUR, linewidth=3, zorder=3, clip_on=False)


def _box(axes: Axes, begin: int, end: int, y: float, text: str, colours: Mapping[str, float]) -> None:
    starts_here = 0 <= begin < LINE_BYTES
    begin, end = max(begin, 0), min(end, LINE_BYTES)
    if begin >= end:
        return
    at = float(begin)
    for colour, share in colours.items():
        axes.barh(y, share * (end - begin), height=0.9, left=at, color=colour)
        at += share * (end - begin)
    axes.barh(y, end - begin, height=0.9, left=begin, fill=False, edgecolor="#555555", linewidth=0.6)
    if starts_here:
        axes.text((begin + end) / 2, y, text.replace("$", "\\$"), ha="center", va="center", fontsize=7, clip_on=True)
