"""Can a run be written where it is to live?"""

import errno
import os
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from knowfuse.unwritable import is_full, making, why

OF_A_START = 2**17  # bytes, more than Hydra writes before a command begins


class Writable(Callback):
    """Hydra writes into the folder of a run first of all: where it cannot, this says so in a sentence."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        require_writable(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        require_writable(Path(config.hydra.sweep.dir))


def require_writable(folder: Path) -> None:
    """Ends the process where nothing can be written there, or there is no room for what a start writes."""
    try:
        there = next(path for path in (folder, *folder.absolute().parents) if _is_there(path))
    except OSError as error:
        raise SystemExit(
            f"run folder {str(folder)[:200]!r} cannot be made ({why(error)}): take another with hydra.run.dir=<folder>"
        ) from error
    if not there.is_dir():
        what = f"a link to {os.readlink(there)!r}" if there.is_symlink() else "a file"
        raise SystemExit(
            f"run folder {str(folder)!r} cannot be made, {str(there)!r} is {what}, and no folder: make one there, or take another with "
            "hydra.run.dir=<folder>"
        )
    if not os.access(there, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise SystemExit(
            f"run folder {str(folder)!r} cannot be written, {str(there)!r} is only to be read: take another with "
            "hydra.run.dir=<folder>; ckpt_path=<file> goes on there from a checkpoint that is only to be read"
        )
    try:
        with making(), TemporaryFile(dir=there) as file:
            file.write(bytes(OF_A_START))
            file.flush()
    except OSError as error:
        more = f"make room in {str(there)!r}, or " if is_full(error) else ""
        raise SystemExit(
            f"run folder {str(folder)!r} cannot be written ({why(error)}): {more}take another with hydra.run.dir=<folder>"
        ) from error


def _is_there(path: Path) -> bool:
    """A file, a folder or a link, even to nothing. OSError for a path that can be none."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False
    except OSError as error:
        if error.errno != errno.ELOOP:  # the link itself is there
            raise
        return False
    return True
