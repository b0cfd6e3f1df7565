"""What are the bytes of a file, packed or not? `.gz` and `.zst` are unpacked as they are read."""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

PACKED = (".gz", ".zst")
BUFFER = 2**20  # bytes
DAMAGED = (OSError, EOFError, zlib.error)  # what reading a file that is cut off or damaged raises


def suffix_of(path: Path) -> str:
    """What kind of text the file holds, such as `.jsonl` for `a.jsonl.zst`; in small letters."""
    inner = path.with_suffix("") if path.suffix.lower() in PACKED else path
    return inner.suffix.lower()


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The unpacked bytes of a file, read a buffer at a time; one of DAMAGED where they cannot be had."""
    with path.open("rb") as file:
        packing = path.suffix.lower()
        if packing == ".gz":
            unpacked = gzip.GzipFile(fileobj=file)
        elif packing == ".zst":
            import pyarrow as pa

            unpacked = pa.CompressedInputStream(file, "zstd")
        else:
            yield file
            return
        with io.BufferedReader(cast(io.RawIOBase, unpacked), BUFFER) as buffered:
            yield buffered
