"""What came out of the runs of a study? A line for each of their LLMs, and how they compare over documents and seeds."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from knowfuse.evaluation import Compared
from knowfuse.runs.compared import against, require_same_texts
from knowfuse.runs.judged import Judged
from knowfuse.study.runs import Finished
from knowfuse.training.finished import Fit

Cell = str | int | float | None
Line = dict[str, Cell]  # of a CSV file: column -> value
Measured = tuple[Judged, str]  # a run or an evaluation, and which of its LLMs


def lines_of(runs: Sequence[Finished], settings: Sequence[str] | None = None) -> list[Line]:
    """A line for every LLM of every run: its point, these settings of it, seed, figures; None: those that differ among them.

    `validation` is the best bits per byte of the fit that was kept, `tokens` how many it had been trained on by then,
    `learning_rate` its own; the domains and their `mean` are of the run's test side.
    """
    columns = _differing(runs) if settings is None else settings
    found = []
    for run in runs:
        place: Line = {"point": run.point.name}
        place |= {key: _cell(run.point.settings.get(key)) for key in columns}
        for llm, bits in run.results["rows"].items():
            fit = run.fits.get(llm.removeprefix("target "))
            line = {**place, "seed": run.seed, "llm": llm, "learning_rate": None, "validation": None, "tokens": None}
            if fit is not None:
                tokens, best = min(fit.history, key=lambda point: point[1])
                line |= {"learning_rate": fit.learning_rate, "validation": best, "tokens": tokens}
            last: Line = {"seconds": run.seconds, "run": run.folder.name}
            _require_columns_of_their_own(bits, {**line, **last})
            found.append({**line, **bits, **last})
    return found


def _require_columns_of_their_own(domains: Iterable[str], line: Line) -> None:
    """ValueError for a domain by whose name the table has another column."""
    if taken := sorted(set(domains) & set(line)):
        raise ValueError(
            f"a domain is called {taken[0]!r}, and so is a column of every study's table: give it another name in corpus.files"
        )


def _differing(runs: Sequence[Finished]) -> list[str]:
    points = [run.point.settings for run in runs]
    keys = sorted({key for point in points for key in point})
    return [key for key in keys if any(point.get(key) != points[0].get(key) for point in points)]


def _cell(value: Any) -> Cell:
    return value if value is None or isinstance(value, str | int | float) else str(value)


def trained(runs: Sequence[Finished], method: str = "fused") -> list[Measured]:
    """The target as this method trained it in each of these runs, which are of one point and several seeds."""
    return [(run.judged, f"target {method}") for run in sorted(runs, key=lambda run: run.seed)]


def ahead_to_its_best(fit: Fit, other: Fit) -> float:
    """At which share of the validations up to the best of `other` this one was lower; ValueError for other validations."""
    best = min(range(len(other.history)), key=lambda n: other.history[n][1]) + 1
    pairs = zip(fit.history[:best], other.history[:best], strict=True)
    return sum(ours[1] < theirs[1] for ours, theirs in pairs) / best


def intervals(rows: Mapping[str, Sequence[Measured]], baseline: str) -> dict[str, Compared]:
    """Every named row, one LLM for each seed or one for all, against the baseline, over the documents that all can read.

    ValueError where two are over different texts (both named), where numbers of seeds differ, or where no document is left.
    """
    require_same_texts([judged for row in rows.values() for judged, _ in row])
    nats = {name: np.stack([judged.scores.nats[llm] for judged, llm in row]) for name, row in rows.items()}
    return against(nats, next(iter(rows.values()))[0][0].scores, baseline)[0]


def lines_of_intervals(compared: Mapping[str, Compared], more: Mapping[str, Line] | None = None) -> list[Line]:
    """A line for each row: bits per byte by domain, their mean with its 95 % interval, and what it is more than the baseline's.

    `more` are further columns by the row's name.
    """
    lines = []
    for name, row in compared.items():
        mean, above = row.bits_per_byte["mean"], row.more_than_baseline["mean"]
        line: Line = {"row": name, **(more or {}).get(name, {}), "seeds": row.seeds}
        bounds = {"low": mean.low, "high": mean.high}
        bounds |= {"more": above.value, "more_low": above.low, "more_high": above.high}
        _require_columns_of_their_own(row.bits_per_byte, {**line, **bounds})
        lines.append({**line, **{domain: bits.value for domain, bits in row.bits_per_byte.items()}, **bounds})
    return lines
