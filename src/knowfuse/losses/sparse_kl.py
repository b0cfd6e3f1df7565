"""What do logits cost against labels and a sparse target, and which way should they go?

The KL is sparse: `sum_k p_k log(p_k / q_k)` over the slots of the fused target plus a tail bucket
`p_tail log(p_tail / q_tail)`; it is never negative, at most the full KL, and zero only for q = p. One log-sum-exp over
the vocabulary serves CLM and KL. It is computed over what the slots leave and joined with the slots', so that
`log q_tail` needs no subtraction.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor
from torch.nn import functional as F

from knowfuse.types import EMPTY, IGNORE, FusedTarget

Form = Literal["tail", "renormalised"]
Gate = Literal["none", "better"]


@dataclass
class RowLosses:
    """What each row costs, in nats; 0 where a row has no label."""

    clm: Float[Tensor, " N"]
    kl: Float[Tensor, " N"]
    acts: Bool[Tensor, " N"]  # the rows on which the KL acts


@dataclass
class _Slots:
    """The slots of N rows made whole: an empty one repeats the row's first, with no probability."""

    ids: Int[Tensor, "N K"]
    log_p: Float[Tensor, "N K"]
    tail: Float[Tensor, " N"]
    is_counted: Bool[Tensor, "N K"]  # each id once
    has_target: Bool[Tensor, " N"]


def sparse_loss_(
    logits: Float[Tensor, "N V"],
    labels: Int[Tensor, " N"],
    fused: FusedTarget | None,
    *,
    lm_weight: float,
    form: Form,
    gate: Gate,
    vocabulary_size: int,
) -> RowLosses:
    """The losses of each row; `logits` become the gradient of `sum(lm_weight * clm + (1 - lm_weight) * kl)`, in place.

    `logits` are float32 or float64, and `fused` has N rows as [1, N]. Columns from `vocabulary_size` on are padding: the
    softmax runs over them as the LLM's own does, but no label, slot or tail is theirs, so they only lose.
    With `G` the target mass of a row (lm_weight and the KL's weight) the gradient is `q * G - weight * p` in the slots,
    `(q_tail * G - weight * p_tail) * softmax over the rest` outside them, and `-lm_weight` more at the label.
    Everything is finite however small `q_tail` is.
    """
    is_labelled = labels != IGNORE
    gold = labels.clamp(min=0)[:, None]
    slots = _slots(fused, gold)
    known, padding = logits[:, :vocabulary_size], logits[:, vocabulary_size:]

    gold_logits, slot_logits = logits.gather(1, gold), logits.gather(1, slots.ids)
    rest = known.scatter_(1, slots.ids, torch.finfo(logits.dtype).min)
    top = rest.amax(1, keepdim=True)
    rest.sub_(top).exp_()
    total = rest.sum(1, keepdim=True)
    log_rest = top + total.log()
    parts = [log_rest, slot_logits.masked_fill(~slots.is_counted, EMPTY)]
    lse = torch.cat([*parts, padding.logsumexp(1, keepdim=True)] if padding.shape[1] else parts, 1).logsumexp(1, True)
    log_q, log_q_tail, log_q_gold = slot_logits - lse, (log_rest - lse)[:, 0], (gold_logits - lse)[:, 0]

    acts = is_labelled & slots.has_target
    if gate == "better":
        acts = acts & (torch.where(slots.ids == gold, slots.log_p, EMPTY).amax(1) > log_q_gold)
    p, p_tail = _target_probs(slots, form, vocabulary_size)
    p, p_tail = p.masked_fill(~acts[:, None], 0.0).to(lse.dtype), p_tail.masked_fill(~acts, 0.0).to(lse.dtype)
    losses = RowLosses(-torch.where(is_labelled, log_q_gold, 0.0), _sparse_kl(p, p_tail, log_q, log_q_tail), acts)

    weight, lm_weights = 1.0 - lm_weight, lm_weight * is_labelled.to(lse.dtype)
    mass = (lm_weights + weight * (p.sum(1) + p_tail))[:, None]
    rest.mul_((log_q_tail.exp()[:, None] * mass - weight * p_tail[:, None]) / total)
    if padding.shape[1]:
        padding.sub_(lse).exp_().mul_(mass)
    in_slots = (log_q.exp() * mass - weight * p).masked_fill(~slots.is_counted, 0.0)
    logits.scatter_add_(1, slots.ids, in_slots)
    logits.scatter_add_(1, gold, -lm_weights[:, None])
    return losses


def require_lm_weight(lm_weight: float) -> None:
    """ValueError unless the weight lies in [0, 1]."""
    if not 0.0 <= lm_weight <= 1.0:
        raise ValueError(f"lm_weight (the paper's lambda) must lie in [0, 1], got {lm_weight}")


def token_nll(logits: Float[Tensor, "N V"], labels: Int[Tensor, " N"]) -> Float32[Tensor, " N"]:
    """Nats of each label; 0 on rows without one."""
    return F.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="none")


def _slots(fused: FusedTarget | None, gold: Int[Tensor, "N 1"]) -> _Slots:
    """The slots of the fused target; a row without any, or without target, has its label as one of no probability."""
    if fused is None:
        nothing = torch.full_like(gold, EMPTY, dtype=torch.float32)
        everywhere = torch.ones_like(gold, dtype=torch.bool)
        return _Slots(gold, nothing, nothing[:, 0], everywhere, ~everywhere[:, 0])
    is_filled = (fused.topk.log_probs[0] > EMPTY) & fused.has_target[0, :, None]
    has_target = is_filled.any(1)
    ids = torch.where(has_target[:, None], fused.topk.ids[0], gold)
    first = is_filled.int().argmax(1, keepdim=True)
    is_first = torch.zeros_like(is_filled).scatter_(1, first, True)
    return _Slots(
        ids=torch.where(is_filled, ids, ids.gather(1, first)).long(),
        log_p=fused.topk.log_probs[0].masked_fill(~is_filled, EMPTY),
        tail=fused.tail[0],
        is_counted=is_filled | is_first,
        has_target=has_target,
    )


def _target_probs(
    slots: _Slots, form: Form, vocabulary_size: int
) -> tuple[Float32[Tensor, "N K"], Float32[Tensor, " N"]]:
    """The probabilities of the slots and of the tail bucket; NaN in rows without slots under `renormalised`."""
    if form == "renormalised":
        return slots.log_p.softmax(1), torch.zeros_like(slots.tail)
    covers_all = (slots.log_p > EMPTY).sum(1) >= vocabulary_size  # nothing is left that a rounded tail could be of
    return slots.log_p.exp(), slots.tail.masked_fill(covers_all, 0.0)


def _sparse_kl(
    p: Float[Tensor, "N K"], p_tail: Float[Tensor, " N"], log_q: Float[Tensor, "N K"], log_q_tail: Float[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """Nats; exactly 0 where `p` and `p_tail` are."""
    negative_entropy = torch.xlogy(p, p).sum(1) + torch.xlogy(p_tail, p_tail)
    return negative_entropy - (p * log_q).sum(1) - p_tail * log_q_tail
