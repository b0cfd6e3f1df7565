"""How is one fit run, so that it can be stopped anywhere and go on as if it had not been?"""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.strategies import Strategy

from knowfuse.files import restored, undamaged, write_whole
from knowfuse.ranks import ranks
from knowfuse.screen import say
from knowfuse.training.checkpoints import KEPT, WholeFiles, damage, remove_unfinished, writing
from knowfuse.training.curves import CURVES, Curves
from knowfuse.training.data import FusionDataModule
from knowfuse.training.fit_progress import FitProgress
from knowfuse.training.module import FusionModule
from knowfuse.training.other_settings import KeepsSettings
from knowfuse.training.resuming import KeepsItsPlace, RandomStates, require_resumable
from knowfuse.training.said import SourcesSaid
from knowfuse.training.stopping import StopsWhenTold
from knowfuse.training.target import TargetModule
from knowfuse.training.tensor_cores import tensor_cores
from knowfuse.training.weights import load_weights

DONE = "fit.json"  # in the folder of a fit that has ended
COUNTS = ("max_steps", "val_check_interval", "accumulate_grad_batches")  # of a Trainer, that decide what is validated
FEW = 4  # processes that a machine of fewer cores has room for
DEVICES = ("accelerator", "devices", "num_nodes", "strategy", "precision")  # of a Trainer, that a machine may lack


@dataclass
class Fit:
    """A finished fit: its best checkpoint by validation, and the way there."""

    name: str
    best_checkpoint: str  # relative to the fit's folder
    best_bits_per_byte: float
    learning_rate: float
    history: list[tuple[int, float]]  # (training tokens seen, validation bits per byte)
    sources: dict[str, Any] | None = None  # what `SourcesSaid` sums up; None of plain CLM, and of the fits of before

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Fit":
        """The inverse of `asdict` and JSON, which knows no tuples."""
        return cls(**{**values, "history": [(tokens, bits) for tokens, bits in values["history"]]})


class History(L.Callback):
    """Validation bits per byte against training tokens seen; survives a stop."""

    def __init__(self) -> None:
        self.points: list[tuple[int, float]] = []

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        metrics = trainer.callback_metrics
        self.points.append((int(metrics["val/tokens"]), float(metrics["val/bits_per_byte"])))

    def state_dict(self) -> dict[str, Any]:
        return {"points": self.points}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.points = [(tokens, bits) for tokens, bits in state_dict["points"]]


class BestAndLast(ModelCheckpoint):
    """Keeps the best checkpoint by validation, and the last, in `folder`, wherever the fit was when it was stopped."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder, filename="best", monitor="val/bits_per_byte", save_last=True, enable_version_counter=False
        )

    def _save_checkpoint(self, trainer: L.Trainer, filepath: str) -> None:
        with writing(Path(filepath)):
            super()._save_checkpoint(trainer, filepath)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The saved paths are those of the folder it was saved in, which may have moved, or be another run's."""
        assert self.dirpath is not None
        folder = Path(self.dirpath)
        best_so_far = restored(folder / "best.ckpt")
        if not best_so_far.exists() or damage(best_so_far):
            say(f"{folder.name}: the best checkpoint so far is not there or damaged, the best of what follows is kept")
            return

        def here(path: str) -> str:
            return str(folder / Path(path).name) if path else path

        moved = {key: here(state_dict[key]) for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
        best = {here(path): value for path, value in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **moved, "best_k_models": best, "dirpath": self.dirpath})


