"""Where does a fit log to? One that goes on goes on in the W&B run, and in the CSV file, that it began."""

import os
import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from knowfuse.files import write_whole
from knowfuse.runs.one_log import OneCSV
from knowfuse.screen import is_first_rank, say

RUN_ID = "wandb_run"  # file of a fit's folder


def require_uploadable(make: Callable[..., Logger], in_shards: bool) -> None:
    """ValueError where checkpoints are to go to W&B that cannot: offline, or as folders of shards."""
    if not isinstance(make, partial) or make.func is not WandbLogger or not make.keywords.get("log_model"):
        return
    asked = f"logger.log_model={str(make.keywords['log_model']).lower()} uploads checkpoints"
    if make.keywords.get("offline"):
        raise ValueError(f"{asked}, and logger.offline=true sends nothing: set one of the two to false")
    if in_shards:
        raise ValueError(
            f"{asked} that are one file, and the trainer's strategy writes folders of shards: set "
            "trainer.strategy.save_distributed_checkpoint=false, or logger.log_model=false"
        )


def logger_of(make: Callable[..., Logger], folder: Path) -> Logger:
    """The logger of a fit. The id of its W&B run is kept in the fit's folder, where the configuration gives none."""
    its: Callable[..., Logger] = make.func if isinstance(make, partial) else make
    settings = dict(make.keywords) if isinstance(make, partial) else {}
    if its is CSVLogger and "version" not in settings:
        return OneCSV(save_dir=str(folder), **settings)
    if its is not WandbLogger or {"id", "version"} & settings.keys() or not is_first_rank():
        logger = make(save_dir=str(folder))
        _say_where_parts_are(logger, folder)
        return logger
    kept, given = folder / RUN_ID, os.environ.get("WANDB_RUN_ID")
    if not kept.exists() or (given and "WANDB_SWEEP_ID" in os.environ):
        write_whole(kept, (given or secrets.token_hex(4)).encode())
    if "WANDB_SWEEP_ID" in os.environ:  # wandb takes the id of a trial from its agent alone
        logger = make(save_dir=str(folder))
        _say_that_a_trial_is_offline(logger)
        return logger
    return make(save_dir=str(folder), id=kept.read_text(encoding="ascii"))


def _say_that_a_trial_is_offline(logger: Logger) -> None:
    """One line, where the server that draws the points of a sweep is not told what came of this one."""
    if (run := logger.experiment).offline:  # pyright: ignore[reportAttributeAccessIssue]
        say(
            f"this trial logs offline: its sweep learns nothing of it before `wandb sync {Path(run.dir).parent}`; a grid and random draws "
            "go on without, bayes and early_terminate have nothing to go by"
        )


def _say_where_parts_are(logger: Logger, folder: Path) -> None:
    """One line, where a fit that was stopped has logged to another place."""
    if (here := logger.log_dir) is None:
        return
    before = sorted(path for path in Path(here).parent.glob("version_*") if path != Path(here))
    if before and Path(here).parent.is_relative_to(folder):
        say(
            f"{folder.name}: its log goes on in {here}; what was logged before it was stopped is in {', '.join(map(str, before))}"
        )
