"""Long work says that it lives, where no bar does too."""

import io
import time

import pytest
from rich.console import Console

from knowfuse import progress, screen
from knowfuse.progress import Pulse, at_work, clock, counting


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a log file gets."""
    console = Console(file=(file := io.StringIO()), width=140)
    for room in (progress, screen):
        monkeypatch.setattr(room, "console", console)
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
