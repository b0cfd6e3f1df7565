"""Files that are damaged are named, and what is there is read without a lock."""

import json
import multiprocessing
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from knowfuse.files import make_once, undamaged


@pytest.mark.parametrize("kept", [0, 5, 30])
@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_a_file_cut_off_is_named_with_the_remedy(tmp_path: Path, kind: str, kept: int) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "json":
        path.write_text(json.dumps({"key": ["a value"] * 9}))
    else:
        save_file({"ids": np.arange(9)}, path)
    path.write_bytes(path.read_bytes()[:kept])
    with (
        pytest.raises(ValueError, match=rf"'/.*a\.{kind}' is cut off or damaged \(\w+Error: .*\): remove it and run x"),
        undamaged(path, "remove it and run x"),
    ):
        json.loads(path.read_text()) if kind == "json" else load_file(path)


def test_what_is_of_another_shape_is_damaged_and_other_errors_pass() -> None:
    for wrong in ("[]", "3", "null"):
        with pytest.raises(ValueError, match="'a' is cut off or damaged"), undamaged("a"):
            json.loads(wrong)["key"]
    with pytest.raises(OSError, match="disk"), undamaged("a"):
        raise OSError("disk")
    with pytest.raises(ValueError, match="mine"), undamaged("a"):
        raise ValueError("mine")


def test_of_two_processes_one_makes(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    start, answers = fork.Barrier(2), fork.Queue()
    path = tmp_path / "new" / "a"

    def slowly() -> None:
        time.sleep(0.2)
        path.write_text("made")

    def work() -> None:
        start.wait()
        answers.put(make_once(path, slowly))

    processes = [fork.Process(target=work) for _ in range(2)]
    for process in processes:
        process.start()
    assert sorted(answers.get(timeout=60) for _ in processes) == [False, True]
    for process in processes:
        process.join()


def test_what_is_there_needs_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("knowfuse.files.FileLock", None)
    with pytest.raises(TypeError, match="not callable"):
        make_once(tmp_path / "gone", lambda: None)
    assert not make_once(tmp_path, lambda: None)
