"""A place of which several processes want to be alone: who gets it, and where nobody can."""

from pathlib import Path

import pytest
from filelock import Timeout

from knowfuse.locks import lock_file


@pytest.mark.parametrize("folder", ["/proc", "/proc/self/fd"])
def test_a_lock_that_the_system_does_not_make_is_refused(folder: str) -> None:
    """And not waited for: it says that no such file is there, of a folder that is."""
    with pytest.raises(PermissionError, match=f"Operation not permitted: '{folder}/a.lock'"):
        lock_file(Path(folder) / "a.lock")


def test_its_folder_is_made(tmp_path: Path) -> None:
    with lock_file(tmp_path / "no" / "folder" / "a.lock"):
        assert (tmp_path / "no" / "folder" / "a.lock").exists()


def test_one_has_it_at_a_time_and_what_is_in_the_file_stays(tmp_path: Path) -> None:
    (path := tmp_path / "a.lock").write_text("kept")
    with lock_file(path):
        second = lock_file(path)
        with pytest.raises(Timeout):
            second.acquire(timeout=0)
    with second.acquire(timeout=0):
        assert path.read_text() == "kept"


def test_a_link_in_place_of_a_lock_is_not_followed(tmp_path: Path) -> None:
    """Of a folder in which others write too: nothing is made where it leads."""
    (tmp_path / "a.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        lock_file(tmp_path / "a.lock").acquire(timeout=0)
    assert not (tmp_path / "elsewhere").exists()
