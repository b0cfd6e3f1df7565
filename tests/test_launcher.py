"""The launcher that submits SLURM jobs runs its jobs on this machine too: the README's command, with that one change."""

from pathlib import Path

import pytest
from experiments_for_tests import ROOT, TINY_TRAINING, run_python


@pytest.mark.long
def test_a_job_that_submitit_starts_trains(tiny_cache: Path, tmp_path: Path) -> None:
    short = ["compare_with_clm=false", "trainer.max_steps=1", "trainer.val_check_interval=1"]
    launcher = ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"]
    run_python(str(ROOT / "train.py"), "--multirun", *launcher, *TINY_TRAINING, *short, cache=tiny_cache, cwd=tmp_path)
    (results,) = tmp_path.glob("outputs/quickstart/*/0/results.json")
    assert results.stat().st_size > 0
