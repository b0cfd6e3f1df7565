"""`wandb sweep` and `wandb agent`, the real ones, against a server on this machine."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
import yaml
from commands_for_tests import stand_in
from experiments_for_tests import ROOT, TINY_TRAINING
from test_main_job import KILLED
from wandb_server_for_tests import WandbState, wandb_server

SWEEP = yaml.safe_load((ROOT / "conf" / "sweep" / "fusion.yaml").read_text())


def environment(url: str, cache: Path, folder: Path) -> dict[str, str]:
    """Of a user who is logged in at this server; `python` is this one, forked."""
    path = f"{stand_in().parent}{os.pathsep}{os.environ['PATH']}"
    mine = {"WANDB_BASE_URL": url, "WANDB_API_KEY": "0" * 40, "WANDB_ENTITY": "us", "WANDB_PROJECT": "knowfuse"}
    mine |= {f"WANDB_{kind}DIR": str(folder) for kind in ("", "CONFIG_", "CACHE_", "DATA_")} | {"WANDB_MODE": "online"}
    return {**os.environ, **mine, "PATH": path, "KNOWFUSE_CACHE": str(cache), "OMP_NUM_THREADS": "1"}


def wandb(*arguments: str, env: dict[str, str], cwd: Path) -> str:
    command = [stand_in(), "-m", "wandb", *arguments]
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def swept(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, WandbState]:
    """Where a sweep ran in miniature, and what the server was told; the second of its two points has no finite loss."""
    folder = tmp_path_factory.mktemp("sweep")
    rates = ["[2e-3]", "[1e30]"]
    command = [*SWEEP["command"][:-1], *TINY_TRAINING, SWEEP["command"][-1]]
    parameters = {"fusion": {"values": ["avg_ce"]}, "learning_rates": {"values": rates}}
    mine = {**SWEEP, "program": str(ROOT / "train.py"), "parameters": parameters, "command": command}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(mine))
    with wandb_server() as (url, state):
        env = environment(url, tiny_cache, folder)
        printed = wandb("sweep", "sweep.yaml", env=env, cwd=folder)
        found = re.search(r"wandb agent (\S+)", printed)
        assert found, printed
        wandb("agent", found[1], env=env, cwd=folder)
    return folder, state


def test_the_agent_runs_every_point(swept: tuple[Path, WandbState]) -> None:
    _, state = swept
    assert [point["learning_rates"] for point in state.given.values()] == ["[2e-3]", "[1e30]"]
    assert not state.points


def test_the_server_gets_the_metric(swept: tuple[Path, WandbState]) -> None:
    """`best/val_bits_per_byte`, which the sweep minimises, as the run folder holds it."""
    folder, state = swept
    (path,) = (folder / "outputs" / "quickstart").glob("*/results.json")
    want = json.loads(path.read_text())["fits"]["fused"]["best_bits_per_byte"]
    metric = SWEEP["metric"]["name"]
    assert [line[metric] for line in state.history["run0"] if metric in line] == [pytest.approx(want)]


def test_a_run_that_failed_is_told_as_failed(swept: tuple[Path, WandbState]) -> None:
    _, state = swept
    assert state.exit_codes == {"run0": 0, "run1": 1}
    assert not any(SWEEP["metric"]["name"] in line for line in state.history.get("run1", []))


def test_a_run_that_was_stopped_goes_on_in_its_own_wandb_run(tiny_cache: Path, tmp_path: Path) -> None:
    """By SIGTERM, between two checkpoints; `ckpt_path=last` then starts no second one."""
    program = str(ROOT / "train.py")
    settings = [*TINY_TRAINING, "compare_with_clm=false", "logger=wandb", f"hydra.run.dir={tmp_path / 'run'}"]
    stopped = [str(stand_in()), "-c", KILLED.replace("SIGKILL", "SIGTERM"), "5", program, *settings]
    with wandb_server() as (url, state):
        env = environment(url, tiny_cache, tmp_path)
        first = subprocess.run(stopped, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=240)
        assert first.returncode == 128 + signal.SIGTERM, first.stdout + first.stderr
        (name,) = state.history
        assert state.exit_codes == {name: 1}
        goes_on = [str(stand_in()), program, *settings, "ckpt_path=last"]
        then = subprocess.run(goes_on, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=240)
        assert then.returncode == 0, then.stdout + then.stderr
    assert state.exit_codes == {name: 0}
    assert list(state.history) == [name]
    assert {line["trainer/global_step"] for line in state.history[name] if "train/loss_nats" in line} >= set(
        range(3, 8)
    )
