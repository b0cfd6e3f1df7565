"""What a kill leaves half-written goes with the next start that writes it, and never what a living process writes."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from knowfuse.files import whole_folder, write_through, write_whole
from knowfuse.unfinished import beside, remove_left

FORK = multiprocessing.get_context("fork")


def _writing(path: Path, as_folder: bool, began: Any, may_end: Any) -> None:
    """A process that is half-way with this file or folder until it may go on."""

    def half(place: Path) -> None:
        place.write_bytes(b"half")
        began.set()
        may_end.wait(60)

    def through(file: Any) -> None:
        file.write(b"half")
        file.flush()
        began.set()
        may_end.wait(60)

    if as_folder:
        with whole_folder(path) as unfinished:
            half(unfinished / "file")
    else:
        write_through(path, through)


@pytest.fixture(params=[False, True], ids=["file", "folder"])
def half_way(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Any, Any]:
    """The path, the process that is half-way with it, and what lets it end."""
    path, began, may_end = tmp_path / "a [1].bin", FORK.Event(), FORK.Event()
    process = FORK.Process(target=_writing, args=(path, request.param, began, may_end))
    process.start()
    assert began.wait(60)
    return path, process, may_end


def test_what_a_living_process_writes_is_left_alone(half_way: tuple[Path, Any, Any]) -> None:
    path, process, may_end = half_way
    (unfinished,) = path.parent.iterdir()
    remove_left(path)
    assert unfinished.exists()
    may_end.set()
    process.join()
    assert (process.exitcode, list(path.parent.iterdir())) == (0, [path])
    assert (path / "file" if path.is_dir() else path).read_bytes() == b"half"


def test_what_a_kill_left_goes_with_the_next_that_writes_it(half_way: tuple[Path, Any, Any]) -> None:
    """And what is left of another name, or looks like it, stays."""
    path, process, _ = half_way
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (left,) = path.parent.iterdir()
    others = [
        path.with_name(name)
        for name in ("b.12.part", "a [1].bin.mine.part", "a [1].bin.12.part.txt", "a 1.bin.12.part")
    ]
    for other in others:
        other.touch()
    if left.is_dir():
        with whole_folder(path):
            assert not left.exists()
    else:
        write_whole(path, b"whole")
    assert sorted(path.parent.iterdir()) == sorted([path, *others])


def test_who_is_alone_removes_all(tmp_path: Path) -> None:
    """Of file systems without locks too; the shards of several ranks, whose folder has no number, are among it."""
    path = tmp_path / "last.ckpt"
    with beside(path, Path.touch) as mine:
        path.with_name("last.ckpt.part").mkdir()
        remove_left(path, is_alone=True)
        assert not mine.exists()
    assert list(tmp_path.iterdir()) == []


def test_no_two_write_to_one_place(tmp_path: Path) -> None:
    """Nor processes of one number, as those of two containers may have."""
    with beside(tmp_path / "a", Path.touch) as one, beside(tmp_path / "a", Path.mkdir) as other:
        assert one.exists()
        assert other.is_dir()
        assert one != other


def test_what_was_taken_for_left_before_it_was_locked_is_begun_again(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(place: Path) -> None:
        place.touch()
        made.append(place)
        if len(made) == 1:
            remove_left(tmp_path / "a")
            assert not place.exists()

    with beside(tmp_path / "a", make) as unfinished:
        assert unfinished == made[1]
        remove_left(tmp_path / "a")
        assert unfinished.exists()
