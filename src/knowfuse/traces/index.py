"""Which documents are in a shard of traces? One small file a shard, written after it and never again.

A line of JSON, then the ids of the shard's documents in their order, 12 bytes each. The line has the shard's name and its
checksum, and the checksum of the ids. Nothing that is there is rewritten: what an index costs depends on its shard alone,
here as behind a URL, where files cannot grow.
"""

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np

from knowfuse.ids import ID, ID_BYTES

SUFFIX = ".index"


@dataclass
class Shard:
    """A file of traces, its checksum, and the ids of its documents in their order, [D]."""

    file: str
    tokens: int
    sha256: str
    ids: np.ndarray

    @property
    def index(self) -> str:
        """The name of its index file."""
        return name_of(self.file)

    @property
    def number(self) -> int:
        return int(self.file.removesuffix(".safetensors").rsplit("-", 1)[-1])


def name_of(shard: str) -> str:
    """The name of a shard's index file."""
    return f"{shard.removesuffix('.safetensors')}{SUFFIX}"


@dataclass
class _Line:
    file: str
    documents: int
    tokens: int
    sha256: str  # of the shard
    ids: str  # their sha256


def to_bytes(shard: Shard) -> bytes:
    """The index of a shard as its file holds it."""
    ids = shard.ids.tobytes()
    line = _Line(shard.file, len(shard.ids), shard.tokens, shard.sha256, hashlib.sha256(ids).hexdigest())
    return json.dumps(asdict(line)).encode() + b"\n" + ids


def from_bytes(data: bytes) -> Shard:
    """The shard that an index file speaks of. EOFError where the file is cut off or its ids are not what was written."""
    head, _, ids = data.partition(b"\n")
    line = _Line(**json.loads(head))
    if "/" in line.file or not line.file.endswith(".safetensors"):
        raise EOFError(f"it names {line.file!r}, which is no shard of its folder")
    if len(ids) != line.documents * ID_BYTES:
        raise EOFError(f"it has {len(ids)} bytes of ids, {line.documents} documents take {line.documents * ID_BYTES}")
    if (found := hashlib.sha256(ids).hexdigest()) != line.ids:
        raise EOFError(f"its ids have sha256 {found}, {line.ids} was written")
    return Shard(line.file, line.tokens, line.sha256, np.frombuffer(ids, ID))
