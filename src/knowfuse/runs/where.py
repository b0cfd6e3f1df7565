"""Where does a run live? In a folder of its own, or in that of one that was stopped."""

import os
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from knowfuse.runs.folder import MAY_CHANGE, is_running
from knowfuse.runs.requeued import slurm_job
from knowfuse.runs.writable import require_writable
from knowfuse.screen import say
from knowfuse.text.quoting import path_override
from knowfuse.training.other_settings import within


def register_resolvers() -> None:
    """Make `${run_folder:name,ckpt_path,overrides}` and `${new_folder:root}` known to Hydra."""
    OmegaConf.register_new_resolver("run_folder", run_folder, replace=True, use_cache=True)
    OmegaConf.register_new_resolver("new_folder", new_folder, replace=True, use_cache=True)


def run_folder(name: str, ckpt_path: str | None, overrides: Sequence[str]) -> str:
    """A new `outputs/<name>/<date_time>`; with `ckpt_path=last` or `auto` that of a run that was stopped, if there is one.

    It is the newest that the same command started, by its overrides: of a sweep many are stopped. Where there is none of
    this command, `last` takes the newest of this name, whose settings then say what is other, and `auto` a new one. With
    `auto` a SLURM job has `outputs/<name>/job-<its number>`, which is the same when it is requeued.
    """
    require_name(name)
    root = Path("outputs") / name
    if ckpt_path == "auto" and (job := slurm_job(os.environ)):
        return str(root / f"job-{job}")
    if ckpt_path in ("last", "auto"):
        started = [path.parent for path in sorted(root.glob("*/config.yaml"))]
        unfinished = [path for path in started if not (path / "results.json").exists()]
        if _processes() > 1:  # the first of them may have the run, and write in it, already
            return str(unfinished[-1]) if unfinished else new_folder(root)
        stopped = [path for path in unfinished if not is_running(path)]
        same = [path for path in stopped if _started_by(path, overrides)]
        if len(same) > 1:  # of which a clock that was set back may have started a later one
            say(
                f"run {same[-1]}: the last by its name of {len(same)} that are not finished; another one goes on with "
                f"{path_override('hydra.run.dir', same[-2])}"
            )
        if same:
            return str(same[-1])
        if ckpt_path == "last" and unfinished:
            return str((stopped or unfinished)[-1])
        if stopped:
            say(
                f"ckpt_path=auto: none of the {len(stopped)} runs stopped in {root} was started by this command, a new one starts"
            )
    return new_folder(root)


def _started_by(run: Path, overrides: Sequence[str]) -> bool:
    """Whether the run was started by these overrides, but for what may change; so it is where nobody knows."""
    kept = run / ".hydra" / "overrides.yaml"
    return not kept.exists() or _that_stay(OmegaConf.load(kept)) == _that_stay(overrides)


def _that_stay(overrides: Iterable[str]) -> set[str]:
    return {str(override) for override in overrides if not within(override.partition("=")[0].lstrip("+"), MAY_CHANGE)}


def require_name(name: Any) -> None:
    """ValueError unless a run of this name lives in a folder of `outputs`."""
    if not isinstance(name, str):
        raise ValueError(
            f"name is {name!r}, which is no text: give the name of a folder, digits in quotes, such as \"name='7'\""
        )
    if not re.fullmatch(r"\w[\w .-]*", name):
        raise ValueError(
            f"name is {name!r}, which names a folder in outputs: use letters, digits, spaces, '_', '.' and '-'"
        )


def new_folder(root: str | Path) -> str:
    """`<root>/<date_time>`, made here, so that no two runs share one, however close they start.

    ValueError where several processes of one run ask, which could not agree on the time.
    """
    if (processes := _processes()) > 1:
        raise ValueError(
            f"{processes} processes were started as one run, and each would make a run folder of its own: give them one "
            f"folder, such as {path_override('hydra.run.dir', Path(root) / 'mine')}"
        )
    return _new_folder(Path(root) / datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))


def _processes() -> int:
    """So many were started as one run."""
    return max(int(os.environ.get(key, 1)) for key in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"))


def _new_folder(wanted: Path) -> str:
    """This folder, or the first of `<wanted>-2`, `<wanted>-3`, ... that nobody has."""
    require_writable(wanted)
    folder, n = wanted, 1
    while True:
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            n += 1
            folder = wanted.with_name(f"{wanted.name}-{n}")
        else:
            return str(folder)
