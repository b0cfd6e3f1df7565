"""What if only the tokens that both vocabularies have were known, and of the others only their ranks? GOLD's hybrid.

Source: Patiño et al., "Unlocking On-Policy Distillation for Any Model Family" (GOLD), Hugging Face, 2025-10-29,
https://huggingface.co/spaces/HuggingFaceH4/on-policy-distillation; the ranks are those of ULD, arXiv 2402.12030.

A source token whose string the target has keeps its target id. The others, the most probable first, become ranks in the
*remainder*: the target's tokens whose string no source of the run has. Rank k stands in a slot as the k-th id of the
remainder, which no string leads to, so that fusion merges ids and ranks alike; the loss puts the target LLM's own k-th most
probable token of the remainder in its place. Beside a source of the target's own tokenizer the remainder is empty: what the others
share no string for is tail.

Differs: GOLD adds two losses, one over the shared tokens and one between sorted probabilities; here both are one
distribution, and the loss is ours. GOLD joins tokens until both texts agree; here a row is served where both tokenizers have a
boundary at one byte, as by `rank_matched`. Special tokens are no text, and have neither id nor rank but for EOS, by role.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from knowfuse.alignment.duplicates import merge_duplicates
from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.printed import with_common_mark
from knowfuse.alignment.rank_matched import ranks_to_ids
from knowfuse.alignment.spent import spent_on_target_tokens
from knowfuse.alignment.vocabulary_map import identical_strings
from knowfuse.types import (
    EMPTY,
    AlignedSource,
    AlignedSources,
    Aligner,
    FusedTarget,
    SourceTrace,
    TokenizedDocument,
    TopK,
)


def hybrid(pair: TokenizerPair) -> Aligner:
    """The aligner for a pair of tokenizers, and for those of the run's other sources."""
    id_map = identical_strings(pair.source, pair.target)
    is_text = np.array([token is not None for token in with_common_mark(pair.source)], dtype=bool)
    return partial(align_hybrid, id_map=id_map, is_ranked=is_text & (id_map < 0), remainder=remainder_of(pair))


def remainder_of(pair: TokenizerPair) -> Int[np.ndarray, " R"]:
    """The target ids, rising, of the strings that the target has and no source does."""
    theirs = {token for source in (pair.source, *pair.others) for token in with_common_mark(source)}
    ours = enumerate(with_common_mark(pair.target))
    return np.array([i for i, token in ours if token is not None and token not in theirs], dtype=np.int64)


def align_hybrid(
    trace: SourceTrace,
    target: TokenizedDocument,
    data: bytes,
    *,
    id_map: Int[np.ndarray, " V"],
    is_ranked: Bool[np.ndarray, " V"],
    remainder: Int[np.ndarray, " R"],
) -> AlignedSource:
    """One source's word on the rows that begin where one of its own does; source ids with a rank are `is_ranked`.

    What has neither id nor rank, and what the remainder is too small for, goes to the tail.
    """
    rows = rows_at_one_byte(trace.ends, target.ends)
    log_probs = trace.topk.log_probs[rows]
    kept = np.where(log_probs > EMPTY, trace.topk.ids[rows], 0)
    ids = _with_ranks(id_map[kept], np.where(is_ranked[kept], log_probs, np.float32(EMPTY)), remainder)
    topk, tail = merge_duplicates(ids, np.where(rows[:, None] >= 0, np.exp(log_probs, dtype=np.float64), 0.0))
    nll, source_tokens = spent_on_target_tokens(trace, target)
    return AlignedSource(topk, tail, nll, source_tokens, rows >= 0, is_by_rank=True, remainder=remainder)


def rows_at_one_byte(source_ends: Int[np.ndarray, " U"], target_ends: Int[np.ndarray, " T"]) -> Int[np.ndarray, " T"]:
    """The source row that ends where each target row does, -1 for none; of several at one byte, last is with last."""
    theirs = source_ends[:-1]  # the last row of a document predicts nothing
    rows = np.full(len(target_ends), -1, dtype=np.int64)
    if len(theirs) == 0:
        return rows
    ours = target_ends[:-1]
    after = np.searchsorted(ours, ours, side="right") - 1 - np.arange(len(ours))  # rows that end here too
    found = np.searchsorted(theirs, ours, side="right") - 1 - after
    rows[:-1] = np.where((found >= 0) & (theirs[found] == ours), found, -1)
    return rows


def _with_ranks(
    ids: Int[np.ndarray, "T K"], ranked: Float32[np.ndarray, "T K"], remainder: Int[np.ndarray, " R"]
) -> Int[np.ndarray, "T K"]:
    """The ids, and those of the remainder for the slots in `ranked`, which holds log-probabilities, `EMPTY` for others."""
    order = np.argsort(-ranked, axis=-1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(order.shape[-1]), order.shape), axis=-1)
    by_rank = np.append(remainder, -1)[np.minimum(ranks, len(remainder))]
    return np.where(ranked > EMPTY, by_rank, ids)


def remainder_to_ids(
    fused: FusedTarget, logits: Float[Tensor, "B T V"], *, remainder: Int[Tensor, " R"]
) -> FusedTarget:
    """The fused target over the target LLM's tokens: the k-th id of the remainder is its k-th most probable of these."""
    if len(remainder) == 0:
        return fused
    width = min(fused.topk.ids.shape[-1], len(remainder))  # ranks are counted in slots
    order = remainder[torch.topk(logits.detach()[..., remainder], width, dim=-1).indices]
    ranks = torch.searchsorted(remainder, fused.topk.ids).clamp(max=len(remainder) - 1)
    by_rank = order.gather(-1, ranks.clamp(max=width - 1))
    ids = torch.where(remainder[ranks] == fused.topk.ids, by_rank, fused.topk.ids)
    return replace(fused, topk=TopK(ids, fused.topk.log_probs))


def resolution(sources: AlignedSources) -> Callable[[FusedTarget, Tensor], FusedTarget] | None:
    """What gives the ranks of these sources' fused target their ids at the loss; None where ids are ids."""
    if not sources.is_by_rank:
        return None
    return ranks_to_ids if sources.remainder is None else partial(remainder_to_ids, remainder=sources.remainder)
