"""How is one fit run, so that it can be stopped anywhere and go on as if it had not been?"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger, WandbLogger

from knowfuse.files import restored, write_whole
from knowfuse.screen import say
from knowfuse.training.checkpoints import LAST, WholeFiles, damage, remove_unfinished, writing
from knowfuse.training.curves import CURVES, Curves
from knowfuse.training.data import FusionDataModule
from knowfuse.training.finished import DONE, Fit, best_checkpoint, finished
from knowfuse.training.fit_progress import FitProgress
from knowfuse.training.module import FusionModule
from knowfuse.training.other_settings import KeepsSettings
from knowfuse.training.resuming import KeepsItsPlace, RandomStates, Steps, keep_steps, require_resumable
from knowfuse.training.said import SourcesSaid
from knowfuse.training.stopping import StopsWhenTold
from knowfuse.training.target import TargetModule
from knowfuse.training.tensor_cores import tensor_cores
from knowfuse.training.trainers import COUNTS, require_validations
from knowfuse.training.weights import load_weights


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
    data.blocks_taken = 0  # by this fit: one before it may have gone on with other ranks
    history, said, logging = History(), SourcesSaid(), [*loggers(), Curves(folder)]
    # Called after History, so that the checkpoint of a validation holds its point.
    keep = BestAndLast(folder)
    with _failing(name, folder, logging):
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
            logger=logging,
            default_root_dir=folder,
        )
        runner.strategy.checkpoint_io = WholeFiles()
        if runner.is_global_zero:
            remove_unfinished(folder)
        if ckpt_path is not None:
            require_resumable(ckpt_path, runner, data, settings)
            if runner.is_global_zero:
                _take_best_along(ckpt_path.parent, folder)
        keep_steps(folder.parent, Steps.of(runner, data), runner.is_global_zero)
        with tensor_cores(runner):
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
        is_validated = restored(folder / LAST).exists()
        begins = "goes on from the last validation" if is_validated else "starts it anew: it was not validated yet"
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
