"""How is `train.py` started many times, and `evaluate.py`? In a process each, forked from one that has imported what takes seconds."""

import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Sequence
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread
from typing import Any

IMPORTED = ["knowfuse.runs.experiment", "knowfuse.report", "hydra._internal.hydra", "transformers.generation"]


def start(program: str, overrides: Sequence[str], root: Path) -> None:
    """`python <program>` with these overrides, in the folder `root`; what it prints goes to standard error.

    RuntimeError where it fails. It is told to stop, by SIGTERM, where this process ends before it, killed or not.
    """
    has_server = "forkserver" in multiprocessing.get_all_start_methods()  # not on Windows
    context: Any = multiprocessing.get_context("forkserver" if has_server else "spawn")
    context.set_forkserver_preload(IMPORTED)
    process = context.Process(target=_main, args=(program, list(overrides), root))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(
            f"python {program} {' '.join(overrides)} ended with exit status {process.exitcode}; its reason is above. The same "
            "command of the study goes on from here"
        )


def _main(program: str, overrides: list[str], root: Path) -> None:
    Thread(target=_stop_with_the_starter, daemon=True).start()
    os.dup2(2, 1)
    os.chdir(root)
    sys.argv, sys.path[0:0] = [program, *overrides], [str(root)]
    runpy.run_path(program, run_name="__main__")


def _stop_with_the_starter() -> None:
    """Else a run would go on unseen after its study was killed, and whoever starts the study again would wait for it."""
    starter = multiprocessing.parent_process()
    assert starter is not None
    wait([starter.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
