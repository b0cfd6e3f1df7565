"""Which files and folders are being written, and which did a kill leave half-written?

Each is beside its place, as `<name>.<number>.part`, and locked as long as its writer lives: the kernel lets go of a lock whose
process is gone. Whoever writes the same name next removes what is left. A file system without such locks keeps all of it.
"""

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from knowfuse.unwritable import making


@contextmanager
def beside(path: Path, make: Callable[[Path], object]) -> Iterator[Path]:
    """A new place beside the path, which `make` makes and this process holds; what was left there before is removed.

    After the block it is as the block leaves it.
    """
    remove_left(path)
    unfinished, held = path, None
    while held is None:  # or another process takes it for left before it is locked
        unfinished = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
        with making():
            make(unfinished)
        held = _locked(unfinished)
    try:
        yield unfinished
    finally:
        os.close(held)


def _locked(place: Path) -> int | None:
    """What to close to let go of it; None where it is gone."""
    try:
        held = os.open(place, os.O_RDONLY)
    except FileNotFoundError:
        return None
    with suppress(OSError):  # of a file system without locks
        fcntl.flock(held, fcntl.LOCK_EX)
    if place.exists():
        return held
    os.close(held)
    return None


def remove_left(path: Path, is_alone: bool = False) -> None:
    """Remove what is unfinished of this path and has no writer any more; all of it where the caller is alone with the path."""
    name = re.compile(rf"{re.escape(path.name)}\.([0-9a-f]+\.)?part")
    for left in [left for left in path.parent.glob("*.part") if name.fullmatch(left.name)]:
        if is_alone:
            remove(left)
        else:
            remove_if_left(left)


def remove_if_left(place: Path, is_left: Callable[[], bool] = lambda: True) -> None:
    """Remove it where no writer holds it, and `is_left` says so once none can."""
    with suppress(OSError):  # it is locked, or gone, or cannot be removed by this user
        held = os.open(place, os.O_RDONLY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_left():
                remove(place)
        finally:
            os.close(held)


def remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
