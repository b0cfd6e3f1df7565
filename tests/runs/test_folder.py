"""Where a run lives, and from where it goes on."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from knowfuse.commands.sweep import goes_on_from
from knowfuse.files import write_whole
from knowfuse.runs.folder import (
    checkpoints_to_resume,
    load_run,
    open_run,
    register_resolvers,
    require_complete,
    run_folder,
    saved_settings,
)
from knowfuse.training.fit import Fit

SETTINGS = {
    "lm_weight": 0.3,
    "fusion": {"unit": "byte"},
    "ckpt_path": None,
    "logger": {"name": "csv"},
    "copy": "${lm_weight}",
}
FIT = Fit("fused-lr0.01", "best.ckpt", 1.5, 0.01, [(10, 2.0), (20, 1.5)])


def started(folder: Path, finished: bool = False) -> Path:
    with open_run(folder, OmegaConf.create(SETTINGS)):
        pass
    if finished:
        (folder / "results.json").write_text(json.dumps({"fits": {"fused": asdict(FIT)}}))
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


@pytest.mark.parametrize("ckpt_path", ["auto", "last"])
def test_a_folder_with_nothing_to_go_on_from_starts(tmp_path: Path, ckpt_path: str) -> None:
    """As a point of a sweep, or a job that is requeued before its first checkpoint."""
    assert goes_on_from(tmp_path, ckpt_path) is None
    checkpoint(tmp_path / "fits" / "fused-lr0.01" / "last.ckpt")
    assert goes_on_from(tmp_path, ckpt_path) == "last"


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


def test_a_new_run_keeps_its_settings_as_plain_values(tmp_path: Path) -> None:
    run = started(tmp_path / "run")
    assert saved_settings(run) == {**SETTINGS, "copy": 0.3}
    assert not list(run.glob("*.part"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lm_weight": 0.5}, r"started with copy=0\.3, now it is 0\.5"),
        ({"fusion": {"unit": "token"}}, r"started with fusion\.unit='byte', now it is 'token'"),
        ({"fusion": {}}, r"started with fusion\.unit='byte', now it is None"),
        ({"new": 1}, r"started with new=None, now it is 1: a run goes on with the settings it was started with"),
    ],
)
def test_a_run_with_other_settings_is_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    """The key and both values are named; the saved settings stay."""
    run = started(tmp_path / "run")
    with pytest.raises(ValueError, match=message), open_run(run, OmegaConf.create({**SETTINGS, **change})):
        pass
    assert saved_settings(run)["lm_weight"] == 0.3


def test_where_it_goes_on_from_and_what_it_logs_to_may_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = started(tmp_path / "run")
    with open_run(run, OmegaConf.create({**SETTINGS, "ckpt_path": "last", "logger": {"name": "wandb"}})) as opened:
        assert opened == run
    assert "goes on" in capsys.readouterr().out


def test_a_stopped_run_is_not_started_from_scratch_over_its_checkpoints(tmp_path: Path) -> None:
    """The same command again, without saying so; a fit that is done is not in danger."""
    run = started(tmp_path / "run")
    done, stopped = (run / "fits" / name for name in ("clm-lr0.01", "fused-lr0.01"))
    for fit in (done, stopped):
        checkpoint(fit / "last.ckpt")
    (done / "fit.json").touch()
    with (
        pytest.raises(
            ValueError, match=r"was stopped in fused-lr0\.01, whose checkpoints .*add ckpt_path=last to go on"
        ),
        open_run(run, OmegaConf.create(SETTINGS)),
    ):
        pass
    with open_run(run, OmegaConf.create({**SETTINGS, "ckpt_path": "last"})) as opened:
        assert opened == run


def test_a_run_that_is_still_running_is_refused(tmp_path: Path) -> None:
    """Two commands with one folder, or `last` beside a run that goes on."""
    with (
        open_run(tmp_path / "run", OmegaConf.create(SETTINGS)) as run,
        pytest.raises(ValueError, match=rf"run '{run}' is still running in another process: wait for it, or start"),
        open_run(run, OmegaConf.create({**SETTINGS, "ckpt_path": "last"})),
    ):
        pass
    with open_run(run, OmegaConf.create({**SETTINGS, "ckpt_path": "last"})):
        pass


@pytest.mark.parametrize("fails", [True, False])
def test_a_run_whose_folder_is_removed_meanwhile_ends_in_a_sentence(tmp_path: Path, fails: bool) -> None:
    """Whatever fails then, and where nothing does since what is written makes the folder anew."""
    removed = rf"run '{tmp_path}/run' was removed, or moved, while it went on.*: start it again, or, where it was moved"

    def goes_on() -> None:
        with open_run(tmp_path / "run", OmegaConf.create(SETTINGS)) as run:
            shutil.rmtree(run)
            write_whole(run / "results.json", b"{}")
            if fails:
                raise FileNotFoundError(run / "metrics.csv")

    with pytest.raises(ValueError, match=removed):
        goes_on()


def test_a_setting_without_a_value_is_refused() -> None:
    with pytest.raises(ValueError, match=r"leaves corpus\.files open: set it, such as corpus\.files=\.\.\."):
        require_complete(OmegaConf.create({**SETTINGS, "corpus": {"files": "???"}}))


def test_a_finished_run_is_refused(tmp_path: Path) -> None:
    run = started(tmp_path / "run", finished=True)
    with (
        pytest.raises(ValueError, match=rf"run '{run}' is finished: start a new one, or score it .* run={run}"),
        open_run(run, OmegaConf.create(SETTINGS)),
    ):
        pass


def test_a_finished_run_is_loaded(tmp_path: Path) -> None:
    run = started(tmp_path / "run", finished=True)
    assert load_run(str(run)) == (run, {**SETTINGS, "copy": 0.3}, {"fused": FIT})


def test_what_is_not_a_finished_run(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"is not the folder of a finished run, it has no config\.yaml: give one of out"
    ):
        load_run(tmp_path)
    with pytest.raises(
        ValueError, match=r"it has no results\.json: .*or finish it by its own command with ckpt_path=last"
    ):
        load_run(started(tmp_path / "run"))


def checkpoint(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    torch.save({"global_step": 2}, path)
    return path


def test_last_means_the_last_checkpoint_of_each_fit(tmp_path: Path) -> None:
    one, other = (checkpoint(tmp_path / "fits" / name / "last.ckpt") for name in ("clm-lr0.01", "fused-lr0.01"))
    got = checkpoints_to_resume(tmp_path, "last", ["clm-lr0.01", "fused-lr0.01"])
    assert got == {"clm-lr0.01": one, "fused-lr0.01": other}
    assert checkpoints_to_resume(tmp_path, None, ["clm-lr0.01"]) == {}


def test_last_with_nothing_to_go_on_from_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert checkpoints_to_resume(tmp_path, "last", ["fused"]) == {}
    assert "has no checkpoint yet, every fit starts from scratch" in " ".join(capsys.readouterr().out.split())


def test_a_path_is_for_the_fit_that_saved_it(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "fits" / "fused-lr0.01" / "best.ckpt")
    assert checkpoints_to_resume(tmp_path / "new", str(path), ["clm-lr0.01", "fused-lr0.01"]) == {"fused-lr0.01": path}
    with pytest.raises(
        ValueError, match=r"saved by a fit named 'fused-lr0\.01', this run has \['fused-lr0\.1'\]: choose"
    ):
        checkpoints_to_resume(tmp_path, str(path), ["fused-lr0.1"])
    with pytest.raises(ValueError, match=r"ckpt_path 'gone\.ckpt' is not there: give last, or a checkpoint such as"):
        checkpoints_to_resume(tmp_path, "gone.ckpt", ["fused-lr0.01"])


@pytest.mark.parametrize("content", ["", "a: [\n", "- a\n", "\x00"])
def test_a_run_whose_settings_are_damaged(tmp_path: Path, content: str) -> None:
    (started(tmp_path, finished=True) / "config.yaml").write_text(content)
    with pytest.raises(
        ValueError, match=r"config\.yaml' is cut off or damaged .*: copy it from where the run was made"
    ):
        saved_settings(tmp_path)


@pytest.mark.parametrize("content", ["", '{"fits": {"fused": ', '{"fits": {"fused": {"name": "mine"}}}'])
def test_a_run_whose_results_are_cut_off(tmp_path: Path, content: str) -> None:
    """It is named with the command that makes them anew; that one takes the run for an unfinished one then."""
    (started(tmp_path, finished=True) / "results.json").write_text(content)
    with pytest.raises(
        ValueError, match=r"results\.json' is cut off or damaged .*remove it and run train\.py with that"
    ):
        load_run(tmp_path)
