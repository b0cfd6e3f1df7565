"""How many bits per byte does an LLM pay on held-out text?

Bits per byte compare across tokenizers; perplexities do not. What is counted is every byte of a document and, where
the document is complete, its EOS.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from knowfuse.llms.checks import require_embedded
from knowfuse.llms.head import row_logits
from knowfuse.surface import Surface
from knowfuse.surface.tokens import tokenize_documents
from knowfuse.text.corpus import Document
from knowfuse.traces.reading import length_buckets
from knowfuse.types import IGNORE


@dataclass
class DocumentScores:
    """Nats paid on each document, by document id, and the documents that could not be read with the reason."""

    nats: dict[str, float]
    set_aside: dict[str, str]


def score_documents(
    model: PreTrainedModel, surface: Surface, documents: Sequence[Document], max_tokens: int, batch_tokens: int
) -> DocumentScores:
    """The nats an LLM pays on each document, in float32.

    ValueError for tokens that it has no embedding of, and for nats that are not finite.
    """
    tokens = tokenize_documents(surface, documents, max_tokens)
    require_embedded(model, surface.name, tokens.largest_id)
    nats: dict[str, float] = {}
    was_training = model.training
    model.eval()
    llm = row_logits(model)
    for batch in length_buckets(tokens.lengths, batch_tokens):
        read = [torch.from_numpy(tokens[d].input_ids) for d in batch]
        ids = torch.zeros(len(batch), max(map(len, read)), dtype=torch.int64, device=model.device)
        labels = torch.full_like(ids, IGNORE)
        for n, row in enumerate(read):
            ids[n, : len(row)] = row
            labels[n, : len(row) - 1] = row[1:]
        with torch.inference_mode():
            paid = llm.token_nll(llm.read(ids).flatten(0, 1), labels.flatten())
            spent = paid.view(labels.shape).double().sum(-1).tolist()
        if wrong := [d for d, paid in zip(batch, spent, strict=True) if not math.isfinite(paid)]:
            raise ValueError(
                f"LLM {surface.name!r} gives the text of document {wrong[0]} NaN or infinite nats: check its weights and dtype"
            )
        nats.update(zip(batch, spent, strict=True))
    model.train(was_training)
    return DocumentScores(nats, tokens.set_aside)


def bits_per_byte(nats: dict[str, float], documents: Sequence[Document]) -> float:
    """Bits per byte over these documents, all of which must have nats."""
    return sum(nats[d.id] for d in documents) / (math.log(2) * sum(d.num_bytes for d in documents))


@dataclass
class ScoreTable:
    """Bits per byte of named LLMs by domain, over the documents that all of them can read."""

    domains: list[str]
    rows: dict[str, dict[str, float]]  # name -> domain -> bits per byte
    left_out: int  # documents that some LLM could not read

    def mean(self, name: str) -> float:
        """The mean over the domains, each weighing the same."""
        return sum(self.rows[name][d] for d in self.domains) / len(self.domains)


def score_table(scores: dict[str, DocumentScores], documents: Sequence[Document]) -> ScoreTable:
    """One row per LLM, one column per domain, all over the same documents; ValueError where there is none."""
    shared = [d for d in documents if all(d.id in s.nats for s in scores.values())]
    if not shared:
        read = {name: len(s.nats) for name, s in scores.items()}
        raise ValueError(
            f"no document can be read by all of these LLMs, so nothing compares; of {len(documents)} documents each can "
            f"read {read}: leave out the LLM that cannot, or set corpus.max_document_bytes lower"
        )
    domains = sorted({d.domain for d in shared})
    rows = {
        name: {domain: bits_per_byte(s.nats, [d for d in shared if d.domain == domain]) for domain in domains}
        for name, s in scores.items()
    }
    return ScoreTable(domains, rows, left_out=len(documents) - len(shared))


def oracle(scores: dict[str, DocumentScores]) -> DocumentScores:
    """What an LLM would pay that is, on each document, as good as the best of these: what fusion could gain."""
    shared = set.intersection(*(set(s.nats) for s in scores.values()))
    return DocumentScores({d: min(s.nats[d] for s in scores.values()) for d in shared}, {})
