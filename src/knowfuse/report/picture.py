"""What does a reader see first of a run? Every LLM as a point, on an axis that begins where they differ."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from knowfuse.evaluation import Compared, ScoreTable, baseline_of, compare_run
from knowfuse.evaluation.samples import POINT

COLOURS = {"target before": "#7a828c", "target clm": "#b35900", POINT: "#1f6feb"}
SOURCE = "#9aa1a9"
MOST_DOMAINS = 5  # that have a place beside the mean


def results_picture(table: ScoreTable, where: str) -> Figure:
    """The mean of the domains, with 95 % intervals over the documents, and the point to look at; beside it each domain."""
    found = compare_run(table.by_document)
    beside = table.domains[:MOST_DOMAINS] if len(table.domains) > 1 else []
    figure = Figure(figsize=(6.4 + 2.1 * len(beside), 1.6 + 0.42 * len(table.rows)), layout="constrained")
    first, *others = figure.subplots(
        1, 1 + len(beside), sharey=True, width_ratios=[2.0] + [1.0] * len(beside), squeeze=False
    )[0]
    _points(first, found, "mean")
    first.set_title("mean of the domains" if beside else table.domains[0], fontsize=10)
    _look_here(first, found, baseline_of(table.by_document))
    for axes, domain in zip(others, beside, strict=True):
        _points(axes, found, domain)
    names = list(found)
    first.set_yticks(range(len(names)), names)
    first.set_ylim(len(names) - 0.4, -0.8)
    for label, name in zip(first.get_yticklabels(), names, strict=True):
        label.set_fontweight("bold" if name == POINT else "normal")
    left_out = f", {len(beside)} of {len(table.domains)} domains" if 1 < len(table.domains) > len(beside) else ""
    figure.supxlabel(f"bits per byte on {where}: left is better; 95 % intervals over documents{left_out}", fontsize=9)
    return figure


def _points(axes: Axes, found: Mapping[str, Compared], domain: str) -> None:
    for at, (name, row) in enumerate(found.items()):
        bits, colour = row.bits_per_byte[domain], COLOURS.get(name, SOURCE)
        axes.errorbar(
            bits.value,
            at,
            xerr=[[reach] for reach in bits.reach],
            fmt="o",
            color=colour,
            markersize=9 if name == POINT else 6,
            elinewidth=1.5,
        )
        axes.annotate(
            f"{bits.value:.3f}",
            (bits.value, at),
            (0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=7.5,
            color=colour,
        )
        if name == POINT:
            axes.axhspan(at - 0.45, at + 0.45, color=colour, alpha=0.1, linewidth=0)
    axes.set_title(domain, fontsize=10)
    axes.margins(x=0.14)
    axes.grid(axis="x", alpha=0.3)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _look_here(axes: Axes, found: Mapping[str, Compared], baseline: str) -> None:
    """What the fused target pays more or less than the baseline, written between the two; grey where it may be either."""
    more, names = found[POINT].more_than_baseline["mean"], list(found)
    here, there = found[POINT].bits_per_byte["mean"].value, found[baseline].bits_per_byte["mean"].value
    kind = {-1: COLOURS[POINT], 1: "#c4320a", 0: "#59616b"}[more.side]
    axes.plot(
        [there, there], [names.index(baseline), names.index(POINT)], color=COLOURS[baseline], linewidth=1, linestyle=":"
    )
    axes.annotate(
        "",
        (here, names.index(POINT) + 0.25),
        (there, names.index(POINT) + 0.25),
        arrowprops={"arrowstyle": "->", "color": kind},
    )
    said = f"{more.value:+.3f} against {baseline} ({more.low:+.3f} to {more.high:+.3f})"
    is_left = (here + there) / 2 < sum(axes.get_xlim()) / 2
    axes.annotate(
        said,
        (max(here, there) if is_left else min(here, there), names.index(POINT)),
        (12 if is_left else -12, -4),
        textcoords="offset points",
        ha="left" if is_left else "right",
        va="center",
        fontsize=8.5,
        color=kind,
    )
