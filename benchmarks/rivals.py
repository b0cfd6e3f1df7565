"""What do several LLMs of one architecture make together without being fused? Ensembles and merges, for `benchmarks/study.py`."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from knowfuse.evaluation import BATCH_TOKENS, DocumentScores, Ensemble, by_document, cached_scores, score_documents
from knowfuse.llms.local import LocalLLM, localize
from knowfuse.llms.merging import Merging, merge
from knowfuse.runs.judged import OWN_TEXT, Judged
from knowfuse.text.corpus import Corpus
from knowfuse.text.document import Document, Split
from knowfuse.types import LLMSpec

# Every way to merge, with the parameters among which validation chooses; mergekit's own names.
MERGES = {
    "average": Merging("linear"),
    **{
        f"ties, density {d}, weight {w}": Merging("ties", each={"density": d, "weight": w})
        for d in (0.2, 0.6)
        for w in (0.5, 1.0)
    },
    **{f"sce, top {k}": Merging("sce", shared={"select_topk": k}) for k in (0.1, 0.5, 1.0)},
}

SIDES: tuple[Split, ...] = ("validation", "test")


@dataclass(frozen=True)
class Rival:
    """Something that answers without having been trained here: what it pays, and what it takes to run it."""

    name: str
    validation: float  # bits per byte, mean over the domains
    test: Judged
    parameters: int  # of all LLMs that run for a token
    knows: str  # what it was given beside the LLMs


@dataclass
class Rivals:
    """The rivals of fusion on one corpus; what they make is in the cache."""

    corpus: Corpus
    cache: Path
    parameters: int  # of one LLM

    def alone(self, name: str, llm: LocalLLM) -> Rival:
        return self._rival(name, self._alone(llm), 1, "")

    def ensembles(self, name: str, llms: Mapping[str, LocalLLM]) -> Iterator[Rival]:
        """Each as good as another, and by the weights that are best on the fusion text."""
        members = Ensemble(llms, self.cache)
        weights = members.weights(self.corpus.split("fusion"))
        for how, each, knows in ((name, None, ""), (f"{name}, weighted", weights, "weights from the fusion text")):
            scores: dict[Split, DocumentScores] = {s: members.score(self.corpus.split(s), each) for s in SIDES}
            yield self._rival(how, scores, len(llms), knows)

    def merges(self, name: str, llms: Mapping[str, LocalLLM], base: LocalLLM) -> Iterator[tuple[Rival, LocalLLM]]:
        """The mean, and of TIES and SCE the parameters that are best on validation."""
        tried: dict[str, list[tuple[Rival, LocalLLM]]] = {}
        made_of = "-".join([base.fingerprint[:8], *sorted(llm.fingerprint[:8] for llm in llms.values())])
        for how, merging in MERGES.items():
            folder = self.cache / "merged" / f"{how.replace(', ', '-').replace(' ', '_')}-{made_of}"
            merge(llms, base, folder, merging)
            llm = localize(folder.name, LLMSpec(path=str(folder)), self.cache)
            scores = self._alone(llm)
            knows = "" if merging.method == "linear" else "its parameters from validation"
            tried.setdefault(merging.method, []).append((self._rival(f"{name}: {how}", scores, 1, knows), llm))
        for found in tried.values():
            yield min(found, key=lambda pair: pair[0].validation)

    def seconds(self, llm: LocalLLM) -> float:
        """That one LLM takes to read the test side; an ensemble takes as many times that as it has members."""
        surface, documents = llm.surface(), self.corpus.split("test")
        model = llm.load()
        began = time.perf_counter()
        score_documents(model, surface, documents, llm.context_length(), BATCH_TOKENS)
        return time.perf_counter() - began

    def _alone(self, llm: LocalLLM) -> dict[Split, DocumentScores]:
        return {side: cached_scores(llm, llm.surface(), self.corpus.split(side), self.cache) for side in SIDES}

    def _rival(self, name: str, scores: Mapping[Split, DocumentScores], llms: int, knows: str) -> Rival:
        bits = {side: by_document({name: scores[side].nats}, self.corpus.split(side)) for side in SIDES}
        validation = float(np.mean(list(bits["validation"].shared().bits_per_byte(name).values())))
        test = Judged(Path(name), {"seed": 0}, OWN_TEXT, "bits per byte on the test split", bits["test"])
        return Rival(name, validation, test, llms * self.parameters, knows)


def as_one_domain(corpus: Corpus, learn: Sequence[str], name: str, side: Split) -> Corpus:
    """The text that recipes learn from, of these domains, as one domain and on this side; and their validation side."""
    texts = [
        Document(document.text, name, side if split == "sources" else split, document.is_complete)
        for split in ("sources", "validation")
        for domain in learn
        for document in corpus.split(split, domain=domain)
    ]
    return Corpus.of(name, texts)
