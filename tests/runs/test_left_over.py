"""A command that is refused leaves nothing, and one that had begun to work leaves all."""

from pathlib import Path

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from knowfuse.runs.left_over import NothingLeft, remove_unused


def started(folder: Path) -> None:
    """What Hydra and a start write."""
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    (folder / ".hydra" / "overrides.yaml").write_text("- new")
    (folder / "train.log").touch()


def ended(folder: Path, status: JobStatus, also: str | None = None) -> None:
    """A job in this folder, through the callback as Hydra calls it."""
    config = OmegaConf.create({"hydra": {"run": {"dir": str(folder)}, "runtime": {"output_dir": str(folder)}}})
    callback = NothingLeft()
    callback.on_run_start(config)
    started(folder)
    callback.on_job_start(config)
    if also is not None:
        (folder / also).write_text("made")
    callback.on_job_end(config, JobReturn(status=status))


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


def test_a_folder_with_logs_of_the_user_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.log").write_text("mine")
    ended(tmp_path / "mine", JobStatus.FAILED)
    assert (tmp_path / "mine" / "notes.log").read_text() == "mine"
    assert not (tmp_path / "mine" / "train.log").exists()


def test_folders_outside_outputs_stay(tmp_path: Path) -> None:
    started(tmp_path / "above" / "run")
    remove_unused(tmp_path / "above" / "run")
    assert not (tmp_path / "above" / "run").exists()
    assert (tmp_path / "above").exists()
