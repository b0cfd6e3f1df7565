"""The CSV file of a fit that was stopped has every step once; what cannot be uploaded is refused."""

import csv
import re
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import pytest
from experiments_for_tests import PowerCut, composed, data_module, fusion_module, local_llm, trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger

from knowfuse.runs.experiment import Experiment
from knowfuse.runs.logged import logger_of
from knowfuse.training.fit import fit

CSV = partial(CSVLogger, name="csv", flush_logs_every_n_steps=5)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    (file,) = folder.rglob("metrics.csv")
    with file.open(newline="") as lines:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(lines)]


def test_a_fit_that_goes_on_logs_every_step_once(tmp_path: Path) -> None:
    """The same figures as of one that was not stopped, also where a kill has cut off the last line."""
    target = local_llm(tmp_path / "target")

    def run(folder: Path, stop: int | None = None, start: Path | None = None) -> None:
        make = trainer(6, also=[PowerCut(stop)] if stop else [], log_every_n_steps=1)
        module = fusion_module(target, is_fused=False)
        fit("job", folder, module, data_module(), make, 2e-3, lambda: [logger_of(CSV, folder)], start)

    run(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="power"):
        run(tmp_path / "stopped", 5)
    (file,) = (tmp_path / "stopped").rglob("metrics.csv")
    assert {row["step"] for row in rows_of(tmp_path / "stopped")} == {"0", "1", "2", "3"}, "what a checkpoint is after"
    with file.open("a") as log:
        log.write("0,0.1")
    run(tmp_path / "stopped", start=tmp_path / "stopped" / "last.ckpt")
    assert rows_of(tmp_path / "stopped") == rows_of(tmp_path / "whole")
    assert [row["step"] for row in rows_of(tmp_path / "whole") if "train/loss_nats" in row] == list("012345")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["logger.offline=true"], "logger.log_model=true uploads checkpoints, and logger.offline=true sends nothing"),
        (["trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=1"], "writes folders of shards: set trainer."),
    ],
)
def test_checkpoints_that_cannot_be_uploaded_are_refused(settings: list[str], message: str) -> None:
    """Before anything is read; not where nothing is to be uploaded."""
    asked = ["logger=wandb", *settings]
    with pytest.raises(ValueError, match=re.escape(message)):
        experiment(*asked, "logger.log_model=true").require_machine()
    experiment(*asked).require_machine()


@pytest.mark.parametrize("sweep", [None, "mine"])
def test_a_trial_that_is_offline_says_what_its_sweep_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sweep: str | None
) -> None:
    """The run is where the line says, by the id that the agent gave it."""
    monkeypatch.setenv("WANDB_RUN_ID", "trial0")
    if sweep is not None:
        monkeypatch.setenv("WANDB_SWEEP_ID", sweep)
    logger = logger_of(partial(WandbLogger, project="any", offline=True), tmp_path)
    assert isinstance(logger, WandbLogger)
    logger.experiment.finish()
    (said,) = re.findall(r"`wandb sync (.*)`; a grid", capsys.readouterr().out) or [None]
    if sweep is None:
        assert said is None
    else:
        assert said is not None
        assert (Path(said) / "run-trial0.wandb").exists()


def experiment(*settings: str) -> Experiment:
    return hydra.utils.instantiate(composed("train", *settings), _convert_="all")


def test_parts_of_another_log_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make = partial(TensorBoardLogger, name="tensorboard")
    for _ in range(2):
        logger_of(make, tmp_path).log_metrics({"train/loss_nats": 1.0}, step=0)
    said = " ".join(capsys.readouterr().out.split())
    first, second = (tmp_path / "tensorboard" / f"version_{n}" for n in (0, 1))
    assert f"its log goes on in {second}; what was logged before it was stopped is in {first}" in said
