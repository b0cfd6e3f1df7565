"""Where does what the sources said live on disk?

One folder per source LLM and settings, here or behind a URL: safetensors shards of coded rows and a `manifest.json`
that carries everything the traces depend on, and each shard's checksum. Processes that share the work write shards and a
manifest of their own each, and what any manifest lists is there for all. Documents are named by their content, so more
documents are added without reading the first again. Every file is moved to its place when whole: what is listed in the
manifest is always readable.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, astuple, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save

from knowfuse.files import Folder, make_once, sha256_of, undamaged, write_whole
from knowfuse.traces import codec
from knowfuse.traces.codec import Layout, decode, encode, layout_of
from knowfuse.types import SourceTrace

FORMAT_VERSION = 2


@dataclass(frozen=True)
class TraceKey:
    """Everything the traces of a source depend on, but the documents, which are named by their content."""

    source: str
    llm: str  # fingerprint of weights, configuration, dtype, quantisation
    tokenizer: str  # fingerprint of the surface
    top_k: int
    format_version: int = FORMAT_VERSION

    @property
    def folder_name(self) -> str:
        return f"{self.source}-{hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:12]}"


@dataclass
class _Shard:
    file: str
    documents: list[str]
    tokens: int
    sha256: str

    @property
    def number(self) -> int:
        return int(Path(self.file).stem.rsplit("-", 1)[-1])


@dataclass
class _Manifest:
    key: dict[str, Any]
    codec: str = codec.NAME
    shards: list[_Shard] = field(default_factory=list)
    set_aside: dict[str, str] = field(default_factory=dict)  # document id -> why this source has no trace of it


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
        self.refresh()

    def refresh(self) -> None:
        """See what other processes have written since."""
        self._manifests = {name: self._read_manifest(name) for name in self.folder.names("manifest*.json")}
        self._manifests.setdefault(self._own, _Manifest(key=asdict(self.key)))
        self.__dict__.pop("_places", None)

    @property
    def source(self) -> str:
        return self.key.source

    @property
    def set_aside(self) -> dict[str, str]:
        """Documents that this source cannot read, and why."""
        return {d: why for manifest in self._manifests.values() for d, why in manifest.set_aside.items()}

    def missing(self, document_ids: Iterable[str]) -> set[str]:
        """The documents that are neither traced nor set aside."""
        return set(document_ids) - self._places.keys() - self.set_aside.keys()

    def require(self, document_ids: Iterable[str]) -> None:
        """ValueError if the source has not read all of these documents."""
        wanted = set(document_ids)
        if missing := self.missing(wanted):
            raise ValueError(
                f"source {self.source!r} has traces of {len(wanted) - len(missing)} documents, the corpus has "
                f"{len(wanted)} (missing: {sorted(missing)[0]}, ...): run python -m knowfuse.prepare with this run's settings"
            )

    def write(self, traces: dict[str, SourceTrace]) -> None:
        """Append one shard with these documents and list it in the manifest.

        Raises OSError where the folder cannot be written; what it held before stays valid.
        """
        if not traces:
            return
        layout = layout_of(list(traces.values()))
        rows = [encode(trace, layout) for trace in traces.values()]
        data = save(
            {
                "layout": np.array(astuple(layout), dtype=np.int64),
                "offsets": np.cumsum([0, *map(len, rows)], dtype=np.int64),
                "rows": np.concatenate(rows),
            }
        )
        own = self._manifests[self._own].shards
        file = f"shard{self._writer}-{1 + max((s.number for s in own), default=-1):05d}.safetensors"
        shard = _Shard(file, list(traces), sum(map(len, rows)), hashlib.sha256(data).hexdigest())
        self._put(file, data)
        self._write_manifest(self._own, shards=[*own, shard])

    def put_aside(self, reasons: dict[str, str]) -> None:
        """Record documents that this source cannot read."""
        if reasons:
            self._write_manifest(self._own, set_aside=self._manifests[self._own].set_aside | reasons)

    def read(self, document_id: str) -> SourceTrace:
        """One document's trace, memory-mapped until its rows are decoded.

        Raises ValueError where its shard is gone, or not what was written; every process checks a shard once.
        """
        shard, place = self._places[document_id]
        if shard.file not in self._open:
            self._open[shard.file] = self._map(shard)
        opened = self._open[shard.file]
        return decode(opened.rows[int(opened.offsets[place]) : int(opened.offsets[place + 1])], opened.layout)

    def verify(self) -> None:
        """Check every shard now; ValueError names the first that is gone or not what was written."""
        for shard in self._shards:
            self._require_intact(shard)

    def drop_broken(self) -> list[str]:
        """Forget the shards that are gone or not what was written, and say which: their documents are missing then."""
        broken = [shard for shard in self._shards if self._problem(shard)]
        for name, manifest in list(self._manifests.items()):
            kept = [s for s in manifest.shards if s not in broken]
            if kept != manifest.shards:
                self._write_manifest(name, shards=kept)
        for shard in broken:
            self.folder.remove(shard.file)
            self._open.pop(shard.file, None)
            self._verified.discard(shard.sha256)
        return [shard.file for shard in broken]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # worker processes map the files themselves

    @property
    def _own(self) -> str:
        return f"manifest{self._writer}.json"

    @property
    def _shards(self) -> list[_Shard]:
        return [shard for manifest in self._manifests.values() for shard in manifest.shards]

    @cached_property
    def _places(self) -> dict[str, tuple[_Shard, int]]:
        return {d: (shard, i) for shard in self._shards for i, d in enumerate(shard.documents)}

    def _map(self, shard: _Shard) -> _OpenShard:
        self._require_intact(shard)
        file = safe_open(self.folder.local(shard.file, shard.sha256), framework="numpy")
        layout = Layout(*file.get_tensor("layout").tolist())
        return _OpenShard(file.get_slice("rows"), file.get_tensor("offsets"), layout)

    def _require_intact(self, shard: _Shard) -> None:
        if problem := self._problem(shard):
            raise ValueError(
                f"trace shard {shard.file!r} of source {self.source!r} in {str(self.folder)!r} {problem}: run "
                f"python -m knowfuse.prepare tracing.verify=read_again with this run's settings, which reads its "
                f"{len(shard.documents)} documents again"
            )

    def _problem(self, shard: _Shard) -> str | None:
        """What is wrong with a shard's file."""
        if shard.sha256 in self._verified:
            return None
        try:
            found = sha256_of(self.folder.local(shard.file, shard.sha256))
        except FileNotFoundError:
            return "is listed but gone"
        if found != shard.sha256:
            return f"is not what was written (sha256 {found}, the manifest says {shard.sha256})"
        self._verified.add(shard.sha256)
        return None

    def _read_manifest(self, name: str) -> _Manifest:
        again = "remove it and run python -m knowfuse.prepare with this run's settings, which reads its documents again"
        with undamaged(f"{self.folder}/{name}", again):
            found = json.loads(self.folder.read(name))
            self._require_made_as_asked({**found["key"], "codec": found.get("codec")})
            shards = [_Shard(**shard) for shard in found["shards"]]
            return _Manifest(found["key"], found["codec"], shards, dict(found["set_aside"]))

    def _require_made_as_asked(self, made: dict[str, Any]) -> None:
        asked = {**asdict(self.key), "codec": codec.NAME}
        for part in asked:
            if made.get(part) != asked[part]:
                raise ValueError(
                    f"the traces in {str(self.folder)!r} were made with {part}={made.get(part)!r}, this run wants "
                    f"{asked[part]!r}: move that folder away and run python -m knowfuse.prepare with this run's settings"
                )

    def _write_manifest(self, name: str, **changes: Any) -> None:
        manifest = replace(self._manifests[name], **changes)
        self._put(name, json.dumps(asdict(manifest), indent=1).encode())
        self._manifests[name] = manifest
        self.__dict__.pop("_places", None)

    def _put(self, file: str, data: bytes) -> None:
        try:
            self.folder.write(file, data)
        except OSError as error:
            shards = self._shards
            raise OSError(
                f"cannot write {file!r} of source {self.source!r} to {str(self.folder)!r} ({error}): the "
                f"{sum(len(s.documents) for s in shards)} documents in {len(shards)} shards written before stay valid. "
                "Make room there or set another folder, and run the same command again: it goes on from them"
            ) from error


@dataclass(frozen=True)
class MapStore:
    """Maps between two tokenizers, made once per machine: one safetensors file a name."""

    folder: Path

    def __call__(self, name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The arrays of this name; where they are not there yet, `make` is called and they are kept."""
        path = self.folder / f"{name}.safetensors"

        def write() -> None:
            write_whole(path, save({key: np.ascontiguousarray(array) for key, array in make().items()}))

        make_once(path, write)
        with undamaged(path):
            return load_file(path)
