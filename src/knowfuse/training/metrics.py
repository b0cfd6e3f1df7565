"""What is logged of the sources while a target learns from them?"""

from collections.abc import Sequence

from torch import Tensor

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
