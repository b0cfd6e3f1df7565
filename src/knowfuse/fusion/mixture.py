"""What one sparse distribution is a weighted mixture of several?

Forward KL to several sources equals KL to their mixture plus a constant, their weighted Jensen-Shannon divergence:
`sum_s w_s KL(p_s || q) = KL(m || q) + sum_s w_s KL(p_s || m)` with `m = sum_s w_s p_s`. So every rule needs one target.
"""

import torch
from jaxtyping import Float32
from torch import Tensor

from knowfuse.types import EMPTY, AlignedSources, FusedTarget, TopK


def mixture(sources: AlignedSources, weights: Float32[Tensor, "B S T"]) -> FusedTarget:
    """The mixture of the aligned sources; ids that several sources name are merged, so K' = S * K.

    `weights` must be 0 where a source is not aligned, and sum to 1 on each row that has a source. What a source gave
    to an id that only others name is unknown, and stays in the tail.
    """
    has_target = sources.is_aligned.any(1)
    own = sources.topk.log_probs.masked_fill(~sources.is_aligned[..., None], EMPTY)  # [B, S, T, K]
    log_probs = own + weights.log()[..., None]
    tail = (weights * sources.tail.masked_fill(~sources.is_aligned, 0.0)).sum(1)
    ids = sources.topk.ids.movedim(1, 2).flatten(-2)
    topk = merge_duplicates(TopK(ids, log_probs.movedim(1, 2).flatten(-2)))
    return FusedTarget(topk=topk, tail=tail, weights=weights, has_target=has_target)


def selection(sources: AlignedSources, weights: Float32[Tensor, "B S T"]) -> FusedTarget:
    """The mixture where each row has all its weight on one source: that source's slots as they are, K' = K."""
    chosen = weights.argmax(1, keepdim=True)  # [B, 1, T]
    slots = chosen[..., None].expand(-1, -1, -1, sources.topk.ids.shape[-1])
    has_target = sources.is_aligned.any(1)
    log_probs = sources.topk.log_probs.gather(1, slots)[:, 0].masked_fill(~has_target[..., None], EMPTY)
    topk = TopK(sources.topk.ids.gather(1, slots)[:, 0], log_probs)
    tail = sources.tail.gather(1, chosen)[:, 0].masked_fill(~has_target, 0.0)
    return FusedTarget(topk=topk, tail=tail, weights=weights, has_target=has_target)


def merge_duplicates(topk: TopK[Tensor]) -> TopK[Tensor]:
    """The same distribution with each id once per row; the freed slots are empty and come last."""
    ids = topk.ids.masked_fill(topk.log_probs == EMPTY, -1)
    ids, order = ids.sort(dim=-1, descending=True)
    log_probs = topk.log_probs.gather(-1, order)
    is_new = torch.ones_like(ids, dtype=torch.bool)
    is_new[..., 1:] = ids[..., 1:] != ids[..., :-1]
    run = is_new.cumsum(-1) - 1
    summed = torch.zeros_like(log_probs).scatter_add_(-1, run, log_probs.exp())
    merged = torch.zeros_like(ids).scatter_(-1, run, ids.clamp(min=0))
    return TopK(merged, summed.log())


def disagreement(sources: AlignedSources) -> Float32[Tensor, "B T"]:
    """The Jensen-Shannon divergence, in nats, of the sources aligned at each row, equally weighted; tails as one token.

    Differs: the constant of the loss has the rule's weights; equal ones keep the figure comparable between rules, and
    other than 0 for rules that choose one source.
    """
    aligned = sources.is_aligned.float()
    weights = aligned / aligned.sum(1, keepdim=True).clamp(min=1.0)
    mixed = mixture(sources, weights)
    entropies = _entropy(sources.topk.log_probs, sources.tail.masked_fill(~sources.is_aligned, 0.0))
    mean_entropy = (weights * entropies.masked_fill(~sources.is_aligned, 0.0)).sum(1)
    return (_entropy(mixed.topk.log_probs, mixed.tail) - mean_entropy).clamp(min=0.0)


def _entropy(log_probs: Float32[Tensor, "*rows K"], tail: Float32[Tensor, "*rows"]) -> Float32[Tensor, "*rows"]:
    probs = log_probs.exp()
    return -(torch.xlogy(probs, probs).sum(-1) + torch.xlogy(tail, tail))
