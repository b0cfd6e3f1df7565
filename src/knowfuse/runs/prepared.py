"""What must be there before a target can train? Corpus, LLMs, traces; each made once and found again."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from knowfuse.alignment.pair import TokenizerPair
from knowfuse.evaluation import DocumentScores, cached_scores
from knowfuse.llms.local import LocalLLM, localize
from knowfuse.progress import counting
from knowfuse.runs.unbiased import require_drawable
from knowfuse.screen import say
from knowfuse.surface import Surface
from knowfuse.surface.set_aside import report_set_aside
from knowfuse.surface.tokens import tokenize_documents
from knowfuse.text.corpus import Corpus
from knowfuse.text.document import Document, Split
from knowfuse.traces.maps import MapStore
from knowfuse.traces.served import ServedLLM, connect
from knowfuse.traces.store import TraceStore
from knowfuse.traces.tracing import Tracing, read_documents
from knowfuse.training.materialise import materialise
from knowfuse.types import Kept, LLMSpec


@dataclass
class Source:
    """A source LLM, how it spells, and what it said."""

    llm: LocalLLM | ServedLLM
    surface: Surface
    store: TraceStore


@dataclass
class Prepared:
    """Everything on this machine that training and evaluation need."""

    corpus: Corpus
    target: LocalLLM
    target_surface: Surface
    sources: dict[str, Source]
    cache: Path

    @property
    def tokens_folder(self) -> Path:
        return self.cache / "tokens"

    def pair(self, name: str) -> TokenizerPair:
        """This source's tokenizer beside the target's and the other sources'; what is made of it is kept in the cache."""
        documents = self.corpus.split("fusion")
        others = [source.surface for other, source in self.sources.items() if other != name]
        maps = MapStore(self.cache / "maps")
        return TokenizerPair(self.sources[name].surface, self.target_surface, documents, maps, others)

    def target_store(self) -> TraceStore | None:
        """The traces of the source that is the target; None where none is."""
        return next((its.store for its in self.sources.values() if its.llm.spec == self.target.spec), None)

    def source_scores(self, documents: Sequence[Document], by_class: bool = False) -> dict[str, DocumentScores]:
        """The nats of every source on these documents, from the cache where a source has read them before."""
        asked = (documents, self.cache, by_class)
        return {name: cached_scores(s.llm, s.surface, *asked) for name, s in self.sources.items()}

    def target_scores(self, documents: Sequence[Document], by_class: bool = False) -> DocumentScores:
        """The same for the target as it is before training."""
        return cached_scores(self.target, self.target_surface, documents, self.cache, by_class)


