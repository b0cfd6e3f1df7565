"""How much of what a source said survives each alignment, before anyone trains?

    python benchmarks/fidelity.py --source SOURCE_DIR --target TOKENIZER_DIR --text FILE...

The source reads the beginning of each text, K tokens kept; every method puts its words on the target's tokens. Without
arguments: the quickstart's `mpt` for its `llama2`, on the documents of its three domains. A folder with a single GGUF
file is read as such. Figures are means over the texts; `worst` is the text with the largest loss, whatever its sign.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

import hydra
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table

from knowfuse.alignment.byte_exact import byte_exact
from knowfuse.alignment.chunk_likelihood import chunk_likelihood
from knowfuse.alignment.exact_match import exact_match
from knowfuse.alignment.hybrid import hybrid
from knowfuse.alignment.mapping_statistics import mapping_statistics
from knowfuse.alignment.min_edit_distance import min_edit_distance
from knowfuse.alignment.pair import Arrays, TokenizerPair
from knowfuse.alignment.rank_matched import rank_matched
from knowfuse.evaluation import AlignmentQuality, SeenDocument, tried, with_own_tokenizer
from knowfuse.llms.local import LocalLLM, localize
from knowfuse.screen import quiet_libraries
from knowfuse.surface import Surface
from knowfuse.surface.tokens import tokenize_documents
from knowfuse.text.document import Document, cut
from knowfuse.traces.reading import trace_documents
from knowfuse.types import Aligner, LLMSpec

ROOT = Path(__file__).resolve().parent.parent
METHODS: dict[str, Callable[[TokenizerPair], Aligner]] = {
    "byte_exact": byte_exact,
    "min_edit_distance": min_edit_distance,
    "min_edit_distance, gold_next": partial(min_edit_distance, unaligned="gold_next"),
    "exact_match": exact_match,
    "mapping_statistics": mapping_statistics,
    "rank_matched": rank_matched,
    "hybrid": hybrid,
    "chunk_likelihood": chunk_likelihood,
}
FIGURES = ("alignment_loss_bits_per_byte", "own_tokenizer_bits_per_byte", "coverage", "top1_fidelity")
DOCUMENT_BYTES = 1500  # a text is cut into documents of at most so many, which every LLM can hold
BATCH_TOKENS = 2048


def folder_llm(folder: str) -> LocalLLM:
    """The LLM, or the tokenizer, of a folder."""
    files = sorted(Path(folder).glob("*.gguf"))
    is_gguf = len(files) == 1 and not (Path(folder) / "config.json").exists()
    cache = Path(os.environ.get("KNOWFUSE_CACHE", "~/.cache/knowfuse")).expanduser()
    return localize(Path(folder).name, LLMSpec(path=folder, gguf_file=files[0].name if is_gguf else None), cache)


def quickstart() -> tuple[LocalLLM, Surface, dict[str, list[str]]]:
    """The quickstart's source `mpt`, its target's tokenizer, and the text that the sources read."""
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        experiment = hydra.utils.instantiate(compose("train"), _convert_="all")
    prepared = experiment.prepare()
    texts = {d: [t.text for t in prepared.corpus.split("fusion", domain=d)] for d in prepared.corpus.domains}
    return prepared.sources["mpt"].llm, prepared.target_surface, texts


def seen(
    llm: LocalLLM, source: Surface, target: Surface, texts: Mapping[str, Sequence[str]], top_k: int
) -> dict[str, list[SeenDocument]]:
    """What the source says of each text, read once for all methods."""
    model = llm.load()
    found = {}
    for name, pieces in texts.items():
        documents = {d.id: d for d in (Document(piece, name, "test", is_complete=False) for piece in pieces)}
        ours = tokenize_documents(target, list(documents.values()), sys.maxsize)
        theirs = tokenize_documents(source, [documents[d] for d in ours], llm.context_length())
        if left_out := ours.set_aside | theirs.set_aside:
            reason = next(iter(left_out.values()))
            print(f"{name}: {len(left_out)} of {len(documents)} documents left out, the first for {reason}")
        traces = {
            d: t for batch in trace_documents(model, source, theirs, top_k, BATCH_TOKENS) for d, t in batch.items()
        }
        found[name] = [SeenDocument(t, ours[d], documents[d].text.encode()) for d, t in traces.items()]
    return found


def summary(by_text: Mapping[str, AlignmentQuality]) -> dict:
    """The means of one method over the texts."""
    qualities = list(by_text.values())
    worst = max(by_text, key=lambda name: abs(by_text[name].loss_bits_per_byte))
    figures = {
        "alignment_loss_bits_per_byte": round(fmean(q.loss_bits_per_byte for q in qualities), 5),
        "own_tokenizer_bits_per_byte": round(fmean(q.identity_bits_per_byte or 0.0 for q in qualities), 5),
        "coverage": round(fmean(q.coverage for q in qualities), 5),
        "top1_fidelity": round(fmean(q.top1_fidelity for q in qualities), 5),
        "worst": {worst: round(by_text[worst].loss_bits_per_byte, 5)},
    }
    budgets = [q.budget for q in qualities if q.budget is not None]
    if len(budgets) == len(qualities):
        figures["mass"] = {kind: round(fmean(b[kind] for b in budgets), 6) for kind in budgets[0]}
    return figures


def quality_of(
    method: Callable[[TokenizerPair], Aligner] | None, pair: TokenizerPair, seen: Sequence[SeenDocument]
) -> AlignmentQuality:
    """Of one method; None: the identity, the source's own tokenizer for the target's."""
    return with_own_tokenizer(byte_exact, pair, seen) if method is None else tried(method, pair, seen)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", help="folder of the source LLM")
    parser.add_argument("--target", help="folder of the target's tokenizer")
    parser.add_argument("--text", nargs="+", help="UTF-8 files")
    parser.add_argument("--top-k", type=int, default=10)
    parser.add_argument("--bytes", type=int, default=6000, help="of each file, from its beginning")
    arguments = parser.parse_args()
    given = [arguments.source, arguments.target, arguments.text]
    if any(given) and not all(given):
        parser.error("--source, --target and --text belong together: give all three, or none for the quickstart's")
    quiet_libraries()

    if any(given):
        llm, target = folder_llm(arguments.source), folder_llm(arguments.target).surface()
        whole = {Path(file).name: Path(file).read_text(encoding="utf-8") for file in arguments.text}
        texts = {n: cut(cut(text, arguments.bytes)[0], DOCUMENT_BYTES) for n, text in whole.items()}
    else:
        llm, target, texts = quickstart()
    source = llm.surface()
    documents = seen(llm, source, target, texts, arguments.top_k)
    made: dict[str, Arrays] = {}
    pair = TokenizerPair(
        source,
        target,
        [Document(piece, name, "fusion") for name, pieces in texts.items() for piece in pieces],
        keep=lambda name, make: made[name] if name in made else made.setdefault(name, make()),
    )

    table = Table(title=f"{source.name} -> {target.name}, K = {arguments.top_k}")
    for column in (
        "method",
        *(f"loss, {name}" for name in texts),
        "loss, mean",
        "own tokenizer",
        "coverage",
        "top-1 fidelity",
    ):
        table.add_column(column, justify="left" if column == "method" else "right")
    methods = {}
    for name, method in {"identity": None, **METHODS}.items():
        by_text = {text: quality_of(method, pair, seen) for text, seen in documents.items()}
        methods[name] = summary(by_text)
        table.add_row(
            name,
            *(f"{quality.loss_bits_per_byte:.4f}" for quality in by_text.values()),
            *(f"{methods[name][key]:.4f}" for key in FIGURES),
        )
    Console(width=140).print(table)
    print(json.dumps({"source": source.name, "target": target.name, "top_k": arguments.top_k, "methods": methods}))


if __name__ == "__main__":
    main()
