"""Where does a sweep live, and what of its points is done already?"""

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning as L
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from hydra.utils import to_absolute_path
from omegaconf import DictConfig, OmegaConf

from knowfuse.commands.left_over import made_for_a_sweep
from knowfuse.files import undamaged, write_whole
from knowfuse.locks import lock_file
from knowfuse.ranks import ranks
from knowfuse.runs.folder import PARTS, RUNNING, load_run, read_results, require_same_settings, was_started
from knowfuse.runs.where import new_folder, require_name
from knowfuse.screen import say
from knowfuse.text.quoting import literal
from knowfuse.training.stopping import STOPPED

ASKED = "sweep.json"  # what a sweep was asked for, and whether all its points are done
_held: list[FileLock] = []  # of the sweep of this process, until it ends


class Sweep(Callback):
    """Hydra's `--multirun` gets a folder of its own; the same command goes on in the folder of a sweep that was stopped."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Settle `hydra.sweep.dir`, where the command does not say it. Ends the process where several would run the sweep."""
        if not any(override.startswith("hydra.sweep.dir=") for override in config.hydra.overrides.hydra):
            if (world := ranks().world) > 1:
                raise SystemExit(
                    f"{world} processes were started as one run, and --multirun starts those of each point itself: run it with "
                    f"python alone, or give all of them one folder, such as hydra.sweep.dir=outputs/{config.name}/mine"
                )
            try:
                require_name(config.name)
                folder = sweep_folder(Path("outputs") / config.name, _asked(config))
            except ValueError as error:  # of which Hydra would make a warning, and go on
                raise SystemExit(str(error)) from error
            config.hydra.sweep.dir = folder
            config.hydra.overrides.hydra.append(
                f"hydra.sweep.dir={literal(folder)}"
            )  # of which each point's is composed

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Hydra comes here once no point has failed."""
        folder = Path(config.hydra.sweep.dir)
        _write(folder, _asked(config), is_done=True)
        say(f"sweep {folder}: all points are done")


def _asked(config: DictConfig) -> dict[str, Any]:
    """What makes two sweeps the same, as plain values: their settings, and what is to vary."""
    plain: Any = OmegaConf.to_container(config, resolve=False)
    hydra = plain.pop("hydra")
    plain.pop("ckpt_path", None)
    varied = [override for override in hydra["overrides"]["task"] if not override.startswith("ckpt_path=")]
    return json.loads(json.dumps({"settings": plain, "overrides": varied, "sweeper": hydra["sweeper"]}, default=str))


def sweep_folder(root: Path, asked: Mapping[str, Any]) -> str:
    """That of the newest sweep that was asked for the same, is not done and does not run; else a new one.

    It is this process's until that ends.
    """
    for kept in sorted(root.glob(f"*/{ASKED}"), reverse=True):
        with undamaged(kept, "remove it, and the sweep starts anew"):
            found = json.loads(kept.read_text(encoding="utf-8"))
        if not found.pop("is_done") and found == asked and _hold(kept.parent):
            say(
                f"sweep {kept.parent}: goes on, it was stopped before all its points were done (hydra.sweep.dir=<another folder> "
                "starts anew)"
            )
            return str(kept.parent)
    folder = Path(new_folder(root))
    made_for_a_sweep(folder)
    _hold(folder)
    _write(folder, asked, is_done=False)
    say(f"sweep {folder}")
    return str(folder)


def _hold(folder: Path) -> bool:
    lock = lock_file(folder / RUNNING)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    _held.append(lock)
    return True


def _write(folder: Path, asked: Mapping[str, Any], is_done: bool) -> None:
    write_whole(folder / ASKED, json.dumps({**asked, "is_done": is_done}, indent=1).encode())


def is_point() -> bool:
    """Whether this job is one point of a sweep."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def figure_of(point: Path, cfg: DictConfig) -> float | None:
    """What a run that is finished gave the sweeper; None if it is not.

    ValueError where it was another one, with other settings.
    """
    if not (point / "results.json").exists():
        return None
    require_same_settings(point, cfg)
    figure = _figure(point)
    say(f"run {point}: finished before, {figure:.3f} bits/byte on validation")
    return figure


def _figure(point: Path) -> float:
    """Of the fused target, or of what several became."""
    results = read_results(point)
    return results["validation"] if PARTS in results else load_run(point)[2]["fused"].best_bits_per_byte


def goes_on_from(point: Path, ckpt_path: str | None) -> str | None:
    """The `ckpt_path` of a point, or of a run with `auto`: `last` where it was stopped, and only there; else what the command says."""
    if was_started(point):
        return "last"
    return None if ckpt_path in ("last", "auto") else ckpt_path


def starts_processes(trainer: Callable[..., L.Trainer]) -> bool:
    """Whether its fits start processes, which repeat the command that this one was started by."""
    return deepcopy(trainer)(logger=False).strategy.launcher is not None


def by_itself(point: Path, ckpt_path: str | None) -> float:
    """Run a point as one command of its own: what its processes are told, and leave behind, is its alone.

    RuntimeError, with the command, where it fails.
    """
    hydra = HydraConfig.get()
    conf = next(source.path for source in hydra.runtime.config_sources if source.provider == "main")
    where = [f"--config-path={conf}", f"--config-name={hydra.job.config_name}"]
    where += [f"--config-dir={s.path}" for s in hydra.runtime.config_sources if s.provider == "command-line"]
    program = to_absolute_path(sys.argv[0])
    more = [f"ckpt_path={literal(ckpt_path)}", f"hydra.run.dir={literal(str(point))}"]
    command = [sys.executable, program, *where, *hydra.overrides.task, *more]
    told: list[int] = []
    with subprocess.Popen(command) as process:

        def stop(number: int, _: Any) -> None:
            told.append(number)
            process.terminate()

        before = signal.signal(signal.SIGTERM, stop)
        try:
            status = process.wait()
        finally:
            signal.signal(signal.SIGTERM, before)
    if told or status == STOPPED:  # while it prepares, a point has no answer of its own to SIGTERM
        raise SystemExit(STOPPED)
    if status != 0:
        raise RuntimeError(f"run {point} failed with exit status {status}, see above; by itself: {shlex.join(command)}")
    return _figure(point)
