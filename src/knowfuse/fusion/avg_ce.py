"""AvgCE: believe every source, each by how well it predicts the text.

Source: FuseLLM, arXiv 2401.10491, section 3.3.
"""

from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from knowfuse.fusion.cross_entropy import Granularity, Unit, cross_entropy
from knowfuse.fusion.mixture import mixture
from knowfuse.types import AlignedSources, FusedTarget

Weighting = Literal["softmax", "reference"]


def avg_ce(
    sources: AlignedSources,
    document_ids: Int[Tensor, "B T"],
    label_bytes: Int[Tensor, "B T"],
    *,
    granularity: Granularity = "document",
    unit: Unit = "byte",
    weighting: Weighting = "softmax",
    temperature: float = 0.1,
) -> FusedTarget:
    """The mixture with weights `softmax(-CE / temperature)` over the sources aligned at the row.

    `weighting="reference"` takes the published code's `softmax(exp(-CE))`, nearly uniform; it has no temperature.
    """
    if temperature <= 0:
        raise ValueError(f"fusion temperature is in nats per {unit} and must be positive, got {temperature}")
    ce = cross_entropy(sources, document_ids, label_bytes, granularity, unit)
    score = torch.exp(-ce) if weighting == "reference" else -ce / temperature
    weights = torch.softmax(score.masked_fill(~sources.is_aligned, float("-inf")), dim=1)
    weights = weights.masked_fill(~sources.is_aligned, 0.0)  # a row without a source has no weights, not NaN
    return mixture(sources, weights)
