"""Commands of the user's, each in a process of its own; Python itself starts only where that is what is tested.

Starting Python and importing torch, Lightning and transformers takes longer than most commands take in miniature:
`run_python` forks from a server that has imported them (`command_server.py`), `start_python` starts.
"""

import atexit
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache as once
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 300  # seconds
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_ports = count(12_000 + 1_000 * WORKER)


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


def environment_with(**more: str) -> dict[str, str]:
    """What a command runs in: one thread, a wide screen, a port of its own, the files of this folder to import."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    mine = {"COLUMNS": "160", "OMP_NUM_THREADS": "1", "MASTER_PORT": str(free_port()), "PYTHONPATH": path}
    return {**os.environ, **mine, **more}


def free_port() -> int:
    """A port where nobody listens, that no other worker of these tests is given, nor the system to any connection."""
    for port in _ports:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise AssertionError("a count does not end")


def _side_by_side(arguments: Sequence[str], environments: Sequence[Mapping[str, str]], cwd: Path) -> list[Ended]:
    """How the command ended in each of the environments; they ran at once."""
    with TemporaryDirectory() as folder:
        streams = [(f"{folder}/{n}.out", f"{folder}/{n}.error") for n in range(len(environments))]
        commands = [
            {"arguments": arguments, "environment": environment, "cwd": str(cwd), "out": out, "error": error}
            for environment, (out, error) in zip(environments, streams, strict=True)
        ]
        server = _server()
        server.send(json.dumps({"commands": commands, "timeout": TIMEOUT}).encode())
        statuses = json.loads(server.recv(1 << 20))
        said = [[Path(path).read_text(encoding="utf-8", errors="replace") for path in pair] for pair in streams]
    assert statuses, f"{' '.join(arguments)} ran for more than {TIMEOUT} s\n{said}"
    return [Ended(status, out, error) for status, (out, error) in zip(statuses, said, strict=True)]


@once
def _server() -> socket.socket:
    """Where to ask; the server ends with this process."""
    mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    program = Path(__file__).with_name("command_server.py")
    command = [sys.executable, str(program), str(its.fileno())]
    server = subprocess.Popen(
        command, env=environment_with(), pass_fds=[its.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
    )
    its.close()
    atexit.register(lambda: (mine.close(), server.wait()))
    return mine
