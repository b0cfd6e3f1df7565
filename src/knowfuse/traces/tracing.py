"""How does a source come to have read all documents? Only those without a trace are read, and written behind the forward pass."""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from knowfuse.ids import ID_BYTES
from knowfuse.llms.local import LocalLLM
from knowfuse.locks import lock_file
from knowfuse.progress import counting
from knowfuse.ranks import Ranks, ranks
from knowfuse.screen import say
from knowfuse.settings import require_choices
from knowfuse.surface import Surface
from knowfuse.surface.set_aside import report_set_aside
from knowfuse.surface.tokens import TokenizedDocuments, tokenize_documents
from knowfuse.text.document import Document
from knowfuse.text.documents import Documents
from knowfuse.traces.asking import trace_served
from knowfuse.traces.manifest import TraceKey
from knowfuse.traces.reading import trace_documents
from knowfuse.traces.served import ServedLLM
from knowfuse.traces.store import TraceStore
from knowfuse.types import Kept, SourceTrace

LOOK_AGAIN_S = 1.0  # seconds between two looks at what other ranks have written


@dataclass(frozen=True)
class Tracing:
    """How the sources read the documents, and where what they said is kept; none of it changes what they say.

    `place` is a folder or a URL that fsspec knows; None: the cache. `verify` says when a shard's checksum is checked:
    when it is first read, all now, or all now and the documents of broken shards are read again.
    """

    place: str | None
    verify: Literal["when_read", "now", "read_again"]
    batch_tokens: int  # of one forward pass, padding included
    shard_tokens: int  # of one file; a kill loses at most two of them
    compile: bool  # torch.compile the sources
    server_requests: int  # that a served source is sent at a time

    def __post_init__(self) -> None:
        require_choices(type(self), vars(self), "tracing")
        if self.server_requests < 1:
            raise ValueError(f"tracing.server_requests is {self.server_requests}: it must be at least 1")

    def store(self, key: TraceKey, cache: Path, writer: str) -> TraceStore:
        """The traces of this key."""
        place = self.place or str(cache / "traces")
        if self.place is not None:  # where others may write at the same time, whom no lock of this cache holds off
            writer = f"{writer and writer + '-'}{secrets.token_hex(4)}"
        return TraceStore(f"{place.rstrip('/')}/{key.folder_name}", key, cache / "copies" / key.folder_name, writer)


def read_documents(
    llm: LocalLLM | ServedLLM,
    surface: Surface,
    documents: Sequence[Document],
    top_k: int,
    cache: Path,
    tracing: Tracing,
    kept: Kept = "topk",
) -> TraceStore:
    """The source's traces of all these documents; only documents without one are read.

    Under torchrun or SLURM every rank reads its share and waits for the others'. Raises ValueError where the source can
    read none of the documents, cannot name `top_k` tokens, or a broken shard is found, OSError where nothing more can be
    written, ConnectionError where its server is gone: what was written before stays valid.
    """
    surface.require_top_k(top_k)
    key, mine = TraceKey(llm.name, llm.fingerprint, surface.fingerprint, top_k, kept=kept), ranks()
    writer = f"{mine.rank:04d}-of-{mine.world:04d}" if mine.world > 1 else ""
    if writer and tracing.verify == "read_again":
        raise ValueError(
            "tracing.verify=read_again drops files that other ranks may be reading: run python -m knowfuse.prepare with "
            "it in one process first, or with tracing.verify=now"
        )
    lock = cache / "traces" / f"{key.folder_name}{writer and '-'}{writer}.lock"
    store, viewed = tracing.store(key, cache, writer), Documents.of(documents)
    if tracing.verify == "now":
        store.verify()
    is_written = tracing.verify == "read_again" or bool(store.missing(viewed.ids).any())
    with lock_file(lock) if is_written else nullcontext():  # a filled cache may be read-only
        store.refresh()
        if tracing.verify == "read_again":
            for file in store.drop_broken():
                say(f"traces {llm.name}: {file} is broken, its documents are read again")
        share = _share(llm, viewed, mine) if store.missing(viewed.ids).any() else viewed[:0]
        tokens: TokenizedDocuments | None = None
        if (is_missing := store.missing(share.ids)).any():
            store.write_manifest()
            tokens = tokenize_documents(surface, share, llm.context_length(), cache / "tokens").among(is_missing)
            surface.require_rows(tokens.largest_id)
            store.put_aside(tokens.set_aside)
        else:
            say(f"traces {llm.name}: read before ({key.folder_name})")
        if mine.world == 1:
            report_set_aside("source", surface, store.set_aside, viewed)
        if tokens:
            store.remove_left()
            _trace(llm, surface, store, tokens, cache, tracing)
    if mine.world > 1:
        _wait_for_all(store, viewed.ids)
        report_set_aside("source", surface, store.set_aside, viewed)
    return store


