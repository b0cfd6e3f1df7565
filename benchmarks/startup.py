"""How long does a process take to its first batch, and what does it hold, as the text grows?

    python benchmarks/startup.py
    python benchmarks/startup.py --documents 100000

Synthetic text, documents of 1 kB, a tenth of them and all of them. Corpus and tokens are made as a run makes them; the traces
are made up and written through the store. Then fresh processes open all of it: corpus, LLMs, the check that nothing is
missing, tokens, packed blocks, and the first batch aligned by `byte_exact` from the data module's loader. Seconds are from the
start of the process, imports among them; memory is the largest that a process held beyond its imports, mapped files counted.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from knowfuse.alignment.byte_exact import byte_exact
from knowfuse.llms.local import localize
from knowfuse.llms.recipes import make_model, make_tokenizer
from knowfuse.runs.prepared import prepare
from knowfuse.screen import quiet_libraries
from knowfuse.surface.tokens import TokenizedDocuments, tokenize_documents
from knowfuse.text.corpus import Corpus, Texts, build_corpus
from knowfuse.text.document import RawDocument, Split
from knowfuse.traces.manifest import TraceKey
from knowfuse.traces.tracing import Tracing
from knowfuse.training.blocks import SourceReader
from knowfuse.training.data import FusionDataModule
from knowfuse.types import LLMSpec, Recipe, SourceTrace, TopK

SHARES: dict[Split, float] = {"validation": 0.02, "test": 0.02, "fusion": 0.96}
DOCUMENT_BYTES, TOP_K = 1000, 10
VOCABULARY = 4096
BLOCK_TOKENS, BATCH_BLOCKS = 2048, 8
SHARD_TOKENS = 1_000_000
TRACING = Tracing(None, "when_read", batch_tokens=8192, shard_tokens=SHARD_TOKENS, compile=False, server_requests=1)


class Synthetic(Texts):
    """So many different texts of about 1 kB: a number, then one of 997 paragraphs of made-up words."""

    def __init__(self, documents: int) -> None:
        super().__init__()
        self.documents = documents
        rng = np.random.default_rng(0)
        letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
        words = ["".join(rng.choice(letters, size)) for size in rng.integers(2, 9, 2000)]
        self.paragraphs = [" ".join(rng.choice(words, DOCUMENT_BYTES // 4))[: DOCUMENT_BYTES - 12] for _ in range(997)]

    @property
    def key(self) -> str:
        return f"synthetic {self.documents}"

    def __iter__(self) -> Iterator[RawDocument]:
        for number in range(self.documents):
            yield RawDocument(f"{number} {self.paragraphs[number % len(self.paragraphs)]}", "synthetic")


def corpus_of(documents: int, cache: Path) -> Corpus:
    return build_corpus("synthetic", Synthetic(documents), SHARES, 4096, cache)


def spec(cache: Path) -> LLMSpec:
    return LLMSpec(path=str(cache / "llm"))


def make_llm(cache: Path) -> None:
    """A small LLM that is source and target, with a tokenizer of these words."""
    recipe = Recipe("llama", "byte_level_bpe", "synthetic", VOCABULARY, 32, 1, 2, 4096, 1, 1, 1e-3)
    tokenizer = make_tokenizer(recipe, Synthetic(1).paragraphs)
    tokenizer.save_pretrained(cache / "llm")
    make_model(recipe, len(tokenizer)).save_pretrained(cache / "llm")


def made_up(tokens: TokenizedDocuments, places: Sequence[int], others: np.ndarray) -> dict[str, SourceTrace]:
    """Traces of a source that gives every true next token a probability of 1 in e, and nine tokens that never come the rest."""
    traces = {}
    for place in places:
        document = tokens.at(place)
        length = len(document.input_ids)
        ids = np.tile(others, (length, 1))
        ids[:-1, 0] = document.input_ids[1:]
        log_probs = np.full((length, TOP_K), -4.0, dtype=np.float32)
        log_probs[:, 0] = -1.0
        nll = np.ones(length, dtype=np.float32)
        nll[-1] = 0.0
        name = tokens.documents.ids[place].tobytes().hex()
        traces[name] = SourceTrace(document.input_ids, document.ends, TopK(ids, log_probs), nll)
    return traces


def make(documents: int, cache: Path) -> dict[str, float]:
    """Build the corpus, cut it, write traces of all documents of the `fusion` side, and start once, which packs the blocks."""
    began = time.perf_counter()
    corpus = corpus_of(documents, cache)
    built = time.perf_counter() - began
    if not (cache / "llm").exists():
        make_llm(cache)
    llm = localize("one", spec(cache), cache)
    surface = llm.surface()
    tokens = tokenize_documents(surface, corpus.split("fusion"), sys.maxsize, cache / "tokens")
    key = TraceKey(llm.name, llm.fingerprint, surface.fingerprint, TOP_K)
    store = TRACING.store(key, cache, "")
    seen = np.unique(np.concatenate([tokens.at(place).input_ids for place in tokens.places[:5000].tolist()]))
    others = np.setdiff1d(np.arange(surface.vocabulary_size), seen)[:TOP_K]
    missing = np.flatnonzero(store.missing(tokens.documents.ids))
    shards = np.searchsorted(np.cumsum(tokens.sizes[missing]), np.arange(1, 10**6) * SHARD_TOKENS)
    for places in np.split(missing, shards[shards < len(missing)]):
        store.write(made_up(tokens, places.tolist(), others))
    start(documents, cache, time.time())
    indices = [path for path in Path(str(store.folder)).iterdir() if path.suffix != ".safetensors"]
    return {
        "build_documents_per_s": documents / built,
        "manifest_bytes_written_per_token": sum(p.stat().st_size for p in indices) / tokens.num_tokens,
        "tokens": tokens.num_tokens,
    }


def held(name: str) -> float:
    """A line of this process's /proc/self/status, MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) / 1024


