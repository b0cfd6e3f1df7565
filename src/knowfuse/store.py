"""Where does what the sources said live on disk?

One folder per source LLM and settings: safetensors shards and a `manifest.json` that carries everything the traces
depend on. Documents are named by their content, so more documents are added without reading the first again. Every
file is written beside its place and moved there when whole: what is listed in the manifest is always readable.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from knowfuse.types import SourceTrace, TopK

FORMAT_VERSION = 1


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
class _Manifest:
    key: dict[str, Any]
    shards: list[dict[str, Any]] = field(default_factory=list)  # {"file", "documents", "tokens"}
    set_aside: dict[str, str] = field(default_factory=dict)  # document id -> why this source has no trace of it


class TraceStore:
    """The traces of one source LLM; one process writes, any number read.

    Raises ValueError where the folder's manifest was made with another key: it names both values.
    """

    def __init__(self, folder: Path, key: TraceKey) -> None:
        self.folder, self.key = folder, key
        self._files: dict[tuple[int, str], Any] = {}
        self._manifest = self._read_manifest()

    @property
    def source(self) -> str:
        return self.key.source

    @property
    def set_aside(self) -> dict[str, str]:
        """Documents that this source cannot read, and why."""
        return self._manifest.set_aside

    def missing(self, document_ids: Iterable[str]) -> set[str]:
        """The documents that are neither traced nor set aside."""
        return set(document_ids) - self._places.keys() - self._manifest.set_aside.keys()

    def require(self, document_ids: Iterable[str]) -> None:
        """ValueError if the source has not read all of these documents."""
        wanted = set(document_ids)
        if missing := self.missing(wanted):
            raise ValueError(
                f"source {self.source!r} has traces of {len(wanted) - len(missing)} documents, the corpus has "
                f"{len(wanted)} (missing: {sorted(missing)[0]}, ...): run python -m knowfuse.prepare with this run's settings"
            )

    def write(self, traces: dict[str, SourceTrace]) -> None:
        """Append one shard with these documents and list it in the manifest."""
        if not traces:
            return
        file = f"shard-{len(self._manifest.shards):05d}.safetensors"
        items = list(traces.values())
        arrays = {
            "offsets": np.concatenate([[0], np.cumsum([len(t.ends) for t in items])]).astype(np.int64),
            "input_ids": np.concatenate([t.input_ids for t in items]).astype(np.int32),
            "ends": np.concatenate([t.ends for t in items]).astype(np.int32),
            "topk_ids": np.concatenate([t.topk.ids for t in items]).astype(np.int32),
            "topk_log_probs": np.concatenate([t.topk.log_probs for t in items]).astype(np.float32),
            "nll": np.concatenate([t.nll for t in items]).astype(np.float32),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.folder / f"{file}.part"
        save_file(arrays, unfinished)
        _move_into_place(unfinished, self.folder / file)
        self._manifest.shards.append({"file": file, "documents": list(traces), "tokens": int(arrays["offsets"][-1])})
        self._write_manifest()

    def put_aside(self, reasons: dict[str, str]) -> None:
        """Record documents that this source cannot read."""
        if reasons:
            self._manifest.set_aside.update(reasons)
            self._write_manifest()

    def read(self, document_id: str) -> SourceTrace:
        """One document's trace, memory-mapped until its rows are copied."""
        shard, place = self._places[document_id]
        offsets = self._array(shard, "offsets")[place : place + 2]
        rows = slice(int(offsets[0]), int(offsets[1]))
        ids, log_probs = self._array(shard, "topk_ids")[rows], self._array(shard, "topk_log_probs")[rows]
        return SourceTrace(
            input_ids=self._array(shard, "input_ids")[rows].astype(np.int64),
            ends=self._array(shard, "ends")[rows].astype(np.int64),
            topk=TopK(ids.astype(np.int64), log_probs),
            nll=self._array(shard, "nll")[rows],
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}}  # worker processes map the files themselves

    @cached_property
    def _places(self) -> dict[str, tuple[int, int]]:
        return {d: (n, i) for n, s in enumerate(self._manifest.shards) for i, d in enumerate(s["documents"])}

    def _array(self, shard: int, name: str) -> Any:
        if (shard, name) not in self._files:
            path = self.folder / self._manifest.shards[shard]["file"]
            if not path.exists():
                raise ValueError(
                    f"trace shard {str(path)!r} of source {self.source!r} is listed but gone: remove {str(self.folder)!r} "
                    "and run python -m knowfuse.prepare with this run's settings"
                )
            self._files[shard, name] = safe_open(path, framework="numpy").get_slice(name)
        return self._files[shard, name]

    def _read_manifest(self) -> _Manifest:
        path = self.folder / "manifest.json"
        if not path.exists():
            return _Manifest(key=asdict(self.key))
        manifest = _Manifest(**json.loads(path.read_text(encoding="utf-8")))
        wanted = asdict(self.key)
        for name in wanted:
            if manifest.key.get(name) != wanted[name]:
                raise ValueError(
                    f"the traces in {str(self.folder)!r} were made with {name}={manifest.key.get(name)!r}, this run wants "
                    f"{wanted[name]!r}: move that folder away and run python -m knowfuse.prepare with this run's settings"
                )
        return manifest

    def _write_manifest(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.folder / "manifest.json.part"
        unfinished.write_text(json.dumps(asdict(self._manifest), indent=1), encoding="utf-8")
        _move_into_place(unfinished, self.folder / "manifest.json")
        self.__dict__.pop("_places", None)


@dataclass(frozen=True)
class MapStore:
    """Maps between two tokenizers, made once per machine: one safetensors file a name."""

    folder: Path

    def __call__(self, name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """The arrays of this name; where they are not there yet, `make` is called and they are kept."""
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(f".{os.getpid()}.part")
            save_file({key: np.ascontiguousarray(array) for key, array in make().items()}, unfinished)
            _move_into_place(unfinished, path)
        return load_file(path)


def _move_into_place(unfinished: Path, place: Path) -> None:
    with unfinished.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(unfinished, place)
