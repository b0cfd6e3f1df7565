"""What do logits cost where both distributions are softened by a temperature?

CLM reads the logits as they are, the KL reads them divided by T: two softmaxes of one chunk. They are made of some rows
at a time, so that the second needs next to no memory and both stay near the processor.
"""

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from knowfuse.losses.completion import Completions
from knowfuse.losses.options import LossOptions
from knowfuse.losses.sparse_kl import RowLosses, RowWeight, gives_more, rows_of, sparse_loss_, weights_of
from knowfuse.types import FusedTarget, TopK

BLOCK_ROWS = 32  # rows that are softened at a time


def softened_loss_(
    logits: Float[Tensor, "N V"],
    labels: Int[Tensor, " N"],
    fused: FusedTarget,
    *,
    lm_weight: RowWeight,
    kl_weight: RowWeight,
    options: LossOptions,
    vocabulary_size: int,
    sets: Completions | None = None,
) -> RowLosses:
    """`sparse_loss_` with a temperature; `kl` is `T^2` times the divergence of the softened distributions.

    The gradient of what is softened is `1 / T^2` of what it was: the factor keeps its weight beside CLM whatever T is.
    The gate compares what is not softened. Source: Hinton et al., arXiv 1503.02531, section 2.
    """
    parts = []
    for start in range(0, len(logits), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        weights = {"lm_weight": weights_of(lm_weight, rows), "kl_weight": weights_of(kl_weight, rows)}
        how = {"vocabulary_size": vocabulary_size, "sets": sets}
        parts.append(_block_(logits[rows], labels[rows], rows_of(fused, rows), options, **weights, **how))
    return RowLosses(*(torch.cat([getattr(part, name) for part in parts]) for name in ("clm", "kl", "acts")))


def _block_(
    logits: Float[Tensor, "n V"],
    labels: Int[Tensor, " n"],
    fused: FusedTarget,
    options: LossOptions,
    *,
    lm_weight: RowWeight,
    kl_weight: RowWeight,
    vocabulary_size: int,
    sets: Completions | None,
) -> RowLosses:
    soft = logits / options.temperature
    clm = sparse_loss_(
        logits, labels, None, lm_weight=lm_weight, kl_weight=0.0, options=options, vocabulary_size=vocabulary_size
    ).clm
    if options.gate == "better":
        is_better = gives_more(TopK(fused.topk.ids[0], fused.topk.log_probs[0]), labels[:, None], -clm)
        fused = replace(fused, has_target=fused.has_target & is_better)
        options = replace(options, gate="none")
    kl = sparse_loss_(
        soft,
        labels,
        fused,
        lm_weight=0.0,
        kl_weight=kl_weight,
        options=options,
        vocabulary_size=vocabulary_size,
        sets=sets,
    )
    logits.add_(soft, alpha=options.temperature)  # T^2 of the factor by 1 / T of the division
    return RowLosses(clm, options.temperature**2 * kl.kl, kl.acts)