def start(documents: int, cache: Path, began: float) -> dict[str, float]:
    """What a run does to its first batch, where everything was made before."""
    imports, imported = time.time() - began, held("VmRSS")
    corpus = corpus_of(documents, cache)
    prepared = prepare(corpus, spec(cache), {"one": spec(cache)}, TOP_K, cache, TRACING)
    data = FusionDataModule(
        corpus.split("fusion"),
        corpus.split("validation"),
        prepared.target_surface,
        [SourceReader(prepared.sources["one"].store, byte_exact(prepared.pair("one")))],
        block_tokens=BLOCK_TOKENS,
        batch_blocks=BATCH_BLOCKS,
        max_document_tokens=prepared.target.context_length(),
        tokens_folder=prepared.tokens_folder,
    )
    batch = next(iter(data.train_dataloader()))
    assert batch.sources is not None
    assert bool(batch.sources.is_aligned.any())
    seconds = time.time() - began
    return {"seconds": seconds, "imports": imports, "rss_mib": held("VmHWM") - imported}


def fresh(step: str, documents: int, cache: Path) -> dict[str, float]:
    """What a step of this file returns in a process of its own."""
    command = [sys.executable, __file__, "--step", step, "--documents", str(documents), "--cache", str(cache)]
    done = subprocess.run([*command, "--began", str(time.time())], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{step} of {documents} documents failed:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(documents: int, starts_counted: int, cache: Path) -> dict[str, float]:
    """Make everything, then start from it; the median of some starts.

    What making it gave is kept in the cache, where a second run finds all made.
    """
    cache.mkdir(parents=True, exist_ok=True)
    note = cache / f"made-{documents}.json"
    if not note.exists():
        note.write_text(json.dumps(fresh("make", documents, cache)))
    made = json.loads(note.read_text())
    starts = [fresh("start", documents, cache) for _ in range(starts_counted)]
    return made | {name: statistics.median(s[name] for s in starts) for name in starts[0]}


def size_name(documents: int) -> str:
    return f"{documents // 10**6}m" if documents % 10**6 == 0 else f"{documents / 1000:g}k"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000, help="the larger of the two numbers")
    parser.add_argument("--starts", type=int, default=3, help="that are timed, each a process")
    parser.add_argument("--cache", type=Path, help="folder to work in, kept; default: one that is removed")
    parser.add_argument("--step", choices=["make", "start"], help=argparse.SUPPRESS)
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    quiet_libraries()
    torch.set_num_threads(1)
    if arguments.step:
        step = make if arguments.step == "make" else partial(start, began=arguments.began)
        print(json.dumps(step(arguments.documents, arguments.cache)))
        return
    few, many = arguments.documents // 10, arguments.documents
    with tempfile.TemporaryDirectory() as folder:
        found = {n: measure(n, arguments.starts, arguments.cache or Path(folder)) for n in (few, many)}

    table = Table(title="a process that opens what was made before")
    for column in ("documents", "s to the first batch", "s of them imports", "MiB beyond imports", "documents/s built"):
        table.add_column(column, justify="right")
    for number, f in found.items():
        figures = (f["seconds"], f["imports"], f["rss_mib"], f["build_documents_per_s"])
        table.add_row(f"{number:,}", *(f"{figure:,.1f}" for figure in figures))
    Console(width=120).print(table)
    started = [found[n]["seconds"] for n in (few, many)]
    opened = [found[n]["seconds"] - found[n]["imports"] for n in (few, many)]
    growth, beyond_imports = (math.log(larger / less) / math.log(many / few) for less, larger in (started, opened))
    print(
        json.dumps(
            {
                **{f"seconds_to_first_batch_{size_name(n)}": round(f["seconds"], 2) for n, f in found.items()},
                f"rss_mib_{size_name(many)}": round(found[many]["rss_mib"], 1),
                "build_documents_per_s": round(found[many]["build_documents_per_s"]),
                "manifest_bytes_written_per_token": round(found[many]["manifest_bytes_written_per_token"], 4),
                "exponent": round(growth, 3),
                "exponent_beyond_imports": round(beyond_imports, 3),
                "tokens": int(found[many]["tokens"]),
            }
        )
    )


if __name__ == "__main__":
    main()
