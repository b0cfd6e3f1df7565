"""Where does a fit log to? One that goes on goes on in the W&B run that it began."""

import os
import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lightning.pytorch.loggers import Logger, WandbLogger

from knowfuse.files import write_whole
from knowfuse.progress import is_first_rank

RUN_ID = "wandb_run"  # file of a fit's folder


def logger_of(make: Callable[..., Logger], folder: Path) -> Logger:
    """The logger of a fit. The id of its W&B run is kept in the fit's folder, where the configuration gives none."""
    is_wandb = isinstance(make, partial) and make.func is WandbLogger and not {"id", "version"} & make.keywords.keys()
    if not is_wandb or not is_first_rank():
        return make(save_dir=str(folder))
    kept, given = folder / RUN_ID, os.environ.get("WANDB_RUN_ID")
    if not kept.exists() or (given and "WANDB_SWEEP_ID" in os.environ):
        write_whole(kept, (given or secrets.token_hex(4)).encode())
    if "WANDB_SWEEP_ID" in os.environ:  # wandb takes the id of a trial from its agent alone
        return make(save_dir=str(folder))
    return make(save_dir=str(folder), id=kept.read_text(encoding="ascii"))
