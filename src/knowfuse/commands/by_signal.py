"""How does a trial end that its W&B agent has stopped? By the signal, so that the agent counts no failure."""

import atexit
import os
import signal
import sys
from collections.abc import Callable, Mapping

from knowfuse.training.stopping import STOPPED


def ending_as_told(environment: Mapping[str, str]) -> Callable[[object], None]:
    """To be told with what exit status this process ends; a stopped trial then ends by SIGTERM itself, once all else is done.

    To an agent, which stops a trial that falls behind (hyperband), a positive status is a failure, and after three in its
    first minute, or five before any success, it ends. Elsewhere the status stays what it is.
    """
    told: list[object] = []
    if "WANDB_SWEEP_ID" in environment:
        atexit.register(_end, told)  # before all others register, so that it is called after them
    return told.append


def _end(told: list[object]) -> None:
    if STOPPED in told:
        sys.stdout.flush()
        sys.stderr.flush()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
