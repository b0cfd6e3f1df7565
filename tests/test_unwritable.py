"""Whoever finds that nothing can be written, the error names the place, and the user is told in a sentence."""

import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from disk_for_tests import no_file_beyond
from matplotlib.figure import Figure
from safetensors.numpy import save_file
from tokenizers_for_tests import neox

from knowfuse.commands.command import refusal, told
from knowfuse.files import make_folder_once, whole_folder, write_csv, write_through, write_whole
from knowfuse.pages import write_png
from knowfuse.training.checkpoints import writing
from knowfuse.unwritable import as_os_error, no_place, why

MOST = 4096  # bytes of a file
MORE = np.zeros(MOST)


def arrow(folder: Path) -> None:
    batch = pa.record_batch({"a": MORE})
    with pa.OSFile(str(folder / "a.arrow"), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as file:
        file.write_batch(batch)


FILLED: dict[str, Callable[[Path], object]] = {
    "python": lambda folder: (folder / "a").write_bytes(MORE.data),
    "safetensors": lambda folder: save_file({"a": MORE}, folder / "a.safetensors"),
    "arrow": arrow,
    "tokenizers": lambda folder: neox().backend_tokenizer.save(str(folder / "tokenizer.json")),
}


@pytest.mark.parametrize("fill", FILLED.values(), ids=FILLED)
@pytest.mark.parametrize("make", [make_folder_once, lambda path, fill: _in_whole(path, fill)], ids=["once", "whole"])
def test_a_folder_that_cannot_be_filled_is_named(
    tmp_path: Path, make: Callable[..., object], fill: Callable[[Path], object]
) -> None:
    """Whatever library finds out, and nothing stays."""
    with no_file_beyond(MOST), pytest.raises(OSError, match="too large") as error:
        make(tmp_path / "made", fill)
    assert (error.value.errno, error.value.filename) == (errno.EFBIG, str(tmp_path / "made"))
    assert not any(path.is_dir() for path in tmp_path.iterdir())
    said = refusal(error.value)
    assert said is not None
    assert said.startswith(f"'{tmp_path / 'made'}': file too large. Caches are in the folder cache=, or KNOWFUSE_CACHE")


def _in_whole(path: Path, fill: Callable[[Path], object]) -> None:
    with whole_folder(path) as unfinished:
        fill(unfinished)


FILES: dict[str, Callable[[Path], object]] = {
    "csv": lambda path: write_csv(path, [MORE.tolist()]),
    "png": lambda path: write_png(path, Figure()),
    "through": lambda path: write_through(path, lambda file: file.write(MORE.data)),
}


@pytest.mark.parametrize("write", FILES.values(), ids=FILES)
def test_a_file_that_cannot_be_written_is_named_and_stays_what_it_was(
    tmp_path: Path, write: Callable[[Path], object]
) -> None:
    (path := tmp_path / "a").write_text("before")
    with no_file_beyond(500), pytest.raises(OSError, match="too large") as error:
        write(path)
    assert error.value.filename == str(path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", ["/proc/made", "/proc/a/b/made"])
@pytest.mark.parametrize(
    "make",
    [
        lambda path: make_folder_once(path, Path.touch),
        lambda path: _in_whole(path, Path.touch),
        lambda path: write_whole(path, b"a"),
    ],
    ids=["once", "whole", "file"],
)
def test_a_place_where_the_system_makes_nothing(place: str, make: Callable[[Path], object]) -> None:
    """It says that there is no such file; the user is told what to set."""
    with pytest.raises(PermissionError) as error:
        make(Path(place))
    said = str(refusal(error.value))
    assert "operation not permitted" in said.lower()
    assert "cache= (or KNOWFUSE_CACHE)" in said or "set the one that this is of to a folder with room" in said


def raised(outer: Exception, cause: Exception) -> Exception:
    try:
        raise outer from cause
    except Exception as error:
        return error


FULL = OSError(errno.ENOSPC, "No space left on device")


def test_what_comes_of_a_full_disk_is_said_to_come_of_it() -> None:
    """A library's own fault, and what one of ours says of it, which would advise something else; not what may come of a read."""
    assert refusal(FULL) == refusal(raised(ValueError("mergekit does not merge"), FULL))
    assert str(refusal(FULL)).startswith("a file cannot be written: no space left on device. Caches are in")
    assert no_place(RuntimeError("I/O error: No space left on device (os error 28)")) is not None
    assert no_place(raised(ValueError("no"), PermissionError(errno.EACCES, "Permission denied", "a"))) is None
    assert no_place(raised(ValueError("no"), raised(KeyError("a"), FULL))) is FULL
    assert no_place(ValueError("no")) is no_place(OSError("of a network")) is None


def test_what_of_ours_says_where_is_told_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"last\.ckpt' could not be written") as error, writing(tmp_path / "last.ckpt"):
        raise FULL
    assert no_place(error.value) is FULL
    assert refusal(error.value) == str(error.value)


def test_what_goes_with_its_folder_is_told_of_the_folder(tmp_path: Path) -> None:
    """Not that a checkpoint of a source, or a shard of an export, stays: of a fit that has its own folder it is told."""

    def fill(folder: Path) -> None:
        with writing(folder / "fit" / "last.ckpt"):
            write_whole(folder / "fit" / "last.ckpt", MORE.tobytes())

    with no_file_beyond(MOST), pytest.raises(OSError, match="too large") as error:
        make_folder_once(tmp_path / "made", fill)
    assert error.value.filename == str(tmp_path / "made")
    with no_file_beyond(MOST), pytest.raises(OSError, match=r"checkpoint '.*run/fit"):
        make_folder_once(tmp_path / "made", lambda _: fill(tmp_path / "run"))


def test_a_program_without_a_configuration_refuses_in_a_sentence_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"^'a': no space left on device\. Copy it$"), told("Copy it"):
        raise OSError(errno.ENOSPC, "No space left on device", "a")
    with pytest.raises(KeyError), told("Copy it"):
        raise KeyError("a fault of the program")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(OSError, match="No space"), told("Copy it"):
        raise FULL


def test_why_is_one_line_without_the_place() -> None:
    assert why(OSError(errno.ENOSPC, "No space left on device", "there")) == "No space left on device"
    assert why(FileExistsError(errno.EEXIST, "File exists", "there")) == "A file, or a link to nothing, has this name"
    assert why(RuntimeError("\n one\ntwo")) == " one"
    assert why(KeyError()) == "KeyError"
    assert as_os_error(KeyError("(os error 30)")) is not None
