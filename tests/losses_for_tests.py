"""Rows of every kind, and the losses of them the slow way: dense, row by row and token by token, in float64."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from knowfuse.types import EMPTY, IGNORE, FusedTarget, TopK

# The fused target is float32 by contract, so p = exp(log_p) has a relative error of 1.2e-7; the rest is float64.
RTOL, ATOL = 1e-6, 1e-7
N, V, K = 14, 11, 4


def target(ids: Tensor, log_probs: Tensor, tail: Tensor, has_target: Tensor | None = None) -> FusedTarget:
    """The fused target of N rows, in the layout that the loss takes."""
    if has_target is None:
        has_target = torch.ones(len(ids), dtype=torch.bool)
    weights = torch.ones(1, 1, len(ids)) * has_target
    return FusedTarget(TopK(ids[None], log_probs[None]), tail[None], weights, has_target[None])


def top_k_of(probs: Tensor, k: int) -> FusedTarget:
    """The k most probable tokens of dense float64 rows, and their tail."""
    kept = probs.topk(k, dim=-1)
    return target(kept.indices, kept.values.log().float(), (1 - kept.values.sum(-1)).clamp(min=0).float())


def random_case(seed: int = 0) -> tuple[Tensor, Tensor, FusedTarget]:
    """Rows of every kind: without label, without target, with empty slots, without any slot."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(N, V, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, V, (N,), generator=generator)
    fused = top_k_of((2 * torch.randn(N, V, generator=generator, dtype=torch.float64)).softmax(-1), K)
    labels[[0, 5]] = IGNORE
    fused.has_target[0, [5, 6]] = False
    fused.topk.log_probs[0, 6] = float("nan")  # a row without target may hold anything
    fused.topk.log_probs[0, 7, 1:3] = EMPTY
    fused.topk.ids[0, 7, 1:3] = 10**9  # an empty slot's id means nothing
    fused.topk.log_probs[0, 8] = EMPTY
    fused.topk.ids[0, 8] = -1
    return logits.requires_grad_(), labels, fused


def oracle(
    logits: Tensor,
    labels: Tensor,
    fused: FusedTarget | None,
    lm_weight: float,
    form: str,
    gate: str,
    vocabulary_size: int | None = None,
    token_bytes: Sequence[bytes | None] = (),
    **more: Any,
) -> Tensor:
    """The total, row by row and token by token; columns from `vocabulary_size` on are padding. `more` are `divergence_of`'s.

    With `token_bytes` the tokens that begin with the label's are one, where one of them is a slot.
    """
    log_q = logits.log_softmax(-1)
    clm = kl = logits.new_zeros(())
    for n, label in enumerate(labels.tolist()):
        if label == IGNORE:
            continue
        clm = clm - log_q[n, label]
        if fused is None:
            continue
        pairs = zip(fused.topk.ids[0, n].tolist(), fused.topk.log_probs[0, n].tolist(), strict=True)
        p = {i: math.exp(x) for i, x in pairs if x > EMPTY}
        if not fused.has_target[0, n] or not p:
            continue
        if gate == "better" and p.get(label, 0.0) <= log_q[n, label].exp():
            continue
        tail = float(fused.tail[0, n])
        if form == "renormalised":
            p, tail = {i: x / sum(p.values()) for i, x in p.items()}, 0.0
        size = vocabulary_size or logits.shape[-1]
        owed = token_bytes[label] if token_bytes else None
        together = [i for i in range(size) if owed and (token_bytes[i] or b"").startswith(owed)]
        kl = kl + divergence_of(p, tail, logits[n], size, together, **more)
    return (lm_weight * clm + (1 - lm_weight) * kl) / (labels != IGNORE).sum()


def divergence_of(
    p: dict[int, float],
    tail: float,
    logits: Tensor,
    vocabulary_size: int,
    together: Sequence[int] = (),
    divergence: str = "forward_kl",
    beta: float = 0.5,
    temperature: float = 1.0,
    scale: float = 1.0,
) -> Tensor:
    """Of one row, times the square of the temperature and `scale`: over the slots, and all other ids as one bucket.

    Ids `together` are one bucket, if slots are among them, with what those slots have. What is softened is a bucket, as if each of
    its ids had as much.
    """
    q = logits.softmax(-1)
    known = q[:vocabulary_size].sum()
    event = [i for i in together if i in p]
    one = list(together) if event else []
    rest = [i for i in range(vocabulary_size) if i not in p and i not in one]
    buckets = [(x, q[i], 1) for i, x in p.items() if i not in one]
    buckets += [(sum(p[i] for i in event), q[one].sum(), len(one))] if event else []
    buckets += [(tail, q[rest].sum(), len(rest))] if rest else []
    if divergence == "reverse_kl":
        buckets = [(max(x, 1e-6), y, n) for x, y, n in buckets]
    if temperature != 1.0:
        soft = [(n * (x / n) ** (1 / temperature), n * (y / n) ** (1 / temperature), n) for x, y, n in buckets]
        total, of_q = sum(x for x, _, _ in soft), sum(y for _, y, _ in soft)
        buckets = [(x / total, known * y / of_q, n) for x, y, n in soft]
    value = logits.new_zeros(())
    for x, with_padding, _ in buckets:
        y = with_padding / known
        if divergence == "forward_kl":
            value = value + (x * (math.log(x) - y.log()) if x > 0 else 0.0)
        elif divergence == "reverse_kl":
            value = value + y * (y.log() - math.log(x))
        else:
            m = beta * x + (1 - beta) * y
            value = (
                value + (beta * x * (math.log(x) - m.log()) if x > 0 else 0.0) + (1 - beta) * y * (y.log() - m.log())
            )
    mass = sum(x for x, _, _ in buckets) if divergence == "forward_kl" else 1.0
    return scale * (temperature**2 * value - mass * known.log())
