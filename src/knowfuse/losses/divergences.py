"""How far apart are two distributions over the same buckets, and which way should the second go?

The buckets are the slots of the fused target and its tail. With `log q_b` the target LLM's log-probability of a bucket,
the gradient of each divergence with respect to the logits of the tokens in it is `q_b - pull_b`, shared among them as `q`
is; `pull` sums to 1. Of the forward KL it is p. Both functions are 0 where the two distributions are the same.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

# What float32 log-probabilities cannot tell from 0: a tail below it counts as this much in a logarithm.
LEAST_TAIL = 1e-6

Pull = tuple[Float[Tensor, " N"], Float[Tensor, "N M"]]


def forward_kl(
    p: Float[Tensor, "N K"], p_tail: Float[Tensor, " N"], log_q: Float[Tensor, "N K"], log_q_tail: Float[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """`sum_b p_b log(p_b / q_b)` in nats; exactly 0 where `p` and `p_tail` are. Its pull is p."""
    # Bucket by bucket: two sums of many nats would leave their rounding.
    of_slots = (torch.xlogy(p, p) - p * log_q).sum(1)
    return of_slots + torch.xlogy(p_tail, p_tail) - p_tail * log_q_tail


def reverse_kl(log_p: Float[Tensor, "N M"], log_q: Float[Tensor, "N M"]) -> Pull:
    """`sum_b q_b log(q_b / p_b)` in nats, and the pull `q_b (1 + KL - log(q_b / p_b))`; an empty `log_q` is no bucket.

    It seeks the modes of p. Source: Gu et al., MiniLLM, arXiv 2306.08543; here over what the fused target holds, in closed
    form, without a sample.
    """
    is_bucket = log_q > -math.inf
    ratio = torch.where(is_bucket, log_q - log_p, 0.0)
    q = torch.where(is_bucket, log_q.exp(), 0.0)
    nats = (q * ratio).sum(1)
    return nats, q * (1.0 + nats[:, None] - ratio)


def jensen_shannon(log_p: Float[Tensor, "N M"], log_q: Float[Tensor, "N M"], beta: float) -> Pull:
    """`beta KL(p || m) + (1 - beta) KL(q || m)` in nats with `m = beta p + (1 - beta) q`, and the pull.

    The pull is `q_b (1 + R - (1 - beta) log(q_b / m_b))` with `R = (1 - beta) KL(q || m)`. Divided by beta it tends to the
    forward KL as beta tends to 0, divided by `1 - beta` to the reverse KL as beta tends to 1: at 0.5 it is at most log 2,
    and pulls less than either. Source: Agarwal et al., GKD, arXiv 2306.13649, equation 1 (their P is the fused target).
    """
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    of_p, of_q = (torch.where(x > -math.inf, x - log_m, 0.0) for x in (log_p, log_q))
    q = log_q.exp()
    apart = (1.0 - beta) * (q * of_q).sum(1)
    nats = beta * (log_p.exp() * of_p).sum(1) + apart
    return nats, q * (1.0 + apart[:, None] - (1.0 - beta) * of_q)
