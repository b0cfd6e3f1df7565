"""Where a run lives: in a folder of its own, or in that of the one that its command started before."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from knowfuse.runs.folder import open_run
from knowfuse.runs.where import register_resolvers, run_folder

SETTINGS = {"lm_weight": 0.3, "ckpt_path": None}


def started(folder: Path, finished: bool = False) -> Path:
    with open_run(folder, OmegaConf.create(SETTINGS)):
        pass
    if finished:
        (folder / "results.json").touch()
    return folder


def test_last_is_the_newest_run_that_is_not_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of that name; folders without a saved configuration are not runs."""
    monkeypatch.chdir(tmp_path)
    root = Path("outputs") / "mine"
    started(root / "2026-01-01_00-00-00")
    newest = started(root / "2026-01-02_00-00-00")
    started(root / "2026-01-03_00-00-00", finished=True)
    started(Path("outputs") / "other" / "2026-01-04_00-00-00")
    (root / "2026-01-05_00-00-00").mkdir()
    assert run_folder("mine", "last", []) == str(newest)
    fresh = [run_folder("mine", None, []), run_folder("mine", "some.ckpt", []), run_folder("new", "last", [])]
    assert not any(list(Path(folder).iterdir()) for folder in fresh)
    assert Path(fresh[2]).parent == Path("outputs") / "new"


def test_auto_goes_on_where_nobody_runs_and_a_requeued_job_in_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest run that is neither finished nor running; of SLURM, and of its arrays, the job says which."""
    monkeypatch.chdir(tmp_path)
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    root = Path("outputs") / "mine"
    stopped = started(root / "2026-01-01_00-00-00")
    with open_run(root / "2026-01-02_00-00-00", OmegaConf.create(SETTINGS)):
        assert run_folder("mine", "auto", []) == str(stopped)
    monkeypatch.setenv("SLURM_JOB_ID", "712")
    assert run_folder("mine", "auto", []) == str(root / "job-712")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    assert run_folder("mine", "auto", []) == str(root / "job-712"), "every process says the same"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "700")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert run_folder("mine", "auto", []) == str(root / "job-700_3")


def test_of_many_that_were_stopped_the_one_of_this_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of a sweep with several agents; settings that may change, and the order of all, say nothing."""
    monkeypatch.chdir(tmp_path)
    root = Path("outputs") / "mine"
    commands = {"1": "lm_weight=0.1 +loss.beta=0.1", "2": "lm_weight=0.3", "3": "lm_weight=0.9"}
    for day, command in commands.items():
        run = started(root / f"2026-01-0{day}_00-00-00")
        (run / ".hydra").mkdir()
        (run / ".hydra" / "overrides.yaml").write_text(OmegaConf.to_yaml(command.split()))
    first, second, third = sorted(root.iterdir())
    again = ["+loss.beta=0.1", "trainer.devices=2", "ckpt_path=last", "lm_weight=0.1"]
    assert run_folder("mine", "last", again) == str(first)
    with open_run(third, OmegaConf.create(SETTINGS | {"ckpt_path": "last"})):
        assert run_folder("mine", "auto", ["lm_weight=0.3"]) == str(second)
        assert run_folder("mine", "last", ["lm_weight=0.5"]) == str(second), "whose settings then say what is other"
        capsys.readouterr()
        new = run_folder("mine", "auto", ["lm_weight=0.5"])
    assert Path(new) not in (first, second, third)
    assert capsys.readouterr().out == (
        "ckpt_path=auto: none of the 2 runs stopped in outputs/mine was started by this command, a new one starts\n"
    )


def test_runs_that_start_at_once_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there are names, however many share a second."""
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: run_folder("mine", None, []), range(40)))
    assert len(set(folders)) == 40
    assert all(Path(folder).is_dir() for folder in folders)


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "SLURM_STEP_NUM_TASKS"])
def test_processes_of_one_run_must_be_given_its_folder(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "4")
    with pytest.raises(ValueError, match=r"4 processes were started as one run.*such as hydra\.run\.dir=outputs/mine/"):
        run_folder("mine", None, [])


def test_the_run_folder_is_known_to_hydra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    register_resolvers()
    cfg = OmegaConf.create(
        {"dir": "${run_folder:${name},${ckpt_path},${asked}}", "name": "mine", "ckpt_path": None, "asked": ["top_k=8"]}
    )
    assert Path(cfg.dir).parent == Path("outputs") / "mine"
    assert cfg.dir == cfg.dir
