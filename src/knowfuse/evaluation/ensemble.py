"""What does a probability ensemble pay: LLMs of one vocabulary, whose next-token distributions are averaged?

All of them run for every token: it has the parameters, and takes the time, of all together.
"""

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64

from knowfuse.evaluation.bits_per_byte import DocumentScores, count, nats_by_row
from knowfuse.evaluation.cached import BATCH_TOKENS
from knowfuse.files import make_once, undamaged, write_whole
from knowfuse.llms.local import LocalLLM
from knowfuse.surface.tokens import TokenizedDocuments, tokenize_documents
from knowfuse.text.document import Document
from knowfuse.text.documents import Documents

ROUNDS = 200  # of expectation maximisation, after which the weights of a few LLMs stand still
Rows = dict[str, Float64[np.ndarray, "S T"]]  # by document: the nats of each member on the label of each row


class Ensemble:
    """What the members say about documents; their distributions are averaged by weights that sum to 1.

    ValueError unless all cut a text into the same tokens: a distribution is over ids, and those of another tokenizer are
    other tokens.
    """

    def __init__(self, llms: Mapping[str, LocalLLM], cache: Path) -> None:
        self.names, self.llms, self.cache = list(llms), llms, cache
        surfaces = {name: llm.surface() for name, llm in llms.items()}
        (first, surface), *others = surfaces.items()
        for name, other in others:
            if other.fingerprint != surface.fingerprint:
                raise ValueError(
                    f"{first!r} and {name!r} have different tokenizers, so their next-token distributions are over different "
                    "tokens and have no mean: an ensemble needs LLMs of one tokenizer; fuse these instead"
                )
        self.surface, self.max_tokens = surface, min(llm.context_length() for llm in llms.values())

    def score(self, documents: Sequence[Document], weights: Mapping[str, float] | None = None) -> DocumentScores:
        """The nats that it pays on each document; None: every member weighs the same."""
        tokens = tokenize_documents(self.surface, documents, self.max_tokens)
        scores = DocumentScores({}, tokens.set_aside)
        each = np.array([1 / len(self.names) if weights is None else weights[name] for name in self.names])
        for name, nats in self._rows(documents, tokens).items():
            paid = -np.log(each @ np.exp(-nats))
            count(scores, name, tokens[name], torch.from_numpy(paid), " + ".join(self.names))
        return scores

    def weights(self, documents: Sequence[Document]) -> dict[str, float]:
        """Those by which it pays least on these documents, which are not the ones that it is judged by.

        Source: the weights of a mixture whose components are known, by expectation maximisation (Dempster et al. 1977).
        """
        rows = self._rows(documents, tokenize_documents(self.surface, documents, self.max_tokens))
        said = np.exp(
            -np.concatenate([nats[:, :-1] for nats in rows.values()], 1)
        )  # [S, rows]; the last predicts nothing
        weights = np.full(len(said), 1 / len(said))
        for _ in range(ROUNDS):
            share = weights[:, None] * said
            weights = (share / share.sum(0)).mean(1)
        return dict(zip(self.names, weights.tolist(), strict=True))

    def _rows(self, documents: Sequence[Document], tokens: TokenizedDocuments) -> Rows:
        """One member after another, so that no two are in memory; each from the cache where it has read these before."""
        each = [self._nats(llm, Documents.of(documents).key, tokens) for llm in self.llms.values()]
        ends = np.cumsum([len(tokens[name].ends) for name in tokens])[:-1]
        parts = zip(*(np.split(nats, ends) for nats in each), strict=True)
        return {name: np.stack(part) for name, part in zip(tokens, parts, strict=True)}

    def _nats(self, llm: LocalLLM, key: str, tokens: TokenizedDocuments) -> Float64[np.ndarray, " rows"]:
        """Of one member on the label of every row, a document after another."""
        state = f"{llm.fingerprint} {self.surface.fingerprint} {key} {self.max_tokens}"
        file = self.cache / "rows" / f"{llm.name}-{hashlib.sha256(state.encode()).hexdigest()[:24]}.npy"

        def read() -> None:
            with llm.to_read(self.cache) as model, nats_by_row(model, llm.name, tokens, BATCH_TOKENS) as rows:
                paid = dict(rows)
            nats = [paid[name][: len(tokens[name].ends)].double().numpy() for name in tokens]
            kept = io.BytesIO()
            np.save(kept, np.concatenate(nats))
            write_whole(file, kept.getvalue())

        make_once(file, read)
        with undamaged(file):
            return np.load(file)
