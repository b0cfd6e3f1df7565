"""How are files kept by name, whole or not at all, on this machine or behind a URL?"""

import csv
import hashlib
import io
import json
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
import numpy as np
from filelock import FileLock
from fsspec.implementations.local import LocalFileSystem
from safetensors import SafetensorError
from yaml import YAMLError

from knowfuse.unfinished import beside, remove, remove_if_left, remove_left
from knowfuse.unwritable import naming

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


class Folder:
    """A local folder, or one under a URL that fsspec knows (s3://, gs://, ...); files behind it are copied to `copies` to be read.

    Raises ValueError for a URL whose driver is not installed, or that has no place for its copies.
    """

    def __init__(self, place: str | Path, copies: Path | None = None) -> None:
        self.place, self.copies = str(place), copies
        self.remote: Any = None
        if "://" not in self.place:
            self.path = Path(self.place).expanduser()
            return
        try:
            remote, path = fsspec.core.url_to_fs(self.place)
        except (ImportError, ValueError) as error:
            raise ValueError(f"cannot open {self.place!r} ({error}): install the driver that fsspec names") from error
        except OSError as error:
            raise ValueError(f"{self.place!r} cannot be reached ({error}): check its name, and the network") from error
        self.path = Path(path)
        if not isinstance(remote, LocalFileSystem):
            self.remote, self.root = remote, path.rstrip("/")  # of http the whole URL, whose // a Path would make one
            if copies is None:
                raise ValueError(f"{self.place!r} is not on this machine: say where copies of its files go")

    def __str__(self) -> str:
        return self.place

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """ValueError that names the place where its server does not answer."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            if self.remote is None:
                raise
            raise ValueError(f"{self.place!r} cannot be reached ({error}): check its name, and the network") from error

    def exists(self, name: str) -> bool:
        return self.remote.exists(self._key(name)) if self.remote else (self.path / name).exists()

    def names(self, pattern: str) -> list[str]:
        """What is there now by a name that fits, sorted; `*` and `?` are wild in the pattern alone, not in the place."""
        try:
            if self.remote:
                self.remote.invalidate_cache()
                with self._reached():
                    keys = self.remote.ls(self._key(""), detail=False)
                there = [key.rstrip("/").rsplit("/", 1)[-1] for key in keys]
            else:
                there = os.listdir(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in there if fnmatchcase(name, pattern))

    def read(self, name: str) -> bytes:
        return self.remote.cat_file(self._key(name)) if self.remote else (self.path / name).read_bytes()

    def read_all(self, names: Sequence[str]) -> list[bytes]:
        """The content of these files; behind a URL they are asked for at the same time, where its driver can."""
        if not self.remote:
            return [self.read(name) for name in names]
        found = self.remote.cat([self._key(name) for name in names]) if names else {}
        return [found[self._key(name)] for name in names]

    def write(self, name: str, data: bytes) -> None:
        """Put a file in its place once it is whole; OSError where it cannot be, and what was there stays."""
        with self.writing(name, data):
            pass

    @contextmanager
    def writing(self, name: str, data: bytes) -> Iterator[None]:
        """`write`; on this machine the file is held until the block ends, by which `remove_left` knows that its writer lives."""
        if self.remote:
            self.remote.makedirs(self._key(""), exist_ok=True)
            self.remote.pipe_file(self._key(name), data)
            yield
            return
        with written_through(self.path / name, lambda file: file.write(data)):
            yield

    def remove_left(self, partner: Mapping[str, str]) -> None:
        """Remove what killed writers left unfinished, and the files whose partner, a file that is written after each, is not there.

        Behind a URL nothing: there nobody can tell whether a writer lives.
        """
        if self.remote:
            return
        for name in self.names("*.part"):
            remove_if_left(self.path / name)
        for name, other in partner.items():
            remove_if_left(self.path / name, lambda other=other: not self.exists(other))

    def remove(self, name: str) -> None:
        if self.exists(name):
            self.remote.rm_file(self._key(name)) if self.remote else (self.path / name).unlink()

    def local(self, name: str, sha256: str) -> Path:
        """Where this machine has the file, which is copied the first time; a file of other content is another copy."""
        if not self.remote:
            return self.path / name
        assert self.copies is not None
        copy = self.copies / f"{sha256[:16]}-{name}"
        if not copy.exists():
            write_whole(copy, self.read(name))
        return copy

    def _key(self, name: str) -> str:
        return f"{self.root}/{name}".rstrip("/")


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
            path.parent.mkdir(parents=True, exist_ok=True)
            locked.enter_context(FileLock(path.with_name(f"{path.name}.lock")))
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
            path.parent.mkdir(parents=True, exist_ok=True)
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
        path.parent.mkdir(parents=True, exist_ok=True)
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
