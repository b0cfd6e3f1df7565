"""What do logits cost against labels and a sparse target, and which way should they go?

The KL is sparse: `sum_k p_k log(p_k / q_k)` over the slots of the fused target plus a tail bucket
`p_tail log(p_tail / q_tail)`; it is never negative, at most the full KL, and zero only for q = p. One log-sum-exp over
the vocabulary serves CLM and KL. It is computed over what the slots leave and joined with the slots', so that
`log q_tail` needs no subtraction. `buckets` compares the two, by the KL or what may stand in its place.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor
from torch.nn import functional as F

from knowfuse.losses.buckets import Buckets, divergence_of, with_event
from knowfuse.losses.completion import Completions, take_event_
from knowfuse.losses.options import LossOptions
from knowfuse.types import EMPTY, IGNORE, FusedTarget, TopK

RowWeight = float | Tensor  # of all rows, or one a row, [N]


@dataclass
class RowLosses:
    """What each row costs, in nats; 0 where a row has no label."""

    clm: Float[Tensor, " N"]
    kl: Float[Tensor, " N"]  # or the divergence in its place
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
    lm_weight: RowWeight,
    kl_weight: RowWeight,
    options: LossOptions,
    vocabulary_size: int,
    sets: Completions | None = None,
) -> RowLosses:
    """The losses of each row; `logits` become the gradient of `sum(lm_weight * clm + kl_weight * kl)`, in place.

    `logits` are float32 or float64, and `fused` has N rows as [1, N]. Columns from
    `vocabulary_size` on are padding: the softmax runs over them as the LLM's own does, but no label, slot or tail is theirs,
    so they only lose. With `G` the target mass of a row (lm_weight and the KL's weight) the gradient is
    `q * G - weight * pull` in the slots, `(q_tail * G - weight * pull_tail) * softmax over the rest` outside them, and
    `-lm_weight` more at the label. Everything is finite however small `q_tail` is. With `sets` the tokens that complete what
    the label owes are one bucket, and what pulls it is shared among them as q is.
    """
    is_labelled = labels != IGNORE
    gold = labels.clamp(min=0)[:, None]
    slots = _slots(fused, gold)
    known, padding = logits[:, :vocabulary_size], logits[:, vocabulary_size:]

    gold_logits, slot_logits = logits.gather(1, gold), logits.gather(1, slots.ids)
    rest = known.scatter_(1, slots.ids, torch.finfo(logits.dtype).min)
    is_slot = (slots.log_p > EMPTY) & is_labelled[:, None]
    event = None if sets is None else take_event_(known, gold, slots.ids, is_slot, sets)
    top = rest.amax(1, keepdim=True)
    rest.sub_(top).exp_()
    total = rest.sum(1, keepdim=True)
    log_rest = top + total.log()
    parts = [log_rest, slot_logits.masked_fill(~slots.is_counted, EMPTY)]
    if event is not None:
        parts.append(event.log_sum)
    lse = torch.cat([*parts, padding.logsumexp(1, keepdim=True)] if padding.shape[1] else parts, 1).logsumexp(1, True)
    log_q, log_q_tail, log_q_gold = slot_logits - lse, (log_rest - lse)[:, 0], (gold_logits - lse)[:, 0]

    acts = is_labelled & slots.has_target
    if options.gate == "better":
        acts = acts & gives_more(TopK(slots.ids, slots.log_p), gold, log_q_gold)
    in_tail = vocabulary_size - is_slot.sum(1) - (0 if event is None else event.cells)
    log_p, p, p_tail = _target_probs(slots, options)
    p, p_tail = p.masked_fill(~acts[:, None], 0.0).to(lse.dtype), p_tail.masked_fill(~acts, 0.0).to(lse.dtype)
    log_known = torch.cat(parts, 1).logsumexp(1) - lse[:, 0] if padding.shape[1] else None
    p_tail = p_tail.masked_fill(in_tail <= 0, 0.0)  # nothing is left that a rounded tail could be of
    is_bucket = slots.is_counted & acts[:, None]
    buckets = Buckets(is_bucket, log_p.to(lse.dtype), p, p_tail, log_q, log_q_tail, log_known, in_tail)
    pull_cells = None
    if event is None:
        kl, pull, pull_tail = divergence_of(buckets, options)
    else:
        kl, pull, pull_tail, pull_cells = with_event(buckets, event, event.log_sum - lse, options)
    losses = RowLosses(-torch.where(is_labelled, log_q_gold, 0.0), kl, acts)

    lm_weights = lm_weight * is_labelled.to(lse.dtype)
    mass = (lm_weights + kl_weight * (pull.sum(1) + pull_tail))[:, None]
    kl_weight = as_column(kl_weight)
    if pull_cells is not None:
        mass = mass + kl_weight * pull_cells
    rest.mul_((log_q_tail.exp()[:, None] * mass - kl_weight * pull_tail[:, None]) / total)
    if padding.shape[1]:
        padding.sub_(lse).exp_().mul_(mass)
    if event is not None and pull_cells is not None:
        event.write_(logits, (event.log_sum - lse).exp() * mass - kl_weight * pull_cells)
    in_slots = (log_q.exp() * mass - kl_weight * pull).masked_fill(~slots.is_counted, 0.0)
    logits.scatter_add_(1, slots.ids, in_slots)
    logits.scatter_add_(1, gold, -lm_weights[:, None])
    return losses


def as_column(weight: RowWeight) -> RowWeight:
    """Of one a row, [N, 1]."""
    return weight[:, None] if isinstance(weight, Tensor) and weight.ndim else weight


def weights_of(weight: RowWeight, rows: slice | Int[Tensor, " n"]) -> RowWeight:
    """Those of some rows."""
    return weight[rows] if isinstance(weight, Tensor) and weight.ndim else weight


def rows_of(fused: FusedTarget, rows: slice | Int[Tensor, " n"]) -> FusedTarget:
    """Some rows of a fused target whose rows are [1, N]."""
    topk = TopK(fused.topk.ids[:, rows], fused.topk.log_probs[:, rows])
    return FusedTarget(topk, fused.tail[:, rows], fused.weights[..., rows], fused.has_target[:, rows])


def gives_more(topk: TopK[Tensor], gold: Int[Tensor, "N 1"], log_q_gold: Float[Tensor, " N"]) -> Bool[Tensor, " N"]:
    """Where the slots give the true token more probability than `log_q_gold`; one that no slot holds is given none."""
    return torch.where(topk.ids == gold, topk.log_probs, EMPTY).amax(-1) > log_q_gold


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
    slots: _Slots, options: LossOptions
) -> tuple[Float32[Tensor, "N K"], Float32[Tensor, "N K"], Float32[Tensor, " N"]]:
    """Log-probabilities and probabilities of the slots, and that of the tail; NaN in rows without a target."""
    if options.form == "renormalised":
        return slots.log_p.log_softmax(1), slots.log_p.softmax(1), torch.zeros_like(slots.tail)
    return slots.log_p, slots.log_p.exp(), slots.tail
