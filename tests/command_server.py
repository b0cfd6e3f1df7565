"""Forks for each command of the user's that a test asks for, with what takes longest at a start, imports, done before.

Started by `commands_for_tests.py`; a program, not a test. A command gets its own arguments, folder, environment, streams,
session and exit status; what it starts by `sys.executable` is forked here too (`stand_in.py`).
Of what Python does at a start it misses this: the seed of `hash()` is the server's, and settings that a library reads when
it is imported are those of the server's environment.
"""

import atexit
import gc
import io
import json
import logging
import os
import runpy
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from select import select
from typing import Any, NoReturn

LIBRARIES = [
    "multiprocessing.spawn",  # it keeps the executable, for processes that are given open files
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
    "jaxtyping",
    "pandas",  # pyarrow imports it where it is
    "pyarrow.compute",
    "urllib3",
    "safetensors.numpy",
    "transformers.optimization",
    "hydra.utils",
    "hydra._internal.hydra",
    "filelock",
    "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper",  # Hydra imports the plugins that are there
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher",
    "rich.progress",
    "rich.table",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
]
OURS = [  # with all that they import
    "knowfuse.commands.command",
    "knowfuse.runs.experiment",
    "knowfuse.runs.compared",
    "knowfuse.report",
    "knowfuse.plan.memory",
]
REQUEST_BYTES = 1 << 17
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # where Lightning reads which process this is, when it is imported


class _Client:
    """Who asked for a command, or has yet to; the command ends, with its group, when this one goes."""

    def __init__(self, asks: socket.socket) -> None:
        self.asks, self.pid, self.has_ended = asks, 0, False

    def fileno(self) -> int:
        return self.asks.fileno()

    def hear(self) -> bool:
        """Take a request, or the number of a signal for the command that runs; False once nobody is there."""
        try:
            request, streams, _, _ = socket.recv_fds(self.asks, REQUEST_BYTES, 3)
        except ConnectionError:
            return False
        if not request:
            return False
        if self.pid == 0:
            self.pid = os.fork()
            if self.pid == 0:
                _die_as_python(json.loads(request), streams)
            for stream in streams:
                os.close(stream)
        elif not self.has_ended:
            os.kill(self.pid, int(request))
        return True

    def look(self) -> None:
        """Tell who asked how the command ended, if it has."""
        if self.pid and not self.has_ended:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.has_ended = True
                with suppress(OSError):
                    self.asks.send(str(os.waitstatus_to_exitcode(status)).encode())

    def close(self) -> None:
        """End what is left of the command and of what it started."""
        self.asks.close()
        if self.pid:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            if not self.has_ended:
                os.waitpid(self.pid, 0)


def serve(listener: socket.socket) -> None:
    """Runs commands side by side, until all who were there have gone."""
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    clients: list[_Client] = []
    while True:
        ready: list[Any] = select([listener, wake, *clients], [], [])[0]
        if wake in ready:
            os.read(wake, 1 << 10)
        for client in clients[:]:
            client.look()
            if client in ready and not client.hear():
                clients.remove(client)
                client.close()
        if listener in ready:
            clients.append(_Client(listener.accept()[0]))
        if not clients:
            return


def _die_as_python(command: dict[str, Any], streams: list[int]) -> NoReturn:
    status = 1
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for n, stream in enumerate(streams):
            os.dup2(stream, n)
            os.close(stream)
        status = _run(command["arguments"], command["environment"], command["cwd"], command["executable"])
        threading._shutdown()  # type: ignore[attr-defined]  # Python's own end: threads, then what asked to be called
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _run(arguments: list[str], environment: dict[str, str], cwd: str, executable: str) -> int:
    """What `python` does with these arguments; its exit status."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    kind, *rest = arguments
    try:
        _forget_the_server(environment, executable)
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


def _forget_the_server(environment: Mapping[str, str], executable: str) -> None:
    """What libraries drew or read when the server imported them, as a process of this environment would have."""
    import numpy as np
    from lightning.pytorch.utilities import rank_zero_only

    from knowfuse import screen
    from knowfuse.launched import require_numbers

    require_numbers(environment)
    rank = next((int(environment[key]) for key in RANKS if key in environment), 0)
    np.random.seed()
    rank_zero_only.rank = rank  # type: ignore[attr-defined]
    # As when it is imported, of this rank and screen.
    screen.console.__init__(quiet=not screen.is_first_rank(), width=screen.screen_width())
    sys.executable = executable


def _use_once() -> None:
    """What libraries import, make and read at their first use: numba's compiler, matplotlib's fonts, Hydra's files and ours."""
    from hydra import compose, initialize_config_dir
    from matplotlib.figure import Figure
    from numba import njit
    from settings_for_tests import read_settings_once

    read_settings_once()
    with initialize_config_dir(str(Path(__file__).parent.parent / "conf"), version_base="1.3"):
        compose("train")
    njit(lambda: 0)()
    figure = Figure(layout="constrained")
    figure.subplots().set_title("any")
    figure.savefig(io.BytesIO(), format="png")


if __name__ == "__main__":
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it says which kernels it did not find
    for name in [*LIBRARIES, *OURS]:
        import_module(name)
    _use_once()
    gc.freeze()  # what is there now is looked at by no collection of a command
    serve(socket.socket(fileno=int(sys.argv[1])))
    shutil.rmtree(sys.argv[2])
    os.remove(f"{sys.argv[2]}.lock")
