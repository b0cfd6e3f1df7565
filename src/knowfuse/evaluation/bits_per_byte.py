"""How many bits per byte does an LLM pay on held-out text?

Bits per byte compare across tokenizers; perplexities do not. What is counted is every byte of a document, from the first
on. The EOS of a complete document is no byte of it: what that costs says where an LLM expects texts to end, not how well it
knows them (8-20 nats with LLMs whose EOS ends a chat turn), and is counted apart.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from knowfuse.evaluation.batches import batches_of, in_rows
from knowfuse.evaluation.by_document import ByDocument, by_document
from knowfuse.evaluation.byte_classes import nats_by_class
from knowfuse.evaluation.completions import Completed
from knowfuse.llms.checks import require_embedded
from knowfuse.llms.dispatched import input_device
from knowfuse.llms.head import row_logits
from knowfuse.llms.isolation import length_borders
from knowfuse.progress import counting
from knowfuse.ranks import ALONE, Ranks
from knowfuse.surface import Surface
from knowfuse.surface.tokens import TokenizedDocuments, tokenize_documents
from knowfuse.surface.turns import learnt_rows, num_ends
from knowfuse.text.corpus import Document
from knowfuse.traces.asking import nats_served
from knowfuse.traces.served import ServedLLM
from knowfuse.types import TokenizedDocument

Nats = TypeVar("Nats")


@dataclass
class DocumentScores:
    """Nats paid on each document, by document id, and the documents that could not be read with the reason."""

    nats: dict[str, float]  # on its text, the first token among it
    set_aside: dict[str, str]
    # On the EOS, where the document is complete; of a conversation the mean of the ends of its turns.
    eos_nats: dict[str, float] = field(default_factory=dict)
    first_nats: dict[str, float] = field(default_factory=dict)  # on the first token, whose bytes are the text's too
    # of `byte_classes`, by name: their bytes and the nats on them; where that was asked for
    by_class: dict[str, dict[str, tuple[int, float]]] = field(default_factory=dict)


def score_documents(
    model: PreTrainedModel,
    surface: Surface,
    documents: Sequence[Document],
    max_tokens: int,
    batch_tokens: int,
    mine: Ranks = ALONE,
    by_class: bool = False,
) -> DocumentScores:
    """The nats an LLM pays on each document, in float32; one of several processes reads its share of them.

    `by_class`: on indentation and numerals too (`byte_classes`).

    ValueError for tokens that it has no embedding of, and for nats that are not finite.
    """
    tokens = tokenize_documents(surface, documents, max_tokens)
    scores = DocumentScores({}, tokens.set_aside)
    with nats_by_row(model, surface.name, tokens, batch_tokens, mine) as rows:
        for name, nats in rows:
            count(scores, name, tokens[name], nats, surface.name, tokens.data_of(name) if by_class else None)
    return scores


@contextmanager
def nats_by_row(
    model: PreTrainedModel, llm: str, tokens: TokenizedDocuments, batch_tokens: int, mine: Ranks = ALONE
) -> Iterator[Iterator[tuple[str, Float[Tensor, " T"]]]]:
    """By document id: the nats that an LLM of this name pays on the label of each row, padding after it; rows without a label are 0.

    One of several processes gets its share of the documents. They come under a bar over their tokens.

    ValueError for tokens that it has no embedding of.
    """
    batches = batches_of(tokens, batch_tokens, mine, length_borders(model.config))
    with _shown(llm, tokens, chain.from_iterable(batches), _nats_by_row(model, llm, tokens, batches)) as rows:
        yield rows


@contextmanager
def _shown(
    llm: str, tokens: TokenizedDocuments, names: Iterable[str], rows: Iterable[tuple[str, Nats]]
) -> Iterator[Iterator[tuple[str, Nats]]]:
    """What an LLM pays on these documents, as it comes, under a bar over their tokens."""
    lengths = tokens.lengths
    with counting(f"scores {llm}", sum(lengths[name] for name in names), stays=False) as advance:

        def counted() -> Iterator[tuple[str, Nats]]:
            for name, nats in rows:
                yield name, nats
                advance(lengths[name])

        yield counted()


def _nats_by_row(
    model: PreTrainedModel, llm: str, tokens: TokenizedDocuments, batches: Sequence[Sequence[str]]
) -> Iterator[tuple[str, Float[Tensor, " T"]]]:
    require_embedded(model, llm, tokens.largest_id)
    was_training = model.training
    model.eval()
    logits, device = row_logits(model), input_device(model)
    for batch in batches:
        ids, labels = (rows.to(device) for rows in in_rows(tokens, batch))
        with torch.inference_mode():
            paid = logits.label_nll(ids, labels)
        yield from zip(batch, paid.cpu(), strict=True)
    model.train(was_training)


def count(
    scores: DocumentScores,
    name: str,
    document: TokenizedDocument,
    nats: Float[Tensor, " T"],
    llm: str,
    data: bytes | None = None,
) -> None:
    """Enter what an LLM paid on the label of each row of a document, padding after it; rows without a label are 0.

    With `data`, its bytes, what it paid on their classes too.
    """
    paid = nats.double().numpy()
    if not np.isfinite(paid).all():
        raise ValueError(
            f"LLM {llm!r} gives the text of document {name} NaN or infinite nats: check its weights and dtype"
        )
    paid = paid[: len(document.ends)]
    is_text, is_end = learnt_rows(document)
    if is_end.any():
        scores.eos_nats[name] = float(paid[is_end].sum()) / num_ends(document)
    scores.nats[name], scores.first_nats[name] = float(paid[is_text].sum()), float(paid[is_text][0])
    if data is not None:
        scores.by_class[name] = _by_class(document, paid, data)


def _by_class(document: TokenizedDocument, paid: np.ndarray, data: bytes) -> dict[str, tuple[int, float]]:
    """The bytes and nats of each class: of a text, or of all messages of a conversation that are learnt."""
    if document.turns is None:
        return nats_by_class(document.ends, paid[learnt_rows(document)[0]], data)
    sums: dict[str, tuple[int, float]] = {}
    for turn in document.turns:
        ends = document.ends[turn.first : turn.last + 1] - turn.begin
        of_turn = nats_by_class(ends, paid[turn.first : turn.last], data[turn.begin : turn.end])
        for name, (size, nats) in of_turn.items():
            before = sums.get(name, (0, 0.0))
            sums[name] = before[0] + size, before[1] + nats
    return sums


def merged_scores(shares: Iterable[DocumentScores]) -> DocumentScores:
    """Those of one LLM on documents that several processes shared."""
    together: dict[str, dict[str, Any]] = {field.name: {} for field in fields(DocumentScores)}
    for share in shares:
        for name, found in together.items():
            found |= getattr(share, name)
    return DocumentScores(**together)


def score_served(
    llm: ServedLLM, surface: Surface, documents: Sequence[Document], by_class: bool = False
) -> DocumentScores:
    """The nats that an LLM on a server pays on each document; raises as `traces.asking.trace_served` does."""
    tokens = tokenize_documents(surface, documents, llm.context_length())
    scores = DocumentScores({}, tokens.set_aside)
    with _shown(surface.name, tokens, tokens, nats_served(llm, tokens)) as rows:
        for name, paid in rows:
            data = tokens.data_of(name) if by_class else None
            count(scores, name, tokens[name], torch.from_numpy(paid), surface.name, data)
    return scores


@dataclass
class ScoreTable:
    """Bits per byte of named LLMs by domain, over the documents that all of them can read.

    `eos_nats` and `first_nats` are means over these documents of what the EOS and the first token cost; the EOS's is
    missing where no document has one.
    """

    domains: list[str]
    rows: dict[str, dict[str, float]]  # name -> domain -> bits per byte
    by_document: ByDocument  # of all documents, those too that some LLM cannot read
    left_out: int  # documents that some LLM could not read
    eos_nats: dict[str, float] = field(default_factory=dict)  # by name
    first_nats: dict[str, float] = field(default_factory=dict)  # by name
    # by name: why it cannot read each document that it cannot
    set_aside: dict[str, list[str]] = field(default_factory=dict)
    # by name, where that was asked for: bits per byte of `byte_classes`, and how it goes on with Python
    by_class: dict[str, dict[str, float]] = field(default_factory=dict)
    completed: dict[str, Completed] = field(default_factory=dict)

    def mean(self, name: str) -> float:
        """The mean over the domains, each weighing the same."""
        return sum(self.rows[name][d] for d in self.domains) / len(self.domains)


def score_table(scores: dict[str, DocumentScores], documents: Sequence[Document]) -> ScoreTable:
    """One row per LLM, one column per domain, all over the same documents; ValueError where there is none."""
    every = by_document({name: s.nats for name, s in scores.items()}, documents)
    shared = every.shared()
    if not shared.ids:
        read = {name: len(s.nats) for name, s in scores.items()}
        raise ValueError(
            f"no document can be read by all of these LLMs, so nothing compares; of {len(documents)} documents each can "
            f"read {read}: leave out the LLM that cannot, or set corpus.max_document_bytes lower"
        )
    ids = set(shared.ids)
    return ScoreTable(
        sorted(set(shared.domains)),
        {name: shared.bits_per_byte(name) for name in scores},
        every,
        left_out=len(every.ids) - len(shared.ids),
        eos_nats={name: mean for name, s in scores.items() if (mean := _mean_over(s.eos_nats, ids)) is not None},
        set_aside={
            name: why for name, s in scores.items() if (why := [s.set_aside[i] for i in every.ids if i in s.set_aside])
        },
        first_nats={name: mean for name, s in scores.items() if (mean := _mean_over(s.first_nats, ids)) is not None},
        by_class={name: _bits_by_class(s, ids) for name, s in scores.items() if s.by_class},
    )


def _bits_by_class(scores: DocumentScores, ids: set[str]) -> dict[str, float]:
    """Bits per byte of each class of bytes that these documents have."""
    sums: dict[str, tuple[int, float]] = {}
    for i in sorted(ids):
        for name, (size, nats) in scores.by_class[i].items():
            before = sums.get(name, (0, 0.0))
            sums[name] = before[0] + size, before[1] + nats
    return {name: nats / (math.log(2) * size) for name, (size, nats) in sums.items() if size > 0}


def _mean_over(nats: dict[str, float], ids: set[str]) -> float | None:
    """Of those documents among these that have nats; None where none has."""
    paid = [nats[d] for d in sorted(ids & nats.keys())]
    return sum(paid) / len(paid) if paid else None


def oracle(scores: dict[str, DocumentScores]) -> DocumentScores:
    """What an LLM would pay that is, on the text of each document, as good as the best of these: what fusion could gain."""
    shared = set.intersection(*(set(s.nats) for s in scores.values()))
    best = {d: min(scores.values(), key=lambda s: s.nats[d]) for d in shared}
    return DocumentScores(
        {d: s.nats[d] for d, s in best.items()},
        {},
        {d: s.eos_nats[d] for d, s in best.items() if d in s.eos_nats},
        {d: s.first_nats[d] for d, s in best.items() if d in s.first_nats},
    )
