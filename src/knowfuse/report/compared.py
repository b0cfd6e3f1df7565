"""How do several LLMs compare? The table on the screen, and as CSV, JSON, Markdown and a picture."""

import json
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from knowfuse.evaluation import Interval
from knowfuse.files import write_csv, write_whole
from knowfuse.pages import write_png
from knowfuse.report.tables import markdown_table
from knowfuse.runs.compared import Comparison
from knowfuse.screen import show_table

COLUMNS = ["model", "domain", "bits_per_byte", "low", "high", "more_than_baseline", "more_low", "more_high", "seeds"]


def show_comparison(table: Comparison) -> None:
    """Bits per byte of every domain, and the mean with what it is more than the baseline's, with 95 % intervals."""
    grid = Table(title=table.unit, caption=_caption(table))
    heading, *lines = _cells(table)
    for n, column in enumerate(heading):
        grid.add_column(column, justify="right" if n else "left")
    for line in lines:
        grid.add_row(*line)
    show_table(grid)


def write_comparison(folder: Path, table: Comparison) -> None:
    """`comparison.csv`, `.json`, `.md` and `.png`."""
    write_csv(folder / "comparison.csv", [COLUMNS, *_figures(table)])
    write_whole(folder / "comparison.md", markdown(table).encode())
    write_whole(folder / "comparison.json", json.dumps(asdict(table), indent=1).encode())
    write_png(folder / "comparison.png", picture(table))


def markdown(table: Comparison) -> str:
    """The comparison as a Markdown table, with its caption below."""
    heading, *lines = _cells(table)
    return f"{markdown_table(heading, lines)}\n\n{_caption(table)}\n"


def _cells(table: Comparison) -> list[list[str]]:
    """The heading, and a line for each LLM."""
    domains = [d for d in next(iter(table.rows.values())).bits_per_byte if d != "mean"]
    lines = [["bits per byte", *domains, "mean", f"more than {table.baseline}", "seeds"]]
    for name, row in table.rows.items():
        more = "" if name == table.baseline else _text(row.more_than_baseline["mean"], "+.4f")
        figures = [f"{row.bits_per_byte[d].value:.4f}" for d in domains]
        lines.append([name, *figures, _text(row.bits_per_byte["mean"], ".4f"), more, str(row.seeds)])
    return lines


def _text(figure: Interval, form: str) -> str:
    return f"{figure.value:{form}} ({figure.low:{form}} to {figure.high:{form}})"


def _caption(table: Comparison) -> str:
    said = (
        f"95 % intervals: {table.documents:,} documents drawn anew within their domains, seeds by Student's t; paired"
    )
    if table.alone:
        said += f"; one document is all there is of {', '.join(table.alone)}: of others like it they say nothing"
    if table.left_out:
        said += f"; {table.left_out:,} that some of them cannot read are left out"
    if table.unnamed:
        said += f". The runs differ in what no name says, too: {', '.join(table.unnamed)}"
    return said


def _figures(table: Comparison) -> Iterator[list[Any]]:
    for name, row in table.rows.items():
        for domain, bits in row.bits_per_byte.items():
            more = row.more_than_baseline[domain]
            yield [name, domain, bits.value, bits.low, bits.high, more.value, more.low, more.high, row.seeds]


def picture(table: Comparison) -> Figure:
    """What each pays more than the baseline, on the mean of the domains; left of the line is better."""
    names = list(table.rows)
    figure = Figure(figsize=(12, 1.5 + 0.4 * len(names)), layout="constrained")
    axes = figure.subplots()
    for at, name in enumerate(names):
        more = table.rows[name].more_than_baseline["mean"]
        colour = {-1: "tab:green", 1: "tab:red", 0: "tab:gray"}[more.side]
        axes.errorbar(more.value, at, xerr=[[reach] for reach in more.reach], fmt="o", color=colour)
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), [textwrap.fill(name, 60) for name in names])
    axes.invert_yaxis()
    axes.set_xlabel(f"{table.unit}, more than {table.baseline}: left is better, 95 % intervals")
    axes.grid(axis="x", alpha=0.3)
    return figure
