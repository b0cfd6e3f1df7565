"""Static: believe every source as much as the configuration says.

Source: X-Token, arXiv 2605.21699, which finds fixed weights the best for several teachers.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from knowfuse.fusion.mixture import mixture
from knowfuse.types import AlignedSources, FusedTarget


def static(
    sources: AlignedSources,
    document_ids: Int[Tensor, "B T"],
    label_bytes: Int[Tensor, "B T"],
    *,
    weights: Mapping[str, int | float],
    source_names: Sequence[str],
) -> FusedTarget:
    """The mixture of the sources aligned at each row, each by its weight over the sum of theirs.

    `source_names` are those of the source axis, in its order. Raises ValueError for a weight of no source, a source without
    one, a weight that is not above 0, and weights that do not sum to 1.
    """
    require_weights(weights, source_names)
    given = torch.tensor([weights[name] for name in source_names], device=sources.nll.device)
    own = given[:, None] * sources.is_aligned
    total = own.sum(1, keepdim=True)
    return mixture(sources, own / total.masked_fill(total == 0, 1.0))  # a row without a source has no weights, not NaN


def require_weights(weights: Mapping[str, int | float], source_names: Sequence[str]) -> None:
    """ValueError unless every source has a weight above 0, nobody else has one, and they sum to 1."""
    if not isinstance(weights, Mapping):
        raise ValueError(f"fusion.weights is {weights!r}: give each of the sources {list(source_names)} one")
    if strange := [name for name in weights if name not in source_names]:
        raise ValueError(
            f"fusion.weights names {strange[0]!r}, which is no source: the sources are {list(source_names)}"
        )
    if missing := [name for name in source_names if name not in weights]:
        raise ValueError(
            f"fusion.weights has no weight for source {missing[0]!r}: give each of {list(source_names)} one, or leave the "
            "source out of sources"
        )
    for name, weight in weights.items():
        if type(weight) not in (int, float) or not weight > 0:
            raise ValueError(
                f"fusion.weights.{name} is {weight!r}: it must be a number above 0; a source that nobody is to believe is "
                "left out of sources"
            )
    if not math.isclose(total := float(sum(weights.values())), 1.0, abs_tol=1e-6):
        raise ValueError(
            f"fusion.weights sum to {total:.6g}: they must sum to 1, in their ratio {_scaled(weights, total)}"
        )


def _scaled(weights: Mapping[str, int | float], total: float) -> str:
    return "{" + ", ".join(f"{name}: {weight / total:.4g}" for name, weight in weights.items()) + "}"
