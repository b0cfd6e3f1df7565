"""`wandb sweep` and `wandb agent`, the real ones, against a server on this machine."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from commands_for_tests import stand_in
from experiments_for_tests import ROOT, SOURCES, TINY_TRAINING
from test_main_job import KILLED
from wandb_server_for_tests import WandbState, wandb_server

pytestmark = pytest.mark.long
SWEEP = yaml.safe_load((ROOT / "conf" / "sweep" / "fusion.yaml").read_text())


def environment(url: str, cache: Path, folder: Path) -> dict[str, str]:
    """Of a user who is logged in at this server; `python` is this one, forked."""
    path = f"{stand_in().parent}{os.pathsep}{os.environ['PATH']}"
    mine = {"WANDB_BASE_URL": url, "WANDB_API_KEY": "0" * 40, "WANDB_ENTITY": "us", "WANDB_PROJECT": "knowfuse"}
    mine |= {"WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL": "1"}  # s, not 15
    mine |= {f"WANDB_{kind}DIR": str(folder) for kind in ("", "CONFIG_", "CACHE_", "DATA_")} | {"WANDB_MODE": "online"}
    return {**os.environ, **mine, "PATH": path, "KNOWFUSE_CACHE": str(cache), "OMP_NUM_THREADS": "1"}


def wandb(*arguments: str, env: dict[str, str], cwd: Path) -> str:
    command = [stand_in(), "-m", "wandb", *arguments]
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


FAILS, STOPPED, WELL = "run0", "run1", "run2"
POINTS = [
    {"fusion": "avg_ce", "learning_rates": "[1e30]"},  # no finite loss
    {"fusion": "avg_ce", "learning_rates": "[2e-3]", "trainer.max_steps": 10**6, "trainer.val_check_interval": 10},
    {"fusion": "avg_ce", "learning_rates": "[2e-3]"},
]


@dataclass
class Swept:
    """Where a sweep ran in miniature, what the server was told, and what its two agents printed and ended with."""

    folder: Path
    state: WandbState
    printed: list[str]
    statuses: list[int]


@pytest.fixture(scope="module")
def swept(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """Two agents at once on a cache without traces; as hyperband does, the server stops a run that falls behind."""
    folder = tmp_path_factory.mktemp("sweep")
    cache = folder / "cache"
    shutil.copytree(tiny_cache, cache, ignore=shutil.ignore_patterns("traces", "*.lock"))
    command = [*SWEEP["command"][:-1], *TINY_TRAINING, SWEEP["command"][-1]]
    parameters = {key: {"values": [point[key] for point in POINTS]} for key in POINTS[0]}
    mine = {**SWEEP, "program": str(ROOT / "train.py"), "parameters": parameters, "command": command}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(mine))
    with wandb_server() as (url, state):
        env = environment(url, cache, folder)
        printed = wandb("sweep", "sweep.yaml", env=env, cwd=folder)
        found = re.search(r"wandb agent (\S+)", printed)
        assert found, printed
        state.points, state.falls_behind = list(POINTS), {STOPPED: "val/bits_per_byte"}
        agent = [str(stand_in()), "-m", "wandb", "agent", found[1]]
        to = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        agents = [subprocess.Popen(agent, env=env, cwd=folder, **to)]
        while not state.given:  # the first run is the first agent's
            assert agents[0].poll() is None
            time.sleep(0.05)
        agents.append(subprocess.Popen(agent, env=env | {"WANDB_AGENT_MAX_INITIAL_FAILURES": "1"}, cwd=folder, **to))
        said = [agent.communicate(timeout=300)[0] for agent in agents]
    return Swept(folder, state, said, [agent.returncode for agent in agents])


def test_the_agents_run_every_point(swept: Swept) -> None:
    """One that failed and one that was stopped do not end them."""
    assert list(swept.state.given.values()) == POINTS
    assert not swept.state.points
    assert swept.statuses == [0, 0], swept.printed


def test_the_server_gets_the_metric(swept: Swept) -> None:
    """`best/val_bits_per_byte`, which the sweep minimises, as the run folder holds it."""
    (path,) = (swept.folder / "outputs" / "quickstart").glob("*/results.json")
    want = json.loads(path.read_text())["fits"]["fused"]["best_bits_per_byte"]
    metric = SWEEP["metric"]["name"]
    assert [line[metric] for line in swept.state.history[WELL] if metric in line] == [pytest.approx(want)]


def test_a_run_that_failed_is_told_as_failed(swept: Swept) -> None:
    assert swept.state.exit_codes == {FAILS: 1, STOPPED: 1, WELL: 0}
    assert not any(SWEEP["metric"]["name"] in line for line in swept.state.history.get(FAILS, []))


def test_a_run_that_falls_behind_is_stopped_and_counts_as_no_failure(swept: Swept) -> None:
    """To its agent, which would end after one."""
    assert any("val/bits_per_byte" in line for line in swept.state.history[STOPPED])
    other, its = swept.printed
    assert f"Stop: {STOPPED}" in its
    assert "stopped; the same command with ckpt_path=last goes on" in its
    assert "failed runs" not in its
    assert f"Cleaning up finished run: {FAILS}" in other


def test_two_agents_share_their_traces(swept: Swept) -> None:
    """Of three runs, two of which started together, one read the three sources, and the others waited for it."""
    printed = "".join(swept.printed)
    assert re.findall(r"^traces (\w+): read before", printed, re.MULTILINE) == [*SOURCES, *SOURCES]


def test_a_run_that_was_stopped_goes_on_in_its_own_wandb_run(tiny_cache: Path, tmp_path: Path) -> None:
    """By SIGTERM, between two checkpoints; `ckpt_path=last` then starts no second one. Its checkpoints go there, once it is done."""
    program = str(ROOT / "train.py")
    settings = [
        *TINY_TRAINING,
        "compare_with_clm=false",
        "logger=wandb",
        "logger.log_model=true",
        f"hydra.run.dir={tmp_path / 'run'}",
    ]
    stopped = [str(stand_in()), "-c", KILLED.replace("SIGKILL", "SIGTERM"), "5", program, *settings]
    with wandb_server() as (url, state):
        env = environment(url, tiny_cache, tmp_path)
        first = subprocess.run(stopped, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=240)
        assert first.returncode == 128 + signal.SIGTERM, first.stdout + first.stderr
        (name,) = state.history
        assert state.exit_codes == {name: 1}
        assert not state.artifacts
        goes_on = [str(stand_in()), program, *settings, "ckpt_path=last"]
        then = subprocess.run(goes_on, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=240)
        assert then.returncode == 0, then.stdout + then.stderr
    assert state.exit_codes == {name: 0}
    assert list(state.history) == [name]
    assert {line["trainer/global_step"] for line in state.history[name] if "train/loss_nats" in line} >= set(
        range(3, 8)
    )
    best = [n for n, its in enumerate(state.artifacts) if "best" in {alias["alias"] for alias in its["aliases"]}]
    assert {its["artifactCollectionName"] for its in state.artifacts} == {f"model-{name}"}
    (checkpoint,) = (tmp_path / "run" / "fits").glob("*/best.ckpt")
    assert [state.uploaded[f"/{n}/model.ckpt"] for n in best] == [checkpoint.read_bytes()]
