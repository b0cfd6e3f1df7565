"""What does tracing a source cost beside its bare forward pass, in time and in memory?

    python benchmarks/tracing.py

LLMs with random weights and vocabularies of 49,152 and 262,144, one thread, documents of 60 to 250 tokens. The bare pass
is the LLM's own forward over the same documents, one at a time, so that it sees no padding, and makes all its logits;
tracing packs, cuts the head off, keeps the K most probable tokens and writes shards. Memory is what each takes above the
loaded LLM at its peak, the bare pass with as many tokens in one batch.
"""

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from knowfuse.traces.manifest import TraceKey
from knowfuse.traces.reading import trace_documents
from knowfuse.traces.store import TraceStore
from knowfuse.types import TokenizedDocument

VOCABULARIES = (49_152, 262_144)
BATCH_TOKENS = 2048
TOP_K = 10
LENGTHS = (60, 250)  # tokens of a document, from and to


def tiny(vocabulary: int) -> LlamaForCausalLM:
    """Eight layers of the width of SmolLM2-135M, random weights."""
    torch.manual_seed(0)
    shape = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 9}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, tie_word_embeddings=True, **shape)).eval()


def texts(vocabulary: int, tokens: int) -> dict[str, TokenizedDocument]:
    rng = np.random.default_rng(0)
    documents: dict[str, TokenizedDocument] = {}
    while tokens > 0:
        length = int(rng.integers(*LENGTHS))
        documents[f"{len(documents):024d}"] = TokenizedDocument(
            rng.integers(0, vocabulary, length), np.cumsum(rng.integers(1, 9, length))
        )
        tokens -= length
    return documents


def bare(llm: LlamaForCausalLM, documents: dict[str, TokenizedDocument]) -> None:
    with torch.inference_mode():
        for document in documents.values():
            llm(input_ids=torch.from_numpy(document.input_ids)[None], use_cache=False)


def at_once(llm: LlamaForCausalLM, tokens: int) -> None:
    """The LLM's own forward over a batch of so many tokens."""
    with torch.inference_mode():
        llm(input_ids=torch.ones(-(-tokens // LENGTHS[1]), LENGTHS[1], dtype=torch.int64), use_cache=False)


def traced(llm: LlamaForCausalLM, documents: dict[str, TokenizedDocument]) -> None:
    surface: Any = SimpleNamespace(
        name="tiny",
        usable=llm.config.vocab_size,
        token_strings=["x"] * llm.config.vocab_size,
        require_top_k=lambda top_k: None,
    )
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(max_workers=1) as writer:
        store = TraceStore(Path(folder), TraceKey("tiny", "llm", "tokenizer", TOP_K))
        written = [
            writer.submit(store.write, batch) for batch in trace_documents(llm, surface, documents, TOP_K, BATCH_TOKENS)
        ]
        for shard in written:
            shard.result()


def megabytes() -> float:
    """What this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def peak(work: Callable[[], None]) -> float:
    """The most that this process holds while it works, above what it held before, MB; looked at every 5 ms."""
    before, most, is_done = megabytes(), 0.0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not is_done.wait(0.005):
            most = max(most, megabytes() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    is_done.set()
    watcher.join()
    return most


def timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(vocabulary: int, tokens: int) -> dict[str, float]:
    """Both in turns, the best of three each; memory before, while no freed memory is held."""
    llm, documents = tiny(vocabulary), texts(vocabulary, tokens)
    total = sum(len(d.input_ids) for d in documents.values())
    traced(llm, texts(vocabulary, 100))  # whatever is compiled or loaded at first use
    memory = peak(lambda: traced(llm, documents))
    forward_memory = peak(lambda: at_once(llm, total))
    both = [(timed(lambda: traced(llm, documents)), timed(lambda: bare(llm, documents))) for _ in range(3)]
    tracing, forward = (total / min(seconds) for seconds in zip(*both, strict=True))
    return {
        "traced_tokens_per_s": round(tracing, 1),
        "forward_tokens_per_s": round(forward, 1),
        "traced_tokens_per_s_vs_forward": round(tracing / forward, 3),
        "peak_memory_mb": round(memory),
        "forward_peak_memory_mb": round(forward_memory),
        "peak_memory_vs_forward": round(memory / forward_memory, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2500, help="that are read")
    tokens = parser.parse_args().tokens
    torch.set_num_threads(1)
    figures = {f"{vocabulary}": measure(vocabulary, tokens) for vocabulary in VOCABULARIES}
    table = Table(title=f"tracing against the bare forward pass, K = {TOP_K}, one thread")
    for column in ("", *figures):
        table.add_column(column, justify="right" if column else "left")
    for row in figures[str(VOCABULARIES[0])]:
        table.add_row(row, *(f"{found[row]:,}" for found in figures.values()))
    Console(width=120).print(table)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
