"""How far is the target LLM from the text and from the fused target?

`L = lm_weight * CLM + (1 - lm_weight) * KL(fused || target)`, FuseLLM, arXiv 2401.10491, equation 6 (there: lambda).
Both terms are means over the labelled rows, in nats. The KL is sparse: `sum_k p_k log(p_k / q_k)` over the slots of
the fused target plus a tail bucket `p_tail log(p_tail / q_tail)`; it is never negative, at most the full KL, and
zero only for q = p. The log-sum-exp over the vocabulary is computed once, over what the slots leave, so that
`log q_tail` needs no subtraction.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from knowfuse.types import EMPTY, IGNORE, FusedTarget

Form = Literal["tail", "renormalised"]
Gate = Literal["none", "better"]


@dataclass
class FusedLoss:
    """The loss to minimise and its parts, all in nats per labelled row; shares are of the labelled rows."""

    total: Float[Tensor, ""]
    clm: Float[Tensor, ""]
    kl: Float[Tensor, ""]
    fused_share: Float[Tensor, ""]  # rows on which the KL acts


def fused_loss(
    logits: Float[Tensor, "N V"],
    labels: Int[Tensor, " N"],
    fused: FusedTarget | None,
    *,
    lm_weight: float,
    form: Form = "tail",
    gate: Gate = "none",
) -> FusedLoss:
    """Mean over the rows with a label of `lm_weight * CLM + (1 - lm_weight) * KL`; rows without a label are exactly 0.

    `fused` has its rows flattened to [1, N, ...]; None, and rows without a target, carry only `lm_weight * CLM`.
    `form="renormalised"` is the paper's: the top-k of the fused target scaled to sum to 1, the tail dropped.
    `gate="better"` lets the KL act only where the fused target gives the true token more probability than the target
    LLM does now; a true token that no slot holds counts as given none. Raises ValueError where `lm_weight` is outside
    [0, 1] or the fused target is not float32. The chunked form that takes hidden states and the LM head has this same
    contract.
    """
    require_lm_weight(lm_weight)
    is_labelled = labels != IGNORE
    count = is_labelled.sum().clamp(min=1)
    if fused is None:
        clm = F.cross_entropy(_precise(logits), labels, ignore_index=IGNORE, reduction="sum") / count
        zero = clm.new_zeros(())
        return FusedLoss(total=lm_weight * clm, clm=clm, kl=zero, fused_share=zero)
    ids, log_p, tail = (x.flatten(0, 1) for x in (fused.topk.ids, fused.topk.log_probs, fused.tail))
    if log_p.dtype != torch.float32 or tail.dtype != torch.float32:
        raise ValueError(
            f"the fused target must stay float32, got {log_p.dtype} with tail {tail.dtype}: do not cast it"
        )
    is_filled = log_p > EMPTY
    log_q, log_q_tail, log_q_label = _SparseLogProbs.apply(logits, ids, is_filled, labels.clamp(min=0))
    acts = is_labelled & fused.has_target.flatten() & is_filled.any(-1)
    if gate == "better":
        acts = acts & (_gold_log_prob(ids, log_p, labels) > log_q_label.detach())
    p, p_tail = _target_probs(log_p, tail, form, vocabulary_size=logits.shape[-1])
    kl = _sparse_kl(p.masked_fill(~acts[:, None], 0.0), p_tail.masked_fill(~acts, 0.0), log_q, log_q_tail).sum() / count
    clm = -torch.where(is_labelled, log_q_label, 0.0).sum() / count
    total = lm_weight * clm + (1.0 - lm_weight) * kl
    return FusedLoss(total=total, clm=clm, kl=kl, fused_share=acts.sum().float() / count)


def require_lm_weight(lm_weight: float) -> None:
    """ValueError unless the weight lies in [0, 1]."""
    if not 0.0 <= lm_weight <= 1.0:
        raise ValueError(f"lm_weight (the paper's lambda) must lie in [0, 1], got {lm_weight}")


def token_nll(logits: Float[Tensor, "N V"], labels: Int[Tensor, " N"]) -> Float32[Tensor, " N"]:
    """Nats of each label; 0 on rows without one."""
    return F.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="none")


def _precise(logits: Float[Tensor, "N V"]) -> Float[Tensor, "N V"]:
    """float32 whatever the LLM's dtype; float64 stays."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _target_probs(
    log_p: Float32[Tensor, "N K"], tail: Float32[Tensor, " N"], form: Form, vocabulary_size: int
) -> tuple[Float32[Tensor, "N K"], Float32[Tensor, " N"]]:
    """The probabilities of the slots and of the tail bucket; NaN in rows without slots under `renormalised`."""
    if form == "renormalised":
        return log_p.softmax(-1), torch.zeros_like(tail)
    covers_all = (log_p > EMPTY).sum(-1) >= vocabulary_size  # nothing is left that a rounded tail could be of
    return log_p.exp(), tail.masked_fill(covers_all, 0.0)


