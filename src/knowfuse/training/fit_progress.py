"""How far is a fit?"""

from contextlib import ExitStack
from typing import Any

import lightning as L

from knowfuse.progress import Pulse, at_work, progress_bar
from knowfuse.types import IGNORE


class FitProgress(L.Callback):
    """A bar over the steps of a fit, with the last validation figure beside it; until its first batch is done it is at work."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.beginning = ExitStack()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.beginning.enter_context(at_work(f"{self.stage}: its first batch"))

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.tokens, self.bar = 0, progress_bar()
        self.pulse = Pulse(self.stage, trainer.max_steps, trainer.global_step)
        if trainer.is_global_zero:
            self.bar.start()
        self.task = self.bar.add_task(self.stage, total=trainer.max_steps, tokens=0, note="")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.beginning.close()
        self.tokens += int((batch.labels != IGNORE).sum()) * trainer.world_size
        self.bar.update(self.task, completed=trainer.global_step, tokens=self.tokens)
        self.pulse.beat(trainer.global_step, self.tokens, "tokens")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if "val/bits_per_byte" in trainer.callback_metrics and hasattr(self, "bar"):
            bits = float(trainer.callback_metrics["val/bits_per_byte"])
            self.bar.update(self.task, note=f"val {bits:.3f} bits/byte")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.beginning.close()
        self.bar.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.beginning.close()
        if hasattr(self, "bar"):
            self.bar.stop()
