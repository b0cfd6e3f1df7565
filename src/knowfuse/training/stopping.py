"""How do all ranks stop after the same batch, whichever of them is told to?"""

import signal
import threading
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import SIGTERMException

STOPPED = 128 + signal.SIGTERM  # the exit status of a process that was told to stop


class StopsWhenTold(L.Callback):
    """Ends the process by SIGTERMException at the end of the batch in which a rank gets SIGTERM, on all ranks at once.

    Lightning's own handler speaks to the other ranks wherever it interrupts this one, in the middle of the sum of a gradient
    too, after which both wait for ever; and it lets a prediction go on to its end.
    """

    def __init__(self) -> None:
        self.is_told = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._listen()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._listen()

    def _listen(self) -> None:
        """In the place of Lightning's handler, which is there by now, until it puts back what was there before."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._hear)

    def _hear(self, *_: object) -> None:
        self.is_told = True

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        self._stop_together(trainer)

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        self._stop_together(trainer)

    def on_train_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        self._stop_together(trainer)  # told after the last batch, such as while its checkpoint was written

    def on_predict_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        self._stop_together(trainer)

    def on_predict_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        self._stop_together(trainer)

    def _stop_together(self, trainer: L.Trainer) -> None:
        is_told = self.is_told
        if trainer.world_size > 1:
            mine = torch.tensor(float(is_told), device=trainer.strategy.root_device)
            is_told = bool(trainer.strategy.reduce(mine, reduce_op="sum") > 0)
        if is_told:
            raise SIGTERMException(STOPPED)
