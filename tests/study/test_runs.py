"""Runs of a study: each once, whoever asks, and on from where it was stopped."""

import multiprocessing
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from commands_for_tests import ROOT
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from runs_for_tests import left_by_train

from knowfuse.runs import starting
from knowfuse.study import Point, Round, Runs, axis, halved


def folder_of(overrides: Sequence[str]) -> Path:
    return Path(next(one.partition("=")[2].strip('"') for one in overrides if one.startswith("hydra.run.dir=")))


def refuse(program: str, overrides: Sequence[str], root: Path) -> None:
    raise AssertionError(f"started: {overrides}")


def test_a_place_is_of_the_settings_that_decide_the_figures(tmp_path: Path) -> None:
    """However they are written; not of names, caches and loggers."""
    runs = Runs(tmp_path, ROOT)

    def place(*overrides: str, seed: int = 0) -> Path:
        return runs.place(Point.of(overrides), seed)

    same = place()
    assert place("lm_weight=0.30", "name=mine", "logger=tensorboard", "cache=/elsewhere", "num_workers=1") == same
    others = [place("lm_weight=0.5"), place("alignment=hybrid"), place("alignment.rows=shared"), place(seed=1)]
    assert len({same, *others}) == 5
    with pytest.raises(Exception, match="lm_wait"):
        place("lm_wait=0.5")


def test_a_place_is_of_what_its_files_hold(tmp_path: Path) -> None:
    """Named or by patterns, from the folder of the project, wherever a study of it is started; nothing else of them counts."""
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    (tmp_path / "texts").mkdir()
    file = tmp_path / "texts" / "one.txt"
    file.write_text("before")
    runs = Runs(tmp_path / "studies", tmp_path, tmp_path / "cache")
    points = [Point.of(["data=text_files", f"corpus.files={{mine: [texts/{name}]}}"]) for name in ("one.txt", "*.txt")]
    before = [runs.place(point, 0) for point in points]
    file.touch()
    assert [runs.place(point, 0) for point in points] == before
    file.write_text("after")
    assert not {runs.place(point, 0) for point in points} & {*before}


def test_a_command_composes_its_runs_and_stays_as_it_was(tmp_path: Path) -> None:
    runs, point = Runs(tmp_path, ROOT), Point.of(["lm_weight=0.5"])
    want = runs.place(point, 0)
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        command = GlobalHydra.instance().hydra
        assert runs.place(point, 0) == want
        assert GlobalHydra.instance().hydra is command


def test_a_run_is_made_once_whoever_asks_and_a_stopped_one_goes_on(tmp_path: Path) -> None:
    """In its own folder, by ckpt_path=last."""
    started: list[Sequence[str]] = []

    def start(program: str, overrides: Sequence[str], root: Path) -> None:
        assert program == "train.py"
        started.append(overrides)
        left_by_train(folder_of(overrides), {"target fused": [1.0] * 8}, {"fused": 2.0}, seed=1)

    first = Runs(tmp_path, ROOT, tmp_path / "cache", start).run(Point("", {"lm_weight": 0.5}), seed=1)
    assert (first.fits["fused"].best_bits_per_byte, first.judged.seed) == (2.0, 1)
    assert first.seconds is not None
    again = Runs(tmp_path, ROOT, None, refuse).run(Point("another study", {"lm_weight": 0.5, "name": "it"}), seed=1)
    assert again.folder == first.folder
    (first.folder / "results.json").unlink()
    assert Runs(tmp_path, ROOT, None, start).run(Point("", {"lm_weight": 0.5}), seed=1).folder == first.folder
    common = {"lm_weight=0.5", "seed=1", "ckpt_path=last"}
    assert [common <= set(overrides) for overrides in started] == [True, True]
    assert f"cache={tmp_path / 'cache'}" in [one.replace('"', "") for one in started[0]]


def test_a_failed_run_is_told_and_tried_again(tmp_path: Path) -> None:
    """With the seconds of both."""
    failing = [True]

    def start(program: str, overrides: Sequence[str], root: Path) -> None:
        if failing.pop():
            raise RuntimeError("the power is cut")
        left_by_train(folder_of(overrides), {"target fused": [1.0] * 8}, {"fused": 2.0})
        failing.append(True)

    runs = Runs(tmp_path, ROOT, None, start)
    with pytest.raises(RuntimeError, match="the power is cut"):
        runs.run(Point(""))
    before = (runs.place(Point(""), 0) / "study.json").read_text()
    failing.append(False)
    done = runs.run(Point(""))
    assert done.fits["fused"].best_bits_per_byte == 2.0
    assert (done.folder / "study.json").read_text() != before


def test_seconds_are_those_of_all_starts_or_not_said(tmp_path: Path) -> None:
    """What a start took that was killed nobody knows."""

    def start(program: str, overrides: Sequence[str], root: Path) -> None:
        left_by_train(folder_of(overrides), {"target fused": [1.0] * 8}, {"fused": 2.0})

    def killed(program: str, overrides: Sequence[str], root: Path) -> None:
        (folder_of(overrides) / "before").write_bytes((folder_of(overrides) / "study.json").read_bytes())
        start(program, overrides, root)

    done = Runs(tmp_path, ROOT, None, killed).run(Point(""))
    assert isinstance(done.seconds, float)
    (done.folder / "before").rename(done.folder / "study.json")  # as a start leaves it that was killed
    (done.folder / "results.json").unlink()
    assert Runs(tmp_path, ROOT, None, start).run(Point("")).seconds is None


