"""What does a source LLM expect next, at each token of each document? One forward pass per batch of documents."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from transformers import PreTrainedModel

from knowfuse.llms.checks import require_embedded
from knowfuse.llms.dispatched import input_device
from knowfuse.llms.head import RowLogits, row_logits
from knowfuse.llms.isolation import length_borders
from knowfuse.surface import Surface
from knowfuse.traces.drawing import draw_, drawn_trace, uniforms
from knowfuse.traces.largest import largest
from knowfuse.types import EMPTY, Kept, SourceTrace, TokenizedDocument, TopK

Name = TypeVar("Name", str, int)

LOGITS_AT_ONCE = (2**23, 2**28)  # float32 logits alive at one time: on a CPU, on a GPU
LOGITS_IN_CACHE = 2**20  # that a CPU core reduces without going to memory
MOST_PADDED = 1.125  # tokens of a batch with its padding, over those without
FEWEST_ROWS = 256  # of which the head still makes a fast matrix product


def length_buckets(lengths: Mapping[Name, int], batch_tokens: int, borders: Sequence[int] = ()) -> Iterator[list[Name]]:
    """Batches of documents of near-equal length with at most `batch_tokens` tokens, padding included, which is a ninth at most.

    A batch has documents on one side of each length in `borders`: those of at most so many tokens, or longer ones.
    """
    batch: list[Name] = []
    tokens = side = 0
    for name in sorted(lengths, key=lambda d: (lengths[d], d)):
        beyond = sum(lengths[name] > border for border in borders)
        padded, tokens = lengths[name] * (len(batch) + 1), tokens + lengths[name]
        if batch and (padded > batch_tokens or padded > MOST_PADDED * tokens or beyond != side):
            yield batch
            batch, tokens = [], lengths[name]
        batch.append(name)
        side = beyond
    if batch:
        yield batch


def trace_documents(
    model: PreTrainedModel,
    surface: Surface,
    documents: Mapping[str, TokenizedDocument],
    top_k: int,
    batch_tokens: int,
    advance: Callable[[int], None] = lambda tokens: None,
    kept: Kept = "topk",
) -> Iterator[dict[str, SourceTrace]]:
    """The traces of the documents, batch by batch; `advance` is told how many tokens were read.

    Of each row `top_k` tokens are kept, the most probable or drawn ones (`traces.drawing`).

    Raises ValueError where `top_k` exceeds what the source can name, a token id the rows of the embedding, or where the
    source's logits are not finite (named: source, document).
    """
    surface.require_top_k(top_k)
    largest = max((int(t.input_ids.max(initial=-1)) for t in documents.values()), default=-1)
    require_embedded(model, surface.name, largest)
    model.eval()
    has_entry = torch.tensor([bool(s) for s in surface.token_strings[: surface.usable]], device=input_device(model))
    with torch.inference_mode():
        llm = row_logits(model)
        lengths = {d: len(t.input_ids) for d, t in documents.items()}
        for batch in length_buckets(lengths, batch_tokens, length_borders(model.config)):
            tokens = [documents[d] for d in batch]
            uniform = _uniforms(batch, tokens) if kept == "sampled" else None
            yield _traces(batch, tokens, _said(llm, tokens, has_entry, top_k, uniform), surface.name, kept)
            advance(sum(len(t.input_ids) for t in tokens))


def _uniforms(names: Sequence[str], documents: Sequence[TokenizedDocument]) -> Float64[Tensor, " N"]:
    rows = [uniforms(name, len(tokens.input_ids)) for name, tokens in zip(names, documents, strict=True)]
    return torch.from_numpy(np.concatenate(rows))


def _said(
    llm: RowLogits,
    documents: Sequence[TokenizedDocument],
    has_entry: Tensor,
    top_k: int,
    uniform: Float64[Tensor, " N"] | None,
) -> tuple[np.ndarray, ...]:
    """Kept ids, log-probabilities or counts, and the nats of the next token, the rows of all documents one after another."""
    padded = torch.zeros(len(documents), max(len(t.input_ids) for t in documents), dtype=torch.int64)
    is_token = torch.zeros_like(padded, dtype=torch.bool)
    for n, document in enumerate(documents):
        padded[n, : len(document.input_ids)] = torch.from_numpy(document.input_ids)
        is_token[n, : len(document.input_ids)] = True
    # Causal attention never looks right, so padding on the right needs no mask; the head sees none of it.
    read = llm.read(padded.to(has_entry.device))
    padded, is_token, has_entry = (part.to(read.device) for part in (padded, is_token, has_entry))
    hidden, nexts = read[is_token], padded.roll(-1, 1)[is_token]
    is_gpu = hidden.device.type == "cuda"
    rows = max(FEWEST_ROWS, LOGITS_AT_ONCE[is_gpu] // len(has_entry))
    in_cache = rows if is_gpu else max(1, LOGITS_IN_CACHE // len(has_entry))
    nameless = (~has_entry).nonzero()[:, 0]  # asked once: on a GPU everything waits for the answer
    of_rows = [nexts] if uniform is None else [nexts, uniform.to(nexts.device)]
    kept = [
        _keep(logits, len(has_entry), nameless, top_k, *parts)
        for chunk, *chunk_parts in zip(llm.logits(hidden, rows), *(part.split(rows) for part in of_rows), strict=True)
        for logits, *parts in zip(chunk.split(in_cache), *(part.split(in_cache) for part in chunk_parts), strict=True)
    ]
    return tuple(torch.cat(part).cpu().numpy() for part in zip(*kept, strict=True))


def _keep(
    logits: Float[Tensor, "N V"],
    entries: int,
    nameless: Int[Tensor, " n"],
    top_k: int,
    nexts: Int[Tensor, " N"],
    uniform: Float64[Tensor, " N"] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The K most probable tokens of each row, and the nats of the true next one; NaN where the logits are not finite.

    Of the first `entries`, but for the nameless.
    With `uniform`, drawn tokens and how often each was drawn.
    """
    entries = min(entries, logits.shape[-1])
    if len(nameless):
        nameless = nameless[nameless < entries]
    if uniform is not None:
        probs = logits.float().softmax(-1)
        best = probs.max(-1, keepdim=True)
        nll = (logits.gather(1, best.indices).float() - best.values.log() - logits.gather(1, nexts[:, None]).float())[
            :, 0
        ]
        return *draw_(probs[:, :entries].index_fill_(1, nameless, 0.0), nexts, uniform, top_k), nll
    log_probs = logits.float().log_softmax(-1)  # over the full vocabulary, padded rows of the head too
    nll = -log_probs.gather(-1, nexts[:, None])[:, 0]
    return *largest(log_probs[:, :entries].index_fill_(1, nameless, EMPTY), top_k), nll


def _traces(
    names: Sequence[str], documents: Sequence[TokenizedDocument], said: tuple[np.ndarray, ...], source: str, kept: Kept
) -> dict[str, SourceTrace]:
    """The rows of a batch, cut into its documents."""
    traces, start = {}, 0
    for name, tokens in zip(names, documents, strict=True):
        ids, of_slots, nll = (part[start : start + len(tokens.input_ids)] for part in said)
        if not np.isfinite(nll).all() or np.isnan(of_slots).any():
            raise ValueError(
                f"source {source!r} returned NaN or infinite logits on document {name}: check its dtype and weights"
            )
        nll = nll.copy()
        nll[-1] = 0.0
        if kept == "sampled":
            traces[name] = drawn_trace(tokens, ids, of_slots, nll)
        else:
            traces[name] = SourceTrace(tokens.input_ids, tokens.ends, TopK(ids, of_slots), nll)
        start += len(tokens.input_ids)
    return traces
