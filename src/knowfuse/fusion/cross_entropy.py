"""How well did each source predict the text around each row?"""

from typing import Literal

import torch
from jaxtyping import Float32, Int
from torch import Tensor

from knowfuse.types import AlignedSources

Granularity = Literal["sequence", "document", "token"]
Unit = Literal["byte", "token"]


def cross_entropy(
    sources: AlignedSources,
    document_ids: Int[Tensor, "B T"],
    label_bytes: Int[Tensor, "B T"],
    granularity: Granularity,
    unit: Unit,
) -> Float32[Tensor, "B S T"]:
    """Nats per byte, or per token of the source's own (the paper's), over each row's sequence, document or token.

    Only rows where the source is aligned count. A source without an aligned row there has infinite cross-entropy.
    Where nothing was counted but an EOS, which has no bytes, it is the nats themselves.
    """
    groups = _groups(document_ids, granularity)
    nats = _sum_in_groups(sources.nll.masked_fill(~sources.is_aligned, 0.0), groups)
    per = label_bytes[:, None].float().expand_as(sources.nll) if unit == "byte" else sources.source_tokens
    amount = _sum_in_groups(per.masked_fill(~sources.is_aligned, 0.0), groups)
    mean = nats / amount.masked_fill(amount < 1e-6, 1.0)  # fractions of a token are far larger
    return mean.masked_fill(_sum_in_groups(sources.is_aligned.float(), groups) == 0, float("inf"))


def _groups(document_ids: Int[Tensor, "B T"], granularity: Granularity) -> Int[Tensor, "B T"]:
    if granularity == "sequence":
        return torch.zeros_like(document_ids)
    if granularity == "document":
        return document_ids
    return torch.arange(document_ids.shape[1], device=document_ids.device).expand_as(document_ids)


def _sum_in_groups(values: Float32[Tensor, "B S T"], groups: Int[Tensor, "B T"]) -> Float32[Tensor, "B S T"]:
    index = groups[:, None].expand(values.shape).long()
    most = values.shape[-1] + 1  # groups number from 0 to T: reading their maximum would wait for the device
    totals = values.new_zeros(*values.shape[:2], most).scatter_add_(-1, index, values)
    return totals.gather(-1, index)
