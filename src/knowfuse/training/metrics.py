"""What is measured while a target learns from its sources?"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import one_hot
from torchmetrics import Metric

from knowfuse.fusion.mixture import disagreement
from knowfuse.types import IGNORE, MASS_CLASSES, ROW_CLASSES, FusedTarget, FusionBatch


def source_metrics(batch: FusionBatch, fused: FusedTarget, names: Sequence[str]) -> dict[str, Tensor]:
    """Of each source its share of the fused target, and the share of the labelled rows on which it is aligned."""
    assert batch.sources is not None
    is_labelled = batch.labels != IGNORE
    count = is_labelled.sum().clamp(min=1)
    shares = (fused.weights * is_labelled[:, None]).sum((0, 2)) / count
    coverage = (batch.sources.is_aligned & is_labelled[:, None]).sum((0, 2)) / count
    logged = {f"share/{name}": share for name, share in zip(names, shares, strict=True)}
    return logged | {f"coverage/{name}": covered for name, covered in zip(names, coverage, strict=True)}


def dear_metrics(batch: FusionBatch, names: Sequence[str]) -> dict[str, Tensor]:
    """What costs as much as another fusion: how far apart the sources are, in nats a row, and where their mass went.

    Two draws of one distribution are apart too: of drawn words there is no such figure. And how the target's tokens lie to theirs on the rows that they speak on.
    """
    assert batch.sources is not None
    logged: dict[str, Tensor] = {}
    if not batch.sources.is_drawn:
        is_labelled = batch.labels != IGNORE
        nats = (disagreement(batch.sources) * is_labelled).sum() / is_labelled.sum().clamp(min=1)
        logged["train/disagreement_nats"] = nats
    if batch.sources.budget is not None:
        rows = batch.sources.is_aligned.sum((0, 2)).clamp(min=1)
        for name, budget in zip(names, batch.sources.budget.sum(0) / rows[:, None], strict=True):
            logged |= {f"mass/{name}/{kind}": mass for kind, mass in zip(MASS_CLASSES, budget, strict=True)}
    if batch.sources.row_classes is not None:
        for name, counts in zip(names, batch.sources.row_classes.sum(0), strict=True):
            shares = counts / counts.sum().clamp(min=1)
            logged |= {f"rows/{name}/{kind}": share for kind, share in zip(ROW_CLASSES, shares, strict=True)}
    return logged


class BitsByDomain(Metric):
    """What the target pays on each domain, of all ranks; by sums whose order does not change, on a GPU too."""

    full_state_update = False
    nats: Tensor
    num_bytes: Tensor

    def __init__(self, domains: Sequence[str]) -> None:
        super().__init__()
        self.domains = list(domains)
        for name in ("nats", "num_bytes"):
            self.add_state(name, torch.zeros(len(domains)), dist_reduce_fx="sum")

    def update(self, nats: Float[Tensor, "B T"], num_bytes: Int[Tensor, "B T"], domains: Int[Tensor, "B T"]) -> None:
        """Of the rows of a batch, each with the place of its domain."""
        is_of = one_hot(domains, len(self.domains)).bool()
        for rows, total in ((nats, self.nats), (num_bytes, self.num_bytes)):
            total += torch.where(is_of, rows[..., None], 0).sum((0, 1))

    def compute(self) -> dict[str, float]:
        """Bits per byte, of the domains that have text."""
        bits, num_bytes = torch.stack([self.nats / math.log(2), self.num_bytes]).cpu().tolist()
        paid = zip(self.domains, bits, num_bytes, strict=True)
        return {domain: its / size for domain, its, size in paid if size}
