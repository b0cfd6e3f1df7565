"""Where does what the sources said live on disk?

One folder per source LLM and settings, here or behind a URL: safetensors shards of coded rows, an `index` of each with its
checksum and the ids of its documents, files of reasons why documents have no trace, and a `manifest.json` that carries
everything the traces depend on. Processes that share the work write files of their own each, and what any of them wrote is
there for all. Documents are named by their content, so more documents are added without reading the first again. Files are
only added, each moved to its place when whole: a shard counts once its index is there.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from knowfuse.files import sha256_of, undamaged
from knowfuse.ids import ID, IdIndex, hex_names, id_array
from knowfuse.traces import codec, drawn_codec, index
from knowfuse.traces.codec import Layout
from knowfuse.traces.index import Shard
from knowfuse.traces.manifest import MANIFEST, TraceKey, manifest_of, read_manifest
from knowfuse.traces.place import Folder
from knowfuse.types import SourceTrace
from knowfuse.unwritable import is_full, why

READ_AGAIN = "remove it and run python -m knowfuse.prepare with this run's settings, which reads its documents again"


@dataclass
class _OpenShard:
    """A memory-mapped shard: coded rows, and the row at which each document begins."""

    rows: Any  # a slice of the file, uint8 [N, R]
    offsets: np.ndarray
    layout: Layout


class TraceStore:
    """The traces of one source LLM; every `writer` is one process, any number read what all of them wrote.

    `folder` is local or a URL of fsspec, whose shards are copied to `copies` when first read. Raises ValueError where
    the folder's manifest was made with another key: it names both values.
    """

    def __init__(self, folder: str | Path, key: TraceKey, copies: Path | None = None, writer: str = "") -> None:
        self.folder, self.key, self._writer = Folder(folder, copies), key, f"-{writer}" if writer else ""
        self._open: dict[str, _OpenShard] = {}
        self._verified: set[str] = set()
        self._forget()
        self.refresh()

    @property
    def codec_name(self) -> str:
        """Of the layout of bits."""
        return self._codec.NAME

    @property
    def _codec(self) -> ModuleType:
        return drawn_codec if self.key.kept == "sampled" else codec

    def _forget(self) -> None:
        self._shards: dict[str, Shard] = {}  # by the name of its index
        self._reasons: dict[str, dict[str, str]] = {}  # file -> id -> why it has no trace
        self._has_manifest = False

    def refresh(self) -> None:
        """See what other processes have written since: only files that were not there before are read."""
        if not self._has_manifest:
            for name in sorted(
                self.folder.names("manifest*.json"), key=lambda name: name != MANIFEST
            ):  # that one first
                read_manifest(self.folder, name, self.key, self.codec_name)
                self._has_manifest = True
        names = self.folder.names("*")
        there = [name for name in names if name.endswith(index.SUFFIX)]
        self._shards = {name: self._shards[name] for name in there if name in self._shards}
        for name, data in self._new(there, self._shards):
            with undamaged(f"{self.folder}/{name}", READ_AGAIN):
                self._shards[name] = index.from_bytes(data)
        for name, data in self._new([name for name in names if name.startswith("aside")], self._reasons):
            with undamaged(f"{self.folder}/{name}", READ_AGAIN):
                self._reasons[name] = dict(json.loads(data))
        self._changed()

    def _new(self, names: Sequence[str], known: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
        """The files that are not known, with their content."""
        new = [name for name in names if name not in known]
        return zip(new, self.folder.read_all(new), strict=True)

    @property
    def source(self) -> str:
        return self.key.source

    @cached_property
    def set_aside(self) -> dict[str, str]:
        """Documents that this source cannot read, and why."""
        return {name: why for reasons in self._reasons.values() for name, why in reasons.items()}

    def missing(self, ids: np.ndarray) -> np.ndarray:
        """Which of these documents are neither traced nor set aside, bool [D]."""
        is_missing = self._places.places(ids) < 0
        if self.set_aside:
            is_missing[is_missing] = IdIndex(id_array(self.set_aside)).places(ids[is_missing]) < 0
        return is_missing

    def require(self, ids: np.ndarray) -> None:
        """ValueError if the source has not read all of these documents."""
        if (is_missing := self.missing(ids)).any():
            raise ValueError(
                f"source {self.source!r} has traces of {int((~is_missing).sum())} documents, the corpus has "
                f"{len(ids)} (missing: {hex_names(ids[is_missing][:1])[0]}, ...): run python -m knowfuse.prepare with this "
                "run's settings"
            )

    def write_manifest(self) -> None:
        """Say what the traces depend on, the same whoever writes it; OSError as `write`, before a source has read for days."""
        self._put(MANIFEST, manifest_of(self.key, self.codec_name))
        self._has_manifest = True

    def write(self, traces: dict[str, SourceTrace]) -> None:
        """Add one shard with these documents, and its index.

        Raises OSError where the folder cannot be written; what it held before stays valid.
        """
        if not traces:
            return
        layout = self._codec.layout_of(list(traces.values()))
        self.write_coded({name: self._codec.encode(trace, layout) for name, trace in traces.items()}, layout)

    def write_coded(self, rows: Mapping[str, np.ndarray], layout: Layout) -> None:
        """The same of documents whose rows have this layout already."""
        data = save(
            {
                "layout": np.array(astuple(layout), dtype=np.int64),
                "offsets": np.cumsum([0, *map(len, rows.values())], dtype=np.int64),
                "rows": np.concatenate(list(rows.values())),
            }
        )
        number = 1 + max((s.number for s in self._shards.values() if s.file == self._file(s.number)), default=-1)
        shard = Shard(
            self._file(number), sum(map(len, rows.values())), hashlib.sha256(data).hexdigest(), id_array(rows)
        )
        self._require_manifest()
        with self._putting(shard.file), self.folder.writing(shard.file, data):
            self._put(shard.index, index.to_bytes(shard))
        self._shards[shard.index] = shard
        self._changed()

    def remove_left(self) -> None:
        """Remove shards whose writer was killed before it wrote their index, which nobody reads, and what is half-written.

        What a living process writes stays, whichever of how many it is.
        """
        self.folder.remove_left({shard: index.name_of(shard) for shard in self.folder.names("shard*.safetensors")})

    def put_aside(self, reasons: dict[str, str]) -> None:
        """Record documents that this source cannot read."""
        if not reasons:
            return
        names = (f"aside{self._writer}-{number:05d}.json" for number in count(len(self._reasons)))
        name = next(name for name in names if name not in self._reasons)
        self._require_manifest()
        self._put(name, json.dumps(reasons, indent=0).encode())
        self._reasons[name] = dict(reasons)
        self._changed()

    def read(self, document_id: str) -> SourceTrace:
        """One document's trace, memory-mapped until its rows are decoded; raises what `coded` does."""
        return self._codec.decode(*self.coded(document_id))

    def coded(self, document_id: str) -> tuple[np.ndarray, Layout]:
        """One document's rows as they are on the disk, and their layout.

        Raises KeyError for a document without one, ValueError where its shard is gone, or not what was written; every
        process checks a shard once.
        """
        if (place := self._places.place(document_id)) < 0:
            raise KeyError(document_id)
        number = int(np.searchsorted(self._starts, place, side="right")) - 1
        shard, place = self._in_order[number], place - int(self._starts[number])
        if shard.file not in self._open:
            self._open[shard.file] = self._map(shard)
        opened = self._open[shard.file]
        return opened.rows[int(opened.offsets[place]) : int(opened.offsets[place + 1])], opened.layout

    def verify(self) -> None:
        """Check every shard now; ValueError names the first that is gone or not what was written."""
        for shard in self._in_order:
            self._require_intact(shard)

    def drop_broken(self) -> list[str]:
        """Forget the shards that are gone or not what was written, and say which: their documents are missing then."""
        broken = [shard for shard in self._in_order if self._problem(shard)]
        for shard in broken:
            self.folder.remove(shard.index)
            self.folder.remove(shard.file)
            del self._shards[shard.index]
            self._open.pop(shard.file, None)
            self._verified.discard(shard.sha256)
        self._changed()
        return [shard.file for shard in broken]

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes read the indices and map the shards themselves."""
        return {name: self.__dict__[name] for name in ("folder", "key", "_writer", "_verified")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open = {}
        self._forget()
        self.refresh()

    def _changed(self) -> None:
        for name in ("set_aside", "_in_order", "_starts", "_places"):
            self.__dict__.pop(name, None)

    def _file(self, number: int) -> str:
        return f"shard{self._writer}-{number:05d}.safetensors"

    @cached_property
    def _in_order(self) -> list[Shard]:
        return sorted(self._shards.values(), key=lambda shard: shard.file)

    @cached_property
    def _starts(self) -> np.ndarray:
        """How many documents are in the shards before each."""
        return np.cumsum([0, *(len(shard.ids) for shard in self._in_order[:-1])])

    @cached_property
    def _places(self) -> IdIndex:
        return IdIndex(np.concatenate([np.empty(0, ID), *(shard.ids for shard in self._in_order)]))

    def _map(self, shard: Shard) -> _OpenShard:
        self._require_intact(shard)
        file = safe_open(self.folder.local(shard.file, shard.sha256), framework="numpy")
        layout = Layout(*file.get_tensor("layout").tolist())
        return _OpenShard(file.get_slice("rows"), file.get_tensor("offsets"), layout)

    def _require_intact(self, shard: Shard) -> None:
        if problem := self._problem(shard):
            raise ValueError(
                f"trace shard {shard.file!r} of source {self.source!r} in {str(self.folder)!r} {problem}: run "
                f"python -m knowfuse.prepare tracing.verify=read_again with this run's settings, which reads its "
                f"{len(shard.ids)} documents again"
            )

    def _problem(self, shard: Shard) -> str | None:
        """What is wrong with a shard's file."""
        if shard.sha256 in self._verified:
            return None
        try:
            found = sha256_of(self.folder.local(shard.file, shard.sha256))
            if found != shard.sha256 and self.folder.forget_copy(shard.file, shard.sha256):
                found = sha256_of(self.folder.local(shard.file, shard.sha256))
        except FileNotFoundError:
            return "is listed but gone"
        if found != shard.sha256:
            return f"is not what was written (sha256 {found}, its index says {shard.sha256})"
        self._verified.add(shard.sha256)
        return None

    def _require_manifest(self) -> None:
        if not self._has_manifest:
            self.write_manifest()

    def _put(self, file: str, data: bytes) -> None:
        with self._putting(file):
            self.folder.write(file, data)

    @contextmanager
    def _putting(self, file: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno is None:  # said already, of another file
                raise
            remedy = "make room there, or set another folder" if is_full(error) else "set another folder"
            raise OSError(
                f"cannot write {file!r} of source {self.source!r} to {str(self.folder)!r} ({why(error)}): {remedy}{self._kept()}"
            ) from error

    def _kept(self) -> str:
        """What is not lost where a write failed, to end a sentence."""
        if not (shards := self._shards.values()):
            return ""
        documents = sum(len(shard.ids) for shard in shards)
        return f". The {documents} documents in {len(shards)} shards written before stay valid, and the same command goes on from them"
