"""Whom did the fused target come from, where in the text, and where did each source's mass go? Sums over batches, and shares."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float64, Int
from torch import Tensor
from torch.nn.functional import one_hot

from knowfuse.types import IGNORE, MASS_CLASSES, ROW_CLASSES, AlignedSources, FusedTarget


@dataclass
class SourceSums:
    """What the labelled rows of some batches add up to; S sources, D domains."""

    labelled: Float64[Tensor, " D"]  # rows
    weights: Float64[Tensor, "S D"]  # of each source in the fused target
    aligned: Float64[Tensor, "S D"]  # rows on which it is aligned
    mass: Float64[Tensor, "S 6"]  # of its probability by `MASS_CLASSES`; 0 where the method has no such classes
    rows: Float64[Tensor, "S 4"]  # of its aligned rows by `ROW_CLASSES`; likewise

    def __add__(self, other: "SourceSums") -> "SourceSums":
        return SourceSums(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def source_sums(
    sources: AlignedSources,
    fused: FusedTarget,
    labels: Int[Tensor, "B T"],
    domains: Int[Tensor, "B T"],
    num_domains: int,
) -> SourceSums:
    """The sums of one batch; `domains` are numbers below `num_domains`."""
    is_of = one_hot(domains, num_domains).double() * (labels != IGNORE)[..., None]  # [B, T, D]

    def by_domain(values: Tensor) -> Float64[Tensor, "S D"]:
        return torch.einsum("bst,btd->sd", values.double(), is_of)

    def by_class(values: Tensor | None, number: int) -> Float64[Tensor, "S C"]:
        return is_of.new_zeros(sources.nll.shape[1], number) if values is None else values.sum(0).double()

    return SourceSums(
        labelled=is_of.sum((0, 1)),
        weights=by_domain(fused.weights),
        aligned=by_domain(sources.is_aligned),
        mass=by_class(sources.budget, len(MASS_CLASSES)),
        rows=by_class(sources.row_classes, len(ROW_CLASSES)),
    )


def shares_by_domain(sums: SourceSums, sources: Sequence[str], domains: Sequence[str]) -> dict[str, Any]:
    """By source and domain, of the labelled rows: `share`, what each source is of the fused target, `coverage`, where it is
    aligned; `labelled` counts the rows. Domains without one are left out.
    """
    there = [(d, name) for d, name in enumerate(domains) if sums.labelled[d] > 0]
    by_name = {"share": sums.weights / sums.labelled, "coverage": sums.aligned / sums.labelled}
    return {
        what: {source: {name: float(of[s, d]) for d, name in there} for s, source in enumerate(sources)}
        for what, of in by_name.items()
    } | {"labelled": {name: int(sums.labelled[d]) for d, name in there}}


def shares_by_class(sums: SourceSums, sources: Sequence[str]) -> dict[str, dict[str, dict[str, float]] | None]:
    """Of each source `mass`, the shares of its probability, and `rows`, those of its aligned rows, by class; each sums to 1.

    None where the alignment has no such classes.
    """
    found = {}
    for what, names, of in (("mass", MASS_CLASSES, sums.mass), ("rows", ROW_CLASSES, sums.rows)):
        totals = of.sum(1).tolist()
        shares = {
            source: dict(zip(names, (of[s] / totals[s]).tolist(), strict=True))
            for s, source in enumerate(sources)
            if totals[s] > 0
        }
        found[what] = shares or None
    return found
