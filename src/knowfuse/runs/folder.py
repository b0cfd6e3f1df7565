"""Who has a run's folder, what is kept in it, and from where does it go on?"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from filelock import Timeout
from omegaconf import DictConfig, OmegaConf

from knowfuse.files import restored, undamaged, write_whole
from knowfuse.locks import lock_file
from knowfuse.screen import is_first_rank, say
from knowfuse.text.quoting import path_override
from knowfuse.training.checkpoints import LAST, last_whole, latest_of, require_whole
from knowfuse.training.finished import DONE, Fit
from knowfuse.training.other_settings import differing

RUNNING = ".running.lock"  # held by the process whose run it is
PARTS = "parts"  # in results.json: the runs that the folder holds, where it is of several
# What a run that goes on may have other than before: where from, what it logs to and keeps, the data workers, and the ranks
# with what makes up for them.
MAY_CHANGE = {"ckpt_path", "logger", "tracing", "batch_blocks", "samples", "num_workers", "prefetch_batches"} | {
    f"trainer.{key}" for key in ("devices", "num_nodes", "accumulate_grad_batches", "val_check_interval")
}


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
        stopped = [path.parent.name for path in latest_of(run / "fits") if not (path.parent / DONE).exists()]
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
    return bool(latest_of(run / "fits"))


def saved_settings(run: Path) -> dict[str, Any]:
    """The configuration that the run was started with, as plain values; ValueError where its file is damaged."""
    with undamaged(run / "config.yaml", "copy it from where the run was made, or train it again"):
        settings = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"), resolve=True)
        if not isinstance(settings, dict) or not settings:
            raise EOFError("it holds no settings")
    return {str(key): value for key, value in settings.items()}


def read_results(folder: Path) -> dict[str, Any]:
    """What `results.json` holds, of a run, an evaluation, or several runs; ValueError where it is damaged or holds no figures."""
    path = folder / "results.json"
    remedy = "remove it and run train.py with that run's settings and ckpt_path=last, which makes it anew; of an evaluation run that again"
    with undamaged(path, remedy):
        results = json.loads(path.read_text(encoding="utf-8"))
        if not results.get(PARTS):
            require_figures(results["rows"])
            if not all(Fit.from_json(fit).history for fit in results["fits"].values()) or not results["unit"]:
                raise EOFError("it has a fit without a validation, or no unit")
    return results


def require_figures(rows: Mapping[str, Mapping[str, float]]) -> None:
    """EOFError unless every LLM has bits per byte by domain, and their mean."""
    if not rows or not all(
        "mean" in bits and all(isinstance(b, float | int) for b in bits.values()) for bits in rows.values()
    ):
        raise EOFError("it has no figures, or one that is no number")


def load_run(folder: str | os.PathLike[str]) -> tuple[Path, dict[str, Any], dict[str, Fit]]:
    """A finished run: its folder, its settings, and the fit that was kept of each method."""
    run = Path(folder)
    for file in ("config.yaml", "results.json"):
        if not (run / file).exists():
            raise ValueError(
                f"{str(run)!r} is not the folder of a finished run, it has no {file}: give one of outputs/<name>/<date_time>, "
                "or finish it by its own command with ckpt_path=last"
            )
    results = results_of_one(run)
    return run, saved_settings(run), {method: Fit.from_json(fit) for method, fit in results["fits"].items()}


def load_fit(folder: str | os.PathLike[str], method: str) -> tuple[Path, dict[str, Any], Fit]:
    """A finished run: its folder, its settings, and the fit that was kept of this method; ValueError where it has none."""
    run, settings, fits = load_run(folder)
    if method not in fits:
        raise ValueError(f"run {str(run)!r} has no method {method!r}: choose one of {sorted(fits)}")
    return run, settings, fits[method]


def results_of_one(run: Path) -> dict[str, Any]:
    """`read_results` of one run or evaluation; ValueError for the folder of several runs, by their results."""
    results = read_results(run)
    if parts := results.get(PARTS):
        raise ValueError(
            f"{str(run)!r} holds several runs, whose targets were merged: give one of {', '.join(str(run / part) for part in parts)}, or "
            f"as an LLM {run / 'merged'}"
        )
    return results


def checkpoints_to_resume(run: Path, ckpt_path: str | None, fit_names: Sequence[str]) -> Mapping[str, Path]:
    """The checkpoint that each fit goes on from, by the fit's name.

    `last`: those of this run folder, and of a fit without one that which the run was started with; it says so where there is none, or
    one is damaged and the one before it is taken.
    A path: that file, for the fit it was saved by; ValueError where this run has no fit of that name.
    """
    if ckpt_path is None:
        return {}
    if ckpt_path == "last":
        begun = saved_settings(run)["ckpt_path"] if (run / "config.yaml").exists() else None
        begun_by = None if begun in (None, "last", "auto") else Path(begun).parent.name
        found = {fit.name: path for fit, path in _own_checkpoints(run, begun_by).items() if path is not None}
        if begun_by is not None and begun_by not in found:  # the fit has not come to a checkpoint of its own
            found |= checkpoints_to_resume(run, begun, fit_names)
        if not found:
            say(f"ckpt_path=last: run {run} has no checkpoint yet, every fit starts from scratch")
        return found
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


def _own_checkpoints(run: Path, begun_by: str | None) -> dict[Path, Path | None]:
    """From which checkpoint each fit that has one goes on; None where all of its are damaged.

    The best of the fit `begun_by` is none to go on from as long as it is alone: it came along from the run where that fit began.
    """
    found = {}
    for path in latest_of(run / "fits"):
        fit = path.parent
        if (fit / DONE).exists():
            found[fit] = path
        elif fit.name != begun_by or restored(fit / LAST).exists():
            found[fit] = last_whole(fit)
    return found


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level, with dotted keys."""
    level: dict[str, Any] = {}
    for key, value in settings.items():
        level |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return level
