"""When does a rank end that Lightning has started, should the first be killed? A few seconds later, whatever it waits for."""

import os
import time
from collections.abc import MutableMapping, Sequence
from select import select
from threading import Thread

STARTED = "hydra.job.name=train_ddp_process_"  # a word of each command by which Lightning starts a rank
FIRST = "KNOWFUSE_FIRST_RANK"  # environment variable: the number of the process that started it
GRACE_S = 5.0  # seconds for what a rank still does where the first has come to its end


def end_with_the_first(words: Sequence[str], environment: MutableMapping[str, str]) -> None:
    """Where a command of these words is such a rank, see to it; Linux alone.

    In a sum over the ranks it would find out itself, but it would wait for ever for what the first is to write.
    """
    if not any(word.startswith(STARTED) for word in words):
        environment[FIRST] = str(os.getpid())
    elif FIRST in environment and hasattr(os, "pidfd_open"):
        Thread(target=_end_after, args=(int(environment[FIRST]),), daemon=True).start()


def _end_after(first: int) -> None:
    try:
        select([os.pidfd_open(first)], [], [])
    except ProcessLookupError:  # it is gone already
        pass
    except OSError:  # of a kernel or a sandbox that lets nobody wait so
        return
    time.sleep(GRACE_S)
    os._exit(1)
