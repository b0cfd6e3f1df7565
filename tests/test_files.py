"""Files that are damaged are named, and what is there is read without a lock."""

import hashlib
import json
import multiprocessing
import os
import stat
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from knowfuse.files import (
    WORTH_REMEMBERING,
    make_folder_once,
    make_once,
    sha256_of,
    undamaged,
    whole_folder,
    write_whole,
)


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
    monkeypatch.setattr("knowfuse.files.lock_file", None)
    with pytest.raises(TypeError, match="not callable"):
        make_once(tmp_path / "gone", lambda: None)
    assert not make_once(tmp_path, lambda: None)


def test_a_checksum_is_remembered_while_the_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not of one that was changed just now, which may change again within the same tick of the clock."""
    path, memo = tmp_path / "a [1].bin", tmp_path / "memo"
    read: list[Path] = []
    monkeypatch.setattr(
        "knowfuse.files._read_sha256", lambda p: read.append(p) or hashlib.sha256(p.read_bytes()).hexdigest()
    )
    path.write_bytes(b"a" * WORTH_REMEMBERING)
    before = sha256_of(path, memo)
    assert not memo.exists()
    monkeypatch.setattr("knowfuse.files.SETTLED_SECONDS", -1.0)
    assert sha256_of(path, memo) == sha256_of(path, memo) == sha256_of(path) == before
    assert len(read) == 3, "the first time, the first that is remembered, and the one without a memo"
    os.utime(path, ns=(0, state := path.stat().st_mtime_ns))
    path.write_bytes(b"b" * WORTH_REMEMBERING)
    os.utime(path, ns=(0, state))  # the same size and time of change, as a copy that keeps times would have
    assert sha256_of(path, memo) == hashlib.sha256(b"b" * WORTH_REMEMBERING).hexdigest() != before


def test_a_small_file_is_not_worth_a_note(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"a")
    os.utime(path, (0, 0))
    assert sha256_of(path, tmp_path / "memo") == hashlib.sha256(b"a").hexdigest()
    assert not (tmp_path / "memo").exists()


def modes(folder: Path) -> dict[str, int]:
    return {p.name: stat.S_IMODE(p.stat().st_mode) for p in (folder, *folder.rglob("*"))}


@pytest.mark.parametrize(("umask", "of_files", "of_folders"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_what_is_written_is_as_readable_as_the_umask_says(
    tmp_path: Path, umask: int, of_files: int, of_folders: int
) -> None:
    """Whoever writes it: safetensors makes a file that only its owner reads. What a link leads to stays as it is."""
    (elsewhere := tmp_path / "elsewhere").touch(0o640)
    before = os.umask(umask)
    try:
        with whole_folder(tmp_path / "mine") as unfinished:
            (unfinished / "below").mkdir()
            save_file({"a": np.arange(3)}, unfinished / "below" / "a.safetensors")
            assert modes(unfinished)["a.safetensors"] == 0o600
            (unfinished / "link").symlink_to(elsewhere)
        write_whole(tmp_path / "mine" / "plain", b"")
    finally:
        os.umask(before)
    got = modes(tmp_path / "mine")
    assert got.pop("link") == stat.S_IMODE(elsewhere.stat().st_mode) == 0o640 & ~before
    assert got == {"mine": of_folders, "below": of_folders, "a.safetensors": of_files, "plain": of_files}


def test_a_folder_is_made_once_and_whole(tmp_path: Path) -> None:
    """What a kill left of it goes, what is a neighbour's stays; a failure leaves nothing."""
    path = tmp_path / "a.1"

    def fill(folder: Path) -> None:
        (folder / "file").write_text("x")
        if len(list(tmp_path.iterdir())) > 4:
            raise OSError("disk")

    for name in ("a.1.77.part", "a.1.b.77.part", "a.2.77.part", "more"):
        (tmp_path / name).mkdir()
    with pytest.raises(OSError, match="disk"):
        make_folder_once(path, fill)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.1.b.77.part", "a.1.lock", "a.2.77.part", "more"]
    (tmp_path / "more").rmdir()
    assert make_folder_once(path, fill)
    assert not make_folder_once(path, lambda folder: None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.1", "a.1.b.77.part", "a.1.lock", "a.2.77.part"]
    assert (path / "file").read_text() == "x"
