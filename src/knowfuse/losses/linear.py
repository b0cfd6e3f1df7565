"""How are the LM head and the losses computed without the logits of all rows?

Chunk by chunk, loss and gradients in one pass, the backward pass only scales: what is alive is one chunk of logits, and
the gradients. Source: Hsu et al., Liger kernels, arXiv 2410.10989; Wijmans et al., cut cross-entropy, arXiv 2411.09009.
Differs: the loss is ours, plain torch is the only kernel, and the gradient of the head is summed in float32.

On a GPU, a Triton kernel for `sparse_loss_` would save its five passes over a chunk (as Liger's cross-entropy kernel
does for CLM alone), and cut cross-entropy's would also keep the chunk out of memory; both plug in at `sparse_loss_`'s
one call. The head's float32 gradient is a float32 product: `training.tensor_cores` runs it on a GPU's tensor cores.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from knowfuse.losses.chunked_head import CHUNK_ROWS, ChunkedHead, LinearHead, linear_token_nll
from knowfuse.losses.completion import Completions
from knowfuse.losses.lm_weight import require_lm_weight
from knowfuse.losses.options import Balance, Completion, Divergence, Form, Gate, LossOptions
from knowfuse.losses.sparse_kl import RowLosses, RowWeight, rows_of, sparse_loss_, weights_of
from knowfuse.types import EMPTY, IGNORE, FusedTarget, TopK

Resolve = Callable[[FusedTarget, Tensor], FusedTarget]
BALANCED_ROWS = 128  # rows of each kind that `balance="match_clm"` looks at
LEAST_KL = 1e-6  # nats of all of them; what is below is rounding, and no number to divide by
MOST_CLM_OVER_KL = 1000.0  # what few rows have is no measure of all by more


@dataclass
class FusedLoss:
    """The loss to minimise and its parts, all in nats per labelled row; shares are of the labelled rows.

    `total = lm_weight * clm + (1 - lm_weight) * kl_scale * kl`, or the mean over the rows of that where each has its own weight; it
    alone has a gradient.
    """

    total: Float[Tensor, ""]
    clm: Float[Tensor, ""]
    kl: Float[Tensor, ""]  # or the divergence in its place, with its T^2
    fused_share: Float[Tensor, ""]  # rows on which the KL acts
    kl_scale: float | Float[Tensor, ""] = 1.0

    def metrics(self) -> dict[str, float | Tensor]:
        """What a run logs of it beside the total."""
        parts = {"clm_nats": self.clm, "kl_nats": self.kl, "fused_share": self.fused_share}
        return {f"train/{name}": value for name, value in {**parts, "kl_scale": self.kl_scale}.items()}


@dataclass
class _Task:
    """What the chunks are compared with, and how."""

    labels: Int[Tensor, " N"]
    fused: FusedTarget | None  # [1, N]
    resolve: Resolve | None
    lm_weight: RowWeight
    kl_weight: RowWeight
    options: LossOptions
    vocabulary_size: int
    chunk_rows: int
    sets: Completions | None  # None: tokens alone

    @property
    def is_by_row(self) -> bool:
        """Whether each row has its own weights."""
        return isinstance(self.lm_weight, Tensor)

    def weighed(self, rows: slice, losses: RowLosses) -> Tensor:
        """The sum over these rows of what they add to the total."""
        clm, kl = (weights_of(weight, rows) for weight in (self.lm_weight, self.kl_weight))
        return (clm * losses.clm + kl * losses.kl).sum()

    def fused_on(self, rows: slice, logits: Float[Tensor, "n V"]) -> FusedTarget | None:
        """The fused target of these rows, whose logits may decide its ids."""
        if self.fused is None:
            return None
        part = rows_of(self.fused, rows)
        return self.resolve(part, logits[None, :, : self.vocabulary_size]) if self.resolve else part

    def losses_(self, rows: slice, logits: Float[Tensor, "n V"]) -> RowLosses:
        """Those of these rows, whose logits become their gradient."""
        fused, labels = self.fused_on(rows, logits), self.labels[rows]
        weights = {"lm_weight": weights_of(self.lm_weight, rows), "kl_weight": weights_of(self.kl_weight, rows)}
        how = {"options": self.options, "vocabulary_size": self.vocabulary_size, "sets": self.sets}
        return sparse_loss_(logits, labels, fused, **weights, **how)


def fused_linear_loss(
    hidden: Float[Tensor, "N H"],
    head: LinearHead,
    labels: Int[Tensor, " N"],
    fused: FusedTarget | None,
    *,
    lm_weight: float | Float[Tensor, " N"],
    form: Form = "tail",
    gate: Gate = "none",
    divergence: Divergence = "forward_kl",
    beta: float = 0.5,
    temperature: float = 1.0,
    balance: Balance = "fixed",
    completion: Completion = "token",
    chunk_rows: int = CHUNK_ROWS,
    resolve: Resolve | None = None,
    sets: Completions | None = None,
) -> FusedLoss:
    """Mean over the rows with a label of `lm_weight * CLM + (1 - lm_weight) * KL`; rows without a label are exactly 0.

    `lm_weight` is of all rows, or one a row. `fused` has N rows as [B, T]; None, and rows without a target, carry only `lm_weight * CLM`.
    `form="renormalised"` is the paper's: the top-k of the fused target scaled to sum to 1, the tail dropped.
    `gate="better"` lets the KL act only where the fused target gives the true token more probability than the target
    LLM does now; a true token that no slot holds counts as given none.
    `divergence` stands in the place of the forward KL, over the same buckets; `beta` is of `jensen_shannon` alone.
    `temperature` softens both distributions, the tail of each as if spread evenly over the ids it stands for (`softened`), and weighs what
    comes of it by its square. `balance="match_clm"` scales the KL by the ratio CLM / KL of some rows, which has no gradient.
    `completion="set"` makes one bucket of all tokens that begin with the bytes of the label, by the `sets` of the vocabulary.
    `resolve` gets the fused target of each chunk and its logits, both as [1, n, ...], and gives the fused target with its
    ids: of one that is by rank, they depend on the logits.

    Products are in the weight's dtype (autocast's, where it is on), everything else in float32; float64 stays.
    Raises ValueError where `lm_weight` is outside [0, 1], options are refused by `LossOptions`, the fused target is not
    float32, a label or a slot is no token of the vocabulary, or a chunk does not fit into memory.
    """
    options = LossOptions(form, gate, divergence, beta, temperature, balance, completion)
    for weight in [*lm_weight.aminmax()] if isinstance(lm_weight, Tensor) else [lm_weight]:
        require_lm_weight(float(weight))
    if chunk_rows < 1:
        raise ValueError(f"chunk_rows must be at least 1, got {chunk_rows}")
    vocabulary_size = head.weight.shape[0] if head.vocabulary_size is None else head.vocabulary_size
    flat = None if fused is None else _flat(fused)
    _require_targets(labels, flat, vocabulary_size)
    sets = _sets(sets, vocabulary_size, resolve).to(hidden.device) if completion == "set" and flat is not None else None
    task = _Task(labels, flat, resolve, lm_weight, 1.0 - lm_weight, options, vocabulary_size, chunk_rows, sets)
    kl_scale = 1.0
    if balance == "match_clm" and flat is not None:
        kl_scale = _clm_over_kl(hidden.detach(), head, task)
        task = replace(task, kl_weight=task.kl_weight * kl_scale)
    is_training = torch.is_grad_enabled()
    total, clm, kl, share = _FusedLinearLoss.apply(hidden, head.weight, head.bias, head, task, is_training)
    return FusedLoss(total, clm, kl, share, kl_scale)


@torch.no_grad()
def _clm_over_kl(hidden: Float[Tensor, "N H"], head: LinearHead, task: _Task) -> Float[Tensor, ""]:
    """The ratio of the two means over the labelled rows, at most `MOST_CLM_OVER_KL`; 1 where the KL acts on no row that is looked at.

    Looked at are `BALANCED_ROWS` of those with a fused target and as many of the others, whose KL is 0: evenly spaced, or all where there are fewer.
    Source: X-Token, arXiv 2605.21699 (the loss scale of its section on training). Differs: there the ratio is that of all rows. Gradients
    are made in the one pass that makes the losses, before all of these are known; to know them first would take a third
    more of the products.
    """
    assert task.fused is not None
    is_labelled, has_target = task.labels != IGNORE, task.fused.has_target[0]
    (fused, rows), (others, also) = (_some(is_labelled & these) for these in (has_target, ~has_target))
    some = replace(task, labels=task.labels[rows], fused=rows_of(task.fused, rows), lm_weight=0.0, kl_weight=0.0)
    _, clm, kl, acting = _FusedLinearLoss.apply(hidden[rows], head.weight, head.bias, head, some, False)
    beside = linear_token_nll(hidden[also], head, task.labels[also]).sum() / max(len(also), 1)
    ratio = (clm * fused + beside * others) / (kl * fused).clamp(min=LEAST_KL)
    return torch.where(acting > 0, ratio.clamp(max=MOST_CLM_OVER_KL), 1.0)


def _some(mask: Bool[Tensor, " N"]) -> tuple[int, Int[Tensor, " n"]]:
    """How many rows there are, and `BALANCED_ROWS` of them, evenly spaced."""
    rows = torch.nonzero(mask)[:, 0]
    return len(rows), rows[:: max(1, -(-len(rows) // BALANCED_ROWS))]


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
        clm, kl, acting, weighed = (torch.zeros((), **precise) for _ in range(4))
        for rows in chunked.chunks:
            logits = chunked.logits(rows)
            losses = task.losses_(rows, logits)
            clm, kl, acting = clm + losses.clm.sum(), kl + losses.kl.sum(), acting + losses.acts.sum()
            if task.is_by_row:
                weighed = weighed + task.weighed(rows, losses)
            chunked.backward_(logits, rows, grad_hidden, grad_weight, grad_bias)
        count = (task.labels != IGNORE).sum().clamp(min=1)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias, count)
        ctx.dtypes = hidden.dtype, weight.dtype, weight.dtype if bias is None else bias.dtype
        clm, kl, share = clm / count, kl / count, acting.float() / count
        ctx.mark_non_differentiable(clm, kl, share)
        total = weighed / count if task.is_by_row else task.lm_weight * clm + task.kl_weight * kl
        return total, clm, kl, share

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


def _sets(sets: Completions | None, vocabulary_size: int, resolve: Resolve | None) -> Completions:
    """ValueError where they are missing, are of a smaller vocabulary, or ids are ranks, which have no bytes."""
    if resolve is not None:
        raise ValueError(
            "loss.completion=set needs the bytes of tokens, and the fused target has ranks: set it to token"
        )
    if sets is None or len(sets.place) < vocabulary_size:
        got = "none" if sets is None else f"those of {len(sets.place)}"
        raise ValueError(f"loss.completion=set needs the completions of all {vocabulary_size} tokens, got {got}")
    return sets


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
