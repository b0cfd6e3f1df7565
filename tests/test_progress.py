"""Long work says that it lives, where no bar does too."""

import inspect
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands_for_tests import environment_with, stand_in
from experiments_for_tests import ROOT, TINY_TRAINING, local_llm, run_python
from rich.console import Console
from rich.table import Table

from knowfuse import progress
from knowfuse.progress import LOG_WIDTH, Pulse, at_work, clock, counting, open_closed_streams, screen_width, show_table


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a log file gets."""
    file = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=file, width=140))
    return file


def test_a_stage_says_how_far_it_is_outside_a_terminal(log: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every 30 seconds: at 31 and at 62, not in between."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    pulse = Pulse("traces mpt", 4000)
    for now[0], done in ((110.0, 500), (131.0, 1000), (150.0, 1500), (162.0, 2000)):
        pulse.beat(done, done, "tokens")
    assert log.getvalue().splitlines() == [
        "traces mpt: 1,000 of 4,000 (25%), 32 tokens/s, 0:01:33 left",
        "traces mpt: 2,000 of 4,000 (50%), 32 tokens/s, 0:01:02 left",
    ]


def test_a_stage_without_a_count_says_that_it_lives(log: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PULSE_SECONDS", 0.01)
    with at_work("checksums of mpt"):
        while log.getvalue().count("\n") < 2:
            time.sleep(0.01)
    said = log.getvalue()
    assert set(said.splitlines()) == {"checksums of mpt: at work for 0:00:00"}
    time.sleep(0.05)
    assert log.getvalue() == said


def test_a_fit_that_goes_on_counts_from_where_it_was(log: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    pulse = Pulse("fused", 100, begun=50)
    pulse.beat(50, 0, "tokens")
    now[0] = 40.0
    pulse.beat(60, 8000, "tokens")
    assert log.getvalue() == "fused: 60 of 100 (60%), 200 tokens/s, 0:02:40 left\n"


def test_a_stage_that_is_found_done_says_so(log: io.StringIO) -> None:
    with counting("tokens mpt", 10, "documents"):
        pass
    assert "100%" in log.getvalue()
    assert "found, nothing to do" in log.getvalue()


def test_hours_minutes_and_seconds() -> None:
    assert [clock(s) for s in (0.2, 61.0, 3600 * 30 + 59.6)] == ["0:00:00", "0:01:01", "30:01:00"]


def a_table() -> Table:
    table = Table("bits per byte", "code", "EOS, nats", title="Results", caption="two are left out")
    table.add_row("target before", "[bold]5.049[/bold]", "5.81")
    table.add_row("target fused", "4.049", "")
    return table


def test_no_figure_is_cut_off_where_the_screen_is_narrow(log: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    show_table(a_table())
    assert "\u2502 target before \u2502 5.049 \u2502" in log.getvalue()
    monkeypatch.setattr(progress, "console", Console(file=(narrow := io.StringIO()), width=30))
    show_table(a_table())
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
