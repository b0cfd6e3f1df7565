"""Does a training step ever wait for alignment?

    python benchmarks/loader.py

A DataLoader with one worker reads the traces of three sources from disk (K = 10), aligns them by `byte_exact`, packs and
collates; beside it, in the same process, the forward and backward pass of a 135M-parameter Llama (SmolLM2's shape) over
one of its blocks, with the fused loss. The traces are random, the text is the standard library's.
"""

import argparse
import json
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from alignment import SHAPE, library_texts, random_trace
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from knowfuse.alignment.byte_exact import byte_exact
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.fusion.min_ce import min_ce
from knowfuse.llms.head import OutputHead, output_head, packed_hidden_states
from knowfuse.llms.recipes import make_tokenizer
from knowfuse.losses import fused_linear_loss
from knowfuse.surface import Surface, surface_of
from knowfuse.surface.tokens import tokenize_documents
from knowfuse.text.document import Document, cut
from knowfuse.traces.manifest import TraceKey
from knowfuse.traces.store import TraceStore
from knowfuse.training.blocks import SourceReader
from knowfuse.training.data import FusionDataModule
from knowfuse.types import FusionBatch, Recipe

FAMILIES = ("sentencepiece_bpe", "byte_level_bpe", "unigram")
VOCABULARY, TOP_K = 8000, 10
BLOCK_TOKENS, BATCH_BLOCKS = 1024, 4


def surfaces(texts: list[str]) -> dict[str, Surface]:
    """One small tokenizer of each family."""
    made = {}
    for family in FAMILIES:
        recipe = Recipe("llama", family, "library", VOCABULARY, **SHAPE, learning_rate=1e-3)  # type: ignore[arg-type]
        made[family] = surface_of(make_tokenizer(recipe, texts), family)
    return made


def reader(source: Surface, target: Surface, documents: list[Document], folder: Path) -> SourceReader:
    """Random traces of the documents on disk, and their way onto the target's tokens."""
    store = TraceStore(folder / source.name, TraceKey(source.name, "random", source.fingerprint, TOP_K))
    tokens = tokenize_documents(source, documents, sys.maxsize)
    texts = {d.id: d.text for d in documents}
    store.write({d: random_trace(source, texts[d]) for d in tokens})
    store.put_aside(tokens.set_aside)
    return SourceReader(store, byte_exact(TokenizerPair(source, target)))


def library_documents(number: int) -> tuple[list[Document], list[str]]:
    """Pieces of so many files of the standard library, and the whole texts."""
    texts = library_texts()[:number]
    documents = [Document(piece, "library", "fusion") for text in texts for piece in cut(text, 2048)]
    return list({d.id: d for d in documents}.values()), texts


def llama_135m() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=49152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            tie_word_embeddings=True,
        )
    )


def step(model: LlamaForCausalLM, head: OutputHead, batch: FusionBatch) -> None:
    """One forward and backward pass with the fused loss."""
    assert batch.sources is not None
    hidden = packed_hidden_states(model, head, batch.input_ids, batch.position_ids, batch.document_ids)
    fused = min_ce(batch.sources, batch.document_ids, batch.label_bytes)
    loss = fused_linear_loss(hidden.flatten(0, 1), head.linear(), batch.labels.flatten(), fused, lm_weight=0.9)
    loss.total.backward()
    model.zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=100, help="that the loader is timed over")
    parser.add_argument("--steps", type=int, default=2, help="that the training step is timed over")
    parser.add_argument("--texts", type=int, default=150, help="files of the standard library to read")
    arguments = parser.parse_args()

    documents, texts = library_documents(arguments.texts)
    by_family = surfaces(texts)
    target = by_family[FAMILIES[0]]
    with tempfile.TemporaryDirectory() as folder:
        sources = [reader(by_family[f], target, documents, Path(folder)) for f in FAMILIES]
        data = FusionDataModule(
            documents,
            documents[:4],
            target,
            sources,
            block_tokens=BLOCK_TOKENS,
            batch_blocks=BATCH_BLOCKS,
            num_workers=1,
        )
        batches = iter(data.train_dataloader())
        next(batches)
        began = time.perf_counter()
        read = sum(int((batch.document_ids > 0).sum()) for batch in islice(batches, arguments.batches))
        loader = read / (time.perf_counter() - began)
        block = data.train_blocks[0]
    model, times = llama_135m(), []
    head = output_head(model, target.vocabulary_size)
    for _ in range(arguments.steps + 1):
        began = time.perf_counter()
        step(model, head, block)
        times.append(time.perf_counter() - began)
    trained = int((block.document_ids > 0).sum()) / float(np.median(times[1:]))

    table = Table("what", "target tokens/s", title=f"three sources, K = {TOP_K}, {torch.get_num_threads()} threads")
    table.add_row("DataLoader, one worker", f"{loader:,.0f}")
    table.add_row("training step, 135M parameters, this CPU", f"{trained:,.0f}")
    Console().print(table)
    figures = {"loader_tokens_per_s": loader, "step_tokens_per_s": trained, "loader_vs_step": loader / trained}
    print(json.dumps({key: round(value, 1) for key, value in figures.items()}))


if __name__ == "__main__":
    main()
