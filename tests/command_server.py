"""Forks for each command of the user's that a test asks for, with what takes longest at a start, imports, done before.

Started by `commands_for_tests.py`; a program, not a test. A command gets its own folder, environment, streams, session
and exit status, and imports knowfuse itself. Of what Python does at a start it misses this: the seed of `hash()` is the
server's, and settings that a library reads when it is imported are those of the server's environment.
"""

import atexit
import json
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
from typing import Any

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


def serve(requests: socket.socket) -> None:
    """Runs the commands of each request side by side and answers with their statuses, until nobody asks any more."""
    while request := requests.recv(1 << 20):
        commands = json.loads(request)
        groups = [_fork(command, requests) for command in commands["commands"]]
        statuses = _statuses(groups, commands["timeout"], requests)
        for group in groups:  # what they started and left running
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        requests.send(json.dumps(statuses).encode())


def _fork(command: dict[str, Any], requests: socket.socket) -> int:
    if child := os.fork():
        return child
    status = 1
    try:
        requests.close()
        os.setsid()
        status = _run(**command)
        threading._shutdown()  # type: ignore[attr-defined]  # Python's own end: threads, then what asked to be called
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _statuses(children: Sequence[int], timeout: float, requests: socket.socket) -> list[int | None]:
    """As `subprocess` counts them; None of those that took too long, or whose asker is gone."""
    statuses: dict[int, int | None] = {}
    deadline = time.monotonic() + timeout
    while len(statuses) < len(children) and time.monotonic() < deadline and not select([requests], [], [], 0.01)[0]:
        for child in set(children) - statuses.keys():
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                statuses[child] = os.waitstatus_to_exitcode(status)
    for child in set(children) - statuses.keys():
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return [statuses.get(child) for child in children]


def _run(arguments: list[str], environment: dict[str, str], cwd: str, out: str, error: str) -> int:
    """What `python` does with these arguments; its exit status."""
    for path, stream in ((out, 1), (error, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), stream)
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
    for name in LIBRARIES:
        import_module(name)
    serve(socket.socket(fileno=int(sys.argv[1])))
