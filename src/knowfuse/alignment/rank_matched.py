"""What if nobody knew which token is which? The k-th most probable source token meets the target's k-th: ULD.

The baseline that is blind to identity. Source: Boizard et al., Universal Logit Distillation, arXiv 2402.12030.
Differs: the distance there is between sorted probabilities at equal positions of two sequences. Here a row is served
where both tokenizers have a boundary at one byte, and the loss is ours: the fused target over ranks gets the ids of the
target LLM's own most probable tokens at each step, and then is a fused target like any other.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from knowfuse.alignment.pair import TokenizerPair
from knowfuse.alignment.row_classes import serving_rows
from knowfuse.alignment.spent import spent_on_target_tokens
from knowfuse.surface.turns import ends_with_eos
from knowfuse.types import EMPTY, AlignedSource, Aligner, FusedTarget, SourceTrace, TokenizedDocument, TopK


def rank_matched(pair: TokenizerPair) -> Aligner:
    """The aligner for a pair of tokenizers."""
    return partial(align_ranks, vocabulary_size=pair.target.usable)


def align_ranks(trace: SourceTrace, target: TokenizedDocument, data: bytes, *, vocabulary_size: int) -> AlignedSource:
    """One source's word on the rows that begin where one of its own does; ids are ranks from 0 on.

    What a target that can say `vocabulary_size` tokens has no rank for goes to the tail.
    """
    rows = serving_rows(trace.ends, target.ends)
    is_aligned = trace.ends[rows] == target.ends
    is_aligned[-1] = False
    if ends_with_eos(target.ends) and not ends_with_eos(trace.ends):
        is_aligned[-2] = False
    if len(trace.ends) < 2:
        is_aligned[:] = False
    sorted_probs = -np.sort(-trace.topk.log_probs, axis=-1)[:, :vocabulary_size]
    log_probs = sorted_probs[rows]
    ranks = np.where(log_probs > EMPTY, np.arange(log_probs.shape[-1]), 0)
    tail = np.clip(1.0 - np.exp(log_probs, dtype=np.float64).sum(-1), 0.0, 1.0).astype(np.float32)
    nll, source_tokens = spent_on_target_tokens(trace, target)
    return AlignedSource(TopK(ranks, log_probs), tail, nll, source_tokens, is_aligned, is_by_rank=True)


def ranks_to_ids(fused: FusedTarget, logits: Float[Tensor, "B T V"]) -> FusedTarget:
    """The fused target over the target LLM's tokens: rank k is its k-th most probable next token of the row."""
    width = min(fused.topk.ids.shape[-1], logits.shape[-1])  # a rank is below V, and ids are unique: no more are filled
    order = torch.topk(logits.detach(), width, dim=-1).indices
    ids = order.gather(-1, fused.topk.ids.clamp(max=width - 1))
    return replace(fused, topk=TopK(ids, fused.topk.log_probs))
