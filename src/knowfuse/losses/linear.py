"""How are the LM head and the losses computed without the logits of all rows?

Chunk by chunk, loss and gradients in one pass, the backward pass only scales: what is alive is one chunk of logits, and
the gradients. Source: Hsu et al., Liger kernels, arXiv 2410.10989; Wijmans et al., cut cross-entropy, arXiv 2411.09009.
Differs: the loss is ours, plain torch is the only kernel, and the gradient of the head is summed in float32.

On a GPU, a Triton kernel for `sparse_loss_` would save its five passes over a chunk (as Liger's cross-entropy kernel
does for CLM alone), and cut cross-entropy's would also keep the chunk out of memory; both plug in at `sparse_loss_`'s
one call. The head's float32 gradient is a float32 product: `torch.set_float32_matmul_precision("high")` runs it on the
tensor cores.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from knowfuse.losses.chunked_head import CHUNK_ROWS, ChunkedHead, LinearHead
from knowfuse.losses.sparse_kl import Form, Gate, require_lm_weight, sparse_loss_
from knowfuse.types import EMPTY, IGNORE, FusedTarget, TopK

Resolve = Callable[[FusedTarget, Tensor], FusedTarget]


@dataclass
class FusedLoss:
    """The loss to minimise and its parts, all in nats per labelled row; shares are of the labelled rows.

    Only `total` has a gradient.
    """

    total: Float[Tensor, ""]
    clm: Float[Tensor, ""]
    kl: Float[Tensor, ""]
    fused_share: Float[Tensor, ""]  # rows on which the KL acts


@dataclass
class _Task:
    """What the chunks are compared with, and how."""

    labels: Int[Tensor, " N"]
    fused: FusedTarget | None  # [1, N]
    resolve: Resolve | None
    options: dict[str, Any]  # of sparse_loss_
    chunk_rows: int

    def fused_on(self, rows: slice, logits: Float[Tensor, "n V"]) -> FusedTarget | None:
        """The fused target of these rows, whose logits may decide its ids."""
        if self.fused is None:
            return None
        fused = self.fused
        topk = TopK(fused.topk.ids[:, rows], fused.topk.log_probs[:, rows])
        part = FusedTarget(topk, fused.tail[:, rows], fused.weights[..., rows], fused.has_target[:, rows])
        return self.resolve(part, logits[None, :, : self.options["vocabulary_size"]]) if self.resolve else part


def fused_linear_loss(
    hidden: Float[Tensor, "N H"],
    head: LinearHead,
    labels: Int[Tensor, " N"],
    fused: FusedTarget | None,
    *,
    lm_weight: float,
    form: Form = "tail",
    gate: Gate = "none",
    chunk_rows: int = CHUNK_ROWS,
    resolve: Resolve | None = None,
) -> FusedLoss:
    """Mean over the rows with a label of `lm_weight * CLM + (1 - lm_weight) * KL`; rows without a label are exactly 0.

    `fused` has N rows as [B, T]; None, and rows without a target, carry only `lm_weight * CLM`.
    `form="renormalised"` is the paper's: the top-k of the fused target scaled to sum to 1, the tail dropped.
    `gate="better"` lets the KL act only where the fused target gives the true token more probability than the target
    LLM does now; a true token that no slot holds counts as given none. `resolve` gets the fused target of each chunk
    and its logits, both as [1, n, ...], and gives the fused target with its ids: of one that is by rank, they depend on
    the logits.

    Products are in the weight's dtype (autocast's, where it is on), everything else in float32; float64 stays.
    Raises ValueError where `lm_weight` is outside [0, 1], the fused target is not float32, a label or a slot is no token
    of the vocabulary, or a chunk does not fit into memory.
    """
    require_lm_weight(lm_weight)
    if chunk_rows < 1:
        raise ValueError(f"chunk_rows must be at least 1, got {chunk_rows}")
    vocabulary_size = head.weight.shape[0] if head.vocabulary_size is None else head.vocabulary_size
    flat = None if fused is None else _flat(fused)
    _require_targets(labels, flat, vocabulary_size)
    options = {"lm_weight": lm_weight, "form": form, "gate": gate, "vocabulary_size": vocabulary_size}
    task = _Task(labels, flat, resolve, options, chunk_rows)
    is_training = torch.is_grad_enabled()
    total, clm, kl, share = _FusedLinearLoss.apply(hidden, head.weight, head.bias, head, task, is_training)
    return FusedLoss(total, clm, kl, share)


class _FusedLinearLoss(torch.autograd.Function):
    """(total, clm, kl, fused_share); the gradients of `total` with respect to hidden, weight and bias.

    What is kept for the backward pass are the gradients of the sum over the rows: divided by their number, half
    precision could not hold them.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, head: LinearHead, task: _Task, is_training: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        for_hidden, for_weight, for_bias = (is_training and needed for needed in ctx.needs_input_grad[:3])
        chunked = ChunkedHead(head, hidden, task.chunk_rows)
        precise = {"dtype": chunked.precise, "device": hidden.device}
        grad_hidden = torch.empty_like(chunked.hidden) if for_hidden else None
        grad_weight = torch.zeros(weight.shape, **precise) if for_weight else None
        grad_bias = torch.zeros(weight.shape[:1], **precise) if for_bias else None
        clm, kl, acting = (torch.zeros((), **precise) for _ in range(3))
        for rows in chunked.chunks:
            logits = chunked.logits(rows)
            losses = sparse_loss_(logits, task.labels[rows], task.fused_on(rows, logits), **task.options)
            clm, kl, acting = clm + losses.clm.sum(), kl + losses.kl.sum(), acting + losses.acts.sum()
            chunked.backward_(logits, rows, grad_hidden, grad_weight, grad_bias)
        count = (task.labels != IGNORE).sum().clamp(min=1)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias, count)
        ctx.dtypes = hidden.dtype, weight.dtype, weight.dtype if bias is None else bias.dtype
        lm_weight = task.options["lm_weight"]
        clm, kl, share = clm / count, kl / count, acting.float() / count
        ctx.mark_non_differentiable(clm, kl, share)
        return lm_weight * clm + (1.0 - lm_weight) * kl, clm, kl, share

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  (the decorator hides the signature)
        ctx: Any, grad_total: Tensor, *of_parts: Tensor
    ) -> tuple[Tensor | None, ...]:
        grad_hidden, *of_head, count = ctx.saved_tensors
        scale = grad_total / count
        # The head's is large and scaled in place: a second backward pass over the same loss is an error of torch's.
        scaled = [
            None if grad_hidden is None else grad_hidden.to(scale.dtype) * scale,
            *(None if grad is None else grad.mul_(scale) for grad in of_head),
        ]
        return *(None if g is None else g.to(d) for g, d in zip(scaled, ctx.dtypes, strict=True)), None, None, None


