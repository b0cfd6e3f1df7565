"""Where are traces kept? Files by name, whole or not at all, in a folder of this machine or behind a URL."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from knowfuse.files import write_whole, written_through
from knowfuse.unfinished import remove_if_left


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
        copy = self._copy(name, sha256)
        if not copy.exists():
            write_whole(copy, self.read(name))
        return copy

    def forget_copy(self, name: str, sha256: str) -> bool:
        """Remove this machine's copy, which is made anew when it is asked for next; False where the file itself is here."""
        if self.remote:
            self._copy(name, sha256).unlink(missing_ok=True)
        return bool(self.remote)

    def _copy(self, name: str, sha256: str) -> Path:
        assert self.copies is not None
        return self.copies / f"{sha256[:16]}-{name}"

    def _key(self, name: str) -> str:
        return f"{self.root}/{name}".rstrip("/")
