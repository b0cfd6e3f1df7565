"""Ctrl-C while a program of ours imports is answered by a line; in any other program, and later, as ever."""

import subprocess
import sys
from pathlib import Path

import pytest
from commands_for_tests import ROOT, environment_with

from knowfuse.importing import INTERRUPTED

HEARS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
# A library that ours import, at which the user has had enough.
ENOUGH = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\nsignal.raise_signal(signal.SIGINT)\n"


def interrupted(
    folder: Path, *arguments: str, library: str = "transformers", **more: str
) -> subprocess.CompletedProcess[str]:
    """A program whose import of a library is interrupted."""
    (folder / f"{library}.py").write_text(ENOUGH)
    environment = environment_with(**more)
    environment["PYTHONPATH"] = f"{folder}:{environment['PYTHONPATH']}"
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("program", "library"),
    [(["train.py"], "lightning"), (["-m", "knowfuse.prepare"], "hydra"), (["-m", "knowfuse.export"], "torch")],
)
def test_an_import_that_is_interrupted_ends_by_a_line(tmp_path: Path, program: list[str], library: str) -> None:
    done = interrupted(tmp_path, *program, library=library)
    assert (done.returncode, done.stdout) == (INTERRUPTED, "")
    assert done.stderr == "interrupted before it began: nothing has changed\n"


def test_one_rank_says_it(tmp_path: Path) -> None:
    done = interrupted(tmp_path, "train.py", library="lightning", LOCAL_RANK="1", WORLD_SIZE="2")
    assert (done.returncode, done.stdout, done.stderr) == (INTERRUPTED, "", "")


@pytest.mark.parametrize(
    ("code", "asked"),
    [
        ("import knowfuse, transformers", {}),  # by a program of somebody else
        ("import knowfuse.surface", {"HYDRA_FULL_ERROR": "1"}),
        ("import knowfuse, signal; signal.raise_signal(signal.SIGINT)", {}),
    ],
)
def test_with_its_stack_anywhere_else(tmp_path: Path, code: str, asked: dict[str, str]) -> None:
    done = interrupted(tmp_path, "-c", HEARS + code, **asked)
    assert done.returncode not in (0, INTERRUPTED)
    assert done.stderr.startswith("Traceback")
    assert done.stderr.strip().endswith("KeyboardInterrupt")
