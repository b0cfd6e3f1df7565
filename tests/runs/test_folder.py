"""Who has a run's folder, what is kept in it, and from where it goes on."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from knowfuse.commands.sweep import goes_on_from
from knowfuse.files import write_whole
from knowfuse.runs.folder import checkpoints_to_resume, load_run, open_run, require_complete, saved_settings
from knowfuse.training.finished import Fit

SETTINGS = {
    "lm_weight": 0.3,
    "fusion": {"unit": "byte"},
    "ckpt_path": None,
    "logger": {"name": "csv"},
    "copy": "${lm_weight}",
    "num_workers": 1,
}
FIT = Fit("fused-lr0.01", "best.ckpt", 1.5, 0.01, [(10, 2.0), (20, 1.5)])


def started(folder: Path, finished: bool = False) -> Path:
    with open_run(folder, OmegaConf.create(SETTINGS)):
        pass
    if finished:
        results = {"unit": "bits per byte", "rows": {"target fused": {"mean": 1.5}}, "fits": {"fused": asdict(FIT)}}
        (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.mark.parametrize("ckpt_path", ["auto", "last"])
def test_a_folder_with_nothing_to_go_on_from_starts(tmp_path: Path, ckpt_path: str) -> None:
    """As a point of a sweep, or a job that is requeued before its first checkpoint."""
    assert goes_on_from(tmp_path, ckpt_path) is None
    checkpoint(tmp_path / "fits" / "fused-lr0.01" / "last.ckpt")
    assert goes_on_from(tmp_path, ckpt_path) == "last"


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
    with open_run(
        run, OmegaConf.create({**SETTINGS, "ckpt_path": "last", "logger": {"name": "wandb"}, "num_workers": 0})
    ) as opened:
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


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": {}},
        {"rows": {"a": {"code": 1.0}}},
        {"rows": {"a": {"mean": None}}},
        {"rows": {"a": {"mean": "x"}}},
        {"unit": None},
        {"fits": {"fused": {**asdict(FIT), "history": []}}},
        {"fits": {"fused": {}}},
    ],
)
def test_results_of_another_shape_are_damaged(tmp_path: Path, wrong: dict[str, Any]) -> None:
    run = started(tmp_path / "run", finished=True)
    results = json.loads((run / "results.json").read_text())
    (run / "results.json").write_text(json.dumps({**results, **wrong}))
    with pytest.raises(ValueError, match=r"results\.json' is cut off or damaged .*: remove it and run train\.py"):
        load_run(run)


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


def test_last_goes_on_from_where_the_run_began_until_its_fit_has_a_checkpoint(tmp_path: Path) -> None:
    """The best that came along from there is none to go on from; the best of a fit that could not write its last one is."""
    names = ["clm-lr0.01", "fused-lr0.01"]
    begun = checkpoint(tmp_path / "before" / "fits" / "fused-lr0.01" / "last.ckpt")
    run = tmp_path / "run"
    clm = checkpoint(run / "fits" / "clm-lr0.01" / "best.ckpt")
    OmegaConf.save(OmegaConf.create({"ckpt_path": str(begun)}), run / "config.yaml")
    assert checkpoints_to_resume(run, "last", names) == {"clm-lr0.01": clm, "fused-lr0.01": begun}
    checkpoint(run / "fits" / "fused-lr0.01" / "best.ckpt")
    assert checkpoints_to_resume(run, "last", names)["fused-lr0.01"] == begun
    own = run / "fits" / "fused-lr0.01" / "last.ckpt"
    torch.save({"global_step": 3}, own)
    assert checkpoints_to_resume(run, "last", names)["fused-lr0.01"] == own


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
