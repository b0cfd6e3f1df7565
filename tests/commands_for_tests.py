"""Commands of the user's, each in a process of its own; Python itself starts only where that is what is tested.

Starting Python and importing torch, Lightning and transformers takes longer than most commands take in miniature:
`run_python` forks from a server that has imported them (`command_server.py`), `start_python` starts.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache as once
from itertools import count
from pathlib import Path
from select import select
from time import monotonic
from typing import Any, TypeAlias

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 300  # seconds
LEFT_S = 5.0  # for the ranks beside one that failed
SECRET = "sk-planted-8d1f"  # in the environment of every command, and never anywhere else
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_ports = count(12_000 + 1_000 * WORKER)
_STAYS: list[socket.socket] = []  # open for as long as this process may have commands to run


@dataclass(frozen=True)
class Ended:
    """How a command ended; `returncode` is minus the signal's number where one killed it."""

    returncode: int
    stdout: str
    stderr: str

    def well(self) -> str:
        """What it printed; an error if it failed."""
        assert self.returncode == 0, self.stdout + self.stderr
        return self.stdout


def run_python(*arguments: str, cache: Path, cwd: Path = ROOT) -> str:
    """What a Python command of the user's prints; an error if it fails."""
    return ended(*arguments, cache=cache, cwd=cwd).well()


def ended(*arguments: str, cache: Path, cwd: Path = ROOT) -> Ended:
    """How a Python command of the user's ends."""
    (done,) = _side_by_side(arguments, [environment_with(KNOWFUSE_CACHE=str(cache))], cwd)
    return done


def run_ranks(*arguments: str, cache: Path, world: int = 2) -> None:
    """A Python command on the ranks of one machine; an error if one fails."""
    for done in ended_ranks(*arguments, cache=cache, world=world):
        done.well()


def ended_ranks(*arguments: str, cache: Path, world: int = 2) -> list[Ended]:
    """How a Python command ends on the ranks of one machine, told by torchrun's variables which they are."""
    job = {"TORCHELASTIC_RUN_ID": "tests", "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "GROUP_RANK": "0"}
    shared = environment_with(KNOWFUSE_CACHE=str(cache), MASTER_ADDR="127.0.0.1", **job)
    ranks = [{**shared, "RANK": str(n), "LOCAL_RANK": str(n)} for n in range(world)]
    return _side_by_side(arguments, ranks, ROOT)


def start_python(*arguments: str, cache: Path, cwd: Path = ROOT) -> str:
    """What `run_python` says, by starting Python as a user does."""
    return started(*arguments, cache=cache, cwd=cwd).well()


def started(*arguments: str, cache: Path, cwd: Path = ROOT) -> Ended:
    """What `ended` says, by starting Python as a user does."""
    command, environment = [sys.executable, *arguments], environment_with(KNOWFUSE_CACHE=str(cache))
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    return Ended(done.returncode, done.stdout, done.stderr)


Run: TypeAlias = Callable[..., Ended]
# Of a test that is asked `by` which of the two a command of the user's runs.
FORKED_AND_STARTED = pytest.mark.parametrize(
    "by", [ended, pytest.param(started, marks=pytest.mark.long)], ids=["forked", "started"]
)


def environment_with(**more: str) -> dict[str, str]:
    """What a command runs in: one thread, a wide screen, a port of its own, the files of this folder to import."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    mine = {
        "MY_API_KEY": SECRET,
        "COLUMNS": "160",
        "OMP_NUM_THREADS": "1",
        "MASTER_PORT": str(free_port()),
        "PYTHONPATH": path,
    }
    return {**os.environ, **mine, **more}


def free_port() -> int:
    """A port where nobody listens, that no other worker of these tests is given, nor the system to any connection."""
    for port in _ports:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise AssertionError("a count does not end")


class _Forked:
    """A command that the server has forked, and what it has printed so far."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], cwd: Path) -> None:
        self.status: int | None = None
        self.asked = _connected(stand_in().parent)
        pipes = [os.pipe(), os.pipe()]
        self.said = {read: bytearray() for read, _ in pipes}
        self.open = list(self.said)
        asked = {"arguments": arguments, "environment": environment, "cwd": str(cwd), "executable": str(stand_in())}
        with open(os.devnull) as nothing:
            streams = [nothing.fileno(), *(write for _, write in pipes)]
            socket.send_fds(self.asked, [json.dumps(asked).encode()], streams)
        for _, write in pipes:
            os.close(write)

    @property
    def awaited(self) -> list[Any]:
        """As `subprocess` waits for it: its end, and the end of its streams, which what it started may have too."""
        return [*self.open, *([self.asked] if self.status is None else [])]

    def hear(self, ready: Sequence[Any]) -> None:
        if self.asked in ready:
            self.status = int(self.asked.recv(16))
        for stream in [stream for stream in self.open if stream in ready]:
            data = os.read(stream, 1 << 16)
            self.said[stream].extend(data)
            if not data:
                self.open.remove(stream)

    def end(self) -> Ended:
        """It, and what it started and left running, is killed."""
        self.asked.close()
        for stream in self.said:
            os.close(stream)
        out, error = (said.decode(errors="replace") for said in self.said.values())
        return Ended(-signal.SIGKILL if self.status is None else self.status, out, error)


def _side_by_side(arguments: Sequence[str], environments: Sequence[Mapping[str, str]], cwd: Path) -> list[Ended]:
    """How the command ended in each of the environments; they ran at once.

    One of several that fails leaves the others `LEFT_S`, as torchrun would.
    """
    commands = [_Forked(arguments, environment, cwd) for environment in environments]
    deadline, has_failed = monotonic() + TIMEOUT, False
    while (awaited := [what for command in commands for what in command.awaited]) and monotonic() < deadline:
        ready = select(awaited, [], [], 1.0)[0]
        for command in commands:
            command.hear(ready)
        if not has_failed and len(commands) > 1 and any(command.status for command in commands):
            deadline, has_failed = monotonic() + LEFT_S, True
    done = [command.end() for command in commands]
    assert not awaited or has_failed, f"{' '.join(arguments)} ran for more than {TIMEOUT} s\n{done}"
    return done


@once
def stand_in() -> Path:
    """What may stand where Python would be started, in a folder that `PATH` may begin with.

    All workers share one server; it ends when the last of them does.
    """
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    folder = Path(tempfile.gettempdir()) / f"knowfuse-tests-{run}"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            _start_server(folder)
        _STAYS.append(_connected(folder))
    return folder / "python"


def _start_server(folder: Path) -> None:
    folder.mkdir()
    here = Path(__file__).parent
    (folder / "python").write_text(f"#!{sys.executable} -IS\n{(here / 'stand_in.py').read_text()}")
    (folder / "python").chmod(0o755)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(folder / "socket"))
    listener.listen(64)
    command = [sys.executable, str(here / "command_server.py"), str(listener.fileno()), str(folder)]
    fds, nothing = [listener.fileno()], subprocess.DEVNULL
    subprocess.Popen(command, env=environment_with(), pass_fds=fds, stdin=nothing, start_new_session=True)
    listener.close()


def _connected(folder: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(str(folder / "socket"))
    return connection