def test_an_evaluation_is_made_once_for_the_same_settings_and_texts(tmp_path: Path) -> None:
    """Other tasks, and another content of a file of the same name, are asked anew; one that was stopped begins again."""
    text, started = tmp_path / "known.txt", []
    text.write_text("before")

    def start(program: str, overrides: Sequence[str], root: Path) -> None:
        folder = folder_of(overrides)
        if program == "train.py":
            left_by_train(folder, {"target fused": [1.0] * 8}, {"fused": 2.0})
            return
        started.append(overrides)
        folder.mkdir()  # it is empty whenever it begins
        if len(started) == 1:
            raise KeyboardInterrupt
        (folder / "answers.json").touch()

    runs = Runs(tmp_path / "studies", ROOT, None, start)
    run = runs.run(Point(""))
    with pytest.raises(KeyboardInterrupt):
        runs.evaluated(run, "answers", {"tasks": ["piqa"]})
    folder = runs.evaluated(run, "answers", {"tasks": ["piqa"]})
    assert folder.parent == run.folder
    assert runs.evaluated(run, "answers", {"tasks": ["piqa"]}) == folder
    assert len(started) == 2
    other = runs.evaluated(run, "answers", {"tasks": ["arc_easy"]})
    known = {"corpus.files": {"known": [str(text)]}}
    before = runs.evaluated(run, "forgetting", known, [text])
    text.write_text("after")
    assert len({folder, other, before, runs.evaluated(run, "forgetting", known, [text])}) == 4
    assert len(started) == 5


def test_train_py_that_fails_is_told_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own, in the folder where it is."""
    monkeypatch.setattr(starting, "IMPORTED", [])
    (tmp_path / "train.py").write_text(
        "import pathlib, sys\npathlib.Path('said').write_text(sys.argv[1])\nraise SystemExit(3)"
    )
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    with pytest.raises(RuntimeError, match=r"python train\.py lm_weight=0\.5 seed=0 .*ended with exit status 3"):
        Runs(root=tmp_path).run(Point("", {"lm_weight": 0.5}))
    assert (tmp_path / "said").read_text() == "lm_weight=0.5"


def test_a_run_is_told_to_stop_where_its_study_is_killed(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "import pathlib, signal, time\n"
        "def stop(*_):\n    pathlib.Path('told').touch()\n    raise SystemExit\n"
        "signal.signal(signal.SIGTERM, stop)\npathlib.Path('started').touch()\ntime.sleep(60)"
    )
    study = "from knowfuse.runs import starting\nstarting.IMPORTED = []\nstarting.start('train.py', [], '.')"
    with subprocess.Popen([sys.executable, "-c", study], cwd=tmp_path) as started:
        _wait_for(tmp_path / "started")
        started.kill()
    _wait_for(tmp_path / "told")


def _wait_for(file: Path, seconds: float = 50) -> None:
    until = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < until, f"no {file.name} after {seconds} s"
        time.sleep(0.05)


def test_a_process_that_only_reads_its_script_begins_no_study(monkeypatch: pytest.MonkeyPatch) -> None:
    """As multiprocessing marks it."""
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(RuntimeError, match="the script of this study begins it again in each process that it starts"):
        Runs()


@pytest.mark.long
def test_a_script_that_would_begin_itself_again_is_told(tmp_path: Path) -> None:
    """Its first line is read again by the process that it starts, which would wait for the run that it was started for."""
    (tmp_path / "train.py").write_text("raise SystemExit('never started')")
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    (tmp_path / "mine.py").write_text(
        "from knowfuse.runs import starting\nfrom knowfuse.study import Point, Runs\nstarting.IMPORTED = []\nRuns().run(Point(''))"
    )
    done = subprocess.run([sys.executable, "mine.py"], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert 'put what it does under `if __name__ == "__main__":`' in done.stderr
    assert "never started" not in done.stderr


def test_the_better_half_goes_on_by_validation_alone(tmp_path: Path) -> None:
    """The lambda nearest 0.4 is best on validation, and worst on test; every round has its own settings."""

    def start(program: str, overrides: Sequence[str], root: Path) -> None:
        given = dict(one.split("=", 1) for one in overrides)
        worse = abs(float(given["lm_weight"]) - 0.4)
        nats = {"target fused": [20 - 10 * worse] * 8}
        left_by_train(folder_of(overrides), nats, {"fused": 2 + worse}, seed=int(given["seed"]))

    points = axis("lm_weight", [0.1, 0.3, 0.9])
    rounds = [Round({"trainer.max_steps": 100}, [0], 2), Round({}, [0, 1], 1)]
    left, seen = halved(Runs(tmp_path, ROOT, None, start), points, rounds)
    assert [point.name for point in left] == ["lm_weight=0.3"]
    assert [len(tried) for tried in seen] == [3, 4]
    assert {run.point.settings.get("trainer.max_steps") for run in seen[0]} == {100}
    assert {run.point.name for run in seen[1]} == {"lm_weight=0.3", "lm_weight=0.1"}
    with pytest.raises(ValueError, match="round 1 of the halving keeps 0 points"):
        halved(Runs(tmp_path, ROOT, None, refuse), points, [Round({}, [0], 0)])
