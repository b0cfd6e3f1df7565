"""How much sooner than the published loops is a document aligned, and are the rows the same?

    python benchmarks/alignment.py

On one core. Without `--source-tokenizer` and `--target-tokenizer`, two are trained on the spot on the standard
library's text: byte-level BPE with 50,000 entries and SentencePiece-like BPE with 32,000 (half a minute). What the
source says is random, K = 10 tokens a row. Times are medians after a warm-up; the plain vocabulary map is extrapolated
from a sample of source strings that have no identical target string.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before anything that starts threads
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import argparse
import json
import statistics
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import published
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer

from knowfuse.alignment.byte_exact import byte_exact
from knowfuse.alignment.chunk_likelihood import chunk_likelihood
from knowfuse.alignment.min_edit_distance import min_edit_distance
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.vocabulary_map import nearest_strings
from knowfuse.llms.recipes import make_tokenizer
from knowfuse.surface import Surface, surface_of
from knowfuse.types import EMPTY, AlignedSource, Recipe, SourceTrace, TokenizedDocument, TopK

K = 10
LENGTHS = [512, 1024, 2048, 4096, 8192, 16384]  # target tokens
SHAPE = {"hidden_size": 8, "num_layers": 1, "num_heads": 1, "context_length": 8, "max_steps": 1, "batch_tokens": 8}


def library_texts() -> list[str]:
    """The standard library's modules, in the order of their names."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(p for p in root.rglob("*.py") if "site-packages" not in p.parts)
    return [path.read_text(encoding="utf-8", errors="ignore") for path in paths]


def tokenizers(source: str | None, target: str | None, texts: list[str]) -> tuple[Surface, Surface]:
    """The surfaces of these two, or of two trained here."""
    surfaces = []
    for role, path, family, size in (
        ("source", source, "byte_level_bpe", 50_000),
        ("target", target, "sentencepiece_bpe", 32_000),
    ):
        if path is None:
            recipe = Recipe("llama", family, "library", size, **SHAPE, learning_rate=1e-3)  # type: ignore[arg-type]
            surfaces.append(surface_of(make_tokenizer(recipe, texts), f"{role} {family} {size}"))
        else:
            surfaces.append(surface_of(AutoTokenizer.from_pretrained(path), path))
    return surfaces[0], surfaces[1]


def document(text: str, target: Surface, num_tokens: int) -> tuple[str, TokenizedDocument]:
    """The beginning of the text that takes about as many target tokens, and these."""
    tokens = target.tokenize(text[: num_tokens * 16])
    if len(tokens.ends) < num_tokens:
        raise ValueError(f"the text has {len(tokens.ends)} target tokens, wanted {num_tokens}: give a longer --text")
    cut = text.encode()[: tokens.ends[num_tokens - 2]].decode(errors="ignore")
    return cut, target.tokenize(cut)


def random_trace(source: Surface, text: str) -> SourceTrace:
    """K different random tokens a row, the most probable first, and a price for the true one: its own where it is kept."""
    tokens, random = source.tokenize(text), np.random.default_rng(0)
    rows = len(tokens.ends)
    ids = (random.integers(0, source.vocabulary_size, (rows, 1)) + 97 * np.arange(K)) % source.vocabulary_size
    probs = -np.sort(-random.dirichlet(np.ones(K + 1), rows)[:, :K])
    log_probs, nll = np.log(probs).astype(np.float32), np.append(random.exponential(2.0, rows - 1), 0.0)
    row, slot = np.nonzero(ids[:-1] == tokens.input_ids[1:, None])
    nll[row] = -log_probs[row, slot]
    return SourceTrace(tokens.input_ids, tokens.ends, TopK(ids, log_probs), nll.astype(np.float32))


