"""How much did each source teach, of which text and when? Kept from one validation to the next; survives a stop."""

from dataclasses import fields
from typing import Any

import lightning as L
import torch

from knowfuse.fusion.shares import SourceSums, shares_by_class, shares_by_domain
from knowfuse.training.module import FusionModule

NAMES = tuple(f.name for f in fields(SourceSums))


class SourcesSaid(L.Callback):
    """Logs `share/<source>/<domain>` and `coverage/<source>/<domain>` with each validation, over the steps since the last.

    What follows the last validation of a fit is in no figure.
    """

    def __init__(self) -> None:
        self.points: list[tuple[int, dict[str, Any]]] = []  # tokens seen, and the sums since the point before as lists
        self.sources: list[str] = []
        self.domains: list[str] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, FusionModule)
        self.sources, self.domains = pl_module.source_names, pl_module.domains

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, FusionModule)
        if (since := pl_module.source_sums) is None:
            return
        on_all_ranks = {name: trainer.strategy.reduce(getattr(since, name), reduce_op="sum").cpu() for name in NAMES}
        pl_module.source_sums = None
        self.points.append((pl_module.tokens_seen, {name: sums.tolist() for name, sums in on_all_ranks.items()}))
        shares = shares_by_domain(SourceSums(**on_all_ranks), self.sources, self.domains)
        for what in ("share", "coverage"):
            for source, by_domain in shares[what].items():
                pl_module.log_dict({f"{what}/{source}/{domain}": share for domain, share in by_domain.items()})

    def summary(self) -> dict[str, Any] | None:
        """Shares by domain and class over the whole fit, and `over_training` by domain; None where no source was read."""
        if not self.points:
            return None
        by_point = [(tokens, _sums(point)) for tokens, point in self.points]
        total = sum((sums for _, sums in by_point[1:]), start=by_point[0][1])
        return {
            **shares_by_domain(total, self.sources, self.domains),
            **shares_by_class(total, self.sources),
            "over_training": [
                {"tokens": tokens, **shares_by_domain(sums, self.sources, self.domains)} for tokens, sums in by_point
            ],
        }

    def state_dict(self) -> dict[str, Any]:
        return {"points": self.points}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.points = [(tokens, sums) for tokens, sums in state_dict["points"]]


def _sums(point: dict[str, Any]) -> SourceSums:
    return SourceSums(**{name: torch.tensor(point[name], dtype=torch.float64) for name in NAMES})