def _share(llm: LocalLLM | ServedLLM, documents: Documents, mine: Ranks) -> Documents:
    """Those that this process reads: all or none of them where the LLM takes all devices of a machine."""
    if llm.spec.device_map is not None:
        return documents if mine.rank == 0 else documents[:0]
    return documents.take(share_of(documents, mine))


def share_of(documents: Documents, mine: Ranks) -> np.ndarray:
    """The places of the documents that this process reads: about as many bytes for each, whoever has read some before."""
    by_size = np.lexsort((documents.ids.view(f"S{ID_BYTES}"), -documents.num_bytes))
    turns = (mine.rank, 2 * mine.world - 1 - mine.rank)  # there and back: 0 1 2 2 1 0 0 1 ...
    return np.sort(by_size[np.isin(np.arange(len(by_size)) % (2 * mine.world), turns)])


def _wait_for_all(store: TraceStore, ids: np.ndarray) -> None:
    """Until the other ranks have read their shares; the launcher ends this one where one of them fails."""
    store.refresh()
    if is_missing := int(store.missing(ids).sum()):
        say(f"traces {store.source}: waiting for other ranks to read {is_missing} documents")
    while store.missing(ids).any():
        time.sleep(LOOK_AGAIN_S)
        store.refresh()


@contextmanager
def _reader(
    llm: LocalLLM | ServedLLM,
    surface: Surface,
    tokens: TokenizedDocuments,
    key: TraceKey,
    cache: Path,
    tracing: Tracing,
) -> Iterator[Callable[[Callable[[int], None]], Iterator[dict[str, SourceTrace]]]]:
    """Says what the source says, some documents at a time, by a model that is loaded here, now, or by a server's.

    It is called with what is told how many tokens were read. While bars are drawn no model is loaded: transformers draws one
    of its own, and in a notebook the two would call one another without end.
    """
    if isinstance(llm, ServedLLM):
        yield partial(trace_served, llm, surface, tokens, key.top_k)
        return
    with llm.to_read(cache) as model:
        if tracing.compile:
            model.base_model.compile(dynamic=True)
        yield partial(trace_documents, model, surface, tokens, key.top_k, tracing.batch_tokens, kept=key.kept)


def _trace(
    llm: LocalLLM | ServedLLM,
    surface: Surface,
    store: TraceStore,
    tokens: TokenizedDocuments,
    cache: Path,
    tracing: Tracing,
) -> None:
    """Read the documents; each shard is written by another thread while the next is read.

    Where the source fails (a server that is gone, logits that are not finite), what it said before is written all the same.
    """
    shard: dict[str, SourceTrace] = {}
    waiting = 0
    written: Future[None] = Future()
    written.set_result(None)
    reader = _reader(llm, surface, tokens, store.key, cache, tracing)
    bar = counting(f"traces {llm.name}", tokens.num_tokens)
    with ThreadPoolExecutor(max_workers=1) as writer, reader as read, bar as advance:
        try:
            for batch in read(advance):
                shard |= batch
                waiting += sum(len(t.ends) for t in batch.values())
                if waiting >= tracing.shard_tokens:
                    written.result()  # one shard at most waits; the error of the last surfaces here
                    written = writer.submit(store.write, shard)
                    shard, waiting = {}, 0
        finally:
            written.result()
            store.write(shard)
