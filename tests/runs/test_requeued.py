"""A SLURM job is queued again once, by its first process, whatever it is at."""

import os
import signal
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.utilities import rank_zero_only

from knowfuse.runs.requeued import ASKS, requeue_when_told


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What `scontrol`, a stand-in, was asked for, a line each; this process is job 77's."""
    file, scontrol = tmp_path / "asked", tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> "{file}"\n')
    scontrol.chmod(0o755)
    file.touch()
    monkeypatch.setenv("PATH", f"{scontrol.parent}{os.pathsep}{os.environ['PATH']}")
    for name, value in {"JOB_ID": "77", "NTASKS": "1", "JOB_NAME": "mine", "NODELIST": "here"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    before = signal.getsignal(ASKS)
    requeue_when_told(os.environ)
    yield file
    signal.signal(ASKS, before)


def tell() -> None:
    os.kill(os.getpid(), ASKS)


def test_the_first_process_queues_the_job_again(asked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tell()
    assert asked.read_text() == "requeue 77\n"
    assert "job 77 is queued again; with ckpt_path=auto it goes on from the last validation" in capsys.readouterr().out


def test_others_go_on(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other ranks, and the workers that load data: the signal reaches all, and by itself would end them."""
    worker = get_context("fork").Process(target=tell)
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    tell()
    assert not asked.read_text()


def test_a_fit_saves_nothing_between_two_steps(asked: Path, tmp_path: Path) -> None:
    """As Lightning alone would, and take it for the newest checkpoint at the next start."""

    class Told(L.Callback):
        def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            tell()

    settings: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "max_steps": 1, "logger": False}
    silent = {"enable_progress_bar": False, "enable_model_summary": False, "limit_val_batches": 0}
    trainer = L.Trainer(
        **settings, **silent, callbacks=[Told()], default_root_dir=tmp_path / "fit", enable_checkpointing=False
    )
    trainer.fit(BoringModel())
    assert asked.read_text() == "requeue 77\n"
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_job_that_cannot_be_queued_again_is_named(
    asked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bin" / "scontrol").write_text("#!/bin/sh\nexit 1\n")
    tell()
    said = capsys.readouterr().out
    assert "warning: scontrol requeue 77 failed (" in said
    assert "queue job 77 again yourself" in said


def test_elsewhere_the_signal_is_nobodys() -> None:
    before = signal.getsignal(ASKS)
    requeue_when_told({})
    assert signal.getsignal(ASKS) == before
