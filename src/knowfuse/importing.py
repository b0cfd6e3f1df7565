"""What is shown where Ctrl-C comes while a program of ours still imports? A line, and no stack of the libraries."""

import os
import signal
import sys
from collections.abc import Mapping
from traceback import walk_tb
from types import TracebackType

INTERRUPTED = 128 + signal.SIGINT  # the exit status that a shell shows of a program that Ctrl-C has ended


def say_interrupted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """To be `sys.excepthook`; whatever else ends a program is shown as ever."""
    if issubclass(kind, KeyboardInterrupt) and "HYDRA_FULL_ERROR" not in os.environ and _is_import_of_ours(trace):
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print("interrupted before it began: nothing has changed", file=sys.stderr)
        raise SystemExit(INTERRUPTED)
    sys.__excepthook__(kind, error, trace)


def _is_import_of_ours(trace: TracebackType | None) -> bool:
    """Whether a module is being made, by one of ours or for it; of `python -m` the first of them is called `__main__`."""
    modules = [frame.f_globals for frame, _ in walk_tb(trace) if frame.f_code.co_name == "<module>"]
    is_import = any(module["__name__"] != "__main__" for module in modules)
    return is_import and any(_package(module) == __package__ for module in modules)


def _package(module: Mapping[str, object]) -> str:
    """The outermost one of a module."""
    return str(module.get("__package__") or module["__name__"]).partition(".")[0]
