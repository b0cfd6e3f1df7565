"""What must be there before a target can train? Corpus, LLMs, traces; each made once and found again.

python -m knowfuse.prepare sources=quickstart
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import hydra
import torch
from filelock import FileLock
from omegaconf import DictConfig
from transformers import PreTrainedModel

from knowfuse.alignment.pair import TokenizerPair
from knowfuse.corpus import Corpus, Document
from knowfuse.evaluation import DocumentScores, score_documents
from knowfuse.llm import LocalLLM, localize
from knowfuse.progress import counting, quiet_libraries, say
from knowfuse.recipes import materialise
from knowfuse.sources import tokenize_documents, trace_documents
from knowfuse.store import MapStore, TraceKey, TraceStore
from knowfuse.surface import Surface
from knowfuse.types import LLMSpec, SourceTrace, TokenizedDocument

TOKENS_PER_SHARD = 1_000_000
BATCH_TOKENS = 8192  # tokens of one forward pass, padding included


@dataclass
class Source:
    """A source LLM, how it spells, and what it said."""

    llm: LocalLLM
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

    def pair(self, name: str) -> TokenizerPair:
        """This source's tokenizer beside the target's; what is made for both is kept in the cache."""
        documents = [d.text for d in self.corpus.split("fusion")]
        return TokenizerPair(self.sources[name].surface, self.target_surface, documents, MapStore(self.cache / "maps"))

    def source_scores(self, documents: Sequence[Document]) -> dict[str, DocumentScores]:
        """The nats of every source on these documents, from the cache where a source has read them before."""
        return {name: score(s.llm, s.surface, documents, self.cache) for name, s in self.sources.items()}

    def target_scores(self, documents: Sequence[Document]) -> DocumentScores:
        """The same for the target as it is before training."""
        return score(self.target, self.target_surface, documents, self.cache)


def prepare(corpus: Corpus, target: LLMSpec, sources: Mapping[str, LLMSpec], top_k: int, cache: Path) -> Prepared:
    """Make what is missing. Several processes may ask at once: one works, the others wait and find it done."""
    say(f"corpus {corpus.name}: {len(corpus.documents)} documents, domains {', '.join(corpus.domains)}")
    llms = {name: _llm(name, spec, corpus, cache) for name, spec in sources.items()}
    same = next((name for name, spec in sources.items() if spec == target), None)
    target_llm = llms[same] if same else _llm("target", target, corpus, cache)
    documents = corpus.split("fusion")
    return Prepared(
        corpus=corpus,
        target=target_llm,
        target_surface=target_llm.surface(),
        sources={name: _read(llm, documents, top_k, cache) for name, llm in llms.items()},
        cache=cache,
    )


def _llm(name: str, spec: LLMSpec, corpus: Corpus, cache: Path) -> LocalLLM:
    return localize(name, spec) if spec.recipe is None else materialise(name, spec, corpus, cache)


def _on_device(llm: LocalLLM) -> PreTrainedModel:
    model = llm.load()
    return model.cuda() if torch.cuda.is_available() else model  # pyright: ignore[reportCallIssue]  (its wrapper hides self)


def _read(llm: LocalLLM, documents: Sequence[Document], top_k: int, cache: Path) -> Source:
    """The source with traces of all these documents; only documents without one are read."""
    surface = llm.surface()
    key = TraceKey(llm.name, llm.fingerprint, surface.fingerprint, top_k)
    folder = cache / "traces" / key.folder_name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        store = TraceStore(folder, key)
        missing = store.missing(d.id for d in documents)
        if missing:
            tokens, set_aside = tokenize_documents(
                surface, [d for d in documents if d.id in missing], llm.context_length()
            )
            _report_set_aside(surface, store.set_aside | set_aside, documents)
            _trace(llm, surface, store, tokens, top_k)
            store.put_aside(set_aside)
        else:
            say(f"traces {llm.name}: read before ({key.folder_name})")
            _report_set_aside(surface, store.set_aside, documents)
    return Source(llm, surface, store)


def _report_set_aside(surface: Surface, reasons: Mapping[str, str], documents: Sequence[Document]) -> None:
    """One line on the documents that a source cannot read; ValueError where it can read none of them."""
    aside = [d.id for d in documents if d.id in reasons]
    if not aside:
        return
    changes = f"; its tokenizer normalises: {', '.join(surface.normalises)}" if surface.normalises else ""
    first = f"the first, {aside[0]}: {reasons[aside[0]]}{changes}"
    if len(aside) == len(documents):
        raise ValueError(
            f"source {surface.name!r} can read none of the {len(documents)} documents; {first}. Leave it out of "
            "`sources`, set its `tokenizer:` to one that keeps every byte, or cut the documents shorter "
            "(corpus.max_document_bytes)"
        )
    share = len(aside) / len(documents)
    say(f"traces {surface.name}: {len(aside)} of {len(documents)} documents ({share:.1%}) set aside; {first}")


def _trace(
    llm: LocalLLM, surface: Surface, store: TraceStore, tokens: dict[str, TokenizedDocument], top_k: int
) -> None:
    model = _on_device(llm)
    shard: dict[str, SourceTrace] = {}
    waiting = 0
    with counting(f"traces {llm.name}", sum(len(t.input_ids) for t in tokens.values())) as advance:
        for batch in trace_documents(model, surface, tokens, top_k, BATCH_TOKENS, advance):
            shard |= batch
            waiting += sum(len(t.ends) for t in batch.values())
            if waiting >= TOKENS_PER_SHARD:
                store.write(shard)
                shard, waiting = {}, 0
    store.write(shard)


def score(llm: LocalLLM, surface: Surface, documents: Sequence[Document], cache: Path) -> DocumentScores:
    """The nats of an LLM on these documents; cached by its content and theirs."""
    ids = "\n".join(sorted(d.id for d in documents))
    key = hashlib.sha256(f"{llm.fingerprint} {surface.fingerprint} {ids}".encode()).hexdigest()[:24]
    path = cache / "scores" / f"{llm.name}-{key}.json"
    if path.exists():
        return DocumentScores(**json.loads(path.read_text(encoding="utf-8")))
    path.parent.mkdir(parents=True, exist_ok=True)
    model = _on_device(llm)
    scores = score_documents(model, surface, documents, llm.context_length(), BATCH_TOKENS)
    unfinished = path.with_suffix(f".{os.getpid()}.part")
    unfinished.write_text(json.dumps({"nats": scores.nats, "set_aside": scores.set_aside}), encoding="utf-8")
    os.replace(unfinished, path)
    return scores


@hydra.main(version_base="1.3", config_path=str(Path.cwd() / "conf"), config_name="prepare")
def main(cfg: DictConfig) -> None:
    """Corpus, LLMs and traces of a configuration, and nothing else."""
    quiet_libraries()
    settings = hydra.utils.instantiate(cfg, _convert_="all")
    cache = Path(settings["cache"]).expanduser()
    prepare(settings["corpus"](cache=str(cache)), settings["target"], settings["sources"], settings["top_k"], cache)


if __name__ == "__main__":
    main()
