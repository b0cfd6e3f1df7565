"""A command that is refused leaves nothing, and one that had begun to work leaves all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from knowfuse.commands import left_over
from knowfuse.commands.left_over import NothingLeft, made_for_a_sweep, remove_unused, remove_unused_sweep
from knowfuse.runs.folder import open_run


def started(folder: Path) -> None:
    """What Hydra and a start write."""
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    (folder / ".hydra" / "overrides.yaml").write_text("- new")
    (folder / "train.log").touch()


@contextmanager
def job(folder: Path, status: JobStatus) -> Iterator[None]:
    """A job in this folder that ends so, through the callback as Hydra calls it."""
    its = {"run": {"dir": str(folder)}, "runtime": {"output_dir": str(folder.absolute())}}
    config = OmegaConf.create({"hydra": its})
    callback = NothingLeft()
    callback.on_run_start(config)
    started(folder)
    callback.on_job_start(config)
    yield
    callback.on_job_end(config, JobReturn(status=status))


def ended(folder: Path, status: JobStatus, also: str | None = None) -> None:
    with job(folder, status):
        if also is not None:
            (folder / also).write_text("made")


@pytest.mark.parametrize("also", [None, "config.yaml"])
def test_a_refused_run_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, also: str | None) -> None:
    monkeypatch.chdir(tmp_path)
    ended(Path("outputs/mine/now"), JobStatus.FAILED, also)
    assert not list(tmp_path.iterdir())


def test_what_is_work_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ended well, one that failed once something was made, and the folder of another in which it was refused."""
    monkeypatch.chdir(tmp_path)
    ended(Path("outputs/well"), JobStatus.COMPLETED, "config.yaml")
    ended(Path("outputs/late"), JobStatus.FAILED, "headroom.json")
    started(other := tmp_path / "outputs" / "other")
    (other / ".hydra" / "overrides.yaml").write_text("- old")
    (other / "config.yaml").touch()
    (other / "train.log").unlink()
    ended(other, JobStatus.FAILED)
    assert (tmp_path / "outputs/well/config.yaml").exists()
    assert (tmp_path / "outputs/late/headroom.json").exists()
    assert (other / ".hydra" / "overrides.yaml").read_text() == "- old"
    assert not (other / "train.log").exists()


@pytest.mark.parametrize("root", [None, Path()])
def test_a_folder_with_logs_of_the_user_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path | None
) -> None:
    """Whether it is named from where the command is run, as runs are, or from the top."""
    monkeypatch.chdir(tmp_path)
    folder = (tmp_path if root is None else root) / "mine"
    folder.mkdir()
    (folder / "notes.log").write_text("mine")
    ended(folder, JobStatus.FAILED)
    assert (folder / "notes.log").read_text() == "mine"
    assert not (folder / "train.log").exists()


def test_a_refused_run_leaves_the_folder_of_one_that_started_at_once(tmp_path: Path) -> None:
    """Which has its settings there and prepares, for days maybe."""
    run = tmp_path / "run"
    with job(run, JobStatus.FAILED):
        other = open_run(run, OmegaConf.create({"ckpt_path": None}))
        other.__enter__()
    assert (run / "config.yaml").exists()
    other.__exit__(None, None, None)


def test_folders_outside_outputs_stay(tmp_path: Path) -> None:
    started(tmp_path / "above" / "run")
    remove_unused(tmp_path / "above" / "run")
    assert not (tmp_path / "above" / "run").exists()
    assert (tmp_path / "above").exists()


@pytest.mark.parametrize("work", [None, "headroom.json"])
def test_a_sweep_stays_where_a_point_began_to_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: str | None
) -> None:
    """A table of refusals alone is nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(left_over, "_sweeps", [])
    sweep = Path("outputs/mine/now")
    for point in "01":
        started(sweep / point)
        (sweep / point / "point.json").touch()
    for name in ("sweep.csv", "sweep.png", "sweep.json", "multirun.yaml"):
        (sweep / name).touch()
    if work is not None:
        (sweep / "1" / work).touch()
    made_for_a_sweep(sweep)
    remove_unused_sweep()
    assert Path("outputs").exists() == (work is not None)
    assert (sweep / "sweep.csv").exists() == (work is not None)
