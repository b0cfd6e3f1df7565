"""Ranks that are told to stop do, after the same batch, wherever each of them was; a program for `run_ranks` too."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from commands_for_tests import ended_ranks
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.utilities.exceptions import SIGTERMException

from knowfuse.training.stopping import STOPPED, StopsWhenTold

SILENT: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}


class Told(L.Callback):
    """SIGTERM for this process before the gradient of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def trainer(folder: Path, callbacks: list[L.Callback], **more: Any) -> L.Trainer:
    settings = {"max_steps": 50, "limit_val_batches": 0, "enable_checkpointing": False, "default_root_dir": folder}
    return L.Trainer(accelerator="cpu", callbacks=callbacks, **settings, **SILENT, **more)


@pytest.mark.parametrize("told", ["3 4", "0 3"])
def test_two_ranks_stop_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    """Told in different steps, or one of them alone: both end as told, neither by the other's end, nor waits for it."""
    monkeypatch.setattr("commands_for_tests.TIMEOUT", 100)
    ended = ended_ranks(__file__, str(tmp_path), told, cache=tmp_path)
    assert [one.returncode for one in ended] == [STOPPED, STOPPED], [one.stderr for one in ended]
    assert {path.read_text() for path in tmp_path.glob("steps-*")} == {"4"}


def test_a_prediction_stops_too(tmp_path: Path) -> None:
    """Which Lightning would let go on, and forget that it was told."""
    before, seen = signal.getsignal(signal.SIGTERM), []

    class ToldWhilePredicting(L.Callback):
        def on_predict_batch_start(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
            seen.append(0)
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SIGTERMException) as stopped:
        trainer(tmp_path, [ToldWhilePredicting(), StopsWhenTold()], devices=1).predict(BoringModel())
    assert stopped.value.code == STOPPED
    assert len(seen) == 1
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("works", ["fit", "predict"])
def test_told_after_the_last_batch_it_does_not_go_on_to_what_comes_next(tmp_path: Path, works: str) -> None:
    class ToldAtTheEnd(L.Callback):
        def on_train_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

        on_predict_end = on_train_end

    runner = trainer(tmp_path, [ToldAtTheEnd(), StopsWhenTold()], devices=1, limit_predict_batches=2)
    with pytest.raises(SIGTERMException) as stopped:
        getattr(runner, works)(BoringModel())
    assert stopped.value.code == STOPPED


def _main(folder: Path, told: str) -> None:
    rank = int(os.environ["RANK"])
    step = int(told.split()[rank])
    runner = trainer(folder, [*([Told(step)] if step else []), StopsWhenTold()], devices=2, strategy="ddp")
    try:
        runner.fit(BoringModel())
    finally:
        (folder / f"steps-{rank}").write_text(str(runner.global_step))


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2])
