"""What does a command leave on disk that was refused before it did anything? Nothing."""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import InterpolationResolutionError

from knowfuse.runs.folder import is_running
from knowfuse.screen import is_first_rank

# What every start writes; a folder with nothing else in it holds no work.
OF_A_START = {"config.yaml", ".running.lock", "sweep.json", "multirun.yaml"}
OF_A_TABLE = {"point.json", "sweep.csv", "sweep.png", ".table.lock"}  # of points that may all have been refused
_sweeps: list[Path] = []  # that this process has made


class NothingLeft(Callback):
    """Takes back what Hydra and a start have written, where the command then fails: a new folder, `.hydra` in an old one."""

    def __init__(self) -> None:
        self.before: dict[Path, bytes] = {}
        self.logs: set[Path] = set()  # that were there
        self.is_new = False

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Keep what Hydra is about to write over. Ends the process where there can be no folder: Hydra would show a stack."""
        try:
            folder = Path(config.hydra.run.dir).absolute()  # as Hydra names it once it is there
        except InterpolationResolutionError as error:
            if "HYDRA_FULL_ERROR" in os.environ:
                return
            raise SystemExit(str(error).partition("resolving interpolation: ")[2].partition("\n")[0]) from error
        self.before = {path: path.read_bytes() for path in folder.glob(".hydra/*")}
        self.logs = set(folder.glob("*.log"))

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Look whether the folder is new; Hydra has just written its own into it."""
        had_any = bool(self.before or self.logs)
        self.is_new = not had_any and not any(map(_is_work, Path(config.hydra.runtime.output_dir).iterdir()))

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Of a job that failed, on the rank that writes."""
        if job_return.status != JobStatus.FAILED or not is_first_rank():
            return
        folder = Path(config.hydra.runtime.output_dir)
        if self.is_new:
            # Of two that started at once the other may have it, and not have made anything yet.
            if not is_running(folder):
                remove_unused(folder)
        else:
            for path, content in self.before.items():
                path.write_bytes(content)
            for log in set(folder.glob("*.log")) - self.logs:
                log.unlink()


def remove_unused(folder: Path) -> None:
    """Remove a folder in which only a start has left something, and those above it, in `outputs`, that are empty then."""
    if not any(path.name not in OF_A_START and _is_work(path) for path in folder.iterdir()):
        _remove(folder)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder)
    outputs = Path("outputs").resolve()
    for above in folder.resolve().parents:
        if not above.is_relative_to(outputs):
            return
        with suppress(OSError):  # something is in it
            above.rmdir()


def made_for_a_sweep(folder: Path) -> None:
    """This folder was made now, for a sweep; it is to go where no point begins."""
    _sweeps.append(folder)


def remove_unused_sweep() -> None:
    """Of this process, if it made one, where no point has begun to work: the table of their refusals is none."""
    for folder in filter(Path.exists, _sweeps):
        files = (path for path in folder.rglob("*") if path.is_file() and ".hydra" not in path.parts)
        if not any(path.name not in OF_A_START | OF_A_TABLE and _is_work(path) for path in files):
            _remove(folder)


def _is_work(path: Path) -> bool:
    return path.name != ".hydra" and path.suffix != ".log"
