"""A run that cannot be written where it is to live."""

import os
import re
from pathlib import Path

import pytest
from disk_for_tests import no_file_beyond

from knowfuse.runs.writable import require_writable


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's folder is needed")
def test_a_folder_that_is_only_to_be_read_is_refused_in_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    os.seteuid(65534)
    try:
        with pytest.raises(SystemExit) as refused:
            require_writable(folder / "new")
    finally:
        os.seteuid(0)
    assert re.fullmatch(
        r"run folder '/.*new' cannot be written, '/.*' is only to be read: take another with hydra\.run\.dir=<folder>; "
        r"ckpt_path=<file> goes on there from a checkpoint that is only to be read",
        str(refused.value),
    )
    require_writable(folder / "new")


def test_a_place_where_the_system_makes_nothing_is_refused_in_a_sentence() -> None:
    with pytest.raises(
        SystemExit, match=r"'/proc/a/run' cannot be written \(Operation not permitted\): take another with hydra"
    ):
        require_writable(Path("/proc/a/run"))


def test_a_run_folder_without_room_is_refused_before_hydra_writes_there(tmp_path: Path) -> None:
    with (
        no_file_beyond(1000),
        pytest.raises(
            SystemExit, match=r"'/.*new' cannot be written \(File too large\): make room in '/.*', or take another"
        ),
    ):
        require_writable(tmp_path / "new")
    require_writable(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("named", ["link", "link/run", "loop", "loop/run"])
def test_a_link_to_no_folder_is_named_with_what_it_is_to(tmp_path: Path, named: str) -> None:
    (tmp_path / "link").symlink_to("nowhere/at/all")
    (tmp_path / "loop").symlink_to("loop")
    aim = "nowhere/at/all" if named.startswith("link") else "loop"
    with pytest.raises(
        SystemExit, match=rf"cannot be made, '/.*{named[:4]}' is a link to '{aim}', and no folder: make one there"
    ):
        require_writable(tmp_path / named)
    (tmp_path / "nowhere" / "at" / "all").mkdir(parents=True)
    require_writable(tmp_path / "link" / "run")


def test_a_name_that_is_too_long_for_a_folder(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"cannot be made \(File name too long\): take another with hydra\.run\.dir"):
        require_writable(tmp_path / ("x" * 300) / "run")


@pytest.mark.parametrize("named", ["outputs", "outputs/quickstart/run"])
def test_a_file_where_a_folder_is_to_be(tmp_path: Path, named: str) -> None:
    (tmp_path / "outputs").touch()
    with pytest.raises(SystemExit, match=r"cannot be made, '/.*outputs' is a file, and no folder: make one there"):
        require_writable(tmp_path / named)
