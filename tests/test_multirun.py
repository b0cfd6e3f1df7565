"""`python train.py --multirun`: killed and repeated, and with points that start processes of their own."""

import csv
import json
import signal
from pathlib import Path

import pytest
from commands_for_tests import ended, run_python
from experiments_for_tests import TINY_TRAINING
from test_main_job import KILLED, TRAIN

TINY = [override for override in TINY_TRAINING if not override.startswith("lm_weight=")]
SHORT = ["compare_with_clm=false", "trainer.max_steps=4", "name=swept"]


def figures(sweep: Path) -> dict[str, float]:
    """What each finished point gives the sweeper."""
    done = sorted(sweep.glob("*/results.json"))
    return {path.parent.name: json.loads(path.read_text())["fits"]["fused"]["best_bits_per_byte"] for path in done}


@pytest.mark.long
def test_a_killed_sweep_goes_on_by_the_same_command(tiny_cache: Path, tmp_path: Path) -> None:
    """Killed in the second of three points, past a checkpoint: the first is left as it is, the second goes on, the third runs."""
    command = [TRAIN, "--multirun", "lm_weight=0.3,0.6,0.9", *TINY, *SHORT]
    killed = ended("-c", KILLED, "7", *command, cache=tiny_cache, cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (sweep,) = (tmp_path / "outputs" / "swept").iterdir()
    before = figures(sweep)
    assert list(before) == ["0"]
    first = {path: path.stat().st_mtime_ns for path in (sweep / "0" / "fits").rglob("*")}
    said = " ".join(run_python(*command, cache=tiny_cache, cwd=tmp_path).split())
    assert "goes on, it was stopped before all its points were done" in said
    assert said.count("finished before") == 1
    assert f"finished before, {before['0']:.3f} bits/byte on validation" in said
    assert list((tmp_path / "outputs" / "swept").iterdir()) == [sweep]
    assert {path: path.stat().st_mtime_ns for path in (sweep / "0" / "fits").rglob("*")} == first
    assert list(figures(sweep)) == ["0", "1", "2"]
    assert figures(sweep)["0"] == before["0"]
    assert len(set(figures(sweep).values())) == 3
    with (sweep / "sweep.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [(row["point"], row["lm_weight"], row["failed"]) for row in rows] == [
        ("0", "0.3", ""),
        ("1", "0.6", ""),
        ("2", "0.9", ""),
    ]
    assert {row["point"]: float(row["bits_per_byte"]) for row in rows} == figures(sweep)
    again = run_python(*command, f"hydra.sweep.dir={sweep}", cache=tiny_cache, cwd=tmp_path)
    assert again.count("finished before") == 3, "in the folder of a sweep that is done"


@pytest.mark.long
def test_points_on_several_processes_are_commands_of_their_own(tiny_cache: Path, tmp_path: Path) -> None:
    """Two points, two processes each: what one leaves in its environment does not reach the next."""
    sharded = ["trainer=fsdp", "trainer.accelerator=cpu", "trainer.devices=2", "batch_blocks=1", "warmup_steps=0"]
    one_step = ["trainer.max_steps=1", "trainer.val_check_interval=1"]
    command = [TRAIN, "--multirun", "lm_weight=0.3,0.9", *TINY, *SHORT, *sharded, *one_step]
    run_python(*command, cache=tiny_cache, cwd=tmp_path)
    (sweep,) = (tmp_path / "outputs" / "swept").iterdir()
    assert list(figures(sweep)) == ["0", "1"]
    assert len(set(figures(sweep).values())) == 2
    assert all((sweep / point / "fits" / "fused-lr0.002" / "best.ckpt").is_dir() for point in "01"), "in shards"


def test_a_sweep_is_not_for_processes_that_were_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    done = ended(TRAIN, "--multirun", "lm_weight=0.3,0.6", cache=tmp_path, cwd=tmp_path)
    assert done.returncode == 1
    assert (
        "2 processes were started as one run, and --multirun starts those of each point itself: run it" in done.stderr
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_optuna_draws_the_points_of_a_sweep(tiny_cache: Path, tmp_path: Path) -> None:
    """By `conf/sweep/optuna.yaml`; the table has what was drawn, within its bounds."""
    draws = ["hydra.sweeper.n_trials=2", 'hydra.sweeper.params.learning_rates="choice([2e-3])"']
    short = [o for o in TINY if not o.startswith("learning_rates=")]
    one_step = ["trainer.max_steps=1", "trainer.val_check_interval=1", "samples=0", "name=drawn"]
    run_python(TRAIN, "--multirun", "+sweep=optuna", *draws, *short, *one_step, cache=tiny_cache, cwd=tmp_path)
    (sweep,) = (tmp_path / "outputs" / "drawn").iterdir()
    with (sweep / "sweep.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert {row["point"]: float(row["bits_per_byte"]) for row in rows} == figures(sweep)
    assert list(figures(sweep)) == ["0", "1"]
    weights = [float(row["lm_weight"]) for row in rows]
    assert weights[0] != weights[1]
    assert all(0 <= weight <= 1 for weight in weights)
