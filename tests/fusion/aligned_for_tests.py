"""Random words of S sources on the rows of packed blocks, and the same as dense float64 distributions."""

from dataclasses import dataclass

import torch
from torch import Tensor

from knowfuse.types import EMPTY, AlignedSources, TopK

VOCABULARY = 13


@dataclass
class Block:
    """What a fusion rule is called with."""

    sources: AlignedSources
    document_ids: Tensor
    label_bytes: Tensor


def random_block(num_sources: int, seed: int = 0, aligned_share: float = 0.7, k: int = 4) -> Block:
    """Two blocks of nine rows: three documents, and a last row of padding, where no source is aligned.

    Where a source is not aligned its other fields hold NaN and ids out of range: they mean nothing, so nothing may
    come of them. Some slots are empty. Row 5 ends a document with an EOS, which has no bytes.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (2, num_sources, 9)
    log_probs = (2 * torch.randn(*shape, VOCABULARY, generator=generator)).log_softmax(-1)
    kept, ids = log_probs.topk(k, dim=-1)
    kept[..., -1].masked_fill_(torch.rand(shape, generator=generator) < 0.3, EMPTY)
    ids = ids.masked_fill(kept == EMPTY, -1)
    tail = (1 - kept.double().exp().sum(-1)).float()
    is_aligned = torch.rand(shape, generator=generator) < aligned_share
    is_aligned[..., -1] = False
    nothing = ~is_aligned
    sources = AlignedSources(
        topk=TopK(ids.masked_fill(nothing[..., None], 10**9), kept.masked_fill(nothing[..., None], float("nan"))),
        tail=tail.masked_fill(nothing, float("nan")),
        nll=(3 * torch.rand(shape, generator=generator)).masked_fill(nothing, float("nan")),
        source_tokens=(0.1 + torch.rand(shape, generator=generator)).masked_fill(nothing, float("nan")),
        is_aligned=is_aligned,
    )
    label_bytes = torch.randint(1, 6, (2, 9), generator=generator)
    label_bytes[:, 5] = 0
    return Block(sources, torch.tensor([[1, 1, 1, 2, 2, 2, 3, 3, 0], [1, 1, 1, 1, 1, 1, 2, 2, 0]]), label_bytes)


def dense(topk: TopK, tail: Tensor) -> Tensor:
    """float64 probabilities over the vocabulary, and the tail as one more token: [..., V + 1]. Slot by slot."""
    assert isinstance(topk.ids, Tensor)
    assert isinstance(topk.log_probs, Tensor)
    probs = torch.zeros(*tail.shape, VOCABULARY + 1, dtype=torch.float64)
    rows, slots = probs.view(-1, VOCABULARY + 1), topk.ids.shape[-1]
    for row, ids, log_probs in zip(rows, topk.ids.reshape(-1, slots), topk.log_probs.reshape(-1, slots), strict=True):
        for i, log_prob in zip(ids.tolist(), log_probs.double(), strict=True):
            if log_prob > EMPTY:
                row[i] += log_prob.exp()
    probs[..., -1] = tail.double()
    return probs


def dense_sources(sources: AlignedSources) -> Tensor:
    """The same for every source, [B, S, T, V + 1]; zeros where it is not aligned."""
    assert isinstance(sources.tail, Tensor)
    return dense(sources.topk, sources.tail).nan_to_num(0.0) * sources.is_aligned[..., None]


def random_weights(sources: AlignedSources, seed: int = 0) -> Tensor:
    """Weights [B, S, T] of the aligned sources that sum to 1 where there is one."""
    raw = 0.01 + torch.rand(sources.is_aligned.shape, generator=torch.Generator().manual_seed(seed))
    raw = raw * sources.is_aligned
    return raw / raw.sum(1, keepdim=True).clamp(min=0.01)