def _sparse_kl(
    p: Float32[Tensor, "N K"],
    p_tail: Float32[Tensor, " N"],
    log_q: Float[Tensor, "N K"],
    log_q_tail: Float[Tensor, " N"],
) -> Float[Tensor, " N"]:
    """Nats; exactly 0, in value and gradient, where `p` and `p_tail` are."""
    negative_entropy = torch.xlogy(p, p).sum(-1) + torch.xlogy(p_tail, p_tail)
    return negative_entropy - (p * log_q).sum(-1) - p_tail * log_q_tail


def _gold_log_prob(
    ids: Int[Tensor, "N K"], log_p: Float32[Tensor, "N K"], labels: Int[Tensor, " N"]
) -> Float32[Tensor, " N"]:
    """log p of the true token; -inf where no slot holds it."""
    return torch.where(ids == labels[:, None], log_p, EMPTY).amax(-1)


class _SparseLogProbs(torch.autograd.Function):
    """log q of the slots [N, K] (0 in empty ones), of everything else together [N], and of the labels [N].

    Written by hand because it then needs one exponential of [N, V] forward and one product backward, half of what
    autograd keeps. With `G` the sum of a row's three incoming gradients, the logits receive
    `g_slot - q_slot * G` in a slot, `(g_tail - q_tail * G) * exp(logit) / sum_rest(exp(logit))` elsewhere, and the
    label's own gradient at the label. Everything is finite however small `q_tail` is.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, ids: Tensor, is_filled: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        precise = _precise(logits)
        lowest = torch.finfo(precise.dtype).min
        ids, labels = ids.masked_fill(~is_filled, 0).long(), labels[:, None].long()
        slots = precise.gather(-1, ids).masked_fill(~is_filled, EMPTY)
        # Empty slots ask for a minimum with +inf, which changes nothing; -inf would make NaN where slots are all.
        removed = torch.full_like(slots, lowest).masked_fill(~is_filled, float("inf"))
        rest = precise.scatter_reduce(-1, ids, removed, "amin")
        top = rest.amax(-1, keepdim=True)
        rest.sub_(top).exp_()
        total = rest.sum(-1, keepdim=True)
        log_rest = top + total.log()
        lse = torch.logaddexp(log_rest, slots.logsumexp(-1, keepdim=True))
        log_q = (slots - lse).masked_fill(~is_filled, 0.0)
        log_q_tail = log_rest - lse
        ctx.save_for_backward(rest, total, ids, is_filled, labels, log_q, log_q_tail)
        ctx.logits_dtype = logits.dtype
        return log_q, log_q_tail[:, 0], (precise.gather(-1, labels) - lse)[:, 0]

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  (the decorator hides the signature)
        ctx: Any, g_slots: Tensor, g_tail: Tensor, g_label: Tensor
    ) -> tuple[Tensor, None, None, None]:
        rest, total, ids, is_filled, labels, log_q, log_q_tail = ctx.saved_tensors
        g_slots, g_tail, g_label = g_slots.masked_fill(~is_filled, 0.0), g_tail[:, None], g_label[:, None]
        together = g_slots.sum(-1, keepdim=True) + g_tail + g_label
        in_slots = (g_slots - log_q.exp() * together).masked_fill(~is_filled, 0.0)
        grad = rest * ((g_tail - log_q_tail.exp() * together) / total)  # 0 in the slots
        grad.scatter_add_(-1, ids, in_slots).scatter_add_(-1, labels, g_label)
        return grad.to(ctx.logits_dtype), None, None, None
