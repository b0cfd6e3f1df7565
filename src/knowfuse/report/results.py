"""What came out of one run: its table on the screen and in Markdown, its files and pictures."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.table import Table

from knowfuse.evaluation import DOCUMENTS, ScoreTable, write_by_document
from knowfuse.files import write_csv, write_whole
from knowfuse.pages import write_png
from knowfuse.report.picture import results_picture
from knowfuse.report.tables import markdown_table
from knowfuse.screen import show_table
from knowfuse.training.finished import Fit


def show(title: str, table: ScoreTable) -> None:
    """The table on the screen; the best of each column is bold.

    Apart stand bits per byte on classes of bytes, the share of completions that are Python, and what EOS and first token cost, in nats a document.
    """
    grid = Table(title=title, caption=_caption(table))
    grid.add_column("bits per byte")
    columns = [*table.domains, "mean"]
    classes = list(next(iter(table.by_class.values()), {}))
    apart = {kind: {name: bits[kind] for name, bits in table.by_class.items()} for kind in classes}
    if table.completed:
        apart["Python, share"] = {name: its.share for name, its in table.completed.items()}
    apart |= {
        heading: nats
        for heading, nats in (("EOS, nats", table.eos_nats), ("first token, nats", table.first_nats))
        if nats
    }
    for column in (*columns, *apart):
        grid.add_column(column, justify="right")
    cells = {name: [table.rows[name][d] for d in table.domains] + [table.mean(name)] for name in table.rows}
    lowest = [min(column) for column in zip(*cells.values(), strict=True)]
    for name, values in cells.items():
        texts = [f"[bold]{v:.3f}[/bold]" if v == low else f"{v:.3f}" for v, low in zip(values, lowest, strict=True)]
        grid.add_row(name, *texts, *(f"{its[name]:.2f}" if name in its else "" for its in apart.values()))
    show_table(grid)


def _caption(table: ScoreTable) -> str | None:
    if not table.left_out:
        return None
    by_llm = "; ".join(f"{name} {len(why)}, the first for {why[0]}" for name, why in table.set_aside.items())
    return f"{table.left_out} documents that some LLM cannot read are left out for all" + (by_llm and f": {by_llm}")


def write_results(run: Path, table: ScoreTable, fits: Mapping[str, Fit], where: str) -> None:
    """`results.json`, and what `write_tables` writes, in the folder; `where` it was measured."""
    write_json(run, write_tables(run, table, fits, where))


def write_json(run: Path, results: Mapping[str, Any]) -> None:
    """`results.json`, the last of a run: it says that all of it is there."""
    write_whole(run / "results.json", json.dumps(results, indent=1).encode())


def write_tables(run: Path, table: ScoreTable, fits: Mapping[str, Fit], where: str) -> dict[str, Any]:
    """`results.csv`, `documents.csv`, `losses.png` and `results.png` in the folder; what `results.json` is to hold."""
    rows = {name: {**bits, "mean": table.mean(name)} for name, bits in table.rows.items()}
    results = {
        "unit": f"bits per byte on {where}",
        "rows": rows,
        "eos_nats": table.eos_nats,  # a document, and not among the bits per byte
        "first_token_nats": table.first_nats,  # a document, and among them
        "by_class_of_bytes": table.by_class,  # bits per byte; only where evaluate.py was asked for them
        "completions": {name: asdict(its) for name, its in table.completed.items()},  # likewise, of Python
        "documents_left_out": table.left_out,
        "fits": {method: asdict(fit) for method, fit in fits.items()},
        "tokens_to_clm_final": tokens_to_clm_final(fits),
    }
    lines: list[list[Any]] = [["model", *table.domains, "mean", "eos_nats", "first_token_nats"]]
    for name, row in rows.items():
        lines.append([name, *row.values(), table.eos_nats.get(name), table.first_nats.get(name)])
    write_csv(run / "results.csv", lines)
    write_by_document(run / DOCUMENTS, table.by_document)
    write_png(run / "losses.png", _losses_picture(fits))
    write_png(run / "results.png", results_picture(table, where))
    return results


def tokens_to_clm_final(fits: Mapping[str, Fit]) -> float | None:
    """How many times fewer training tokens the fused fit needs to reach the CLM fit's best validation bits per byte.

    Between two validations of the fused fit the crossing is interpolated. None where there is no CLM fit, or the
    fused one never gets there.
    """
    if "clm" not in fits:
        return None
    clm, fused = fits["clm"], fits["fused"]
    goal_tokens, goal = min(clm.history, key=lambda point: point[1])
    earlier: tuple[int, float] | None = None
    for tokens, bits in fused.history:
        if bits <= goal:
            if earlier is None:
                return goal_tokens / max(tokens, 1)
            share = (earlier[1] - goal) / (earlier[1] - bits)
            return goal_tokens / (earlier[0] + share * (tokens - earlier[0]))
        earlier = tokens, bits
    return None


def _losses_picture(fits: Mapping[str, Fit]) -> Figure:
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for fit in fits.values():
        tokens, bits = zip(*fit.history, strict=True)
        axes.plot(tokens, bits, marker="o", markersize=3, label=fit.name)
    axes.set_xlabel("training tokens")
    axes.set_ylabel("validation, bits per byte")
    axes.set_title("Target LLM while it trains")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def times_sooner(tokens_to_clm_final: float) -> tuple[str, str]:
    """How many times, and of what, as people say it: below 1 it takes more."""
    times, which = (tokens_to_clm_final, "fewer") if tokens_to_clm_final >= 1 else (1 / tokens_to_clm_final, "as many")
    return f"{times:.1f} times", which


def markdown(results: Mapping[str, Any]) -> str:
    """The rows of `results.json` as a Markdown table."""
    columns = list(next(iter(results["rows"].values())))
    rows = [[name, *(f"{bits[c]:.3f}" for c in columns)] for name, bits in results["rows"].items()]
    lines = [markdown_table([results["unit"], *columns], rows)]
    sooner = results.get("tokens_to_clm_final")  # which older runs have not
    if sooner is not None:
        lines += [
            "",
            f"The fused target reaches plain CLM's best validation figure with {' '.join(times_sooner(sooner))} training tokens.",
        ]
    return "\n".join(lines)
