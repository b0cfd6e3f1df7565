"""MinCE: at each sequence, document or token, believe the source that predicts the text best.

Source: FuseLLM, arXiv 2401.10491, section 3.3 (there: per sequence, nats per token).
"""

import torch
from jaxtyping import Int
from torch import Tensor

from knowfuse.fusion.cross_entropy import Granularity, Unit, cross_entropy
from knowfuse.fusion.mixture import selection
from knowfuse.types import AlignedSources, FusedTarget


def min_ce(
    sources: AlignedSources,
    document_ids: Int[Tensor, "B T"],
    label_bytes: Int[Tensor, "B T"],
    *,
    granularity: Granularity = "document",
    unit: Unit = "byte",
) -> FusedTarget:
    """All weight on the source with the lowest cross-entropy among those aligned at the row; ties to the first."""
    ce = cross_entropy(sources, document_ids, label_bytes, granularity, unit)
    best = ce.masked_fill(~sources.is_aligned, float("inf")).argmin(1, keepdim=True)
    weights = torch.zeros_like(ce).scatter_(1, best, 1.0) * sources.is_aligned
    return selection(sources, weights)
