"""How many bytes does a traced token take, what does that lose, and how fast is it written and read?

    python benchmarks/store.py
    python benchmarks/store.py --source SOURCE_DIR --text FILE...

The traces are of an LLM's own words: the quickstart's `mpt` on the documents of its three domains, or the LLM of a folder
(one with a single GGUF file is read as such) on the given texts. They are written again and again as new documents until
there are enough to time, and everything is counted: shards, their headers, the manifest.
"""

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from fidelity import folder_llm, quickstart
from rich.console import Console
from rich.table import Table

from knowfuse.llms.local import LocalLLM
from knowfuse.screen import quiet_libraries
from knowfuse.surface.tokens import tokenize_documents
from knowfuse.text.document import Document, cut
from knowfuse.traces.manifest import TraceKey
from knowfuse.traces.reading import trace_documents
from knowfuse.traces.store import TraceStore
from knowfuse.types import SourceTrace, TopK

PUBLISHED_BYTES = 253  # per token and source at K = 10, as our issue states it; not measured here
DOCUMENT_BYTES = 6000  # a text is cut into documents of at most so many
TOP_K = (10, 64)
SHARD_TOKENS = 1_000_000
SHARDS = 2


def traced(llm: LocalLLM, texts: Sequence[str], most: int) -> list[SourceTrace]:
    """What the LLM says about the first documents of these texts, about `most` tokens; K is the largest of TOP_K."""
    surface = llm.surface()
    documents = {d.id: d for d in (Document(piece, "text", "test", is_complete=False) for piece in texts)}
    tokens = tokenize_documents(surface, list(documents.values()), llm.context_length())
    chosen, total = {}, 0
    for name, document in tokens.items():
        if total >= most:
            break
        chosen[name], total = document, total + len(document.input_ids)
    batches = trace_documents(llm.load(), surface, chosen, max(TOP_K), batch_tokens=2048)
    return [trace for batch in batches for trace in batch.values()]


def first(trace: SourceTrace, top_k: int) -> SourceTrace:
    """The same with fewer tokens kept."""
    return replace(trace, topk=TopK(trace.topk.ids[:, :top_k], trace.topk.log_probs[:, :top_k]))


def divergences(said: SourceTrace, read: SourceTrace) -> np.ndarray:
    """KL(said || read) of each row over the kept tokens and the tail, nats; float64."""
    log_p, log_q = (t.topk.log_probs.astype(np.float64) for t in (said, read))
    p_tail, q_tail = (np.maximum(1.0 - np.exp(log).sum(-1), 1e-9) for log in (log_p, log_q))
    kept = log_p > -np.inf
    gaps = np.where(kept, np.where(kept, log_p, 0.0) - np.where(kept, log_q, 0.0), 0.0)
    return (np.exp(log_p) * gaps).sum(-1) + p_tail * np.log(p_tail / q_tail)


def measure(traces: Sequence[SourceTrace], top_k: int, folder: Path) -> dict[str, float]:
    """Write these traces again and again as new documents, read all of them, and compare."""
    traces = [first(t, top_k) for t in traces]
    tokens = sum(len(t.ends) for t in traces)
    store = TraceStore(folder, TraceKey("source", "llm", "tokenizer", top_k))
    names: list[str] = []
    written, writing = 0, 0.0
    while written < SHARDS * SHARD_TOKENS:
        copies = max(1, round(SHARD_TOKENS / tokens))
        shard = {name(written, n, i): t for n in range(copies) for i, t in enumerate(traces)}
        names += shard
        start = time.perf_counter()
        store.write(shard)
        writing += time.perf_counter() - start
        written += copies * tokens
    start = time.perf_counter()
    store.verify()
    verifying = time.perf_counter() - start
    reading = min(timed_read(store, names) for _ in range(3))
    pairs = [(t, store.read(names[i])) for i, t in enumerate(traces)]
    nats = np.concatenate([divergences(t, read) for t, read in pairs])
    return {
        "bytes_per_token_per_source": sum(p.stat().st_size for p in folder.iterdir()) / written,
        "kl_nats": float(nats.mean()),
        "kl_nats_worst_row": float(nats.max()),
        "nll_error_nats": max(float(np.abs(t.nll - read.nll).max()) for t, read in pairs),
        "read_tokens_per_s": written / reading,
        "write_tokens_per_s": written / writing,
        "verify_tokens_per_s": written / verifying,
        "tokens_per_document": tokens / len(traces),
    }


def name(*parts: int) -> str:
    """A document's id, as long as a real one."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def timed_read(store: TraceStore, names: Sequence[str]) -> float:
    start = time.perf_counter()
    for document in names:
        store.read(document)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", help="folder of the LLM")
    parser.add_argument("--text", nargs="+", help="UTF-8 files")
    parser.add_argument("--tokens", type=int, default=20_000, help="that the LLM reads")
    arguments = parser.parse_args()
    if bool(arguments.source) != bool(arguments.text):
        parser.error("--source and --text belong together: give both, or none for the quickstart's")
    quiet_libraries()

    if arguments.source:
        llm = folder_llm(arguments.source)
        texts = [p for f in arguments.text for p in cut(Path(f).read_text(encoding="utf-8"), DOCUMENT_BYTES)]
    else:
        llm, _, by_domain = quickstart()
        texts = [text for domain in by_domain.values() for text in domain]
    traces = traced(llm, texts, arguments.tokens)
    figures = {}
    for top_k in TOP_K:
        with tempfile.TemporaryDirectory() as folder:
            figures[f"K={top_k}"] = measure(traces, top_k, Path(folder))

    table = Table(title=f"traces of {llm.name}; the published form takes {PUBLISHED_BYTES} bytes at K = 10")
    for column in ("", *figures):
        table.add_column(column, justify="right" if column else "left")
    for row in figures["K=10"]:
        table.add_row(row, *(f"{by_k[row]:,.1f}" if by_k[row] > 1 else f"{by_k[row]:.2e}" for by_k in figures.values()))
    Console(width=120).print(table)
    ratio = PUBLISHED_BYTES / figures["K=10"]["bytes_per_token_per_source"]
    print(json.dumps({"source": llm.name, "published_over_ours": round(ratio, 2), **figures}))


if __name__ == "__main__":
    main()
