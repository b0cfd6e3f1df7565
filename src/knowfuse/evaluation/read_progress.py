"""How far is the reading of a trained LLM by its Trainer?"""

from contextlib import ExitStack
from typing import Any

import lightning as L

from knowfuse.progress import counting
from knowfuse.types import IGNORE


class ReadProgress(L.Callback):
    """A bar, while it lasts, over the labels that a trained LLM reads; the ranks have about as many each."""

    def __init__(self, stage: str, total: int) -> None:
        self.stage, self.total = stage, total
        self.shown = ExitStack()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.advance = self.shown.enter_context(counting(self.stage, self.total, stays=False))

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        _, labels = batch
        self.advance(int((labels != IGNORE).sum()) * trainer.world_size)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.shown.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.shown.close()
