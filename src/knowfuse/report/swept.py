"""What came of the points of a sweep? `sweep.csv` and `sweep.png` in its folder, written again as each of them ends."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from matplotlib.figure import Figure
from omegaconf import DictConfig

from knowfuse.files import undamaged, write_csv, write_whole
from knowfuse.locks import lock_file
from knowfuse.pages import write_png
from knowfuse.screen import say

CAME = "point.json"  # in the folder of a point: what came of it
BEST, OTHER, FAILED = "#1f6feb", "#9aa1a9", "#b3261e"


@dataclass(frozen=True)
class Came:
    """What came of a point: the figure that it gave the sweeper, in bits per byte on validation, or why it failed."""

    point: str
    overrides: list[str]
    bits_per_byte: float | None
    failed: str | None

    @property
    def settings(self) -> dict[str, str]:
        parts = (override.lstrip("+").partition("=") for override in self.overrides)
        return {setting: value for setting, _, value in parts}


class Swept(Callback):
    """Hydra calls it at the end of every point, in the process that ran it, and of the sweep where none has failed."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        sweep, point = Path(config.hydra.sweep.dir), str(config.hydra.sweep.subdir)
        figure, reason = None, None
        if job_return.status == JobStatus.COMPLETED:
            figure = job_return.return_value
        else:
            error = job_return._return_value
            reason = f"{type(error).__name__}: {error}"
            say(f"point {point} of sweep {sweep} failed: {reason}")
        came = Came(point, list(config.hydra.overrides.task), figure, reason)
        write_whole(sweep / point / CAME, json.dumps(asdict(came), indent=1).encode())
        with lock_file(sweep / ".table.lock"):  # points may end at once
            write_sweep(sweep)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        sweep = Path(config.hydra.sweep.dir)
        came = points_of(sweep)
        if best := _best(came):
            say(
                f"sweep {sweep}: best is point {best.point}, {best.bits_per_byte:.3f} bits/byte; all in sweep.csv, sweep.png"
            )


def points_of(sweep: Path) -> list[Came]:
    """What came of each point that has ended, in the order of their numbers."""
    found = []
    for path in sweep.glob(f"*/{CAME}"):
        with undamaged(path):
            found.append(Came(**json.loads(path.read_text(encoding="utf-8"))))
    return sorted(found, key=lambda came: (len(came.point), came.point))


def write_sweep(sweep: Path) -> None:
    """The table of all points, and a picture of them, the best on top; a point that failed is named in both."""
    came = points_of(sweep)
    varied = _varied(came)
    lines: list[list[Any]] = [["point", *varied, "bits_per_byte", "failed"]]
    for one in came:
        lines.append([one.point, *(one.settings.get(key) for key in varied), one.bits_per_byte, one.failed])
    write_csv(sweep / "sweep.csv", lines)
    write_png(sweep / "sweep.png", _picture(came, varied))


def _varied(came: list[Came]) -> list[str]:
    """Settings that are not the same at all points; all of them where there is one point."""
    keys = list(dict.fromkeys(key for one in came for key in one.settings))
    return [key for key in keys if len(came) == 1 or len({one.settings.get(key) for one in came}) > 1]


def _best(came: list[Came]) -> Came | None:
    ended = [one for one in came if one.bits_per_byte is not None]
    return min(ended, key=lambda one: one.bits_per_byte or 0.0, default=None)


def _picture(came: list[Came], varied: list[str]) -> Figure:
    best = _best(came)
    rows = sorted(came, key=lambda one: (one.bits_per_byte is None, one.bits_per_byte or 0.0))
    figure = Figure(figsize=(7.2, 1.2 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for at, one in enumerate(rows):
        if one.bits_per_byte is None:
            axes.annotate(
                "failed", (0.01, at), xycoords=("axes fraction", "data"), va="center", color=FAILED, fontsize=8
            )
            continue
        colour = BEST if one == best else OTHER
        axes.plot(one.bits_per_byte, at, "o", color=colour)
        label = f"{one.bits_per_byte:.3f}"
        axes.annotate(label, (one.bits_per_byte, at), (0, 6), textcoords="offset points", ha="center", fontsize=7.5)
    shown = varied if len(rows) > 1 else []  # of one point all settings vary, which no label has room for
    names = [" ".join(f"{key}={one.settings.get(key, '')}" for key in shown) for one in rows]
    axes.set_yticks(
        range(len(rows)), [f"{one.point} {name}" for one, name in zip(rows, names, strict=True)], fontsize=8
    )
    axes.set_ylim(len(rows) - 0.4, -0.8)
    axes.set_xlabel("bits per byte on validation: left is better", fontsize=9)
    return figure
