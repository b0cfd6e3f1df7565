"""What does a source LLM expect next, at each token of each document? One forward pass per batch of documents."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from knowfuse.corpus import Document
from knowfuse.surface import Surface, UnspellableDocument
from knowfuse.types import SourceTrace, TokenizedDocument, TopK

ROWS_AT_ONCE = 4096  # rows whose full float32 log-softmax is alive at one time


def tokenize_documents(
    surface: Surface, documents: Sequence[Document], max_tokens: int
) -> tuple[dict[str, TokenizedDocument], dict[str, str]]:
    """Tokenised documents by id, and those this LLM cannot read with the reason (bytes that differ, too many tokens)."""
    read: dict[str, TokenizedDocument] = {}
    set_aside: dict[str, str] = {}
    for document in documents:
        try:
            tokens = surface.tokenize(document.text, document.is_complete)
        except UnspellableDocument as reason:
            set_aside[document.id] = str(reason)
            continue
        if len(tokens.input_ids) > max_tokens:
            set_aside[document.id] = f"{len(tokens.input_ids)} tokens, {surface.name!r} can hold {max_tokens}"
        else:
            read[document.id] = tokens
    return read, set_aside


def length_buckets(lengths: dict[str, int], batch_tokens: int) -> Iterator[list[str]]:
    """Batches of documents of near-equal length with at most `batch_tokens` tokens, padding included."""
    batch: list[str] = []
    for name in sorted(lengths, key=lambda d: (lengths[d], d)):
        if batch and lengths[name] * (len(batch) + 1) > batch_tokens:
            yield batch
            batch = []
        batch.append(name)
    if batch:
        yield batch


def trace_documents(
    model: PreTrainedModel,
    surface: Surface,
    documents: dict[str, TokenizedDocument],
    top_k: int,
    batch_tokens: int,
    advance: Callable[[int], None] = lambda tokens: None,
) -> Iterator[dict[str, SourceTrace]]:
    """The traces of the documents, batch by batch; `advance` is told how many tokens were read.

    Raises ValueError where `top_k` exceeds the vocabulary, or the source's logits are not finite (named: source,
    document).
    """
    if top_k > surface.vocabulary_size:
        raise ValueError(
            f"top_k is {top_k}, but source {surface.name!r} has a vocabulary of {surface.vocabulary_size}: set top_k lower"
        )
    has_entry = torch.tensor([bool(s) for s in surface.token_strings], device=model.device)
    model.eval()
    for batch in length_buckets({d: len(t.input_ids) for d, t in documents.items()}, batch_tokens):
        tokens = [documents[d] for d in batch]
        padded = torch.zeros(len(batch), max(len(t.input_ids) for t in tokens), dtype=torch.int64)
        for row, document in zip(padded, tokens, strict=True):
            row[: len(document.input_ids)] = torch.from_numpy(document.input_ids)
        with torch.inference_mode():
            # Causal attention never looks right, so padding on the right needs no mask.
            logits = model(input_ids=padded.to(model.device), use_cache=False).logits
            yield {
                name: _reduce(logits[n, : len(t.input_ids)], t, name, surface, has_entry, top_k)
                for n, (name, t) in enumerate(zip(batch, tokens, strict=True))
            }
        advance(sum(len(t.input_ids) for t in tokens))


def _reduce(
    logits: Float[Tensor, "U V"], tokens: TokenizedDocument, name: str, surface: Surface, has_entry: Tensor, top_k: int
) -> SourceTrace:
    """Keep the K most probable tokens of each row and the nats of the true next one."""
    if not bool(torch.isfinite(logits).all()):
        raise ValueError(
            f"source {surface.name!r} returned NaN or infinite logits on document {name}: check its dtype and weights"
        )
    nexts = torch.from_numpy(np.append(tokens.input_ids[1:], 0)).to(logits.device)
    ids, log_probs, nll = [], [], []
    for rows in range(0, len(logits), ROWS_AT_ONCE):
        chunk = logits[rows : rows + ROWS_AT_ONCE].float().log_softmax(-1)  # over the full vocabulary, padded rows too
        nll.append(-chunk.gather(-1, nexts[rows : rows + ROWS_AT_ONCE, None])[:, 0])
        kept = chunk[:, : len(has_entry)].masked_fill(~has_entry[: chunk.shape[-1]], float("-inf")).topk(top_k, dim=-1)
        ids.append(kept.indices)
        log_probs.append(kept.values)
    spent = torch.cat(nll).cpu().numpy()
    spent[-1] = 0.0
    return SourceTrace(
        input_ids=tokens.input_ids,
        ends=tokens.ends,
        topk=TopK(torch.cat(ids).cpu().numpy(), torch.cat(log_probs).cpu().numpy()),
        nll=spent,
    )