def prepare(
    corpus: Corpus,
    target: LLMSpec,
    sources: Mapping[str, LLMSpec],
    top_k: int,
    cache: Path,
    tracing: Tracing,
    require: Callable[[LocalLLM], object] = lambda target: None,
    kept: Kept = "topk",
    require_blocks: Callable[[Prepared], object] = lambda prepared: None,
) -> Prepared:
    """Make what is missing. Several processes may ask at once: one works, the others wait and find it done.

    `require` is asked of the target before a source is made or read, and may raise; `require_blocks` of what there is without
    the sources, once the text is in the target's tokens and before a source reads it.
    ValueError where `top_k` is below 0 or more than a source can name, and where an LLM has no row for a token of the text.
    """
    if top_k < 0:
        raise ValueError(f"top_k is {top_k}: it must be at least 0")
    require_drawable(kept, top_k, sources)
    reasons = {"duplicates": corpus.duplicates, **corpus.skipped}
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
    named = f"; left out: {left_out}" if left_out else ""
    say(f"corpus {corpus.name}: {len(corpus.documents)} documents, domains {', '.join(corpus.domains)}{named}")
    _require_uncompiled(sources, tracing)
    same = next((name for name, spec in sources.items() if spec == target), None)
    target_llm = _llm(same or "target", target, corpus, cache)
    require(target_llm)
    llms = {
        name: target_llm if name == same else _source(name, spec, corpus, cache, tracing)
        for name, spec in sources.items()
    }
    surfaces = {name: llm.surface(corpus.is_chat) for name, llm in llms.items()}
    target_surface = surfaces[same] if same else target_llm.surface(corpus.is_chat)
    for surface in surfaces.values():  # before one of them reads for days
        surface.require_top_k(top_k)
        _require_rows(surface, corpus, cache)
    _require_rows(target_surface, corpus, cache)
    documents = corpus.split("fusion")
    with counting(f"tokens {target_llm.name}", len(documents), "documents") as advance:
        # Whole and of any length, as every run's data module finds them again.
        tokens = tokenize_documents(target_surface, documents, sys.maxsize, cache / "tokens", advance)
    if not same:  # as one of the sources it is reported with them
        its = tokens.up_to(target_llm.context_length(), target_surface.name)
        report_set_aside("target", target_surface, its.set_aside, documents)
    require_blocks(Prepared(corpus, target_llm, target_surface, {}, cache))
    return Prepared(
        corpus=corpus,
        target=target_llm,
        target_surface=target_surface,
        sources={
            name: Source(llm, its, read_documents(llm, its, documents, top_k, cache, tracing, kept))
            for (name, llm), its in zip(llms.items(), surfaces.values(), strict=True)
        },
        cache=cache,
    )


def prepare_target(corpus: Corpus, target: LLMSpec, sources: Mapping[str, LLMSpec], cache: Path) -> Prepared:
    """The target alone: what asks its checkpoints needs no source, nor what one said."""
    same = next((name for name, spec in sources.items() if spec == target), "target")
    llm = _llm(same, target, corpus, cache)
    return Prepared(corpus, llm, llm.surface(corpus.is_chat), {}, cache)


def require_here(target: LLMSpec) -> None:
    """ValueError for a target on a server, or spread by accelerate: what is trained must be on this machine, in shards.

    Asked by whoever reads the settings, before anything is made.
    """
    if target.device_map is not None:
        raise ValueError(
            f"the target has device_map={target.device_map}, by which an LLM can be read and not be trained: leave device_map "
            "out of it and set trainer=fsdp, which trains it in shards over all GPUs (a source may keep its device_map)"
        )
    if target.server is not None:
        raise ValueError(
            f"the target is served at {target.server}, and what is trained must be here: give it a path to its weights and no "
            "server (a source may stay served)"
        )


def _require_uncompiled(sources: Mapping[str, LLMSpec], tracing: Tracing) -> None:
    """ValueError where a source that accelerate spreads would be compiled: its hooks move weights that the code was made for."""
    spread = [name for name, spec in sources.items() if spec.device_map is not None]
    if tracing.compile and spread:
        raise ValueError(
            f"tracing.compile=true, and source {spread[0]!r} has a device_map, whose hooks torch.compile cannot see through: set "
            "tracing.compile=false"
        )


def _source(name: str, spec: LLMSpec, corpus: Corpus, cache: Path, tracing: Tracing) -> LocalLLM | ServedLLM:
    if spec.server is not None:
        return connect(name, spec, cache, tracing.server_requests)
    return _llm(name, spec, corpus, cache)


def _llm(name: str, spec: LLMSpec, corpus: Corpus, cache: Path) -> LocalLLM:
    return localize(name, spec, cache) if spec.recipe is None else materialise(name, spec, corpus, cache)


def _require_rows(surface: Surface, corpus: Corpus, cache: Path) -> None:
    """ValueError where a document that is to be read, learnt or scored needs a token that the LLM has no row for."""
    sides: tuple[Split, ...] = ("fusion", "validation", "test")
    if surface.usable < surface.vocabulary_size:
        for side in sides:
            tokens = tokenize_documents(surface, corpus.split(side), sys.maxsize, cache / "tokens")
            surface.require_rows(tokens.largest_id)
