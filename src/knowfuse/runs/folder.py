"""Where does a run live, and from where does it go on?"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import Timeout
from omegaconf import DictConfig, OmegaConf

from knowfuse.files import restored, undamaged, write_whole
from knowfuse.locks import lock_file
from knowfuse.progress import is_first_rank, say
from knowfuse.runs.requeued import slurm_job
from knowfuse.runs.writable import require_writable
from knowfuse.text.quoting import path_override
from knowfuse.training.checkpoints import last_whole, require_whole
from knowfuse.training.fit import DONE, Fit
from knowfuse.training.other_settings import differing, within

RUNNING = ".running.lock"  # held by the process whose run it is
PARTS = "parts"  # in results.json: the runs that the folder holds, where it is of several
# What a run that goes on may have other than before: where from, what it logs to and keeps, and the ranks with what makes up
# for them.
MAY_CHANGE = {"ckpt_path", "logger", "tracing", "batch_blocks", "samples"} | {
    f"trainer.{key}" for key in ("devices", "num_nodes", "accumulate_grad_batches", "val_check_interval")
}


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


def require_name(name: str) -> None:
    """ValueError unless a run of this name lives in a folder of `outputs`."""
    if not re.fullmatch(r"\w[\w .-]*", str(name)):
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


def require_complete(cfg: DictConfig) -> DictConfig:
    """The configuration; ValueError where a setting has no value."""
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise ValueError(f"the configuration leaves {', '.join(missing)} open: set it, such as {missing[0]}=...")
    return cfg


@contextmanager
def open_run(folder: str | os.PathLike[str], cfg: DictConfig) -> Iterator[Path]:
    """The run folder with its `config.yaml`, for as long as the run goes on: no other process gets it meanwhile.

    ValueError where the folder holds a run of other settings (named), a finished one, one that was stopped and that
    `ckpt_path=last` does not ask to go on with, or one that is still running; and where it is removed meanwhile.
    """
    run = Path(folder)
    run.mkdir(parents=True, exist_ok=True)
    with _alone(run) if is_first_rank() else nullcontext():  # the other ranks belong to the first
        opened = _opened(run, cfg)
        try:
            yield opened
        except Exception as error:
            _require_there(run, error)
            raise
        _require_there(run)


def _require_there(run: Path, failed: Exception | None = None) -> None:
    """ValueError where a run that goes on has lost its folder; whoever writes next makes a new one, which holds the rest alone."""
    if not (run / "config.yaml").exists():
        raise ValueError(
            f"run {str(run)!r} was removed, or moved, while it went on, and what it has written since is no run: start it again, or, where "
            "it was moved, go on there with hydra.run.dir=<its folder> ckpt_path=last"
        ) from failed


def is_running(run: Path) -> bool:
    """Whether another process has this run folder."""
    if not run.is_dir():
        return False
    try:
        with lock_file(run / RUNNING).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # nobody can write there
        return False


def wait_until_left(run: Path) -> None:
    """Return once no process has this run folder: for the ranks beside the first, which writes what all of them made."""
    with lock_file(run / RUNNING):
        pass


@contextmanager
def _alone(run: Path) -> Iterator[None]:
    lock = lock_file(run / RUNNING)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f"run {str(run)!r} is still running in another process: wait for it, or start a run in another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _opened(run: Path, cfg: DictConfig) -> Path:
    saved = run / "config.yaml"
    if saved.exists():
        require_same_settings(run, cfg)
        if (run / "results.json").exists():
            raise ValueError(
                f"run {str(run)!r} is finished: start a new one, or score it with python evaluate.py {path_override('run', run)}"
            )
        stopped = [path.parent.name for path in _last_checkpoints(run) if not (path.parent / DONE).exists()]
        if stopped and is_first_rank() and cfg.ckpt_path != "last":
            raise ValueError(
                f"run {str(run)!r} was stopped in {', '.join(stopped)}, whose checkpoints a start from scratch would "
                "overwrite: add ckpt_path=last to go on from them, or take another folder"
            )
        say(f"run {run}: goes on")
        return run
    write_whole(saved, OmegaConf.to_yaml(cfg, resolve=True).encode())  # every rank of a run writes the same
    say(f"run {run}")
    return run


def require_same_settings(run: Path, cfg: DictConfig) -> None:
    """ValueError, with the setting and both values, where the run was started with others than these."""
    before, now = flat(saved_settings(run)), flat(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]
    for key, (started, is_now) in sorted(differing(before, now, MAY_CHANGE).items()):
        raise ValueError(
            f"run {str(run)!r} was started with {key}={started!r}, now it is {is_now!r}: a run goes "
            "on with the settings it was started with; change them in a new run (without ckpt_path=last)"
        )


def was_started(run: Path) -> bool:
    """Whether a fit of this run left a checkpoint to go on from."""
    return bool(_last_checkpoints(run))


def saved_settings(run: Path) -> dict[str, Any]:
    """The configuration that the run was started with, as plain values; ValueError where its file is damaged."""
    with undamaged(run / "config.yaml", "copy it from where the run was made, or train it again"):
        settings = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"), resolve=True)
        if not isinstance(settings, dict) or not settings:
            raise EOFError("it holds no settings")
    return {str(key): value for key, value in settings.items()}


def load_run(folder: str | os.PathLike[str]) -> tuple[Path, dict[str, Any], dict[str, Fit]]:
    """A finished run: its folder, its settings, and the fit that was kept of each method."""
    run = Path(folder)
    for file in ("config.yaml", "results.json"):
        if not (run / file).exists():
            raise ValueError(
                f"{str(run)!r} is not the folder of a finished run, it has no {file}: give one of outputs/<name>/<date_time>, "
                "or finish it by its own command with ckpt_path=last"
            )
    with undamaged(
        run / "results.json",
        "remove it and run train.py with that run's settings and ckpt_path=last, which makes it anew",
    ):
        results = json.loads((run / "results.json").read_text(encoding="utf-8"))
        fits = {method: Fit.from_json(fit) for method, fit in results["fits"].items()}
    require_one_run(run, results)
    return run, saved_settings(run), fits


def load_fit(folder: str | os.PathLike[str], method: str) -> tuple[Path, dict[str, Any], Fit]:
    """A finished run: its folder, its settings, and the fit that was kept of this method; ValueError where it has none."""
    run, settings, fits = load_run(folder)
    if method not in fits:
        raise ValueError(f"run {str(run)!r} has no method {method!r}: choose one of {sorted(fits)}")
    return run, settings, fits[method]


def require_one_run(run: Path, results: Mapping[str, Any]) -> None:
    """ValueError for the folder of several runs, by their results."""
    if parts := results.get(PARTS):
        raise ValueError(
            f"{str(run)!r} holds several runs, whose targets were merged: give one of {', '.join(str(run / part) for part in parts)}, or "
            f"as an LLM {run / 'merged'}"
        )


def checkpoints_to_resume(run: Path, ckpt_path: str | None, fit_names: Sequence[str]) -> Mapping[str, Path]:
    """The checkpoint that each fit goes on from, by the fit's name.

    `last`: those of this run folder; it says so where there is none, or one is damaged and the one before it is taken.
    A path: that file, for the fit it was saved by; ValueError where this run has no fit of that name.
    """
    if ckpt_path is None:
        return {}
    if ckpt_path == "last":
        started = {path.parent: path for path in _last_checkpoints(run)}
        found = {fit.name: path if (fit / DONE).exists() else last_whole(fit) for fit, path in started.items()}
        if not found:
            say(f"ckpt_path=last: run {run} has no checkpoint yet, every fit starts from scratch")
        return {fit: path for fit, path in found.items() if path is not None}
    path = restored(Path(ckpt_path))
    if not path.exists():
        raise ValueError(
            f"ckpt_path {ckpt_path!r} is not there: give last, or a checkpoint such as outputs/.../fits/.../last.ckpt"
        )
    if path.parent.name not in fit_names:
        raise ValueError(
            f"ckpt_path {ckpt_path!r} was saved by a fit named {path.parent.name!r}, this run has {list(fit_names)}: choose "
            "a checkpoint of one of these, or set learning_rates and compare_with_clm to what that fit had"
        )
    require_whole(path)
    return {path.parent.name: path}


def _last_checkpoints(run: Path) -> list[Path]:
    """Of the fits that have one, also of one that was killed while it replaced its last."""
    places = (restored(fit / "last.ckpt") for fit in sorted(run.glob("fits/*")))
    return [path for path in places if path.exists()]


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level, with dotted keys."""
    level: dict[str, Any] = {}
    for key, value in settings.items():
        level |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return level
