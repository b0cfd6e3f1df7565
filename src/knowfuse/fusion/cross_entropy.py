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
    """Nats per byte, or per token of the source's own (the paper's), over the text of each row's sequence, document or token.

    Only rows where the source is aligned count, and only those whose label takes bytes: the text alone decides, and an EOS
    takes none. A source without an aligned row there has infinite cross-entropy. Where it has an EOS alone, that has to
    decide: it is the nats of that.

    Differs: the published code counts the EOS like any token.
    """
    groups = _groups(document_ids, granularity)
    is_text = sources.is_aligned & (label_bytes > 0)[:, None]
    per = label_bytes[:, None].float().expand_as(sources.nll) if unit == "byte" else sources.source_tokens
    nats, amount = (_sum_in_groups(part.masked_fill(~is_text, 0.0), groups) for part in (sources.nll, per))
    at_eos = _sum_in_groups(sources.nll.masked_fill(~sources.is_aligned | is_text, 0.0), groups)
    has_text = amount >= 1e-6  # fractions of a token are far larger
    mean = torch.where(has_text, nats / amount.masked_fill(~has_text, 1.0), at_eos)
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
