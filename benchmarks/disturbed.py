"""How is a command run, killed on the way, and what it left compared with what one left that nobody disturbed?

For `crash.py` and `resume.py`. Commands are processes of their own, forked from one in which the libraries are imported; several
ranks are told by torchrun's variables which they are, and where one of them dies the others are ended, as torchrun does.
"""

import multiprocessing
import os
import runpy
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only

ROOT = Path(__file__).resolve().parent.parent
IMPORTED = ["knowfuse.runs.experiment", "knowfuse.report", "hydra._internal.hydra", "transformers.generation"]
IMPORTED += ["lightning.pytorch.loggers", "transformers.models.llama.modeling_llama", "disturbed"]
GRACE_S = 15.0  # that other ranks get after SIGTERM
TIMEOUT_S = 900.0
LOOK_S = 0.1  # between two looks at the CPU time of a process, the last of which counts where it is killed
# The quickstart in seconds: three LLMs of one layer, 20 kB of text.
SMALL = ["corpus.max_document_bytes=120", "corpus.bytes_per_domain=20000", "corpus.fusion_bytes=3000", "top_k=10"]
SMALL += ["corpus.validation_bytes=1200", "corpus.test_bytes=1200", "tracing.shard_tokens=1000"]
for _name, _size in {"llama2": 400, "mpt": 420, "openllama": 440}.items():
    _recipe = {"vocabulary_size": _size, "hidden_size": 32, "num_layers": 1, "context_length": 160, "max_steps": 3}
    SMALL += [f"sources.{_name}.recipe.{key}={value}" for key, value in _recipe.items()]
SHORT = ["block_tokens=128", "batch_blocks=2", "warmup_steps=1", "samples=1", "trainer.max_steps=8"]
SHORT += ["trainer.val_check_interval=2", "trainer.log_every_n_steps=1"]


@dataclass(frozen=True)
class Command:
    """`python <program> <arguments>`, `-m` before the name of a module, on so many ranks of this machine."""

    program: str
    arguments: tuple[str, ...]
    world: int = 1


@dataclass(frozen=True)
class Ended:
    """How a command ended: the status of each rank, minus the signal's number where one killed it, and what they printed.

    `seconds` are of CPU time, of all ranks, which other work on the machine does not stretch.
    """

    statuses: list[int]
    seconds: float
    said: str

    @property
    def is_well(self) -> bool:
        return not any(self.statuses)


def run(command: Command, where: Path, prepare: Callable[[int], object] | None = None) -> Ended:
    """Run a command in the folder `where`; `prepare` is called with the rank in each process before it begins."""
    return in_processes(partial(_start, command, where, prepare), command.world, where)


def in_processes(call: Callable[[int], object], world: int, where: Path) -> Ended:
    """Call with each rank, in a process of its own that has the cache `where/cache`; Linux alone."""
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    (where / "said").mkdir(parents=True, exist_ok=True)
    port = _free_port()
    ranks = [context.Process(target=_rank, args=(call, where, rank, world, port)) for rank in range(world)]
    for process in ranks:
        process.start()
    spent, deadline = [0.0] * len(ranks), time.monotonic() + TIMEOUT_S
    while any(process.is_alive() for process in ranks):
        spent = [max(before, _cpu_seconds(process.pid)) for before, process in zip(spent, ranks, strict=True)]
        if any(process.exitcode for process in ranks) or time.monotonic() > deadline:
            _end(ranks)
        wait([process.sentinel for process in ranks if process.is_alive()], timeout=LOOK_S)
    said = "".join((where / "said" / str(rank)).read_text(errors="replace") for rank in range(world))
    return Ended([process.exitcode for process in ranks], sum(spent), said)


def _cpu_seconds(pid: int) -> float:
    """That a process has had so far; 0 of one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):  # gone before it was opened, or read
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _end(ranks: Sequence[Any]) -> None:
    """The others follow one that has died."""
    deadline = time.perf_counter() + GRACE_S
    for process in ranks:
        process.join(2.0)
        if process.is_alive():
            process.terminate()
    for process in ranks:
        process.join(max(0.0, deadline - time.perf_counter()))
        if process.is_alive():
            process.kill()
        process.join()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _rank(call: Callable[[int], object], where: Path, rank: int, world: int, port: int) -> None:
    os.environ |= {"KNOWFUSE_CACHE": str(where / "cache"), "COLUMNS": "160", "HF_HUB_OFFLINE": "1"}
    if world > 1:
        os.environ |= {"TORCHELASTIC_RUN_ID": "disturbed", "RANK": str(rank), "LOCAL_RANK": str(rank)}
        os.environ |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "GROUP_RANK": "0"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    rank_zero_only.rank = rank  # pyright: ignore[reportFunctionMemberAccess]  # it was read when Lightning was imported
    said = os.open(where / "said" / str(rank), os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    torch.set_num_threads(1)
    call(rank)


def _start(command: Command, where: Path, prepare: Callable[[int], object] | None, rank: int) -> None:
    is_module = command.program.startswith("-m ")
    os.chdir(ROOT if is_module else where)  # a module finds conf/ where it is started
    if prepare is not None:
        prepare(rank)
    if is_module:
        sys.argv = [command.program[3:], *command.arguments]
        runpy.run_module(command.program[3:], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = [str(ROOT / command.program), *command.arguments], str(ROOT)
        runpy.run_path(sys.argv[0], run_name="__main__")


@dataclass(frozen=True)
class WhileWriting:
    """SIGKILL for the process of one rank, so many seconds after it begins its `nth` change of a file by such a name.

    Changes are those that Python makes: a file opened to be written, a file or folder moved into its place, a folder made.
    """

    name: str
    nth: int
    delay_s: float
    rank: int = 0

    def __call__(self, rank: int) -> None:
        if rank == self.rank:
            left = [self.nth]
            _on_change(lambda path: self._count(path, left))

    def _count(self, path: str, left: list[int]) -> None:
        if self.name not in path:
            return
        left[0] -= 1
        if left[0] == 0:
            if not self.delay_s:
                os.kill(os.getpid(), signal.SIGKILL)
            threading.Thread(target=self._kill).start()

    def _kill(self) -> None:
        time.sleep(self.delay_s)
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Recording:
    """Writes the name of each file that rank 0 changes to a file, a line each."""

    into: Path

    def __call__(self, rank: int) -> None:
        if rank == 0:
            lines = os.open(self.into, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
            _on_change(lambda path: os.write(lines, f"{path}\n".encode()))


def _on_change(call: Callable[[str], object]) -> None:
    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            is_change = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
        else:
            path, is_change = (arguments[1], True) if event == "os.rename" else (arguments[0], event == "os.mkdir")
        if is_change and isinstance(path, str | os.PathLike) and not os.fspath(path).endswith(".lock"):
            call(os.fspath(path))

    sys.addaudithook(lambda event, arguments: hook(event, arguments) if event in CHANGES else None)


CHANGES = ("open", "os.rename", "os.mkdir")


def same(one: Any, other: Any) -> bool:
    """Whether two loaded checkpoints, or parts of them, are the same to the last bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
