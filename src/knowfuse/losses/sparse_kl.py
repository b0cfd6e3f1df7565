"""What do logits cost against labels and a sparse target, and which way should they go?

The KL is sparse: `sum_k p_k log(p_k / q_k)` over the slots of the fused target plus a tail bucket
`p_tail log(p_tail / q_tail)`; it is never negative, at most the full KL, and zero only for q = p. One log-sum-exp over
the vocabulary serves CLM and KL. It is computed over what the slots leave and joined with the slots', so that
`log q_tail` needs no subtraction. `divergences` holds what may stand in the KL's place, over the same buckets.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor
from torch.nn import functional as F

from knowfuse.losses.completion import Completions, Event, take_event_
from knowfuse.losses.divergences import LEAST_TAIL, forward_kl, jensen_shannon, reverse_kl
from knowfuse.losses.options import LossOptions
from knowfuse.losses.softened import softened
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


@dataclass
class _Buckets:
    """The fused target and the target LLM over slots and tail; `p` and `p_tail` are 0 where nothing acts."""

    is_bucket: Bool[Tensor, "N K"]  # each id once, on the rows that act
    log_p: Float[Tensor, "N K"]
    p: Float[Tensor, "N K"]
    p_tail: Float[Tensor, " N"]
    log_q: Float[Tensor, "N K"]
    log_q_tail: Float[Tensor, " N"]
    log_known: Float[Tensor, " N"] | None  # of all that is no padding; None: there is none
    in_tail: Int[Tensor, " N"]  # tokens that the tail stands for
    in_event: Int[Tensor, " N"] | None = None  # and the last bucket, where it is an event; all others are one token


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
    buckets = _Buckets(is_bucket, log_p.to(lse.dtype), p, p_tail, log_q, log_q_tail, log_known, in_tail)
    pull_cells = None
    if event is None:
        kl, pull, pull_tail = _divergence(buckets, options)
    else:
        kl, pull, pull_tail, pull_cells = _with_event(buckets, event, event.log_sum - lse, options)
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


def _divergence(
    buckets: _Buckets, options: LossOptions
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N K"], Float[Tensor, " N"]]:
    """Nats of each row, and what pulls the slots and the tail; 0 on rows without a bucket.

    In any divergence but the plain forward KL the target LLM counts as if it had no padding, and pays `-log(1 - padding)` beside,
    as it does in that. Of softened distributions it is `T^2` times the divergence: their gradient is `1 / T^2` of what it was, and
    the factor keeps its weight beside CLM whatever T is.
    """
    kind, temperature = options.divergence, options.temperature
    if kind == "forward_kl" and temperature == 1.0:
        nats = forward_kl(buckets.p, buckets.p_tail, buckets.log_q, buckets.log_q_tail)
        return nats, buckets.p, buckets.p_tail
    acts = buckets.is_bucket.any(1)
    log_q = torch.cat([buckets.log_q.masked_fill(~buckets.is_bucket, EMPTY), buckets.log_q_tail[:, None]], 1)
    log_q = log_q if buckets.log_known is None else log_q - buckets.log_known[:, None]
    tail = buckets.p_tail.clamp(min=LEAST_TAIL) if kind == "reverse_kl" else buckets.p_tail
    log_p = torch.cat([buckets.log_p.masked_fill(~buckets.is_bucket, EMPTY), tail.log()[:, None]], 1)
    if temperature == 1.0:
        nats, pull = _between(log_p, log_q, options)
    else:
        sizes = _sizes(buckets)
        soft_p, soft_q = (softened(log_x, sizes, temperature) for log_x in (log_p, log_q))
        nats, pull = _between(soft_p, soft_q, options)
        nats = temperature**2 * nats
        # Their logits are 1 / T of those of the buckets: the gradient T (soft_q - pull), as q - pull of what is not softened.
        pull = log_q.exp() + temperature * (pull - soft_q.exp())
    nats = nats if buckets.log_known is None else nats - buckets.log_known
    nats, pull = nats.masked_fill(~acts, 0.0).to(log_q.dtype), pull.masked_fill(~acts[:, None], 0.0).to(log_q.dtype)
    return nats, pull[:, :-1], pull[:, -1]


def _between(
    log_p: Float[Tensor, "N M"], log_q: Float[Tensor, "N M"], options: LossOptions
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N M"]]:
    """Nats and pull, over buckets of which the last is the tail."""
    if options.divergence == "reverse_kl":
        return reverse_kl(log_p, log_q)
    if options.divergence == "jensen_shannon":
        return jensen_shannon(log_p, log_q, options.beta)
    p, log_q = log_p.exp(), log_q.masked_fill(log_p == EMPTY, 0.0)
    return forward_kl(p[:, :-1], p[:, -1], log_q[:, :-1], log_q[:, -1]), p


def _sizes(buckets: _Buckets) -> Int[Tensor, "N M"]:
    """The tokens of each bucket, the tail's last."""
    sizes = torch.ones_like(buckets.is_bucket, dtype=torch.int64)
    if buckets.in_event is not None:
        sizes[:, -1] = buckets.in_event
    return torch.cat([sizes, buckets.in_tail[:, None]], 1)


def _with_event(
    buckets: _Buckets, event: Event, log_cells: Float[Tensor, "N 1"], options: LossOptions
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N K"], Float[Tensor, " N"], Float[Tensor, "N 1"]]:
    """`_divergence` with one more bucket in place of the slots of an event; beside its figures, what pulls the event's cells."""
    inside, happens = event.in_slots, event.happens & buckets.is_bucket.any(1)
    log_q, log_p = (log_x.masked_fill(~inside, EMPTY).logsumexp(1, True) for log_x in (buckets.log_q, buckets.log_p))
    log_q = torch.logaddexp(log_q, log_cells)
    both = replace(
        buckets,
        is_bucket=torch.cat([buckets.is_bucket & ~inside, happens[:, None]], 1),
        log_p=torch.cat([buckets.log_p, log_p], 1),
        p=torch.cat([buckets.p.masked_fill(inside, 0.0), (buckets.p * inside).sum(1, keepdim=True)], 1),
        log_q=torch.cat([buckets.log_q, log_q], 1),
        in_event=inside.sum(1) + event.cells,
    )
    nats, pull, pull_tail = _divergence(both, options)
    of_slots = pull[:, -1:] * (buckets.log_q - log_q).masked_fill(~inside, 0.0).exp()
    pull_cells = pull[:, -1:] * (log_cells - log_q).exp()
    return nats, torch.where(inside, of_slots, pull[:, :-1]), pull_tail, pull_cells