def fit(
    name: str,
    folder: Path,
    module: FusionModule,
    data: FusionDataModule,
    trainer: Callable[..., L.Trainer],
    learning_rate: float,
    loggers: Callable[[], list[Logger]] = list,
    ckpt_path: Path | None = None,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> Fit:
    """Train and keep the best checkpoint by validation, and the last, in `folder`; from `ckpt_path` where given.

    `settings`, flat, are those of the run; they are in the checkpoints, and compared with those of `ckpt_path`. A fit that is finished there is returned as it is.
    """
    if (done := finished(folder)) is not None:
        say(f"{name}: finished before, {done.best_bits_per_byte:.3f} bits/byte on validation")
        return done
    history, said = History(), SourcesSaid()
    # Called after History, so that the checkpoint of a validation holds its point.
    keep = BestAndLast(folder)
    runner = _runner(
        trainer,
        callbacks=[
            KeepsItsPlace(),
            KeepsSettings(name, settings),
            RandomStates(),
            history,
            said,
            FitProgress(name),
            StopsWhenTold(),
            keep,
        ],
        logger=[*loggers(), Curves(folder)],
        default_root_dir=folder,
    )
    runner.strategy.checkpoint_io = WholeFiles()
    if runner.is_global_zero:
        remove_unfinished(folder)
    if ckpt_path is not None:
        require_resumable(ckpt_path, runner, data, settings)
        if runner.is_global_zero:
            _take_best_along(ckpt_path.parent, folder)
    with _failing(name, folder, runner.loggers), tensor_cores(runner):
        runner.fit(module, data, ckpt_path=ckpt_path)
        if not keep.best_model_path:
            raise ValueError(f"{name} ended without a validation, so there is no checkpoint to keep: see trainer.*")
    best = float(keep.best_model_score or "nan")
    result = Fit(name, Path(keep.best_model_path).name, best, learning_rate, history.points, said.summary())
    if runner.is_global_zero:
        for logger in runner.loggers:
            _close(logger, result, runner.global_step)
        # Last: a kill before it logs again.
        write_whole(folder / DONE, json.dumps(asdict(result), indent=1).encode())
    return result


def tried(
    name: str, module: FusionModule, data: FusionDataModule, trainer: Callable[..., L.Trainer]
) -> list[tuple[int, float]]:
    """Train as `fit` does, and keep nothing: the training tokens seen and the bits per byte of each validation."""
    history = History()
    callbacks = [history, FitProgress(name), StopsWhenTold()]
    runner = _runner(trainer, callbacks=callbacks, logger=False, enable_checkpointing=False)
    with tensor_cores(runner):
        runner.fit(module, data)
    if not history.points:
        raise ValueError(f"{name} ended without a validation, so nothing is known of it: see trainer.*")
    return history.points


def _runner(trainer: Callable[..., L.Trainer], **options: Any) -> L.Trainer:
    """The Trainer with these options; ValueError unless it validates what it trains."""
    runner = trainer(
        use_distributed_sampler=False,  # the data module's own sampler keeps its place over a stop
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    require_validations({name: getattr(runner, name) for name in COUNTS})
    return runner


def finished(folder: Path) -> Fit | None:
    """The fit of this folder, if it has ended; ValueError where what it left is damaged."""
    if not (done := folder / DONE).exists():
        return None
    with undamaged(done, "remove it and run train.py with ckpt_path=last, which makes it anew from last.ckpt"):
        return Fit.from_json(json.loads(done.read_text(encoding="utf-8")))


def require_devices(trainer: Callable[..., L.Trainer]) -> None:
    """ValueError where the machine lacks what the Trainer asks for; it says what there is."""
    ranks()  # of whose environment, where nobody starts processes as it says, this machine is not to blame
    try:
        made = deepcopy(trainer)(logger=False)  # a strategy, which it may hold, serves one Trainer
    except (MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
        settings = trainer.keywords if isinstance(trainer, partial) else {}
        given = {key: settings[key] for key in DEVICES if key in settings}
        given |= {"strategy": type(s).__name__} if isinstance(s := given.get("strategy"), Strategy) else {}
        asked = ", ".join(f"trainer.{key}={value}" for key, value in given.items())
        gpus = torch.cuda.device_count()
        raise ValueError(
            f"this machine cannot give {asked} ({error}): it has {gpus} GPUs and {os.cpu_count()} CPU cores; set "
            + (
                f"trainer.devices to at most {gpus}"
                if gpus
                else "trainer=cpu, or trainer.accelerator=cpu with trainer.devices=1"
            )
        ) from error
    cores = os.cpu_count() or 1
    if isinstance(made.accelerator, CPUAccelerator) and made.num_devices > (most := max(cores, FEW)):
        raise ValueError(
            f"trainer.devices is {made.num_devices}, and on the CPU each is a process that reads all anew: this machine has {cores} "
            f"CPU cores; set trainer.devices to at most {most}"
        )


def require_validations(trainer: Mapping[str, Any]) -> None:
    """ValueError unless these settings of a Trainer train, validate at least once, and lose no gradient at a stop."""
    for name in COUNTS:
        value = trainer.get(name, 1)
        if type(value) is not int or value < 1:
            raise ValueError(f"trainer.{name} is {value!r}: it must be a whole number of at least 1")
    steps, every, accumulated = (trainer.get(name, 1) for name in COUNTS)
    remedy = f"set trainer.val_check_interval={min(max(1, every // accumulated), steps) * accumulated}"
    if every % accumulated:
        raise ValueError(
            f"trainer.val_check_interval={every} batches is no multiple of trainer.accumulate_grad_batches="
            f"{accumulated}: a checkpoint would lose gradients that wait for a step; {remedy}"
        )
    if every > steps * accumulated:
        raise ValueError(
            f"trainer.val_check_interval={every} batches is more than the {steps * accumulated} of the whole fit "
            f"(trainer.max_steps={steps}): nothing would be validated or kept; {remedy}, or less to validate more often"
        )


@contextmanager
def _failing(name: str, folder: Path, loggers: Iterable[Logger]) -> Iterator[None]:
    """End the W&B runs as failed where the block fails: one that stays open would swallow the next fit's figures.

    A fit that is told to stop (Ctrl-C, SIGTERM) says how to go on, and its process fails.
    """
    try:
        yield
    except BaseException as error:
        for logger in loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.finish(exit_code=1)
        if isinstance(error, Exception):
            raise
        is_kept = any(restored(folder / checkpoint).exists() for checkpoint in KEPT)
        begins = "goes on from the last validation" if is_kept else "starts it anew: it was not validated yet"
        say(f"{name}: stopped; the same command with ckpt_path=last {begins}")
        raise


def _close(logger: Logger, result: Fit, step: int) -> None:
    """Log what a sweep compares, and end a W&B run here, so that the next fit of this process has its own."""
    logger.log_metrics({"best/val_bits_per_byte": result.best_bits_per_byte}, step=step)
    logger.save()
    if isinstance(logger, WandbLogger):
        logger.experiment.finish()


def _take_best_along(start: Path, folder: Path) -> None:
    """Copy the best checkpoint beside the one a fit goes on from, and its way so far, where that is another folder."""
    best = restored(start / "best.ckpt")
    if start.resolve() != folder.resolve() and best.exists():
        folder.mkdir(parents=True, exist_ok=True)
        if (start / CURVES).exists():
            shutil.copyfile(start / CURVES, folder / CURVES)
        if best.is_dir():
            shutil.copytree(best, folder / best.name, dirs_exist_ok=True)
        else:
            shutil.copyfile(best, folder / best.name)


def load_best(module: TargetModule, folder: Path, fit: Fit) -> TargetModule:
    """The module with the weights of the fit's best checkpoint, whole and on the CPU."""
    module.configure_model()
    load_weights(module, best_checkpoint(folder, fit))
    return module


def best_checkpoint(folder: Path, fit: Fit) -> Path:
    """The file, or the folder of shards, that a fit kept in its folder; of one that was killed while it replaced it too.

    ValueError where it is gone, as from a run that was copied without its fits.
    """
    kept = restored(folder / fit.best_checkpoint)
    if not kept.exists():
        raise ValueError(
            f"{str(kept)!r} is not there, the checkpoint of the trained target that the run kept: copy the run with its fits, or "
            "train it again"
        )
    return kept
