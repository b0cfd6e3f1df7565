"""Forks for each command of the user's that a test asks for, with what takes longest at a start, imports, done before.

Started by `commands_for_tests.py`; a program, not a test. A command gets its own folder, environment, streams, session
and exit status, and imports knowfuse itself. Of what Python does at a start it misses this: the seed of `hash()` is the
server's, and settings that a library reads when it is imported are those of the server's environment.
"""

import atexit
import json
import logging
import os
import runpy
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from select import select
from typing import Any, NoReturn

LIBRARIES = [
    "torch",
    "torch._dynamo",
    "torch._inductor.test_operators",
    "torch.distributed.tensor",
    "torch.distributed.fsdp",
    "torch.distributed.checkpoint.state_dict",
    "torchdata.stateful_dataloader",
    "lightning.pytorch",
    "lightning.pytorch.loggers",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.generation",
    "transformers.models.llama.modeling_llama",
    "transformers.models.mpt.modeling_mpt",
    "peft",
    "accelerate",
    "numba",
    "hydra.utils",
    "hydra._internal.hydra",
    "filelock",
    "rich.progress",
    "rich.table",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
]


class _Command:
    """One that runs, from now on."""

    def __init__(self, command: dict[str, Any], requests: socket.socket) -> None:
        ends = [os.pipe(), os.pipe()]
        self.pid = os.fork()
        if self.pid == 0:
            requests.close()
            _die_as_python(command, [write for _, write in ends])
        for _, write in ends:
            os.close(write)
        self.files = {ends[0][0]: open(command["out"], "wb"), ends[1][0]: open(command["error"], "wb")}  # noqa: SIM115
        self.status: int | None = None

    def pump(self, stream: int) -> None:
        """What it or what it started has printed goes to its file, until nobody is left who could print."""
        if data := os.read(stream, 1 << 16):
            self.files[stream].write(data)
        else:
            os.close(stream)
            self.files.pop(stream).close()

    def has_ended(self) -> bool:
        """As `subprocess` sees it: also what it started, unless that closed the streams."""
        if self.status is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if ended else None
        return self.status is not None and not self.files

    def kill(self) -> None:
        """With what it started and left running."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        for stream in list(self.files):
            os.close(stream)
            self.files.pop(stream).close()
        if self.status is None:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def serve(requests: socket.socket) -> None:
    """Runs the commands of each request side by side and answers with their statuses, until nobody asks any more."""
    while request := requests.recv(1 << 20):
        asked = json.loads(request)
        commands = [_Command(command, requests) for command in asked["commands"]]
        in_time = _wait(commands, asked["timeout"], requests)
        for command in commands:
            command.kill()
        requests.send(json.dumps([command.status for command in commands] if in_time else None).encode())


def _wait(commands: Sequence[_Command], timeout: float, requests: socket.socket) -> bool:
    """Whether all ended within so many seconds, or one of several failed: then the others have 5 s left, as torchrun
    would give them. Not if nobody waits for the answer."""
    deadline, has_failed = time.monotonic() + timeout, False
    while sum(not command.has_ended() for command in commands):
        if not has_failed and len(commands) > 1 and any(command.status for command in commands):
            deadline, has_failed = time.monotonic() + 5, True
        streams = {stream: command for command in commands for stream in command.files}
        watched: list[Any] = [requests, *streams]
        ready, _, _ = select(watched, [], [], 0.01 if len(streams) < 2 * len(commands) else 0.1)
        if requests in ready or time.monotonic() > deadline:
            return has_failed
        for stream in ready:
            streams[stream].pump(stream)
    return True


def _die_as_python(command: dict[str, Any], streams: Sequence[int]) -> NoReturn:
    status = 1
    try:
        os.setsid()
        for n, stream in enumerate(streams):
            os.dup2(stream, n + 1)
            os.close(stream)
        status = _run(command["arguments"], command["environment"], command["cwd"])
        threading._shutdown()  # type: ignore[attr-defined]  # Python's own end: threads, then what asked to be called
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _run(arguments: list[str], environment: dict[str, str], cwd: str) -> int:
    """What `python` does with these arguments; its exit status."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    _forget_the_server(int(environment.get("RANK", 0)))
    kind, *rest = arguments
    try:
        if kind == "-m":
            sys.argv, sys.path[0] = rest, cwd
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif kind == "-c":
            sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
            exec(compile(rest[0], "<string>", "exec"), sys.modules["__main__"].__dict__)
        else:
            sys.argv, sys.path[0] = arguments, os.path.dirname(os.path.abspath(kind))
            runpy.run_path(kind, run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    return 0


def _forget_the_server(rank: int) -> None:
    """What libraries drew or read when the server imported them, as a process of this rank would have."""
    import numpy as np
    from lightning.pytorch.utilities import rank_zero_only

    np.random.seed()
    rank_zero_only.rank = rank  # type: ignore[attr-defined]


if __name__ == "__main__":
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it says which kernels it did not find
    for name in LIBRARIES:
        import_module(name)
    serve(socket.socket(fileno=int(sys.argv[1])))
