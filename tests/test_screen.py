"""What is said is whole on every screen, and a program whose output goes nowhere ends."""

import inspect
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands_for_tests import environment_with, stand_in
from experiments_for_tests import ROOT, TINY_TRAINING, local_llm, run_python
from rich.console import Console
from rich.table import Table

from knowfuse import screen
from knowfuse.screen import LOG_WIDTH, open_closed_streams, screen_width, show_table


def a_table() -> Table:
    table = Table("bits per byte", "code", "EOS, nats", title="Results", caption="two are left out")
    table.add_row("target before", "[bold]5.049[/bold]", "5.81")
    table.add_row("target fused", "4.049", "")
    return table


def test_no_figure_is_cut_off_where_the_screen_is_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    wide, narrow = io.StringIO(), io.StringIO()
    for file, width in ((wide, 140), (narrow, 30)):
        monkeypatch.setattr(screen, "console", Console(file=file, width=width))
        show_table(a_table())
    assert "\u2502 target before \u2502 5.049 \u2502" in wide.getvalue()
    assert narrow.getvalue().splitlines() == [
        "Results",
        "target before: code 5.049, EOS, nats 5.81",
        "target fused: code 4.049",
        "two are left out",
    ]


@pytest.mark.parametrize(("says", "width"), [("0", LOG_WIDTH), (None, LOG_WIDTH), ("40", None)])
def test_as_wide_as_a_log_where_nobody_says_how_wide(
    says: str | None, width: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """COLUMNS=0 is what some start a program with: the console would print nothing at all."""
    monkeypatch.delenv("COLUMNS", raising=False)
    if says is not None:
        monkeypatch.setenv("COLUMNS", says)
    monkeypatch.setattr(sys, "__stdout__", None)  # the terminal of who runs the tests
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert screen_width() == width


def test_a_closed_stream_is_one_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `>&-` starts a program; those that are open stay."""
    monkeypatch.setattr(sys, "stdout", None)
    before = sys.stdin, sys.stderr
    open_closed_streams()
    assert (sys.stdin, sys.stderr) == before
    assert sys.stdout is not None
    with sys.stdout:
        sys.stdout.write("nowhere \u00e9")


def test_what_is_opened_later_has_no_number_of_a_closed_stream() -> None:
    """In a process of its own, whose output is closed: what a library in C prints would else go into the file."""
    source = inspect.getsource(open_closed_streams)
    program = f"import os, sys\n{source}\nopen_closed_streams()\nsys.exit(os.open(os.devnull, os.O_RDONLY))"
    done = subprocess.run(["sh", "-c", 'exec "$0" -IS -c "$1" >&- <&-', sys.executable, program], check=False)
    assert done.returncode > 2


SAYING = [
    "train.py --help",
    "train.py --cfg job",
    "-m knowfuse.plan",
    "-m knowfuse.surface {llm}",
    "evaluate.py --help",
]


@pytest.mark.parametrize("command", SAYING)
def test_a_command_ends_with_its_reader(command: str, tmp_path: Path) -> None:
    """As other programs do after `| head -1`: by the status of SIGPIPE, without a word; of Hydra's own printing too."""
    local_llm(tmp_path / "llm")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [stand_in(), *command.format(llm=tmp_path / "llm").split()],
        cwd=ROOT,
        env=environment_with(KNOWFUSE_CACHE=str(tmp_path)),
        stdout=writer,
        stderr=subprocess.PIPE,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_run_ends_with_its_reader_and_goes_on(tiny_cache: Path, tmp_path: Path) -> None:
    line = [stand_in(), str(ROOT / "train.py"), *TINY_TRAINING, "compare_with_clm=false", "samples=0"]
    environment = environment_with(KNOWFUSE_CACHE=str(tiny_cache))
    with subprocess.Popen(
        line, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline().startswith("run ")
        run.stdout.close()
        assert run.wait(120) == 141
        assert run.stderr is not None
        assert "Traceback" not in run.stderr.read()
    run_python(*map(str, line[1:]), "ckpt_path=last", cache=tiny_cache, cwd=tmp_path)
    assert len(list(tmp_path.glob("outputs/*/*/results.json"))) == len(list(tmp_path.glob("outputs/*/*"))) == 1


def test_a_screen_without_room_is_told() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [stand_in(), "train.py", "--cfg", "job"],
            cwd=ROOT,
            env=environment_with(),
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert (done.returncode, done.stderr) == (1, b"standard output cannot be written: No space left on device\n")
