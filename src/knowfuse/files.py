"""How are files kept by name, whole or not at all, on this machine or behind a URL?"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
from filelock import FileLock
from fsspec.implementations.local import LocalFileSystem
from safetensors import SafetensorError

DAMAGED = (json.JSONDecodeError, UnicodeDecodeError, SafetensorError, EOFError, LookupError, TypeError, AttributeError)


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
        self.path = Path(path)
        if not isinstance(remote, LocalFileSystem):
            self.remote = remote
            if copies is None:
                raise ValueError(f"{self.place!r} is not on this machine: say where copies of its files go")

    def __str__(self) -> str:
        return self.place

    def exists(self, name: str) -> bool:
        return self.remote.exists(self._key(name)) if self.remote else (self.path / name).exists()

    def names(self, pattern: str) -> list[str]:
        """The files that are there now, sorted."""
        if not self.remote:
            return sorted(path.name for path in self.path.glob(pattern))
        self.remote.invalidate_cache()
        return sorted(key.rsplit("/", 1)[-1] for key in self.remote.glob(self._key(pattern)))

    def read(self, name: str) -> bytes:
        return self.remote.cat_file(self._key(name)) if self.remote else (self.path / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """Put a file in its place once it is whole; OSError where it cannot be, and what was there stays."""
        if self.remote:
            self.remote.makedirs(self._key(""), exist_ok=True)
            self.remote.pipe_file(self._key(name), data)
            return
        write_whole(self.path / name, data)

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
        return f"{self.path.as_posix()}/{name}".rstrip("/")


def sha256_of(path: Path) -> str:
    """The checksum of a file's content, at about 1 GB/s."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def undamaged(path: str | Path, remedy: str = "remove it and run the same command again") -> Iterator[None]:
    """ValueError that names the file and the remedy where what the block reads from it is cut off or of another shape."""
    try:
        yield
    except DAMAGED as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{str(path)!r} is cut off or damaged ({reason}): {remedy}") from error


def make_once(path: Path, make: Callable[[], None]) -> bool:
    """See to it that the path is there; whether `make` had to be called. Of several processes one makes, the others wait.

    Where it is there nothing is written, so a filled folder may be read-only.
    """
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        if path.exists():
            return False
        make()
    return True


def write_whole(path: Path, data: bytes) -> None:
    """Write beside the place and move there: a reader sees all of the file or what was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which is moved to its place once the block ends; where the block fails nothing stays."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        os.replace(unfinished, path)  # an empty folder gives way
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def swap(new: Path, path: Path) -> None:
    """Put the folder `new` in the place of `path`, whatever is there; `restored` finds the old one after a kill in between."""
    old = path.with_name(f"{path.name}.old")
    _remove(old)
    if path.exists():
        os.replace(path, old)
    os.replace(new, path)
    _remove(old)


def restored(path: Path) -> Path:
    """The path; what a `swap` that was killed had moved away from it is back, where several processes ask too."""
    old = path.with_name(f"{path.name}.old")
    if not path.exists() and old.exists():
        with suppress(FileNotFoundError):
            os.replace(old, path)
    return path


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
