"""How are files kept whole or not at all, and found damaged, on this machine?"""

import csv
import hashlib
import io
import json
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from safetensors import SafetensorError
from yaml import YAMLError

from knowfuse.locks import lock_file
from knowfuse.unfinished import beside, remove, remove_left
from knowfuse.unwritable import make_folder, naming

DAMAGED = (
    json.JSONDecodeError,
    YAMLError,
    UnicodeDecodeError,
    SafetensorError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
)
WORTH_REMEMBERING = 2**20  # bytes of a file from which looking its checksum up is faster than reading it
SETTLED_SECONDS = 3.0


def sha256_of(path: Path, memo: Path | None = None) -> str:
    """The checksum of a file's content, at about 1 GB/s; found again in the folder `memo` while the file stays as it is.

    That it stays is told by its size and its times of change, to the nanosecond; one that changed within the last
    seconds could change again within the same tick of its file system's clock, and is not remembered.
    """
    state = path.stat()
    if memo is None or state.st_size < WORTH_REMEMBERING:
        return _read_sha256(path)
    seen = [str(path.resolve()), state.st_size, state.st_mtime_ns, state.st_ctime_ns]
    note = memo / hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:32]
    if note.exists():
        return note.read_text(encoding="ascii")
    checksum = _read_sha256(path)
    if time.time() - max(state.st_mtime, state.st_ctime) > SETTLED_SECONDS:
        with suppress(OSError):  # of a cache that is full or only to be read: it is hashed again
            write_whole(note, checksum.encode())
    return checksum


def _read_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def allowed(path: str | Path) -> Iterator[None]:
    """PermissionError that names the file and the remedy where this user may not do what the block does there."""
    try:
        yield
    except PermissionError as error:
        raise PermissionError(
            f"{str(error.filename or path)!r} may not be read or written by this user ({error.strerror}): ask its owner for "
            "`chmod -R a+rX` on the cache folder, or set cache= (or KNOWFUSE_CACHE) to a folder of your own"
        ) from error


@contextmanager
def undamaged(path: str | Path, remedy: str = "remove it and run the same command again") -> Iterator[None]:
    """ValueError that names the file and the remedy where what the block reads from it is cut off or of another shape.

    PermissionError, as `allowed` says it, where this user may not read it.
    """
    try:
        with allowed(path):
            yield
    except DAMAGED as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"  # of YAML it has lines
        raise ValueError(f"{str(path)!r} is cut off or damaged ({reason}): {remedy}") from error


def mapped_array(file: Path, kind: np.dtype, length: int | None = None) -> np.ndarray:
    """The numbers of a file, mapped; EOFError where it has not `length` of them, or no whole number of them."""
    size = file.stat().st_size
    wanted = size // kind.itemsize if length is None else length
    if size != wanted * kind.itemsize:
        raise EOFError(f"{file.name} has {size} bytes, {wanted} numbers take {wanted * kind.itemsize}")
    return np.memmap(file, kind, "r") if wanted else np.empty(0, dtype=kind)  # nothing cannot be mapped


def make_once(path: Path, make: Callable[[], None]) -> bool:
    """See to it that the path is there; whether `make` had to be called. Of several processes one makes, the others wait.

    Where it is there nothing is written, so a filled folder may be read-only. PermissionError, as `allowed` says it, where
    this user may not look or write there.
    """
    with ExitStack() as locked:
        with allowed(path):
            if path.exists():
                return False
            locked.enter_context(lock_file(path.with_name(f"{path.name}.lock")))
            if path.exists():
                return False
        make()
    return True


def make_folder_once(path: Path, fill: Callable[[Path], object]) -> bool:
    """`make_once` of a folder, whole or not at all: `fill` gets an empty one beside the place. What a kill left is removed."""

    def make() -> None:
        remove_left(path, is_alone=True)
        with whole_folder(path) as unfinished:
            fill(unfinished)

    return make_once(path, make)


def write_whole(path: Path, data: bytes) -> None:
    """Write beside the place and move there: a reader sees all of the file or what was there before."""
    write_through(path, lambda file: file.write(data))


def write_csv(path: Path, lines: Iterable[Sequence[object]]) -> None:
    """`write_whole` of lines of cells; None is an empty cell."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(lines)
    write_whole(path, text.getvalue().encode())


def write_through(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """`write_whole` of what `write` writes. OSError where it cannot, and what was there stays."""
    with written_through(path, write):
        pass


@contextmanager
def written_through(path: Path, write: Callable[[BinaryIO], object]) -> Iterator[None]:
    """`write_through`; the file, in its place, is held by this process until the block ends."""
    with ExitStack() as held:
        with naming(path):
            make_folder(path.parent)
            unfinished = held.enter_context(beside(path, Path.touch))
            try:
                with unfinished.open("wb") as file:
                    write(file)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(unfinished, path)
            except BaseException:
                remove(unfinished)
                raise
        yield


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which is moved to its place once the block ends; where the block fails nothing stays.

    Its files are as readable as the umask says, whoever wrote them: safetensors keeps its own from all others.
    """
    with naming(path):
        make_folder(path.parent)
        with beside(path, Path.mkdir) as unfinished:
            try:
                mode = stat.S_IMODE(unfinished.stat().st_mode) & 0o666  # what the umask left of a folder's
                yield unfinished
                for file in unfinished.rglob("*"):
                    if file.is_file() and not file.is_symlink():
                        file.chmod(mode)
                os.replace(unfinished, path)  # an empty folder gives way
            finally:
                remove(unfinished)


def swap(new: Path, path: Path) -> None:
    """Put the folder `new` in the place of `path`, whatever is there; `restored` finds the old one after a kill in between."""
    old = replaced(path)
    remove(old)
    if path.exists():
        os.replace(path, old)
    os.replace(new, path)
    remove(old)


def replaced(path: Path) -> Path:
    """Where a `swap` keeps what was in this place until the new is there."""
    return path.with_name(f"{path.name}.old")


def restored(path: Path) -> Path:
    """The path; what a `swap` that was killed had moved away from it is back, where several processes ask too.

    Where it cannot be moved back, in a folder that is only to be read, the place where it is.
    """
    old = replaced(path)
    if not path.exists() and old.exists():
        try:
            os.replace(old, path)
        except FileNotFoundError:  # another process was faster
            return path
        except OSError:
            return old
    return path
