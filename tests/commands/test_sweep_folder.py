"""Where a sweep lives, and in which folder the same command goes on."""

import json
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from experiments_for_tests import composed
from filelock import FileLock

from knowfuse.commands import sweep
from knowfuse.commands.sweep import ASKED, sweep_folder
from knowfuse.runs.where import register_resolvers
from knowfuse.training.stopping import STOPPED

ASKS = {"settings": {"lm_weight": 0.3}, "overrides": ["lm_weight=0.1,0.9"], "sweeper": {}}


@pytest.fixture(autouse=True)
def held(monkeypatch: pytest.MonkeyPatch) -> list[FileLock]:
    """The locks of sweeps that run; cleared, they do not any more."""
    monkeypatch.setattr(sweep, "_held", [])
    return sweep._held


def end(held: list[FileLock]) -> None:
    while held:
        held.pop().release()


def test_sweeps_that_start_at_once_have_folders_of_their_own(tmp_path: Path, held: list[FileLock]) -> None:
    folders = [sweep_folder(tmp_path, ASKS) for _ in range(5)]
    assert len(set(folders)) == 5
    end(held)


def test_the_same_command_goes_on_with_what_was_stopped(
    tmp_path: Path, held: list[FileLock], capsys: pytest.CaptureFixture[str]
) -> None:
    """Not with what still runs, what was asked for otherwise, or is done."""
    stopped = sweep_folder(tmp_path, ASKS)
    end(held)
    other = sweep_folder(tmp_path, {**ASKS, "overrides": ["lm_weight=0.1,0.5"]})
    assert other != stopped
    capsys.readouterr()
    assert sweep_folder(tmp_path, ASKS) == stopped
    assert "goes on, it was stopped before all its points were done" in " ".join(capsys.readouterr().out.split())
    beside = sweep_folder(tmp_path, ASKS)
    assert beside not in (stopped, other)
    end(held)
    for folder in (stopped, beside):
        asked = json.loads((Path(folder) / ASKED).read_text())
        (Path(folder) / ASKED).write_text(json.dumps({**asked, "is_done": True}))
    assert sweep_folder(tmp_path, ASKS) not in (stopped, other, beside)
    end(held)


@pytest.mark.parametrize("name", ["train", "evaluate", "align_report"])
def test_what_starts_at_once_shares_no_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has made its own, whoever else is as fast."""
    monkeypatch.chdir(tmp_path)
    register_resolvers()
    folders = {composed(name, return_hydra_config=True).hydra.run.dir for _ in range(3)}
    assert len(folders) == 3
    assert all(Path(folder).is_dir() for folder in folders)


def test_a_record_that_is_cut_off_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / ASKED).write_text('{"settings": ')
    with pytest.raises(
        ValueError, match=r"sweep\.json' is cut off or damaged .*: remove it, and the sweep starts anew"
    ):
        sweep_folder(tmp_path, ASKS)


def test_a_sweep_that_is_told_to_stop_stops_whatever_its_point_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A point that prepares or writes ends by the signal itself, and is no failure that the sweep goes on from."""
    (tmp_path / "train.py").write_text(
        "import os, signal, time\ntime.sleep(0.5)\nos.kill(os.getppid(), signal.SIGTERM)\ntime.sleep(60)"
    )
    source = SimpleNamespace(provider="main", path=str(tmp_path))
    hydra = SimpleNamespace(runtime=SimpleNamespace(config_sources=[source]), job=SimpleNamespace(config_name="train"))
    hydra.overrides = SimpleNamespace(task=[])
    monkeypatch.setattr(sweep.HydraConfig, "get", lambda: hydra)
    monkeypatch.setattr(sweep, "to_absolute_path", str)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "train.py")])
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # an ignored one the point would inherit
    try:
        with pytest.raises(SystemExit) as stopped:
            sweep.by_itself(tmp_path / "point", None)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stopped.value.code == STOPPED