def seconds(work: Callable[[], object], repeats: int) -> float:
    """The median time of several repeats, after one that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def are_same(aligned: AlignedSource, said: list[dict[int, float] | None]) -> bool:
    """The very rows and ids; the probabilities within what their float32 logarithms keep."""
    for t, expected in enumerate(said):
        if aligned.is_aligned[t] != (expected is not None):
            return False
        if expected is not None:
            filled = aligned.topk.log_probs[t] > EMPTY
            got = dict(zip(aligned.topk.ids[t][filled].tolist(), aligned.topk.log_probs[t][filled], strict=True))
            if got.keys() != expected.keys():
                return False
            if not np.allclose([np.exp(got[i]) for i in expected], list(expected.values()), rtol=1e-5, atol=0):
                return False
    return True


def vocabulary_figures(source: Surface, target: Surface, sample_size: int) -> dict[str, float | bool]:
    """Ours over the whole vocabulary, the plain loop over a sample of the strings that it has to measure."""
    nearest = nearest_strings(source, target)
    ours = seconds(lambda: nearest_strings(source, target), repeats=3)
    theirs, choices = published.printed(source, target)
    known = {*choices}
    missing = [i for i, token in enumerate(theirs) if token not in known and i != source.eos_id]
    sample = missing[:: max(1, len(missing) // sample_size)]
    began = time.perf_counter()
    found = [published.nearest_token(theirs[i] or "", choices) for i in sample]
    plain = (time.perf_counter() - began) / len(sample) * len(missing)
    return {
        "vocabulary_map_seconds": ours,
        "vocabulary_map_speedup": plain / ours,
        "vocabulary_map_identical": found == nearest[sample].tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source-tokenizer", help="hub id or local folder")
    parser.add_argument("--target-tokenizer", help="hub id or local folder")
    parser.add_argument("--text", type=Path, help="a file of UTF-8 text; default: the standard library's")
    parser.add_argument("--tokens", type=int, default=2048, help="target tokens of the document")
    parser.add_argument("--sample", type=int, default=200, help="source strings of the plain vocabulary map")
    arguments = parser.parse_args()

    texts = library_texts()
    source, target = tokenizers(arguments.source_tokenizer, arguments.target_tokenizer, texts)
    text = arguments.text.read_text(encoding="utf-8") if arguments.text else "\n".join(texts)
    print(f"source {source.name}, target {target.name}", file=sys.stderr)
    vocabulary = vocabulary_figures(source, target, arguments.sample)

    pair = TokenizerPair(source, target)
    piece, tokens = document(text, target, arguments.tokens)
    trace, data, count = random_trace(source, piece), piece.encode(), len(tokens.ends)
    nearest, exact, chunks = min_edit_distance(pair), byte_exact(pair), chunk_likelihood(pair)
    id_map = {i: int(j) for i, j in enumerate(nearest_strings(source, target)) if j >= 0}
    printed = published.printed(source, target)
    said = published.align(trace, tokens, printed, id_map, "sum")
    plain = seconds(lambda: published.align(trace, tokens, printed, id_map, "sum"), repeats=3)
    ours = seconds(lambda: nearest(trace, tokens, data), repeats=25)
    bytewise = seconds(lambda: exact(trace, tokens, data), repeats=25)
    chunkwise = seconds(lambda: chunks(trace, tokens, data), repeats=25)

    table = Table("method", "ms", "tokens/s", "times the plain", title=f"{count} target tokens, K = {K}, one core")
    timed = {"plain loops": plain, "min_edit_distance": ours, "byte_exact": bytewise, "chunk_likelihood": chunkwise}
    for method, time_taken in timed.items():
        table.add_row(method, f"{time_taken * 1e3:.2f}", f"{count / time_taken:,.0f}", f"{plain / time_taken:.1f}")
    Console().print(table)
    table = Table("target tokens", "ms", "microseconds/token", title="byte_exact by length")
    by_length = {}
    for length in LENGTHS:
        longer, more = document(text, target, length)
        said_of_it, content = random_trace(source, longer), longer.encode()
        taken = seconds(lambda: exact(said_of_it, more, content), repeats=7)  # noqa: B023  called before the next turn
        by_length[str(len(more.ends))] = round(taken / len(more.ends) * 1e6, 3)
        table.add_row(f"{len(more.ends)}", f"{taken * 1e3:.2f}", f"{by_length[str(len(more.ends))]:.2f}")
    Console().print(table)

    figures: dict[str, object] = {
        "tokens": count,
        "plain_tokens_per_s": count / plain,
        "min_edit_distance_tokens_per_s": count / ours,
        "byte_exact_tokens_per_s": count / bytewise,
        "chunk_likelihood_tokens_per_s": count / chunkwise,
        "speedup_min_edit_distance": plain / ours,
        "speedup_byte_exact": plain / bytewise,
        "min_edit_distance_identical": are_same(nearest(trace, tokens, data), said),
        **vocabulary,
        "byte_exact_microseconds_per_token": by_length,
    }
    print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in figures.items()}))


if __name__ == "__main__":
    main()
