"""Which files tell of a run, beside its results? Its headroom before it trains, its page once it is done."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from knowfuse.evaluation import Samples, ScoreTable, write_samples
from knowfuse.files import write_whole
from knowfuse.report.left import HEADROOM, left_by
from knowfuse.report.page import run_page
from knowfuse.report.results import markdown, write_json, write_tables
from knowfuse.screen import say
from knowfuse.training.finished import Fit

PAGE, TEXT = "report.html", "report.md"


def write_headroom(run: Path, table: ScoreTable) -> None:
    """`headroom.json`: validation figures of before, which are there of an unfinished run too."""
    rows = {name: {**bits, "mean": table.mean(name)} for name, bits in table.rows.items()}
    write_whole(run / HEADROOM, json.dumps({"unit": "bits per byte on the validation split", "rows": rows}).encode())


def write_run(run: Path, table: ScoreTable, fits: Mapping[str, Fit], samples: Samples | None) -> None:
    """All that a finished run leaves: tables and pictures, `samples.json`, its page, and last `results.json`.

    So the same command goes on with a run that was killed in between, whose page would be missing for ever.
    """
    results = write_tables(run, table, fits, "the test split")
    write_page(run, samples, results)
    write_json(run, results)


def write_page(run: Path, samples: Samples | None = None, results: Mapping[str, Any] | None = None) -> None:
    """`report.html` of what is in the run's folder, and `report.md` of a finished run; `samples.json`, where there are some.

    `results` are those that `results.json` is to hold; None: those that it holds.
    """
    if samples is not None:
        write_samples(run, samples)
    left = left_by(run, results)
    write_whole(run / PAGE, run_page(left).encode())
    if left.results is not None:
        write_whole(run / TEXT, f"{markdown(left.results)}\n".encode())
    say(f"{run / PAGE}: the page of this run")