def _flat(fused: FusedTarget) -> FusedTarget:
    """Rows as [1, N]; ValueError where it is not float32."""
    log_probs, tail = fused.topk.log_probs, fused.tail
    if log_probs.dtype != torch.float32 or tail.dtype != torch.float32:
        raise ValueError(
            f"the fused target must stay float32, got {log_probs.dtype} with tail {tail.dtype}: do not cast it"
        )
    return FusedTarget(
        topk=TopK(fused.topk.ids.flatten(0, 1)[None], log_probs.flatten(0, 1)[None]),
        tail=tail.flatten()[None],
        weights=fused.weights.movedim(1, 0).flatten(1)[None],
        has_target=fused.has_target.flatten()[None],
    )


def _require_targets(labels: Int[Tensor, " N"], fused: FusedTarget | None, vocabulary_size: int) -> None:
    """ValueError for a label or a slot that is no token of the vocabulary."""
    found = {"label": labels[labels != IGNORE]}
    if fused is not None:
        is_filled = (fused.topk.log_probs > EMPTY) & fused.has_target[..., None]
        found["slot of the fused target"] = fused.topk.ids[is_filled]
    for what, ids in found.items():
        outside = ids[(ids < 0) | (ids >= vocabulary_size)]
        if len(outside):
            raise ValueError(
                f"a {what} is token {int(outside[0])}, the target LLM's vocabulary has {vocabulary_size}: "
                "it was made for another tokenizer"
            )
