"""Where does the run of a point live, and how is it started? Finished ones are read, a stopped one goes on, nothing runs twice."""

import hashlib
import json
import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from knowfuse.files import sha256_of, undamaged, write_whole
from knowfuse.locks import lock_file
from knowfuse.runs.folder import load_run, read_results
from knowfuse.runs.judged import Judged, judged
from knowfuse.runs.starting import start
from knowfuse.screen import say
from knowfuse.study.point import Point
from knowfuse.text.patterns import files_of
from knowfuse.training.finished import Fit

STUDIES = Path("outputs/studies")  # the runs of all studies: two that have a point in common share its run
STARTED = "study.json"  # in the folder of a run: with what it was started, and how long it took
DONE = "done"  # in the folder of an evaluation
# Settings that leave the figures of a run as they are.
BESIDE = ("name", "cache", "ckpt_path", "logger", "tracing", "num_workers", "prefetch_batches")


@dataclass(frozen=True)
class Finished:
    """A run of one point and seed that is done."""

    point: Point
    seed: int
    folder: Path

    @cached_property
    def results(self) -> dict[str, Any]:
        """What `results.json` holds."""
        return read_results(self.folder)

    @cached_property
    def fits(self) -> dict[str, Fit]:
        """The fit that was kept of each method."""
        return load_run(self.folder)[2]

    @cached_property
    def judged(self) -> Judged:
        """What every LLM of it pays on each document."""
        return judged(str(self.folder))

    @property
    def seconds(self) -> float | None:
        """It took, with what it had to prepare, over all its starts; None where one of them was killed, and did not say."""
        return _seconds(self.folder / STARTED)


def deciding(cfg: DictConfig) -> dict[str, Any]:
    """The settings that decide the figures of a run, as plain values."""
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    return {key: value for key, value in settings.items() if key not in BESIDE}


@dataclass
class Runs:
    """The runs of studies, each in a folder that is named by a hash of its settings.

    `root` is the folder of `train.py` and `conf`; `cache` is where corpora, LLMs and traces are kept, None: as the
    configuration says. `start` runs a program of `root` with overrides, and raises where it fails.
    """

    folder: Path = STUDIES
    root: Path = field(default_factory=Path.cwd)
    cache: Path | None = None
    start: Callable[[str, Sequence[str], Path], object] = start

    def __post_init__(self) -> None:
        """RuntimeError in a process that only reads the script by which it was started: both would wait for each other."""
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise RuntimeError(
                "the script of this study begins it again in each process that it starts, which reads the script first: put what it "
                'does under `if __name__ == "__main__":`'
            )

    def place(self, point: Point, seed: int) -> Path:
        """The folder of its run, whether it is there or not; settings that change no figure do not change it, files of text that do do.

        Raises what Hydra raises for a setting or a choice that does not exist.
        """
        cfg = self.composed(point, seed)
        state = json.dumps(deciding(cfg), sort_keys=True)
        patterns = [str(self.root / Path(name).expanduser()) for name in _files(OmegaConf.to_container(cfg.corpus))]
        memo = Path(cfg.cache).expanduser() / "checksums"
        state += "".join(sha256_of(file, memo) for pattern in patterns for file in files_of(pattern))
        return self.root / self.folder / f"run-{hashlib.sha256(state.encode()).hexdigest()[:12]}"

    def composed(self, point: Point, seed: int) -> DictConfig:
        """Its settings, as `train.py` would get them."""
        own = Point("", {} if self.cache is None else {"cache": str(self.cache)}) + point
        with (
            _beside_a_command(),
            initialize_config_dir(version_base="1.3", config_dir=str(self.root.resolve() / "conf")),
        ):
            return compose("train", own.overrides(seed))

    def run(self, point: Point, seed: int = 0) -> Finished:
        """The finished run; made, or gone on with, where it is not there. Another process that makes it is waited for.

        RuntimeError where `train.py` fails; what it said is on the screen.
        """
        folder = self.place(point, seed)
        with lock_file(folder.with_suffix(".lock")):
            if not (folder / "results.json").exists():
                say(f"{point.name or 'as it is'}, seed {seed}: run {folder.name}")
                self._make(folder, point, seed)
        return Finished(point, seed, folder)

    def _make(self, folder: Path, point: Point, seed: int) -> None:
        own = {"hydra.run.dir": str(folder.resolve()), "ckpt_path": "last"}
        own |= {} if self.cache is None else {"cache": str(self.cache)}
        overrides = [*point.overrides(seed), *Point("", own).overrides()]
        with _timed(folder / STARTED, overrides):
            self.start("train.py", overrides, self.root)
        if not (folder / "results.json").exists():
            raise RuntimeError(f"train.py ended without results in {str(folder)!r}: start the same command again")

    def evaluated(self, run: Finished, name: str, settings: Mapping[str, Any], read: Sequence[Path] = ()) -> Path:
        """The folder of `evaluate.py` on a run with these settings, such as other text; made where none is there that is of the
        same settings, and of files to `read` that hold the same. Another process that makes it is waited for.
        """
        state = json.dumps([dict(settings), [sha256_of(file) for file in read]], sort_keys=True)
        folder = run.folder / f"{name}-{hashlib.sha256(state.encode()).hexdigest()[:12]}"
        with lock_file(folder.with_suffix(".lock")):
            if not (folder / DONE).exists():
                say(f"{run.point.name}, seed {run.seed}: {name}")
                shutil.rmtree(folder, ignore_errors=True)  # what one that was stopped left
                own = {"run": str(run.folder), "hydra.run.dir": str(folder.resolve())}
                self.start("evaluate.py", Point("", {**settings, **own}).overrides(), self.root)
                (folder / DONE).touch()
        return folder

    def run_all(self, points: Sequence[Point], seeds: Sequence[int]) -> list[Finished]:
        """Every point with every seed, a seed after another, so that a study that is stopped has whole ones."""
        return [self.run(point, seed) for seed in seeds for point in points]


def _files(settings: Any, are_files: bool = False) -> Iterator[str]:
    """Names and patterns of files: all text under a key that is called so."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            yield from _files(value, are_files or key == "files")
    elif isinstance(settings, list):
        for value in settings:
            yield from _files(value, are_files)
    elif are_files and isinstance(settings, str):
        yield settings


@contextmanager
def _beside_a_command() -> Iterator[None]:
    """Hydra composes once a process; that of a command which runs here is back after the block."""
    held, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = held


def _seconds(file: Path) -> float | None:
    if not file.exists():
        return None
    with undamaged(file):
        return json.loads(file.read_text(encoding="utf-8"))["seconds"]


@contextmanager
def _timed(file: Path, overrides: Sequence[str]) -> Iterator[None]:
    """Add the seconds of the block to those that the file knows of: none, where a start before was killed, and could not say."""
    before, began = _seconds(file) if file.exists() else 0.0, time.perf_counter()
    _write_started(file, overrides, None)
    try:
        yield
    finally:
        _write_started(file, overrides, None if before is None else before + time.perf_counter() - began)


def _write_started(file: Path, overrides: Sequence[str], seconds: float | None) -> None:
    write_whole(file, json.dumps({"overrides": list(overrides), "seconds": seconds}, indent=1).encode())
