"""Of two ranks that Lightning starts itself the second ends with the first, also where it waits for nothing that could tell it."""

import os
import signal
import subprocess
import sys
from select import select

from commands_for_tests import environment_with

from knowfuse.commands.other_rank import FIRST, GRACE_S, STARTED

FOLLOWS = (
    "import os, subprocess, sys, time; from knowfuse.commands.other_rank import end_with_the_first; "
    "end_with_the_first(sys.argv, os.environ); "
)
WAITS = FOLLOWS + "print(os.getpid(), flush=True); time.sleep(1000)"
STARTS = FOLLOWS + f"subprocess.run([sys.executable, '-c', {WAITS!r}, '{STARTED}1'])"


def test_a_rank_ends_where_the_first_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", STARTS], env=environment_with(), stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        other = os.pidfd_open(int(first.stdout.readline()))
        assert select([other], [], [], 1.0)[0] == []
        first.send_signal(signal.SIGKILL)
        assert select([other], [], [], GRACE_S + 30)[0] == [other]


def test_a_rank_ends_where_the_first_was_killed_while_it_started() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    environment = environment_with(**{FIRST: str(gone.pid)})
    done = subprocess.run([sys.executable, "-c", WAITS, f"{STARTED}1"], env=environment, timeout=GRACE_S + 60)
    assert done.returncode == 1


def test_any_other_command_follows_nobody() -> None:
    """A point of a sweep, which a command starts too, has ranks of its own."""
    environment = {FIRST: "1"}
    code = FOLLOWS + "print(os.environ['KNOWFUSE_FIRST_RANK'] == str(os.getpid()))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment_with(**environment), capture_output=True, text=True
    )
    assert done.stdout == "True\n"
