"""What did a run leave in its folder, and what of it is not there? Nothing else is looked at: the folder may have been copied."""

import csv
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf

from knowfuse.evaluation import DOCUMENTS, SAMPLES, ByDocument, Samples, read_by_document, read_samples
from knowfuse.files import undamaged
from knowfuse.runs.folder import require_figures, results_of_one, saved_settings
from knowfuse.runs.judged import EVALUATED, read_evaluated
from knowfuse.training.curves import CURVES, KEPT, Rows, read_curves
from knowfuse.training.finished import Fit, finished

HEADROOM = "headroom.json"
OLDER = "older versions did not write it"
Read = TypeVar("Read")


@dataclass
class Left:
    """What is there of a run, or of an evaluation; None or empty where it is not, and then `why` says so by the file's name."""

    folder: Path
    results: dict[str, Any] | None
    settings: dict[str, Any] | None
    overrides: list[str] | None  # what was written behind `python train.py`
    evaluated: dict[str, Any] | None  # of an evaluation: what it was asked about
    headroom: dict[str, Any] | None
    documents: ByDocument | None
    samples: Samples | None
    fits: dict[str, Fit]  # by method, those that were kept
    all_fits: dict[str, Fit] = field(default_factory=dict)  # that are finished, by name
    curves: dict[str, Rows] = field(default_factory=dict)  # by name of a fit, of those that have begun too
    why: dict[str, str] = field(default_factory=dict)

    @property
    def is_finished(self) -> bool:
        return self.results is not None

    @property
    def name(self) -> str:
        return "/".join(self.folder.resolve().parts[-2:])


def left_by(folder: Path, results: Mapping[str, Any] | None = None) -> Left:
    """`results` are those that `results.json` is about to hold; None: those that it holds.

    FileNotFoundError where the folder is of no run and no evaluation, ValueError for a file that is cut off or damaged.
    """
    if not any((folder / name).exists() for name in ("results.json", "config.yaml")):
        raise FileNotFoundError(
            f"{str(folder / 'results.json')!r} is not there: give the folder of a finished run, or finish it with train.py"
        )
    why: dict[str, str] = {}

    def read(name: str, how: Callable[[Path], Read], reason: str) -> Read | None:
        path = folder / name
        if not path.exists():
            why[name] = reason
            return None
        return how(path)

    unfinished = "the run is not finished: the same command with ckpt_path=last goes on with it"
    written = (
        read("results.json", lambda path: results_of_one(path.parent), unfinished)
        if results is None
        else json.loads(json.dumps(results))
    )
    of_evaluation = read_evaluated(folder) if (folder / EVALUATED).exists() else None
    reason = unfinished if written is None else OLDER
    if of_evaluation is not None:
        settings, evaluated = of_evaluation
    else:
        settings, evaluated = read("config.yaml", lambda path: saved_settings(path.parent), "it was taken away"), None
    left = Left(
        folder,
        written,
        settings,
        read(".hydra/overrides.yaml", _list, "Hydra's record of the command is not in the folder"),
        evaluated,
        read(HEADROOM, _headroom, OLDER if of_evaluation is None else "it is of the run, not of an evaluation"),
        read(DOCUMENTS, lambda path: read_by_document(path, written and written["rows"]), reason),
        read(SAMPLES, lambda path: read_samples(path.parent), reason),
        {},
        why=why,
    )
    _add_fits(left)
    return left


def _headroom(path: Path) -> dict[str, Any]:
    with undamaged(path, "remove it: it is only what the run's page shows"):
        found = json.loads(path.read_text(encoding="utf-8"))
        require_figures(found["rows"])
        return found


def _list(path: Path) -> list[str]:
    return [str(line) for line in OmegaConf.load(path)]


def _add_fits(left: Left) -> None:
    """Those of the folder, and which of them were kept: of an unfinished run the best so far of each method."""
    for place in sorted(path for path in left.folder.glob("fits/*") if path.is_dir()):
        if (fit := finished(place)) is not None:
            left.all_fits[place.name] = fit
        if rows := _way(place):
            left.curves[place.name] = rows
    if left.results is not None:
        left.fits = {method: Fit.from_json(fit) for method, fit in left.results["fits"].items()}
        return
    for method in ("clm", "fused"):
        its = [fit for name, fit in left.all_fits.items() if name.startswith(f"{method}-")]
        if its:
            left.fits[method] = min(its, key=lambda fit: fit.best_bits_per_byte)


def _way(place: Path) -> Rows:
    """The curves of a fit; of a run of before, those of Lightning's CSV logger, where it logged to that."""
    if (place / CURVES).exists():
        return read_curves(place)
    versions = sorted(place.glob("*/version_*/metrics.csv"), key=lambda path: int(re.sub(r"\D", "", path.parent.name)))
    rows: Rows = {}
    for path in versions:  # one for each time that the fit was started
        with path.open(newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                row = {name: float(value) for name, value in line.items() if name.startswith(KEPT) and value}
                if row:
                    rows[int(line["step"])] = {name: value for name, value in row.items() if math.isfinite(value)}
    return dict(sorted(rows.items()))
