"""How far is the target LLM from the fused target over slots and tail, by any of the options, and what pulls each bucket?"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from knowfuse.losses.completion import Event
from knowfuse.losses.divergences import LEAST_TAIL, forward_kl, jensen_shannon, reverse_kl
from knowfuse.losses.options import LossOptions
from knowfuse.losses.softened import softened
from knowfuse.types import EMPTY


@dataclass
class Buckets:
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


def divergence_of(
    buckets: Buckets, options: LossOptions
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


def _sizes(buckets: Buckets) -> Int[Tensor, "N M"]:
    """The tokens of each bucket, the tail's last."""
    sizes = torch.ones_like(buckets.is_bucket, dtype=torch.int64)
    if buckets.in_event is not None:
        sizes[:, -1] = buckets.in_event
    return torch.cat([sizes, buckets.in_tail[:, None]], 1)


def with_event(
    buckets: Buckets, event: Event, log_cells: Float[Tensor, "N 1"], options: LossOptions
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N K"], Float[Tensor, " N"], Float[Tensor, "N 1"]]:
    """`divergence_of` with one more bucket in place of the slots of an event; beside its figures, what pulls the event's cells."""
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
    nats, pull, pull_tail = divergence_of(both, options)
    of_slots = pull[:, -1:] * (buckets.log_q - log_q).masked_fill(~inside, 0.0).exp()
    pull_cells = pull[:, -1:] * (log_cells - log_q).exp()
    return nats, torch.where(inside, of_slots, pull[:, :-1]), pull_tail, pull_cells
