"""How is a checkpoint written so that the one before it stays whole, and which of those that are there can be read?"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader

from knowfuse.files import replaced, restored, write_through
from knowfuse.screen import say
from knowfuse.unfinished import remove, remove_left
from knowfuse.unwritable import make_folder, why

SHARDED = "meta.pt"  # Lightning's name of what is not in shards, in the folder of a sharded checkpoint
LAST = "last.ckpt"
KEPT = (LAST, "best.ckpt")  # of a fit, the later one first; a fit can go on from either


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place, and moves it there once it is on the disk.

    Lightning's own writes it to the folder for temporary files, which may be small, and from which it is copied over the
    checkpoint before, where that is another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        make_folder(path.parent)
        write_through(path, lambda file: _save(checkpoint, file))


def _save(checkpoint: dict[str, Any], file: BinaryIO) -> None:
    try:
        torch.save(checkpoint, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # torch's own end of the file fails too, and hides why
            raise error.__context__ from None
        raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """OSError, which says from what the fit will go on, where the block cannot write this checkpoint."""
    try:
        yield
    except (OSError, CheckpointException) as error:
        left = next((name for name in KEPT if restored(path.parent / name).exists()), None)
        raise OSError(
            f"checkpoint {str(path)!r} could not be written ({_of_first_rank(error)}): once there is room, the same command with "
            f"ckpt_path=last goes on from {f'{left}, which is as it was' if left else 'the beginning'}"
        ) from error


def _of_first_rank(error: BaseException) -> str:
    """Why, of one of several ranks; of several the first one's."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    return why(error)


def damage(checkpoint: Path) -> str | None:
    """Why this checkpoint, a file or a folder of shards, cannot be read; None where it can. Its tensors are not looked at."""
    try:
        file = checkpoint / SHARDED if checkpoint.is_dir() else checkpoint
        torch.load(file, map_location="cpu", weights_only=True, mmap=True)["global_step"]
        if checkpoint.is_dir():
            _require_shards(checkpoint)
    except Exception as error:  # torch, zipfile and pickle each raise their own
        return why(error)
    return None


def require_whole(checkpoint: Path) -> None:
    """ValueError for a checkpoint that cannot be read."""
    if (reason := damage(checkpoint)) is not None:
        raise ValueError(
            f"checkpoint {str(checkpoint)!r} is damaged or none of Lightning's ({reason}): give another ckpt_path, such "
            "as best.ckpt beside it"
        )


def _require_shards(checkpoint: Path) -> None:
    """EOFError where a file of shards is shorter than what is to be in it."""
    for shard in FileSystemReader(checkpoint).read_metadata().storage_data.values():
        size = (checkpoint / shard.relative_path).stat().st_size
        if size < shard.offset + shard.length:
            raise EOFError(f"{shard.relative_path} has {size} bytes, {shard.offset + shard.length} were written")


def remove_unfinished(fit: Path) -> None:
    """Remove what a kill left of checkpoints that it stopped, whose process is gone; each is as large as a whole one."""
    for path in (restored(fit / name) for name in KEPT):
        remove_left(path, is_alone=True)
        if path.exists():
            remove(replaced(path))


def latest_of(fits: Path) -> list[Path]:
    """The latest checkpoint of each fit that has one, also of one that was killed while it replaced it, or wrote its first last one."""
    folders = sorted(path for path in fits.glob("*") if path.is_dir())
    each = ([path for name in KEPT if (path := restored(fit / name)).exists()] for fit in folders)
    return [paths[0] for paths in each if paths]


def last_whole(fit: Path) -> Path | None:
    """The latest checkpoint in a fit's folder that can be read; a line says so where it is not the last one, or there is none."""
    reasons = []
    for path in (restored(fit / name) for name in KEPT):
        if not path.exists():
            continue
        if (reason := damage(path)) is None:
            if reasons:
                say(f"warning: {'; '.join(reasons)}: {fit.name} goes on from {path.name}, the one before it")
            return path
        reasons.append(f"{str(path)!r} is damaged ({reason})")
    if reasons:
        say(f"warning: {'; '.join(reasons)}: {fit.name} starts from scratch")
    return None
