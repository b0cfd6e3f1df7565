"""What is kept of the way of a fit, whatever else it logs to, for the page that is made of its run?

A file in the fit's folder, of at most some thousand steps: of a longer fit every second one is dropped, and again.
"""

import json
import math
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from knowfuse.files import undamaged, write_whole

CURVES = "curves.json"  # in the folder of a fit
KEPT = "train/"  # the beginning of the names of what is kept
MOST_STEPS = 2000
Rows = dict[int, dict[str, float]]  # step -> name -> value


class Curves(Logger):
    """Keeps what is logged of training steps; written at every validation and at the end.

    A fit that goes on in its folder goes on in its file: steps that are trained again replace those of before.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path, self.rows, self.every, self.logged = folder / CURVES, Rows(), 1, 0
        self.is_new = True

    @property
    def name(self) -> str:
        return "curves"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: Any, *arguments: Any, **more: Any) -> None:
        """The run's config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if self.is_new:
            self._go_on(step or 0)
        kept = {name: value for name, value in metrics.items() if name.startswith(KEPT)}
        if kept and self.logged % self.every == 0:
            self.rows[step or 0] = kept
        self.logged += bool(kept)
        if len(self.rows) > MOST_STEPS:
            self.rows, self.every = dict(list(self.rows.items())[::2]), 2 * self.every
        if not kept:  # a validation, or the end
            self._write()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if not self.is_new:  # else nothing was logged, and what is there stays
            self._write()

    def _go_on(self, step: int) -> None:
        self.is_new = False
        if self.path.exists():
            self.rows, self.every = _read(self.path)
            self.rows = {earlier: row for earlier, row in self.rows.items() if earlier < step}

    def _write(self) -> None:
        names = sorted({name for row in self.rows.values() for name in row})
        columns = {name: [_finite(row.get(name)) for row in self.rows.values()] for name in names}
        write_whole(self.path, json.dumps({"every": self.every, "step": list(self.rows), **columns}).encode())


def read_curves(folder: Path) -> Rows:
    """What a fit kept in its folder; FileNotFoundError where there is nothing, ValueError where the file is damaged."""
    return _read(folder / CURVES)[0]


def _read(path: Path) -> tuple[Rows, int]:
    with undamaged(path, "remove it: it is only what the run's page shows of the way"):
        columns = json.loads(path.read_text(encoding="utf-8"))
        every, steps = int(columns.pop("every")), columns.pop("step")
        values = [
            {name: v for name, v in zip(columns, row, strict=True) if v is not None}
            for row in zip(*columns.values(), strict=True)
        ]
        return dict(zip(steps, values, strict=True)), every


def _finite(value: float | None) -> float | None:
    """JSON knows no NaN."""
    return None if value is None or not math.isfinite(value) else float(value)
